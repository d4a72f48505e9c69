//! [`LifecycleStore`] on the embedded engine: a tree of places (`generation ‖ aggregate id`, and the cursors under one
//! short key) and a tree of flags by position, written together in one transaction.

use super::consumers::Batches;
use super::{Engine, Inner};
use crate::ground::codec::CodecError;
use crate::ground::ids::Seq;
use crate::store::StoreError;
use crate::store::lifecycle::{Commit, Cursors, Flag, Generation, LifecycleStore, Place};

/// Bytes of a place's key before the aggregate's id.
const GENERATION_BYTES: usize = 8;
/// Shorter than any place's key.
const CURSORS: &[u8] = b"c";

/// The trees of the projection.
pub(super) struct LifecycleTrees {
    places: sled::Tree,
    flags: sled::Tree,
}

impl LifecycleTrees {
    pub(super) fn open(db: &sled::Db) -> Result<Self, StoreError> {
        Ok(Self { places: db.open_tree("lifecycle-places")?, flags: db.open_tree("lifecycle-flags")? })
    }
}

fn place_key(generation: Generation, aggregate_id: &str) -> Vec<u8> {
    [&generation.0.to_be_bytes()[..], aggregate_id.as_bytes()].concat()
}

fn damaged(what: impl std::fmt::Display, source: CodecError) -> StoreError {
    StoreError::Corrupt { what: format!("lifecycle projection, {what}"), source }
}

fn seq_of(key: &[u8]) -> Seq {
    Seq(key.try_into().map_or(0, u64::from_be_bytes))
}

impl LifecycleStore for Engine {
    fn put_lifecycle(&self, commit: &Commit) -> Result<(), StoreError> {
        self.check_space_sometimes()?;
        self.with(|inner: &Inner| {
            let trees = &inner.lifecycle;
            let mut batches = Batches::default();
            for (generation, aggregate_id, place) in &commit.places {
                let record = place.encode().map_err(|source| damaged("a new place", source))?;
                batches.of(&trees.places).insert(place_key(*generation, aggregate_id), record);
            }
            let cursors = commit.cursors.encode().map_err(|source| damaged("new cursors", source))?;
            batches.of(&trees.places).insert(CURSORS, cursors);
            for (seq, flag) in &commit.flags {
                let record = flag.encode().map_err(|source| damaged("a new flag", source))?;
                batches.of(&trees.flags).insert(&seq.to_key(), record);
            }
            batches.commit()?;
            super::collect_garbage(commit.places.len() + commit.flags.len() + 1);
            Ok(())
        })
    }

    fn lifecycle_cursors(&self) -> Result<Cursors, StoreError> {
        self.with(|inner| match inner.lifecycle.places.get(CURSORS)? {
            Some(bytes) => Cursors::decode(&bytes).map_err(|source| damaged("its cursors", source)),
            None => Ok(Cursors::default()),
        })
    }

    fn place(&self, generation: Generation, aggregate_id: &str) -> Result<Option<Place>, StoreError> {
        self.with(|inner| {
            let found = inner.lifecycle.places.get(place_key(generation, aggregate_id))?;
            let read = |bytes: sled::IVec| Place::decode(&bytes).map_err(|source| damaged("a place", source));
            found.map(read).transpose()
        })
    }

    fn flag(&self, seq: Seq) -> Result<Option<Flag>, StoreError> {
        self.with(|inner| {
            let found = inner.lifecycle.flags.get(seq.to_key())?;
            let read = |bytes: sled::IVec| Flag::decode(&bytes).map_err(|source| damaged(seq, source));
            found.map(read).transpose()
        })
    }

    fn flags_after(
        &self,
        after: Seq,
        limit: usize,
        looked_at_max: usize,
        fits: &dyn Fn(&Flag) -> bool,
    ) -> Result<Vec<(Seq, Flag)>, StoreError> {
        self.with(|inner| {
            let mut found = Vec::new();
            for row in inner.lifecycle.flags.range(after.next().to_key()..).take(looked_at_max) {
                let (key, bytes) = row?;
                let flag = Flag::decode(&bytes).map_err(|source| damaged(seq_of(&key), source))?;
                if fits(&flag) {
                    found.push((seq_of(&key), flag));
                }
                if found.len() >= limit {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn drop_flags(&self, before: Seq) -> Result<(), StoreError> {
        self.with(|inner| {
            for key in inner.lifecycle.flags.range(..before.to_key()).keys() {
                inner.lifecycle.flags.remove(key?)?;
            }
            Ok(())
        })
    }

    fn forget_places(&self, generation: Generation, limit: usize) -> Result<usize, StoreError> {
        self.with(|inner| {
            let places = &inner.lifecycle.places;
            let mut batch = sled::Batch::default();
            let mut count = 0;
            for key in places.scan_prefix(generation.0.to_be_bytes()).keys().take(limit) {
                batch.remove(key?);
                count += 1;
            }
            places.apply_batch(batch)?;
            super::collect_garbage(count);
            Ok(count)
        })
    }
}

/// Reads every place, every flag and the cursors.
pub(super) fn check(inner: &Inner, fault: super::check::Faults<'_>) -> Result<super::check::LifecycleRows, StoreError> {
    let mut rows = super::check::LifecycleRows::default();
    for row in &inner.lifecycle.places {
        let (key, bytes) = row?;
        if &*key == CURSORS {
            if let Err(error) = Cursors::decode(&bytes) {
                fault(damaged("its cursors", error).to_string());
            }
            continue;
        }
        rows.places += 1;
        if let Err(error) = Place::decode(&bytes) {
            let aggregate = String::from_utf8_lossy(key.get(GENERATION_BYTES..).unwrap_or_default()).into_owned();
            fault(damaged(format!("the place of aggregate {aggregate}"), error).to_string());
        }
    }
    for row in &inner.lifecycle.flags {
        let (key, bytes) = row?;
        rows.flags += 1;
        if let Err(error) = Flag::decode(&bytes) {
            fault(damaged(format!("the flag of event {}", seq_of(&key)), error).to_string());
        }
    }
    Ok(rows)
}
