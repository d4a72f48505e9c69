//! The numbers a breaker goes by (BRK-1, BRK-2).

use serde::{Deserialize, Serialize};

use crate::ground::error::Problem;

/// Largest count of failures, successes or probes.
const COUNT_MAX: u32 = 10_000;
/// Longest time any setting may name, in milliseconds: 7 days.
const TIME_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Most calls a window looks back.
const WINDOW_MAX: usize = 10_000;

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
        }
    }
}

impl BreakerSettings {
    /// The names [`BreakerSettings::preset`] knows.
    pub const PRESETS: &'static [&'static str] = &["sales", "erp", "esignature", "communication", "bridge"];

    /// The settings of this name (BRK-2); `None` for a name that is not in [`BreakerSettings::PRESETS`].
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let (failure_threshold, success_threshold, cooldown_ms) = match name {
            "sales" => (5, 2, 60_000),
            "erp" => (3, 2, 120_000),
            "esignature" => (5, 3, 300_000),
            "communication" => (10, 3, 30_000),
            "bridge" => (5, 1, 300_000),
            _ => return None,
        };
        Some(Self { failure_threshold, success_threshold, cooldown_ms, ..Self::default() })
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
        within("slow_call_ms", slow_call_ms.unwrap_or(1), 1, TIME_MS_MAX)?;
        within("window", *window as u64, 1, WINDOW_MAX as u64)?;
        within("min_calls", *min_calls as u64, 1, *window as u64)?;
        share("failure_rate", *failure_rate)?;
        share("slow_rate", *slow_rate)
    }
}

#[cfg(test)]
mod tests {
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
