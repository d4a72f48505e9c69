//! Settings (OPS-1): four layers, one table of ranges, and the origin of every value.
//!
//! `config/default.toml` (compiled in) names every setting; a TOML file, the environment (`TIDEGATE__SECTION__KEY`) and
//! flags override it in that order. An unknown key is an error with the nearest known name; a bad value is an error with
//! the allowed range; both say where they came from, and all faults are told at once.
//!
//! - `CF-1` The keys of the file, of the structs and of the table of ranges are the same (tested).
//! - `CF-2` No setting holds a secret: secrets come from files and variables that a setting names. So effective values may
//!   be printed.

mod model;
mod range;
mod source;

pub use model::{
    ARBITERS_DEFAULT_MAX, Breaker, Bulk, Cdc, Config, Delivery, Faults, Health, Idempotency, Inbox, Limits,
    LiveSettings, Log, LogFormat, Logging, OutboxSettings, RetrySchedule, Secrets, Server, Supervise, Trace, Upstream,
    UpstreamTable,
};
pub use range::{Range, SETTINGS, nearest, setting};
pub use source::{ConfigError, DEFAULT_TOML, Effective, Fault, LoadArgs, Loaded, Origin};
