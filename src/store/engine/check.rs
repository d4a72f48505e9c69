//! Reading of everything that is kept, row by row, for the offline check: a damaged row is named, and the rest is read all
//! the same.

use bytes::Bytes;

use super::{Engine, Inner, consumers, idempotency, lifecycle, log, quarantine, registry};
use crate::store::idempotency::KeyRecord;
use crate::store::records::{ATTEMPTS_VERSION, AttemptPage, POSITION_VERSION, RowRecord};
use crate::store::{IdempotencyStore as _, Position, StoreError};

/// Takes what is wrong, in words.
pub(crate) type Faults<'a> = &'a mut dyn FnMut(String);

/// What was read of the projection that follows aggregates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LifecycleRows {
    /// Places of aggregates.
    pub(crate) places: u64,
    /// Flags.
    pub(crate) flags: u64,
}

/// What was read of consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerRows {
    /// Exception rows.
    pub(crate) exceptions: u64,
    /// Pages of attempts.
    pub(crate) attempt_pages: u64,
    /// Dead letters, those that are closed among them.
    pub(crate) dead_letters: u64,
}

fn check_consumers(inner: &Inner, fault: Faults<'_>) -> Result<ConsumerRows, StoreError> {
    let mut read = ConsumerRows::default();
    let trees: Vec<_> = inner.rows.lock().0.iter().map(|(consumer, tree)| (consumer.clone(), tree.clone())).collect();
    for (consumer, tree) in trees {
        for row in &tree {
            let (key, bytes) = row?;
            read.exceptions += 1;
            if let Err(error) = RowRecord::decode(&bytes) {
                let seq = super::segment::seq_of_key(&key).unwrap_or_default();
                fault(format!("{consumer}: the exception row of event {seq}: {error}"));
            }
        }
    }
    for tree in inner.attempts.lock().all() {
        for row in &tree {
            let (key, bytes) = row?;
            read.attempt_pages += 1;
            let consumer = key.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = format!("{}: a page of attempts", String::from_utf8_lossy(consumer));
            if let Err(error) = consumers::decode::<AttemptPage>(ATTEMPTS_VERSION, &bytes, &name) {
                fault(error.to_string());
            }
        }
    }
    for row in &inner.dead {
        let (key, bytes) = row?;
        if consumers::is_first_row(&key) {
            read.dead_letters += 1;
            if let Err(error) = consumers::join_dead_letter(inner, &key, &bytes) {
                fault(format!("{}: {error}", String::from_utf8_lossy(&key)));
            }
        }
    }
    for row in &inner.checkpoints {
        let (key, bytes) = row?;
        let name = String::from_utf8_lossy(&key);
        if &*key == consumers::ROUTER_KEY {
            if super::segment::seq_of_key(&bytes).is_none() {
                fault("the router's cursor is no position".to_owned());
            }
        } else if let Err(error) =
            consumers::decode::<Position>(POSITION_VERSION, &bytes, &format!("{name}: its cursor"))
        {
            fault(error.to_string());
        }
    }
    Ok(read)
}

impl Engine {
    /// Reads what is kept of consumers: rows, attempts, dead letters, cursors.
    pub(crate) fn check_consumers(&self, fault: Faults<'_>) -> Result<ConsumerRows, StoreError> {
        self.with(|inner| check_consumers(inner, fault))
    }

    /// Reads every document: kind, key, and the bytes of those that are whole.
    pub(crate) fn check_documents(
        &self,
        each: &mut dyn FnMut(&str, &str, &[u8]),
        fault: Faults<'_>,
    ) -> Result<(), StoreError> {
        self.with(|inner| {
            for row in &inner.registry {
                let (row, value) = row?;
                // The log's own rows lie beside the documents.
                if [log::LOW_WATER_KEY, log::ID_KEY].contains(&&*row) {
                    continue;
                }
                let name = String::from_utf8_lossy(&row);
                let Some((kind, key)) = name.split_once('\0') else {
                    fault(format!("a registry row has the key {}", hex::encode(&row)));
                    continue;
                };
                match registry::read(kind, key, &value) {
                    Ok(document) => each(kind, key, &document.bytes),
                    Err(error) => fault(error.to_string()),
                }
            }
            Ok(())
        })
    }

    /// Reads every quarantined event with its envelope; gives how many there are.
    pub(crate) fn check_quarantine(&self, fault: Faults<'_>) -> Result<u64, StoreError> {
        self.with(|inner| quarantine::check(inner, fault))
    }

    /// Reads the projection that follows aggregates.
    pub(crate) fn check_lifecycle(&self, fault: Faults<'_>) -> Result<LifecycleRows, StoreError> {
        self.with(|inner| lifecycle::check(inner, fault))
    }

    /// Reads every idempotency key and its answer; gives how many keys there are.
    pub(crate) fn check_idempotency(&self, fault: Faults<'_>) -> Result<u64, StoreError> {
        let mut records: Vec<KeyRecord> = Vec::new();
        let mut count = 0;
        self.with(|inner| idempotency::check(inner, &mut |record| records.push(record), fault, &mut count))?;
        for record in records {
            let (place, kept) = (record.place, record.done.and_then(|done| done.bytes));
            match self.key_answer(place) {
                Ok(answer) if answer.as_ref().map(Bytes::len) == kept.map(|bytes| bytes as usize) => {}
                Ok(_) => fault(format!("idempotency key {}: its answer is not what was recorded", place.number)),
                Err(error) => fault(format!("idempotency key {}: its answer: {error}", place.number)),
            }
        }
        Ok(count)
    }
}
