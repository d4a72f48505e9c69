//! Inboxes: what one consumer has received, is processing, has processed, has failed (INB).
//!
//! - [`state`]: the rules, a pure machine
//! - [`actor`]: performs them: takes matches from the router, reads the log where it is behind, gives claims to the
//!   consumer's deliverer, writes what is an exception
//! - [`spec`]: what a consumer has asked for
//! - [`messages`]: what is said to and by an inbox, and the ticket that stands for a claim
//! - [`demand`]: how much a consumer that is given only what it asks for has asked for
//! - [`catch_up`]: reads the log for those who are behind
//! - [`ledger`]: the thread that commits what they hand in
//!
//! - `IN-1` Everything at or before the cursor is settled or has an exception row.
//! - `IN-2` A claim carries an epoch; an answer with another epoch changes nothing.
//! - `IN-3` With ordering `key` at most one event of a key is out at a time, and always the oldest unsettled one.
//! - `IN-4` The window, the rows and the settled ranges are bounded; when one is full, the cursor waits: the log is
//!   the queue.
//! - `IN-5` Rows are committed before a position that passes them, in one ordered stream of commits.
//! - `RP-1` to `RP-5`: what is given out again by a replay goes below live events, in lanes of its own (see `state`).
//!
//! After a crash: positions and rows as of some moment before it; what was settled after that moment may be delivered
//! again, nothing else.

pub mod actor;
pub mod catch_up;
pub mod demand;
pub mod ledger;
pub mod messages;
pub mod spec;
pub mod state;
