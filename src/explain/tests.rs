//! Every outcome, from the facts that lead to it.

use super::*;

const SEQ: Seq = Seq(50);
const T: UnixMs = UnixMs(1_795_248_000_000);

fn at(seconds: u64) -> UnixMs {
    T.plus_ms(seconds * 1_000)
}

fn stand(standing: Standing) -> Stand {
    Stand {
        seq: SEQ,
        earliest: Seq(1),
        paused: false,
        standing,
        reached: Seq(40),
        lease_until: None,
        waits_for: None,
        hold: None,
        breaker: Some(BreakerState::NEW),
        last: None,
        dead_letter: None,
    }
}

fn attempt(outcome: &str, attempt: u32, next_try_at: Option<UnixMs>) -> Option<AttemptRecord> {
    Some(AttemptRecord {
        seq: SEQ,
        event_id: "e-50".to_owned(),
        attempt,
        at: at(1),
        latency_ms: 5,
        outcome: outcome.to_owned(),
        status: None,
        error: (outcome != DELIVERED).then(|| format!("{outcome} went wrong")),
        snippet: String::new(),
        next_try_at,
    })
}

fn of(stand: Stand) -> Explanation {
    explain(&Facts::Matched(Box::new(stand)))
}

const OPEN: BreakerState = BreakerState::Open { until: UnixMs(T.0 + 60_000), times_opened: 1 };
const HALF_OPEN: BreakerState = BreakerState::HalfOpen { successes: 0, times_opened: 1 };
const WAITS: [Standing; 4] = [
    Standing::Pending,
    Standing::Ahead,
    Standing::BehindKey { head: Seq(45) },
    Standing::Failed { due_at: UnixMs(T.0 + 30_000), attempts: 2 },
];

#[test]
fn what_does_not_match_names_the_clause_and_what_began_later_the_start() {
    let reason = "wanted shop, the event has web".to_owned();
    let told = explain(&Facts::NotMatched { clause: Clause::Channel, reason: reason.clone() });
    assert_eq!((told.matched, told.decided_by, told.detail), (false, Some(Clause::Channel), Some(reason)));
    assert_eq!((told.status, told.delivery), (Status::Skipped, Delivery::NotMatched));
    let told = explain(&Facts::BeforeStart { from: Seq(60) });
    assert_eq!((told.matched, told.status), (true, Status::Skipped));
    assert_eq!(told.delivery, Delivery::BeforeStart { from: Seq(60) });
}

#[test]
fn every_outcome_of_a_match_follows_from_its_facts() {
    let failed = Standing::Failed { due_at: at(30), attempts: 2 };
    let behind = Standing::BehindKey { head: Seq(45) };
    let rest = Some(Hold::Suspended { until: at(9) });
    let none = stand(Standing::Settled);
    let cases = [
        (stand(Standing::Pending), Status::Pending, 0, Delivery::Queued),
        (stand(Standing::Ahead), Status::Pending, 0, Delivery::NotReached { reached: Seq(40), behind: 10 }),
        (Stand { earliest: Seq(51), ..stand(Standing::Ahead) }, Status::Skipped, 0, Delivery::Gap),
        (
            Stand { waits_for: Some("e-45".to_owned()), ..stand(behind) },
            Status::Pending,
            0,
            Delivery::WaitingBehindKey { seq: Seq(45), id: Some("e-45".to_owned()) },
        ),
        (
            Stand { last: attempt("status", 2, Some(at(30))), ..stand(failed) },
            Status::Failed,
            2,
            Delivery::NextTryAt { at: at(30) },
        ),
        (
            Stand { lease_until: Some(at(20)), ..stand(Standing::Processing { attempts: 3 }) },
            Status::Processing,
            3,
            Delivery::InFlight { attempt: 3, lease_until: Some(at(20)) },
        ),
        (
            Stand { last: attempt(DELIVERED, 3, None), ..none.clone() },
            Status::Processed,
            3,
            Delivery::Delivered { at: at(1), attempt: 3 },
        ),
        (
            Stand { last: attempt("status", 4, None), dead_letter: Some("dlq_1".to_owned()), ..none.clone() },
            Status::DeadLetter,
            4,
            Delivery::Dead { at: at(1), dead_letter_id: Some("dlq_1".to_owned()) },
        ),
        (Stand { last: attempt("status", 1, Some(at(2))), ..none.clone() }, Status::Processed, 1, Delivery::Settled),
        (none, Status::Processed, 0, Delivery::Settled),
        (Stand { hold: rest, ..stand(Standing::Pending) }, Status::Pending, 0, Delivery::RateLimited { until: at(9) }),
        (
            Stand { hold: Some(Hold::HubPaused), paused: true, ..stand(Standing::Pending) },
            Status::Pending,
            0,
            Delivery::HubPaused,
        ),
        (
            Stand { hold: Some(Hold::RateLimited { until: at(9) }), ..stand(Standing::Pending) },
            Status::Pending,
            0,
            Delivery::RateLimited { until: at(9) },
        ),
        // An in-process handler has no breaker, and rests while its code is not registered.
        (
            Stand { hold: rest, breaker: None, ..stand(Standing::Pending) },
            Status::Pending,
            0,
            Delivery::RateLimited { until: at(9) },
        ),
    ];
    for (stand, status, attempts, delivery) in cases {
        let told = of(stand.clone());
        assert_eq!((told.status, told.attempts, &told.delivery), (status, attempts, &delivery), "{stand:?}");
        assert!(told.matched && told.decided_by.is_none());
    }
}

#[test]
fn what_keeps_the_whole_consumer_is_named_before_what_keeps_the_one_event() {
    let rest = Some(Hold::Suspended { until: at(9) });
    let open = |until| Delivery::BreakerOpen { phase: "open", until };
    for standing in WAITS {
        let waiting = stand(standing);
        let open_state = Stand { breaker: Some(OPEN), ..waiting.clone() };
        assert_eq!(of(open_state.clone()).delivery, open(Some(at(60))));
        assert_eq!(
            of(Stand { hold: rest, ..open_state.clone() }).delivery,
            open(Some(at(60))),
            "the breaker's own time"
        );
        assert_eq!(of(Stand { paused: true, ..open_state }).delivery, Delivery::Paused);
        assert_eq!(of(Stand { hold: Some(Hold::Paused), ..waiting.clone() }).delivery, Delivery::Paused);
        let forced = Stand { breaker: Some(BreakerState::ForcedOpen), ..waiting.clone() };
        assert_eq!(of(forced).delivery, Delivery::BreakerOpen { phase: "forced_open", until: None });
        let probing = Stand { breaker: Some(HALF_OPEN), hold: rest, ..waiting.clone() };
        assert_eq!(of(probing).delivery, Delivery::BreakerOpen { phase: "half_open", until: Some(at(9)) });
        let free = of(Stand { breaker: Some(HALF_OPEN), ..waiting.clone() });
        assert_eq!(free.delivery, of(waiting).delivery, "a breaker that lets probes through keeps nothing");
    }
    let failed = Stand { paused: true, last: attempt("status", 2, Some(at(30))), ..stand(WAITS[3]) };
    let told = of(failed);
    assert_eq!((told.status, told.attempts, told.next_try_at), (Status::Failed, 2, Some(at(30))));
    assert_eq!(told.last_error.as_deref(), Some("status went wrong"));
}

#[test]
fn what_is_settled_or_out_is_so_whatever_holds_the_consumer_now() {
    for standing in [Standing::Settled, Standing::Processing { attempts: 1 }] {
        let free = Stand { last: attempt(DELIVERED, 1, None), ..stand(standing) };
        let held = Stand { paused: true, breaker: Some(OPEN), hold: Some(Hold::Paused), ..free.clone() };
        assert_eq!(of(held), of(free));
    }
}

#[test]
fn the_answer_has_every_name_it_promises() {
    let told = of(Stand { breaker: Some(OPEN), last: attempt("status", 2, Some(at(30))), ..stand(WAITS[3]) });
    insta::assert_snapshot!(told.to_json("whk_1", "webhook").to_string());
}
