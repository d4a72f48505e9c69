//! [`EventLog`] on the embedded engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::segment::{self, Records, Segment, id_key, id_value};
use super::{Engine, Inner};
use crate::event::envelope::Event;
use crate::event::parse::same_json;
use crate::ground::ids::Seq;
use crate::store::log_record::{self, Digest, Prepared};
use crate::store::{AppendUnit, Appended, DroppedSegment, EventLog, ReadLimits, SegmentInfo, StoreError};

/// Registry key of the first position that may still be read.
pub(super) const LOW_WATER_KEY: &[u8] = b"log\0low-water";

/// The trees of the log.
pub(super) struct LogTrees {
    seals: sled::Tree,
    segments: RwLock<Vec<Arc<Segment>>>,
    segment_events: u64,
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
        let mut segments = Vec::new();
        for first in firsts {
            if first < low_water {
                // A crash came between the low-water mark and the drop.
                drop_segment(db, &seals, first)?;
                continue;
            }
            segments.push(Segment::open(db, &seals, first, segment_events)?);
        }
        let head = segments.iter().map(|one| one.info().last).max().unwrap_or(low_water.prev());
        Ok(Self {
            seals,
            segments: RwLock::new(segments),
            segment_events,
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
            if next.0.saturating_sub(last.first.0) < self.segment_events {
                return Ok(last);
            }
            last.seal(&self.seals)?;
        }
        let fresh = Segment::open(db, &self.seals, next, self.segment_events)?;
        self.segments.write().push(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// The first event that had this dedup key, newest segments first.
    fn look_up(&self, key: &[u8]) -> Result<Option<(Seq, Digest)>, StoreError> {
        let segments = self.segments.read();
        for one in segments.iter().rev() {
            if let Some(found) = one.look_up(key)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
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
    let digits = name.strip_prefix(b"log-")?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Seq)
}

fn drop_segment(db: &sled::Db, seals: &sled::Tree, first: Seq) -> Result<(), StoreError> {
    db.drop_tree(Segment::log_name(first))?;
    segment::remove_seal(seals, first)
}

/// A group being put together: rows for one commit, and the dedup keys among them.
#[derive(Default)]
struct Group {
    rows: sled::Batch,
    keys: HashMap<Vec<u8>, (Seq, usize)>,
    events: Vec<Prepared>,
    bytes: u64,
}

impl Group {
    fn add(&mut self, seq: Seq, key: Vec<u8>, event: Prepared) {
        log_record::cut(event.record(), |suffix, value| {
            let mut row = Vec::with_capacity(8 + suffix.len());
            row.extend_from_slice(&seq.to_key());
            row.extend_from_slice(suffix);
            self.rows.insert(row, value);
        });
        self.rows.insert(key.as_slice(), &id_value(seq, &event.digest));
        self.bytes += event.record().len() as u64;
        self.keys.insert(key, (seq, self.events.len()));
        self.events.push(event);
    }
}

/// What the dedup look-up says of one event.
enum Fate {
    New,
    Duplicate(Seq),
    Conflict(Seq),
}

fn fate(log: &LogTrees, group: &Group, key: &[u8], event: &Prepared) -> Result<Fate, StoreError> {
    let told = |same: bool, seq| if same { Fate::Duplicate(seq) } else { Fate::Conflict(seq) };
    if let Some(&(seq, at)) = group.keys.get(key) {
        return Ok(told(same_event(event, group.events[at].body(), &group.events[at].digest), seq));
    }
    // An id made here is new: 74 random bits besides the time.
    if !event.id_given {
        return Ok(Fate::New);
    }
    match log.look_up(key)? {
        None => Ok(Fate::New),
        Some((seq, digest)) if digest == event.digest => Ok(Fate::Duplicate(seq)),
        // Not the same bytes; perhaps the same JSON, written another way.
        Some((seq, _)) => match log.get(seq)? {
            Some(stored) => Ok(told(same_json(&stored.body, event.body()), seq)),
            None => Ok(Fate::Conflict(seq)),
        },
    }
}

fn same_event(event: &Prepared, other_body: &[u8], other_digest: &Digest) -> bool {
    event.digest == *other_digest || same_json(event.body(), other_body)
}

/// Answers of a unit, with the index of each new event in the group.
enum Pending {
    New(usize),
    Told(Appended),
}

fn plan_unit(log: &LogTrees, group: &mut Group, next: &mut Seq, unit: AppendUnit) -> Result<Vec<Pending>, StoreError> {
    let AppendUnit { events, atomic } = unit;
    let mut keyed = Vec::with_capacity(events.len());
    for event in events {
        keyed.push((id_key(&event.meta.org, &event.meta.id), event));
    }
    if atomic && let Some(answers) = conflicts_of(log, group, &keyed)? {
        return Ok(answers);
    }
    let mut answers = Vec::with_capacity(keyed.len());
    for (key, event) in keyed {
        answers.push(match fate(log, group, &key, &event)? {
            Fate::New => {
                group.add(*next, key, event);
                *next = next.next();
                Pending::New(group.events.len() - 1)
            }
            Fate::Duplicate(seq) => Pending::Told(Appended::Duplicate(seq)),
            Fate::Conflict(seq) => Pending::Told(Appended::Conflict(seq)),
        });
    }
    Ok(answers)
}

/// The answers of an atomic unit that has a conflict, with the log, the group or within itself; none when it has not.
fn conflicts_of(
    log: &LogTrees,
    group: &Group,
    keyed: &[(Vec<u8>, Prepared)],
) -> Result<Option<Vec<Pending>>, StoreError> {
    let mut own: HashMap<&[u8], &Prepared> = HashMap::new();
    let mut answers = Vec::with_capacity(keyed.len());
    let mut conflict = false;
    for (key, event) in keyed {
        let seq = match own.insert(key, event) {
            Some(other) if !same_event(event, other.body(), &other.digest) => Some(Seq::ZERO),
            Some(_) | None => match fate(log, group, key, event)? {
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
    let mut next = log.head().next();
    let mut group = Group::default();
    let mut planned = Vec::with_capacity(units.len());
    for unit in units {
        planned.push(plan_unit(log, &mut group, &mut next, unit)?);
    }
    let first = log.head().next();
    if !group.events.is_empty() {
        segment.tree.apply_batch(std::mem::take(&mut group.rows))?;
        super::collect_garbage(group.events.len() * 2);
        engine.planned_fault()?;
        inner.sync()?;
        let newest_ms = group.events.iter().map(|event| event.received_at.0).max().unwrap_or(0);
        segment.added(next.prev(), group.bytes, newest_ms, group.keys.keys().map(Vec::as_slice));
        log.head.store(next.prev().0, Ordering::Release);
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
    Ok((answers, next.prev()))
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
        let key = id_key(org, id);
        self.with(|inner| Ok(inner.log.look_up(&key)?.map(|(seq, _)| seq)))
    }

    fn find_all(&self, id: &str, limit: usize) -> Result<Vec<Seq>, StoreError> {
        let prefix = id_key("", id);
        self.with(|inner| {
            let mut found = Vec::new();
            for segment in inner.log.segments.read().iter().rev() {
                for row in segment.tree.scan_prefix(&prefix).take(limit - found.len()) {
                    found.extend(segment::read_id_value(&row?.1).map(|(seq, _)| seq));
                }
                if found.len() >= limit {
                    break;
                }
            }
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
