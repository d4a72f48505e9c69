//! The port of events that are held back until they are due (ING-7): kept aside from the log, each under its due time.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};
use crate::ground::context::WriteContext;

/// Version of [`ScheduledRecord`].
const VERSION: u8 = 1;

/// Where a scheduled event is kept. Sorts as they fall due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScheduleKey {
    /// When it is due.
    pub due_at: UnixMs,
    /// Tells events of one time apart, in the order in which they came.
    pub number: u64,
}

impl ScheduleKey {
    /// Before every key.
    pub const MIN: Self = Self { due_at: UnixMs(0), number: 0 };

    /// Bytes that sort as the keys do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.due_at.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// The key of these bytes; further ones are passed over.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let part = |from: usize| Some(u64::from_be_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
        Some(Self { due_at: UnixMs(part(0)?), number: part(8)? })
    }

    /// The key after this one.
    #[must_use]
    pub fn next(self) -> Self {
        match self.number.checked_add(1) {
            Some(number) => Self { number, ..self },
            None => Self { due_at: self.due_at.plus_ms(1), number: 0 },
        }
    }
}

/// A scheduled event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledRecord {
    /// Who scheduled it, when, from where (EVT-5).
    pub created: WriteContext,
    /// The event as a record of the log.
    pub event: Bytes,
}

impl ScheduledRecord {
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

/// The scheduled events.
pub trait ScheduleStore: Send + Sync {
    /// Writes events in one durable commit.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]; else when the engine fails, and then whether they are there is unknown.
    fn put_scheduled(&self, events: &[(ScheduleKey, ScheduledRecord)]) -> Result<(), StoreError>;

    /// The events from `from` on, in order: up to `limit`, and no further than past `bytes` of records, but at least one
    /// when there is one.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn scheduled_from(
        &self,
        from: ScheduleKey,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(ScheduleKey, ScheduledRecord)>, StoreError>;

    /// An event.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn scheduled(&self, key: ScheduleKey) -> Result<Option<ScheduledRecord>, StoreError>;

    /// Takes events away, durably.
    ///
    /// # Errors
    /// When the engine fails; whether they are gone is then unknown.
    fn remove_scheduled(&self, keys: &[ScheduleKey]) -> Result<(), StoreError>;

    /// Gives back what is held for times before this one, where nothing is left.
    ///
    /// # Errors
    /// When the engine fails.
    fn sweep_schedule(&self, before: UnixMs) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_scheduled_event_are_as_they_always_were() {
        let created = WriteContext {
            by: "key:k1".to_owned(),
            at: UnixMs(1_795_248_000_000),
            correlation_id: Some("c-1".to_owned()),
            ip: None,
        };
        let record = ScheduledRecord { created, event: Bytes::from_static(b"record") };
        let bytes = record.encode().expect("encodes");
        assert_eq!(ScheduledRecord::decode(&bytes), Ok(record));
        insta::assert_snapshot!(hex::encode(bytes));
    }

    #[test]
    fn keys_sort_as_their_bytes_do() {
        let key = |due_at, number| ScheduleKey { due_at: UnixMs(due_at), number };
        let keys = [ScheduleKey::MIN, key(1, 2), key(1, 3), key(1, u64::MAX), key(2, 0), key(256, 0)];
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes()));
        assert!(keys.iter().all(|one| ScheduleKey::from_bytes(&one.to_bytes()) == Some(*one)));
        assert_eq!(key(1, u64::MAX).next(), key(2, 0));
        assert_eq!(key(1, 2).next(), key(1, 3));
    }
}
