//! Webhooks: consumers that are HTTP endpoints.
//!
//! - [`sign`]: Standard Webhooks signatures
//! - [`signer`]: how a webhook signs, with one secret or, during a rotation, two
//! - [`guard`]: where deliveries may go
//! - [`outbound`]: how they get there
//! - [`delivery`]: the actor that calls one endpoint
//! - [`record`]: a webhook as it is kept, and as a client asks for it

pub mod delivery;
pub mod guard;
pub mod outbound;
pub mod record;
pub mod sign;
pub mod signer;
