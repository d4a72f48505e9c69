//! Tidegate: an event hub in one binary.
//!
//! The map, from the ground up; a room uses only what stands above it here.
//!
//! - [`ground`]: clock, chance, identifiers, limits, problems, secrets, record codec
//! - [`event`]: the envelope, how it is read, rendered, filtered and signed
//! - [`bench`]: the load generator, receiver, baselines and scenarios of `tidegate bench`

pub mod bench;
pub mod event;
pub mod ground;
