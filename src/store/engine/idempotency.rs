//! [`IdempotencyStore`] on the embedded engine: two trees per ten minutes in which keys were first asked for, one of what is
//! known of them and one of their answers, which are dropped as wholes when their time is over.

use std::collections::BTreeSet;

use bytes::Bytes;
use parking_lot::Mutex;
use sled::Tree;

use super::consumers::Batches;
use super::{Engine, Inner};
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};
use crate::store::idempotency::{IdempotencyStore, KeyOp, KeyPlace, KeyRecord};
use crate::store::log_record::{self, Joiner};
use crate::store::{Durability, StoreError};

/// First asked for within this time: one stretch.
const STRETCH_MS: u64 = 10 * 60_000;
const KEYS: &str = "idempotency-keys-";
const ANSWERS: &str = "idempotency-answers-";
/// Version of the frame of an answer.
const ANSWER_VERSION: u8 = 1;

/// The stretches that have trees.
pub(super) struct Stretches(Mutex<BTreeSet<u64>>);

impl Stretches {
    pub(super) fn open(db: &sled::Db) -> Self {
        let of_name = |name: &[u8]| std::str::from_utf8(name).ok()?.strip_prefix(KEYS)?.parse::<u64>().ok();
        Self(Mutex::new(db.tree_names().iter().filter_map(|name| of_name(name)).collect()))
    }

    fn all(&self) -> Vec<u64> {
        self.0.lock().iter().copied().collect()
    }

    fn has(&self, stretch: u64) -> bool {
        self.0.lock().contains(&stretch)
    }
}

fn stretch_of(place: KeyPlace) -> u64 {
    place.first.0 / STRETCH_MS
}

fn name_of(kind: &str, stretch: u64) -> String {
    format!("{kind}{stretch:020}")
}

fn keys_tree(inner: &Inner, stretch: u64) -> Result<Tree, StoreError> {
    let tree = inner.db.open_tree(name_of(KEYS, stretch))?;
    inner.idempotency.0.lock().insert(stretch);
    Ok(tree)
}

fn answers_tree(inner: &Inner, stretch: u64) -> Result<Tree, StoreError> {
    Ok(inner.db.open_tree(name_of(ANSWERS, stretch))?)
}

fn damaged(source: CodecError) -> StoreError {
    StoreError::Corrupt { what: "idempotency key".to_owned(), source }
}

fn put(inner: &Inner, batches: &mut Batches, record: &KeyRecord) -> Result<(), StoreError> {
    let tree = keys_tree(inner, stretch_of(record.place))?;
    let bytes = record.encode().map_err(damaged)?;
    batches.of(&tree).insert(&record.place.number.to_be_bytes(), bytes);
    Ok(())
}

impl IdempotencyStore for Engine {
    fn commit_keys(&self, ops: &[KeyOp], durability: Durability) -> Result<(), StoreError> {
        self.check_space_sometimes()?;
        self.with(|inner| {
            let mut batches = Batches::default();
            for op in ops {
                match op {
                    KeyOp::Put(record) | KeyOp::Done(record, None) => put(inner, &mut batches, record)?,
                    KeyOp::Done(record, Some(answer)) => {
                        put(inner, &mut batches, record)?;
                        let tree = answers_tree(inner, stretch_of(record.place))?;
                        let key = record.place.number.to_be_bytes();
                        // Framed: the rows of a long record are told by their first byte, and an answer may begin with any.
                        log_record::cut(&codec::frame(ANSWER_VERSION, answer), |suffix, value| {
                            batches.of(&tree).insert([&key[..], suffix].concat(), value);
                        });
                    }
                    KeyOp::Forget(place) if inner.idempotency.has(stretch_of(*place)) => {
                        let key = place.number.to_be_bytes();
                        batches.of(&keys_tree(inner, stretch_of(*place))?).remove(&key);
                        let tree = answers_tree(inner, stretch_of(*place))?;
                        for row in tree.scan_prefix(key).keys() {
                            batches.of(&tree).remove(row?);
                        }
                    }
                    KeyOp::Forget(_) => {}
                }
            }
            batches.commit()?;
            super::collect_garbage(ops.len());
            match durability {
                Durability::Ordered => Ok(()),
                Durability::Synced => {
                    self.planned_fault()?;
                    inner.sync()
                }
            }
        })
    }

    fn keys(&self, each: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.with(|inner| {
            for stretch in inner.idempotency.all() {
                for row in keys_tree(inner, stretch)?.iter() {
                    each(KeyRecord::decode(&row?.1).map_err(damaged)?);
                }
            }
            Ok(())
        })
    }

    fn key_answer(&self, place: KeyPlace) -> Result<Option<Bytes>, StoreError> {
        self.with(|inner| {
            if !inner.idempotency.has(stretch_of(place)) {
                return Ok(None);
            }
            let mut rows = answers_tree(inner, stretch_of(place))?.scan_prefix(place.number.to_be_bytes());
            let Some(first) = rows.next() else { return Ok(None) };
            let framed = match Joiner::start(&first?.1) {
                Ok(framed) => framed,
                Err(mut joiner) => {
                    while joiner.wants_more() {
                        let Some(row) = rows.next() else { break };
                        joiner.push(&row?.1);
                    }
                    joiner.finish()
                }
            };
            codec::unframe(ANSWER_VERSION, &framed).map_err(damaged)?;
            Ok(Some(framed.slice(codec::HEADER_BYTES..)))
        })
    }

    fn sweep_keys(&self, before: UnixMs) -> Result<(), StoreError> {
        self.with(|inner| {
            for stretch in inner.idempotency.all() {
                if (stretch + 1).saturating_mul(STRETCH_MS) > before.0 {
                    break;
                }
                // The keys last: while they are named, what is left of the stretch is found again after a crash.
                inner.db.drop_tree(name_of(ANSWERS, stretch))?;
                inner.db.drop_tree(name_of(KEYS, stretch))?;
                inner.idempotency.0.lock().remove(&stretch);
            }
            Ok(())
        })
    }
}

/// Reads every key and counts them; gives those that are whole.
pub(super) fn check(
    inner: &Inner,
    each: &mut dyn FnMut(KeyRecord),
    fault: super::check::Faults<'_>,
    count: &mut u64,
) -> Result<(), StoreError> {
    for stretch in inner.idempotency.all() {
        for row in &keys_tree(inner, stretch)? {
            let (key, bytes) = row?;
            *count += 1;
            match KeyRecord::decode(&bytes) {
                Ok(record) => each(record),
                Err(error) => {
                    let number = key[..].try_into().map_or(0, u64::from_be_bytes);
                    fault(format!("idempotency key {number}: {}", damaged(error)));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
impl Engine {
    /// Trees that hold idempotency keys or their answers.
    pub(crate) fn idempotency_trees(&self) -> Result<usize, StoreError> {
        self.with(|inner| {
            let names = inner.db.tree_names();
            Ok(names.iter().filter(|name| name.starts_with(b"idempotency-")).count())
        })
    }
}
