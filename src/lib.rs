//! Tidegate: an event hub in one binary.
//!
//! The map, from the ground up; a room uses only what stands above it here.
//!
//! - [`ground`]: clock, chance, identifiers, limits, problems, secrets, record codec
//! - [`event`]: the envelope, how it is read, rendered and filtered
//! - [`router`]: which subscriptions an event matches
//! - [`webhook`]: consumers that are HTTP endpoints

pub mod event;
pub mod ground;
pub mod router;
pub mod webhook;
