//! What can happen to an inbox, and how often.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Processed,
    GivenUp,
    Retry(u64),
    Deferred,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    /// The log gets an event of this key after a gap of events that do not match, and everything new is offered.
    Append {
        key: u64,
        gap: u64,
    },
    /// The next events of the log are offered.
    Offer(usize),
    Claim,
    Settle(prop::sample::Index, Answer),
    SettleStale(prop::sample::Index, Answer),
    Renew(prop::sample::Index),
    Advance(u64),
    ExpireLeases,
    Suspend(u64),
    ResumeNow,
    Pause(bool),
    PauseHub(bool),
    Shed,
    Park,
    /// A replay asks for an event of the log.
    Replay(prop::sample::Index),
    /// Somebody wants an event that has a row to be tried now.
    Hasten(prop::sample::Index),
    /// The position is handed in.
    Report,
    /// The process ends; the store has lost this many of the last commits.
    Crash {
        lost: usize,
    },
}

pub(super) fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::Processed),
        1 => Just(Answer::GivenUp),
        3 => (1_u64..2_000).prop_map(Answer::Retry),
        1 => Just(Answer::Deferred),
    ]
}

pub(super) fn action() -> impl Strategy<Value = Action> {
    use prop::sample::Index;
    prop_oneof![
        6 => (0_u64..3, 0_u64..3).prop_map(|(key, gap)| Action::Append { key, gap }),
        4 => (1_usize..8).prop_map(Action::Offer),
        6 => Just(Action::Claim),
        8 => (any::<Index>(), answer()).prop_map(|(at, answer)| Action::Settle(at, answer)),
        1 => (any::<Index>(), answer()).prop_map(|(at, answer)| Action::SettleStale(at, answer)),
        1 => any::<Index>().prop_map(Action::Renew),
        3 => (1_u64..1_500).prop_map(Action::Advance),
        1 => Just(Action::ExpireLeases),
        1 => (1_u64..3_000).prop_map(Action::Suspend),
        1 => Just(Action::ResumeNow),
        1 => any::<bool>().prop_map(Action::Pause),
        1 => any::<bool>().prop_map(Action::PauseHub),
        1 => Just(Action::Shed),
        1 => Just(Action::Park),
        4 => any::<Index>().prop_map(Action::Replay),
        1 => any::<Index>().prop_map(Action::Hasten),
        3 => Just(Action::Report),
        1 => (0_usize..6).prop_map(|lost| Action::Crash { lost }),
    ]
}

pub(super) fn settlement(answer: Answer, now: UnixMs) -> Settlement {
    match answer {
        Answer::Processed => Settlement::Processed,
        Answer::GivenUp => Settlement::GivenUp,
        Answer::Retry(ms) => Settlement::Retry { due_at: now.plus_ms(ms), error: "status 500".to_owned() },
        Answer::Deferred => Settlement::Deferred,
    }
}

pub(super) fn ordering() -> impl Strategy<Value = Ordering> {
    prop_oneof![Just(Ordering::None), Just(Ordering::Key), Just(Ordering::Strict)]
}
