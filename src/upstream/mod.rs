//! Upstreams: systems that the hub calls (UPS-1..4, UPS-7, UPS-9).
//!
//! A call to any of them, be it declared over HTTP or code that a program has registered, goes one way:
//!
//! ```text
//!   validate ─▶ rate limit (waits) ─▶ breaker ─▶ timeout ─▶ retry ─▶ transform        one span, one set of series
//! ```
//!
//! - [`adapter`]: what an upstream is to the hub: the trait, and the context of a call
//! - [`call`]: the words of a call: what is asked, what is answered, what goes wrong
//! - [`template`]: paths with parameters
//! - [`read`]: declared reads: how they are asked and what their answers become
//! - [`publish`]: events that become calls
//! - [`credential`]: who calls, one a tenant, and where its secret is
//! - [`http`]: a declared upstream as an adapter
//! - [`perform`]: the one way
//! - [`actor`]: one upstream's actor
//! - [`cache`]: what reads have fetched
//! - [`reading`]: how reads are answered
//! - [`health`]: how upstreams fare
//! - [`series`]: what is counted
//! - `told`: what the log says
//! - [`service`]: all of them
//! - [`record`]: a declared upstream as it is kept, and as an operator asks for it
//!
//! Invariants:
//! - `UP-1` Nothing calls an upstream past the one path, the health check aside.
//! - `UP-2` An open breaker or an empty bucket uses up no attempt.
//! - `UP-3` A credential is in no log, series, error or answer; an answer of an upstream that repeats one is not shown.
//! - `UP-4` What one tenant has read is never given to another.

pub mod actor;
pub mod adapter;
pub mod cache;
pub mod call;
pub mod credential;
pub mod health;
pub mod http;
pub mod perform;
pub mod publish;
pub mod read;
pub mod reading;
pub mod record;
pub mod series;
pub mod service;
pub mod template;
mod told;

pub use adapter::{Adapter, AdapterContext};
pub use call::{Answer, Attempts, Call, CallError, CallErrorKind, CallPath, Method, Payload};
pub use service::Upstreams;
