//! The quarantine (ING-6): refused events that are kept aside until somebody has them checked again or lets them go.
//!
//! - `QU-1` What was told to be kept is durable. Those refused at the same time share one commit.
//! - `QU-2` The same event refused again, told by its org and id, is kept once as long as it is open.
//! - `QU-3` What is kept is bounded in number, bytes and age. A full quarantine takes no more; it lets go of nothing that
//!   is open before its age is over.
//! - `QU-4` An event that is redriven keeps its id, so the log takes it once, whatever is killed when: one that is in the
//!   log and still open here is found to be a duplicate when it is redriven again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::policy::{QUARANTINE_BYTES_MAX, QUARANTINE_EVENTS_MAX, QuarantineRules};
use crate::ground::clock::UnixMs;
use crate::store::quarantine::{QuarantineId, QuarantineRecord, Standing};
use crate::store::{QuarantineStore, StoreError};

/// Events dropped in one commit.
const DROP_MAX: usize = 1_000;
/// Events read at once when the book is opened.
const OPEN_READ: usize = 1_000;

/// Where a quarantined event stands, by its stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has done anything about it.
    Open,
    /// It was taken after all.
    Redriven,
    /// Nobody wants it.
    Discarded,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Redriven, Self::Discarded];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }

    /// The state of a record.
    #[must_use]
    pub fn of(standing: &Standing) -> Self {
        match standing {
            Standing::Open => Self::Open,
            Standing::Redriven { .. } => Self::Redriven,
            Standing::Discarded { .. } => Self::Discarded,
        }
    }
}

/// What is in memory of a quarantined event.
#[derive(Clone, Debug)]
struct Entry {
    org: Arc<str>,
    event_type: Arc<str>,
    event_id: Arc<str>,
    bytes: u64,
    state: State,
}

impl Entry {
    fn new(record: &QuarantineRecord) -> Self {
        Self {
            org: record.org.as_str().into(),
            event_type: record.event_type.as_str().into(),
            event_id: record.event_id.as_str().into(),
            bytes: record.bytes,
            state: State::of(&record.standing),
        }
    }
}

/// How many events and bytes are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    events: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    entries: BTreeMap<QuarantineId, Entry>,
    /// Open ones, by org and their own id.
    open: HashMap<(Arc<str>, Arc<str>), QuarantineId>,
    by_org: HashMap<Arc<str>, Total>,
    total: Total,
    /// Those that somebody is working on.
    busy: HashSet<QuarantineId>,
}

impl Shelf {
    fn count(&mut self, org: &Arc<str>, change: impl Fn(&mut Total)) {
        change(&mut self.total);
        let own = self.by_org.entry(Arc::clone(org)).or_default();
        change(own);
        if own.events == 0 {
            self.by_org.remove(org);
        }
    }

    fn put(&mut self, id: QuarantineId, entry: Entry) {
        self.remove(id);
        if entry.state == State::Open {
            self.open.insert((Arc::clone(&entry.org), Arc::clone(&entry.event_id)), id);
            let bytes = entry.bytes;
            self.count(&Arc::clone(&entry.org), |total| {
                total.events += 1;
                total.bytes += bytes;
            });
        }
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: QuarantineId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        if entry.state == State::Open {
            self.open.remove(&(Arc::clone(&entry.org), Arc::clone(&entry.event_id)));
            self.count(&entry.org, |total| {
                total.events = total.events.saturating_sub(1);
                total.bytes = total.bytes.saturating_sub(entry.bytes);
            });
        }
    }

    fn has_room(&self, org: &Arc<str>, bytes: u64, rules: &QuarantineRules) -> bool {
        let own = self.by_org.get(org).copied().unwrap_or_default();
        let fits = |total: Total, events_max: u64, bytes_max: u64| {
            total.events < events_max && total.bytes.saturating_add(bytes) <= bytes_max
        };
        fits(own, rules.events_max, rules.bytes_max) && fits(self.total, QUARANTINE_EVENTS_MAX, QUARANTINE_BYTES_MAX)
    }
}

/// An event that is to be kept.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The id it gets.
    pub id: QuarantineId,
    /// What is known of it.
    pub record: QuarantineRecord,
    /// The event as a record of the log.
    pub envelope: Bytes,
    /// The rules of its org.
    pub rules: QuarantineRules,
}

/// What became of an event that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept under this id; perhaps it was before.
    As(QuarantineId),
    /// There is no room.
    Full,
    /// The store failed: it may be kept, or not.
    Failed,
}

/// Events of one caller, and where it finds what became of them.
struct Job {
    wanted: Vec<Wanted>,
    answer: Arc<Mutex<Option<Vec<Kept>>>>,
}

/// Which quarantined events a list shows.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Of this org.
    pub org: Option<String>,
    /// Of this type.
    pub event_type: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// After this one.
    pub after: Option<QuarantineId>,
}

/// What is quarantined.
pub struct Book {
    store: Arc<dyn QuarantineStore>,
    shelf: Mutex<Shelf>,
    waiting: Mutex<Vec<Job>>,
    /// One commit at a time; who waits for it finds its events in it.
    committing: Mutex<()>,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").field("total", &self.shelf.lock().total).finish_non_exhaustive()
    }
}

/// Someone works on an event: nobody else does until this is dropped.
#[derive(Debug)]
pub struct Claim {
    book: Arc<Book>,
    id: QuarantineId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.book.shelf.lock().busy.remove(&self.id);
    }
}

impl Book {
    /// Reads what is kept.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub fn open(store: Arc<dyn QuarantineStore>) -> Result<Arc<Self>, StoreError> {
        let mut shelf = Shelf::default();
        let mut after = None;
        loop {
            let read = store.aside_after(after, OPEN_READ)?;
            let Some((last, _)) = read.last() else { break };
            after = Some(*last);
            read.iter().for_each(|(id, record)| shelf.put(*id, Entry::new(record)));
        }
        let (waiting, committing) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { store, shelf: Mutex::new(shelf), waiting, committing }))
    }

    /// Keeps events, durably when this returns; one answer for each. Blocks.
    pub fn keep(&self, wanted: Vec<Wanted>) -> Vec<Kept> {
        let count = wanted.len();
        let answer = Arc::new(Mutex::new(None));
        self.waiting.lock().push(Job { wanted, answer: Arc::clone(&answer) });
        let _one_at_a_time = self.committing.lock();
        if let Some(kept) = answer.lock().take() {
            return kept;
        }
        let jobs = std::mem::take(&mut *self.waiting.lock());
        self.commit(jobs);
        let kept = answer.lock().take();
        kept.unwrap_or_else(|| vec![Kept::Failed; count])
    }

    fn commit(&self, jobs: Vec<Job>) {
        let (mut new, mut answers) = (Vec::new(), Vec::with_capacity(jobs.len()));
        {
            let mut shelf = self.shelf.lock();
            for job in jobs {
                let kept: Vec<Kept> = job.wanted.into_iter().map(|one| place(&mut shelf, one, &mut new)).collect();
                answers.push((job.answer, kept));
            }
        }
        let failed = if new.is_empty() { None } else { self.store.keep_aside(&new).err() };
        if let Some(error) = &failed {
            tracing::error!(%error, events = new.len(), "refused events could not be quarantined");
            let mut shelf = self.shelf.lock();
            new.iter().for_each(|(id, _, _)| shelf.remove(*id));
        }
        let lost: HashSet<QuarantineId> = match failed {
            Some(_) => new.iter().map(|(id, _, _)| *id).collect(),
            None => HashSet::new(),
        };
        for (answer, mut kept) in answers {
            for one in &mut kept {
                if matches!(one, Kept::As(id) if lost.contains(id)) {
                    *one = Kept::Failed;
                }
            }
            *answer.lock() = Some(kept);
        }
    }

    /// Events and bytes that are open.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let total = self.shelf.lock().total;
        (total.events, total.bytes)
    }

    /// The org of a quarantined event and where it stands.
    #[must_use]
    pub fn look(&self, id: QuarantineId) -> Option<(Arc<str>, State)> {
        self.shelf.lock().entries.get(&id).map(|entry| (Arc::clone(&entry.org), entry.state))
    }

    /// Ids in the order in which they were refused, at most so many.
    #[must_use]
    pub fn list(&self, listing: &Listing, limit: usize) -> Vec<QuarantineId> {
        let shelf = self.shelf.lock();
        let from = QuarantineId(listing.after.map_or(0, |after| after.0.saturating_add(1)));
        let fits = |entry: &Entry| {
            listing.org.as_deref().is_none_or(|org| *entry.org == *org)
                && listing.event_type.as_deref().is_none_or(|wanted| *entry.event_type == *wanted)
                && listing.state.is_none_or(|state| state == entry.state)
        };
        let found = shelf.entries.range(from..).filter(|(_, entry)| fits(entry));
        found.take(limit).map(|(id, _)| *id).collect()
    }

    /// Takes an open event to work on; none when somebody else does, or it is not open.
    #[must_use]
    pub fn claim(self: &Arc<Self>, id: QuarantineId) -> Option<Claim> {
        let mut shelf = self.shelf.lock();
        let open = shelf.entries.get(&id).is_some_and(|entry| entry.state == State::Open);
        (open && shelf.busy.insert(id)).then(|| Claim { book: Arc::clone(self), id })
    }

    /// What is known of an event, and its envelope when that is still kept. Blocks.
    ///
    /// # Errors
    /// When the store fails or the record is damaged.
    pub fn read(&self, id: QuarantineId) -> Result<Option<(QuarantineRecord, Option<Bytes>)>, StoreError> {
        self.store.aside(id)
    }

    /// What is known of an event, without its envelope. Blocks.
    ///
    /// # Errors
    /// When the store fails or the record is damaged.
    pub fn read_record(&self, id: QuarantineId) -> Result<Option<QuarantineRecord>, StoreError> {
        let before = id.0.checked_sub(1).map(QuarantineId);
        let found = self.store.aside_after(before, 1)?;
        Ok(found.into_iter().find(|(found, _)| *found == id).map(|(_, record)| record))
    }

    /// Writes that events are open no longer. Blocks.
    ///
    /// # Errors
    /// When the store fails; they may be closed or not.
    pub fn close(&self, closed: &[(QuarantineId, QuarantineRecord)]) -> Result<(), StoreError> {
        self.store.close_aside(closed)?;
        let mut shelf = self.shelf.lock();
        for (id, record) in closed {
            shelf.put(*id, Entry::new(record));
        }
        Ok(())
    }

    /// Lets go of what is older than its org's age, and of the oldest closed ones when there are too many; how many open
    /// ones it was. Blocks.
    ///
    /// # Errors
    /// When the store fails.
    pub fn expire(&self, now: UnixMs, age_ms: impl Fn(&str) -> u64) -> Result<u64, StoreError> {
        let mut open = 0;
        loop {
            let gone: Vec<QuarantineId> = {
                let shelf = self.shelf.lock();
                let closed = shelf.entries.len() as u64 - shelf.total.events;
                let mut over = closed.saturating_sub(QUARANTINE_EVENTS_MAX);
                let mut is_over = |id: &QuarantineId, entry: &Entry| {
                    let old = now.since_ms(id.at()) >= age_ms(&entry.org);
                    let crowded = !old && entry.state != State::Open && over > 0;
                    over -= u64::from(crowded);
                    (old || crowded) && !shelf.busy.contains(id)
                };
                shelf
                    .entries
                    .iter()
                    .filter(|(id, entry)| is_over(id, entry))
                    .take(DROP_MAX)
                    .map(|(id, _)| *id)
                    .collect()
            };
            if gone.is_empty() {
                return Ok(open);
            }
            self.store.drop_aside(&gone)?;
            let mut shelf = self.shelf.lock();
            let before = shelf.total.events;
            gone.iter().for_each(|id| shelf.remove(*id));
            open += before - shelf.total.events;
        }
    }
}

/// Finds a place for an event, and puts what is new into `new`.
fn place(shelf: &mut Shelf, wanted: Wanted, new: &mut Vec<(QuarantineId, QuarantineRecord, Bytes)>) -> Kept {
    let Wanted { id, record, envelope, rules } = wanted;
    let entry = Entry::new(&record);
    let known = shelf.open.get(&(Arc::clone(&entry.org), Arc::clone(&entry.event_id)));
    if let Some(known) = known {
        return Kept::As(*known);
    }
    if !shelf.has_room(&entry.org, entry.bytes, &rules) {
        return Kept::Full;
    }
    shelf.put(id, entry);
    new.push((id, record, envelope));
    Kept::As(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::context::WriteContext;
    use crate::store::fake::{Call, FakeStore, Fault};
    use crate::store::quarantine::tests::record;

    const NOW: u64 = 1_795_248_000_000;

    fn id(at: u64, n: u128) -> QuarantineId {
        QuarantineId((u128::from(at) << 80) + n)
    }

    fn wanted(n: u128, org: &str, event_id: &str, bytes: u64) -> Wanted {
        let rules = QuarantineRules { enabled: true, events_max: 3, bytes_max: 100, age_ms: 60_000 };
        let record = QuarantineRecord { org: org.to_owned(), ..record(event_id, bytes) };
        Wanted { id: id(NOW, n), record, envelope: Bytes::from_static(b"e"), rules }
    }

    fn discarded(event_id: &str, bytes: u64) -> QuarantineRecord {
        let standing = Standing::Discarded { reason: "x".to_owned(), context: WriteContext::default() };
        QuarantineRecord { standing, ..record(event_id, bytes) }
    }

    #[test]
    fn an_event_is_kept_once_and_what_is_kept_is_bounded_by_org() {
        let store = FakeStore::new(10);
        let book = Book::open(store.clone()).expect("opens");
        let kept = |n, org: &str, event_id: &str, bytes| book.keep(vec![wanted(n, org, event_id, bytes)])[0];
        assert_eq!(kept(1, "acme", "a", 40), Kept::As(id(NOW, 1)));
        assert_eq!(kept(2, "acme", "a", 40), Kept::As(id(NOW, 1)), "the same event");
        assert_eq!(kept(3, "acme", "b", 61), Kept::Full, "too many bytes");
        assert_eq!(kept(4, "acme", "b", 60), Kept::As(id(NOW, 4)));
        assert_eq!(kept(5, "acme", "c", 1), Kept::Full);
        assert_eq!(kept(6, "globex", "a", 40), Kept::As(id(NOW, 6)), "another org has room of its own");
        assert_eq!(book.size(), (3, 140));
        book.close(&[(id(NOW, 1), discarded("a", 40))]).expect("closes");
        assert_eq!(kept(7, "acme", "a", 40), Kept::As(id(NOW, 7)), "a closed one is no longer the one that is kept");
        let opened = Book::open(store).expect("opens");
        assert_eq!(opened.size(), book.size());
        assert_eq!(opened.list(&Listing::default(), 9), book.list(&Listing::default(), 9));
    }

    #[test]
    fn a_list_is_by_org_type_and_state_and_a_claim_is_for_one() {
        let book = Book::open(FakeStore::new(10)).expect("opens");
        let all = book.keep(vec![wanted(1, "acme", "a", 1), wanted(2, "globex", "b", 1), wanted(3, "acme", "c", 1)]);
        assert_eq!(all, [Kept::As(id(NOW, 1)), Kept::As(id(NOW, 2)), Kept::As(id(NOW, 3))]);
        let acme = Listing { org: Some("acme".to_owned()), ..Listing::default() };
        assert_eq!(book.list(&acme, 9), [id(NOW, 1), id(NOW, 3)]);
        assert_eq!(book.list(&Listing { after: Some(id(NOW, 1)), ..acme.clone() }, 9), [id(NOW, 3)]);
        let claim = book.claim(id(NOW, 1)).expect("is free");
        assert!(book.claim(id(NOW, 1)).is_none(), "somebody works on it");
        drop(claim);
        assert!(book.claim(id(NOW, 1)).is_some());
        book.close(&[(id(NOW, 1), discarded("a", 1))]).expect("closes");
        assert!(book.claim(id(NOW, 1)).is_none(), "it is closed");
        assert_eq!(book.list(&Listing { state: Some(State::Open), ..acme.clone() }, 9), [id(NOW, 3)]);
        assert_eq!(book.list(&Listing { state: Some(State::Discarded), ..acme }, 9), [id(NOW, 1)]);
    }

    #[test]
    fn what_the_store_did_not_take_is_told_and_takes_no_room() {
        let store = FakeStore::new(10);
        let book = Book::open(store.clone()).expect("opens");
        store.plan(Call::Schedule, 1, Fault::Error);
        assert_eq!(book.keep(vec![wanted(1, "acme", "a", 100)]), [Kept::Failed]);
        store.reopen();
        assert_eq!(book.size(), (0, 0));
        assert_eq!(book.keep(vec![wanted(2, "acme", "a", 100)]), [Kept::As(id(NOW, 2))]);
    }

    #[test]
    fn many_at_once_share_commits_and_each_gets_its_own_answer() {
        let store = FakeStore::new(10);
        let book = Book::open(store.clone()).expect("opens");
        store.plan(Call::Schedule, 1, Fault::Stall);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| book.keep(vec![wanted(1, "o1", "a", 1)]));
            while !store.is_stalled() {
                std::thread::yield_now();
            }
            let rest: Vec<_> = (2..20_u128)
                .map(|n| {
                    let book = &book;
                    scope.spawn(move || (n, book.keep(vec![wanted(n, &format!("o{n}"), "a", 1)])))
                })
                .collect();
            while book.waiting.lock().len() < 18 {
                std::thread::yield_now();
            }
            store.release();
            assert_eq!(first.join().expect("ends"), [Kept::As(id(NOW, 1))]);
            for one in rest {
                let (n, kept) = one.join().expect("ends");
                assert_eq!(kept, [Kept::As(id(NOW, n))]);
            }
        });
        assert_eq!(book.size().0, 19);
    }

    #[test]
    fn what_is_old_goes_unless_somebody_works_on_it() {
        let store = FakeStore::new(10);
        let book = Book::open(store.clone()).expect("opens");
        book.keep(vec![wanted(1, "acme", "a", 1), wanted(2, "acme", "b", 1), wanted(3, "globex", "c", 1)]);
        let claim = book.claim(id(NOW, 2)).expect("is free");
        let age = |org: &str| if org == "acme" { 1_000 } else { 60_000 };
        assert_eq!(book.expire(UnixMs(NOW + 999), age).expect("drops"), 0);
        assert_eq!(book.expire(UnixMs(NOW + 1_000), age).expect("drops"), 1);
        assert_eq!(book.list(&Listing::default(), 9), [id(NOW, 2), id(NOW, 3)]);
        drop(claim);
        assert_eq!(book.expire(UnixMs(NOW + 1_000), age).expect("drops"), 1);
        assert_eq!(Book::open(store).expect("opens").list(&Listing::default(), 9), [id(NOW, 3)]);
    }
}
