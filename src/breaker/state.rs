//! The breaker's rules, pure: time is an argument, nothing is performed here (BRK-1, BRK-3, BRK-4).
//!
//! ```text
//!            failures in a row, or a share of the window             cooldown over, next call
//!   closed ────────────────────────────────────────────▶ open ─────────────────────────────▶ half-open
//!     ▲                                                   ▲                                   │      │
//!     │                                                   └───────── a probe failed ──────────┘      │
//!     └──────────────────────── `success_threshold` probes succeeded ───────────────────────────────┘
//!   any ── command ──▶ forced open (lets nothing through) | disabled (lets everything through) | closed
//! ```
//!
//! Invariants:
//! - **BR-1** While open, nothing is let through before `until`.
//! - **BR-2** While half-open, at most `probes_max` probes are in flight; one whose holder died frees its place after
//!   `probe_timeout_ms`.
//! - **BR-3** Only successful probes or a command close it.
//! - **BR-4** A result counts in the state that let its call through and in no later one: every transition starts a
//!   new generation, and a permit names its own.
//!
//! A clock set back cannot hold a breaker shut: no wait is ever longer than the cap of the settings.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::settings::BreakerSettings;
use crate::ground::clock::UnixMs;

/// What a call said about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// It works.
    Success,
    /// It does not.
    Failure,
}

/// Where a breaker stands; what of it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    Closed {
        /// Failures since the last success.
        consecutive_failures: u32,
        /// Openings that are not forgotten yet; 0 when it has been well for `cooldown_cap_ms`.
        times_opened: u32,
        /// When it closed; meaningless while `times_opened` is 0.
        since: UnixMs,
    },
    /// Nothing goes through.
    Open {
        /// When the next call may go through, as a probe.
        until: UnixMs,
        /// Openings in a row, this one included.
        times_opened: u32,
    },
    /// Probes go through, a few at a time.
    HalfOpen {
        /// Probes that succeeded.
        successes: u32,
        /// Openings in a row so far.
        times_opened: u32,
    },
    /// Shut by hand until a command.
    ForcedOpen,
    /// Out of use by hand: everything goes through and no result counts.
    Disabled,
}

impl BreakerState {
    /// A breaker that has seen nothing yet.
    pub const NEW: Self = Self::Closed { consecutive_failures: 0, times_opened: 0, since: UnixMs(0) };

    /// The state without its numbers.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Closed { .. } => Phase::Closed,
            Self::Open { .. } => Phase::Open,
            Self::HalfOpen { .. } => Phase::HalfOpen,
            Self::ForcedOpen => Phase::ForcedOpen,
            Self::Disabled => Phase::Disabled,
        }
    }
}

/// A state without its numbers, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// See [`BreakerState::Closed`].
    Closed,
    /// See [`BreakerState::Open`].
    Open,
    /// See [`BreakerState::HalfOpen`].
    HalfOpen,
    /// See [`BreakerState::ForcedOpen`].
    ForcedOpen,
    /// See [`BreakerState::Disabled`].
    Disabled,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Open, Self::HalfOpen, Self::ForcedOpen, Self::Disabled];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
        }
    }
}

/// What an operator may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Close it and forget every count, whatever its state.
    Reset,
    /// Let nothing through until another command.
    ForceOpen,
    /// Let everything through until another command.
    Disable,
    /// Undo `ForceOpen` or `Disable`; nothing otherwise.
    Enable,
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// So many failures in a row.
    ConsecutiveFailures(u32),
    /// So many percent of the window failed.
    FailureRate(u8),
    /// So many percent of the window were slow.
    SlowRate(u8),
    /// The cooldown is over and a call came.
    CooldownOver,
    /// A probe failed, or was slow.
    ProbeFailed,
    /// So many probes succeeded.
    ProbesSucceeded(u32),
    /// An operator said so.
    Commanded(Command),
}

impl Reason {
    /// The stable name, without numbers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures(_) => "consecutive_failures",
            Self::FailureRate(_) => "failure_rate",
            Self::SlowRate(_) => "slow_rate",
            Self::CooldownOver => "cooldown_over",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesSucceeded(_) => "probes_succeeded",
            Self::Commanded(Command::Reset) => "reset",
            Self::Commanded(Command::ForceOpen) => "force_open",
            Self::Commanded(Command::Disable) => "disable",
            Self::Commanded(Command::Enable) => "enable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(count) => write!(f, "{count} failures in a row"),
            Self::FailureRate(percent) => write!(f, "{percent} % of the last calls failed"),
            Self::SlowRate(percent) => write!(f, "{percent} % of the last calls were slow"),
            Self::CooldownOver => f.write_str("the cooldown is over"),
            Self::ProbeFailed => f.write_str("a probe failed"),
            Self::ProbesSucceeded(count) => write!(f, "{count} probes succeeded"),
            Self::Commanded(_) => write!(f, "ordered by hand: {}", self.as_str()),
        }
    }
}

/// A change of state: to be logged, counted and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state left.
    pub from: Phase,
    /// The state entered.
    pub to: Phase,
    /// Why.
    pub reason: Reason,
}

/// The right to make one call; goes back with its result or unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a permit goes back through record or release"]
pub struct Permit {
    generation: u64,
    probe: Option<u64>,
}

impl Permit {
    /// Whether the call is a probe of a half-open breaker.
    #[must_use]
    pub fn is_probe(self) -> bool {
        self.probe.is_some()
    }
}

/// Why a call is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Open, cooling down.
    Open,
    /// Half-open, and every probe is under way.
    ProbesInFlight,
    /// Shut by hand.
    ForcedOpen,
}

impl Refusal {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "breaker_open",
            Self::ProbesInFlight => "breaker_probing",
            Self::ForcedOpen => "breaker_forced_open",
        }
    }
}

/// The answer to a call that wants to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted {
        /// Goes back with the result.
        permit: Permit,
        /// The change this brought, when the call is the first probe after a cooldown.
        transition: Option<Transition>,
    },
    /// It may not, and no attempt is spent.
    Refused {
        /// When to ask again at the latest; `None` until a command.
        until: Option<UnixMs>,
        /// Why.
        reason: Refusal,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    id: u64,
    expires: UnixMs,
}

/// One breaker: its settings, its state, and what is known of calls under way.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    generation: u64,
    window: Window,
    probes: Vec<Probe>,
    probe_next: u64,
}

impl Breaker {
    /// A closed breaker that has seen nothing yet.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self::restore(settings, BreakerState::NEW, 0)
    }

    /// A breaker as it was kept. Calls from before belong to an earlier generation and count no more; the window
    /// starts empty.
    #[must_use]
    pub fn restore(settings: BreakerSettings, state: BreakerState, generation: u64) -> Self {
        Self { settings, state, generation, window: Window::default(), probes: Vec::new(), probe_next: 0 }
    }

    /// Where it stands. An open breaker whose cooldown is over stays open until a call comes.
    #[must_use]
    pub fn state(&self) -> &BreakerState {
        &self.state
    }

    /// How many transitions it has made.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The numbers it goes by.
    #[must_use]
    pub fn settings(&self) -> &BreakerSettings {
        &self.settings
    }

    /// Goes by other numbers from now on; the state stays.
    pub fn set_settings(&mut self, settings: BreakerSettings) {
        self.settings = settings;
    }

    /// Whether a call may go through now.
    pub fn admit(&mut self, now: UnixMs) -> Admission {
        match &mut self.state {
            BreakerState::Closed { .. } | BreakerState::Disabled => self.admitted(None, None),
            BreakerState::ForcedOpen => Admission::Refused { until: None, reason: Refusal::ForcedOpen },
            BreakerState::Open { until, times_opened } => {
                // No cooldown is longer than the cap, so a longer wait means the clock was set back.
                *until = (*until).min(now.plus_ms(self.settings.cooldown_cap_ms));
                if now < *until {
                    return Admission::Refused { until: Some(*until), reason: Refusal::Open };
                }
                let times_opened = *times_opened;
                let transition =
                    self.enter(BreakerState::HalfOpen { successes: 0, times_opened }, Reason::CooldownOver);
                self.admit_probe(now, Some(transition))
            }
            BreakerState::HalfOpen { .. } => self.admit_probe(now, None),
        }
    }

    /// Takes the result of a call back. What a stale permit brings is dropped (BR-4).
    pub fn record(&mut self, permit: Permit, result: CallResult, latency_ms: u64, now: UnixMs) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        match self.state {
            BreakerState::Closed { .. } => self.record_call(result, latency_ms, now),
            BreakerState::HalfOpen { .. } => {
                self.take_probe(permit)?;
                self.record_probe(result, latency_ms, now)
            }
            BreakerState::Open { .. } | BreakerState::ForcedOpen | BreakerState::Disabled => None,
        }
    }

    /// Takes back the permit of a call that never happened or that said nothing about the upstream.
    pub fn release(&mut self, permit: Permit) {
        if permit.generation == self.generation {
            self.probes.retain(|probe| Some(probe.id) != permit.probe);
        }
    }

    /// Does as an operator says. `None` when it was so already.
    pub fn command(&mut self, command: Command, now: UnixMs) -> Option<Transition> {
        let closed = BreakerState::Closed { consecutive_failures: 0, times_opened: 0, since: now };
        let next = match (command, self.state.phase()) {
            (Command::Reset, Phase::Closed) => {
                self.state = closed;
                self.window.clear();
                return None;
            }
            (Command::ForceOpen, Phase::ForcedOpen)
            | (Command::Disable, Phase::Disabled)
            | (Command::Enable, Phase::Closed | Phase::Open | Phase::HalfOpen) => return None,
            (Command::Reset, Phase::Open | Phase::HalfOpen | Phase::ForcedOpen | Phase::Disabled)
            | (Command::Enable, Phase::ForcedOpen | Phase::Disabled) => closed,
            (Command::ForceOpen, Phase::Closed | Phase::Open | Phase::HalfOpen | Phase::Disabled) => {
                BreakerState::ForcedOpen
            }
            (Command::Disable, Phase::Closed | Phase::Open | Phase::HalfOpen | Phase::ForcedOpen) => {
                BreakerState::Disabled
            }
        };
        Some(self.enter(next, Reason::Commanded(command)))
    }

    /// How many calls may be under way at once, when `full` is what the upstream takes in good health (BRK-4). After a
    /// recovery it grows from 1 to `full` over `ramp_ms`. What is let through is for [`Breaker::admit`] to say.
    #[must_use]
    pub fn concurrency(&self, full: u32, now: UnixMs) -> u32 {
        match self.state {
            BreakerState::Closed { times_opened: 1.., since, .. } => {
                let (elapsed_ms, ramp_ms) = (now.since_ms(since), self.settings.ramp_ms);
                // Before `since` the clock was set back: a ramp is no reason to crawl until it catches up.
                if now < since || elapsed_ms >= ramp_ms {
                    return full;
                }
                let share = u128::from(full) * u128::from(elapsed_ms) / u128::from(ramp_ms);
                u32::try_from(share).unwrap_or(full).max(1).min(full)
            }
            BreakerState::HalfOpen { .. } => full.min(self.settings.probes_max),
            BreakerState::Open { .. } | BreakerState::ForcedOpen => 0,
            BreakerState::Closed { .. } | BreakerState::Disabled => full,
        }
    }

    /// Probes under way that have not run out.
    #[must_use]
    pub fn probes_in_flight(&self, now: UnixMs) -> usize {
        self.probes.iter().filter(|probe| self.is_live(probe, now)).count()
    }

    fn is_live(&self, probe: &Probe, now: UnixMs) -> bool {
        // More than the timeout ahead means the clock was set back.
        now < probe.expires && probe.expires.since_ms(now) <= self.settings.probe_timeout_ms
    }

    fn admitted(&self, probe: Option<u64>, transition: Option<Transition>) -> Admission {
        Admission::Admitted { permit: Permit { generation: self.generation, probe }, transition }
    }

    fn admit_probe(&mut self, now: UnixMs, transition: Option<Transition>) -> Admission {
        let mut probes = std::mem::take(&mut self.probes);
        probes.retain(|probe| self.is_live(probe, now));
        self.probes = probes;
        if self.probes.len() >= usize::try_from(self.settings.probes_max).unwrap_or(usize::MAX) {
            let until = self.probes.iter().map(|probe| probe.expires).min();
            return Admission::Refused { until, reason: Refusal::ProbesInFlight };
        }
        let id = self.probe_next;
        self.probe_next += 1;
        self.probes.push(Probe { id, expires: now.plus_ms(self.settings.probe_timeout_ms) });
        self.admitted(Some(id), transition)
    }

    /// Ends a probe; `None` when its place was given to another.
    fn take_probe(&mut self, permit: Permit) -> Option<()> {
        let at = self.probes.iter().position(|probe| Some(probe.id) == permit.probe)?;
        self.probes.swap_remove(at);
        Some(())
    }

    fn record_probe(&mut self, result: CallResult, latency_ms: u64, now: UnixMs) -> Option<Transition> {
        let BreakerState::HalfOpen { successes, times_opened } = &mut self.state else { return None };
        // Where slowness opens a breaker, a slow probe is no recovery.
        let too_slow = self.settings.slow_rate.is_some() && self.settings.is_slow(latency_ms);
        if result == CallResult::Failure || too_slow {
            let times_opened = times_opened.saturating_add(1);
            return Some(self.open(times_opened, Reason::ProbeFailed, now));
        }
        *successes = successes.saturating_add(1);
        if *successes < self.settings.success_threshold {
            return None;
        }
        let (successes, times_opened) = (*successes, *times_opened);
        let closed = BreakerState::Closed { consecutive_failures: 0, times_opened, since: now };
        Some(self.enter(closed, Reason::ProbesSucceeded(successes)))
    }

    fn record_call(&mut self, result: CallResult, latency_ms: u64, now: UnixMs) -> Option<Transition> {
        let BreakerState::Closed { consecutive_failures, times_opened, since } = &mut self.state else { return None };
        *consecutive_failures = match result {
            CallResult::Success => 0,
            CallResult::Failure => consecutive_failures.saturating_add(1),
        };
        let (failures, opened_before, since) = (*consecutive_failures, *times_opened, *since);
        let call = Call { failed: result == CallResult::Failure, slow: self.settings.is_slow(latency_ms) };
        self.window.push(call, self.settings.window);
        let reason = if failures >= self.settings.failure_threshold {
            Reason::ConsecutiveFailures(failures)
        } else {
            self.window.reason_to_open(&self.settings)?
        };
        // A breaker that stayed closed for the longest cooldown is well: its earlier openings are forgotten.
        let forgotten = now.since_ms(since) >= self.settings.cooldown_cap_ms;
        let times_opened = if forgotten { 1 } else { opened_before.saturating_add(1) };
        Some(self.open(times_opened, reason, now))
    }

    fn open(&mut self, times_opened: u32, reason: Reason, now: UnixMs) -> Transition {
        let until = now.plus_ms(self.settings.cooldown_of(times_opened));
        self.enter(BreakerState::Open { until, times_opened }, reason)
    }

    fn enter(&mut self, next: BreakerState, reason: Reason) -> Transition {
        let transition = Transition { from: self.state.phase(), to: next.phase(), reason };
        self.state = next;
        self.generation = self.generation.wrapping_add(1);
        self.window.clear();
        self.probes.clear();
        transition
    }
}

#[derive(Clone, Copy, Debug)]
struct Call {
    failed: bool,
    slow: bool,
}

/// The last calls, with their counts kept up so that a push costs the same at any length.
#[derive(Clone, Debug, Default)]
struct Window {
    calls: VecDeque<Call>,
    failed: usize,
    slow: usize,
}

impl Window {
    fn push(&mut self, call: Call, calls_max: usize) {
        self.calls.push_back(call);
        self.failed += usize::from(call.failed);
        self.slow += usize::from(call.slow);
        while self.calls.len() > calls_max {
            let Some(gone) = self.calls.pop_front() else { return };
            self.failed -= usize::from(gone.failed);
            self.slow -= usize::from(gone.slow);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn reason_to_open(&self, settings: &BreakerSettings) -> Option<Reason> {
        let total = self.calls.len();
        if total < settings.min_calls {
            return None;
        }
        let reaches = |count: usize, rate: Option<f64>| rate.is_some_and(|rate| count as f64 >= rate * total as f64);
        let percent = |count: usize| u8::try_from(count * 100 / total.max(1)).unwrap_or(100);
        if reaches(self.failed, settings.failure_rate) {
            return Some(Reason::FailureRate(percent(self.failed)));
        }
        if settings.slow_call_ms.is_some() && reaches(self.slow, settings.slow_rate) {
            return Some(Reason::SlowRate(percent(self.slow)));
        }
        None
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
