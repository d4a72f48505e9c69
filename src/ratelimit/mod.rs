//! Rates: how many calls in a row, and how many a second after that (BRK-5).
//!
//! - here: the numbers of a limit, and their presets
//! - [`bucket`]: the token bucket, a pure rule on the caller's clock

pub mod bucket;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use bucket::{Bucket, Taken};

use crate::ground::error::Problem;
use crate::ground::fields::Fields;

/// Fewest tokens a second: one in about a quarter of an hour.
pub const PER_SECOND_MIN: f64 = 0.001;
/// Most tokens a second.
pub const PER_SECOND_MAX: f64 = 100_000.0;
/// Largest capacity.
pub const BURST_MAX: u32 = 1_000_000;

/// What a bucket holds when it is full, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Tokens that come back each second.
    pub per_second: f64,
    /// Tokens of a full bucket: what may go at once.
    pub burst: u32,
}

impl RateLimit {
    /// The names [`RateLimit::preset`] knows.
    pub const PRESETS: &'static [&'static str] = &["sales", "erp", "esignature", "sms", "email"];

    /// The limit of this name; `None` for a name that is not in [`RateLimit::PRESETS`].
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let (burst, per_second) = match name {
            "sales" => (100, 10.0),
            "erp" => (50, 5.0),
            "esignature" => (20, 2.0),
            "sms" => (50, 10.0),
            "email" => (100, 20.0),
            _ => return None,
        };
        Some(Self { per_second, burst })
    }

    /// Reads the field `name`; absent and null are none.
    ///
    /// # Errors
    /// As [`RateLimit::from_json`].
    pub fn read(fields: &mut Fields, name: &'static str) -> Result<Option<Self>, Problem> {
        fields.take(name).map(|value| Self::from_json(&value, name)).transpose()
    }

    /// Reads a limit from a client's JSON: a preset's name, or an object with `per_second` and, when it is not that
    /// many rounded up, `burst`.
    ///
    /// # Errors
    /// A problem that names the field under `field` and the range that is allowed.
    pub fn from_json(value: &Value, field: &str) -> Result<Self, Problem> {
        if let Some(name) = value.as_str() {
            let known = format!("one of {}, or an object", Self::PRESETS.join(", "));
            return Self::preset(name).ok_or_else(|| Problem::field(field, known, name));
        }
        let Value::Object(map) = value else {
            return Err(Problem::field(field, "a preset's name, or {per_second, burst}", value));
        };
        if let Some(name) = map.keys().find(|name| !matches!(name.as_str(), "per_second" | "burst")) {
            return Err(Problem::field(format!("{field}.{name}"), "unknown field; known are per_second, burst", name));
        }
        let path = |name: &str| format!("{field}.{name}");
        let rate_range = format!("a number from {PER_SECOND_MIN} to {PER_SECOND_MAX}");
        let Some(rate) = map.get("per_second") else {
            return Err(Problem::field(path("per_second"), format!("required: {rate_range}"), "nothing"));
        };
        let per_second = rate.as_f64().filter(|rate| (PER_SECOND_MIN..=PER_SECOND_MAX).contains(rate));
        let per_second = per_second.ok_or_else(|| Problem::field(path("per_second"), rate_range, rate))?;
        let burst = match map.get("burst") {
            None => per_second.ceil() as u32,
            Some(sent) => {
                let fits = sent.as_u64().and_then(|burst| u32::try_from(burst).ok());
                let fits = fits.filter(|burst| (1..=BURST_MAX).contains(burst));
                fits.ok_or_else(|| {
                    Problem::field(path("burst"), format!("a whole number from 1 to {BURST_MAX}"), sent)
                })?
            }
        };
        Ok(Self { per_second, burst })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_presets_are_those_of_the_field() {
        let all: Vec<_> = RateLimit::PRESETS
            .iter()
            .map(|name| RateLimit::preset(name).map(|limit| (limit.burst, limit.per_second)).expect("known"))
            .collect();
        assert_eq!(all, [(100, 10.0), (50, 5.0), (20, 2.0), (50, 10.0), (100, 20.0)]);
        assert_eq!(RateLimit::preset("none"), None);
    }

    #[test]
    fn a_limit_is_read_by_name_or_by_its_numbers() {
        let read = |value: Value| RateLimit::from_json(&value, "rate_limit");
        assert_eq!(read(json!("sms")), Ok(RateLimit { per_second: 10.0, burst: 50 }));
        assert_eq!(read(json!({"per_second": 0.5, "burst": 7})), Ok(RateLimit { per_second: 0.5, burst: 7 }));
        assert_eq!(read(json!({"per_second": 2.5})), Ok(RateLimit { per_second: 2.5, burst: 3 }));
        assert_eq!(read(json!({"per_second": 0.001})), Ok(RateLimit { per_second: 0.001, burst: 1 }));
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_range() {
        let cases = [
            (json!("fast"), "rate_limit", "sales"),
            (json!(5), "rate_limit", "preset"),
            (json!({}), "rate_limit.per_second", "required"),
            (json!({"per_second": 0}), "rate_limit.per_second", "0.001"),
            (json!({"per_second": 100_001}), "rate_limit.per_second", "100000"),
            (json!({"per_second": "5"}), "rate_limit.per_second", "number"),
            (json!({"per_second": 1, "burst": 0}), "rate_limit.burst", "1 to 1000000"),
            (json!({"per_second": 1, "burst": 1.5}), "rate_limit.burst", "whole"),
            (json!({"per_second": 1, "burst": 4_294_967_297_u64}), "rate_limit.burst", "1000000"),
            (json!({"per_second": 1, "capacity": 1}), "rate_limit.capacity", "unknown"),
        ];
        for (sent, field, limit) in cases {
            let problem = RateLimit::from_json(&sent, "rate_limit").expect_err("refused");
            assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
            assert!(problem.limit.as_deref().is_some_and(|text| text.contains(limit)), "{sent}: {problem}");
        }
    }
}
