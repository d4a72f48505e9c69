//! [`ScheduleStore`] on the embedded engine: a tree per six hours of due time, so that each tree is taken from at its old
//! end and dropped as a whole when its time is over.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use sled::Tree;

use super::consumers::Batches;
use super::{Engine, Inner};
use crate::ground::clock::UnixMs;
use crate::store::log_record::{self, Joiner};
use crate::store::{ScheduleKey, ScheduleStore, ScheduledRecord, StoreError};

/// Due times of one tree.
const BUCKET_MS: u64 = 6 * 3_600_000;
const PREFIX: &str = "schedule-";
/// Bytes of a row's key; the rows of a long record have more.
const KEY_BYTES: usize = 16;

fn bucket_of(key: ScheduleKey) -> u64 {
    key.due_at.0 / BUCKET_MS
}

fn name_of(bucket: u64) -> String {
    format!("{PREFIX}{bucket:020}")
}

/// The buckets that have a tree.
pub(super) struct Buckets(Mutex<BTreeSet<u64>>);

impl Buckets {
    pub(super) fn open(db: &sled::Db) -> Self {
        let of_name = |name: &[u8]| std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.parse::<u64>().ok();
        Self(Mutex::new(db.tree_names().iter().filter_map(|name| of_name(name)).collect()))
    }

    fn has(&self, bucket: u64) -> bool {
        self.0.lock().contains(&bucket)
    }

    /// Those from this one on, oldest first.
    fn from(&self, bucket: u64) -> Vec<u64> {
        self.0.lock().range(bucket..).copied().collect()
    }
}

fn open_bucket(inner: &Inner, bucket: u64) -> Result<Tree, StoreError> {
    let tree = inner.db.open_tree(name_of(bucket))?;
    inner.schedule.0.lock().insert(bucket);
    Ok(tree)
}

fn damaged(key: ScheduleKey, source: crate::ground::codec::CodecError) -> StoreError {
    StoreError::Corrupt { what: format!("scheduled event {} of {}", key.number, key.due_at), source }
}

/// The record whose first row is `first`; `rows` gives the rows after it.
fn join(
    key: ScheduleKey,
    first: &[u8],
    rows: &mut dyn Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
) -> Result<ScheduledRecord, StoreError> {
    let bytes = match Joiner::start(first) {
        Ok(bytes) => bytes,
        Err(mut joiner) => {
            while joiner.wants_more() {
                let Some(row) = rows.next() else { break };
                joiner.push(&row?.1);
            }
            joiner.finish()
        }
    };
    ScheduledRecord::decode(&bytes).map_err(|source| damaged(key, source))
}

/// The keys of the rows of a record, after the first.
fn further_rows(tree: &Tree, key: ScheduleKey) -> impl Iterator<Item = sled::Result<sled::IVec>> {
    tree.scan_prefix(key.to_bytes()).keys().filter(|row| row.as_ref().map_or(true, |row| row.len() > KEY_BYTES))
}

impl ScheduleStore for Engine {
    fn put_scheduled(&self, events: &[(ScheduleKey, ScheduledRecord)]) -> Result<(), StoreError> {
        self.check_space()?;
        self.with(|inner| {
            let mut batches = Batches::default();
            let mut rows = 0;
            for (key, record) in events {
                let tree = open_bucket(inner, bucket_of(*key))?;
                let record = record.encode().map_err(|source| damaged(*key, source))?;
                log_record::cut(&record, |suffix, value| {
                    batches.of(&tree).insert([&key.to_bytes()[..], suffix].concat(), value);
                    rows += 1;
                });
            }
            batches.commit()?;
            super::collect_garbage(rows);
            self.planned_fault()?;
            inner.sync()
        })
    }

    fn scheduled_from(
        &self,
        from: ScheduleKey,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(ScheduleKey, ScheduledRecord)>, StoreError> {
        self.with(|inner| {
            let (mut found, mut held) = (Vec::new(), 0);
            for bucket in inner.schedule.from(bucket_of(from)) {
                let tree = open_bucket(inner, bucket)?;
                let mut rows = tree.range(from.to_bytes()..);
                while found.len() < limit && (held < bytes || found.is_empty()) {
                    let Some(row) = rows.next() else { break };
                    let (row, first) = row?;
                    let Some(key) = ScheduleKey::from_bytes(&row).filter(|_| row.len() == KEY_BYTES) else { continue };
                    let record = join(key, &first, &mut rows)?;
                    held += record.event.len();
                    found.push((key, record));
                }
            }
            Ok(found)
        })
    }

    fn scheduled(&self, key: ScheduleKey) -> Result<Option<ScheduledRecord>, StoreError> {
        self.with(|inner| {
            if !inner.schedule.has(bucket_of(key)) {
                return Ok(None);
            }
            let tree = open_bucket(inner, bucket_of(key))?;
            let mut rows = tree.scan_prefix(key.to_bytes());
            match rows.next() {
                Some(row) => join(key, &row?.1, &mut rows).map(Some),
                None => Ok(None),
            }
        })
    }

    fn remove_scheduled(&self, keys: &[ScheduleKey]) -> Result<(), StoreError> {
        self.with(|inner| {
            let mut batches = Batches::default();
            for key in keys.iter().filter(|key| inner.schedule.has(bucket_of(**key))) {
                let tree = open_bucket(inner, bucket_of(*key))?;
                for row in further_rows(&tree, *key) {
                    batches.of(&tree).remove(row?);
                }
                batches.of(&tree).remove(&key.to_bytes());
            }
            batches.commit()?;
            super::collect_garbage(keys.len());
            inner.sync()
        })
    }

    fn sweep_schedule(&self, before: UnixMs) -> Result<(), StoreError> {
        self.with(|inner| {
            for bucket in inner.schedule.from(0) {
                if bucket >= before.0 / BUCKET_MS {
                    break;
                }
                if open_bucket(inner, bucket)?.is_empty() {
                    inner.db.drop_tree(name_of(bucket))?;
                    inner.schedule.0.lock().remove(&bucket);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
impl Engine {
    /// Trees that hold scheduled events, or did.
    pub(crate) fn schedule_trees(&self) -> Result<usize, StoreError> {
        self.with(|inner| Ok(inner.schedule.from(0).len()))
    }
}
