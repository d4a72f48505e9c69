//! The numbers a breaker goes by (BRK-1, BRK-2).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ground::error::Problem;

/// Largest count of failures, successes or probes.
pub const COUNT_MAX: u32 = 10_000;
/// Longest time any setting may name, in milliseconds: 7 days.
pub const TIME_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Most calls a window looks back.
pub const WINDOW_MAX: usize = 10_000;

/// Shortest time a call may be given, in milliseconds.
pub const CALL_MS_MIN: u64 = 100;
/// Longest time a call may be given, in milliseconds: 10 minutes.
pub const CALL_MS_MAX: u64 = 600_000;

/// When a breaker opens, how long it stays so, and what closes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failure_threshold: u32,
    /// Successful probes that close it.
    pub success_threshold: u32,
    /// How long it stays open the first time.
    pub cooldown_ms: u64,
    /// The longest it stays open: each opening doubles the time up to this.
    pub cooldown_cap_ms: u64,
    /// Probes let through at once while half-open.
    pub probes_max: u32,
    /// After this long a probe without a result no longer holds its place.
    pub probe_timeout_ms: u64,
    /// Share of failures in the window that opens it; off when absent.
    pub failure_rate: Option<f64>,
    /// A call that takes this long or longer is slow.
    pub slow_call_ms: Option<u64>,
    /// Share of slow calls in the window that opens it; off when absent or without `slow_call_ms`.
    pub slow_rate: Option<f64>,
    /// Calls the window needs before its shares count.
    pub min_calls: usize,
    /// Calls the window looks back.
    pub window: usize,
    /// How long after a recovery full concurrency is reached again.
    pub ramp_ms: u64,
    /// How long one call may take; none for the caller's own limit.
    pub call_timeout_ms: Option<u64>,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            success_threshold: 1,
            cooldown_ms: 30_000,
            cooldown_cap_ms: 600_000,
            probes_max: 1,
            probe_timeout_ms: 60_000,
            failure_rate: None,
            slow_call_ms: None,
            slow_rate: None,
            min_calls: 20,
            window: 100,
            ramp_ms: 10_000,
            call_timeout_ms: None,
        }
    }
}

impl BreakerSettings {
    /// The names [`BreakerSettings::preset`] knows.
    pub const PRESETS: &'static [&'static str] = &["sales", "erp", "esignature", "communication", "bridge"];

    /// The settings of this name (BRK-2); `None` for a name that is not in [`BreakerSettings::PRESETS`].
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let (failure_threshold, success_threshold, call_timeout_ms, cooldown_ms) = match name {
            "sales" => (5, 2, 30_000, 60_000),
            "erp" => (3, 2, 45_000, 120_000),
            "esignature" => (5, 3, 60_000, 300_000),
            "communication" => (10, 3, 15_000, 30_000),
            "bridge" => (5, 1, 3_000, 300_000),
            _ => return None,
        };
        // A probe has its whole time before its place is given to another.
        let probe_timeout_ms = Self::default().probe_timeout_ms.max(2 * call_timeout_ms);
        Some(Self {
            failure_threshold,
            success_threshold,
            cooldown_ms,
            call_timeout_ms: Some(call_timeout_ms),
            probe_timeout_ms,
            ..Self::default()
        })
    }

    /// Reads settings from a client's JSON: a preset's name, or an object of the numbers that differ from `base`; its
    /// member `preset` names another base.
    ///
    /// # Errors
    /// A problem that names the field under `field` and the range that is allowed.
    pub fn from_json(value: &Value, base: &Self, field: &str) -> Result<Self, Problem> {
        let preset = |name: &Value, field: String| {
            let known = format!("one of {}", Self::PRESETS.join(", "));
            name.as_str().and_then(Self::preset).ok_or_else(|| Problem::field(field, known, name))
        };
        let Value::Object(sent) = value else { return preset(value, field.to_owned()) };
        let mut sent = sent.clone();
        let base = match sent.remove("preset") {
            Some(name) => preset(&name, format!("{field}.preset"))?,
            None => base.clone(),
        };
        let mut whole = match serde_json::to_value(&base) {
            Ok(Value::Object(whole)) => whole,
            Ok(_) | Err(_) => Map::new(),
        };
        for (name, number) in sent {
            let path = format!("{field}.{name}");
            if !whole.contains_key(&name) {
                let known = whole.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Problem::unknown(path, format!("unknown field; known are preset, {known}")));
            }
            let mut one = whole.clone();
            one.insert(name.clone(), number.clone());
            if Self::deserialize(Value::Object(one)).is_err() {
                return Err(Problem::field(path, "a number; whole, unless it is a rate", number));
            }
            whole.insert(name, number);
        }
        let settings = Self::deserialize(Value::Object(whole))
            .map_err(|error| Problem::field(field, error.to_string(), "an object"))?;
        settings.validate(field)?;
        Ok(settings)
    }

    /// How long the opening number `times_opened` (1 is the first) lasts, in milliseconds.
    #[must_use]
    pub fn cooldown_of(&self, times_opened: u32) -> u64 {
        let doublings = times_opened.saturating_sub(1).min(63);
        self.cooldown_ms.saturating_mul(1_u64 << doublings).min(self.cooldown_cap_ms)
    }

    /// Whether a call of this length counts as slow.
    #[must_use]
    pub fn is_slow(&self, latency_ms: u64) -> bool {
        self.slow_call_ms.is_some_and(|slow_ms| latency_ms >= slow_ms)
    }

    /// Checks every number against its range; `field` is the path of the settings in what the client sent.
    ///
    /// # Errors
    /// A problem naming the field and the range.
    pub fn validate(&self, field: &str) -> Result<(), Problem> {
        let Self {
            failure_threshold,
            success_threshold,
            cooldown_ms,
            cooldown_cap_ms,
            probes_max,
            probe_timeout_ms,
            failure_rate,
            slow_call_ms,
            slow_rate,
            min_calls,
            window,
            ramp_ms,
            call_timeout_ms,
        } = self;
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Problem::field(format!("{field}.{name}"), format!("{least} to {most}"), value))
        };
        let share = |name: &str, value: Option<f64>| match value {
            Some(rate) if !(rate > 0.0 && rate <= 1.0) => {
                Err(Problem::field(format!("{field}.{name}"), "a share above 0 and at most 1", rate))
            }
            Some(_) | None => Ok(()),
        };
        within("failure_threshold", u64::from(*failure_threshold), 1, u64::from(COUNT_MAX))?;
        within("success_threshold", u64::from(*success_threshold), 1, u64::from(COUNT_MAX))?;
        within("probes_max", u64::from(*probes_max), 1, u64::from(COUNT_MAX))?;
        within("cooldown_ms", *cooldown_ms, 1, TIME_MS_MAX)?;
        within("cooldown_cap_ms", *cooldown_cap_ms, *cooldown_ms, TIME_MS_MAX)?;
        within("probe_timeout_ms", *probe_timeout_ms, 1, TIME_MS_MAX)?;
        within("ramp_ms", *ramp_ms, 0, TIME_MS_MAX)?;
        within("call_timeout_ms", call_timeout_ms.unwrap_or(CALL_MS_MIN), CALL_MS_MIN, CALL_MS_MAX)?;
        within("slow_call_ms", slow_call_ms.unwrap_or(1), 1, TIME_MS_MAX)?;
        within("window", *window as u64, 1, WINDOW_MAX as u64)?;
        within("min_calls", *min_calls as u64, 1, *window as u64)?;
        share("failure_rate", *failure_rate)?;
        share("slow_rate", *slow_rate)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn presets_and_defaults_are_valid() {
        BreakerSettings::default().validate("breaker").expect("valid");
        for name in BreakerSettings::PRESETS {
            BreakerSettings::preset(name).expect("known").validate("breaker").expect("valid");
        }
        assert_eq!(BreakerSettings::preset("none"), None);
    }

    #[test]
    fn the_presets_are_those_of_the_field() {
        let cases = [
            ("sales", (5, 2, 30_000, 60_000)),
            ("erp", (3, 2, 45_000, 120_000)),
            ("esignature", (5, 3, 60_000, 300_000)),
            ("communication", (10, 3, 15_000, 30_000)),
            ("bridge", (5, 1, 3_000, 300_000)),
        ];
        assert_eq!(cases.map(|(name, _)| name), BreakerSettings::PRESETS);
        for (name, numbers) in cases {
            let BreakerSettings { failure_threshold, success_threshold, call_timeout_ms, cooldown_ms, .. } =
                BreakerSettings::preset(name).expect("known");
            let call_ms = call_timeout_ms.expect("a preset has one");
            assert_eq!((failure_threshold, success_threshold, call_ms, cooldown_ms), numbers, "{name}");
        }
    }

    #[test]
    fn settings_are_read_by_name_or_by_the_numbers_that_differ() {
        let base = BreakerSettings { failure_threshold: 9, ..BreakerSettings::default() };
        let read = |value: Value| BreakerSettings::from_json(&value, &base, "breaker");
        assert_eq!(read(json!("erp")).ok(), BreakerSettings::preset("erp"));
        let changed = read(json!({"cooldown_ms": 7, "failure_rate": 0.5})).expect("fits");
        assert_eq!(changed, BreakerSettings { cooldown_ms: 7, failure_rate: Some(0.5), ..base.clone() });
        let named = read(json!({"preset": "bridge", "failure_threshold": 2})).expect("fits");
        assert_eq!((named.failure_threshold, named.cooldown_ms), (2, 300_000));
        let cases = [
            (json!("swift"), "breaker", "communication"),
            (json!(5), "breaker", "one of"),
            (json!({"preset": "swift"}), "breaker.preset", "one of"),
            (json!({"failure_threshold": 0}), "breaker.failure_threshold", "1 to 10000"),
            (json!({"failure_threshold": "3"}), "breaker.failure_threshold", "number"),
            (json!({"failure_threshold": -1}), "breaker.failure_threshold", "number"),
            (json!({"call_timeout_ms": 99}), "breaker.call_timeout_ms", "100 to 600000"),
            (json!({"threshold": 3}), "breaker.threshold", "failure_threshold"),
            (json!({"failure_rate": 1.5}), "breaker.failure_rate", "share"),
        ];
        for (sent, field, limit) in cases {
            let problem = read(sent.clone()).expect_err("refused");
            assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
            assert!(problem.limit.as_deref().is_some_and(|text| text.contains(limit)), "{sent}: {problem}");
        }
    }

    #[test]
    fn each_opening_lasts_twice_as_long_up_to_the_cap() {
        let settings = BreakerSettings::default();
        let all: Vec<_> = (1..=7).map(|times| settings.cooldown_of(times)).collect();
        assert_eq!(all, [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000]);
        assert_eq!(settings.cooldown_of(u32::MAX), 600_000);
    }

    #[test]
    fn a_number_out_of_range_is_named_with_the_range() {
        let base = BreakerSettings::default;
        let cases = [
            (BreakerSettings { failure_threshold: 0, ..base() }, "breaker.failure_threshold"),
            (BreakerSettings { success_threshold: 10_001, ..base() }, "breaker.success_threshold"),
            (BreakerSettings { probes_max: 0, ..base() }, "breaker.probes_max"),
            (BreakerSettings { cooldown_ms: 0, ..base() }, "breaker.cooldown_ms"),
            (BreakerSettings { cooldown_cap_ms: 29_999, ..base() }, "breaker.cooldown_cap_ms"),
            (BreakerSettings { probe_timeout_ms: 0, ..base() }, "breaker.probe_timeout_ms"),
            (BreakerSettings { ramp_ms: u64::MAX, ..base() }, "breaker.ramp_ms"),
            (BreakerSettings { slow_call_ms: Some(0), ..base() }, "breaker.slow_call_ms"),
            (BreakerSettings { window: 0, ..base() }, "breaker.window"),
            (BreakerSettings { min_calls: 101, ..base() }, "breaker.min_calls"),
            (BreakerSettings { failure_rate: Some(0.0), ..base() }, "breaker.failure_rate"),
            (BreakerSettings { slow_rate: Some(f64::NAN), ..base() }, "breaker.slow_rate"),
        ];
        for (settings, field) in cases {
            assert_eq!(settings.validate("breaker").expect_err("refused").field.as_deref(), Some(field));
        }
    }
}
