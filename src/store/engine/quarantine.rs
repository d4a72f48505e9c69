//! [`QuarantineStore`] on the embedded engine: a tree per day, which is written at its new end and dropped as a whole when
//! nothing is left in it. Rows: `id` → what is known of the event, `id ‖ part` → its envelope.

use std::collections::BTreeSet;

use bytes::Bytes;
use parking_lot::Mutex;
use sled::Tree;

use super::consumers::Batches;
use super::{Engine, Inner};
use crate::ground::codec::CodecError;
use crate::ground::ids::Seq;
use crate::ground::limits::ROW_BYTES_MAX;
use crate::store::quarantine::{QuarantineId, QuarantineRecord, QuarantineStore, Standing};
use crate::store::{StoreError, log_record};

/// Time of one tree.
const DAY_MS: u64 = 24 * 3_600_000;
const PREFIX: &str = "quarantine-";
/// Bytes of the key of what is known of an event; the rows of its envelope have more.
const KEY_BYTES: usize = 16;

fn day_of(id: QuarantineId) -> u64 {
    id.at().0 / DAY_MS
}

fn name_of(day: u64) -> String {
    format!("{PREFIX}{day:020}")
}

/// The days that have a tree.
pub(super) struct Days(Mutex<BTreeSet<u64>>);

impl Days {
    pub(super) fn open(db: &sled::Db) -> Self {
        let of_name = |name: &[u8]| std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.parse::<u64>().ok();
        Self(Mutex::new(db.tree_names().iter().filter_map(|name| of_name(name)).collect()))
    }

    fn has(&self, day: u64) -> bool {
        self.0.lock().contains(&day)
    }

    fn from(&self, day: u64) -> Vec<u64> {
        self.0.lock().range(day..).copied().collect()
    }
}

fn open_day(inner: &Inner, day: u64) -> Result<Tree, StoreError> {
    let tree = inner.db.open_tree(name_of(day))?;
    inner.quarantine.0.lock().insert(day);
    Ok(tree)
}

fn damaged(id: QuarantineId, source: CodecError) -> StoreError {
    StoreError::Corrupt { what: format!("quarantined event {id}"), source }
}

fn id_of(key: &[u8]) -> Option<QuarantineId> {
    Some(QuarantineId(u128::from_be_bytes(key.try_into().ok()?)))
}

/// The keys of the rows of an envelope.
fn parts(tree: &Tree, id: QuarantineId) -> impl Iterator<Item = sled::Result<sled::IVec>> {
    tree.scan_prefix(id.to_key()).keys().filter(|row| row.as_ref().map_or(true, |row| row.len() > KEY_BYTES))
}

impl QuarantineStore for Engine {
    fn keep_aside(&self, events: &[(QuarantineId, QuarantineRecord, Bytes)]) -> Result<(), StoreError> {
        self.check_space()?;
        self.with(|inner| {
            let mut batches = Batches::default();
            let mut rows = 0;
            for (id, record, envelope) in events {
                let tree = open_day(inner, day_of(*id))?;
                let record = record.encode().map_err(|source| damaged(*id, source))?;
                batches.of(&tree).insert(&id.to_key(), record);
                for (part, bytes) in envelope.chunks(ROW_BYTES_MAX).enumerate() {
                    let suffix = u16::try_from(part).unwrap_or(u16::MAX).to_be_bytes();
                    batches.of(&tree).insert([&id.to_key()[..], &suffix].concat(), bytes);
                    rows += 1;
                }
                rows += 1;
            }
            batches.commit()?;
            super::collect_garbage(rows);
            self.planned_fault()?;
            inner.sync()
        })
    }

    fn close_aside(&self, events: &[(QuarantineId, QuarantineRecord)]) -> Result<(), StoreError> {
        self.with(|inner| {
            let mut batches = Batches::default();
            for (id, record) in events.iter().filter(|(id, _)| inner.quarantine.has(day_of(*id))) {
                let tree = open_day(inner, day_of(*id))?;
                if !tree.contains_key(id.to_key())? {
                    continue;
                }
                for row in parts(&tree, *id) {
                    batches.of(&tree).remove(row?);
                }
                let record = record.encode().map_err(|source| damaged(*id, source))?;
                batches.of(&tree).insert(&id.to_key(), record);
            }
            batches.commit()?;
            super::collect_garbage(events.len());
            self.planned_fault()?;
            inner.sync()
        })
    }

    fn aside_after(
        &self,
        after: Option<QuarantineId>,
        limit: usize,
    ) -> Result<Vec<(QuarantineId, QuarantineRecord)>, StoreError> {
        self.with(|inner| {
            let from = QuarantineId(after.map_or(0, |after| after.0.saturating_add(1)));
            let mut found = Vec::new();
            for day in inner.quarantine.from(day_of(from)) {
                for row in open_day(inner, day)?.range(from.to_key()..) {
                    if found.len() >= limit {
                        return Ok(found);
                    }
                    let (key, bytes) = row?;
                    let Some(id) = id_of(&key) else { continue };
                    found.push((id, QuarantineRecord::decode(&bytes).map_err(|source| damaged(id, source))?));
                }
            }
            Ok(found)
        })
    }

    fn aside(&self, id: QuarantineId) -> Result<Option<(QuarantineRecord, Option<Bytes>)>, StoreError> {
        self.with(|inner| {
            if !inner.quarantine.has(day_of(id)) {
                return Ok(None);
            }
            let tree = open_day(inner, day_of(id))?;
            let Some(record) = tree.get(id.to_key())? else { return Ok(None) };
            let record = QuarantineRecord::decode(&record).map_err(|source| damaged(id, source))?;
            let mut envelope = Vec::new();
            for row in tree.scan_prefix(id.to_key()) {
                let (key, bytes) = row?;
                if key.len() > KEY_BYTES {
                    envelope.extend_from_slice(&bytes);
                }
            }
            let envelope = (!envelope.is_empty()).then(|| Bytes::from(envelope));
            Ok(Some((record, envelope)))
        })
    }

    fn drop_aside(&self, ids: &[QuarantineId]) -> Result<(), StoreError> {
        self.with(|inner| {
            let mut batches = Batches::default();
            let mut days = BTreeSet::new();
            for id in ids.iter().filter(|id| inner.quarantine.has(day_of(**id))) {
                let tree = open_day(inner, day_of(*id))?;
                for row in tree.scan_prefix(id.to_key()).keys() {
                    batches.of(&tree).remove(row?);
                }
                days.insert(day_of(*id));
            }
            batches.commit()?;
            super::collect_garbage(ids.len());
            inner.sync()?;
            // The newest may still be written to.
            let newest = inner.quarantine.0.lock().last().copied();
            for day in days.into_iter().filter(|day| Some(*day) != newest) {
                if open_day(inner, day)?.is_empty() {
                    inner.db.drop_tree(name_of(day))?;
                    inner.quarantine.0.lock().remove(&day);
                }
            }
            Ok(())
        })
    }
}

/// The event whose rows are being read: what its record says there is of the envelope, unless that is damaged, and the
/// envelope as far as it was read.
struct Reading {
    id: QuarantineId,
    wanted: Option<u64>,
    envelope: Vec<u8>,
}

impl Reading {
    fn settle(self, fault: super::check::Faults<'_>) {
        let Self { id, wanted, envelope } = self;
        let Some(wanted) = wanted else { return };
        if wanted == 0 && envelope.is_empty() {
            return;
        }
        match log_record::decode(Seq::ZERO, Bytes::from(envelope)) {
            Ok(event) if event.body.len() as u64 == wanted => {}
            Ok(event) => fault(format!("quarantined event {id}: it has {} bytes of {wanted}", event.body.len())),
            Err(error) => fault(format!("quarantined event {id}: its envelope: {error}")),
        }
    }
}

/// Reads every quarantined event: its record, and that the envelope of an open one is there, whole, and no other.
pub(super) fn check(inner: &Inner, fault: super::check::Faults<'_>) -> Result<u64, StoreError> {
    let mut count = 0;
    for day in inner.quarantine.from(0) {
        let mut at: Option<Reading> = None;
        for row in &open_day(inner, day)? {
            let (key, bytes) = row?;
            let Some(id) = id_of(&key) else {
                let of = key.get(..KEY_BYTES).and_then(id_of);
                match &mut at {
                    Some(reading) if Some(reading.id) == of => reading.envelope.extend_from_slice(&bytes),
                    Some(_) | None => {
                        let row = hex::encode(&key);
                        fault(format!("a part of an envelope in quarantine belongs to no event: row {row}"));
                    }
                }
                continue;
            };
            if let Some(reading) = at.take() {
                reading.settle(fault);
            }
            count += 1;
            let wanted = match QuarantineRecord::decode(&bytes) {
                Ok(record) => Some(if record.standing == Standing::Open { record.bytes } else { 0 }),
                Err(error) => {
                    fault(damaged(id, error).to_string());
                    None
                }
            };
            at = Some(Reading { id, wanted, envelope: Vec::new() });
        }
        if let Some(reading) = at {
            reading.settle(fault);
        }
    }
    Ok(count)
}
