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

mod actor;
pub mod index;
pub mod messages;

pub use actor::{Inboxes, RouterActor, RouterLink, RouterParts};
