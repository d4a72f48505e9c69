//! One segment of the log: its rows, its dedup keys, and a filter that tells which keys are surely not in it.
//!
//! Both kinds of rows are in one tree, so that one batch holds them: a batch on one tree is as atomic as a transaction
//! over two, and spares looking each row up before it is written. Nothing is deleted from the tree, which is dropped as
//! a whole, so the two kinds do not leak. Event rows begin with the position's first byte, which stays below
//! [`IDS_PREFIX`] for 10^19 events; dedup rows begin with that byte.

use std::sync::Arc;

use fastbloom::BloomFilter;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::ground::codec;
use crate::ground::ids::Seq;
use crate::store::log_record::{self, DIGEST_BYTES, Digest, Joiner};
use crate::store::{SegmentInfo, StoreError};

/// Version of [`Seal`].
const SEAL_VERSION: u8 = 1;
/// Hashes per key; with [`BITS_PER_KEY`] about 1 % of the keys that are not there are looked up in vain.
const HASHES: u32 = 7;
const BITS_PER_KEY: u64 = 10;
/// Part of the persisted form: never changes.
const SEED: u128 = 0x7469_6465_6761_7465;

/// What is known of a full segment, kept so that opening need not read it.
#[derive(Serialize, Deserialize)]
struct Seal {
    last: Seq,
    bytes: u64,
    newest_ms: u64,
    filter: Vec<u64>,
}

/// What changes while a segment is written.
pub(super) struct Content {
    pub(super) last: Seq,
    pub(super) bytes: u64,
    pub(super) newest_ms: u64,
    filter: BloomFilter,
}

/// A segment.
pub(super) struct Segment {
    pub(super) first: Seq,
    pub(super) tree: sled::Tree,
    pub(super) content: Mutex<Content>,
}

/// First byte of a dedup row's key.
pub(super) const IDS_PREFIX: u8 = 0xff;

/// The dedup key of an event. The id leads: ids made here sort by time, so inserts stay together, and an id can be
/// looked up in every org. Neither part has control characters.
pub(super) fn id_key(org: &str, id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(org.len() + 2 + id.len());
    key.push(IDS_PREFIX);
    key.extend_from_slice(id.as_bytes());
    key.push(0);
    key.extend_from_slice(org.as_bytes());
    key
}

/// A dedup row: position and digest.
pub(super) fn id_value(seq: Seq, digest: &Digest) -> [u8; 8 + DIGEST_BYTES] {
    let mut value = [0; 8 + DIGEST_BYTES];
    value[..8].copy_from_slice(&seq.to_key());
    value[8..].copy_from_slice(digest);
    value
}

/// Reads a dedup row.
pub(super) fn read_id_value(value: &[u8]) -> Option<(Seq, Digest)> {
    let seq = value.get(..8)?.try_into().ok()?;
    let digest = value.get(8..8 + DIGEST_BYTES)?.try_into().ok()?;
    Some((Seq(u64::from_be_bytes(seq)), digest))
}

/// The position in the first eight bytes of a row's key.
pub(super) fn seq_of_key(key: &[u8]) -> Option<Seq> {
    Some(Seq(u64::from_be_bytes(key.get(..8)?.try_into().ok()?)))
}

fn empty_filter(segment_events: u64) -> BloomFilter {
    let bits = usize::try_from(segment_events.max(1_000) * BITS_PER_KEY).unwrap_or(usize::MAX);
    BloomFilter::with_num_bits(bits).seed(&SEED).hashes(HASHES)
}

impl Segment {
    pub(super) fn log_name(first: Seq) -> String {
        format!("log-{first:020}", first = first.0)
    }

    /// Opens the segment that starts at `first`, from its seal or by reading its dedup keys.
    pub(super) fn open(
        db: &sled::Db,
        seals: &sled::Tree,
        first: Seq,
        segment_events: u64,
    ) -> Result<Arc<Self>, StoreError> {
        let tree = db.open_tree(Self::log_name(first))?;
        let content = match read_seal(seals, first)? {
            Some(seal) => Content {
                last: seal.last,
                bytes: seal.bytes,
                newest_ms: seal.newest_ms,
                filter: BloomFilter::from_vec(seal.filter).seed(&SEED).hashes(HASHES),
            },
            None => Self::read_content(&tree, first, segment_events)?,
        };
        Ok(Arc::new(Self { first, tree, content: Mutex::new(content) }))
    }

    fn read_content(tree: &sled::Tree, first: Seq, segment_events: u64) -> Result<Content, StoreError> {
        let mut filter = empty_filter(segment_events);
        for row in tree.scan_prefix([IDS_PREFIX]) {
            let (key, _) = row?;
            filter.insert(&*key);
        }
        let last = match tree.range(..[IDS_PREFIX]).next_back().transpose()? {
            Some((key, _)) => seq_of_key(&key).unwrap_or(first.prev()),
            None => first.prev(),
        };
        let newest_ms = match read_event(tree, last)? {
            Some(event) => event.received_at.0,
            None => 0,
        };
        // The true figure was in memory only; a kibibyte an event is close enough for the retention by bytes.
        let bytes = last.0.saturating_sub(first.prev().0).saturating_mul(1_024);
        Ok(Content { last, bytes, newest_ms, filter })
    }

    /// Keeps what is known of this segment, now that it is full.
    pub(super) fn seal(&self, seals: &sled::Tree) -> Result<(), StoreError> {
        let content = self.content.lock();
        let seal = Seal {
            last: content.last,
            bytes: content.bytes,
            newest_ms: content.newest_ms,
            filter: content.filter.as_slice().to_vec(),
        };
        drop(content);
        let record = codec::encode(SEAL_VERSION, &seal)
            .map_err(|source| StoreError::Corrupt { what: "segment seal".into(), source })?;
        let mut batch = sled::Batch::default();
        log_record::cut(&record, |suffix, value| {
            let mut key = self.first.to_key().to_vec();
            key.extend_from_slice(suffix);
            batch.insert(key, value);
        });
        seals.apply_batch(batch)?;
        Ok(())
    }

    pub(super) fn info(&self) -> SegmentInfo {
        let content = self.content.lock();
        SegmentInfo { first: self.first, last: content.last, bytes: content.bytes, newest_ms: content.newest_ms }
    }

    /// The dedup row of this key, if it is in this segment.
    pub(super) fn look_up(&self, key: &[u8]) -> Result<Option<(Seq, Digest)>, StoreError> {
        if !self.content.lock().filter.contains(key) {
            return Ok(None);
        }
        Ok(self.tree.get(key)?.and_then(|value| read_id_value(&value)))
    }

    /// Notes what a commit has added.
    pub(super) fn added<'a>(&self, last: Seq, bytes: u64, newest_ms: u64, keys: impl Iterator<Item = &'a [u8]>) {
        let mut content = self.content.lock();
        content.last = last;
        content.bytes += bytes;
        content.newest_ms = content.newest_ms.max(newest_ms);
        for key in keys {
            content.filter.insert(key);
        }
    }
}

/// Removes the seal of a segment.
pub(super) fn remove_seal(seals: &sled::Tree, first: Seq) -> Result<(), StoreError> {
    for row in seals.scan_prefix(first.to_key()) {
        seals.remove(row?.0)?;
    }
    Ok(())
}

/// A seal that is missing or damaged is only work to do again: the segment is read instead.
fn read_seal(seals: &sled::Tree, first: Seq) -> Result<Option<Seal>, StoreError> {
    let mut rows = seals.scan_prefix(first.to_key());
    let Some(head) = rows.next() else { return Ok(None) };
    let record = match Joiner::start(&head?.1) {
        Ok(record) => record,
        Err(mut joiner) => {
            while joiner.wants_more() {
                let Some(row) = rows.next() else { break };
                joiner.push(&row?.1);
            }
            joiner.finish()
        }
    };
    match codec::decode(SEAL_VERSION, &record) {
        Ok(seal) => Ok(Some(seal)),
        Err(error) => {
            tracing::warn!(%error, segment = %first, "the seal of a log segment is damaged; reading the segment instead");
            Ok(None)
        }
    }
}

/// Reads the rows of one tree in order and puts records together.
pub(super) struct Records {
    rows: sled::Iter,
}

impl Records {
    pub(super) fn from(tree: &sled::Tree, from: Seq) -> Self {
        Self { rows: tree.range(from.to_key().to_vec()..vec![IDS_PREFIX]) }
    }

    /// The next event.
    pub(super) fn next_event(&mut self) -> Result<Option<Arc<crate::event::envelope::Event>>, StoreError> {
        let Some(head) = self.rows.next() else { return Ok(None) };
        let (key, value) = head?;
        let corrupt = |source| StoreError::Corrupt { what: format!("log row {}", hex::encode(&key)), source };
        let seq = seq_of_key(&key).ok_or_else(|| corrupt(codec::CodecError::Short(key.len())))?;
        let record = match Joiner::start(&value) {
            Ok(record) => record,
            Err(mut joiner) => {
                while joiner.wants_more() {
                    match self.rows.next() {
                        Some(row) => joiner.push(&row?.1),
                        None => return Err(corrupt(codec::CodecError::Short(value.len()))),
                    }
                }
                joiner.finish()
            }
        };
        log_record::decode(seq, record).map(Some).map_err(corrupt)
    }
}

/// The event at this position of a segment.
pub(super) fn read_event(
    tree: &sled::Tree,
    seq: Seq,
) -> Result<Option<Arc<crate::event::envelope::Event>>, StoreError> {
    let event = Records::from(tree, seq).next_event()?;
    Ok(event.filter(|event| event.seq == seq))
}
