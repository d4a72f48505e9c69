//! What is known of idempotency keys.

use super::*;
use crate::store::{KeptAnswer, KeyOp, KeyPlace, KeyRecord, StoreError};

contract!(
    an_answer_may_begin_with_any_byte,
    what_is_known_of_a_key_is_there_after_a_restart_with_its_answer,
    a_forgotten_key_is_gone_with_its_answer_and_the_rest_stays,
    old_keys_are_swept_away_and_newer_ones_stay,
    a_commit_that_failed_leaves_the_others_as_they_were,
);

const MINUTE_MS: u64 = 60_000;

fn record(minutes: u64, number: u64, answer: Option<usize>) -> KeyRecord {
    let first = UnixMs(NOW + minutes * MINUTE_MS);
    let kept = |bytes: usize| KeptAnswer { status: 202, note: String::new(), bytes: u32::try_from(bytes).ok() };
    KeyRecord {
        id: [u8::try_from(number).expect("small"); 32],
        org: "acme".to_owned(),
        fingerprint: [1; 32],
        place: KeyPlace { first, number },
        epoch: number,
        since: first,
        until: first.plus_ms(1_000),
        done: answer.map(kept),
    }
}

fn body(bytes: usize) -> Bytes {
    (0..bytes).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

fn done(minutes: u64, number: u64, bytes: usize) -> KeyOp {
    KeyOp::Done(record(minutes, number, Some(bytes)), Some(body(bytes)))
}

fn put(store: &dyn Subject, ops: &[KeyOp]) {
    store.idempotency().commit_keys(ops, Durability::Synced).expect("commits");
}

fn numbers(store: &dyn Subject) -> Vec<u64> {
    let mut out = Vec::new();
    store.idempotency().keys(&mut |record| out.push(record.place.number)).expect("reads");
    out
}

fn what_is_known_of_a_key_is_there_after_a_restart_with_its_answer(store: &mut dyn Subject) {
    put(store, &[KeyOp::Put(record(0, 1, None)), KeyOp::Put(record(0, 2, None)), KeyOp::Put(record(700, 3, None))]);
    put(store, &[done(0, 2, 300_000), done(700, 3, 10), KeyOp::Done(record(0, 4, Some(9)), None)]);
    store.restart();
    let mut all = Vec::new();
    store.idempotency().keys(&mut |record| all.push(record)).expect("reads");
    let wanted = [record(0, 1, None), record(0, 2, Some(300_000)), record(0, 4, Some(9)), record(700, 3, Some(10))];
    assert_eq!(all, wanted);
    let answer = |record: &KeyRecord| store.idempotency().key_answer(record.place).expect("reads");
    assert_eq!(all.iter().map(answer).collect::<Vec<_>>(), [None, Some(body(300_000)), None, Some(body(10))]);
    assert_eq!(answer(&record(9_000, 1, None)), None);
}

fn an_answer_may_begin_with_any_byte(store: &mut dyn Subject) {
    let answer = |first: u8, bytes: usize| [&[first][..], &body(bytes)].concat();
    for first in [0, 1, 2, 0xfe, 0xff] {
        for bytes in [0, 10, 200_000] {
            let record = record(0, 1, Some(bytes + 1));
            let place = record.place;
            put(store, &[KeyOp::Done(record, Some(Bytes::from(answer(first, bytes))))]);
            let read = store.idempotency().key_answer(place).expect("reads");
            assert!(read.as_deref() == Some(&answer(first, bytes)), "{first} and {bytes} more");
            put(store, &[KeyOp::Forget(place)]);
        }
    }
}

fn a_forgotten_key_is_gone_with_its_answer_and_the_rest_stays(store: &mut dyn Subject) {
    put(store, &[done(0, 1, 200_000), done(0, 2, 10)]);
    let gone = [KeyOp::Forget(record(0, 1, None).place), KeyOp::Forget(record(800, 9, None).place)];
    put(store, &gone);
    assert_eq!(numbers(store), [2]);
    assert_eq!(store.idempotency().key_answer(record(0, 1, None).place).expect("reads"), None);
    assert_eq!(store.idempotency().key_answer(record(0, 2, None).place).expect("reads"), Some(body(10)));
}

fn old_keys_are_swept_away_and_newer_ones_stay(store: &mut dyn Subject) {
    put(store, &[done(0, 1, 10), done(60, 2, 10), done(120, 3, 10)]);
    store.idempotency().sweep_keys(UnixMs(NOW + 90 * MINUTE_MS)).expect("sweeps");
    store.restart();
    assert_eq!(numbers(store), [3]);
    store.idempotency().sweep_keys(UnixMs(NOW + 150 * MINUTE_MS)).expect("sweeps");
    assert!(numbers(store).is_empty());
    put(store, &[done(0, 4, 10)]);
    assert_eq!(numbers(store), [4], "a time that was swept takes keys again");
}

fn a_commit_that_failed_leaves_the_others_as_they_were(store: &mut dyn Subject) {
    put(store, &[done(0, 1, 10)]);
    store.tear_next_keys();
    let failed = store.idempotency().commit_keys(&[done(0, 2, 10)], Durability::Synced).expect_err("fails");
    assert!(matches!(failed, StoreError::Engine(_)));
    store.wait_until_open();
    let left = numbers(store);
    assert!(left == [1] || left == [1, 2], "whether it is there is unknown: {left:?}");
}

#[test]
fn the_trees_of_a_stretch_are_dropped_with_it() {
    let store = OnEngine::new();
    put(&store, &[done(0, 1, 10), done(60, 2, 10)]);
    let trees = || store.engine().idempotency_trees().expect("reads");
    assert_eq!(trees(), 4);
    store.idempotency().sweep_keys(UnixMs(NOW + 30 * MINUTE_MS)).expect("sweeps");
    assert_eq!(trees(), 2);
    store.idempotency().sweep_keys(UnixMs(NOW + 90 * MINUTE_MS)).expect("sweeps");
    assert_eq!(trees(), 0);
}
