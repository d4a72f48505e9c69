//! Events that wait for their time, in memory.

use super::{Call, FakeStore};
use crate::ground::clock::UnixMs;
use crate::store::{ScheduleKey, ScheduleStore, ScheduledRecord, StoreError};

impl ScheduleStore for FakeStore {
    fn put_scheduled(&self, events: &[(ScheduleKey, ScheduledRecord)]) -> Result<(), StoreError> {
        self.write(Call::Schedule, |content| {
            content.scheduled.extend(events.iter().cloned());
            Ok(())
        })
    }

    fn scheduled_from(
        &self,
        from: ScheduleKey,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<(ScheduleKey, ScheduledRecord)>, StoreError> {
        self.look(|content| {
            let mut held = 0;
            let mut fits = |record: &ScheduledRecord| {
                let fits = held < bytes || held == 0;
                held += record.event.len();
                fits
            };
            let found = content.scheduled.range(from..).take(limit).take_while(|(_, record)| fits(record));
            found.map(|(key, record)| (*key, record.clone())).collect()
        })
    }

    fn scheduled(&self, key: ScheduleKey) -> Result<Option<ScheduledRecord>, StoreError> {
        self.look(|content| content.scheduled.get(&key).cloned())
    }

    fn remove_scheduled(&self, keys: &[ScheduleKey]) -> Result<(), StoreError> {
        self.write(Call::Schedule, |content| {
            content.scheduled.retain(|key, _| !keys.contains(key));
            Ok(())
        })
    }

    fn sweep_schedule(&self, _: UnixMs) -> Result<(), StoreError> {
        self.write(Call::Schedule, |_| Ok(()))
    }
}
