//! What a request under a key meets: a pure machine without clock, store or waiting.
//!
//! ```text
//!            ask                    record
//!  absent ─────────▶ running ─────────────────▶ done ──┐
//!    ▲        ask past ▲ │ its lock             ▲      │ keep_ms after the first request
//!    │        the lock └─┤                      │      │
//!    └───────────────────┴──────────────────────┴──────┘
//! ```

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;

/// What tells a key from the same key of somebody else, or for something else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 32]);

/// What tells a request from another one under its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// The hash of some parts in order, with their lengths: `["ab", "c"]` and `["a", "bc"]` differ.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Longest key of a client, in characters.
pub const KEY_CHARS_MAX: usize = 255;

/// Checks a key that a client has chosen.
///
/// # Errors
/// When it is empty, too long, or holds anything but visible ASCII.
pub fn check_key(field: &str, key: &[u8]) -> Result<(), Problem> {
    if (1..=KEY_CHARS_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    let limit = format!("1 to {KEY_CHARS_MAX} characters of visible ASCII");
    // Where keys are secrets in disguise, a refusal must not tell them.
    Err(Problem::field(field, limit, format_args!("{} bytes", key.len())))
}

impl KeyId {
    /// Of these parts, in order.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash(parts))
    }
}

impl Fingerprint {
    /// Of these parts, in order.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash(parts))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({})", hex::encode(&self.0[..4]))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", hex::encode(&self.0[..4]))
    }
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// From the first request under a key until it is forgotten.
    pub(super) keep_ms: u64,
    /// From a claim until another one may take over.
    pub(super) lock_ms: u64,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody asked, or it was forgotten.
    Absent,
    /// Somebody holds it, or did.
    Running(Running),
    /// Its answer was recorded.
    Done { fingerprint: Fingerprint, first: UnixMs },
}

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) fingerprint: Fingerprint,
    /// When the key was first asked for.
    pub(super) first: UnixMs,
    /// The fencing token of the holder.
    pub(super) epoch: u64,
    /// When the holder began.
    pub(super) since: UnixMs,
    /// When its lock ends.
    pub(super) until: UnixMs,
    /// Its answer is being written: nobody takes over now.
    pub(super) recording: bool,
}

impl Running {
    fn is_locked(&self, now: UnixMs) -> bool {
        self.recording || now < self.until
    }
}

/// What a request does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It runs: nobody did before.
    Run(Running),
    /// It runs: the lock of the holder before is over.
    TakeOver(Running),
    /// It waits for the holder's answer, at most until this time, when the lock ends.
    Wait { until: UnixMs },
    /// The answer is there.
    Replay,
    /// The key was used for another request.
    Mismatch,
}

/// Why a holder may not record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lock was taken over")]
pub(super) struct Stale;

impl State {
    /// The key as it is at this time: one whose time is over is absent.
    pub(super) fn at(self, now: UnixMs, times: Times) -> Self {
        let over = |first: UnixMs| now >= first.plus_ms(times.keep_ms);
        match self {
            Self::Running(running) if over(running.first) && !running.is_locked(now) => Self::Absent,
            Self::Done { first, .. } if over(first) => Self::Absent,
            Self::Absent | Self::Running(_) | Self::Done { .. } => self,
        }
    }

    /// What a request under the key does; `epoch` is its token if it runs.
    pub(super) fn ask(self, fingerprint: Fingerprint, epoch: u64, now: UnixMs, times: Times) -> Decision {
        let claim = |first| {
            let until = now.plus_ms(times.lock_ms);
            Running { fingerprint, first, epoch, since: now, until, recording: false }
        };
        match self.at(now, times) {
            Self::Absent => Decision::Run(claim(now)),
            Self::Running(Running { fingerprint: other, .. }) | Self::Done { fingerprint: other, .. }
                if other != fingerprint =>
            {
                Decision::Mismatch
            }
            Self::Running(running) if running.is_locked(now) => Decision::Wait { until: running.until },
            Self::Running(running) => Decision::TakeOver(claim(running.first)),
            Self::Done { .. } => Decision::Replay,
        }
    }

    /// The holder with this token begins to record its answer.
    pub(super) fn begin_recording(self, epoch: u64) -> Result<Running, Stale> {
        match self {
            Self::Running(running) if running.epoch == epoch => Ok(Running { recording: true, ..running }),
            Self::Absent | Self::Running(_) | Self::Done { .. } => Err(Stale),
        }
    }

    /// The holder with this token gives the key back: the next request runs.
    pub(super) fn release(self, epoch: u64, now: UnixMs) -> Result<Running, Stale> {
        match self {
            Self::Running(running) if running.epoch == epoch => {
                Ok(Running { until: running.until.min(now), recording: false, ..running })
            }
            Self::Absent | Self::Running(_) | Self::Done { .. } => Err(Stale),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: Times = Times { keep_ms: 1_000, lock_ms: 100 };
    const THIS: Fingerprint = Fingerprint([1; 32]);
    const OTHER: Fingerprint = Fingerprint([2; 32]);

    fn running(first: u64, since: u64, epoch: u64) -> Running {
        let until = UnixMs(since + TIMES.lock_ms);
        Running { fingerprint: THIS, first: UnixMs(first), epoch, since: UnixMs(since), until, recording: false }
    }

    #[test]
    fn every_state_answers_every_request() {
        let done = State::Done { fingerprint: THIS, first: UnixMs(0) };
        let held = State::Running(running(0, 50, 4));
        let recording = State::Running(Running { recording: true, ..running(0, 50, 4) });
        let ask = |state: State, fingerprint, now| state.ask(fingerprint, 9, UnixMs(now), TIMES);
        let cases = [
            ("nobody asked", ask(State::Absent, THIS, 7), Decision::Run(running(7, 7, 9))),
            ("it is held", ask(held, THIS, 149), Decision::Wait { until: UnixMs(150) }),
            ("its lock is over", ask(held, THIS, 150), Decision::TakeOver(running(0, 150, 9))),
            ("it is being recorded", ask(recording, THIS, 5_000), Decision::Wait { until: UnixMs(150) }),
            ("another request while it is held", ask(held, OTHER, 60), Decision::Mismatch),
            ("another request past the lock", ask(held, OTHER, 160), Decision::Mismatch),
            ("it is done", ask(done, THIS, 999), Decision::Replay),
            ("another request when it is done", ask(done, OTHER, 999), Decision::Mismatch),
            ("its time is over", ask(done, THIS, 1_000), Decision::Run(running(1_000, 1_000, 9))),
            ("its time is over for any request", ask(done, OTHER, 1_000), {
                Decision::Run(Running { fingerprint: OTHER, ..running(1_000, 1_000, 9) })
            }),
            ("an old claim nobody ended", ask(held, THIS, 1_000), Decision::Run(running(1_000, 1_000, 9))),
        ];
        for (what, decided, wanted) in cases {
            assert_eq!(decided, wanted, "{what}");
        }
    }

    #[test]
    fn a_claim_outlives_the_time_of_its_key() {
        let late = State::Running(running(0, 950, 4));
        assert_eq!(late.ask(THIS, 9, UnixMs(1_040), TIMES), Decision::Wait { until: UnixMs(1_050) });
    }

    #[test]
    fn only_the_newest_holder_records_or_gives_back() {
        let held = State::Running(running(0, 50, 4));
        assert_eq!(held.begin_recording(4), Ok(Running { recording: true, ..running(0, 50, 4) }));
        assert_eq!(held.release(4, UnixMs(60)), Ok(Running { until: UnixMs(60), ..running(0, 50, 4) }));
        for state in [held, State::Absent, State::Done { fingerprint: THIS, first: UnixMs(0) }] {
            assert_eq!(state.begin_recording(3), Err(Stale));
            assert_eq!(state.release(3, UnixMs(60)), Err(Stale));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask { other: bool },
        Record { holder: usize },
        Release { holder: usize },
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<bool>().prop_map(|other| Step::Ask { other }),
            (0..8_usize).prop_map(|holder| Step::Record { holder }),
            (0..8_usize).prop_map(|holder| Step::Release { holder }),
            prop_oneof![1..60_u64, 90..200_u64, 900..1_200_u64].prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whatever is asked, recorded and given back, in any order and by any holder: epochs grow, one holder at a time
        /// has the lock, and an answer that was recorded stays until its time is over.
        #[test]
        fn one_holder_at_a_time_and_one_answer(steps in steps()) {
            let (mut state, mut now, mut epoch) = (State::Absent, UnixMs(10_000), 0);
            let mut holders: Vec<Running> = Vec::new();
            let mut answered: Option<(UnixMs, Fingerprint)> = None;
            for step in steps {
                match step {
                    Step::Pass(ms) => now = now.plus_ms(ms),
                    Step::Ask { other } => {
                        let fingerprint = if other { OTHER } else { THIS };
                        epoch += 1;
                        match state.ask(fingerprint, epoch, now, TIMES) {
                            Decision::Run(claim) | Decision::TakeOver(claim) => {
                                prop_assert!(answered.is_none_or(|(first, _)| now >= first.plus_ms(TIMES.keep_ms)));
                                let live = holders.last().filter(|_| matches!(state, State::Running(_)));
                                let released = matches!(state, State::Running(at) if at.until <= now);
                                prop_assert!(live.is_none_or(|one| now >= one.until || released));
                                prop_assert!(holders.last().is_none_or(|last| last.epoch < claim.epoch));
                                holders.push(claim);
                                state = State::Running(claim);
                                answered = None;
                            }
                            Decision::Replay => prop_assert_eq!(answered.map(|(_, of)| of), Some(fingerprint)),
                            Decision::Wait { until } => prop_assert!(until > now),
                            Decision::Mismatch => {}
                        }
                    }
                    Step::Record { holder } => {
                        let Some(one) = holders.get(holder).copied() else { continue };
                        if let Ok(recorded) = state.begin_recording(one.epoch) {
                            prop_assert_eq!(Some(one.epoch), holders.last().map(|last| last.epoch));
                            prop_assert!(answered.is_none());
                            answered = Some((recorded.first, recorded.fingerprint));
                            state = State::Done { fingerprint: recorded.fingerprint, first: recorded.first };
                        }
                    }
                    Step::Release { holder } => {
                        let Some(one) = holders.get(holder).copied() else { continue };
                        if let Ok(released) = state.release(one.epoch, now) {
                            prop_assert_eq!(Some(one.epoch), holders.last().map(|last| last.epoch));
                            state = State::Running(released);
                        }
                    }
                }
            }
        }
    }
}
