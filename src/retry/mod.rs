//! When a failed delivery is tried again, and whether at all. Pure: time and chance are arguments (RTY-1, RTY-2, RTY-5).
//!
//! - [`policy`]: how long to wait before the next attempt
//! - [`classify`]: what one attempt came to, and what follows from it

pub mod classify;
pub mod policy;

pub use classify::{AttemptResult, FailureKind, Verdict, classify_status};
pub use policy::RetryPolicy;
