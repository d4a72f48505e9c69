//! Tidegate: an event hub in one binary.
//!
//! The map, from the ground up; a room uses only what stands above it here.
//!
//! - [`ground`]: clock, chance, identifiers, limits, problems, secrets, record codec
//! - [`event`]: the envelope, how it is read, rendered, filtered and signed
//! - [`retry`]: when a failed delivery is tried again, and whether at all
//! - [`breaker`]: who may call a sick upstream, and when it counts as well again
//! - [`webhook`]: where deliveries may go, and how they get there

pub mod breaker;
pub mod event;
pub mod ground;
pub mod retry;
pub mod webhook;
