//! The index against the plain truth: a filter over every event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::actor::{IndexerActor, IndexerParts};
use super::block::{Block, EVENTS, build};
use super::follow::{Done, Follower, Source};
use super::search::{Finder, Span};
use super::summary::Summary;
use super::wanted::{Column, Wanted};
use crate::event::envelope::{Draft, Event, EventMeta};
use crate::event::filter::TypePattern;
use crate::ground::clock::{ManualClock, UnixMs};
use crate::ground::codec;
use crate::ground::ids::Seq;
use crate::metrics::Metrics;
use crate::outbox::Tail;
use crate::store::fake::{Call, FakeStore, Fault};
use crate::store::{AppendUnit, Appended, EventLog, IndexLevel, IndexRow, LogIndex, Prepared, ReadLimits, StoreError};
use crate::supervise::{ActorKind, Health, PanicNow, RestartBudget, supervise};

const BLOCK: u64 = IndexLevel::Block.events();

/// The fields of an event as numbers, each below the bound of its column.
fn meta(n: u64, [org, kind, source, aggregate_type, aggregate_id]: [u64; 5]) -> EventMeta {
    let optional = |name: &str, n: u64| (!n.is_multiple_of(5)).then(|| format!("{name}-{n}"));
    EventMeta {
        id: format!("e{n}"),
        org: format!("org-{org}"),
        event_type: format!("{}.done-{kind}", ["order", "invoice", "stock"][kind as usize % 3]),
        source: optional("source", source),
        aggregate_type: optional("thing", aggregate_type),
        aggregate_id: optional("id", aggregate_id),
        ..EventMeta::default()
    }
}

fn event(seq: u64, received_ms: u64, fields: [u64; 5]) -> Arc<Event> {
    Event::new(Seq(seq), UnixMs(received_ms), meta(seq, fields), Bytes::from_static(b"{}"))
}

/// A question, with the answer that needs no index.
#[derive(Clone, Debug, Default)]
struct Question {
    org: Option<String>,
    kind: Option<TypePattern>,
    source: Option<String>,
    aggregate_type: Option<String>,
    aggregate_id: Option<String>,
    from: Option<UnixMs>,
    to: Option<UnixMs>,
}

impl Question {
    fn wanted(&self) -> Wanted {
        Wanted::default()
            .with(Column::Org, self.org.as_deref())
            .with_types(self.kind.as_slice())
            .with(Column::Source, self.source.as_deref())
            .with(Column::AggregateType, self.aggregate_type.as_deref())
            .with(Column::AggregateId, self.aggregate_id.as_deref())
            .within(self.from, self.to)
    }

    fn fits(&self, event: &Event) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let meta = &event.meta;
        same(&self.org, &Some(meta.org.clone()))
            && self.kind.as_ref().is_none_or(|kind| kind.matches(&meta.event_type))
            && same(&self.source, &meta.source)
            && same(&self.aggregate_type, &meta.aggregate_type)
            && same(&self.aggregate_id, &meta.aggregate_id)
            && self.from.is_none_or(|from| event.received_at >= from)
            && self.to.is_none_or(|to| event.received_at < to)
    }
}

fn question(bounds: [u64; 5], times_ms: u64) -> impl Strategy<Value = Question> {
    let text =
        |name: &'static str, bound: u64| proptest::option::of((0..bound + 1).prop_map(move |n| format!("{name}-{n}")));
    let kind = (0..bounds[1] + 1, 0..4_u8).prop_map(|(n, way)| match way {
        0 => None,
        1 => Some(TypePattern::All),
        2 => Some(TypePattern::Prefix(["order", "invoice", "none"][n as usize % 3].to_owned())),
        _ => Some(TypePattern::Exact(meta(0, [0, n, 0, 0, 0]).event_type)),
    });
    let time = || proptest::option::weighted(0.3, (0..times_ms).prop_map(UnixMs));
    let texts = (
        text("org", bounds[0]),
        text("source", bounds[2]),
        text("thing", bounds[3]),
        proptest::option::weighted(0.3, (0..bounds[4] + 1).prop_map(|n| format!("id-{n}"))),
    );
    (texts, kind, time(), time()).prop_map(|((org, source, aggregate_type, aggregate_id), kind, from, to)| Question {
        org,
        kind,
        source,
        aggregate_type,
        aggregate_id,
        from,
        to,
    })
}

/// Bounds of the columns: one value, a few, more than a dictionary is good for.
fn bounds() -> impl Strategy<Value = [u64; 5]> {
    proptest::array::uniform5(prop_oneof![Just(1_u64), 2..9_u64, 60..70_u64, Just(5_000_u64)])
}

fn scene() -> impl Strategy<Value = (Vec<Option<[u64; 5]>>, Vec<Question>)> {
    bounds().prop_flat_map(|bounds| {
        let fields = bounds.map(|bound| 0..bound);
        let events = proptest::collection::vec(proptest::option::weighted(0.95, fields), 1..=EVENTS);
        (events, proptest::collection::vec(question(bounds, EVENTS as u64), 20))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_block_names_every_event_that_matches_and_few_others((fields, questions) in scene()) {
        let row = IndexRow { level: IndexLevel::Block, number: 3 };
        let events: Vec<_> = fields.iter().zip(0_u64..)
            .filter_map(|(fields, n)| fields.map(|fields| event(row.first().0 + n, (n * 7) % 900, fields)))
            .collect();
        let record = build(row, &events);
        let block = Block::read(&record).expect("reads");
        let mut summary = Summary::default();
        summary.add(&block);
        let summary = Summary::decode(&summary.encode().expect("encodes")).expect("decodes");
        for asked in questions {
            let wanted = asked.wanted();
            let named: BTreeSet<u64> = block.candidates(&wanted).iter().map(|place| row.first().0 + place).collect();
            let truth: BTreeSet<u64> = events.iter().filter(|one| asked.fits(one)).map(|one| one.seq.0).collect();
            prop_assert!(truth.is_subset(&named), "{asked:?}: {truth:?} in {named:?}");
            prop_assert!(truth.is_empty() || summary.may_hold(&wanted), "{asked:?}");
            // Within a block times only tell whether to look at all; everything else is exact but for equal hashes.
            let untimed = Question { from: None, to: None, ..asked };
            let most: BTreeSet<u64> = events.iter().filter(|one| untimed.fits(one)).map(|one| one.seq.0).collect();
            prop_assert!(named.is_subset(&most), "{untimed:?}: {named:?} in {most:?}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused(payload in proptest::collection::vec(any::<u8>(), 0..4_000), cut in 0..2_000_usize) {
        if let Ok(block) = Block::read(&codec::frame(1, &payload)) {
            prop_assert!(block.count(&Wanted::default()) <= EVENTS);
        }
        let row = IndexRow { level: IndexLevel::Block, number: 0 };
        let record = build(row, &[event(1, 1, [1; 5]), event(2, 2, [2; 5])]);
        prop_assert!(Block::read(&record[..cut.min(record.len() - 1)]).is_err());
        let payload = &record[codec::HEADER_BYTES..];
        prop_assert!(Block::read(&codec::frame(1, &payload[..cut.min(payload.len() - 1)])).is_err());
    }
}

#[test]
fn a_realistic_block_and_a_full_summary_stay_within_their_bounds() {
    let row = IndexRow { level: IndexLevel::Block, number: 9 };
    let busy: Vec<_> =
        (0..BLOCK).map(|n| event(row.first().0 + n, n, [n * 31 % 100, n % 20, n % 5, n % 6, n + 100_000])).collect();
    let record = build(row, &busy);
    eprintln!("a block with 100 orgs, 20 types and an aggregate an event: {} bytes", record.len());
    assert!(record.len() <= 10 << 10, "{}", record.len());
    let worst: Vec<_> = (0..BLOCK).map(|n| event(row.first().0 + n, n, [n, n * 7, n * 11, n * 13, n * 17])).collect();
    let record = build(row, &worst);
    assert!(record.len() <= 26 << 10, "{}", record.len());
    let mut summary = Summary::default();
    summary.add(&Block::read(&record).expect("reads"));
    let full = summary.encode().expect("encodes").len();
    assert!(full <= crate::ground::limits::ROW_BYTES_MAX, "{full}");
}

#[test]
fn a_column_with_too_many_keys_narrows_no_group() {
    let mut summary = Summary::default();
    for number in 0..2 {
        let row = IndexRow { level: IndexLevel::Block, number };
        let events: Vec<_> = (row.first().0..=row.last().0).map(|n| event(n, n, [n, 1, 1, 1, 1])).collect();
        summary.add(&Block::read(&build(row, &events)).expect("reads"));
    }
    let of = |org: &str, kind: &str| {
        let kind = TypePattern::parse(kind).expect("a pattern");
        summary.may_hold(&Wanted::default().with(Column::Org, Some(org)).with_types(&[kind]))
    };
    assert!(of("never", "*") && of("never", "invoice.*"));
    assert!(!of("never", "order.*") && !of("org-3", "stock.done-1"));
}

/// Appends events with these fields to the store's log, and gives them.
fn append(store: &FakeStore, fields: impl Iterator<Item = (u64, [u64; 5])>) -> Vec<Arc<Event>> {
    let mut made = Vec::new();
    for ((received_ms, fields), n) in fields.zip(store.head().0 + 1..) {
        let draft = Draft {
            meta: meta(n, fields),
            body: Bytes::from_static(b"{}"),
            id_given: true,
            received_at: UnixMs(received_ms),
            deliver_at: None,
        };
        let unit = AppendUnit { events: vec![Prepared::new(draft).expect("prepares")], atomic: false };
        match store.append(vec![unit]).expect("appends").remove(0).remove(0) {
            Appended::New(event) => made.push(event),
            other => panic!("{other:?}"),
        }
    }
    made
}

fn follower(store: &Arc<FakeStore>) -> Follower {
    Follower::new(store.clone(), store.clone(), Arc::new(Tail::new(1)))
}

/// Writes all of the index that can be written.
pub(crate) fn index(store: &Arc<FakeStore>) -> u64 {
    let mut follower = follower(store);
    let mut blocks = 0;
    while let Done::Wrote { .. } = follower.step().expect("steps") {
        blocks += 1;
    }
    blocks
}

/// The positions that a search finds and the question fits, and how many index rows it took.
fn find(store: &Arc<FakeStore>, asked: &Question) -> (Vec<u64>, usize) {
    let finder = Finder::new(store.clone(), store.clone());
    let from = store.earliest();
    let mut search = finder.search(asked.wanted(), from, Seq(u64::MAX));
    let (mut found, mut looked_upto) = (Vec::new(), from.prev());
    while let Some(stretch) = search.next_stretch().expect("searches") {
        for Span { from, upto } in stretch.spans {
            assert!(looked_upto < from && from <= upto && upto <= stretch.upto, "spans are ascending and within");
            looked_upto = upto;
            let limits = ReadLimits { events: usize::MAX, bytes: usize::MAX, upto };
            let events = store.read(from, limits).expect("reads");
            found.extend(events.iter().filter(|event| asked.fits(event)).map(|event| event.seq.0));
        }
        looked_upto = stretch.upto;
    }
    assert_eq!(looked_upto, store.head(), "the search ends at the head");
    (found, search.probes())
}

fn truth(store: &FakeStore, asked: &Question) -> Vec<u64> {
    let all = ReadLimits { events: usize::MAX, bytes: usize::MAX, upto: Seq(u64::MAX) };
    let events = store.read(Seq(1), all).expect("reads");
    events.iter().filter(|event| asked.fits(event)).map(|event| event.seq.0).collect()
}

fn of_org(org: &str) -> Question {
    Question { org: Some(org.to_owned()), ..Question::default() }
}

/// A log of more than two groups: a handful of orgs, and one that comes once in 50,000 events.
fn long_log() -> Arc<FakeStore> {
    let store = FakeStore::new(10_000);
    append(
        &store,
        (1..=140_000_u64).map(|n| {
            let org = if n.is_multiple_of(50_000) { 777 } else { n * n % 40 };
            (1_000 + n - n % 7, [org, n % 12, n % 9, n / 1_000 % 6, n % 3_000])
        }),
    );
    store
}

#[test]
fn whatever_rows_are_missing_or_damaged_a_search_finds_what_a_scan_finds() {
    let store = long_log();
    let kind = |text: &str| TypePattern::parse(text).ok();
    let text = |text: &str| Some(text.to_owned());
    let questions = [
        Question::default(),
        of_org("org-777"),
        of_org("org-9"),
        of_org("nobody"),
        Question { kind: kind("order.done-3"), ..of_org("org-4") },
        Question { kind: kind("invoice.*"), ..of_org("org-1") },
        Question { source: text("source-4"), aggregate_type: text("thing-3"), ..Question::default() },
        Question { aggregate_id: text("id-2999"), ..of_org("org-1") },
        Question { from: Some(UnixMs(70_000)), to: Some(UnixMs(70_100)), ..Question::default() },
        Question { from: Some(UnixMs(140_900)), ..of_org("org-16") },
        Question { to: Some(UnixMs(1_500)), kind: kind("stock.*"), ..Question::default() },
    ];
    let answers: Vec<_> = questions.iter().map(|asked| truth(&store, asked)).collect();
    let check = |what: &str| {
        for (asked, answer) in questions.iter().zip(&answers) {
            let (found, _) = find(&store, asked);
            let answer: Vec<_> = answer.iter().copied().filter(|seq| *seq >= store.earliest().0).collect();
            assert_eq!(found, answer, "{what}: {asked:?}");
        }
    };
    check("without an index");
    assert_eq!(index(&store), 140_000 / BLOCK);
    check("with the index");
    // Two summaries tell that two orgs are not there, or in which group; the third group is not complete.
    assert_eq!(find(&store, &of_org("nobody")).1, 2 + 1 + (140_000 / BLOCK + 1 - 128) as usize);
    for number in [0, 7, 64, 100, 135] {
        let row = IndexRow { level: IndexLevel::Block, number };
        let mut record = store.row(row).expect("reads").expect("is there");
        record[200] ^= 1;
        store.put_row(row, &record).expect("damages");
    }
    store.put_row(IndexRow { level: IndexLevel::Group, number: 1 }, b"no summary").expect("damages");
    check("with damaged rows");
    store.truncate(Seq(25_000)).expect("truncates");
    check("before the indexer has noticed that events were dropped");
    assert_eq!(index(&store), 0);
    assert_eq!(store.row(IndexRow { level: IndexLevel::Block, number: 18 }).expect("reads"), None);
    check("after rows were dropped");
    store.drop_rows(IndexLevel::Block, Seq(90_000)).expect("drops");
    check("with many rows missing");
}

#[test]
fn the_indexer_goes_on_after_its_newest_row_and_leaves_no_hole() {
    let store = FakeStore::new(1_000_000);
    append(&store, (1..=BLOCK * 3 + 10).map(|n| (n, [n % 3; 5])));
    let mut first = follower(&store);
    assert_eq!(first.step().expect("steps"), Done::Wrote { upto: Seq(BLOCK - 1), from: Source::Log });
    store.plan(Call::PutRow, 1, Fault::Error);
    first.step().expect_err("the store fails");
    assert!(matches!(first.step(), Err(StoreError::Unavailable)));
    store.reopen();
    assert_eq!(first.step().expect("steps"), Done::Wrote { upto: Seq(2 * BLOCK - 1), from: Source::Log });
    // Written, and reported as failed: it is there, and is not written again.
    store.plan(Call::PutRow, 1, Fault::Torn);
    first.step().expect_err("the store fails");
    store.reopen();
    let mut second = follower(&store);
    assert_eq!(second.step().expect("steps"), Done::UpToDate { upto: Seq(3 * BLOCK - 1) });
    append(&store, (1..=BLOCK).map(|n| (n, [n % 3; 5])));
    assert_eq!(second.step().expect("steps"), Done::Wrote { upto: Seq(4 * BLOCK - 1), from: Source::Log });
    for number in 0..4 {
        assert!(store.row(IndexRow { level: IndexLevel::Block, number }).expect("reads").is_some(), "row {number}");
    }
}

#[test]
fn a_summary_that_the_end_has_prevented_is_written_at_the_next_start() {
    let store = FakeStore::new(1_000_000);
    append(&store, (1..=64 * BLOCK).map(|n| (n, [n % 3; 5])));
    // The 64th block is row 64; its group's summary would be the next.
    store.plan(Call::PutRow, 65, Fault::Error);
    let mut first = follower(&store);
    let failed = std::iter::from_fn(|| Some(first.step())).find_map(Result::err);
    assert!(matches!(failed, Some(StoreError::Engine(_))));
    store.reopen();
    let group = IndexRow { level: IndexLevel::Group, number: 0 };
    assert_eq!(store.row(group).expect("reads"), None);
    assert_eq!(follower(&store).step().expect("steps"), Done::UpToDate { upto: Seq(64 * BLOCK - 1) });
    assert!(store.row(group).expect("reads").is_some());
    assert_eq!(find(&store, &of_org("nobody")), (Vec::new(), 3));
}

#[test]
fn blocks_of_a_log_that_begins_late_are_written_from_there() {
    let store = FakeStore::new(1_500);
    append(&store, (1..=BLOCK * 5).map(|n| (n, [n % 3; 5])));
    store.truncate(Seq(3_100)).expect("truncates");
    assert_eq!(store.earliest(), Seq(3_001));
    assert_eq!(index(&store), 3, "the blocks from the one that holds the first event on");
    let asked = of_org("org-1");
    assert_eq!(find(&store, &asked).0, truth(&store, &asked));
}

#[actix::test]
async fn the_indexer_writes_each_block_when_it_is_complete_also_after_panics_and_failures_of_the_store() {
    const ROUNDS: u64 = 12;
    let store = FakeStore::new(1_000_000);
    let tail = Arc::new(Tail::new(1 << 20));
    let metrics = Arc::new(Metrics::new().expect("series"));
    let clock = ManualClock::starting_at(UnixMs(1));
    let budget = RestartBudget { restarts_max: 1_000, window_ms: 1_000, backoff_ms: 1, backoff_cap_ms: 2 };
    let health = Arc::new(Health::new(budget, clock.clone()));
    let parts = IndexerParts {
        log: store.clone(),
        index: store.clone(),
        tail: Arc::clone(&tail),
        metrics: Arc::clone(&metrics),
        clock,
        look_every: Duration::from_secs(3_600),
    };
    let indexer =
        supervise(&actix::Arbiter::current(), ActorKind::Indexer, &health, move || IndexerActor::new(parts.clone()));
    for round in 1..=ROUNDS {
        if round % 3 == 0 {
            indexer.hint(PanicNow);
        }
        if round % 4 == 0 {
            store.plan(Call::PutRow, 1, Fault::Error);
        }
        tail.push(append(&store, (1..=BLOCK).map(|n| (n, [n % 3; 5]))).into_iter());
        let upto = (round * BLOCK - 1) as i64;
        while metrics.log_index_cursor.get() < upto {
            if store.has_failed() {
                store.reopen();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(metrics.log_index_cursor.get(), upto);
    }
    assert_eq!(health.restarts(ActorKind::Indexer), ROUNDS / 3);
    let asked = of_org("org-1");
    let (found, probes) = find(&store, &asked);
    assert_eq!(found, truth(&store, &asked));
    assert_eq!(probes as u64, 1 + ROUNDS + 1, "no row is missing");
}
