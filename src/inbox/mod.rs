//! Inboxes: what one consumer has received, is processing, has processed, has failed (INB).
//!
//! The rules are a pure machine in [`state`]; the [`actor`] performs them: it takes matches from the router, reads the
//! log itself where it is behind, gives claims to the consumer's deliverer, and writes what is an exception.
//!
//! - `IN-1` Everything at or before the cursor is settled or has an exception row.
//! - `IN-2` A claim carries an epoch; an answer with another epoch changes nothing.
//! - `IN-3` With ordering `key` at most one event of a key is out at a time, and always the oldest unsettled one.
//! - `IN-4` The window, the rows and the settled ranges are bounded; when one is full, the cursor waits: the log is
//!   the queue.
//! - `IN-5` Rows are committed before a position that passes them, in one ordered stream of commits.
//!
//! After a crash: positions and rows as of some moment before it; what was settled after that moment may be delivered
//! again, nothing else.

pub mod actor;
pub mod catch_up;
pub mod ledger;
pub mod messages;
pub mod state;

#[cfg(test)]
mod actor_tests;
