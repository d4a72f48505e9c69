//! [`EventLog`] on the embedded engine.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};

use super::ids::{IdHash, IdKey};
use super::segment::{self, Added, Records, Segment};
use super::{Engine, Inner};
use crate::event::envelope::Event;
use crate::event::parse::same_json;
use crate::ground::ids::Seq;
use crate::ground::limits::ROW_BYTES_MAX;
use crate::ground::random::{Random as _, SystemRandom};
use crate::store::log_record::{self, Prepared};
use crate::store::{AppendUnit, Appended, DroppedSegment, EventLog, ReadLimits, SegmentInfo, StoreError};

/// Registry key of the first position that may still be read.
pub(super) const LOW_WATER_KEY: &[u8] = b"log\0low-water";
/// Registry key of the key that ids are hashed with.
pub(super) const ID_KEY: &[u8] = b"log\0id-key";

/// The trees of the log.
pub(super) struct LogTrees {
    seals: sled::Tree,
    segments: RwLock<Vec<Arc<Segment>>>,
    segment_events: u64,
    id_key: IdKey,
    head: AtomicU64,
    /// Planning and committing a group is one step: a writer that is being replaced may still have groups to write.
    appending: Mutex<()>,
    /// So is deciding which segments go and dropping them: two retentions must not both count from the same first one.
    truncating: Mutex<()>,
}

impl LogTrees {
    pub(super) fn open(db: &sled::Db, registry: &sled::Tree, segment_events: u64) -> Result<Self, StoreError> {
        let seals = db.open_tree("seals")?;
        let low_water = match registry.get(LOW_WATER_KEY)? {
            Some(value) => segment::seq_of_key(&value).unwrap_or(Seq(1)),
            None => Seq(1),
        };
        let mut firsts: Vec<Seq> = db.tree_names().iter().filter_map(|name| first_of_name(name)).collect();
        firsts.sort_unstable();
        firsts.dedup();
        let id_key = id_key(registry)?;
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        for first in firsts {
            if first < low_water {
                // A crash came between the low-water mark and the drop.
                drop_segment(db, &seals, first)?;
                continue;
            }
            if let Some(full) = segments.last() {
                full.seal(&seals)?;
            }
            segments.push(Segment::open(db, &seals, first, &id_key)?);
        }
        let head = segments.iter().map(|one| one.info().last).max().unwrap_or(low_water.prev());
        Ok(Self {
            seals,
            segments: RwLock::new(segments),
            segment_events,
            id_key,
            head: AtomicU64::new(head.0),
            appending: Mutex::new(()),
            truncating: Mutex::new(()),
        })
    }

    pub(super) fn head(&self) -> Seq {
        Seq(self.head.load(Ordering::Acquire))
    }

    pub(super) fn earliest(&self) -> Seq {
        self.segments.read().first().map_or(self.head().next(), |one| one.first)
    }

    /// The segment to write to: the last one, or a new one when that is full.
    fn active(&self, db: &sled::Db) -> Result<Arc<Segment>, StoreError> {
        let next = self.head().next();
        let last = self.segments.read().last().cloned();
        if let Some(last) = last {
            if last.is_open() && next.0.saturating_sub(last.first.0) < self.segment_events {
                return Ok(last);
            }
            last.seal(&self.seals)?;
        }
        let fresh = Segment::open(db, &self.seals, next, &self.id_key)?;
        self.segments.write().push(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// The events with this id and one of these hashes, newest first, until `enough` says so. One that is damaged does not
    /// tell its id: it is passed over, so that it holds up nobody, and what is sent again comes in again.
    fn with_id(
        &self,
        hashes: &RangeInclusive<IdHash>,
        id: &str,
        mut enough: impl FnMut(Arc<Event>) -> bool,
    ) -> Result<(), StoreError> {
        let segments = self.segments.read();
        for one in segments.iter().rev() {
            for seq in one.candidates(hashes)? {
                match segment::read_event(&one.tree, seq) {
                    Ok(Some(event)) if event.meta.id == id => {
                        if enough(event) {
                            return Ok(());
                        }
                    }
                    Ok(_) => {}
                    Err(error @ StoreError::Corrupt { .. }) => {
                        tracing::error!(%error, %seq, "an event of the log is damaged")
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The event of this org with this id.
    fn look_up(&self, hash: IdHash, org: &str, id: &str) -> Result<Option<Arc<Event>>, StoreError> {
        let mut found = None;
        self.with_id(&(hash..=hash), id, |event| {
            let is_it = event.meta.org == org;
            found = is_it.then_some(event);
            is_it
        })?;
        Ok(found)
    }

    /// The segments that hold positions from `from` on, oldest first.
    fn segments_from(&self, from: Seq) -> Vec<Arc<Segment>> {
        let segments = self.segments.read();
        let at = segments.partition_point(|one| one.first <= from).saturating_sub(1);
        segments[at.min(segments.len())..].to_vec()
    }

    fn get(&self, seq: Seq) -> Result<Option<Arc<Event>>, StoreError> {
        match self.segments_from(seq).first() {
            Some(one) => segment::read_event(&one.tree, seq),
            None => Ok(None),
        }
    }
}

fn first_of_name(name: &[u8]) -> Option<Seq> {
    let digits = name.strip_prefix(b"log-").or_else(|| name.strip_prefix(b"ids-"))?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Seq)
}

fn drop_segment(db: &sled::Db, seals: &sled::Tree, first: Seq) -> Result<(), StoreError> {
    db.drop_tree(Segment::ids_name(first))?;
    db.drop_tree(Segment::log_name(first))?;
    segment::remove_seal(seals, first)
}

/// The key that ids are hashed with, made when the store is. It is on disk before anything that was hashed with it:
/// what the engine recovers after a crash is what was written up to some moment.
fn id_key(registry: &sled::Tree) -> Result<IdKey, StoreError> {
    if let Some(bytes) = registry.get(ID_KEY)?.and_then(|value| <[u8; 16]>::try_from(&*value).ok()) {
        return Ok(IdKey::new(bytes));
    }
    let mut bytes = [0; 16];
    SystemRandom.fill(&mut bytes);
    registry.insert(ID_KEY, &bytes)?;
    Ok(IdKey::new(bytes))
}

/// A group being put together: its new events in order, and the ids among them.
#[derive(Default)]
struct Group {
    events: Vec<Prepared>,
    hashes: Vec<IdHash>,
    by_hash: HashTable<usize>,
    /// Which of the events come into the log together or not at all.
    together: Vec<Range<usize>>,
    bytes: u64,
}

impl Group {
    fn add(&mut self, hash: IdHash, event: Prepared) {
        self.bytes += event.record().len() as u64;
        self.events.push(event);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.by_hash.insert_unique(hash.0, hashes.len() - 1, |at| hashes[*at].0);
    }

    /// The event of the same org with the same id.
    fn look_up(&self, hash: IdHash, event: &Prepared) -> Option<usize> {
        let is_it = |at: &usize| {
            let there = &self.events[*at].meta;
            there.id == event.meta.id && there.org == event.meta.org
        };
        self.by_hash.find(hash.0, is_it).copied()
    }

    /// Writes the rows. What comes together is one batch; an event of one row is whole by itself, and spares the engine a
    /// batch's manifest, which costs a device write. After a crash the log ends somewhere between two of these: the engine
    /// recovers what was written up to some moment, and nothing of an unsynced group was acknowledged.
    fn write(&self, tree: &sled::Tree, first: Seq) -> Result<(), StoreError> {
        let seq_of = |at: usize| Seq(first.0 + at as u64);
        for range in &self.together {
            if range.len() == 1 && self.events[range.start].record().len() <= ROW_BYTES_MAX {
                tree.insert(seq_of(range.start).to_key(), self.events[range.start].record())?;
                continue;
            }
            let mut rows = sled::Batch::default();
            for at in range.clone() {
                log_record::cut(self.events[at].record(), |suffix, value| {
                    let mut row = Vec::with_capacity(8 + suffix.len());
                    row.extend_from_slice(&seq_of(at).to_key());
                    row.extend_from_slice(suffix);
                    rows.insert(row, value);
                });
            }
            tree.apply_batch(rows)?;
        }
        Ok(())
    }
}

/// What the dedup look-up says of one event.
enum Fate {
    New,
    Duplicate(Seq),
    Conflict(Seq),
}

fn fate(log: &LogTrees, group: &Group, first: Seq, hash: IdHash, event: &Prepared) -> Result<Fate, StoreError> {
    let told = |same: bool, seq| if same { Fate::Duplicate(seq) } else { Fate::Conflict(seq) };
    if let Some(at) = group.look_up(hash, event) {
        return Ok(told(same_event(event, group.events[at].body()), Seq(first.0 + at as u64)));
    }
    // An id made here is new: 74 random bits besides the time.
    if !event.id_given {
        return Ok(Fate::New);
    }
    Ok(match log.look_up(hash, &event.meta.org, &event.meta.id)? {
        None => Fate::New,
        Some(stored) => told(same_event(event, &stored.body), stored.seq),
    })
}

/// Whether these are the same bytes, or the same JSON written another way.
fn same_event(event: &Prepared, other_body: &[u8]) -> bool {
    event.body() == other_body || same_json(event.body(), other_body)
}

/// Answers of a unit, with the index of each new event in the group.
enum Pending {
    New(usize),
    Told(Appended),
}

fn plan_unit(log: &LogTrees, group: &mut Group, first: Seq, unit: AppendUnit) -> Result<Vec<Pending>, StoreError> {
    let AppendUnit { events, atomic } = unit;
    let hashed: Vec<(IdHash, Prepared)> =
        events.into_iter().map(|event| (log.id_key.hash(&event.meta.org, &event.meta.id), event)).collect();
    if atomic && let Some(answers) = conflicts_of(log, group, first, &hashed)? {
        return Ok(answers);
    }
    let start = group.events.len();
    let mut answers = Vec::with_capacity(hashed.len());
    for (hash, event) in hashed {
        answers.push(match fate(log, group, first, hash, &event)? {
            Fate::New => {
                let at = group.events.len();
                group.add(hash, event);
                if !atomic {
                    group.together.push(at..at + 1);
                }
                Pending::New(at)
            }
            Fate::Duplicate(seq) => Pending::Told(Appended::Duplicate(seq)),
            Fate::Conflict(seq) => Pending::Told(Appended::Conflict(seq)),
        });
    }
    if atomic && group.events.len() > start {
        group.together.push(start..group.events.len());
    }
    Ok(answers)
}

/// The answers of an atomic unit that has a conflict, with the log, the group or within itself; none when it has not.
fn conflicts_of(
    log: &LogTrees,
    group: &Group,
    first: Seq,
    hashed: &[(IdHash, Prepared)],
) -> Result<Option<Vec<Pending>>, StoreError> {
    let mut own: HashMap<(&str, &str), &Prepared> = HashMap::new();
    let mut answers = Vec::with_capacity(hashed.len());
    let mut conflict = false;
    for (hash, event) in hashed {
        let seq = match own.insert((&event.meta.org, &event.meta.id), event) {
            Some(other) if !same_event(event, other.body()) => Some(Seq::ZERO),
            Some(_) | None => match fate(log, group, first, *hash, event)? {
                Fate::Conflict(seq) => Some(seq),
                Fate::New | Fate::Duplicate(_) => None,
            },
        };
        conflict |= seq.is_some();
        answers.push(Pending::Told(seq.map_or(Appended::Withheld, Appended::Conflict)));
    }
    Ok(conflict.then_some(answers))
}

fn append(engine: &Engine, inner: &Inner, units: Vec<AppendUnit>) -> Result<(Vec<Vec<Appended>>, Seq), StoreError> {
    let log = &inner.log;
    let _turn = log.appending.lock();
    let segment = log.active(&inner.db)?;
    let first = log.head().next();
    let mut group = Group::default();
    let mut planned = Vec::with_capacity(units.len());
    for unit in units {
        planned.push(plan_unit(log, &mut group, first, unit)?);
    }
    let last = Seq(first.prev().0 + group.events.len() as u64);
    if !group.events.is_empty() {
        group.write(&segment.tree, first)?;
        super::collect_garbage(group.events.len());
        engine.planned_fault()?;
        inner.sync()?;
        let newest_ms = group.events.iter().map(|event| event.received_at.0).max().unwrap_or(0);
        segment.added(Added { last, bytes: group.bytes, newest_ms, hashes: &group.hashes });
        log.head.store(last.0, Ordering::Release);
    }
    let events: Vec<Arc<Event>> =
        group.events.into_iter().zip(first.0..).map(|(event, seq)| event.into_event(Seq(seq))).collect();
    let answers = planned
        .into_iter()
        .map(|unit| {
            unit.into_iter()
                .map(|answer| match answer {
                    Pending::New(at) => Appended::New(Arc::clone(&events[at])),
                    Pending::Told(told) => told,
                })
                .collect()
        })
        .collect();
    Ok((answers, last))
}

impl EventLog for Engine {
    fn append(&self, group: Vec<AppendUnit>) -> Result<Vec<Vec<Appended>>, StoreError> {
        self.check_space_sometimes()?;
        self.with(|inner| {
            let (answers, head) = append(self, inner, group)?;
            self.head.store(head.0, Ordering::Release);
            Ok(answers)
        })
    }

    fn read(&self, from: Seq, limits: ReadLimits) -> Result<Vec<Arc<Event>>, StoreError> {
        self.with(|inner| {
            let upto = limits.upto.min(inner.log.head());
            let mut events = Vec::new();
            let mut bytes = 0;
            for segment in inner.log.segments_from(from) {
                let mut records = Records::from(&segment.tree, from);
                while let Some(event) = records.next_event()? {
                    if event.seq > upto {
                        return Ok(events);
                    }
                    bytes += event.body.len();
                    events.push(event);
                    if events.len() >= limits.events || bytes >= limits.bytes {
                        return Ok(events);
                    }
                }
            }
            Ok(events)
        })
    }

    fn get(&self, seq: Seq) -> Result<Option<Arc<Event>>, StoreError> {
        self.with(|inner| inner.log.get(seq))
    }

    fn find(&self, org: &str, id: &str) -> Result<Option<Seq>, StoreError> {
        self.with(|inner| {
            let hash = inner.log.id_key.hash(org, id);
            Ok(inner.log.look_up(hash, org, id)?.map(|event| event.seq))
        })
    }

    fn find_all(&self, id: &str, limit: usize) -> Result<Vec<Seq>, StoreError> {
        self.with(|inner| {
            let mut found = Vec::new();
            if limit == 0 {
                return Ok(found);
            }
            inner.log.with_id(&inner.log.id_key.in_any_org(id), id, |event| {
                found.push(event.seq);
                found.len() >= limit
            })?;
            Ok(found)
        })
    }

    fn head(&self) -> Seq {
        Seq(self.head.load(Ordering::Acquire))
    }

    fn earliest(&self) -> Seq {
        Seq(self.earliest.load(Ordering::Acquire))
    }

    fn truncate(&self, before: Seq) -> Result<Vec<DroppedSegment>, StoreError> {
        self.with(|inner| {
            let log = &inner.log;
            let _turn = log.truncating.lock();
            let keep_from = {
                let segments = log.segments.read();
                let active = segments.len().saturating_sub(1);
                segments[..active].iter().position(|one| one.info().last >= before).unwrap_or(active)
            };
            if keep_from == 0 {
                return Ok(Vec::new());
            }
            let low_water = log.segments.read()[keep_from].first;
            inner.registry.insert(LOW_WATER_KEY, &low_water.to_key())?;
            inner.sync()?;
            let dropped: Vec<_> = log.segments.write().drain(..keep_from).collect();
            self.earliest.store(low_water.0, Ordering::Release);
            let mut told = Vec::with_capacity(dropped.len());
            for one in dropped {
                told.push(DroppedSegment { first: one.first, last: one.info().last });
                drop_segment(&inner.db, &log.seals, one.first)?;
            }
            Ok(told)
        })
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.with(|inner| Ok(inner.log.segments.read().iter().map(|one| one.info()).collect())).unwrap_or_default()
    }
}
