//! Pull consumers: clients that ask for deliveries over HTTP, by long poll or as a push stream (INB-5).
//!
//! - [`record`]: a consumer as it is kept, and as a client asks for it
//! - [`state`]: who waits, and who gets the next delivery: a pure machine
//! - [`actor`]: hands the claims of one inbox to those who wait
//! - [`service`]: what outlives the actor: the demand, the bounds on clients, when somebody was last there
//! - [`token`]: names one claim towards its client
//!
//! - `PU-1` An inbox claims no more than its clients wait for: a lease begins when somebody is there to use it.
//! - `PU-2` A delivery whose client has gone before it was handed over is given back untried, at once.
//! - `PU-3` Clients that wait are served in turn; none gets a second delivery while another that waits has none.
//! - `PU-4` What is held for one client is bounded in number and bytes; a client that does not take it is let go.
//! - `PU-5` An answer that was confirmed is on disk: no crash gives that event out again.
//!
//! On disk: a registry document for each consumer; rows, positions and attempts as every consumer has them. Who waits,
//! leases and tokens live in memory: after a crash every token of before is stale, and its event is given out again.

pub mod actor;
pub mod record;
pub mod service;
pub mod state;
pub mod token;

pub use actor::{Handed, PullActor};
pub use record::{PullRecord, PullSettings, PullStatus, Start};
pub use service::{Client, ClientKind, PullService};
pub use token::{Token, TokenKey};
