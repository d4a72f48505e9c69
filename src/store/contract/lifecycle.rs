//! Where aggregates stand in their declared order.

use super::*;
use crate::store::lifecycle::{Commit, Cursors, Flag, Generation, Place};

contract!(
    what_a_step_has_found_is_there_after_a_restart,
    flags_come_in_order_and_go_with_what_retention_drops,
    what_is_forgotten_of_one_declaration_stays_of_another,
);

fn place(state: &str, seq: u64) -> Place {
    Place { state: state.to_owned(), seq: Seq(seq) }
}

fn flag(generation: u64, aggregate_id: &str) -> Flag {
    Flag {
        generation: Generation(generation),
        event_id: "e".to_owned(),
        event_type: "a.b".to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        state: "x".to_owned(),
        now: "y".to_owned(),
        expected: vec!["a.c".to_owned()],
    }
}

fn put(store: &dyn Subject, places: &[(u64, &str, Place)], flags: &[(u64, Flag)], cursors: &[(u64, u64)]) {
    let commit = Commit {
        cursors: Cursors(cursors.iter().map(|(generation, seq)| (Generation(*generation), Seq(*seq))).collect()),
        places: places
            .iter()
            .map(|(generation, id, place)| (Generation(*generation), (*id).to_owned(), place.clone()))
            .collect(),
        flags: flags.iter().map(|(seq, flag)| (Seq(*seq), flag.clone())).collect(),
    };
    store.lifecycle().put_lifecycle(&commit).expect("writes");
}

fn found(store: &dyn Subject, generation: u64, id: &str) -> Option<Place> {
    store.lifecycle().place(Generation(generation), id).expect("reads")
}

fn what_a_step_has_found_is_there_after_a_restart(store: &mut dyn Subject) {
    assert_eq!(store.lifecycle().lifecycle_cursors().expect("reads"), Cursors::default());
    put(store, &[(1, "7", place("new", 3)), (2, "7", place("open", 4))], &[(4, flag(2, "7"))], &[(1, 9), (2, 9)]);
    put(store, &[(1, "7", place("paid", 12))], &[], &[(1, 12), (2, 12)]);
    store.restart();
    assert_eq!(found(store, 1, "7"), Some(place("paid", 12)));
    assert_eq!(found(store, 2, "7"), Some(place("open", 4)));
    assert_eq!((found(store, 1, "8"), found(store, 3, "7")), (None, None));
    assert_eq!(store.lifecycle().flag(Seq(4)).expect("reads"), Some(flag(2, "7")));
    assert_eq!(store.lifecycle().flag(Seq(5)).expect("reads"), None);
    let cursors = store.lifecycle().lifecycle_cursors().expect("reads");
    assert_eq!(cursors, Cursors(vec![(Generation(1), Seq(12)), (Generation(2), Seq(12))]));
}

fn flags_come_in_order_and_go_with_what_retention_drops(store: &mut dyn Subject) {
    let flags: Vec<(u64, Flag)> = (1..=300).map(|seq| (seq, flag(seq % 2, "a"))).collect();
    put(store, &[], &flags, &[]);
    let read = |after: u64, limit: usize, most: usize| -> Vec<u64> {
        let found = store.lifecycle().flags_after(Seq(after), limit, most, &|flag| flag.generation == Generation(0));
        found.expect("reads").iter().map(|(seq, _)| seq.0).collect()
    };
    assert_eq!(read(0, 3, 100), [2, 4, 6]);
    assert_eq!(read(4, 9, 5), [6, 8], "no more than five are looked at");
    store.lifecycle().drop_flags(Seq(298)).expect("drops");
    let read = store.lifecycle().flags_after(Seq(0), 9, 99, &|_| true).expect("reads");
    assert_eq!(read.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), [298, 299, 300]);
}

fn what_is_forgotten_of_one_declaration_stays_of_another(store: &mut dyn Subject) {
    let ids: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    let places: Vec<(u64, &str, Place)> =
        ids.iter().flat_map(|id| [(1, id.as_str(), place("x", 1)), (2, id.as_str(), place("y", 1))]).collect();
    put(store, &places, &[], &[(1, 1), (2, 1)]);
    let forget = |limit| store.lifecycle().forget_places(Generation(1), limit).expect("forgets");
    assert_eq!((forget(10), forget(10), forget(10), forget(10)), (10, 10, 5, 0));
    assert!(ids.iter().all(|id| found(store, 1, id).is_none() && found(store, 2, id) == Some(place("y", 1))));
    assert_eq!(store.lifecycle().lifecycle_cursors().expect("reads").0.len(), 2);
}
