//! Quarantined events in memory.

use bytes::Bytes;

use super::{Call, FakeStore};
use crate::store::StoreError;
use crate::store::quarantine::{QuarantineId, QuarantineRecord, QuarantineStore};

impl QuarantineStore for FakeStore {
    fn keep_aside(&self, events: &[(QuarantineId, QuarantineRecord, Bytes)]) -> Result<(), StoreError> {
        self.write(Call::Schedule, |content| {
            let kept = events.iter().map(|(id, record, envelope)| (*id, (record.clone(), Some(envelope.clone()))));
            content.aside.extend(kept);
            Ok(())
        })
    }

    fn close_aside(&self, events: &[(QuarantineId, QuarantineRecord)]) -> Result<(), StoreError> {
        self.write(Call::Schedule, |content| {
            for (id, record) in events {
                if let Some(kept) = content.aside.get_mut(id) {
                    *kept = (record.clone(), None);
                }
            }
            Ok(())
        })
    }

    fn aside_after(
        &self,
        after: Option<QuarantineId>,
        limit: usize,
    ) -> Result<Vec<(QuarantineId, QuarantineRecord)>, StoreError> {
        self.look(|content| {
            let later = content.aside.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
            later.take(limit).map(|(id, (record, _))| (*id, record.clone())).collect()
        })
    }

    fn aside(&self, id: QuarantineId) -> Result<Option<(QuarantineRecord, Option<Bytes>)>, StoreError> {
        self.look(|content| content.aside.get(&id).cloned())
    }

    fn drop_aside(&self, ids: &[QuarantineId]) -> Result<(), StoreError> {
        self.write(Call::Schedule, |content| {
            content.aside.retain(|id, _| !ids.contains(id));
            Ok(())
        })
    }
}
