//! How an event is written for readers: a webhook's body, and the envelope as it stands in the log.

use bytes::Bytes;

use super::envelope::{Event, EventMeta, Span};

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

/// The envelope as it stands in the log: the producer's object, key order and number text kept, with what the hub set
/// appended. The object is left open at the end (no closing brace), so that a caller can add members.
#[must_use]
pub fn envelope_open(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.body.len() + 256);
    let inner = event.body.strip_suffix(b"}").unwrap_or(&event.body);
    out.extend_from_slice(inner.trim_ascii_end());
    if out.is_empty() {
        out.push(b'{');
    }
    number(&mut out, "seq", event.seq.0);
    text(&mut out, "received_at", &event.received_at.to_rfc3339());
    let given = |field: &str| super::parse::has_member(&event.body, field);
    if !given("id") {
        text(&mut out, "id", &event.meta.id);
    }
    if !given("org") {
        text(&mut out, "org", &event.meta.org);
    }
    if !given("occurred_at") {
        text(&mut out, "occurred_at", &event.received_at.to_rfc3339());
    }
    if !given("ordering_key") {
        optional(&mut out, "ordering_key", event.meta.ordering_key.as_deref());
    }
    out
}

/// The envelope as a whole JSON object.
#[must_use]
pub fn envelope(event: &Event) -> Vec<u8> {
    let mut out = envelope_open(event);
    out.push(b'}');
    out
}
