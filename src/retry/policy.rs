//! Retry schedules: exponential, fixed list, linear, and the named presets (RTY-1, WHK-6).
//!
//! A policy counts attempts, the first included. In JSON and TOML it is one flat object whose `kind` names the
//! schedule, or the name of a preset where [`RetryPolicy::from_json`] reads it; in a record it is compact.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ground::error::Problem;
use crate::ground::limits::{RETRY_ATTEMPTS_MAX, RETRY_DELAY_MS_MAX};

/// What a `Retry-After` is clamped to, in milliseconds: 24 hours.
pub const RETRY_AFTER_MS_MAX: u64 = 24 * 3_600_000;
/// Largest multiplier of an exponential schedule.
pub(crate) const MULTIPLIER_MAX: f64 = 100.0;

/// When to try again. Delays are milliseconds; `jitter` is the share (0 to 1) by which a delay varies either way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RetryPolicy {
    /// `base_ms × multiplier^n`, at most `cap_ms`, where `n` is 0 before the second attempt.
    Exponential {
        /// Total attempts, the first included.
        attempts_max: u32,
        /// Delay before the second attempt.
        base_ms: u64,
        /// Growth from one delay to the next.
        #[serde(default = "default_multiplier")]
        multiplier: f64,
        /// Longest delay, before jitter.
        cap_ms: u64,
        /// Share by which a delay varies.
        #[serde(default)]
        jitter: f64,
    },
    /// A list of delays; the last one repeats when there are more attempts than delays.
    Fixed {
        /// Total attempts, the first included.
        attempts_max: u32,
        /// The delay before the second attempt, the third, and so on.
        delays_ms: Vec<u64>,
        /// Share by which a delay varies.
        #[serde(default)]
        jitter: f64,
    },
    /// `step_ms × n`, at most `cap_ms`, where `n` is 1 before the second attempt.
    Linear {
        /// Total attempts, the first included.
        attempts_max: u32,
        /// Growth from one delay to the next.
        step_ms: u64,
        /// Longest delay, before jitter.
        cap_ms: u64,
        /// Share by which a delay varies.
        #[serde(default)]
        jitter: f64,
    },
}

/// The same fields as a record holds them: bincode cannot read a tag from among the fields.
#[derive(Serialize, Deserialize)]
#[serde(remote = "RetryPolicy")]
enum RecordForm {
    Exponential { attempts_max: u32, base_ms: u64, multiplier: f64, cap_ms: u64, jitter: f64 },
    Fixed { attempts_max: u32, delays_ms: Vec<u64>, jitter: f64 },
    Linear { attempts_max: u32, step_ms: u64, cap_ms: u64, jitter: f64 },
}

fn default_multiplier() -> f64 {
    2.0
}

impl Serialize for RetryPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return Self::serialize(self, serializer);
        }
        RecordForm::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for RetryPolicy {
    /// Text is validated; a record was when it was written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return RecordForm::deserialize(deserializer);
        }
        let policy = Self::deserialize(deserializer)?;
        policy.validate("retry").map_err(|problem| serde::de::Error::custom(problem.detail))?;
        Ok(policy)
    }
}

impl RetryPolicy {
    /// The names [`RetryPolicy::preset`] knows.
    pub const PRESETS: &'static [&'static str] =
        &["sales", "erp", "esignature", "communication", "bridge", "handler", "webhook"];

    /// The policy of this name (RTY-1, WHK-6). `None` for a name that is not in [`RetryPolicy::PRESETS`].
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let exponential = |retries: u32, base_ms, cap_ms, jitter| Self::Exponential {
            attempts_max: retries + 1,
            base_ms,
            multiplier: 2.0,
            cap_ms,
            jitter,
        };
        match name {
            "sales" | "esignature" => Some(exponential(3, 1_000, 30_000, 0.1)),
            "erp" => Some(exponential(5, 2_000, 60_000, 0.2)),
            "communication" => Some(exponential(5, 500, 10_000, 0.15)),
            "bridge" => Some(Self::Fixed { attempts_max: 3, delays_ms: vec![1_000, 2_000, 4_000], jitter: 0.0 }),
            "handler" => Some(exponential(2, 1_000, 60_000, 0.0)),
            "webhook" => Some(Self::webhook()),
            _ => None,
        }
    }

    /// What a webhook has unless it says otherwise: at once, then 5 s to 24 h, ten attempts over about 75 hours (WHK-6).
    #[must_use]
    pub fn webhook() -> Self {
        const MINUTE_MS: u64 = 60_000;
        const HOUR_MS: u64 = 60 * MINUTE_MS;
        let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * HOUR_MS);
        let mut delays_ms = vec![5_000, 5 * MINUTE_MS, 30 * MINUTE_MS];
        delays_ms.extend(hours);
        Self::Fixed { attempts_max: 10, delays_ms, jitter: 0.2 }
    }

    /// Total attempts, the first included.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        match self {
            Self::Exponential { attempts_max, .. }
            | Self::Fixed { attempts_max, .. }
            | Self::Linear { attempts_max, .. } => *attempts_max,
        }
    }

    /// The same schedule with so many attempts.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        match &mut self {
            Self::Exponential { attempts_max, .. }
            | Self::Fixed { attempts_max, .. }
            | Self::Linear { attempts_max, .. } => *attempts_max = attempts,
        }
        self
    }

    /// Share by which a delay varies either way.
    #[must_use]
    pub fn jitter(&self) -> f64 {
        match self {
            Self::Exponential { jitter, .. } | Self::Fixed { jitter, .. } | Self::Linear { jitter, .. } => *jitter,
        }
    }

    /// Milliseconds to wait after `attempts_made` attempts; `None` when they are used up.
    ///
    /// `fraction` is chance in `[0, 1)`. `retry_after_ms` is what the other side asked for: it lengthens the delay up
    /// to [`RETRY_AFTER_MS_MAX`] and never shortens it. Before the first attempt there is nothing to wait for.
    #[must_use]
    pub fn next_delay(&self, attempts_made: u32, fraction: f64, retry_after_ms: Option<u64>) -> Option<u64> {
        if attempts_made >= self.attempts_max() {
            return None;
        }
        let Some(retry_index) = attempts_made.checked_sub(1) else { return Some(0) };
        let varied = jittered(self.scheduled_ms(retry_index), self.jitter(), fraction);
        let asked = retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MS_MAX);
        Some(varied.max(asked))
    }

    /// The delay before retry `index` (0 is the second attempt), before jitter.
    #[must_use]
    pub fn scheduled_ms(&self, index: u32) -> u64 {
        let delay_ms = match self {
            Self::Exponential { base_ms, multiplier, cap_ms, .. } => {
                let grown = *base_ms as f64 * multiplier.powi(i32::try_from(index).unwrap_or(i32::MAX));
                // A float past the cap, infinity included, is the cap.
                if grown < *cap_ms as f64 { grown.round() as u64 } else { *cap_ms }
            }
            Self::Fixed { delays_ms, .. } => {
                let at = usize::try_from(index).unwrap_or(usize::MAX);
                delays_ms.get(at).or(delays_ms.last()).copied().unwrap_or(0)
            }
            Self::Linear { step_ms, cap_ms, .. } => {
                step_ms.saturating_mul(u64::from(index).saturating_add(1)).min(*cap_ms)
            }
        };
        delay_ms.min(RETRY_DELAY_MS_MAX)
    }

    /// Reads a policy from a client's JSON: a preset's name, or an object with `kind`. A fixed list may leave out
    /// `attempts_max`: one attempt more than it has delays.
    ///
    /// # Errors
    /// A problem that names the field under `field` and the range that is allowed.
    pub fn from_json(value: &serde_json::Value, field: &str) -> Result<Self, Problem> {
        if let Some(name) = value.as_str() {
            return Self::preset(name)
                .ok_or_else(|| Problem::field(field, format!("one of {}", Self::PRESETS.join(", ")), name));
        }
        let mut given = value.clone();
        if let Some(map) = given.as_object_mut() {
            let delays = map.get("delays_ms").and_then(serde_json::Value::as_array).map(Vec::len);
            if let (Some(delays), false) = (delays, map.contains_key("attempts_max")) {
                map.insert("attempts_max".into(), (delays + 1).into());
            }
        }
        let policy = Self::deserialize(given).map_err(|error| Problem::field(field, error.to_string(), value))?;
        policy.validate(field)?;
        Ok(policy)
    }

    /// Checks every number against its range; `field` is the path of the policy in what the client sent.
    ///
    /// # Errors
    /// A problem naming the field and the range.
    pub fn validate(&self, field: &str) -> Result<(), Problem> {
        let path = |name: &str| format!("{field}.{name}");
        let attempts_max = self.attempts_max();
        if !(1..=RETRY_ATTEMPTS_MAX).contains(&attempts_max) {
            return Err(Problem::field(
                path("attempts_max"),
                format!("1 to {RETRY_ATTEMPTS_MAX} attempts"),
                attempts_max,
            ));
        }
        in_range(self.jitter(), 0.0, 1.0, || path("jitter"))?;
        match self {
            Self::Exponential { base_ms, multiplier, cap_ms, .. } => {
                in_range(*multiplier, 1.0, MULTIPLIER_MAX, || path("multiplier"))?;
                delay_fits(*base_ms, || path("base_ms"))?;
                cap_fits(*cap_ms, *base_ms, "base_ms", || path("cap_ms"))
            }
            Self::Linear { step_ms, cap_ms, .. } => {
                delay_fits(*step_ms, || path("step_ms"))?;
                cap_fits(*cap_ms, *step_ms, "step_ms", || path("cap_ms"))
            }
            Self::Fixed { delays_ms, .. } => {
                let needed = usize::from(attempts_max > 1);
                let most = RETRY_ATTEMPTS_MAX as usize - 1;
                if !(needed..=most).contains(&delays_ms.len()) {
                    let limit = format!("{needed} to {most} delays");
                    return Err(Problem::field(path("delays_ms"), limit, format!("{} delays", delays_ms.len())));
                }
                delays_ms
                    .iter()
                    .enumerate()
                    .try_for_each(|(at, ms)| delay_fits(*ms, || path(&format!("delays_ms[{at}]"))))
            }
        }
    }
}

/// `delay_ms` moved by up to `jitter` of itself either way.
fn jittered(delay_ms: u64, jitter: f64, fraction: f64) -> u64 {
    let factor = 1.0 + jitter * (2.0 * fraction.clamp(0.0, 1.0) - 1.0);
    (delay_ms as f64 * factor).round() as u64
}

fn in_range(value: f64, least: f64, most: f64, field: impl Fn() -> String) -> Result<(), Problem> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Problem::field(field(), format!("a number from {least} to {most}"), value))
}

fn delay_fits(ms: u64, field: impl Fn() -> String) -> Result<(), Problem> {
    if ms <= RETRY_DELAY_MS_MAX {
        return Ok(());
    }
    Err(Problem::field(field(), format!("0 to {RETRY_DELAY_MS_MAX} ms (7 days)"), ms))
}

fn cap_fits(cap_ms: u64, least_ms: u64, least_name: &str, field: impl Fn() -> String) -> Result<(), Problem> {
    if (least_ms..=RETRY_DELAY_MS_MAX).contains(&cap_ms) {
        return Ok(());
    }
    let limit = format!("{least_name} ({least_ms} ms) to {RETRY_DELAY_MS_MAX} ms (7 days)");
    Err(Problem::field(field(), limit, cap_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::ground::codec;

    fn delays(name: &str) -> Vec<u64> {
        let policy = RetryPolicy::preset(name).expect("a preset");
        (1..).map_while(|made| policy.next_delay(made, 0.5, None)).collect()
    }

    #[test]
    fn the_presets_are_those_of_the_field() {
        assert_eq!(delays("sales"), [1_000, 2_000, 4_000]);
        assert_eq!(delays("esignature"), [1_000, 2_000, 4_000]);
        assert_eq!(delays("erp"), [2_000, 4_000, 8_000, 16_000, 32_000]);
        assert_eq!(delays("communication"), [500, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(delays("bridge"), [1_000, 2_000]);
        assert_eq!(delays("handler"), [1_000, 2_000]);
        for name in RetryPolicy::PRESETS {
            RetryPolicy::preset(name).expect("known").validate("retry").expect("a preset is valid");
        }
        assert_eq!(RetryPolicy::PRESETS.len(), 7);
        assert_eq!(RetryPolicy::preset("none"), None);
    }

    #[test]
    fn the_presets_vary_their_delays_by_their_own_jitter_and_stop_growing_at_their_cap() {
        // Name, jitter, the first delay at the least and the most chance, the longest delay.
        let cases = [
            ("sales", 0.1, (900, 1_100), 30_000),
            ("erp", 0.2, (1_600, 2_400), 60_000),
            ("esignature", 0.1, (900, 1_100), 30_000),
            ("communication", 0.15, (425, 575), 10_000),
            ("bridge", 0.0, (1_000, 1_000), 4_000),
            ("handler", 0.0, (1_000, 1_000), 60_000),
            ("webhook", 0.2, (4_000, 6_000), 86_400_000),
        ];
        assert_eq!(cases.map(|(name, ..)| name), RetryPolicy::PRESETS);
        for (name, jitter, (least_ms, most_ms), longest_ms) in cases {
            let policy = RetryPolicy::preset(name).expect("known");
            assert_eq!(policy.jitter(), jitter, "{name}");
            assert_eq!(policy.next_delay(1, 0.0, None), Some(least_ms), "{name}");
            assert_eq!(policy.next_delay(1, 1.0, None), Some(most_ms), "{name}");
            assert_eq!(policy.scheduled_ms(1_000), longest_ms, "{name}");
        }
    }

    #[test]
    fn a_webhook_has_ten_attempts_over_about_75_hours() {
        let delays = delays("webhook");
        let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * 3_600_000);
        assert_eq!(delays[..3], [5_000, 300_000, 1_800_000]);
        assert_eq!(delays[3..], hours);
        assert_eq!(delays.iter().sum::<u64>() / 3_600_000, 75);
    }

    #[test]
    fn the_first_attempt_waits_for_nothing() {
        assert_eq!(RetryPolicy::webhook().next_delay(0, 0.9, Some(60_000)), Some(0));
    }

    #[test]
    fn a_list_shorter_than_the_attempts_repeats_its_last_delay() {
        let policy = RetryPolicy::Fixed { attempts_max: 5, delays_ms: vec![1_000, 3_000], jitter: 0.0 };
        let all: Vec<_> = (1..=5).map(|made| policy.next_delay(made, 0.5, None)).collect();
        assert_eq!(all, [Some(1_000), Some(3_000), Some(3_000), Some(3_000), None]);
    }

    #[test]
    fn a_linear_schedule_grows_by_steps_to_its_cap() {
        let policy = RetryPolicy::Linear { attempts_max: 5, step_ms: 400, cap_ms: 1_000, jitter: 0.0 };
        let all: Vec<_> = (1..=4).filter_map(|made| policy.next_delay(made, 0.5, None)).collect();
        assert_eq!(all, [400, 800, 1_000, 1_000]);
    }

    #[test]
    fn retry_after_lengthens_within_a_day_and_never_shortens() {
        let policy = RetryPolicy::Fixed { attempts_max: 3, delays_ms: vec![5_000], jitter: 0.0 };
        assert_eq!(policy.next_delay(1, 0.5, Some(1_000)), Some(5_000));
        assert_eq!(policy.next_delay(1, 0.5, Some(90_000)), Some(90_000));
        assert_eq!(policy.next_delay(1, 0.5, Some(u64::MAX)), Some(RETRY_AFTER_MS_MAX));
        assert_eq!(policy.next_delay(3, 0.5, Some(90_000)), None);
    }

    #[test]
    fn a_policy_reads_the_same_from_json_and_from_a_record() {
        for name in RetryPolicy::PRESETS {
            let policy = RetryPolicy::preset(name).expect("known");
            let text = serde_json::to_string(&policy).expect("json");
            assert_eq!(serde_json::from_str::<RetryPolicy>(&text).expect("reads"), policy);
            let record = codec::encode(1, &policy).expect("encodes");
            assert_eq!(codec::decode::<RetryPolicy>(1, &record), Ok(policy));
        }
        let linear = RetryPolicy::Linear { attempts_max: 2, step_ms: 10, cap_ms: 20, jitter: 0.5 };
        assert_eq!(
            serde_json::to_value(&linear).expect("json"),
            json!({"kind": "linear", "attempts_max": 2, "step_ms": 10, "cap_ms": 20, "jitter": 0.5})
        );
    }

    #[test]
    fn a_client_may_name_a_preset() {
        assert_eq!(RetryPolicy::from_json(&json!("webhook"), "retry"), Ok(RetryPolicy::webhook()));
        let problem = RetryPolicy::from_json(&json!("sometimes"), "retry").expect_err("unknown");
        assert_eq!(problem.field.as_deref(), Some("retry"));
        assert!(problem.detail.contains("communication"), "{problem}");
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        let cases = [
            (json!({"kind": "fixed", "attempts_max": 0, "delays_ms": [1]}), "retry.attempts_max", "1 to 100"),
            (json!({"kind": "fixed", "attempts_max": 101, "delays_ms": [1]}), "retry.attempts_max", "1 to 100"),
            (json!({"kind": "fixed", "attempts_max": 2, "delays_ms": []}), "retry.delays_ms", "1 to 99"),
            (
                json!({"kind": "fixed", "attempts_max": 2, "delays_ms": [1, 604_800_001]}),
                "retry.delays_ms[1]",
                "7 days",
            ),
            (json!({"kind": "fixed", "attempts_max": 2, "delays_ms": [1], "jitter": 1.5}), "retry.jitter", "0 to 1"),
            (json!({"kind": "exponential", "attempts_max": 2, "base_ms": 9, "cap_ms": 8}), "retry.cap_ms", "9 ms"),
            (
                json!({"kind": "exponential", "attempts_max": 2, "base_ms": 9, "multiplier": 0.5, "cap_ms": 10}),
                "retry.multiplier",
                "1 to 100",
            ),
            (
                json!({"kind": "linear", "attempts_max": 2, "step_ms": 604_800_001, "cap_ms": 1}),
                "retry.step_ms",
                "7 days",
            ),
            (json!({"kind": "linear", "attempts_max": 2, "steps": 1}), "retry", "steps"),
            (json!({"kind": "random"}), "retry", "random"),
            (json!(7), "retry", ""),
        ];
        for (sent, field, limit) in cases {
            let problem = RetryPolicy::from_json(&sent, "retry").expect_err("out of range");
            assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
            assert!(problem.limit.as_deref().is_some_and(|text| text.contains(limit)), "{sent}: {problem}");
        }
        assert!(
            serde_json::from_value::<RetryPolicy>(json!({"kind": "fixed", "attempts_max": 0, "delays_ms": []}))
                .is_err()
        );
    }

    #[test]
    fn numbers_that_are_no_numbers_are_refused() {
        let policy =
            RetryPolicy::Exponential { attempts_max: 3, base_ms: 1, multiplier: f64::NAN, cap_ms: 2, jitter: 0.0 };
        assert!(policy.validate("retry").is_err());
        let policy = RetryPolicy::Fixed { attempts_max: 1, delays_ms: vec![], jitter: f64::NAN };
        assert!(policy.validate("retry").is_err());
    }

    proptest! {
        #[test]
        fn a_delay_stays_within_jitter_of_the_schedule_and_its_cap(
            attempts_max in 1_u32..=100, base_ms in 0_u64..=10_000, multiplier in 1.0_f64..=100.0,
            above in 0_u64..=RETRY_DELAY_MS_MAX - 10_000, jitter in 0.0_f64..=1.0, made in 0_u32..=120, fraction in 0.0_f64..1.0,
        ) {
            let cap_ms = base_ms + above;
            let policy = RetryPolicy::Exponential { attempts_max, base_ms, multiplier, cap_ms, jitter };
            prop_assert!(policy.validate("retry").is_ok());
            match policy.next_delay(made, fraction, None) {
                None => prop_assert!(made >= attempts_max),
                Some(delay_ms) => {
                    prop_assert!(made < attempts_max);
                    prop_assert!(delay_ms as f64 <= cap_ms as f64 * (1.0 + jitter) + 1.0);
                    if made > 0 {
                        prop_assert!(delay_ms as f64 + 1.0 >= base_ms as f64 * (1.0 - jitter));
                    }
                }
            }
        }

        #[test]
        fn schedules_never_shrink(index in 0_u32..200, base_ms in 0_u64..1_000, cap_ms in 1_000_u64..RETRY_DELAY_MS_MAX) {
            let exponential = RetryPolicy::Exponential { attempts_max: 9, base_ms, multiplier: 1.7, cap_ms, jitter: 0.0 };
            let linear = RetryPolicy::Linear { attempts_max: 9, step_ms: base_ms, cap_ms, jitter: 0.0 };
            for policy in [exponential, linear, RetryPolicy::webhook()] {
                prop_assert!(policy.scheduled_ms(index) <= policy.scheduled_ms(index + 1));
            }
        }
    }
}
