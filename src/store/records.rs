//! The persisted forms of consumer state: exception rows, attempts, dead letters. Each has a version of its own.

use serde::{Deserialize, Serialize};

use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};
use crate::ground::context::WriteContext;
use crate::ground::ids::{ConsumerId, Seq};

/// Version of [`RowRecord`]. Version 1 had no `replay`.
pub const ROW_VERSION: u8 = 2;
/// Version of [`AttemptPage`].
pub const ATTEMPTS_VERSION: u8 = 1;
/// Version of [`DeadLetterRecord`]. Version 1 had neither `closed` nor `earlier`.
pub const DEAD_LETTER_VERSION: u8 = 2;
/// Version of [`super::Position`].
pub const POSITION_VERSION: u8 = 1;

/// Why an event stands aside from the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowState {
    /// It failed and is tried again at this time.
    Retry {
        /// When.
        due_at: UnixMs,
    },
    /// It waits behind an earlier event of its ordering key.
    Held,
}

/// An exception: one event of one consumer that is neither settled nor in the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRecord {
    /// What it waits for.
    pub state: RowState,
    /// Attempts made.
    pub attempts: u32,
    /// Hash of its ordering key.
    pub key: u64,
    /// The newest fencing token given out for it.
    pub epoch: u64,
    /// When it was first tried.
    pub first_attempt: Option<UnixMs>,
    /// When it was last tried.
    pub last_attempt: Option<UnixMs>,
    /// What went wrong last, at most 1,023 characters.
    pub last_error: Option<String>,
    /// Set when a replay asked for it: it was settled before, or never this consumer's.
    pub replay: Option<ReplayMark>,
}

/// What asked for an event to be given out again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayMark {
    /// The job; none when it was asked for by itself.
    pub job: Option<String>,
    /// The dead letter that is given out again; it has the event when the log has dropped it.
    pub dead_letter: Option<String>,
}

#[derive(Deserialize)]
struct RowRecordV1 {
    state: RowState,
    attempts: u32,
    key: u64,
    epoch: u64,
    first_attempt: Option<UnixMs>,
    last_attempt: Option<UnixMs>,
    last_error: Option<String>,
}

impl RowRecord {
    /// Reads a record of any version.
    ///
    /// # Errors
    /// When the bytes are no such record.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.first() != Some(&1) {
            return codec::decode(ROW_VERSION, bytes);
        }
        let RowRecordV1 { state, attempts, key, epoch, first_attempt, last_attempt, last_error } =
            codec::decode(1, bytes)?;
        Ok(Self { state, attempts, key, epoch, first_attempt, last_attempt, last_error, replay: None })
    }
}

/// One try of one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The event's position.
    pub seq: Seq,
    /// The event's id.
    pub event_id: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: UnixMs,
    /// How long it took.
    pub latency_ms: u32,
    /// `delivered`, or the kind of failure.
    pub outcome: String,
    /// HTTP status, if one came.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// The first 500 characters of the answer.
    pub snippet: String,
    /// When it is tried again, if it is.
    pub next_try_at: Option<UnixMs>,
}

impl AttemptRecord {
    /// Bytes it takes in a page, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        48 + self.event_id.len() + self.outcome.len() + self.snippet.len() + self.error.as_ref().map_or(0, String::len)
    }
}

/// Attempts of one consumer that were written together, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptPage {
    /// The attempts.
    pub attempts: Vec<AttemptRecord>,
}

/// Where a page of attempts lies: when it was written, and a counter that keeps pages of one millisecond apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageKey {
    /// When the page was written.
    pub at_ms: u64,
    /// Counter.
    pub part: u32,
}

impl PageKey {
    /// After every page.
    pub const MAX: Self = Self { at_ms: u64::MAX, part: u32::MAX };

    /// Directly after this page.
    #[must_use]
    pub fn next(self) -> Self {
        match self.part.checked_add(1) {
            Some(part) => Self { at_ms: self.at_ms, part },
            None => Self { at_ms: self.at_ms.saturating_add(1), part: 0 },
        }
    }

    /// Big-endian bytes, which sort as the keys do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..8].copy_from_slice(&self.at_ms.to_be_bytes());
        out[8..].copy_from_slice(&self.part.to_be_bytes());
        out
    }

    /// Reads what [`PageKey::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self { at_ms: u64::from_be_bytes([a, b, c, d, e, f, g, h]), part: u32::from_be_bytes([i, j, k, l]) }
    }
}

/// A delivery given up, with the whole event: it outlives the log (RTY-3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRecord {
    /// Its id, `dlq_` and a `UUIDv7`: sorts by time.
    pub id: String,
    /// When it was given up.
    pub at: UnixMs,
    /// Whose delivery.
    pub consumer: ConsumerId,
    /// The event's position.
    pub seq: Seq,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// The event's org.
    pub org: String,
    /// The event's correlation id.
    pub correlation_id: Option<String>,
    /// The envelope as it stands in the log, as JSON text.
    pub event: Vec<u8>,
    /// What went wrong, in words.
    pub error_message: String,
    /// The kind of failure.
    pub error_kind: String,
    /// HTTP status, if one came.
    pub error_code: Option<u16>,
    /// The first 500 characters of the answer.
    pub error_detail: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it was first tried.
    pub first_attempt: Option<UnixMs>,
    /// When it was last tried.
    pub last_attempt: Option<UnixMs>,
    /// None while it is open.
    pub closed: Option<Closed>,
    /// The dead letter whose redrive ended in this one.
    pub earlier: Option<String>,
}

/// How a dead letter was closed, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// How.
    pub how: Closing,
    /// By whom and when.
    pub context: WriteContext,
}

/// The two ways to close a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closing {
    /// Its event was given to the consumer again.
    Redriven {
        /// The job that did; none when it was redriven by itself.
        job: Option<String>,
    },
    /// Nobody wants it.
    Discarded {
        /// Why.
        reason: String,
    },
}

impl DeadLetterRecord {
    /// Reads a record of any version.
    ///
    /// # Errors
    /// When the bytes are no such record.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.first() != Some(&1) {
            return codec::decode(DEAD_LETTER_VERSION, bytes);
        }
        let old: DeadLetterV1 = codec::decode(1, bytes)?;
        Ok(old.into())
    }

    /// Bytes it takes in memory, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        512 + self.event.len()
    }
}

macro_rules! first_version {
    ($($field:ident: $kind:ty,)+) => {
        #[derive(Deserialize)]
        struct DeadLetterV1 { $($field: $kind,)+ }

        impl From<DeadLetterV1> for DeadLetterRecord {
            fn from(old: DeadLetterV1) -> Self {
                let DeadLetterV1 { $($field,)+ } = old;
                Self { $($field,)+ closed: None, earlier: None }
            }
        }
    };
}

first_version! {
    id: String,
    at: UnixMs,
    consumer: ConsumerId,
    seq: Seq,
    event_id: String,
    event_type: String,
    org: String,
    correlation_id: Option<String>,
    event: Vec<u8>,
    error_message: String,
    error_kind: String,
    error_code: Option<u16>,
    error_detail: String,
    attempts: u32,
    first_attempt: Option<UnixMs>,
    last_attempt: Option<UnixMs>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::codec;
    use crate::store::Position;

    #[test]
    fn the_bytes_of_every_record_are_as_they_always_were() {
        let row = RowRecord {
            state: RowState::Retry { due_at: UnixMs(1_795_248_005_000) },
            attempts: 2,
            key: 77,
            epoch: 3,
            first_attempt: Some(UnixMs(1_795_248_000_000)),
            last_attempt: Some(UnixMs(1_795_248_001_000)),
            last_error: Some("status 500".into()),
            replay: None,
        };
        let mark = ReplayMark { job: Some("job_1".into()), dead_letter: Some("dlq_1".into()) };
        let replayed = RowRecord { replay: Some(mark), ..row.clone() };
        let attempt = AttemptRecord {
            seq: Seq(9),
            event_id: "e9".into(),
            attempt: 1,
            at: UnixMs(1_795_248_000_000),
            latency_ms: 12,
            outcome: "status".into(),
            status: Some(500),
            error: Some("status 500".into()),
            snippet: "oops".into(),
            next_try_at: Some(UnixMs(1_795_248_005_000)),
        };
        let dead = DeadLetterRecord {
            id: "dlq_1".into(),
            at: UnixMs(1_795_248_000_000),
            consumer: ConsumerId::new("whk_1"),
            seq: Seq(9),
            event_id: "e9".into(),
            event_type: "a.b".into(),
            org: "acme".into(),
            correlation_id: None,
            event: b"{}".to_vec(),
            error_message: "status 500".into(),
            error_kind: "status".into(),
            error_code: Some(500),
            error_detail: "oops".into(),
            attempts: 10,
            first_attempt: None,
            last_attempt: None,
            closed: None,
            earlier: None,
        };
        let context = WriteContext { by: "admin".into(), at: UnixMs(1_795_248_000_000), ..WriteContext::default() };
        let redriven = DeadLetterRecord {
            closed: Some(Closed { how: Closing::Redriven { job: Some("job_1".into()) }, context: context.clone() }),
            earlier: Some("dlq_0".into()),
            ..dead.clone()
        };
        let discarded = DeadLetterRecord {
            closed: Some(Closed { how: Closing::Discarded { reason: "a test".into() }, context }),
            ..dead.clone()
        };
        let position = Position { cursor: Seq(4), ahead: vec![(Seq(6), Seq(8))] };
        let lines = [
            ("row", codec::encode(ROW_VERSION, &row)),
            ("row of a replay", codec::encode(ROW_VERSION, &replayed)),
            ("attempts", codec::encode(ATTEMPTS_VERSION, &AttemptPage { attempts: vec![attempt] })),
            ("dead letter", codec::encode(DEAD_LETTER_VERSION, &dead)),
            ("redriven", codec::encode(DEAD_LETTER_VERSION, &redriven)),
            ("discarded", codec::encode(DEAD_LETTER_VERSION, &discarded)),
            ("position", codec::encode(POSITION_VERSION, &position)),
        ]
        .map(|(name, bytes)| format!("{name}: {}", hex::encode(bytes.expect("encodes"))));
        insta::assert_snapshot!(lines.join("\n"));
    }

    /// What version 1 wrote of the first row and the first dead letter above.
    const ROW_V1: &str =
        "013835a89a00fd889f1efda1010000024d0301fd008c1efda101000001fde88f1efda1010000010a73746174757320353030";
    const DEAD_LETTER_V1: &str = "01c62f98ca05646c715f31fd008c1efda10100000577686b5f310902653903612e620461636d6500027b7d0a737461747573203530300673746174757301fbf401046f6f70730a0000";

    #[test]
    fn records_of_the_first_version_are_still_read() {
        let row = RowRecord::decode(&hex::decode(ROW_V1).expect("hex")).expect("reads");
        assert_eq!((row.attempts, row.key, row.epoch, row.replay), (2, 77, 3, None));
        assert_eq!(row.last_error.as_deref(), Some("status 500"));
        let dead = DeadLetterRecord::decode(&hex::decode(DEAD_LETTER_V1).expect("hex")).expect("reads");
        assert_eq!((dead.id.as_str(), dead.seq, dead.event.as_slice()), ("dlq_1", Seq(9), b"{}".as_slice()));
        assert_eq!((dead.closed, dead.earlier), (None, None));
        let mut damaged = hex::decode(ROW_V1).expect("hex");
        damaged[7] ^= 1;
        assert!(RowRecord::decode(&damaged).is_err());
    }

    #[test]
    fn page_keys_sort_as_bytes_as_they_do_as_values() {
        let keys = [PageKey { at_ms: 5, part: 9 }, PageKey { at_ms: 6, part: 0 }, PageKey::MAX];
        assert!(keys.windows(2).all(|pair| pair[0].to_bytes() < pair[1].to_bytes()));
        assert_eq!(PageKey::from_bytes(keys[0].to_bytes()), keys[0]);
    }
}
