//! Which events wait: their ids, due times and bytes. Everything here can be read from the store again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::mpsc;

use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::store::{ScheduleKey, ScheduleStore, StoreError, log_record};

/// What the schedule may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most events.
    pub events_max: usize,
    /// Most bytes of their records.
    pub bytes_max: u64,
}

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where it is kept.
    pub key: ScheduleKey,
    /// Its tenant.
    pub org: Arc<str>,
    /// Its id.
    pub id: Arc<str>,
    /// Bytes of its record.
    pub bytes: u64,
}

/// What stands behind an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// It is being scheduled.
    Reserved,
    /// It waits here.
    Kept(ScheduleKey),
}

/// Travels with events on their way to the log, until they have been dealt with.
#[derive(Clone, Debug)]
pub struct Passage {
    /// Nothing is sent: the other end learns when the last of them is gone.
    _open: mpsc::Sender<std::convert::Infallible>,
}

/// The passages that were given out and may be under way.
#[derive(Debug)]
pub(super) struct Passages {
    next: Passage,
    gone: mpsc::Receiver<std::convert::Infallible>,
}

impl Default for Passages {
    fn default() -> Self {
        let (open, gone) = mpsc::channel(1);
        Self { next: Passage { _open: open }, gone }
    }
}

impl Passages {
    /// Ends when none of them is under way.
    pub(super) async fn ended(self) {
        let Self { next, mut gone } = self;
        drop(next);
        // Nothing is ever sent, so this is the end of the last sender.
        gone.recv().await;
    }
}

/// The ids that wait or are about to, and when they are due.
#[derive(Debug, Default)]
pub(super) struct Entries {
    ids: HashMap<String, Held>,
    due: BTreeMap<ScheduleKey, Waiting>,
    bytes: u64,
    last_number: u64,
    passages: Passages,
}

fn id_key(org: &str, id: &str) -> String {
    // Neither has control characters.
    format!("{id}\0{org}")
}

impl Entries {
    /// Whether an event of this id waits or is being scheduled.
    pub(super) fn holds(&self, org: &str, id: &str) -> bool {
        !self.ids.is_empty() && self.ids.contains_key(&id_key(org, id))
    }

    pub(super) fn reserve(&mut self, org: &str, id: &str) {
        self.ids.entry(id_key(org, id)).or_insert(Held::Reserved);
    }

    pub(super) fn release_reservations(&mut self) {
        self.ids.retain(|_, held| *held != Held::Reserved);
    }

    pub(super) fn kept(&self, org: &str, id: &str) -> Option<ScheduleKey> {
        match self.ids.get(&id_key(org, id)) {
            Some(Held::Kept(key)) => Some(*key),
            Some(Held::Reserved) | None => None,
        }
    }

    /// The event under this key.
    pub(super) fn waiting(&self, key: ScheduleKey) -> Option<Waiting> {
        self.due.get(&key).cloned()
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn add(&mut self, one: Waiting) {
        self.last_number = self.last_number.max(one.key.number);
        self.bytes += one.bytes;
        self.ids.insert(id_key(&one.org, &one.id), Held::Kept(one.key));
        self.due.insert(one.key, one);
    }

    pub(super) fn remove(&mut self, key: ScheduleKey) {
        let Some(one) = self.due.remove(&key) else { return };
        self.bytes -= one.bytes;
        let id = id_key(&one.org, &one.id);
        // A later event may have taken the id over in a store that held it twice.
        if self.ids.get(&id) == Some(&Held::Kept(key)) {
            self.ids.remove(&id);
        }
    }

    /// Whether `bytes` more fit, beside what is about to be added: (events, bytes).
    pub(super) fn room(&self, bounds: Bounds, adding: (usize, u64), bytes: u64) -> Result<(), Problem> {
        let full = |text: String, bound: &str| {
            Err(Problem::new(ProblemKind::Overloaded, text).with("bound", bound).retry_after(FULL_RETRY_S))
        };
        if self.due.len() + adding.0 >= bounds.events_max {
            let text = format!("{} events are scheduled, more are not held", bounds.events_max);
            return full(text, "schedule.events_max");
        }
        if self.bytes + adding.1 + bytes > bounds.bytes_max {
            let text = format!("the scheduled events hold {} bytes, more are not held", bounds.bytes_max);
            return full(text, "schedule.bytes_max");
        }
        Ok(())
    }
}

/// When to come back while the schedule is full.
const FULL_RETRY_S: u64 = 60;

/// Events read at a time when the book is read from the store.
const LOAD_EVENTS: usize = 1_000;
const LOAD_BYTES: usize = 8 << 20;

/// Which events wait; shared by the doors, the lane and every life of the actor.
#[derive(Debug)]
pub struct Book {
    entries: RwLock<Entries>,
    pub(super) bounds: Bounds,
    /// Counts readings of the store: what was reserved before one is void.
    readings: AtomicU64,
}

impl Book {
    /// The book of what the store holds. Blocks.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub fn open(store: &dyn ScheduleStore, bounds: Bounds) -> Result<Arc<Self>, StoreError> {
        let entries = RwLock::new(read(store)?);
        Ok(Arc::new(Self { entries, bounds, readings: AtomicU64::new(0) }))
    }

    /// Reads the store again, whose state is not known after a failure. Blocks.
    pub(super) fn reload(&self, store: &dyn ScheduleStore) -> Result<(), StoreError> {
        let fresh = read(store)?;
        let mut entries = self.entries.write();
        self.readings.fetch_add(1, Ordering::AcqRel);
        let last_number = entries.last_number.max(fresh.last_number);
        let passages = std::mem::take(&mut entries.passages);
        *entries = Entries { last_number, passages, ..fresh };
        Ok(())
    }

    /// Looks into the book. As long as the guard lives no id is reserved (SC-2).
    pub(crate) fn look(&self) -> Look<'_> {
        Look(self.entries.read())
    }

    /// Does something with the book. Gives the passages of everything that was sent to the log before.
    pub(super) fn change_after(&self, work: impl FnOnce(&mut Entries)) -> Passages {
        let mut entries = self.entries.write();
        work(&mut entries);
        std::mem::take(&mut entries.passages)
    }

    pub(super) fn readings(&self) -> u64 {
        self.readings.load(Ordering::Acquire)
    }

    pub(super) fn change<T>(&self, work: impl FnOnce(&mut Entries) -> T) -> T {
        work(&mut self.entries.write())
    }

    /// How many events wait, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let entries = self.entries.read();
        (entries.due.len(), entries.bytes)
    }

    /// When the next event is due.
    #[must_use]
    pub fn next_due(&self) -> Option<UnixMs> {
        self.entries.read().due.first_key_value().map(|(key, _)| key.due_at)
    }

    /// Up to `limit` events that are due by `now`, in order, but those of some orgs.
    #[must_use]
    pub fn due(&self, now: UnixMs, but: &HashSet<Arc<str>>, limit: usize) -> Vec<Waiting> {
        let entries = self.entries.read();
        let due = entries.due.values().take_while(|one| one.key.due_at <= now);
        due.filter(|one| !but.contains(&one.org)).take(limit).cloned().collect()
    }

    /// Up to `limit` events of an org (of any, when none is named) after a place, in the order of their time.
    #[must_use]
    pub fn after(&self, place: Option<ScheduleKey>, org: Option<&str>, limit: usize) -> Vec<Waiting> {
        let from = place.map_or(ScheduleKey::MIN, ScheduleKey::next);
        let entries = self.entries.read();
        let of_org = |one: &&Waiting| org.is_none_or(|org| *one.org == *org);
        entries.due.range(from..).map(|(_, one)| one).filter(of_org).take(limit).cloned().collect()
    }

    /// The events with this id, of an org or of any.
    #[must_use]
    pub fn find(&self, org: Option<&str>, id: &str) -> Vec<Waiting> {
        let entries = self.entries.read();
        match org {
            Some(org) => entries.kept(org, id).and_then(|key| entries.due.get(&key)).cloned().into_iter().collect(),
            None => entries.due.values().filter(|one| *one.id == *id).cloned().collect(),
        }
    }
}

/// A look into the book.
pub(crate) struct Look<'a>(RwLockReadGuard<'a, Entries>);

impl Look<'_> {
    /// Whether an event of this id waits or is being scheduled.
    pub(crate) fn holds(&self, org: &str, id: &str) -> bool {
        self.0.holds(org, id)
    }

    /// What events carry that are sent to the log under this look.
    pub(crate) fn passage(&self) -> Passage {
        self.0.passages.next.clone()
    }

    /// Whether nothing waits and nothing is being scheduled.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.ids.is_empty()
    }
}

fn read(store: &dyn ScheduleStore) -> Result<Entries, StoreError> {
    let mut entries = Entries::default();
    let mut from = ScheduleKey::MIN;
    loop {
        let page = store.scheduled_from(from, LOAD_EVENTS, LOAD_BYTES)?;
        let Some((last, _)) = page.last() else { return Ok(entries) };
        from = last.next();
        for (key, record) in page {
            let bytes = record.event.len() as u64;
            let event = log_record::decode(crate::ground::ids::Seq::ZERO, record.event)
                .map_err(|source| StoreError::Corrupt { what: format!("scheduled event of {}", key.due_at), source })?;
            let (org, id) = (Arc::from(event.meta.org.as_str()), Arc::from(event.meta.id.as_str()));
            entries.add(Waiting { key, org, id, bytes });
        }
    }
}
