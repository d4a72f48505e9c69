//! How an event is written for readers: a webhook's body, and the envelope as it stands in the log.

use bytes::Bytes;

use super::envelope::{Event, EventMeta, Span};
use super::json::members;

/// Appends `"name":` to an object that is open in `out`.
fn name(out: &mut Vec<u8>, name: &str) {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, field: &str, value: &str) {
    name(out, field);
    json_string(out, value);
}

/// Appends a JSON string.
fn json_string(out: &mut Vec<u8>, value: &str) {
    let plain = value.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
        return;
    }
    // A string cannot fail to be written into memory.
    if let Ok(quoted) = serde_json::to_vec(value) {
        out.extend_from_slice(&quoted);
    }
}

fn optional(out: &mut Vec<u8>, field: &str, value: Option<&str>) {
    if let Some(value) = value {
        text(out, field, value);
    }
}

fn raw(out: &mut Vec<u8>, field: &str, event: &Event, span: Option<Span>) {
    if let Some(span) = span {
        name(out, field);
        out.extend_from_slice(event.text(span));
    }
}

fn number(out: &mut Vec<u8>, field: &str, value: u64) {
    name(out, field);
    out.extend_from_slice(value.to_string().as_bytes());
}

/// The body of a webhook in the standard format: `type`, `timestamp`, `data` first, then the rest of the envelope.
#[must_use]
pub fn standard(event: &Event) -> Bytes {
    let EventMeta {
        id,
        event_type,
        org,
        source,
        aggregate_type,
        aggregate_id,
        channel,
        facility,
        subject,
        occurred_at,
        reason_code,
        schema_version,
        ordering_key,
        // Travels in the header of the same name.
        traceparent: _,
        // Part of `request_context`.
        correlation_id: _,
        data,
        metadata,
        source_refs,
        request_context,
        // Travels in the header of the same name.
        tracestate: _,
    } = &event.meta;
    let mut out = Vec::with_capacity(event.body.len() + 256);
    out.push(b'{');
    text(&mut out, "type", event_type);
    match occurred_at {
        Some(time) => text(&mut out, "timestamp", time),
        None => text(&mut out, "timestamp", &event.received_at.to_rfc3339()),
    }
    name(&mut out, "data");
    out.extend_from_slice(data.map_or(b"null".as_slice(), |span| event.text(span)));
    text(&mut out, "id", id);
    text(&mut out, "org", org);
    number(&mut out, "seq", event.seq.0);
    optional(&mut out, "source", source.as_deref());
    optional(&mut out, "aggregate_type", aggregate_type.as_deref());
    optional(&mut out, "aggregate_id", aggregate_id.as_deref());
    optional(&mut out, "channel", channel.as_deref());
    optional(&mut out, "facility", facility.as_deref());
    optional(&mut out, "subject", subject.as_deref());
    optional(&mut out, "reason_code", reason_code.as_deref());
    optional(&mut out, "schema_version", schema_version.as_deref());
    optional(&mut out, "ordering_key", ordering_key.as_deref());
    raw(&mut out, "metadata", event, *metadata);
    raw(&mut out, "source_refs", event, *source_refs);
    raw(&mut out, "request_context", event, *request_context);
    out.push(b'}');
    Bytes::from(out)
}

/// What the hub adds to an envelope, beside `seq` and `received_at`, when the producer left it out or wrote `null`.
const DEFAULTED: [&str; 4] = ["id", "org", "occurred_at", "ordering_key"];

/// The envelope as it stands in the log: the producer's object, key order and number text kept, with what the hub set
/// appended. The object is left open at the end (no closing brace), so that a caller can add members.
#[must_use]
pub fn envelope_open(event: &Event) -> Vec<u8> {
    let body = event.body.as_ref();
    let mut given = [false; DEFAULTED.len()];
    let mut nulls = false;
    for member in members(body) {
        if let Some(at) = DEFAULTED.iter().position(|name| name.as_bytes() == member.name.as_ref()) {
            let null = &body[member.value] == b"null";
            given[at] = !null;
            nulls |= null;
        }
    }
    let mut out = Vec::with_capacity(body.len() + 256);
    if nulls {
        without_null_defaults(&mut out, body);
    } else {
        out.extend_from_slice(body.strip_suffix(b"}").unwrap_or(body).trim_ascii_end());
    }
    number(&mut out, "seq", event.seq.0);
    let received_at = event.received_at.to_rfc3339();
    text(&mut out, "received_at", &received_at);
    let [id, org, occurred_at, ordering_key] = given;
    if !id {
        text(&mut out, "id", &event.meta.id);
    }
    if !org {
        text(&mut out, "org", &event.meta.org);
    }
    if !occurred_at {
        text(&mut out, "occurred_at", &received_at);
    }
    if !ordering_key {
        optional(&mut out, "ordering_key", event.meta.ordering_key.as_deref());
    }
    out
}

/// Writes the object without those members that the hub is about to add: a name must not stand in it twice.
fn without_null_defaults(out: &mut Vec<u8>, body: &[u8]) {
    out.push(b'{');
    for member in members(body) {
        let defaulted = DEFAULTED.iter().any(|name| name.as_bytes() == member.name.as_ref());
        if defaulted && &body[member.value] == b"null" {
            continue;
        }
        if !matches!(out.last(), Some(b'{')) {
            out.push(b',');
        }
        out.extend_from_slice(&body[member.whole]);
    }
}

/// The envelope as a whole JSON object.
#[must_use]
pub fn envelope(event: &Event) -> Vec<u8> {
    let mut out = envelope_open(event);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::parse::{ParseRules, parse_event};
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::Seq;
    use crate::ground::random::SeededRandom;

    fn event(body: &'static str) -> Arc<Event> {
        let random = SeededRandom::shared(1);
        let rules = ParseRules {
            default_org: Some("acme"),
            confined_to: None,
            event_bytes_max: 4_096,
            now: UnixMs(1_795_248_000_123),
            random: &*random,
        };
        let draft = parse_event(&Bytes::from_static(body.as_bytes()), &rules).expect("is taken");
        Event::new(Seq(9), draft.received_at, draft.meta, draft.body)
    }

    fn names(object: &[u8]) -> Vec<String> {
        members(object).map(|member| String::from_utf8_lossy(&member.name).into_owned()).collect()
    }

    #[test]
    fn the_envelope_keeps_key_order_number_text_and_spelling() {
        let event = event(
            r#" { "data": {"b": 1.10, "a": 12345678901234567890, "c": "\u00e9"},
                  "type": "a.b", "org": "own", "id": "i-1", "occurred_at": "2026-11-21T09:00:00+01:00" } "#,
        );
        let text = String::from_utf8(envelope(&event)).expect("text");
        let given = r#"{ "data": {"b": 1.10, "a": 12345678901234567890, "c": "\u00e9"},
                  "type": "a.b", "org": "own", "id": "i-1", "occurred_at": "2026-11-21T09:00:00+01:00""#;
        let set = r#","seq":9,"received_at":"2026-11-21T08:00:00.123Z"}"#;
        assert_eq!(text, format!("{given}{set}"));
    }

    #[test]
    fn the_envelope_shows_what_the_hub_filled_in_and_no_name_twice() {
        for body in [
            r#"{"type":"a.b","aggregate_type":"order","aggregate_id":"7"}"#,
            r#"{"id":null,"type":"a.b","\u006frg" : null, "aggregate_type":"order","aggregate_id":"7", "occurred_at":null}"#,
            r#"{"ordering_key":null,"type":"a.b","aggregate_type":"order","aggregate_id":"7","id":null }"#,
        ] {
            let event = event(body);
            let bytes = envelope(&event);
            let added = ["seq", "received_at", "id", "org", "occurred_at", "ordering_key"];
            assert_eq!(
                names(&bytes),
                [["type", "aggregate_type", "aggregate_id"].as_slice(), &added].concat(),
                "{body}"
            );
            let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(json["id"], event.meta.id.as_str());
            assert_eq!(json["org"], "acme");
            assert_eq!(json["occurred_at"], "2026-11-21T08:00:00.123Z");
            assert_eq!(json["ordering_key"], "order/7");
        }
    }

    #[test]
    fn a_delivery_starts_with_type_timestamp_and_data_and_keeps_their_text() {
        let event = event(
            r#"{"metadata":{"k":1e400},"data":[-0, 9007199254740993],"type":"a.b","id":"q\"\u00e4","schema_version":2,
                "request_context":{"correlation_id":"c"},"occurred_at":"2026-11-21T09:00:00+01:00","source":null}"#,
        );
        let text = String::from_utf8(standard(&event).to_vec()).expect("text");
        let wanted = concat!(
            r#"{"type":"a.b","timestamp":"2026-11-21T09:00:00+01:00","data":[-0, 9007199254740993],"id":"q\"ä","#,
            r#""org":"acme","seq":9,"schema_version":"2","metadata":{"k":1e400},"request_context":{"correlation_id":"c"}}"#
        );
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_delivery_without_data_says_null() {
        let text = String::from_utf8(standard(&event(r#"{"type":"a.b","id":"1"}"#)).to_vec()).expect("text");
        let wanted =
            r#"{"type":"a.b","timestamp":"2026-11-21T08:00:00.123Z","data":null,"id":"1","org":"acme","seq":9}"#;
        assert_eq!(text, wanted);
    }
}
