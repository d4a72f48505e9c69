//! The router: the one reader of the log's tail, which finds the subscriptions that each event matches.
//!
//! It also keeps every consumer's position, because the two are written together: a checkpoint holds the router's
//! cursor and the positions of those consumers that have something unsettled. A consumer without a position *follows*:
//! everything it matches up to the router's cursor is settled. So a restart costs what was unsettled, not
//! subscriptions × events, and an idle consumer costs nothing.
//!
//! - `CK-1` At a checkpoint with cursor R, each consumer either has a position, or has settled (or keeps as rows) all
//!   its matches up to R.
//! - `CK-2` An inbox is offered events only while attached; an offer it cannot take detaches it, and it reads the log.
//! - `CK-3` Positions pass only between actors of one ledger session: what was in memory when the store failed is not
//!   believed afterwards.
//! - `CK-4` What waits in an inbox's mailbox is bounded by its gate.
//!
//! A consumer that had something pending when the process ended is started again by the drain (OUT-5), a batch at a time.
//! Behind the notifier, a timer looks at the log and at consumers that nobody has started (OUT-4): nothing rests on a
//! wake-up that was lost.

mod actor;
mod drain;
pub mod index;
pub mod messages;
mod pace;
mod parts;

pub use actor::RouterActor;
pub use parts::{Inboxes, RouterLink, RouterParts};
