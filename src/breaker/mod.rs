//! Breakers: one an upstream, each webhook an upstream of its own, so that a sick one harms nobody else (BRK-1).
//!
//! - [`settings`]: the numbers a breaker goes by, and their presets
//! - [`state`]: the pure machine: who is let through, and what its result changes
//! - [`record`]: what of it is kept over a restart
//! - [`actor`]: performs what the machine decides

pub mod actor;
pub mod record;
pub mod settings;
pub mod state;

pub use settings::BreakerSettings;
pub use state::{Admission, Breaker, BreakerState, CallResult, Command, Permit, Transition};
