//! The log: an id is known for as long as its event is there, and a read crosses what is cut.

use super::*;
use crate::store::{DroppedSegment, StoreError};

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
);

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
