//! How an endpoint fares, as its owner is told of it, and when deliveries to it stop (WHK-6, WHK-7). Pure: time is an
//! argument, nothing is performed here.
//!
//! ```text
//!          so many failures in a row               a success
//!   well ───────────────────────────▶ failing ──────────────────▶ well (recovered)
//!                                        │ nothing but failures for days, or very many in a row
//!                                        ▼
//!                                     paused ── resumed by hand: counts begin anew ──▶ the first success is a recovery
//! ```
//!
//! - `EH-1` Each change of state is told at most once, under a number of its own.
//! - `EH-2` A recovery is told only of what was told to fail; a flapping endpoint is told to fail once an hour at most.
//! - `EH-3` The hub's own events count for nothing here: what they tell of cannot cause more of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;
use crate::ground::limits::{FAILURES_MAX, PAUSE_MS_MAX, PAUSE_MS_MIN};

/// An endpoint is told to fail at most this often.
const FAILING_EVERY_MS: u64 = 3_600_000;

/// When an owner is told, and when a webhook is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRules {
    /// Failures in a row after which it is told to fail.
    pub failing_after: u32,
    /// Time of nothing but failures that pauses it; 0 means never.
    pub pause_after_ms: u64,
    /// Failures in a row that pause it; 0 means never.
    pub pause_after_failures: u32,
}

/// What a webhook sets of [`HealthRules`]; what it leaves out is the hub's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSettings {
    /// See [`HealthRules::failing_after`].
    #[serde(default)]
    pub failing_after: Option<u32>,
    /// See [`HealthRules::pause_after_ms`].
    #[serde(default)]
    pub pause_after_ms: Option<u64>,
    /// See [`HealthRules::pause_after_failures`].
    #[serde(default)]
    pub pause_after_failures: Option<u32>,
}

impl HealthSettings {
    /// The rules, over those of the hub.
    #[must_use]
    pub fn over(self, hub: HealthRules) -> HealthRules {
        HealthRules {
            failing_after: self.failing_after.unwrap_or(hub.failing_after),
            pause_after_ms: self.pause_after_ms.unwrap_or(hub.pause_after_ms),
            pause_after_failures: self.pause_after_failures.unwrap_or(hub.pause_after_failures),
        }
    }

    /// Reads them from a client's JSON.
    ///
    /// # Errors
    /// A problem naming the member under `health`.
    pub fn from_json(value: &Value) -> Result<Self, Problem> {
        let Value::Object(map) = value else {
            let limit = "{failing_after?, pause_after_ms?, pause_after_failures?}";
            return Err(Problem::field("health", limit, value));
        };
        let known = ["failing_after", "pause_after_ms", "pause_after_failures"];
        if let Some(name) = map.keys().find(|name| !known.contains(&name.as_str())) {
            let limit = format!("unknown field; known are {}", known.join(", "));
            return Err(Problem::field(format!("health.{name}"), limit, name));
        }
        let number = |name: &str, least: u64, most: u64, or_zero: bool| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(sent) => {
                let fits = sent.as_u64().filter(|n| (least..=most).contains(n) || (or_zero && *n == 0));
                let never = if or_zero { ", or 0 for never" } else { "" };
                let limit = format!("a whole number from {least} to {most}{never}");
                fits.map(Some).ok_or_else(|| Problem::field(format!("health.{name}"), limit, sent))
            }
        };
        let count = |name: &str, or_zero: bool| {
            number(name, 1, FAILURES_MAX, or_zero).map(|count| count.and_then(|count| u32::try_from(count).ok()))
        };
        Ok(Self {
            failing_after: count("failing_after", false)?,
            pause_after_ms: number("pause_after_ms", PAUSE_MS_MIN, PAUSE_MS_MAX, true)?,
            pause_after_failures: count("pause_after_failures", true)?,
        })
    }
}

/// What of an endpoint is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// Failures since the last success, or since it was resumed.
    pub failures: u32,
    /// When the first of them was.
    #[serde(default)]
    pub since: Option<UnixMs>,
    /// Whether its owner was told that it fails and not yet that it recovered.
    #[serde(default)]
    pub told: bool,
    /// When that was, the last time.
    #[serde(default)]
    pub told_at: Option<UnixMs>,
    /// Why it was paused, when it was not resumed since.
    #[serde(default)]
    pub paused: Option<PauseReason>,
    /// How many changes were told.
    #[serde(default)]
    pub changes: u64,
}

/// Why deliveries to an endpoint stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Nothing but failures for so long.
    FailingForLong,
    /// So many failures in a row.
    ManyFailures,
    /// It said that it is gone.
    Gone,
}

/// A change that its owner is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It fails.
    Failing,
    /// Deliveries to it stop.
    Paused(PauseReason),
    /// It works again.
    Recovered,
}

impl ChangeKind {
    /// The last part of its event's type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Paused(_) => "paused",
            Self::Recovered => "recovered",
        }
    }
}

/// A change, with what was counted up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub kind: ChangeKind,
    /// Its number among the changes of this endpoint.
    pub number: u64,
    /// When.
    pub at: UnixMs,
    /// Failures in a row before it.
    pub failures: u32,
    /// When the first of them was.
    pub since: Option<UnixMs>,
}

impl EndpointHealth {
    /// Takes a success in.
    pub fn succeeded(&mut self, now: UnixMs) -> Option<Change> {
        let (failures, since) = (std::mem::take(&mut self.failures), self.since.take());
        if !std::mem::take(&mut self.told) {
            return None;
        }
        Some(self.change(ChangeKind::Recovered, now, failures, since))
    }

    /// Takes a failure in.
    pub fn failed(&mut self, rules: &HealthRules, now: UnixMs) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        if self.paused.is_some() {
            return None;
        }
        let fails = self.failures >= rules.failing_after;
        let many = rules.pause_after_failures > 0 && self.failures >= rules.pause_after_failures;
        // One failure now and one a week ago is no week of failures: it must fail by its own rule, too.
        let long = rules.pause_after_ms > 0 && fails && now.since_ms(since) >= rules.pause_after_ms;
        if many || long {
            let reason = if many { PauseReason::ManyFailures } else { PauseReason::FailingForLong };
            self.paused = Some(reason);
            self.told = true;
            return Some(self.change(ChangeKind::Paused(reason), now, self.failures, self.since));
        }
        let lately = self.told_at.is_some_and(|told| now.since_ms(told) < FAILING_EVERY_MS);
        if !fails || self.told || lately {
            return None;
        }
        self.told = true;
        self.told_at = Some(now);
        Some(self.change(ChangeKind::Failing, now, self.failures, self.since))
    }

    /// The endpoint said that it is gone. None when it is known to be.
    pub fn gone(&mut self, now: UnixMs) -> Option<Change> {
        if self.paused.is_some() {
            return None;
        }
        self.paused = Some(PauseReason::Gone);
        self.told = true;
        Some(self.change(ChangeKind::Paused(PauseReason::Gone), now, self.failures, self.since))
    }

    /// It was resumed: the counts begin anew. That it was told to fail stays, so that its first success is a recovery.
    pub fn resumed(&mut self) {
        self.failures = 0;
        self.since = None;
        self.paused = None;
    }

    fn change(&mut self, kind: ChangeKind, at: UnixMs, failures: u32, since: Option<UnixMs>) -> Change {
        self.changes += 1;
        Change { kind, number: self.changes, at, failures, since }
    }
}

/// An endpoint's health in memory.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// How it fares.
    pub health: EndpointHealth,
    /// Whether the store knows an older state.
    pub unsaved: bool,
}

impl Tracked {
    /// Takes what came of an attempt; what changes nothing is not worth a write.
    pub fn note(&mut self, rules: &HealthRules, delivered: bool, now: UnixMs) -> Option<Change> {
        if delivered && self.health.failures == 0 && !self.health.told {
            return None;
        }
        self.unsaved = true;
        if delivered { self.health.succeeded(now) } else { self.health.failed(rules, now) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const START: UnixMs = UnixMs(1_795_248_000_000);
    const DAY_MS: u64 = 24 * 3_600_000;
    const RULES: HealthRules = HealthRules { failing_after: 3, pause_after_ms: 5 * DAY_MS, pause_after_failures: 0 };

    fn fail(health: &mut EndpointHealth, times: u32, now: UnixMs) -> Vec<ChangeKind> {
        (0..times).filter_map(|_| health.failed(&RULES, now)).map(|change| change.kind).collect()
    }

    #[test]
    fn an_owner_is_told_once_that_it_fails_and_once_that_it_recovered() {
        let mut health = EndpointHealth::default();
        assert_eq!(health.succeeded(START), None);
        assert_eq!(fail(&mut health, 2, START), []);
        assert_eq!(health.succeeded(START), None, "two failures are no news");
        assert_eq!(fail(&mut health, 9, START), [ChangeKind::Failing]);
        let recovered = health.succeeded(START.plus_ms(7)).expect("told");
        let wanted =
            Change { kind: ChangeKind::Recovered, number: 2, at: START.plus_ms(7), failures: 9, since: Some(START) };
        assert_eq!(recovered, wanted);
        assert_eq!(health.succeeded(START), None);
    }

    #[test]
    fn a_flapping_endpoint_is_told_to_fail_once_an_hour() {
        let mut health = EndpointHealth::default();
        let mut told = Vec::new();
        for minute in 0..180 {
            let now = START.plus_ms(minute * 60_000);
            told.extend(fail(&mut health, 3, now));
            told.extend(health.succeeded(now).map(|change| change.kind));
        }
        assert_eq!(told, [[ChangeKind::Failing, ChangeKind::Recovered]; 3].concat());
    }

    #[test]
    fn days_of_nothing_but_failures_pause_it_and_a_success_between_begins_anew() {
        let mut health = EndpointHealth::default();
        assert_eq!(fail(&mut health, 3, START), [ChangeKind::Failing]);
        assert_eq!(fail(&mut health, 1, START.plus_ms(5 * DAY_MS - 1)), []);
        assert!(health.succeeded(START.plus_ms(5 * DAY_MS - 1)).is_some());
        let again = START.plus_ms(5 * DAY_MS);
        assert_eq!(fail(&mut health, 3, again), [ChangeKind::Failing]);
        let end = again.plus_ms(5 * DAY_MS);
        assert_eq!(fail(&mut health, 5, end), [ChangeKind::Paused(PauseReason::FailingForLong)], "once");
        assert_eq!(health.paused, Some(PauseReason::FailingForLong));
        health.resumed();
        assert_eq!((health.failures, health.since), (0, None));
        assert_eq!(fail(&mut health, 2, end.plus_ms(DAY_MS)), []);
        assert_eq!(health.succeeded(end.plus_ms(DAY_MS)).map(|change| change.kind), Some(ChangeKind::Recovered));
    }

    #[test]
    fn two_failures_a_week_apart_with_nothing_between_are_no_week_of_failures() {
        let mut health = EndpointHealth::default();
        assert_eq!(fail(&mut health, 1, START), []);
        assert_eq!(fail(&mut health, 1, START.plus_ms(7 * DAY_MS)), []);
    }

    #[test]
    fn so_many_failures_in_a_row_pause_it_when_asked_to() {
        let rules = HealthRules { pause_after_failures: 5, ..RULES };
        let mut health = EndpointHealth::default();
        let told: Vec<_> = (0..9).filter_map(|_| health.failed(&rules, START)).map(|change| change.kind).collect();
        assert_eq!(told, [ChangeKind::Failing, ChangeKind::Paused(PauseReason::ManyFailures)]);
    }

    #[test]
    fn one_that_is_gone_is_told_so_once() {
        let mut health = EndpointHealth::default();
        assert_eq!(health.gone(START).map(|change| change.kind), Some(ChangeKind::Paused(PauseReason::Gone)));
        assert_eq!(health.gone(START), None);
        assert_eq!(fail(&mut health, 9, START), []);
    }

    #[test]
    fn settings_are_read_within_their_bounds() {
        let read = |value: Value| HealthSettings::from_json(&value);
        let hub = RULES;
        let all = read(json!({"failing_after": 7, "pause_after_ms": 0, "pause_after_failures": 50})).expect("fits");
        let wanted = HealthRules { failing_after: 7, pause_after_ms: 0, pause_after_failures: 50 };
        assert_eq!(all.over(hub), wanted);
        assert_eq!(read(json!({})).map(|settings| settings.over(hub)), Ok(hub));
        for (sent, field) in [
            (json!(5), "health"),
            (json!({"failing_after": 0}), "health.failing_after"),
            (json!({"failing_after": 1_000_001}), "health.failing_after"),
            (json!({"pause_after_ms": 59_999}), "health.pause_after_ms"),
            (json!({"pause_after_ms": "5 days"}), "health.pause_after_ms"),
            (json!({"pause_after_failures": -1}), "health.pause_after_failures"),
            (json!({"pause": 1}), "health.pause"),
        ] {
            assert_eq!(read(sent).expect_err("refused").field.as_deref(), Some(field));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happens_changes_alternate_are_numbered_and_survive_a_restart(
            steps in prop::collection::vec((0_u8..4, 0_u64..2 * DAY_MS), 0..200),
        ) {
            let rules = HealthRules { pause_after_failures: 20, ..RULES };
            let (mut health, mut now, mut told) = (EndpointHealth::default(), START, Vec::new());
            for (what, pause_ms) in steps {
                now = now.plus_ms(pause_ms);
                let stored = serde_json::to_vec(&health).expect("encodes");
                health = serde_json::from_slice(&stored).expect("decodes");
                told.extend(match what {
                    0 => health.succeeded(now),
                    1 => { health.resumed(); None }
                    _ => health.failed(&rules, now),
                });
            }
            for (at, change) in told.iter().enumerate() {
                prop_assert_eq!(change.number, at as u64 + 1);
                let before = at.checked_sub(1).map(|before| told[before].kind);
                match change.kind {
                    ChangeKind::Recovered => prop_assert!(matches!(before, Some(ChangeKind::Failing | ChangeKind::Paused(_)))),
                    ChangeKind::Failing => prop_assert!(matches!(before, None | Some(ChangeKind::Recovered))),
                    ChangeKind::Paused(_) => {}
                }
            }
        }
    }
}
