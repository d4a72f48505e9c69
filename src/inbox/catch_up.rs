//! Reading the log for a consumer that is behind: from the tail where it still holds the place, else from the store, in
//! a lane that few can be in at a time, so that live traffic goes first. The store is read along the log's index: blocks
//! in which nothing matches are passed without reading an event.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::event::envelope::Event;
use crate::event::filter::{Decision, EventFilter};
use crate::ground::ids::Seq;
use crate::lookup::{Finder, WalkLimits, Wanted};
use crate::outbox::Tail;
use crate::store::StoreError;

pub use crate::lookup::Walked as Chunk;
pub use crate::store::blocking;

/// Events of the tail looked at in one reading.
const TAIL_EVENTS: usize = 1_024;
/// What one reading of the store may do.
const LIMITS: WalkLimits = WalkLimits { found: usize::MAX, events: 1_024, bytes: 4 << 20, rows: 512 };

/// Reads for those who are behind. Shared.
#[derive(Clone)]
pub struct LogReader {
    finder: Finder,
    tail: Arc<Tail>,
    lane: Arc<Semaphore>,
}

impl LogReader {
    /// A reader with this many places in its lane.
    #[must_use]
    pub fn new(finder: Finder, tail: Arc<Tail>, readers: usize) -> Self {
        Self { finder, tail, lane: Arc::new(Semaphore::new(readers.max(1))) }
    }

    /// The last position of the log.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.finder.log().head()
    }

    /// Looks at the events from `from` to at most `upto`.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub async fn read(&self, filter: Arc<EventFilter>, from: Seq, upto: Seq) -> Result<Chunk, StoreError> {
        if let Some(events) = self.tail.read(from, TAIL_EVENTS) {
            return Ok(chunk(&filter, events, from, upto));
        }
        let wanted = Wanted::from(&*filter);
        self.search(wanted, move |event| filter.decide(event) == Decision::Match, from, upto).await
    }

    /// Looks at what is wanted of the log from `from` to at most `upto`; `fits` decides.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub async fn search(
        &self,
        wanted: Wanted,
        fits: impl Fn(&Event) -> bool + Send + 'static,
        from: Seq,
        upto: Seq,
    ) -> Result<Chunk, StoreError> {
        let Ok(_place) = self.lane.acquire().await else { return Err(StoreError::Unavailable) };
        let finder = self.finder.clone();
        blocking(move || finder.walk(wanted, from, upto, LIMITS, fits)).await
    }

    /// The events at these positions; those that retention has dropped are left out.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub async fn fetch(&self, seqs: Vec<Seq>) -> Result<Vec<Arc<Event>>, StoreError> {
        let log = Arc::clone(self.finder.log());
        blocking(move || {
            let mut events = Vec::with_capacity(seqs.len());
            for seq in seqs {
                events.extend(log.get(seq)?);
            }
            Ok(events)
        })
        .await
    }
}

/// The events of a chunk of the tail that match.
fn chunk(filter: &EventFilter, mut events: Vec<Arc<Event>>, from: Seq, upto: Seq) -> Chunk {
    events.retain(|event| event.seq <= upto);
    let read_to = events.last().map_or(upto.max(from.prev()), |event| event.seq);
    events.retain(|event| filter.decide(event) == Decision::Match);
    Chunk { events, upto: read_to, gap_to: None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::envelope::{Draft, EventMeta};
    use crate::event::filter::TypePattern;
    use crate::ground::clock::UnixMs;
    use crate::lookup::tests::index;
    use crate::store::fake::FakeStore;
    use crate::store::{AppendUnit, EventLog as _, IndexLevel, Prepared, ReadLimits};

    const BLOCKS: u64 = 40;
    const EVENTS: u64 = BLOCKS * IndexLevel::Block.events() + 100;

    /// A log full of other orgs. `acme` has every hundredth event of the blocks 5, 6 and 30, and the last event.
    fn store() -> Arc<FakeStore> {
        let store = FakeStore::new(1_000);
        for n in 1..=EVENTS {
            let block = n / IndexLevel::Block.events();
            let acme = n.is_multiple_of(100) && [5, 6, 30].contains(&block) || n == EVENTS;
            let meta = EventMeta {
                id: format!("e{n}"),
                org: if acme { "acme".to_owned() } else { format!("other-{}", n % 50) },
                event_type: if n.is_multiple_of(200) { "even.one".to_owned() } else { "odd.one".to_owned() },
                ..EventMeta::default()
            };
            let body = Bytes::from_static(b"{}");
            let draft = Draft { meta, body, id_given: true, received_at: UnixMs(n), deliver_at: None };
            let unit = AppendUnit { events: vec![Prepared::new(draft).expect("prepares")], atomic: false };
            store.append(vec![unit]).expect("appends");
        }
        store
    }

    fn filter(org: Option<&str>, event_type: &str) -> Arc<EventFilter> {
        let event_types = vec![TypePattern::parse(event_type).expect("a pattern")];
        Arc::new(EventFilter { org: org.map(str::to_owned), event_types, ..EventFilter::default() })
    }

    fn reader(store: &Arc<FakeStore>) -> LogReader {
        LogReader::new(Finder::new(store.clone(), store.clone()), Arc::new(Tail::new(1)), 1)
    }

    /// Reads from a position to the head as an inbox does: what matched, and the gaps as (from, up to).
    async fn read_all(store: &Arc<FakeStore>, filter: &Arc<EventFilter>, from: u64) -> (Vec<u64>, Vec<(u64, u64)>) {
        let (reader, mut from) = (reader(store), Seq(from));
        let (mut seqs, mut gaps) = (Vec::new(), Vec::new());
        while from <= reader.head() {
            let chunk = reader.read(Arc::clone(filter), from, Seq(u64::MAX)).await.expect("reads");
            gaps.extend(chunk.gap_to.map(|gap_to| (from.0, gap_to.0)));
            assert!(
                chunk.upto >= from && chunk.events.iter().all(|event| event.seq >= from && event.seq <= chunk.upto)
            );
            seqs.extend(chunk.events.iter().map(|event| event.seq.0));
            from = chunk.upto.next();
        }
        (seqs, gaps)
    }

    fn truth(store: &FakeStore, filter: &EventFilter, from: u64) -> Vec<u64> {
        let all = ReadLimits { events: usize::MAX, bytes: usize::MAX, upto: store.head() };
        let events = store.read(Seq(from), all).expect("reads");
        let matching = events.iter().filter(|event| filter.decide(event) == Decision::Match);
        matching.map(|event| event.seq.0).collect()
    }

    #[tokio::test]
    async fn who_is_behind_reads_the_blocks_of_its_own_org_and_gets_every_event_in_order() {
        let store = store();
        index(&store);
        for (filter, own) in [(filter(Some("acme"), "*"), 30), (filter(Some("acme"), "even.*"), 30)] {
            let expected = truth(&store, &filter, 1);
            assert!(!expected.is_empty());
            let before = store.events_read();
            assert_eq!(read_all(&store, &filter, 1).await, (expected, Vec::new()));
            // Its own events, and the newest block, which is not complete.
            let read = store.events_read() - before;
            assert!(read <= own + 2 + 101, "{read} events read");
        }
        let exact = filter(Some("acme"), "even.one");
        let expected = truth(&store, &exact, 6_000);
        let before = store.events_read();
        assert_eq!(read_all(&store, &exact, 6_000).await, (expected.clone(), Vec::new()));
        assert!(store.events_read() - before <= expected.len() + 101, "an exact type narrows further");
    }

    #[tokio::test]
    async fn without_a_filter_or_an_index_every_event_is_read_once() {
        let store = store();
        for indexed in [false, true] {
            if indexed {
                index(&store);
            }
            let all = filter(None, "*");
            let before = store.events_read();
            assert_eq!(read_all(&store, &all, 1).await, ((1..=EVENTS).collect(), Vec::new()));
            assert_eq!(store.events_read() - before, EVENTS as usize);
            let acme = filter(Some("acme"), "*");
            assert_eq!(read_all(&store, &acme, 1).await, (truth(&store, &acme, 1), Vec::new()));
        }
    }

    #[tokio::test]
    async fn what_retention_has_dropped_is_told_as_a_gap_once_and_nothing_else_is() {
        let store = store();
        index(&store);
        store.truncate(Seq(7_500)).expect("truncates");
        assert_eq!(store.earliest(), Seq(7_001));
        for filter in [filter(Some("acme"), "*"), filter(Some("nobody"), "*"), filter(None, "*")] {
            let expected = truth(&store, &filter, 1);
            assert_eq!(read_all(&store, &filter, 100).await, (expected.clone(), vec![(100, 7_001)]));
            assert_eq!(read_all(&store, &filter, 7_001).await, (expected, Vec::new()));
        }
    }

    #[tokio::test]
    async fn a_reading_ends_where_it_was_told_to() {
        let store = store();
        index(&store);
        let acme = filter(Some("acme"), "*");
        let chunk = reader(&store).read(Arc::clone(&acme), Seq(5_150), Seq(5_400)).await.expect("reads");
        let seqs: Vec<_> = chunk.events.iter().map(|event| event.seq.0).collect();
        assert_eq!((seqs, chunk.upto, chunk.gap_to), (vec![5_200, 5_300, 5_400], Seq(5_400), None));
        let chunk = reader(&store).read(acme, Seq(10_000), Seq(20_000)).await.expect("reads");
        assert_eq!((chunk.events.len(), chunk.upto, chunk.gap_to), (0, Seq(20_000), None));
    }
}
