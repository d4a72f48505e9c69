//! Look-ups: finding events in the log by org, type, source, aggregate and time without reading all of it (OUT-3).
//!
//! The log is cut into blocks of 1,024 positions. For each complete block there is one row ([`Block`]) with small hashes
//! of what its events have in the columns that are looked up, and for each 64 blocks one more ([`Summary`]) with what
//! occurs in them at all. The indexer follows the log and writes them, below live traffic; [`Search`] walks along the
//! rows and names the positions that may match. Whoever asked reads those events and decides.
//!
//! - `LK-1` A position that is not named has no event that matches: a hash may promise too much, never too little.
//! - `LK-2` A row is written only when every event of its block is durable, and is never changed after that.
//! - `LK-3` A row that is missing or damaged costs time, never an answer: its stretch of the log is read.
//! - `LK-4` The indexer holds back neither ingest nor the router nor retention: it reads what is there and skips the rest.
//!
//! On disk: `index-blocks` and `index-groups`, about 8 KiB per 1,024 events. The cursor is the newest row. After a crash
//! the newest rows may be missing and are written again; rows past the end of the log are removed when it is opened.

mod actor;
mod block;
mod follow;
mod search;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod walk;
mod wanted;

pub use actor::{IndexerActor, IndexerParts};
pub use block::{Block, build};
pub use search::{Finder, Search, Span, Stretch};
pub use summary::Summary;
pub use walk::{WalkLimits, Walked};
pub use wanted::{Column, Key, Wanted};
