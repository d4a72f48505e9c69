//! How upstreams fare (UPS-7): each passes, warns or fails, and together they are healthy, degraded or unhealthy.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;

use super::adapter::AdapterContext;
use super::call::{CallError, CallErrorKind};
use super::perform::Core;
use crate::breaker::actor::Inspect;
use crate::breaker::state::Phase;
use crate::ground::clock::UnixMs;

/// Longest time for one check, in milliseconds: what answers later is down for who looks.
pub const CHECK_MS_MAX: u64 = 5_000;

/// How one upstream fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// It is there and takes the credential.
    Pass,
    /// It is there, and something is not as it should be: its breaker is not closed, or it asks to be left alone.
    Warn,
    /// It is not there, or does not take the credential.
    Fail,
}

impl Grade {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// How all of them fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// All pass, or there is none.
    Healthy,
    /// Some do not pass.
    Degraded,
    /// None is left that does not fail.
    Unhealthy,
}

impl Overall {
    /// Of these.
    #[must_use]
    pub fn of(grades: impl IntoIterator<Item = Grade>) -> Self {
        let (mut all, mut failed, mut warned) = (0_usize, 0_usize, 0_usize);
        for grade in grades {
            all += 1;
            match grade {
                Grade::Pass => {}
                Grade::Warn => warned += 1,
                Grade::Fail => failed += 1,
            }
        }
        if all > 0 && failed == all {
            Self::Unhealthy
        } else if failed + warned > 0 {
            Self::Degraded
        } else {
            Self::Healthy
        }
    }

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What a check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It answers and takes the credential.
    Reachable,
    /// It answers and does not.
    AuthRejected,
    /// It does not answer, or says that it cannot.
    Down,
}

impl Outcome {
    /// The words, for the documentation.
    pub const WORDS: [&'static str; 3] = ["reachable", "auth_rejected", "down"];

    fn of(result: &Result<(), CallError>) -> Self {
        match result {
            Ok(()) => Self::Reachable,
            Err(error) if error.kind == CallErrorKind::Auth => Self::AuthRejected,
            Err(_) => Self::Down,
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The upstream.
    pub id: String,
    /// How it fares.
    pub status: Grade,
    /// What was found.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// Why it does not pass.
    pub error: Option<String>,
    /// The state of its breaker.
    pub breaker: &'static str,
    /// When it was checked.
    pub checked_at: String,
}

/// What the last attempt said of the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When; none when there was none yet.
    pub at: Option<UnixMs>,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// What went wrong.
    pub failed: Option<CallErrorKind>,
}

impl Seen {
    /// Notes an attempt, or a check.
    pub fn note(&mut self, at: UnixMs, latency_ms: u64, error: Option<&CallError>) {
        *self = Self { at: Some(at), latency_ms, failed: error.map(|error| error.kind) };
    }

    /// How the upstream fares as far as is known without asking it.
    #[must_use]
    pub fn grade(&self, phase: Phase) -> Grade {
        let down = self.failed.is_some_and(|kind| match kind {
            CallErrorKind::Timeout | CallErrorKind::Transient | CallErrorKind::Auth | CallErrorKind::Internal => true,
            CallErrorKind::Unknown
            | CallErrorKind::Validation
            | CallErrorKind::RateLimited
            | CallErrorKind::CircuitOpen
            | CallErrorKind::Busy
            | CallErrorKind::NotFound
            | CallErrorKind::Permanent
            | CallErrorKind::Malformed => false,
        });
        match phase {
            Phase::Open | Phase::ForcedOpen => Grade::Fail,
            Phase::HalfOpen => Grade::Warn,
            Phase::Closed | Phase::Disabled => {
                if down {
                    Grade::Warn
                } else {
                    Grade::Pass
                }
            }
        }
    }
}

/// Asks the upstream whether it is there, past its breaker and bucket: that is what an operator wants to know.
pub(super) async fn check(core: &Core, context: AdapterContext) -> Report {
    let served = core.served.load_full();
    let (clock, limit_ms) = (&core.clock, served.rules.attempt_ms.min(CHECK_MS_MAX));
    let began_ns = clock.monotonic_ns();
    let checked = AssertUnwindSafe(served.adapter.health_check(&context)).catch_unwind();
    let result = tokio::select! {
        done = checked => done.unwrap_or_else(|_| Err(CallError::new(CallErrorKind::Internal, "the health check panicked"))),
        () = clock.sleep(Duration::from_millis(limit_ms)) => {
            Err(CallError::new(CallErrorKind::Timeout, format!("no answer within {limit_ms} ms")))
        }
    };
    let latency_ms = clock.monotonic_ns().saturating_sub(began_ns) / 1_000_000;
    core.seen.lock().note(clock.now(), latency_ms, result.as_ref().err());
    let phase = core.breaker.ask(Inspect).await.map_or(Phase::Closed, |view| view.state.phase());
    let outcome = Outcome::of(&result);
    let status = match (outcome, phase) {
        (Outcome::AuthRejected | Outcome::Down, _) => Grade::Fail,
        (Outcome::Reachable, Phase::Closed | Phase::Disabled) => Grade::Pass,
        (Outcome::Reachable, Phase::Open | Phase::HalfOpen | Phase::ForcedOpen) => Grade::Warn,
    };
    Report {
        id: core.id.to_string(),
        status,
        outcome,
        latency_ms,
        error: result.err().map(|error| error.message),
        breaker: phase.as_str(),
        checked_at: clock.now().to_rfc3339(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_fare_as_their_worst_allows() {
        use Grade::{Fail, Pass, Warn};
        let cases: [(&[Grade], Overall); 6] = [
            (&[], Overall::Healthy),
            (&[Pass, Pass], Overall::Healthy),
            (&[Pass, Warn], Overall::Degraded),
            (&[Pass, Fail], Overall::Degraded),
            (&[Warn, Fail], Overall::Degraded),
            (&[Fail, Fail], Overall::Unhealthy),
        ];
        for (grades, overall) in cases {
            assert_eq!(Overall::of(grades.iter().copied()), overall, "{grades:?}");
        }
    }

    #[test]
    fn what_was_seen_last_and_the_breaker_make_the_grade() {
        let mut seen = Seen::default();
        assert_eq!(seen.grade(Phase::Closed), Grade::Pass);
        seen.note(UnixMs(1), 5, Some(&CallError::new(CallErrorKind::Timeout, "late")));
        assert_eq!((seen.grade(Phase::Closed), seen.grade(Phase::Open)), (Grade::Warn, Grade::Fail));
        seen.note(UnixMs(2), 5, Some(&CallError::new(CallErrorKind::NotFound, "none")));
        assert_eq!((seen.grade(Phase::Closed), seen.grade(Phase::HalfOpen)), (Grade::Pass, Grade::Warn));
        assert_eq!(seen.grade(Phase::ForcedOpen), Grade::Fail);
    }
}
