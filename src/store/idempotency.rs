//! The port of idempotency keys (IDM-1): what is known of each request that named a key, and the answers that were kept.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Durability, StoreError};
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};

/// Version of [`KeyRecord`].
const VERSION: u8 = 1;

/// Where a key is kept. Sorts as they were first asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyPlace {
    /// When it was first asked for.
    pub first: UnixMs,
    /// Tells keys apart, in the order in which they came.
    pub number: u64,
}

/// How an operation ended whose answer is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// A number of whoever keeps it: a status.
    pub status: u16,
    /// A note of whoever keeps it: what one must be allowed to do to see it.
    pub note: String,
    /// Bytes of the answer; none when it was too large to be kept.
    pub bytes: Option<u32>,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Hash of the key and of everything that tells it from the same key elsewhere.
    pub id: [u8; 32],
    /// On whose account it is; empty for nobody's.
    pub org: String,
    /// Hash of the request.
    pub fingerprint: [u8; 32],
    /// Where it is kept.
    pub place: KeyPlace,
    /// The newest fencing token given out for it.
    pub epoch: u64,
    /// When its holder began.
    pub since: UnixMs,
    /// When its lock ends.
    pub until: UnixMs,
    /// Set once it is done.
    pub done: Option<KeptAnswer>,
}

impl KeyRecord {
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

/// One change of what is known.
#[derive(Clone, Debug)]
pub enum KeyOp {
    /// Writes what is known of a key.
    Put(KeyRecord),
    /// Writes that it is done, with its answer if that is kept.
    Done(KeyRecord, Option<Bytes>),
    /// Forgets a key and its answer.
    Forget(KeyPlace),
}

/// What is known of idempotency keys.
pub trait IdempotencyStore: Send + Sync {
    /// Applies the changes atomically. Commits keep their order, among themselves and with every other commit of the
    /// store: what a crash takes is a suffix (ST-2).
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]; else when the engine fails, and then whether they are there is unknown.
    fn commit_keys(&self, ops: &[KeyOp], durability: Durability) -> Result<(), StoreError>;

    /// Every key, in the order in which they were first asked for.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn keys(&self, each: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError>;

    /// The answer that is kept with a key.
    ///
    /// # Errors
    /// When the engine fails or the answer is damaged.
    fn key_answer(&self, place: KeyPlace) -> Result<Option<Bytes>, StoreError>;

    /// Forgets keys that were first asked for before this time, in whole stretches: some stay a little longer.
    ///
    /// # Errors
    /// When the engine fails.
    fn sweep_keys(&self, before: UnixMs) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_key_are_as_they_always_were() {
        let running = KeyRecord {
            id: [7; 32],
            org: "acme".to_owned(),
            fingerprint: [9; 32],
            place: KeyPlace { first: UnixMs(1_795_248_000_000), number: 41 },
            epoch: 43,
            since: UnixMs(1_795_248_001_000),
            until: UnixMs(1_795_248_301_000),
            done: None,
        };
        let kept = KeptAnswer { status: 201, note: "manage".to_owned(), bytes: Some(512) };
        let done = KeyRecord { done: Some(kept), ..running.clone() };
        let lines = [("running", running), ("done", done)].map(|(name, record)| {
            let bytes = record.encode().expect("encodes");
            assert_eq!(KeyRecord::decode(&bytes), Ok(record));
            format!("{name}: {}", hex::encode(bytes))
        });
        insta::assert_snapshot!(lines.join("\n"));
    }
}
