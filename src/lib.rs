//! Tidegate: an event hub in one binary.
//!
//! The map, from the ground up; a room uses only what stands above it here.
//!
//! - [`ground`]: clock, chance, identifiers, limits, problems, secrets, record codec
//! - [`event`]: the envelope, how it is read, rendered, filtered and signed
//! - [`store`]: the ports (log, consumer state, registry) and the embedded engine
//! - [`config`]: settings, their ranges, and where each value came from
//! - [`logging`]: the hub's own log
//! - [`serve`]: where the command line hands over to the hub
//! - [`cli`]: the command line

pub mod cli;
pub mod config;
pub mod event;
pub mod ground;
pub mod logging;
pub mod serve;
pub mod store;
