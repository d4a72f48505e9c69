//! The store: narrow ports by concern, and the embedded engine behind them.
//!
//! - [`EventLog`]: the log. Appending an event and its dedup key is atomic; nothing else is assumed atomic with it.
//! - [`ConsumerState`]: positions, exception rows, attempts, dead letters. A commit is atomic, commits keep their order.
//! - [`LogIndex`]: what is where in the log, in rows that may be missing.
//! - [`ScheduleStore`]: events that wait for their time.
//! - [`LinkStore`]: links between entities, found from both ends.
//! - [`QuarantineStore`]: events that were refused and are kept.
//! - [`LifecycleStore`]: where aggregates stand in their declared order.
//! - [`IdempotencyStore`]: what is known of idempotency keys, and their answers.
//! - [`Registry`]: small documents by (kind, key) with compare-and-set.
//!
//! Invariants
//! - `ST-1` An append that returned `Ok` survives SIGKILL and a power cut: transaction, then flush, then sync of the
//!   engine's own file (the engine's flush alone is no sync on Linux).
//! - `ST-2` Commits of consumer state that were not asked to be synced may be lost at a crash, but only a suffix of
//!   them: what survives is what was committed up to some moment.
//! - `ST-3` After a failed commit the engine answers [`StoreError::Unavailable`] until it has been reopened.

mod blocking;
pub mod engine;
pub mod idempotency;
pub mod lifecycle;
pub mod links;
pub mod log_index;
pub mod log_record;
pub mod position;
mod problem;
pub mod quarantine;
pub mod records;
pub mod schedule;
pub mod verify;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod fake;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::envelope::Event;
use crate::ground::codec::CodecError;
use crate::ground::ids::{ConsumerId, Seq};

pub use blocking::blocking;
pub use engine::Engine;
pub use idempotency::{IdempotencyStore, KeptAnswer, KeyOp, KeyPlace, KeyRecord};
pub use lifecycle::LifecycleStore;
pub use links::LinkStore;
pub use log_index::{IndexLevel, IndexRow, LogIndex};
pub use log_record::Prepared;
pub use position::Position;
pub use problem::store_problem;
pub use quarantine::QuarantineStore;
pub use records::{AttemptPage, AttemptRecord, DeadLetterRecord, RowRecord};
pub use schedule::{ScheduleKey, ScheduleStore, ScheduledRecord};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The engine failed; it is poisoned and being reopened.
    #[error("store engine: {0}")]
    Engine(String),
    /// The engine is being reopened after a failure, or what was being read was dropped meanwhile: try again.
    #[error("the store is being reopened")]
    Unavailable,
    /// Less space is left than the floor.
    #[error("{free} bytes free in the data directory, the floor is {floor}")]
    DiskFull {
        /// Bytes left.
        free: u64,
        /// Bytes that must stay free.
        floor: u64,
    },
    /// Bytes on disk are not what was written.
    #[error("{what}: {source}")]
    Corrupt {
        /// Which record.
        what: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A registry document has another revision than expected.
    #[error("the document has revision {found:?}, expected {expected:?}")]
    Revision {
        /// The stored revision; none when there is no such document.
        found: Option<u64>,
        /// The revision the caller knew.
        expected: Option<u64>,
    },
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            // Retention dropped the tree under a reader: nothing is wrong with the engine, and another look finds the
            // trees that are left.
            sled::Error::CollectionNotFound(_) => Self::Unavailable,
            sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Io(_)
            | sled::Error::Corruption { .. } => Self::Engine(error.to_string()),
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Engine(error.to_string())
    }
}

/// Events that are appended together. When `atomic`, one conflict keeps all of them out.
#[derive(Debug)]
pub struct AppendUnit {
    /// The events, in order.
    pub events: Vec<Prepared>,
    /// All or none.
    pub atomic: bool,
}

/// What became of one event of a unit.
#[derive(Clone, Debug)]
pub enum Appended {
    /// It is in the log at this place.
    New(Arc<Event>),
    /// The same event was in the log already (or came earlier in the same group).
    Duplicate(Seq),
    /// Another event has its id.
    Conflict(Seq),
    /// A sibling of its atomic unit had a conflict.
    Withheld,
}

/// How much one read may return. At least one event is returned when there is one.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Most events.
    pub events: usize,
    /// Most bytes of bodies.
    pub bytes: usize,
    /// Last position to read.
    pub upto: Seq,
}

/// The log of all events.
pub trait EventLog: Send + Sync {
    /// Appends a group in one durable commit. Callers take turns.
    ///
    /// # Errors
    /// When the commit failed; then nothing of the group is acknowledged and the engine must be reopened.
    fn append(&self, group: Vec<AppendUnit>) -> Result<Vec<Vec<Appended>>, StoreError>;

    /// Events from `from` on, in order.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn read(&self, from: Seq, limits: ReadLimits) -> Result<Vec<Arc<Event>>, StoreError>;

    /// The event at this position; none when it was never there or was dropped.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn get(&self, seq: Seq) -> Result<Option<Arc<Event>>, StoreError>;

    /// The position of the event with this id.
    ///
    /// # Errors
    /// When the engine fails.
    fn find(&self, org: &str, id: &str) -> Result<Option<Seq>, StoreError>;

    /// The positions of the events with this id in any org, newest first.
    ///
    /// # Errors
    /// When the engine fails.
    fn find_all(&self, id: &str, limit: usize) -> Result<Vec<Seq>, StoreError>;

    /// The last position written; zero when nothing ever was.
    fn head(&self) -> Seq;

    /// The first position still there; one past the head when nothing is.
    fn earliest(&self) -> Seq;

    /// Drops whole segments that end before `before`. The low-water mark is durable first.
    ///
    /// # Errors
    /// When the engine fails.
    fn truncate(&self, before: Seq) -> Result<Vec<DroppedSegment>, StoreError>;

    /// The segments, oldest first.
    fn segments(&self) -> Vec<SegmentInfo>;
}

/// A segment of the log.
#[derive(Clone, Copy, Debug)]
pub struct SegmentInfo {
    /// First position it may hold.
    pub first: Seq,
    /// Last position written to it.
    pub last: Seq,
    /// Body bytes appended to it since it was opened by this process, or an estimate for older ones.
    pub bytes: u64,
    /// When its newest event was received, Unix milliseconds.
    pub newest_ms: u64,
}

/// A segment that retention dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedSegment {
    /// First position it held.
    pub first: Seq,
    /// Last position it held.
    pub last: Seq,
}

/// One change of consumer state.
#[derive(Clone, Debug)]
pub enum StateOp {
    /// Writes an exception row.
    PutRow(ConsumerId, Seq, RowRecord),
    /// Removes an exception row.
    DeleteRow(ConsumerId, Seq),
    /// Adds a page of attempt records.
    Attempts(ConsumerId, AttemptPage),
    /// Adds a dead letter, or replaces the one with its id.
    PutDeadLetter(Box<DeadLetterRecord>),
    /// The router's cursor, with the positions of consumers that have something unsettled, and of those who have
    /// nothing unsettled any more.
    Checkpoint {
        /// Everything up to here was handed to whom it matched.
        router: Seq,
        /// Positions to write.
        set: Vec<(ConsumerId, Position)>,
        /// Consumers that follow the router's cursor from now on.
        clear: Vec<ConsumerId>,
    },
    /// Forgets all state of a consumer, its dead letters excepted.
    DropConsumer(ConsumerId),
}

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It may be lost at a crash together with everything committed after it (ST-2).
    Ordered,
    /// It is on disk when the call returns.
    Synced,
}

/// Positions as they were at the last checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    /// The router's cursor; none before the first checkpoint.
    pub router: Option<Seq>,
    /// Consumers with something unsettled.
    pub consumers: Vec<(ConsumerId, Position)>,
}

/// What [`ConsumerState::expire`] has dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Dead letters.
    pub dead_letters: u64,
    /// Those of them that nobody had redriven or discarded, by consumer.
    pub open: BTreeMap<ConsumerId, u64>,
}

/// What is kept per consumer.
pub trait ConsumerState: Send + Sync {
    /// Applies the operations atomically.
    ///
    /// # Errors
    /// When the engine fails.
    fn commit(&self, ops: Vec<StateOp>, durability: Durability) -> Result<(), StoreError>;

    /// The positions of the last checkpoint.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn checkpoints(&self) -> Result<Checkpoints, StoreError>;

    /// The exception rows of a consumer, in order of position.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn rows(&self, consumer: &ConsumerId) -> Result<Vec<(Seq, RowRecord)>, StoreError>;

    /// Up to `limit` exception rows of a consumer after a position, in order of position.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn rows_after(&self, consumer: &ConsumerId, after: Seq, limit: usize) -> Result<Vec<(Seq, RowRecord)>, StoreError>;

    /// Consumers that have exception rows.
    ///
    /// # Errors
    /// When the engine fails.
    fn consumers_with_rows(&self) -> Result<Vec<ConsumerId>, StoreError>;

    /// Attempt records of a consumer, newest page first, from `before` (Unix milliseconds, exclusive) back.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn attempts(
        &self,
        consumer: &ConsumerId,
        before: records::PageKey,
        pages: usize,
    ) -> Result<Vec<(records::PageKey, AttemptPage)>, StoreError>;

    /// Attempt records of a consumer, oldest page first, from this page on, each page with its key.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn attempts_since(
        &self,
        consumer: &ConsumerId,
        from: records::PageKey,
        pages: usize,
    ) -> Result<Vec<(records::PageKey, AttemptPage)>, StoreError>;

    /// A dead letter.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn dead_letter(&self, id: &str) -> Result<Option<DeadLetterRecord>, StoreError>;

    /// Dead letters newest first, from the id `before` (exclusive) back.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn dead_letters(&self, before: Option<&str>, limit: usize) -> Result<Vec<DeadLetterRecord>, StoreError>;

    /// Dead letters oldest first, after the id `after` (exclusive): at most `limit`, and no more once `bytes_max` are
    /// passed.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn dead_letters_after(
        &self,
        after: &str,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<DeadLetterRecord>, StoreError>;

    /// How many open dead letters there are. O(n): for start-up and the statistics only.
    ///
    /// # Errors
    /// When the engine fails.
    fn dead_letter_counts(&self) -> Result<Vec<(ConsumerId, u64)>, StoreError>;

    /// Drops attempt records older than `attempts_before_ms` and dead letters older than `dead_before_ms`.
    ///
    /// # Errors
    /// When the engine fails.
    fn expire(&self, attempts_before_ms: u64, dead_before_ms: u64) -> Result<Expired, StoreError>;
}

/// A document of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its key within the kind.
    pub key: String,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Small documents: webhooks, keys, settings, breakers.
pub trait Registry: Send + Sync {
    /// A document.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError>;

    /// Every document of a kind, by key.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn list(&self, kind: &str) -> Result<Vec<Document>, StoreError>;

    /// Writes a document durably when its revision is still `expected` (none: it must not exist). Returns the new one.
    ///
    /// # Errors
    /// [`StoreError::Revision`] when it changed meanwhile; else when the engine fails.
    fn put(&self, kind: &str, key: &str, bytes: &[u8], expected: Option<u64>) -> Result<u64, StoreError>;

    /// Writes documents of a kind as they are, whatever their revision, in one durable commit: for notes that one writer
    /// keeps.
    ///
    /// # Errors
    /// When the engine fails.
    fn put_all(&self, kind: &str, documents: &[(String, Vec<u8>)]) -> Result<(), StoreError>;

    /// Removes a document durably; true when there was one.
    ///
    /// # Errors
    /// When the engine fails.
    fn delete(&self, kind: &str, key: &str) -> Result<bool, StoreError>;
}
