//! Events that wait for their time.

use super::*;
use crate::store::{ScheduleKey, ScheduledRecord, StoreError};

contract!(
    what_is_scheduled_comes_in_the_order_of_its_time_also_after_a_restart,
    a_page_is_bounded_in_events_and_bytes_and_goes_on_where_it_ended,
    what_is_removed_is_gone_and_the_rest_stays,
    a_scheduling_that_failed_leaves_the_others_as_they_were,
);

const HOUR_MS: u64 = 3_600_000;

fn key(hours: u64, number: u64) -> ScheduleKey {
    ScheduleKey { due_at: UnixMs(NOW + hours * HOUR_MS), number }
}

fn record(bytes: usize) -> ScheduledRecord {
    let created = WriteContext { by: "key:k".to_owned(), at: UnixMs(NOW), ..WriteContext::default() };
    ScheduledRecord { created, event: Bytes::from(vec![b'e'; bytes]) }
}

fn put(store: &dyn Subject, events: &[(ScheduleKey, usize)]) {
    let events: Vec<_> = events.iter().map(|(key, bytes)| (*key, record(*bytes))).collect();
    store.schedule().put_scheduled(&events).expect("writes");
}

fn keys(store: &dyn Subject, from: ScheduleKey, limit: usize, bytes: usize) -> Vec<ScheduleKey> {
    store.schedule().scheduled_from(from, limit, bytes).expect("reads").into_iter().map(|(key, _)| key).collect()
}

fn all(store: &dyn Subject) -> Vec<ScheduleKey> {
    keys(store, ScheduleKey::MIN, usize::MAX, usize::MAX)
}

fn what_is_scheduled_comes_in_the_order_of_its_time_also_after_a_restart(store: &mut dyn Subject) {
    // Far apart and close together, short and longer than a row.
    put(store, &[(key(9_000, 1), 10), (key(0, 2), 200_000), (key(0, 3), 10)]);
    put(store, &[(key(5, 4), 1 << 20), (key(0, 5), 60 << 10)]);
    store.restart();
    let wanted = [key(0, 2), key(0, 3), key(0, 5), key(5, 4), key(9_000, 1)];
    assert_eq!(all(store), wanted);
    let read = store.schedule().scheduled_from(ScheduleKey::MIN, 9, usize::MAX).expect("reads");
    let lengths: Vec<usize> = read.iter().map(|(_, record)| record.event.len()).collect();
    assert_eq!(lengths, [200_000, 10, 60 << 10, 1 << 20, 10]);
    assert!(read.iter().all(|(_, one)| *one == record(one.event.len())));
    assert_eq!(store.schedule().scheduled(key(5, 4)).expect("reads"), Some(record(1 << 20)));
    for absent in [key(5, 3), key(6, 4), key(20_000, 1), ScheduleKey::MIN] {
        assert_eq!(store.schedule().scheduled(absent).expect("reads"), None);
    }
}

fn a_page_is_bounded_in_events_and_bytes_and_goes_on_where_it_ended(store: &mut dyn Subject) {
    put(store, &[(key(0, 1), 100), (key(0, 2), 100), (key(7, 3), 100_000), (key(7, 4), 100), (key(14, 5), 100)]);
    assert_eq!(keys(store, ScheduleKey::MIN, 3, usize::MAX), [key(0, 1), key(0, 2), key(7, 3)]);
    assert_eq!(keys(store, key(7, 3).next(), 9, usize::MAX), [key(7, 4), key(14, 5)]);
    assert_eq!(keys(store, ScheduleKey::MIN, 9, 150), [key(0, 1), key(0, 2)]);
    assert_eq!(keys(store, key(7, 3), 9, 1), [key(7, 3)], "one is given however long it is");
    assert_eq!(keys(store, key(15, 0), 9, 9), []);
}

fn what_is_removed_is_gone_and_the_rest_stays(store: &mut dyn Subject) {
    put(store, &[(key(0, 1), 100), (key(0, 2), 200_000), (key(0, 3), 100), (key(9, 4), 100)]);
    store.schedule().remove_scheduled(&[key(0, 2), key(0, 2), key(9, 4), key(30, 9)]).expect("removes");
    assert_eq!(all(store), [key(0, 1), key(0, 3)]);
    assert_eq!(store.schedule().scheduled(key(0, 2)).expect("reads"), None);
    store.schedule().sweep_schedule(UnixMs(NOW + 40 * HOUR_MS)).expect("sweeps");
    store.restart();
    assert_eq!(all(store), [key(0, 1), key(0, 3)], "what is left is not swept away");
    store.schedule().remove_scheduled(&[key(0, 1), key(0, 3)]).expect("removes");
    store.schedule().sweep_schedule(UnixMs(NOW + 40 * HOUR_MS)).expect("sweeps");
    assert_eq!(all(store), []);
    put(store, &[(key(0, 7), 10)]);
    assert_eq!(all(store), [key(0, 7)], "a time that was swept takes events again");
}

fn a_scheduling_that_failed_leaves_the_others_as_they_were(store: &mut dyn Subject) {
    put(store, &[(key(0, 1), 100)]);
    store.tear_next_schedule();
    let failed = store.schedule().put_scheduled(&[(key(0, 2), record(10))]).expect_err("fails");
    assert!(matches!(failed, StoreError::Engine(_)));
    store.wait_until_open();
    // Whether it is there is unknown; what was there before is.
    let left = all(store);
    assert!(left == [key(0, 1)] || left == [key(0, 1), key(0, 2)], "{left:?}");
    put(store, &[(key(0, 3), 10)]);
    store.restart();
    assert!(all(store).contains(&key(0, 1)) && all(store).contains(&key(0, 3)));
}

#[test]
fn a_bucket_whose_time_is_over_is_dropped_when_it_is_empty() {
    let store = OnEngine::new();
    put(&store, &[(key(0, 1), 10), (key(40, 2), 10)]);
    let trees = |store: &OnEngine| store.engine().schedule_trees().expect("reads");
    assert_eq!(trees(&store), 2);
    store.schedule().sweep_schedule(UnixMs(NOW + 80 * HOUR_MS)).expect("sweeps");
    assert_eq!(trees(&store), 2, "they are not empty");
    store.schedule().remove_scheduled(&[key(0, 1), key(40, 2)]).expect("removes");
    store.schedule().sweep_schedule(UnixMs(NOW + 20 * HOUR_MS)).expect("sweeps");
    assert_eq!(trees(&store), 1, "the time of the other is to come");
    store.schedule().sweep_schedule(UnixMs(NOW + 80 * HOUR_MS)).expect("sweeps");
    assert_eq!(trees(&store), 0);
}
