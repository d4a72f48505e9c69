//! One rule at a time; `model` drives all of them together.

mod actions;
mod model;

use super::progress::RANGES_MAX;
use super::*;
use crate::ground::ids::Epoch;
use crate::store::records::{ReplayMark, RowState};

const START: UnixMs = UnixMs(1_795_248_000_000);
const LEASE_MS: u64 = 500;
const EVENT_BYTES: usize = 100;

fn rules(ordering: Ordering) -> InboxRules {
    InboxRules { ordering, concurrency: 3, window_events: 6, window_bytes: 550, parked_max: 8, lease_ms: LEASE_MS }
}

fn inbox(ordering: Ordering) -> InboxState {
    InboxState::restore(rules(ordering), Position::at(Seq::ZERO), [], 1, false)
}

fn offer(inbox: &mut InboxState, seq: u64, key: u64) -> Offered {
    inbox.offer(Seq(seq), key, EVENT_BYTES)
}

fn claimed(inbox: &mut InboxState, now: UnixMs) -> Vec<u64> {
    inbox.claim(now).into_iter().map(|claim| claim.seq.0).collect()
}

fn fail(inbox: &mut InboxState, claim: Claim, due_at: UnixMs) {
    let settlement = Settlement::Retry { due_at, error: "status 500".to_owned() };
    inbox.settle(claim.seq, claim.epoch, settlement, START).expect("counts");
}

#[test]
fn a_rest_that_emptied_the_window_still_ends() {
    let mut inbox = inbox(Ordering::None);
    offer(&mut inbox, 1, 1);
    let until = START.plus_ms(60_000);
    inbox.suspend(until);
    inbox.shed();
    assert_eq!(inbox.wake_at(), Some(until), "somebody reads the log again when the rest is over");
    assert!(claimed(&mut inbox, until).is_empty());
    assert_eq!(inbox.wake_at(), None, "the rest is over once");
    assert_eq!(offer(&mut inbox, 1, 1), Offered::Taken);
    assert_eq!(claimed(&mut inbox, until), [1]);
}

#[test]
fn rows_at_their_bound_stop_the_cursor_even_when_the_window_is_empty() {
    let mut inbox = inbox(Ordering::None);
    let mut seq = 0;
    loop {
        seq += 1;
        if offer(&mut inbox, seq, seq) == Offered::Full {
            break;
        }
        for claim in inbox.claim(START) {
            fail(&mut inbox, claim, START.plus_ms(60_000));
        }
        assert!(seq < 100, "the rows have a bound");
    }
    assert_eq!(inbox.counts().rows, rules(Ordering::None).parked_max);
    assert!(!inbox.wants_more());
    assert_eq!(inbox.position().cursor, Seq(seq - 1), "what did not fit is read again");
    let first = inbox.claim(START.plus_ms(60_000))[0];
    inbox.settle(first.seq, first.epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(offer(&mut inbox, seq, seq), Offered::Taken, "a row less is room for one more");
}

#[test]
fn a_failing_key_waits_alone() {
    let mut inbox = inbox(Ordering::Key);
    for seq in 1..=5 {
        assert_eq!(offer(&mut inbox, seq, 7), Offered::Taken);
    }
    let first = inbox.claim(START)[0];
    fail(&mut inbox, first, START.plus_ms(60_000));
    assert_eq!(offer(&mut inbox, 6, 8), Offered::Taken);
    assert_eq!(claimed(&mut inbox, START), [6], "another key goes on");
    assert!(!inbox.wants_more(), "the window is full of events that wait for the failing one");
    let parked: Vec<u64> = inbox
        .park_blocked()
        .into_iter()
        .map(|change| match change {
            RowChange::Put(seq, row) => {
                assert_eq!(row.state, RowState::Held);
                seq.0
            }
            RowChange::Delete(seq) => panic!("{seq} is deleted"),
        })
        .collect();
    assert_eq!(parked, [2, 3, 4, 5]);
    assert!(inbox.wants_more());
    assert_eq!(inbox.standing(Seq(2)), Standing::BehindKey { head: Seq(1) });
    assert_eq!(claimed(&mut inbox, START.plus_ms(60_000)), [1], "the oldest of the key first");
}

#[test]
fn a_strict_inbox_gives_out_nothing_behind_a_failure() {
    let mut inbox = inbox(Ordering::Strict);
    for seq in 1..=3 {
        offer(&mut inbox, seq, seq);
    }
    let first = inbox.claim(START)[0];
    fail(&mut inbox, first, START.plus_ms(1_000));
    assert!(claimed(&mut inbox, START.plus_ms(999)).is_empty());
    assert_eq!(claimed(&mut inbox, START.plus_ms(1_000)), [1]);
}

#[test]
fn a_row_from_before_a_restart_waits_until_reading_has_come_to_it() {
    let row = RowRecord {
        state: RowState::Held,
        attempts: 0,
        key: 7,
        epoch: 90,
        first_attempt: None,
        last_attempt: None,
        last_error: None,
        replay: None,
    };
    let mut inbox = InboxState::restore(rules(Ordering::Key), Position::at(Seq(4)), [(Seq(9), row)], 1, false);
    assert!(claimed(&mut inbox, START).is_empty());
    assert_eq!(offer(&mut inbox, 6, 7), Offered::Taken);
    let claims = inbox.claim(START);
    assert_eq!(claims[0].seq, Seq(6), "an older event of the key comes first");
    assert!(claims[0].epoch > Epoch(90), "IN-2: larger than any epoch of an earlier life");
    assert_eq!(offer(&mut inbox, 9, 7), Offered::Known);
    inbox.settle(Seq(6), claims[0].epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(claimed(&mut inbox, START), [9]);
}

fn replay(inbox: &mut InboxState, seq: u64, key: u64) -> bool {
    matches!(inbox.replay(Seq(seq), key, ReplayMark::default(), START), Replayed::Taken(_))
}

/// An inbox that has settled everything up to `upto`.
fn settled(ordering: Ordering, upto: u64) -> InboxState {
    InboxState::restore(rules(ordering), Position::at(Seq(upto)), [], 1, false)
}

#[test]
fn live_events_go_first_and_a_consumer_that_is_never_idle_still_gets_on_with_its_replay() {
    for ordering in [Ordering::None, Ordering::Key, Ordering::Strict] {
        let mut inbox = settled(ordering, 100);
        for seq in 1..=3 {
            assert!(replay(&mut inbox, seq, seq));
        }
        let (mut turns, mut next, mut replayed) = (Vec::new(), 101, 0);
        while replayed < 3 {
            while offer(&mut inbox, next, next) == Offered::Taken {
                next += 1;
            }
            let claims = inbox.claim(START);
            for claim in claims {
                turns.push(claim.seq.0);
                replayed += u64::from(claim.seq.0 <= 100);
                inbox.settle(claim.seq, claim.epoch, Settlement::Processed, START).expect("counts");
            }
            assert!(turns.len() < 100, "{turns:?}");
        }
        let places: Vec<usize> = (0..turns.len()).filter(|at| turns[*at] <= 100).collect();
        let share = LIVE_PER_REPLAY as usize;
        assert_eq!(places, [share, 2 * share + 1, 3 * share + 2], "{ordering:?}: {turns:?}");
    }
}

#[test]
fn a_replayed_event_that_fails_neither_holds_up_nor_waits_for_live_events_of_its_key() {
    let mut inbox = settled(Ordering::Key, 100);
    for seq in [7, 8] {
        assert!(replay(&mut inbox, seq, 7));
    }
    let first = inbox.claim(START)[0];
    fail(&mut inbox, first, START.plus_ms(60_000));
    assert_eq!(offer(&mut inbox, 101, 7), Offered::Taken);
    let live = inbox.claim(START);
    assert_eq!(live[0].seq, Seq(101), "8 waits behind 7, the live one behind neither");
    fail(&mut inbox, live[0], START.plus_ms(90_000));
    assert_eq!(claimed(&mut inbox, START.plus_ms(60_000)), [7]);
    assert_eq!((inbox.counts().rows, inbox.counts().replays), (1, 2));
}

#[test]
fn an_older_event_that_is_asked_for_while_a_newer_one_of_its_key_is_out_waits_for_it() {
    let mut inbox = settled(Ordering::Key, 100);
    assert!(replay(&mut inbox, 9, 7));
    let newer = inbox.claim(START)[0];
    assert!(replay(&mut inbox, 5, 7) && replay(&mut inbox, 6, 8));
    assert_eq!(claimed(&mut inbox, START), [0_u64; 0], "one replayed event at a time with a concurrency of 3");
    inbox.settle(newer.seq, newer.epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(claimed(&mut inbox, START), [5]);
}

#[test]
fn a_pause_and_a_rest_hold_replayed_events_back_without_an_attempt() {
    let mut inbox = settled(Ordering::None, 100);
    inbox.set_paused(true);
    assert!(replay(&mut inbox, 5, 5));
    assert!(claimed(&mut inbox, START.plus_ms(60_000)).is_empty());
    inbox.set_paused(false);
    inbox.suspend(START.plus_ms(90_000));
    assert!(claimed(&mut inbox, START.plus_ms(60_000)).is_empty());
    let claims = inbox.claim(START.plus_ms(90_000));
    assert_eq!((claims[0].seq, claims[0].attempt), (Seq(5), 1));
}

#[test]
fn a_row_of_a_replay_past_what_was_read_goes_when_reading_comes_to_its_event() {
    let mark = ReplayMark { job: None, dead_letter: Some("dlq_1".to_owned()) };
    let row = RowRecord {
        state: RowState::Retry { due_at: START },
        attempts: 3,
        key: 7,
        epoch: 90,
        first_attempt: None,
        last_attempt: None,
        last_error: None,
        replay: Some(mark),
    };
    let rows = [(Seq(3), row.clone()), (Seq(9), row)];
    let mut inbox = InboxState::restore(rules(Ordering::Key), Position::at(Seq(4)), rows, 1, false);
    assert_eq!(inbox.dead_letter_of(Seq(3)), Some("dlq_1"));
    assert_eq!(inbox.needed_from(), Seq(5), "a dead letter has its event with it");
    assert_eq!(claimed(&mut inbox, START), [3]);
    assert_eq!(offer(&mut inbox, 9, 7), Offered::TakenOver(RowChange::Delete(Seq(9))));
    assert_eq!(inbox.claim(START).first().map(|claim| (claim.seq, claim.attempt)), Some((Seq(9), 1)));
}

#[test]
fn after_a_rest_claims_begin_one_at_a_time_and_grow_with_each_success() {
    let mut inbox = inbox(Ordering::None);
    for seq in 1..=5 {
        offer(&mut inbox, seq, seq);
    }
    inbox.suspend(START.plus_ms(100));
    let first = inbox.claim(START.plus_ms(100));
    assert_eq!(first.len(), 1);
    inbox.settle(first[0].seq, first[0].epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(claimed(&mut inbox, START.plus_ms(100)), [2, 3]);
}

#[test]
fn the_settled_ranges_are_bounded() {
    let wide = InboxRules {
        window_events: 10_000,
        window_bytes: usize::MAX / 4,
        concurrency: 10_000,
        parked_max: 100_000,
        ..rules(Ordering::None)
    };
    let mut inbox = InboxState::restore(wide, Position::at(Seq::ZERO), [], 1, false);
    let mut offered = 0;
    for seq in 1..=9_000 {
        if offer(&mut inbox, seq, seq) == Offered::Full {
            break;
        }
        offered = seq;
        for claim in inbox.claim(START) {
            if claim.seq.0 % 2 == 0 {
                inbox.settle(claim.seq, claim.epoch, Settlement::Processed, START).expect("counts");
            }
        }
    }
    assert_eq!(inbox.position().ahead.len(), RANGES_MAX);
    assert_eq!(offered, 2 * RANGES_MAX as u64);
    assert!(!inbox.wants_more());
}

#[test]
fn a_rate_that_is_used_up_holds_what_is_ready_and_neither_empties_the_window_nor_slows_the_rest() {
    let mut inbox = inbox(Ordering::None);
    for seq in 1..=5 {
        offer(&mut inbox, seq, seq);
    }
    let first = inbox.claim_most(START, 2);
    assert_eq!(first.len(), 2);
    assert!(inbox.has_runnable());
    let until = START.plus_ms(100);
    inbox.throttle(until);
    assert_eq!(inbox.hold(START), Some(Hold::RateLimited { until }));
    assert_eq!(inbox.wake_at(), Some(until), "before the lease of what is out");
    for claim in first {
        inbox.settle(claim.seq, claim.epoch, Settlement::Processed, START).expect("counts");
    }
    assert!(claimed(&mut inbox, START.plus_ms(99)).is_empty());
    assert_eq!(claimed(&mut inbox, until), [3, 4, 5], "as many at once as ever");
    assert_eq!(inbox.hold(until), None);

    inbox.suspend(START.plus_ms(900));
    inbox.throttle(START.plus_ms(500));
    assert_eq!(inbox.hold(until), Some(Hold::Suspended { until: START.plus_ms(900) }), "a rest counts first");
    inbox.resume_now();
    assert_eq!(inbox.hold(until), Some(Hold::RateLimited { until: START.plus_ms(500) }));
    inbox.unthrottle();
    assert_eq!(inbox.hold(until), None);
}

#[test]
fn a_lease_ends_when_its_holder_was_last_told_and_a_late_holder_changes_nothing() {
    let mut inbox = inbox(Ordering::None);
    offer(&mut inbox, 1, 1);
    let claim = inbox.claim(START)[0];
    let until = inbox.lease_for(claim.seq, claim.epoch, START, Some(9_000)).expect("counts");
    assert_eq!((until, inbox.wake_at()), (START.plus_ms(9_000), Some(until)));
    assert_eq!(inbox.expired_leases(START.plus_ms(LEASE_MS)), [], "longer than the lease it began with");
    let until = inbox.lease_for(claim.seq, claim.epoch, START, Some(10)).expect("counts");
    assert_eq!(inbox.expired_leases(until).len(), 1, "shorter, too");
    fail(&mut inbox, claim, until);
    assert!(inbox.lease_for(claim.seq, claim.epoch, until, None).is_err());
    let again = inbox.claim_most(until, 1)[0];
    assert!(inbox.lease_for(claim.seq, claim.epoch, until, None).is_err(), "IN-2");
    assert_eq!(inbox.lease_for(again.seq, again.epoch, until, None), Ok(until.plus_ms(LEASE_MS)));
}
