//! The persisted forms of consumer state: exception rows, attempts, dead letters. Each has a version of its own.

use serde::{Deserialize, Serialize};

use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Seq};

/// Version of [`RowRecord`].
pub const ROW_VERSION: u8 = 1;
/// Version of [`AttemptPage`].
pub const ATTEMPTS_VERSION: u8 = 1;
/// Version of [`DeadLetterRecord`].
pub const DEAD_LETTER_VERSION: u8 = 1;
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
        };
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
        };
        let position = Position { cursor: Seq(4), ahead: vec![(Seq(6), Seq(8))] };
        let lines = [
            ("row", codec::encode(ROW_VERSION, &row)),
            ("attempts", codec::encode(ATTEMPTS_VERSION, &AttemptPage { attempts: vec![attempt] })),
            ("dead letter", codec::encode(DEAD_LETTER_VERSION, &dead)),
            ("position", codec::encode(POSITION_VERSION, &position)),
        ]
        .map(|(name, bytes)| format!("{name}: {}", hex::encode(bytes.expect("encodes"))));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn page_keys_sort_as_bytes_as_they_do_as_values() {
        let keys = [PageKey { at_ms: 5, part: 9 }, PageKey { at_ms: 6, part: 0 }, PageKey::MAX];
        assert!(keys.windows(2).all(|pair| pair[0].to_bytes() < pair[1].to_bytes()));
        assert_eq!(PageKey::from_bytes(keys[0].to_bytes()), keys[0]);
    }
}
