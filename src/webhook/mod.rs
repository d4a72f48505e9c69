//! Webhooks: consumers that are HTTP endpoints.
//!
//! - [`sign`]: Standard Webhooks signatures
//! - [`signer`]: how a webhook signs, with one secret or, during a rotation, two
//! - [`mod@format`]: in which form an event is sent
//! - [`template`]: bodies from templates
//! - [`auth`]: credentials towards the endpoint, and the proxy on the way to it
//! - [`health`]: how an endpoint fares, and what its owner is told
//! - [`access`]: how a call carries them
//! - [`oauth`]: tokens that are asked for
//! - [`guard`]: where deliveries may go
//! - [`outbound`]: how they get there
//! - [`delivery`]: the actor that calls one endpoint
//! - [`record`]: a webhook as it is kept, and as a client asks for it

pub mod access;
pub mod auth;
pub mod delivery;
pub mod format;
pub mod guard;
pub(crate) mod headers;
pub mod health;
pub mod oauth;
pub mod outbound;
pub mod record;
pub mod sign;
pub mod signer;
pub mod template;
