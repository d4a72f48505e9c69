//! Spans as OTLP/HTTP has them in JSON: ids in hex, 64-bit numbers as text, enumerations as numbers
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).

use serde_json::{Value as Json, json};

use super::span::{SpanData, Value};

/// `STATUS_CODE_ERROR`
const STATUS_ERROR: u8 = 2;
/// The sampled flag of the trace, in a span's `flags`.
const SAMPLED: u8 = 1;

fn attribute(name: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({ "stringValue": text }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
    };
    json!({ "key": name, "value": value })
}

fn span(span: &SpanData) -> Json {
    let attributes: Vec<Json> = span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let mut out = json!({
        "traceId": span.trace.to_hex(),
        "spanId": span.id.to_hex(),
        "flags": SAMPLED,
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.begin_ns.to_string(),
        "endTimeUnixNano": span.end_ns.to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        out["parentSpanId"] = parent.to_hex().into();
    }
    if let Some(error) = &span.error {
        out["status"] = json!({ "code": STATUS_ERROR, "message": error });
    }
    out
}

/// The body of one export request.
pub(super) fn request(spans: &[SpanData], instance: &str) -> Json {
    let text = |name: &str, text: &str| json!({ "key": name, "value": { "stringValue": text } });
    let version = env!("CARGO_PKG_VERSION");
    let resource =
        [text("service.name", "tidegate"), text("service.version", version), text("service.instance.id", instance)];
    let spans: Vec<Json> = spans.iter().map(span).collect();
    json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": { "name": "tidegate", "version": version }, "spans": spans }],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::context::{SpanId, TraceId};
    use super::super::span::{Kind, Outcome};
    use super::*;

    #[test]
    fn a_span_is_written_as_the_specification_has_it() {
        let trace = TraceId::new([0xab; 16]).expect("an id");
        let id = |byte| SpanId::new([byte; 8]).expect("an id");
        let mut one = SpanData::new("attempt", Kind::Client, trace, id(1), Some(id(2)));
        (one.begin_ns, one.end_ns) = (1_795_248_000_000_000_000, 1_795_248_000_012_345_678);
        one.text("tidegate.consumer", "whk_1".into());
        one.text("tidegate.org", String::new());
        one.number("tidegate.attempt", 2);
        one.outcome(Outcome::Failed("the endpoint answered 500".into()));
        let request = request(&[one], "i-1");
        let scope = &request["resourceSpans"][0]["scopeSpans"][0];
        assert_eq!(scope["scope"]["name"], "tidegate");
        let wanted = json!({
            "traceId": "abababababababababababababababab",
            "spanId": "0101010101010101",
            "parentSpanId": "0202020202020202",
            "flags": 1,
            "name": "attempt",
            "kind": 3,
            "startTimeUnixNano": "1795248000000000000",
            "endTimeUnixNano": "1795248000012345678",
            "attributes": [
                { "key": "tidegate.consumer", "value": { "stringValue": "whk_1" } },
                { "key": "tidegate.attempt", "value": { "intValue": "2" } },
            ],
            "status": { "code": 2, "message": "the endpoint answered 500" },
        });
        assert_eq!(scope["spans"][0], wanted);
    }
}
