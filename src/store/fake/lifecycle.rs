//! Where aggregates stand, in memory.

use super::{Call, FakeStore};
use crate::ground::ids::Seq;
use crate::store::StoreError;
use crate::store::lifecycle::{Commit, Cursors, Flag, Generation, LifecycleStore, Place};

impl LifecycleStore for FakeStore {
    fn put_lifecycle(&self, commit: &Commit) -> Result<(), StoreError> {
        self.write(Call::Commit, |content| {
            let Commit { cursors, places, flags } = commit.clone();
            content.cursors = cursors;
            content.places.extend(places.into_iter().map(|(generation, id, place)| ((generation, id), place)));
            content.flags.extend(flags);
            Ok(())
        })
    }

    fn lifecycle_cursors(&self) -> Result<Cursors, StoreError> {
        self.look(|content| content.cursors.clone())
    }

    fn place(&self, generation: Generation, aggregate_id: &str) -> Result<Option<Place>, StoreError> {
        self.look(|content| content.places.get(&(generation, aggregate_id.to_owned())).cloned())
    }

    fn flag(&self, seq: Seq) -> Result<Option<Flag>, StoreError> {
        self.look(|content| content.flags.get(&seq).cloned())
    }

    fn flags_after(
        &self,
        after: Seq,
        limit: usize,
        looked_at_max: usize,
        fits: &dyn Fn(&Flag) -> bool,
    ) -> Result<Vec<(Seq, Flag)>, StoreError> {
        self.look(|content| {
            let later = content.flags.range(after.next()..).take(looked_at_max).filter(|(_, flag)| fits(flag));
            later.take(limit).map(|(seq, flag)| (*seq, flag.clone())).collect()
        })
    }

    fn drop_flags(&self, before: Seq) -> Result<(), StoreError> {
        self.write(Call::Commit, |content| {
            content.flags.retain(|seq, _| *seq >= before);
            Ok(())
        })
    }

    fn forget_places(&self, generation: Generation, limit: usize) -> Result<usize, StoreError> {
        self.write(Call::Commit, |content| {
            let known = content.places.keys().filter(|(of, _)| *of == generation).take(limit).cloned();
            let gone: Vec<_> = known.collect();
            gone.iter().for_each(|key| drop(content.places.remove(key)));
            Ok(gone.len())
        })
    }
}
