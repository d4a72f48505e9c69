//! What every store keeps to. The same tests run on the embedded engine and on the fake.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::engine::EngineOptions;
use super::fake::{Call, FakeStore, Fault};
use super::records::{AttemptRecord, PageKey, RowState};
use super::{
    AppendUnit, Appended, AttemptPage, ConsumerState, DeadLetterRecord, DroppedSegment, Durability, Engine, EventLog,
    IndexLevel, IndexRow, LogIndex, Position, Prepared, ReadLimits, Registry, RowRecord, StateOp, StoreError,
};
use crate::event::envelope::{Draft, EventMeta};
use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Seq};

const SEGMENT_EVENTS: u64 = 10;
const NOW: u64 = 1_795_248_000_000;

/// A store under test.
trait Subject {
    fn log(&self) -> &dyn EventLog;
    fn state(&self) -> &dyn ConsumerState;
    fn registry(&self) -> &dyn Registry;
    fn index(&self) -> &dyn LogIndex;
    /// The next append is written and reported as failed.
    fn tear_next_append(&self);
    /// Waits until the store is open again after a failure.
    fn wait_until_open(&self);
    /// Closes the store and opens it again.
    fn restart(&mut self);
}

struct OnEngine {
    engine: Option<Arc<Engine>>,
    dir: tempfile::TempDir,
}

impl OnEngine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::open(options(dir.path(), 0)).expect("opens");
        Self { engine: Some(engine), dir }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("open")
    }
}

fn options(dir: &std::path::Path, floor: u64) -> EngineOptions {
    EngineOptions {
        data_dir: dir.to_owned(),
        cache_bytes: 16 << 20,
        segment_events: SEGMENT_EVENTS,
        free_space_floor_bytes: floor,
    }
}

impl Subject for OnEngine {
    fn log(&self) -> &dyn EventLog {
        self.engine()
    }

    fn state(&self) -> &dyn ConsumerState {
        self.engine()
    }

    fn registry(&self) -> &dyn Registry {
        self.engine()
    }

    fn index(&self) -> &dyn LogIndex {
        self.engine()
    }

    fn tear_next_append(&self) {
        self.engine().faults().fail_commits.store(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn wait_until_open(&self) {
        while !self.engine().is_available() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn restart(&mut self) {
        self.engine = None;
        self.engine = Some(Engine::open(options(self.dir.path(), 0)).expect("opens again"));
    }
}

struct OnFake(Arc<FakeStore>);

impl Subject for OnFake {
    fn log(&self) -> &dyn EventLog {
        &*self.0
    }

    fn state(&self) -> &dyn ConsumerState {
        &*self.0
    }

    fn registry(&self) -> &dyn Registry {
        &*self.0
    }

    fn index(&self) -> &dyn LogIndex {
        &*self.0
    }

    fn tear_next_append(&self) {
        self.0.plan(Call::Append, 1, Fault::Torn);
    }

    fn wait_until_open(&self) {
        self.0.reopen();
    }

    fn restart(&mut self) {}
}

macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod engine {
            $(#[test] fn $name() { super::$name(&mut super::OnEngine::new()); })+
        }
        mod fake {
            $(#[test] fn $name() { super::$name(&mut super::OnFake(super::FakeStore::new(super::SEGMENT_EVENTS))); })+
        }
    };
}

contract!(
    an_event_sent_again_is_recognised_however_it_is_written,
    another_event_with_the_same_id_is_a_conflict,
    an_id_is_unique_within_its_org_only,
    duplicates_within_one_group_are_recognised,
    an_id_is_remembered_across_segments_and_openings,
    an_atomic_unit_with_a_conflict_leaves_nothing,
    a_conflict_keeps_only_itself_out_of_a_loose_unit,
    bodies_of_any_size_come_back_as_they_went_in,
    a_read_stops_at_its_limits_and_crosses_segments,
    dropped_segments_take_their_events_and_ids_with_them,
    the_newest_segment_is_never_dropped,
    rows_are_kept_per_consumer_and_in_order,
    a_checkpoint_sets_and_clears_positions,
    attempts_come_newest_first_page_by_page,
    dead_letters_come_newest_first_and_expire,
    a_document_changes_only_from_the_revision_that_is_known,
    index_rows_come_back_as_they_were_written_and_go_from_the_old_end,
    after_a_failed_append_nothing_is_lost_and_work_goes_on,
);

fn event_of(org: &str, id: &str, body: &str) -> Prepared {
    let meta =
        EventMeta { id: id.to_owned(), event_type: "a.b".to_owned(), org: org.to_owned(), ..EventMeta::default() };
    let body = Bytes::copy_from_slice(body.as_bytes());
    Prepared::new(Draft { meta, body, id_given: true, received_at: UnixMs(NOW) }).expect("prepares")
}

fn event(id: &str, body: &str) -> Prepared {
    event_of("acme", id, body)
}

fn append(store: &dyn Subject, units: Vec<AppendUnit>) -> Vec<Vec<String>> {
    let told = store.log().append(units).expect("appends");
    told.iter().map(|unit| unit.iter().map(text).collect()).collect()
}

fn text(answer: &Appended) -> String {
    match answer {
        Appended::New(event) => format!("new {}", event.seq),
        Appended::Duplicate(seq) => format!("duplicate of {seq}"),
        Appended::Conflict(seq) => format!("conflict with {seq}"),
        Appended::Withheld => "withheld".to_owned(),
    }
}

fn loose(events: Vec<Prepared>) -> AppendUnit {
    AppendUnit { events, atomic: false }
}

fn append_one(store: &dyn Subject, event: Prepared) -> String {
    append(store, vec![loose(vec![event])]).remove(0).remove(0)
}

/// Appends events `e1`, `e2` … up to this one, each in a group of its own.
fn fill(store: &dyn Subject, upto: u64) {
    for n in store.log().head().0 + 1..=upto {
        assert_eq!(append_one(store, event(&format!("e{n}"), &body(n))), format!("new {n}"));
    }
}

fn body(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn read(store: &dyn Subject, from: u64, limits: ReadLimits) -> Vec<u64> {
    store.log().read(Seq(from), limits).expect("reads").iter().map(|event| event.seq.0).collect()
}

const ALL: ReadLimits = ReadLimits { events: usize::MAX, bytes: usize::MAX, upto: Seq(u64::MAX) };

fn an_event_sent_again_is_recognised_however_it_is_written(store: &mut dyn Subject) {
    assert_eq!(append_one(store, event("e1", r#"{"a":1,"b":[1.0,"x"]}"#)), "new 1");
    let again = [r#"{"a":1,"b":[1.0,"x"]}"#, r#"{ "b": [1.0, "x"], "a": 1 }"#, "{\"a\":1,\n\"b\":[1.0,\"\\u0078\"]}"];
    for body in again {
        assert_eq!(append_one(store, event("e1", body)), "duplicate of 1", "{body}");
    }
    assert_eq!(store.log().head(), Seq(1));
    assert_eq!(read(store, 1, ALL), [1]);
}

fn another_event_with_the_same_id_is_a_conflict(store: &mut dyn Subject) {
    assert_eq!(append_one(store, event("e1", r#"{"a":1}"#)), "new 1");
    assert_eq!(append_one(store, event("e1", r#"{"a":2}"#)), "conflict with 1");
    assert_eq!(store.log().get(Seq(1)).expect("reads").expect("is there").body, r#"{"a":1}"#);
}

fn an_id_is_unique_within_its_org_only(store: &mut dyn Subject) {
    assert_eq!(append_one(store, event_of("acme", "e1", "{}")), "new 1");
    assert_eq!(append_one(store, event_of("other", "e1", r#"{"a":2}"#)), "new 2");
    assert_eq!(append_one(store, event_of("", "e1", r#"{"a":3}"#)), "new 3");
    assert_eq!(store.log().find("other", "e1").expect("finds"), Some(Seq(2)));
    assert_eq!(store.log().find("other", "e").expect("finds"), None);
    assert_eq!(store.log().find_all("e1", 2).expect("finds").len(), 2);
    assert!(store.log().find_all("e", 9).expect("finds").is_empty());
}

fn duplicates_within_one_group_are_recognised(store: &mut dyn Subject) {
    let told = append(
        store,
        vec![
            loose(vec![event("e1", r#"{"a":1,"b":2}"#), event("e1", r#"{"b":2,"a":1}"#)]),
            loose(vec![event("e1", r#"{"a":9}"#)]),
            AppendUnit { events: vec![event("e2", "{}"), event("e2", "{ }")], atomic: true },
        ],
    );
    assert_eq!(told[0], ["new 1", "duplicate of 1"]);
    assert_eq!(told[1], ["conflict with 1"]);
    assert_eq!(told[2], ["new 2", "duplicate of 2"]);
    assert_eq!(store.log().head(), Seq(2));
}

fn an_id_is_remembered_across_segments_and_openings(store: &mut dyn Subject) {
    fill(store, 35);
    assert_eq!(store.log().segments().len(), 4);
    let check = |store: &dyn Subject| {
        for n in [1, 10, 11, 25, 31, 35] {
            let id = format!("e{n}");
            assert_eq!(append_one(store, event(&id, &body(n))), format!("duplicate of {n}"));
            assert_eq!(append_one(store, event(&id, &format!(" {} ", body(n)))), format!("duplicate of {n}"));
            assert_eq!(append_one(store, event(&id, "{}")), format!("conflict with {n}"));
        }
    };
    check(store);
    store.restart();
    assert_eq!((store.log().head(), store.log().earliest()), (Seq(35), Seq(1)));
    check(store);
    fill(store, 47);
    store.restart();
    check(store);
    assert_eq!(read(store, 1, ALL), (1..=47).collect::<Vec<_>>());
}

fn an_atomic_unit_with_a_conflict_leaves_nothing(store: &mut dyn Subject) {
    fill(store, 1);
    let told = append(
        store,
        vec![
            AppendUnit {
                events: vec![event("a", "{}"), event("e1", r#"{"other":1}"#), event("b", "{}")],
                atomic: true,
            },
            AppendUnit { events: vec![event("c", "{}"), event("c", r#"{"other":1}"#)], atomic: true },
            AppendUnit { events: vec![event("a", r#"{"mine":1}"#), event("e1", &body(1))], atomic: true },
        ],
    );
    assert_eq!(told[0], ["withheld", "conflict with 1", "withheld"]);
    assert_eq!(told[1][0], "withheld");
    assert!(told[1][1].starts_with("conflict"));
    assert_eq!(told[2], ["new 2", "duplicate of 1"], "an id of a unit that was withheld is free");
    assert_eq!(store.log().find("acme", "b").expect("finds"), None);
    assert_eq!(read(store, 1, ALL), [1, 2]);
}

fn a_conflict_keeps_only_itself_out_of_a_loose_unit(store: &mut dyn Subject) {
    fill(store, 1);
    let events = vec![event("a", "{}"), event("e1", r#"{"other":1}"#), event("b", "{}")];
    assert_eq!(append(store, vec![loose(events)])[0], ["new 2", "conflict with 1", "new 3"]);
}

fn bodies_of_any_size_come_back_as_they_went_in(store: &mut dyn Subject) {
    let sizes = [2, 60 << 10, (60 << 10) + 1, 200_000, 1 << 20];
    let bodies: Vec<String> = sizes.iter().map(|size| format!(r#"{{"x":"{}"}}"#, "y".repeat(*size))).collect();
    for (n, body) in bodies.iter().enumerate() {
        assert_eq!(append_one(store, event(&format!("big{n}"), body)), format!("new {}", n + 1));
    }
    append_one(store, event("last", "{}"));
    let check = |store: &dyn Subject| {
        let events = store.log().read(Seq(1), ALL).expect("reads");
        assert_eq!(events.len(), sizes.len() + 1);
        for ((event, body), seq) in events.iter().zip(&bodies).zip(1..) {
            assert_eq!(event.seq, Seq(seq));
            assert_eq!(event.body, body.as_bytes());
            assert_eq!(store.log().get(Seq(seq)).expect("reads").expect("is there").body, body.as_bytes());
        }
    };
    check(store);
    store.restart();
    check(store);
    assert_eq!(append_one(store, event("big4", &format!("{} ", bodies[4]))), "duplicate of 5");
}

fn a_read_stops_at_its_limits_and_crosses_segments(store: &mut dyn Subject) {
    assert!(read(store, 1, ALL).is_empty());
    fill(store, 25);
    assert_eq!(read(store, 8, ReadLimits { events: 5, ..ALL }), [8, 9, 10, 11, 12]);
    assert_eq!(read(store, 8, ReadLimits { upto: Seq(9), ..ALL }), [8, 9]);
    assert_eq!(read(store, 8, ReadLimits { bytes: 1, ..ALL }), [8], "one event however large");
    assert_eq!(read(store, 0, ReadLimits { events: 1, ..ALL }), [1]);
    assert!(read(store, 26, ALL).is_empty());
    assert_eq!(store.log().get(Seq(26)).expect("reads").map(|event| event.seq), None);
}

fn dropped_segments_take_their_events_and_ids_with_them(store: &mut dyn Subject) {
    fill(store, 35);
    assert_eq!(store.log().truncate(Seq(10)).expect("truncates"), [], "position 9 and before do not end a segment");
    let dropped = |first, last| DroppedSegment { first: Seq(first), last: Seq(last) };
    assert_eq!(store.log().truncate(Seq(25)).expect("truncates"), [dropped(1, 10), dropped(11, 20)]);
    let check = |store: &dyn Subject| {
        assert_eq!((store.log().earliest(), store.log().head()), (Seq(21), Seq(35)));
        assert_eq!(read(store, 1, ALL), (21..=35).collect::<Vec<_>>());
        assert_eq!(store.log().get(Seq(20)).expect("reads").map(|event| event.seq), None);
        assert_eq!(store.log().find("acme", "e20").expect("finds"), None);
        assert_eq!(append_one(store, event("e21", &body(21))), "duplicate of 21");
    };
    check(store);
    store.restart();
    check(store);
    assert_eq!(append_one(store, event("e5", "{}")), "new 36", "its id was forgotten with its segment");
}

fn the_newest_segment_is_never_dropped(store: &mut dyn Subject) {
    assert_eq!(store.log().earliest(), Seq(1));
    assert_eq!(store.log().truncate(Seq(u64::MAX)).expect("truncates"), []);
    fill(store, 20);
    store.log().truncate(Seq(u64::MAX)).expect("truncates");
    assert_eq!((store.log().earliest(), store.log().head()), (Seq(11), Seq(20)));
    store.restart();
    fill(store, 21);
    assert_eq!(store.log().truncate(Seq(u64::MAX)).expect("truncates").len(), 1);
    store.restart();
    assert_eq!((store.log().earliest(), store.log().head()), (Seq(21), Seq(21)));
    fill(store, 22);
}

fn row(attempts: u32) -> RowRecord {
    RowRecord {
        state: RowState::Retry { due_at: UnixMs(NOW) },
        attempts,
        key: 7,
        epoch: 3,
        first_attempt: Some(UnixMs(NOW)),
        last_attempt: None,
        last_error: Some("status 500".to_owned()),
    }
}

fn commit(store: &dyn Subject, ops: Vec<StateOp>) {
    store.state().commit(ops, Durability::Synced).expect("commits");
}

fn rows_are_kept_per_consumer_and_in_order(store: &mut dyn Subject) {
    let (a, b) = (ConsumerId::new("whk_a"), ConsumerId::handler("b"));
    commit(
        store,
        vec![
            StateOp::PutRow(a.clone(), Seq(300), row(1)),
            StateOp::PutRow(a.clone(), Seq(2), row(2)),
            StateOp::PutRow(b.clone(), Seq(2), row(3)),
            StateOp::DeleteRow(b.clone(), Seq(2)),
            StateOp::PutRow(a.clone(), Seq(2), row(4)),
        ],
    );
    store.restart();
    let rows = store.state().rows(&a).expect("reads");
    assert_eq!(rows, [(Seq(2), row(4)), (Seq(300), row(1))], "the last word on a row counts");
    assert_eq!(store.state().rows(&b).expect("reads"), []);
    assert_eq!(store.state().consumers_with_rows().expect("reads"), std::slice::from_ref(&a));
    commit(store, vec![StateOp::DropConsumer(a.clone()), StateOp::PutRow(a.clone(), Seq(9), row(1))]);
    assert_eq!(store.state().rows(&a).expect("reads"), [(Seq(9), row(1))], "what comes after the end is a beginning");
    commit(store, vec![StateOp::DropConsumer(a.clone())]);
    assert_eq!(store.state().rows(&a).expect("reads"), []);
    assert!(store.state().consumers_with_rows().expect("reads").is_empty());
}

fn a_checkpoint_sets_and_clears_positions(store: &mut dyn Subject) {
    let (a, b, c) = (ConsumerId::new("whk_a"), ConsumerId::new("whk_b"), ConsumerId::new("whk_c"));
    assert_eq!(store.state().checkpoints().expect("reads").router, None);
    let ahead = Position { cursor: Seq(4), ahead: vec![(Seq(6), Seq(8))] };
    let set = vec![(a.clone(), ahead.clone()), (b.clone(), Position::at(Seq(5))), (c.clone(), Position::at(Seq(6)))];
    commit(store, vec![StateOp::Checkpoint { router: Seq(9), set, clear: Vec::new() }]);
    commit(store, vec![StateOp::Checkpoint { router: Seq(12), set: Vec::new(), clear: vec![b] }]);
    commit(store, vec![StateOp::DropConsumer(c)]);
    store.restart();
    let there = store.state().checkpoints().expect("reads");
    assert_eq!((there.router, there.consumers), (Some(Seq(12)), vec![(a, ahead)]));
}

fn page(at_ms: u64, seqs: std::ops::Range<u64>) -> AttemptPage {
    let attempt = |seq| AttemptRecord {
        seq: Seq(seq),
        event_id: format!("e{seq}"),
        attempt: 1,
        at: UnixMs(at_ms),
        latency_ms: 3,
        outcome: "delivered".to_owned(),
        status: Some(200),
        error: None,
        snippet: String::new(),
        next_try_at: None,
    };
    AttemptPage { attempts: seqs.map(attempt).collect() }
}

fn attempts_come_newest_first_page_by_page(store: &mut dyn Subject) {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    let (a, b) = (ConsumerId::new("whk_a"), ConsumerId::new("whk_ab"));
    commit(
        store,
        vec![
            StateOp::Attempts(a.clone(), page(NOW, 1..3)),
            StateOp::Attempts(a.clone(), page(NOW, 3..5)),
            StateOp::Attempts(b.clone(), page(NOW, 90..91)),
        ],
    );
    store.restart();
    commit(store, vec![StateOp::Attempts(a.clone(), page(NOW, 5..6))]);
    commit(store, vec![StateOp::Attempts(a.clone(), page(NOW + DAY_MS, 6..7))]);
    let firsts = |store: &dyn Subject, before, pages| -> (Vec<u64>, Option<PageKey>) {
        let found = store.state().attempts(&a, before, pages).expect("reads");
        let last = found.last().map(|(key, _)| *key);
        (found.iter().map(|(_, page)| page.attempts[0].seq.0).collect(), last)
    };
    let (newest, last) = firsts(store, PageKey::MAX, 2);
    assert_eq!(newest, [6, 5], "the same time after a new opening overwrites nothing");
    assert_eq!(firsts(store, last.expect("a page"), 9).0, [3, 1]);
    store.state().expire(NOW + DAY_MS / 2, 0).expect("expires");
    assert_eq!(firsts(store, PageKey::MAX, 9).0, [6]);
}

fn dead_letter(n: u64, bytes: usize) -> DeadLetterRecord {
    DeadLetterRecord {
        id: format!("dlq_{n:04}"),
        at: UnixMs(NOW + n),
        consumer: ConsumerId::new(if n.is_multiple_of(2) { "whk_a" } else { "whk_b" }),
        seq: Seq(n),
        event_id: format!("e{n}"),
        event_type: "a.b".to_owned(),
        org: "acme".to_owned(),
        correlation_id: None,
        event: vec![b'x'; bytes],
        error_message: "status 500".to_owned(),
        error_kind: "status".to_owned(),
        error_code: Some(500),
        error_detail: String::new(),
        attempts: 3,
        first_attempt: None,
        last_attempt: None,
    }
}

fn dead_letters_come_newest_first_and_expire(store: &mut dyn Subject) {
    let sizes = [10, 200_000, 10, 1 << 20, 10];
    let letters: Vec<DeadLetterRecord> = sizes.iter().zip(1..).map(|(size, n)| dead_letter(n, *size)).collect();
    commit(store, letters.iter().map(|one| StateOp::PutDeadLetter(Box::new(one.clone()))).collect());
    store.restart();
    let ids = |store: &dyn Subject, before: Option<&str>, limit| -> Vec<String> {
        store.state().dead_letters(before, limit).expect("reads").into_iter().map(|one| one.id).collect()
    };
    assert_eq!(ids(store, None, 2), ["dlq_0005", "dlq_0004"]);
    assert_eq!(ids(store, Some("dlq_0004"), 9), ["dlq_0003", "dlq_0002", "dlq_0001"]);
    assert_eq!(store.state().dead_letter("dlq_0004").expect("reads").as_ref(), Some(&letters[3]));
    assert_eq!(store.state().dead_letter("dlq_").expect("reads"), None);
    let counts = store.state().dead_letter_counts().expect("reads");
    assert_eq!(counts, [(ConsumerId::new("whk_a"), 2), (ConsumerId::new("whk_b"), 3)]);
    assert_eq!(store.state().expire(0, NOW + 3).expect("expires"), 2);
    assert_eq!(ids(store, None, 9), ["dlq_0005", "dlq_0004", "dlq_0003"]);
    assert_eq!(store.state().dead_letter("dlq_0004").expect("reads").as_ref(), Some(&letters[3]));
}

fn a_document_changes_only_from_the_revision_that_is_known(store: &mut dyn Subject) {
    let registry = store.registry();
    assert_eq!(registry.put("webhook", "b", b"1", None).expect("is new"), 1);
    assert_eq!(registry.put("webhook", "a", b"2", None).expect("is new"), 1);
    assert_eq!(registry.put("webhooks", "a", b"3", None).expect("another kind"), 1);
    assert_eq!(registry.put("webhook", "b", b"4", Some(1)).expect("is known"), 2);
    for expected in [None, Some(1), Some(3)] {
        let refused = registry.put("webhook", "b", b"5", expected).expect_err("is not known");
        assert!(matches!(refused, StoreError::Revision { found: Some(2), expected: of } if of == expected));
    }
    let refused = registry.put("webhook", "c", b"5", Some(1)).expect_err("is not there");
    assert!(matches!(refused, StoreError::Revision { found: None, expected: Some(1) }));
    store.restart();
    let registry = store.registry();
    let listed: Vec<(String, u64, Vec<u8>)> =
        registry.list("webhook").expect("lists").into_iter().map(|one| (one.key, one.revision, one.bytes)).collect();
    assert_eq!(listed, [("a".to_owned(), 1, b"2".to_vec()), ("b".to_owned(), 2, b"4".to_vec())]);
    assert!(registry.delete("webhook", "b").expect("deletes"));
    assert!(!registry.delete("webhook", "b").expect("is gone"));
    assert_eq!(registry.get("webhook", "b").expect("reads"), None);
    assert_eq!(registry.put("webhook", "b", b"6", None).expect("is new again"), 1);
}

fn index_rows_come_back_as_they_were_written_and_go_from_the_old_end(store: &mut dyn Subject) {
    const BLOCK: u64 = IndexLevel::Block.events();
    let row = |level, number| IndexRow { level, number };
    let large = vec![7; crate::ground::limits::ROW_BYTES_MAX];
    for level in IndexLevel::ALL {
        assert_eq!(store.index().newest_row(level).expect("reads"), None);
        assert_eq!(store.index().row(row(level, 0)).expect("reads"), None);
        for number in [0, 1, 2, 300] {
            store.index().put_row(row(level, number), &number.to_be_bytes()).expect("writes");
        }
        store.index().put_row(row(level, 2), &large).expect("writes again");
        assert_eq!(store.index().newest_row(level).expect("reads"), Some(row(level, 300)));
    }
    let blocks = IndexLevel::Block;
    assert_eq!(store.index().drop_rows(blocks, Seq(BLOCK)).expect("drops"), 1);
    assert_eq!(
        store.index().drop_rows(blocks, Seq(2 * BLOCK - 1)).expect("drops"),
        0,
        "the last of it is still needed"
    );
    assert_eq!(store.index().drop_rows(blocks, Seq(2 * BLOCK)).expect("drops"), 1);
    assert_eq!(store.index().row(row(blocks, 1)).expect("reads"), None);
    assert_eq!(store.index().row(row(blocks, 2)).expect("reads"), Some(large));
    assert_eq!(store.index().row(row(IndexLevel::Group, 1)).expect("reads"), Some(1_u64.to_be_bytes().to_vec()));
}

#[test]
fn after_an_opening_no_index_row_is_past_the_head() {
    const BLOCK: u64 = IndexLevel::Block.events();
    let mut store = OnEngine::new();
    let events = (1..=2 * BLOCK).map(|n| event(&format!("e{n}"), "{}")).collect();
    append(&store, vec![loose(events)]);
    for level in IndexLevel::ALL {
        for number in 0..5 {
            store.index().put_row(IndexRow { level, number }, b"row").expect("writes");
        }
    }
    store.restart();
    let newest = store.index().newest_row(IndexLevel::Block).expect("reads");
    assert_eq!(newest, Some(IndexRow { level: IndexLevel::Block, number: 1 }), "the third block is not complete");
    assert_eq!(store.index().newest_row(IndexLevel::Group).expect("reads"), None);
}

fn after_a_failed_append_nothing_is_lost_and_work_goes_on(store: &mut dyn Subject) {
    fill(store, 13);
    commit(store, vec![StateOp::PutRow(ConsumerId::new("whk_a"), Seq(3), row(1))]);
    store.tear_next_append();
    let failed = store.log().append(vec![loose(vec![event("torn", "{}")])]).expect_err("fails");
    assert!(matches!(failed, StoreError::Engine(_)));
    assert_eq!(store.log().head().0.max(13), store.log().head().0, "the head is known meanwhile");
    store.wait_until_open();
    assert_eq!(read(store, 1, ReadLimits { upto: Seq(13), ..ALL }), (1..=13).collect::<Vec<_>>());
    assert_eq!(store.state().rows(&ConsumerId::new("whk_a")).expect("reads").len(), 1);
    // Whether the event that failed is in the log is unknown to its producer, who sends it again.
    let again = append_one(store, event("torn", "{}"));
    assert!(again == "new 14" || again == "duplicate of 14", "{again}");
    assert_eq!(append_one(store, event("torn", "{}")), "duplicate of 14");
    fill(store, 16);
    store.restart();
    assert_eq!(read(store, 1, ALL), (1..=16).collect::<Vec<_>>());
}

#[test]
fn a_failed_engine_answers_unavailable_until_it_is_open_again() {
    let store = OnEngine::new();
    fill(&store, 3);
    let engine = store.engine();
    store.tear_next_append();
    engine.append(vec![loose(vec![event("torn", "{}")])]).expect_err("fails");
    let mut refused = 0;
    while !engine.is_available() {
        match engine.append(vec![loose(vec![event("e3", &body(3))])]) {
            Err(StoreError::Unavailable) => refused += 1,
            Ok(_) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "the database is open again before anybody could ask");
    assert_eq!(engine.reopened(), 1);
}

#[test]
fn the_fake_fails_as_planned() {
    let store = FakeStore::new(SEGMENT_EVENTS);
    store.plan(Call::Append, 2, Fault::Error);
    fill(&OnFake(Arc::clone(&store)), 1);
    store.append(vec![loose(vec![event("e2", "{}")])]).expect_err("the second fails");
    assert!(matches!(store.rows(&ConsumerId::new("a")), Err(StoreError::Unavailable)));
    store.reopen();
    assert_eq!(store.head(), Seq(1), "an error leaves nothing");
    store.plan(Call::Append, 1, Fault::Torn);
    store.append(vec![loose(vec![event("e2", "{}")])]).expect_err("is torn");
    store.reopen();
    assert_eq!(store.head(), Seq(2), "what is torn is there");
    store.plan(Call::Append, 1, Fault::Stall);
    let (stalled, waiting) = (Arc::clone(&store), Arc::clone(&store));
    let appending = std::thread::spawn(move || stalled.append(vec![loose(vec![event("e3", "{}")])]));
    while !waiting.is_stalled() {
        std::thread::yield_now();
    }
    assert_eq!(store.head(), Seq(2));
    store.release();
    appending.join().expect("ends").expect("appends");
    assert_eq!(store.head(), Seq(3));
}

#[test]
fn a_nearly_full_disk_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::open(options(dir.path(), u64::MAX)).expect("reading needs no space");
    for _ in 0..3 {
        let refused = engine.append(vec![loose(vec![event("e1", "{}")])]).expect_err("no disk is as large");
        assert!(matches!(refused, StoreError::DiskFull { floor: u64::MAX, .. }));
    }
    assert_eq!(engine.head(), Seq::ZERO);
}

#[test]
fn appends_from_two_threads_take_different_places() {
    let store = OnEngine::new();
    let engine = store.engine.clone().expect("open");
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let engine = Arc::clone(&engine);
            std::thread::spawn(move || {
                for n in 0..25 {
                    let one = event(&format!("t{thread}-{n}"), "{}");
                    engine.append(vec![loose(vec![one])]).expect("appends");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("ends"));
    assert_eq!(read(&store, 1, ALL), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_reader_of_a_segment_that_is_dropped_does_not_close_the_store() {
    let store = OnEngine::new();
    let engine = store.engine.clone().expect("open");
    let reading = Arc::clone(&engine);
    let reader = std::thread::spawn(move || {
        loop {
            match reading.read(Seq(1), ALL) {
                Ok(events) => {
                    assert!(events.windows(2).all(|pair| pair[0].seq.next() == pair[1].seq), "no hole within");
                    if events.last().is_some_and(|last| last.seq == Seq(300)) {
                        return;
                    }
                }
                Err(StoreError::Unavailable) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let dropping = Arc::clone(&engine);
    let retention = std::thread::spawn(move || {
        while dropping.head() < Seq(300) {
            dropping.truncate(dropping.head()).expect("truncates");
        }
    });
    fill(&store, 300);
    retention.join().expect("ends");
    reader.join().expect("ends");
    assert_eq!(engine.reopened(), 0);
    assert_eq!(read(&store, 291, ALL).len(), 10);
}
