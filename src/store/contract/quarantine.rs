//! Events that were refused and are kept aside.

use super::*;
use crate::store::StoreError;
use crate::store::quarantine::tests::record;
use crate::store::quarantine::{QuarantineId, Standing};

contract!(
    what_is_kept_aside_is_there_after_a_restart_in_the_order_it_came,
    what_is_closed_lets_go_of_its_envelope_and_stays_known,
    what_is_dropped_is_gone_and_the_rest_stays,
    a_keeping_that_failed_leaves_the_others_as_they_were,
);

const DAY_MS: u64 = 24 * 3_600_000;

/// An id of this day.
fn id(days: u64, n: u128) -> QuarantineId {
    QuarantineId((u128::from(NOW + days * DAY_MS) << 80) + n)
}

fn envelope(bytes: usize) -> Bytes {
    Bytes::from(vec![b'e'; bytes])
}

fn keep(store: &dyn Subject, events: &[(QuarantineId, usize)]) {
    let events: Vec<_> =
        events.iter().map(|(id, bytes)| (*id, record(&id.to_string(), *bytes as u64), envelope(*bytes))).collect();
    store.quarantine().keep_aside(&events).expect("writes");
}

fn ids(store: &dyn Subject, after: Option<QuarantineId>, limit: usize) -> Vec<QuarantineId> {
    store.quarantine().aside_after(after, limit).expect("reads").into_iter().map(|(id, _)| id).collect()
}

fn what_is_kept_aside_is_there_after_a_restart_in_the_order_it_came(store: &mut dyn Subject) {
    keep(store, &[(id(9, 1), 10), (id(0, 2), 200_000)]);
    keep(store, &[(id(0, 3), 10), (id(1, 4), 60 << 10)]);
    store.restart();
    assert_eq!(ids(store, None, 9), [id(0, 2), id(0, 3), id(1, 4), id(9, 1)]);
    assert_eq!(ids(store, Some(id(0, 2)), 2), [id(0, 3), id(1, 4)]);
    let found = store.quarantine().aside(id(0, 2)).expect("reads").expect("is there");
    assert_eq!(found, (record(&id(0, 2).to_string(), 200_000), Some(envelope(200_000))));
    for absent in [id(0, 1), id(5, 1), id(9, 2)] {
        assert_eq!(store.quarantine().aside(absent).expect("reads"), None);
    }
}

fn what_is_closed_lets_go_of_its_envelope_and_stays_known(store: &mut dyn Subject) {
    keep(store, &[(id(0, 1), 100_000), (id(0, 2), 10)]);
    let standing = Standing::Discarded { reason: "a test".to_owned(), context: WriteContext::default() };
    let closed = crate::store::quarantine::QuarantineRecord { standing, ..record("x", 100_000) };
    store.quarantine().close_aside(&[(id(0, 1), closed.clone()), (id(7, 7), closed.clone())]).expect("writes");
    store.restart();
    assert_eq!(store.quarantine().aside(id(0, 1)).expect("reads"), Some((closed, None)));
    assert_eq!(ids(store, None, 9), [id(0, 1), id(0, 2)], "what is not there is not made by closing it");
    assert_eq!(store.quarantine().aside(id(0, 2)).expect("reads").expect("there").1, Some(envelope(10)));
}

fn what_is_dropped_is_gone_and_the_rest_stays(store: &mut dyn Subject) {
    keep(store, &[(id(0, 1), 100_000), (id(0, 2), 10), (id(1, 3), 10), (id(2, 4), 10)]);
    store.quarantine().drop_aside(&[id(0, 1), id(1, 3), id(8, 8)]).expect("drops");
    store.restart();
    assert_eq!(ids(store, None, 9), [id(0, 2), id(2, 4)]);
    assert_eq!(store.quarantine().aside(id(0, 1)).expect("reads"), None);
    keep(store, &[(id(1, 5), 10)]);
    assert_eq!(ids(store, None, 9), [id(0, 2), id(1, 5), id(2, 4)], "a day that was dropped takes events again");
}

fn a_keeping_that_failed_leaves_the_others_as_they_were(store: &mut dyn Subject) {
    keep(store, &[(id(0, 1), 100)]);
    store.tear_next_schedule();
    let failed = store.quarantine().keep_aside(&[(id(0, 2), record("y", 1), envelope(1))]).expect_err("fails");
    assert!(matches!(failed, StoreError::Engine(_)));
    store.wait_until_open();
    let left = ids(store, None, 9);
    assert!(left == [id(0, 1)] || left == [id(0, 1), id(0, 2)], "{left:?}");
    keep(store, &[(id(0, 3), 10)]);
    assert!(ids(store, None, 9).contains(&id(0, 3)));
}
