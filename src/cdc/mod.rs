//! The change feed: the events of one org in order of the log, by pages and as streams (CDC-1..3).
//!
//! - [`filter`]: which events a feed has
//! - [`cursor`]: a place in a feed, bound to its filter
//! - [`start`]: where a feed begins without a cursor
//! - [`feed`]: reading it
//! - [`wire`]: how a page and a stream look
//!
//! A reader that goes on from a cursor sees every event of its filter after it, once, in order, whatever is restarted
//! in between. What retention has dropped is told: a page answers 410, a stream has a gap of its own among its events.
//!
//! - `CF-1` Between two places of a feed everything was looked at: an event that fits is told, or stands in a told gap.
//! - `CF-2` A reader costs what it reads: between its readings it holds a place in the log, and nothing else.
//! - `CF-3` What a reading reads does not depend on other orgs, but for a constant (the newest block of the log is not
//!   in the index yet).

pub mod cursor;
pub mod feed;
pub mod filter;
pub mod start;
pub mod wire;
