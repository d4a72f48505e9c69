use proptest::prelude::*;

use super::*;

const NOW: UnixMs = UnixMs(1_795_248_000_000);
const PHASES: [Phase; 5] = [Phase::Closed, Phase::Open, Phase::HalfOpen, Phase::ForcedOpen, Phase::Disabled];

fn admitted(breaker: &mut Breaker, now: UnixMs) -> Permit {
    match breaker.admit(now) {
        Admission::Admitted { permit, .. } => permit,
        Admission::Refused { until, reason } => panic!("refused: {reason:?} until {until:?}"),
    }
}

fn refused(breaker: &mut Breaker, now: UnixMs) -> (Option<UnixMs>, Refusal) {
    match breaker.admit(now) {
        Admission::Refused { until, reason } => (until, reason),
        Admission::Admitted { .. } => panic!("admitted in {:?}", breaker.state()),
    }
}

fn call(breaker: &mut Breaker, result: CallResult, now: UnixMs) -> Option<Transition> {
    let permit = admitted(breaker, now);
    breaker.record(permit, result, 10, now)
}

/// A default breaker that has just opened.
fn opened() -> Breaker {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for _ in 0..4 {
        assert_eq!(call(&mut breaker, CallResult::Failure, NOW), None);
    }
    let transition = call(&mut breaker, CallResult::Failure, NOW).expect("the fifth failure opens it");
    assert_eq!(transition, Transition { from: Phase::Closed, to: Phase::Open, reason: Reason::ConsecutiveFailures(5) });
    breaker
}

fn in_phase(phase: Phase) -> Breaker {
    let state = match phase {
        Phase::Closed => BreakerState::NEW,
        Phase::Open => BreakerState::Open { until: NOW.plus_ms(30_000), times_opened: 1 },
        Phase::HalfOpen => BreakerState::HalfOpen { successes: 0, times_opened: 1 },
        Phase::ForcedOpen => BreakerState::ForcedOpen,
        Phase::Disabled => BreakerState::Disabled,
    };
    Breaker::restore(BreakerSettings::default(), state, 1)
}

#[test]
fn a_success_between_failures_starts_the_count_again() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for _ in 0..10 {
        for _ in 0..4 {
            assert_eq!(call(&mut breaker, CallResult::Failure, NOW), None);
        }
        assert_eq!(call(&mut breaker, CallResult::Success, NOW), None);
    }
}

#[test]
fn an_open_breaker_says_when_to_come_back_and_then_lets_one_probe_through() {
    let mut breaker = opened();
    let until = NOW.plus_ms(30_000);
    assert_eq!(refused(&mut breaker, NOW.plus_ms(29_999)), (Some(until), Refusal::Open));
    let Admission::Admitted { permit, transition } = breaker.admit(until) else { panic!("the cooldown is over") };
    assert!(permit.is_probe());
    assert_eq!(transition.map(|change| (change.to, change.reason)), Some((Phase::HalfOpen, Reason::CooldownOver)));
    assert_eq!(refused(&mut breaker, until), (Some(until.plus_ms(60_000)), Refusal::ProbesInFlight));
    let closed = breaker.record(permit, CallResult::Success, 10, until).expect("closes");
    assert_eq!((closed.to, closed.reason), (Phase::Closed, Reason::ProbesSucceeded(1)));
}

#[test]
fn repeated_opening_lengthens_the_cooldown_up_to_the_cap() {
    let mut breaker = opened();
    let mut now = NOW;
    let mut waits_s = Vec::new();
    for _ in 0..7 {
        let (until, _) = refused(&mut breaker, now);
        let until = until.expect("an open breaker has an end");
        waits_s.push(until.since_ms(now) / 1_000);
        now = until;
        assert_eq!(call(&mut breaker, CallResult::Failure, now).expect("opens again").reason, Reason::ProbeFailed);
    }
    assert_eq!(waits_s, [30, 60, 120, 240, 480, 600, 600]);
}

#[test]
fn a_recovery_is_believed_only_after_it_has_lasted() {
    for (well_for_ms, cooldown_ms) in [(0, 60_000), (599_999, 60_000), (600_000, 30_000)] {
        let mut breaker = opened();
        let now = NOW.plus_ms(30_000);
        call(&mut breaker, CallResult::Success, now).expect("closes");
        let now = now.plus_ms(well_for_ms);
        for _ in 0..5 {
            call(&mut breaker, CallResult::Failure, now);
        }
        assert_eq!(refused(&mut breaker, now).0, Some(now.plus_ms(cooldown_ms)), "well for {well_for_ms} ms");
    }
}

#[test]
fn a_result_from_before_the_opening_neither_closes_nor_reopens() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    let late: Vec<_> = (0..3).map(|_| admitted(&mut breaker, NOW)).collect();
    for _ in 0..5 {
        call(&mut breaker, CallResult::Failure, NOW);
    }
    let now = NOW.plus_ms(30_000);
    assert_eq!(breaker.record(late[0], CallResult::Success, 10, now), None);
    let probe = admitted(&mut breaker, now);
    assert_eq!(breaker.record(late[1], CallResult::Success, 10, now), None);
    assert_eq!(breaker.record(late[2], CallResult::Failure, 10, now), None);
    assert_eq!(breaker.state().phase(), Phase::HalfOpen);
    assert!(breaker.record(probe, CallResult::Success, 10, now).is_some());
}

#[test]
fn a_lost_probe_gives_its_place_up_and_its_late_result_does_not_count() {
    let mut breaker = opened();
    let now = NOW.plus_ms(30_000);
    let lost = admitted(&mut breaker, now);
    refused(&mut breaker, now.plus_ms(59_999));
    let second = admitted(&mut breaker, now.plus_ms(60_000));
    assert_eq!(breaker.record(lost, CallResult::Failure, 10, now.plus_ms(60_001)), None);
    assert!(breaker.record(second, CallResult::Success, 10, now.plus_ms(60_002)).is_some());
}

#[test]
fn a_released_probe_makes_room_for_the_next() {
    let mut breaker = opened();
    let now = NOW.plus_ms(30_000);
    let unused = admitted(&mut breaker, now);
    breaker.release(unused);
    let next = admitted(&mut breaker, now);
    breaker.release(unused);
    assert_eq!(breaker.probes_in_flight(now), 1);
    assert_eq!(breaker.record(unused, CallResult::Failure, 10, now), None);
    assert!(breaker.record(next, CallResult::Success, 10, now).is_some());
}

#[test]
fn several_successes_may_be_needed_to_close() {
    let settings = BreakerSettings { success_threshold: 2, probes_max: 2, ..BreakerSettings::default() };
    let mut breaker = Breaker::restore(settings, BreakerState::HalfOpen { successes: 0, times_opened: 1 }, 1);
    let (first, second) = (admitted(&mut breaker, NOW), admitted(&mut breaker, NOW));
    refused(&mut breaker, NOW);
    assert_eq!(breaker.record(first, CallResult::Success, 10, NOW), None);
    let closed = breaker.record(second, CallResult::Success, 10, NOW).expect("closes");
    assert_eq!(closed.reason, Reason::ProbesSucceeded(2));
}

#[test]
fn a_share_of_failures_opens_once_the_window_has_enough_calls() {
    let settings = BreakerSettings { failure_rate: Some(0.5), min_calls: 10, window: 10, ..BreakerSettings::default() };
    let mut breaker = Breaker::new(settings);
    for _ in 0..4 {
        assert_eq!(call(&mut breaker, CallResult::Failure, NOW), None);
        assert_eq!(call(&mut breaker, CallResult::Success, NOW), None);
    }
    assert_eq!(call(&mut breaker, CallResult::Success, NOW), None);
    let transition = call(&mut breaker, CallResult::Failure, NOW).expect("five of ten");
    assert_eq!(transition.reason, Reason::FailureRate(50));
}

#[test]
fn calls_that_left_the_window_no_longer_count() {
    let settings = BreakerSettings { failure_rate: Some(0.5), min_calls: 4, window: 4, ..BreakerSettings::default() };
    let mut breaker = Breaker::new(settings);
    call(&mut breaker, CallResult::Failure, NOW);
    for _ in 0..4 {
        assert_eq!(call(&mut breaker, CallResult::Success, NOW), None);
    }
    assert_eq!(call(&mut breaker, CallResult::Failure, NOW), None);
}

#[test]
fn slow_calls_open_it_and_a_slow_probe_does_not_close_it() {
    let settings = BreakerSettings {
        slow_call_ms: Some(1_000),
        slow_rate: Some(1.0),
        min_calls: 3,
        window: 3,
        ..BreakerSettings::default()
    };
    let mut breaker = Breaker::new(settings);
    let mut last = None;
    for latency_ms in [999, 1_000, 1_000, 5_000] {
        let permit = admitted(&mut breaker, NOW);
        last = breaker.record(permit, CallResult::Success, latency_ms, NOW);
    }
    assert_eq!(last.expect("opens").reason, Reason::SlowRate(100));
    let now = NOW.plus_ms(30_000);
    let probe = admitted(&mut breaker, now);
    assert_eq!(breaker.record(probe, CallResult::Success, 1_000, now).expect("opens").to, Phase::Open);
}

#[test]
fn every_command_in_every_state_does_what_it_says() {
    use Command::{Disable, Enable, ForceOpen, Reset};
    for from in PHASES {
        for (command, to) in [(Reset, Phase::Closed), (ForceOpen, Phase::ForcedOpen), (Disable, Phase::Disabled)] {
            let mut breaker = in_phase(from);
            let transition = breaker.command(command, NOW);
            assert_eq!(breaker.state().phase(), to);
            let expected = Transition { from, to, reason: Reason::Commanded(command) };
            assert_eq!(transition, (from != to).then_some(expected));
        }
        let mut breaker = in_phase(from);
        let by_hand = matches!(from, Phase::ForcedOpen | Phase::Disabled);
        assert_eq!(breaker.command(Enable, NOW).is_some(), by_hand);
        assert_eq!(breaker.state().phase(), if by_hand { Phase::Closed } else { from });
    }
}

#[test]
fn every_state_lets_through_what_it_says() {
    for phase in PHASES {
        let mut breaker = in_phase(phase);
        match phase {
            Phase::Closed | Phase::Disabled => assert!(!admitted(&mut breaker, NOW).is_probe()),
            Phase::HalfOpen => assert!(admitted(&mut breaker, NOW).is_probe()),
            Phase::Open => assert_eq!(refused(&mut breaker, NOW).1, Refusal::Open),
            Phase::ForcedOpen => assert_eq!(refused(&mut breaker, NOW), (None, Refusal::ForcedOpen)),
        }
    }
}

#[test]
fn a_reset_of_a_closed_breaker_forgets_its_failures() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for _ in 0..4 {
        call(&mut breaker, CallResult::Failure, NOW);
    }
    assert_eq!(breaker.command(Command::Reset, NOW), None);
    assert_eq!(call(&mut breaker, CallResult::Failure, NOW), None);
}

#[test]
fn a_disabled_breaker_counts_nothing() {
    let mut breaker = in_phase(Phase::Disabled);
    for _ in 0..100 {
        assert_eq!(call(&mut breaker, CallResult::Failure, NOW), None);
    }
}

#[test]
fn a_clock_set_back_does_not_hold_it_shut() {
    let mut breaker = opened();
    let earlier = UnixMs(NOW.0 - 86_400_000);
    let (until, _) = refused(&mut breaker, earlier);
    assert_eq!(until, Some(earlier.plus_ms(600_000)));
    assert!(admitted(&mut breaker, earlier.plus_ms(600_000)).is_probe());
    let much_earlier = UnixMs(NOW.0 - 172_800_000);
    assert!(admitted(&mut breaker, much_earlier).is_probe());
}

#[test]
fn after_a_recovery_concurrency_grows_to_its_full_measure() {
    let mut breaker = opened();
    assert_eq!(breaker.concurrency(16, NOW), 0);
    let now = NOW.plus_ms(30_000);
    let probe = admitted(&mut breaker, now);
    assert_eq!(breaker.concurrency(16, now), 1);
    breaker.record(probe, CallResult::Success, 10, now);
    let grown: Vec<_> = [0, 2_500, 5_000, 9_999, 10_000].map(|ms| breaker.concurrency(16, now.plus_ms(ms))).into();
    assert_eq!(grown, [1, 4, 8, 15, 16]);
    assert_eq!(Breaker::new(BreakerSettings::default()).concurrency(16, NOW), 16);
}

#[derive(Clone, Debug)]
enum Action {
    Admit,
    Record { which: usize, result: CallResult, latency_ms: u64 },
    Release { which: usize },
    Lose { which: usize },
    Advance { ms: u64 },
    Order(Command),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let result = prop_oneof![1 => Just(CallResult::Success), 2 => Just(CallResult::Failure)];
    let command =
        prop_oneof![Just(Command::Reset), Just(Command::ForceOpen), Just(Command::Disable), Just(Command::Enable)];
    let action = prop_oneof![
        8 => Just(Action::Admit),
        8 => (any::<usize>(), result, 0_u64..300)
            .prop_map(|(which, result, latency_ms)| Action::Record { which, result, latency_ms }),
        1 => any::<usize>().prop_map(|which| Action::Release { which }),
        1 => any::<usize>().prop_map(|which| Action::Lose { which }),
        4 => (0_u64..800).prop_map(|ms| Action::Advance { ms }),
        1 => command.prop_map(Action::Order),
    ];
    proptest::collection::vec(action, 0..200)
}

fn small_settings() -> impl Strategy<Value = BreakerSettings> {
    (1_u32..4, 1_u32..4, 1_u32..4, proptest::option::of(0.3_f64..1.0), proptest::option::of(0.3_f64..1.0)).prop_map(
        |(failure_threshold, success_threshold, probes_max, failure_rate, slow_rate)| BreakerSettings {
            failure_threshold,
            success_threshold,
            probes_max,
            failure_rate,
            slow_rate,
            slow_call_ms: Some(200),
            cooldown_ms: 500,
            cooldown_cap_ms: 2_000,
            probe_timeout_ms: 1_000,
            min_calls: 3,
            window: 5,
            ramp_ms: 100,
            call_timeout_ms: None,
        },
    )
}

/// BR-1 to BR-4, after one step from `before` to `after`.
fn check_step(before: &Breaker, after: &Breaker, action: &Action, now: UnixMs) {
    let (from, to) = (before.state.phase(), after.state.phase());
    assert!(after.probes_in_flight(now) <= after.settings.probes_max as usize, "BR-2");
    if from != to {
        assert_eq!(after.generation, before.generation + 1, "BR-4");
    }
    if let (true, Phase::Closed) = (from != to, to) {
        let by_probe = from == Phase::HalfOpen && matches!(action, Action::Record { result: CallResult::Success, .. });
        let by_hand = matches!(action, Action::Order(Command::Reset | Command::Enable));
        assert!(by_probe || by_hand, "BR-3: {from:?} closed by {action:?}");
    }
    if matches!(action, Action::Order(_)) {
        return;
    }
    assert!(!matches!(from, Phase::ForcedOpen | Phase::Disabled) || from == to, "{from:?} left without a command");
}

/// BR-1 and BR-2, for the answer that `before` gave.
fn check_admission(before: &Breaker, admission: Admission, now: UnixMs) {
    match (&before.state, admission) {
        (BreakerState::Open { until, .. }, Admission::Admitted { .. }) => assert!(now >= *until, "BR-1"),
        (BreakerState::Open { until, .. }, Admission::Refused { until: told, .. }) => {
            assert_eq!(told, Some(*until));
            assert!(now < *until, "shut past its time");
        }
        (BreakerState::HalfOpen { .. }, Admission::Refused { until, .. }) => {
            let until = until.expect("a probe runs out");
            assert!(until > now && until.since_ms(now) <= before.settings.probe_timeout_ms, "BR-2: wedged");
        }
        (BreakerState::HalfOpen { .. }, Admission::Admitted { permit, .. }) => assert!(permit.is_probe()),
        (BreakerState::ForcedOpen, Admission::Refused { until, .. }) => assert_eq!(until, None),
        (BreakerState::Closed { .. } | BreakerState::Disabled, Admission::Admitted { .. }) => {}
        (BreakerState::ForcedOpen, Admission::Admitted { .. })
        | (BreakerState::Closed { .. } | BreakerState::Disabled, Admission::Refused { .. }) => {
            panic!("{:?} answered {admission:?}", before.state)
        }
    }
}

proptest! {
    #[test]
    fn invariants_hold_over_any_history(settings in small_settings(), history in actions()) {
        let mut breaker = Breaker::new(settings);
        let mut now = NOW;
        let mut held: Vec<Permit> = Vec::new();
        for action in &history {
            let before = breaker.clone();
            match *action {
                Action::Admit => {
                    let admission = breaker.admit(now);
                    check_admission(&before, admission, now);
                    if let Admission::Admitted { permit, .. } = admission {
                        held.push(permit);
                    }
                }
                Action::Record { which, result, latency_ms } if !held.is_empty() => {
                    let permit = held.swap_remove(which % held.len());
                    let transition = breaker.record(permit, result, latency_ms, now);
                    if permit.generation != before.generation {
                        prop_assert_eq!(transition, None, "BR-4");
                        prop_assert_eq!(&breaker.state, &before.state, "BR-4");
                    }
                    prop_assert_eq!(transition.is_some(), breaker.generation != before.generation);
                }
                Action::Release { which } if !held.is_empty() => breaker.release(held.swap_remove(which % held.len())),
                Action::Lose { which } if !held.is_empty() => {
                    let _lost: Permit = held.swap_remove(which % held.len());
                }
                Action::Record { .. } | Action::Release { .. } | Action::Lose { .. } => {}
                Action::Advance { ms } => now = now.plus_ms(ms),
                Action::Order(command) => {
                    let transition = breaker.command(command, now);
                    prop_assert_eq!(transition.is_some(), breaker.generation != before.generation);
                }
            }
            check_step(&before, &breaker, action, now);
        }
    }
}
