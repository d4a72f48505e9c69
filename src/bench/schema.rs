//! What checking data costs: the same load with nobody looking, and under a strict policy with a schema of twenty fields.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::ingest::rate;
use super::load::LoadReport;
use super::measure::{Measure, Unit};
use super::request::{NUMBER, Shape, Template};
use super::scenario::{Bench, EVENT_BYTES};

/// The type of the events.
const TYPE: &str = "bench.order";
/// Connections of the load.
const CONNECTIONS: usize = 64;
/// Times that both are measured, in turn; the mean counts.
const ROUNDS: usize = 2;

/// The twenty fields: name, schema, JSON text of a value; the first takes the event's number.
fn fields() -> Vec<(&'static str, Value, String)> {
    let text = |most: u64| json!({ "type": "string", "minLength": 1, "maxLength": most });
    let quoted = |value: &str| format!("\"{value}\"");
    vec![
        ("number", json!({ "type": "string", "pattern": "^[0-9]{12}$" }), quoted(NUMBER)),
        ("customer_id", json!({ "type": "integer", "minimum": 1 }), "77123".to_owned()),
        ("customer_name", text(200), quoted("Ada Example")),
        ("customer_email", json!({ "type": "string", "format": "email" }), quoted("ada@example.com")),
        ("currency", json!({ "enum": ["EUR", "USD", "GBP"] }), quoted("EUR")),
        ("total", json!({ "type": "number", "minimum": 0 }), "199.95".to_owned()),
        ("tax", json!({ "type": "number", "minimum": 0, "maximum": 100 }), "19".to_owned()),
        ("placed_at", json!({ "type": "string", "format": "date-time" }), quoted("2026-11-21T08:00:00Z")),
        ("due_on", json!({ "type": "string", "format": "date" }), quoted("2026-12-21")),
        ("channel", json!({ "enum": ["web", "shop", "phone"] }), quoted("web")),
        ("country", json!({ "type": "string", "pattern": "^[A-Z]{2}$" }), quoted("DE")),
        ("postcode", text(12), quoted("10115")),
        ("city", text(120), quoted("Berlin")),
        ("street", text(200), quoted("Example Street 7")),
        ("express", json!({ "type": "boolean" }), "false".to_owned()),
        ("weight_g", json!({ "type": "integer", "minimum": 0, "maximum": 100_000 }), "1250".to_owned()),
        ("items", json!({ "type": "integer", "minimum": 1, "maximum": 1_000 }), "3".to_owned()),
        ("coupon", json!({ "type": ["string", "null"] }), "null".to_owned()),
        (
            "tags",
            json!({ "type": "array", "items": { "type": "string" }, "maxItems": 10 }),
            r#"["new","gift","fragile"]"#.to_owned(),
        ),
        ("note", text(2_000), String::new()),
    ]
}

/// The schema of the data: twenty required fields and no other.
#[must_use]
pub fn schema() -> Value {
    let fields = fields();
    let required: Vec<&str> = fields.iter().map(|(name, _, _)| *name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema, _)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

/// An event of exactly `bytes` bytes (at least 800) whose data fits [`schema`].
#[must_use]
pub fn event(bytes: usize) -> String {
    let mut text = format!(r#"{{"type":"{TYPE}","data":{{"#);
    for (name, _, value) in fields().iter().filter(|(name, _, _)| *name != "note") {
        // A text can always be written to.
        write!(text, "\"{name}\":{value},").ok();
    }
    text.push_str("\"note\":\"");
    let room = bytes.saturating_sub(text.len() + 3).max(1);
    text.extend(std::iter::repeat_n("lorem ipsum ", room / 12 + 1).flat_map(str::chars).take(room));
    text.push_str("\"}}");
    text
}

/// Durable single events of 1 KiB at 64 connections without a check and with one.
///
/// # Errors
/// When the hub fails or refuses an event, or takes one that does not fit.
pub fn schema_check(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("schema")?;
    let control = hub.control();
    let (addr, key) = (control.public, control.key.clone());
    control.send(Method::PUT, addr, &format!("/v1/catalog/types/{TYPE}"), &key, &json!({ "service": "bench" }))?;
    control.post(addr, &format!("/v1/catalog/types/{TYPE}/versions"), &key, &json!({ "schema": schema() }))?;
    let template = Template::post(addr, "/v1/events", &[("x-api-key", &key)], &[event(EVENT_BYTES)], Shape::One);
    let measure = |policy: &str| -> anyhow::Result<LoadReport> {
        control.send(Method::PATCH, addr, "/v1/catalog/policy", &key, &json!({ "policy": policy }))?;
        bench.warm_load(bench.timed_plan(template.clone(), addr, CONNECTIONS))
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(measure("open")?);
        with.push(measure("strict")?);
    }
    // The policy is what was measured: it refuses what does not fit.
    let misfit = json!({ "type": TYPE, "data": { "number": 1 } });
    anyhow::ensure!(control.post(addr, "/v1/events", &key, &misfit).is_err(), "an event that does not fit was taken");
    hub.stop()?;
    let mean = |reports: &[LoadReport]| {
        reports.iter().map(LoadReport::events_per_second).sum::<f64>() / reports.len().max(1) as f64
    };
    let (plain, checked) = (mean(&without), mean(&with));
    let told = |key: &str, what: &str, value: f64, reports: &[LoadReport]| {
        let mut measure = match reports.last() {
            Some(last) => rate(key.to_owned(), what.to_owned(), Unit::EventsPerSecond, last),
            None => Measure::new(key, what, value, Unit::EventsPerSecond),
        };
        measure.value = value;
        measure
    };
    let share = if plain > 0.0 { 100.0 * (1.0 - checked / plain) } else { 0.0 };
    Ok(vec![
        told("schema.without", "Durable ingest, 64 connections, unchecked", plain, &without),
        told("schema.with", "Durable ingest, 64 connections, a strict schema of 20 fields", checked, &with)
            .note(format!("{share:.1} % less than unchecked, mean of {ROUNDS} rounds in turn")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::schema::Compiled;

    #[test]
    fn the_events_of_the_load_fit_the_schema_of_twenty_fields() {
        let text = event(EVENT_BYTES).replace(NUMBER, "000000000042");
        assert_eq!(text.len(), EVENT_BYTES);
        let event: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(event["data"].as_object().map(Map::len), Some(20));
        let compiled = Compiled::new(schema()).expect("a schema");
        assert_eq!(compiled.check(Some(event["data"].to_string().as_bytes())), Ok(()));
        assert!(compiled.check(Some(br#"{"number":1}"#)).is_err());
    }
}
