//! The port of events that the catalog's policy refused and that are kept aside (ING-6): what is known of each, and the
//! event as it was sent.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};
use crate::ground::context::WriteContext;
use crate::ground::ids::{Seq, uuid_v7};
use crate::ground::random::Random;

/// Version of [`QuarantineRecord`].
const VERSION: u8 = 1;
/// What the text of an id begins with.
const PREFIX: &str = "qrt_";

/// Which quarantined event. Sorts by the time it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuarantineId(pub u128);

impl QuarantineId {
    /// A new one.
    #[must_use]
    pub fn new(now: UnixMs, random: &dyn Random) -> Self {
        Self(uuid_v7(now, random).as_u128())
    }

    /// Reads the text of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 32)?;
        let hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u128::from_str_radix(digits, 16).ok().filter(|_| hex).map(Self)
    }

    /// When it was made.
    #[must_use]
    pub fn at(self) -> UnixMs {
        // The first 48 bits of a UUIDv7.
        UnixMs(u64::try_from(self.0 >> 80).unwrap_or(u64::MAX))
    }

    /// Bytes that sort as the ids do.
    #[must_use]
    pub fn to_key(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for QuarantineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", self.0)
    }
}

/// A way in which a quarantined event did not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptViolation {
    /// Where in the event.
    pub pointer: String,
    /// Which part of the schema says so.
    pub schema_path: String,
    /// What it says.
    pub message: String,
}

/// Where a quarantined event stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nobody has done anything about it.
    Open,
    /// It was checked again and taken.
    Redriven {
        /// Its place in the log; zero when it waits for its time.
        seq: Seq,
        /// Who asked.
        context: WriteContext,
    },
    /// Nobody wants it.
    Discarded {
        /// Why.
        reason: String,
        /// Who said so.
        context: WriteContext,
    },
}

/// What is known of a quarantined event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRecord {
    /// Its org.
    pub org: String,
    /// Its type.
    pub event_type: String,
    /// Its own id.
    pub event_id: String,
    /// Whether the producer gave that.
    pub id_given: bool,
    /// When it was received.
    pub received_at: UnixMs,
    /// When it is due, if it was sent for later.
    pub deliver_at: Option<UnixMs>,
    /// Why it was refused, by its stable name.
    pub finding: String,
    /// The same in words.
    pub message: String,
    /// In which ways it did not fit; the first of them.
    pub violations: Vec<KeptViolation>,
    /// How many more there were.
    pub more_violations: u64,
    /// Who sent it.
    pub created: WriteContext,
    /// Where it stands.
    pub standing: Standing,
    /// Bytes of its envelope, also when that is no longer kept.
    pub bytes: u64,
}

impl QuarantineRecord {
    /// Its bytes on disk.
    ///
    /// # Errors
    /// A mistake of the program.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(VERSION, self)
    }

    /// The record of these bytes.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes)
    }
}

/// The quarantined events.
pub trait QuarantineStore: Send + Sync {
    /// Writes events with what is known of them in one durable commit.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]; else when the engine fails, and then whether they are there is unknown.
    fn keep_aside(&self, events: &[(QuarantineId, QuarantineRecord, Bytes)]) -> Result<(), StoreError>;

    /// Writes what is now known of events and lets go of their envelopes, in one durable commit.
    ///
    /// # Errors
    /// When the engine fails; whether it was done is then unknown.
    fn close_aside(&self, events: &[(QuarantineId, QuarantineRecord)]) -> Result<(), StoreError>;

    /// What is known of events after this one, in order, at most so many.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn aside_after(
        &self,
        after: Option<QuarantineId>,
        limit: usize,
    ) -> Result<Vec<(QuarantineId, QuarantineRecord)>, StoreError>;

    /// What is known of an event, and its envelope when that is still kept.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn aside(&self, id: QuarantineId) -> Result<Option<(QuarantineRecord, Option<Bytes>)>, StoreError>;

    /// Takes events away, durably.
    ///
    /// # Errors
    /// When the engine fails; whether they are gone is then unknown.
    fn drop_aside(&self, ids: &[QuarantineId]) -> Result<(), StoreError>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(event_id: &str, bytes: u64) -> QuarantineRecord {
        let created =
            WriteContext { by: "key:k1".to_owned(), at: UnixMs(1_795_248_000_000), ..WriteContext::default() };
        let violation = KeptViolation {
            pointer: "/data/total".to_owned(),
            schema_path: "/properties/total/type".to_owned(),
            message: "value is not of type \"integer\"".to_owned(),
        };
        QuarantineRecord {
            org: "acme".to_owned(),
            event_type: "invoice.paid".to_owned(),
            event_id: event_id.to_owned(),
            id_given: true,
            received_at: UnixMs(1_795_248_000_000),
            deliver_at: None,
            finding: "schema".to_owned(),
            message: "the data does not fit".to_owned(),
            violations: vec![violation],
            more_violations: 2,
            created,
            standing: Standing::Open,
            bytes,
        }
    }

    #[test]
    fn the_bytes_of_a_quarantined_event_are_as_they_always_were() {
        let context = WriteContext { by: "admin".to_owned(), at: UnixMs(7), ..WriteContext::default() };
        let standings = [
            Standing::Open,
            Standing::Redriven { seq: Seq(9), context: context.clone() },
            Standing::Discarded { reason: "a test".to_owned(), context },
        ];
        let mut lines = Vec::new();
        for standing in standings {
            let record = QuarantineRecord { standing, ..record("e1", 40) };
            let bytes = record.encode().expect("encodes");
            assert_eq!(QuarantineRecord::decode(&bytes), Ok(record));
            lines.push(hex::encode(bytes));
        }
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_id_is_read_as_it_is_written_and_tells_its_time() {
        let random = crate::ground::random::SeededRandom::shared(1);
        let id = QuarantineId::new(UnixMs(1_795_248_000_123), &*random);
        assert_eq!(QuarantineId::parse(&id.to_string()), Some(id));
        assert_eq!(id.at(), UnixMs(1_795_248_000_123));
        for other in
            ["", "qrt_", "qrt_12", "dlq_00000000000000000000000000000000", "qrt_+0000000000000000000000000000000"]
        {
            assert_eq!(QuarantineId::parse(other), None, "{other}");
        }
    }
}
