//! Failures: nothing that was acknowledged is lost, and work goes on.

use super::*;
use crate::ground::ids::ConsumerId;
use crate::store::StoreError;

contract!(after_a_failed_append_nothing_is_lost_and_work_goes_on,);

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
