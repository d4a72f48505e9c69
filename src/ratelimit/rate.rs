//! A rate as a client asks for it: numbers within bounds, or a preset by name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ground::error::Problem;
use crate::ground::fields::Fields;

/// Slowest refill: one token in a hundred seconds.
pub const PER_SECOND_MIN: f64 = 0.01;
/// Fastest refill.
pub const PER_SECOND_MAX: f64 = 1_000_000.0;
/// Most tokens at once.
pub const BURST_MAX: u32 = 1_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens that come in a second, 0.01 to 1,000,000.
    pub per_second: f64,
    /// Tokens it holds, 1 to 1,000,000.
    pub burst: u32,
}

/// The presets of the field (BRK-5): name, capacity, refill per second.
const PRESETS: &[(&str, u32, f64)] =
    &[("sales", 100, 10.0), ("erp", 50, 5.0), ("esignature", 20, 2.0), ("sms", 50, 10.0), ("email", 100, 20.0)];

impl Rate {
    /// A preset by its name.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let (_, burst, per_second) = PRESETS.iter().find(|(one, ..)| *one == name)?;
        Some(Self { per_second: *per_second, burst: *burst })
    }

    /// The names of the presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, ..)| *name)
    }

    /// Reads the field `name`: `{per_second, burst}`, where `burst` is what a second brings when it is left out, or the name
    /// of a preset.
    ///
    /// # Errors
    /// When the field is something else or out of its bounds.
    pub fn read(fields: &mut Fields, name: &'static str) -> Result<Option<Self>, Problem> {
        fields.take(name).map(|value| Self::from_json(name, value)).transpose()
    }

    /// Reads a rate from its JSON form; `name` is what a refusal calls it.
    ///
    /// # Errors
    /// When it is something else or out of its bounds.
    pub fn from_json(name: &str, value: Value) -> Result<Self, Problem> {
        let words = Self::presets().collect::<Vec<_>>().join(", ");
        let mut map = match value {
            Value::Object(map) => map,
            Value::String(preset) => {
                return Self::preset(&preset).ok_or_else(|| Problem::field(name, format!("one of {words}"), preset));
            }
            other => return Err(Problem::field(name, format!("{{per_second, burst}} or one of {words}"), other)),
        };
        let per_second = map.remove("per_second").filter(|value| !value.is_null());
        let per_second =
            per_second.ok_or_else(|| Problem::field(format!("{name}.per_second"), "required", "nothing"))?;
        let fits = |number: &f64| (PER_SECOND_MIN..=PER_SECOND_MAX).contains(number);
        let per_second = per_second.as_f64().filter(fits).ok_or_else(|| {
            let bound = format!("a number from {PER_SECOND_MIN} to {PER_SECOND_MAX}");
            Problem::field(format!("{name}.per_second"), bound, per_second)
        })?;
        let burst = match map.remove("burst").filter(|value| !value.is_null()) {
            Some(value) => {
                let read = value.as_u64().and_then(|number| u32::try_from(number).ok());
                read.filter(|burst| (1..=BURST_MAX).contains(burst)).ok_or_else(|| {
                    Problem::field(format!("{name}.burst"), format!("a whole number from 1 to {BURST_MAX}"), value)
                })?
            }
            // A float that is too large or not whole becomes the nearest number that fits.
            None => (per_second.ceil() as u32).clamp(1, BURST_MAX),
        };
        match map.into_iter().next() {
            Some((unknown, value)) => Err(Problem::field(format!("{name}.{unknown}"), "unknown field", value)),
            None => Ok(Self { per_second, burst }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Option<Rate>, Problem> {
        let body = json!({"rate_limit": value}).to_string();
        let mut fields = Fields::parse(body.as_bytes())?;
        let rate = Rate::read(&mut fields, "rate_limit")?;
        fields.finish().map(|()| rate)
    }

    #[test]
    fn numbers_and_presets_are_read() {
        assert_eq!(read(json!({"per_second": 5, "burst": 7})), Ok(Some(Rate { per_second: 5.0, burst: 7 })));
        assert_eq!(read(json!({"per_second": 2.5})), Ok(Some(Rate { per_second: 2.5, burst: 3 })));
        assert_eq!(read(json!({"per_second": 0.01})), Ok(Some(Rate { per_second: 0.01, burst: 1 })));
        assert_eq!(read(json!("erp")), Ok(Some(Rate { per_second: 5.0, burst: 50 })));
        assert_eq!(read(Value::Null), Ok(None));
        for (name, ..) in PRESETS {
            assert!(Rate::preset(name).is_some());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (value, field) in [
            (json!("fast"), "rate_limit"),
            (json!(5), "rate_limit"),
            (json!({}), "rate_limit.per_second"),
            (json!({"per_second": 0}), "rate_limit.per_second"),
            (json!({"per_second": "5"}), "rate_limit.per_second"),
            (json!({"per_second": 1e9}), "rate_limit.per_second"),
            (json!({"per_second": 1, "burst": 0}), "rate_limit.burst"),
            (json!({"per_second": 1, "burst": 1.5}), "rate_limit.burst"),
            (json!({"per_second": 1, "burst": 4_294_967_296_u64}), "rate_limit.burst"),
            (json!({"per_second": 1, "bursts": 2}), "rate_limit.bursts"),
        ] {
            let problem = read(value.clone()).expect_err("is refused");
            assert_eq!(problem.field.as_deref(), Some(field), "{value}");
        }
    }
}
