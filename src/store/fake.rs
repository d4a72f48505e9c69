//! The ports in memory, with failures that a test plans: the nth call fails, stalls, or is carried out and reported as
//! failed all the same. After a failure every call answers [`StoreError::Unavailable`] until [`FakeStore::reopen`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::lifecycle::{Commit, Cursors, Flag, Generation, LifecycleStore, Place};
use super::links::{Link, LinkId, LinkPlace, LinkSpot, LinkStore, LinkWindow, PutLink};
use super::log_record::Prepared;
use super::quarantine::{QuarantineId, QuarantineRecord, QuarantineStore};
use super::records::PageKey;
use super::{
    AppendUnit, Appended, AttemptPage, Checkpoints, ConsumerState, DeadLetterRecord, Document, DroppedSegment,
    Durability, EventLog, Expired, IdempotencyStore, IndexLevel, IndexRow, KeyOp, KeyPlace, KeyRecord, LogIndex,
    Position, ReadLimits, Registry, RowRecord, ScheduleKey, ScheduleStore, ScheduledRecord, SegmentInfo, StateOp,
    StoreError,
};
use crate::event::envelope::Event;
use crate::event::parse::same_json;
use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Seq};

/// What a planned failure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written.
    Error,
    /// Everything is written, and the caller is told that it failed.
    Torn,
    /// The call waits for [`FakeStore::release`], then goes on.
    Stall,
}

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Append,
    Read,
    Commit,
    Rows,
    Put,
    PutRow,
    Schedule,
    Links,
    Keys,
}

#[derive(Clone, Default)]
struct Content {
    events: BTreeMap<Seq, Arc<Event>>,
    ids: HashMap<(String, String), Seq>,
    head: Seq,
    /// First position of each segment.
    segments: Vec<Seq>,
    router: Option<Seq>,
    positions: BTreeMap<ConsumerId, Position>,
    rows: BTreeMap<ConsumerId, BTreeMap<Seq, RowRecord>>,
    attempts: BTreeMap<(ConsumerId, PageKey), AttemptPage>,
    newest_page: Option<PageKey>,
    dead: BTreeMap<String, DeadLetterRecord>,
    documents: BTreeMap<(String, String), Document>,
    index: BTreeMap<IndexRow, Vec<u8>>,
    scheduled: BTreeMap<ScheduleKey, ScheduledRecord>,
    links: BTreeMap<LinkId, Link>,
    aside: BTreeMap<QuarantineId, (QuarantineRecord, Option<Bytes>)>,
    places: BTreeMap<(Generation, String), Place>,
    flags: BTreeMap<Seq, Flag>,
    cursors: Cursors,
    keys: BTreeMap<KeyPlace, (KeyRecord, Option<Bytes>)>,
}

#[derive(Default)]
struct State {
    content: Content,
    calls: HashMap<Call, u32>,
    plan: HashMap<(Call, u32), Fault>,
    failed: bool,
    reopened: u64,
    stalled: bool,
    events_read: usize,
}

/// The store in memory.
pub(crate) struct FakeStore {
    segment_events: u64,
    state: Mutex<State>,
    moved: Condvar,
}

impl FakeStore {
    pub(crate) fn new(segment_events: u64) -> Arc<Self> {
        Arc::new(Self { segment_events, state: Mutex::default(), moved: Condvar::new() })
    }

    /// Plans a failure of the `nth` call from now on, from 1.
    pub(crate) fn plan(&self, call: Call, nth: u32, fault: Fault) {
        let mut state = self.state.lock();
        let so_far = state.calls.get(&call).copied().unwrap_or(0);
        state.plan.insert((call, so_far + nth), fault);
    }

    /// Ends a failure.
    pub(crate) fn reopen(&self) {
        let mut state = self.state.lock();
        state.failed = false;
        state.reopened += 1;
    }

    pub(crate) fn reopened(&self) -> u64 {
        self.state.lock().reopened
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Events that readers were given so far.
    pub(crate) fn events_read(&self) -> usize {
        self.state.lock().events_read
    }

    /// Whether a call is stalled now.
    pub(crate) fn is_stalled(&self) -> bool {
        self.state.lock().stalled
    }

    /// Lets the stalled call go on.
    pub(crate) fn release(&self) {
        self.state.lock().stalled = false;
        self.moved.notify_all();
    }

    fn write<T>(&self, call: Call, work: impl FnOnce(&mut Content) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(StoreError::Unavailable);
        }
        let count = state.calls.entry(call).or_default();
        *count += 1;
        let nth = *count;
        match state.plan.remove(&(call, nth)) {
            None => work(&mut state.content),
            Some(Fault::Stall) => {
                state.stalled = true;
                self.moved.wait_while(&mut state, |state| state.stalled);
                work(&mut state.content)
            }
            Some(Fault::Error) => {
                state.failed = true;
                Err(StoreError::Engine("planned fault".to_owned()))
            }
            Some(Fault::Torn) => {
                let done = work(&mut state.content);
                state.failed = true;
                done.and(Err(StoreError::Engine("planned fault".to_owned())))
            }
        }
    }

    fn look<T>(&self, work: impl FnOnce(&Content) -> T) -> Result<T, StoreError> {
        let state = self.state.lock();
        if state.failed { Err(StoreError::Unavailable) } else { Ok(work(&state.content)) }
    }
}

impl Content {
    fn append(&mut self, unit: AppendUnit, segment_events: u64) -> Vec<Appended> {
        let before = unit.atomic.then(|| self.clone());
        let answers: Vec<Appended> =
            unit.events.into_iter().map(|event| self.append_one(event, segment_events)).collect();
        let conflict = answers.iter().any(|answer| matches!(answer, Appended::Conflict(_)));
        let Some(before) = before.filter(|_| conflict) else { return answers };
        *self = before;
        let withheld = |answer| match answer {
            Appended::Conflict(seq) => Appended::Conflict(seq),
            Appended::New(_) | Appended::Duplicate(_) | Appended::Withheld => Appended::Withheld,
        };
        answers.into_iter().map(withheld).collect()
    }

    fn append_one(&mut self, event: Prepared, segment_events: u64) -> Appended {
        let key = (event.meta.org.clone(), event.meta.id.clone());
        if let Some((seq, there)) = self.ids.get(&key).and_then(|seq| Some((*seq, self.events.get(seq)?))) {
            return if same_json(&there.body, event.body()) {
                Appended::Duplicate(seq)
            } else {
                Appended::Conflict(seq)
            };
        }
        self.head = self.head.next();
        let full = self.segments.last().is_none_or(|first| self.head.0 - first.0 >= segment_events);
        if full {
            self.segments.push(self.head);
        }
        self.ids.insert(key, self.head);
        let event = event.into_event(self.head);
        self.events.insert(self.head, Arc::clone(&event));
        Appended::New(event)
    }

    fn earliest(&self) -> Seq {
        self.segments.first().copied().unwrap_or(self.head.next())
    }

    fn infos(&self) -> Vec<SegmentInfo> {
        let last_of = |at: usize| self.segments.get(at + 1).map_or(self.head, |next| next.prev());
        let info = |(at, first): (usize, &Seq)| {
            let held = || self.events.range(*first..=last_of(at)).map(|(_, event)| event);
            SegmentInfo {
                first: *first,
                last: last_of(at),
                bytes: held().map(|event| event.body.len() as u64).sum(),
                newest_ms: held().map(|event| event.received_at.0).max().unwrap_or(0),
            }
        };
        self.segments.iter().enumerate().map(info).collect()
    }

    fn commit(&mut self, op: StateOp) {
        match op {
            StateOp::PutRow(consumer, seq, row) => {
                self.rows.entry(consumer).or_default().insert(seq, row);
            }
            StateOp::DeleteRow(consumer, seq) => {
                self.rows.entry(consumer).or_default().remove(&seq);
            }
            StateOp::Attempts(consumer, page) => {
                let Some(newest) = page.attempts.last() else { return };
                let key = match self.newest_page {
                    Some(last) if last.at_ms >= newest.at.0 => PageKey { at_ms: last.at_ms, part: last.part + 1 },
                    Some(_) | None => PageKey { at_ms: newest.at.0, part: 0 },
                };
                self.newest_page = Some(key);
                self.attempts.insert((consumer, key), page);
            }
            StateOp::PutDeadLetter(dead) => {
                self.dead.insert(dead.id.clone(), *dead);
            }
            StateOp::Checkpoint { router, set, clear } => {
                self.router = Some(router);
                self.positions.extend(set);
                self.positions.retain(|consumer, _| !clear.contains(consumer));
            }
            StateOp::DropConsumer(consumer) => {
                self.positions.remove(&consumer);
                self.rows.remove(&consumer);
            }
        }
    }
}

impl EventLog for FakeStore {
    fn append(&self, group: Vec<AppendUnit>) -> Result<Vec<Vec<Appended>>, StoreError> {
        self.write(Call::Append, |content| {
            Ok(group.into_iter().map(|unit| content.append(unit, self.segment_events)).collect())
        })
    }

    fn read(&self, from: Seq, limits: ReadLimits) -> Result<Vec<Arc<Event>>, StoreError> {
        let read = self.write(Call::Read, |content| {
            let (mut out, mut bytes) = (Vec::new(), 0);
            for (seq, event) in content.events.range(from..) {
                if *seq > limits.upto {
                    break;
                }
                bytes += event.body.len();
                out.push(Arc::clone(event));
                if out.len() >= limits.events || bytes >= limits.bytes {
                    break;
                }
            }
            Ok(out)
        });
        read.inspect(|events| self.state.lock().events_read += events.len())
    }

    fn get(&self, seq: Seq) -> Result<Option<Arc<Event>>, StoreError> {
        self.look(|content| content.events.get(&seq).cloned())
    }

    fn find(&self, org: &str, id: &str) -> Result<Option<Seq>, StoreError> {
        self.look(|content| content.ids.get(&(org.to_owned(), id.to_owned())).copied())
    }

    fn find_all(&self, id: &str, limit: usize) -> Result<Vec<Seq>, StoreError> {
        self.look(|content| {
            let mut found: Vec<Seq> =
                content.ids.iter().filter(|((_, one), _)| one == id).map(|(_, seq)| *seq).collect();
            found.sort_unstable_by(|a, b| b.cmp(a));
            found.truncate(limit);
            found
        })
    }

    fn head(&self) -> Seq {
        self.state.lock().content.head
    }

    fn earliest(&self) -> Seq {
        self.state.lock().content.earliest()
    }

    fn truncate(&self, before: Seq) -> Result<Vec<DroppedSegment>, StoreError> {
        self.write(Call::Commit, |content| {
            let infos = content.infos();
            let full = &infos[..infos.len().saturating_sub(1)];
            let gone: Vec<SegmentInfo> = full.iter().take_while(|one| one.last < before).copied().collect();
            content.segments.drain(..gone.len());
            let earliest = content.earliest();
            content.events.retain(|seq, _| *seq >= earliest);
            content.ids.retain(|_, seq| *seq >= earliest);
            Ok(gone.into_iter().map(|one| DroppedSegment { first: one.first, last: one.last }).collect())
        })
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.state.lock().content.infos()
    }
}

impl ConsumerState for FakeStore {
    fn commit(&self, ops: Vec<StateOp>, _: Durability) -> Result<(), StoreError> {
        self.write(Call::Commit, |content| {
            ops.into_iter().for_each(|op| content.commit(op));
            Ok(())
        })
    }

    fn checkpoints(&self) -> Result<Checkpoints, StoreError> {
        self.look(|content| Checkpoints {
            router: content.router,
            consumers: content.positions.iter().map(|(consumer, one)| (consumer.clone(), one.clone())).collect(),
        })
    }

    fn rows(&self, consumer: &ConsumerId) -> Result<Vec<(Seq, RowRecord)>, StoreError> {
        self.write(Call::Rows, |content| {
            let rows = content.rows.get(consumer).into_iter().flatten();
            Ok(rows.map(|(seq, row)| (*seq, row.clone())).collect())
        })
    }

    fn rows_after(&self, consumer: &ConsumerId, after: Seq, limit: usize) -> Result<Vec<(Seq, RowRecord)>, StoreError> {
        self.write(Call::Rows, |content| {
            let rows = content.rows.get(consumer).into_iter().flat_map(|rows| rows.range(after.next()..));
            Ok(rows.take(limit).map(|(seq, row)| (*seq, row.clone())).collect())
        })
    }

    fn consumers_with_rows(&self) -> Result<Vec<ConsumerId>, StoreError> {
        self.look(|content| {
            content.rows.iter().filter(|(_, rows)| !rows.is_empty()).map(|(one, _)| one.clone()).collect()
        })
    }

    fn attempts(
        &self,
        consumer: &ConsumerId,
        before: PageKey,
        pages: usize,
    ) -> Result<Vec<(PageKey, AttemptPage)>, StoreError> {
        self.look(|content| {
            let from = (consumer.clone(), PageKey { at_ms: 0, part: 0 });
            let found = content.attempts.range(from..(consumer.clone(), before)).rev().take(pages);
            found.map(|((_, key), page)| (*key, page.clone())).collect()
        })
    }

    fn attempts_since(
        &self,
        consumer: &ConsumerId,
        from_ms: u64,
        pages: usize,
    ) -> Result<Vec<AttemptPage>, StoreError> {
        self.look(|content| {
            let from = (consumer.clone(), PageKey { at_ms: from_ms, part: 0 });
            let found = content.attempts.range(from..(consumer.clone(), PageKey::MAX)).take(pages);
            found.map(|(_, page)| page.clone()).collect()
        })
    }

    fn dead_letter(&self, id: &str) -> Result<Option<DeadLetterRecord>, StoreError> {
        self.look(|content| content.dead.get(id).cloned())
    }

    fn dead_letters(&self, before: Option<&str>, limit: usize) -> Result<Vec<DeadLetterRecord>, StoreError> {
        self.look(|content| {
            let found = content.dead.iter().rev().filter(|(id, _)| before.is_none_or(|before| id.as_str() < before));
            found.take(limit).map(|(_, dead)| dead.clone()).collect()
        })
    }

    fn dead_letters_after(
        &self,
        after: &str,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<DeadLetterRecord>, StoreError> {
        self.look(|content| {
            let (mut out, mut bytes) = (Vec::new(), 0);
            for (_, dead) in content.dead.iter().filter(|(id, _)| id.as_str() > after) {
                bytes += dead.weight();
                out.push(dead.clone());
                if out.len() >= limit || bytes >= bytes_max {
                    break;
                }
            }
            out
        })
    }

    fn dead_letter_counts(&self) -> Result<Vec<(ConsumerId, u64)>, StoreError> {
        self.look(|content| {
            let mut counts: BTreeMap<ConsumerId, u64> = BTreeMap::new();
            for dead in content.dead.values().filter(|dead| dead.closed.is_none()) {
                *counts.entry(dead.consumer.clone()).or_default() += 1;
            }
            counts.into_iter().collect()
        })
    }

    fn expire(&self, attempts_before_ms: u64, dead_before_ms: u64) -> Result<Expired, StoreError> {
        self.write(Call::Commit, |content| {
            content.attempts.retain(|(_, key), _| key.at_ms >= attempts_before_ms);
            let mut expired = Expired::default();
            content.dead.retain(|_, dead| {
                let stays = dead.at.0 >= dead_before_ms;
                expired.dead_letters += u64::from(!stays);
                if !stays && dead.closed.is_none() {
                    *expired.open.entry(dead.consumer.clone()).or_default() += 1;
                }
                stays
            });
            Ok(expired)
        })
    }
}

impl LogIndex for FakeStore {
    fn put_row(&self, row: IndexRow, record: &[u8]) -> Result<(), StoreError> {
        self.write(Call::PutRow, |content| {
            content.index.insert(row, record.to_vec());
            Ok(())
        })
    }

    fn row(&self, row: IndexRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(|content| content.index.get(&row).cloned())
    }

    fn newest_row(&self, level: IndexLevel) -> Result<Option<IndexRow>, StoreError> {
        self.look(|content| content.index.keys().rfind(|row| row.level == level).copied())
    }

    fn drop_rows(&self, level: IndexLevel, before: Seq) -> Result<u64, StoreError> {
        self.write(Call::Commit, |content| {
            let rows = content.index.len();
            content.index.retain(|row, _| row.level != level || row.last() >= before);
            Ok((rows - content.index.len()) as u64)
        })
    }
}

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

impl IdempotencyStore for FakeStore {
    fn commit_keys(&self, ops: &[KeyOp], _: Durability) -> Result<(), StoreError> {
        self.write(Call::Keys, |content| {
            for op in ops {
                match op {
                    KeyOp::Put(record) => {
                        let answer = content.keys.remove(&record.place).and_then(|(_, answer)| answer);
                        content.keys.insert(record.place, (record.clone(), answer));
                    }
                    KeyOp::Done(record, answer) => {
                        content.keys.insert(record.place, (record.clone(), answer.clone()));
                    }
                    KeyOp::Forget(place) => {
                        content.keys.remove(place);
                    }
                }
            }
            Ok(())
        })
    }

    fn keys(&self, each: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.look(|content| content.keys.values().for_each(|(record, _)| each(record.clone())))
    }

    fn key_answer(&self, place: KeyPlace) -> Result<Option<Bytes>, StoreError> {
        self.look(|content| content.keys.get(&place).and_then(|(_, answer)| answer.clone()))
    }

    fn sweep_keys(&self, before: UnixMs) -> Result<(), StoreError> {
        self.write(Call::Keys, |content| {
            content.keys.retain(|place, _| place.first >= before);
            Ok(())
        })
    }
}

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

impl Registry for FakeStore {
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        self.look(|content| content.documents.get(&(kind.to_owned(), key.to_owned())).cloned())
    }

    fn list(&self, kind: &str) -> Result<Vec<Document>, StoreError> {
        self.look(|content| {
            content.documents.iter().filter(|((of, _), _)| of == kind).map(|(_, document)| document.clone()).collect()
        })
    }

    fn put(&self, kind: &str, key: &str, bytes: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
        self.write(Call::Put, |content| {
            let place = (kind.to_owned(), key.to_owned());
            let found = content.documents.get(&place).map(|document| document.revision);
            if found != expected {
                return Err(StoreError::Revision { found, expected });
            }
            let revision = expected.unwrap_or(0) + 1;
            content.documents.insert(place, Document { key: key.to_owned(), revision, bytes: bytes.to_vec() });
            Ok(revision)
        })
    }

    fn put_all(&self, kind: &str, documents: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(Call::Put, |content| {
            for (key, bytes) in documents {
                let place = (kind.to_owned(), key.clone());
                let revision = content.documents.get(&place).map_or(0, |document| document.revision) + 1;
                content.documents.insert(place, Document { key: key.clone(), revision, bytes: bytes.clone() });
            }
            Ok(())
        })
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, StoreError> {
        self.write(Call::Put, |content| Ok(content.documents.remove(&(kind.to_owned(), key.to_owned())).is_some()))
    }
}

impl Content {
    fn link_count(&self, org: &str) -> u64 {
        self.links.values().filter(|link| link.org == org).count() as u64
    }

    fn put_link(&mut self, link: &Link, org_max: u64) -> PutLink {
        match self.links.get(&link.id()) {
            Some(there) => PutLink::There(Box::new(there.clone())),
            None if self.link_count(&link.org) >= org_max => PutLink::Full,
            None => {
                self.links.insert(link.id(), link.clone());
                PutLink::New
            }
        }
    }

    fn page_of_links(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> (Vec<Link>, bool) {
        let is_there = |link: &&Link| match place {
            LinkPlace::Org => true,
            LinkPlace::From(entity) => link.source == *entity,
            LinkPlace::To(entity) => link.target == *entity,
        };
        let of_type = |link: &&Link| window.link_type.is_none_or(|wanted| link.link_type == wanted);
        let mut all: Vec<&Link> = self.links.values().filter(|link| link.org == org).collect();
        all.retain(|link| is_there(link) && of_type(link) && Some(LinkSpot::of(link)) > window.after);
        all.sort_by_key(|link| LinkSpot::of(link));
        let (mut links, mut held) = (Vec::new(), 0);
        for link in all {
            if links.len() >= window.limit || (held >= window.bytes && !links.is_empty()) {
                return (links, true);
            }
            held += link.metadata.as_ref().map_or(0, String::len);
            links.push(link.clone());
        }
        (links, false)
    }
}

impl LinkStore for FakeStore {
    fn put_links(&self, links: &[Link], org_max: u64) -> Result<Vec<PutLink>, StoreError> {
        self.write(Call::Links, |content| Ok(links.iter().map(|link| content.put_link(link, org_max)).collect()))
    }

    fn remove_link(&self, id: LinkId) -> Result<bool, StoreError> {
        self.write(Call::Links, |content| Ok(content.links.remove(&id).is_some()))
    }

    fn link(&self, id: LinkId) -> Result<Option<Link>, StoreError> {
        self.look(|content| content.links.get(&id).cloned())
    }

    fn links(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> Result<(Vec<Link>, bool), StoreError> {
        self.look(|content| content.page_of_links(org, place, window))
    }

    fn link_count(&self, org: &str) -> Result<u64, StoreError> {
        self.look(|content| content.link_count(org))
    }
}
