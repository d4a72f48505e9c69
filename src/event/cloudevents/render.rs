//! Writing: any event of the log as a `CloudEvent`, whichever way it came in.
//!
//! An event that came as a `CloudEvent` has its own attributes again. Any other has `source` made a URI reference and
//! the scopes as extension attributes. `metadata`, `source_refs` and the rest of `request_context` are no attributes and
//! stay in the hub.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{CORE, HEADER_PREFIX, IS_BASE64, KEPT, SPECVERSION, header, is_json, is_name};
use crate::event::envelope::Event;
use crate::event::json::members;

/// The value of an attribute.
enum Value<'a> {
    /// Characters.
    Text(Cow<'a, str>),
    /// JSON text of a string, a number or a boolean, as it came in.
    Raw(&'a str),
}

impl Value<'_> {
    fn characters(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Raw(raw) if raw.starts_with('"') => {
                // Only strings of whole characters are taken in.
                Cow::Owned(serde_json::from_str(raw).unwrap_or_default())
            }
            Self::Raw(raw) => Cow::Borrowed(raw),
        }
    }
}

/// What `metadata.cloudevents` holds.
#[derive(Default)]
struct Kept<'a> {
    /// Whether the event came in as a `CloudEvent`.
    came_so: bool,
    attributes: Vec<(String, &'a str)>,
    data_is_base64: bool,
}

impl<'a> Kept<'a> {
    /// Anybody may write this member into an envelope: what cannot be an attribute is passed over.
    fn of(event: &'a Event) -> Self {
        let mut kept = Self::default();
        let metadata = event.meta.metadata.map_or(b"".as_slice(), |span| event.text(span));
        let Some(member) = members(metadata).find(|member| member.name.as_ref() == KEPT.as_bytes()) else {
            return kept;
        };
        let object = &metadata[member.value];
        for member in members(object) {
            let Ok(raw) = std::str::from_utf8(&object[member.value]) else { continue };
            let name = String::from_utf8_lossy(&member.name).into_owned();
            match name.as_str() {
                IS_BASE64 => kept.data_is_base64 = raw == "true",
                "specversion" => kept.came_so = true,
                _ if is_name(&name) && name != "data" && is_scalar(&name, raw) => kept.attributes.push((name, raw)),
                _ => {}
            }
        }
        kept
    }

    fn take(&mut self, name: &str) -> Option<Value<'a>> {
        let at = self.attributes.iter().position(|(known, _)| known == name)?;
        Some(Value::Raw(self.attributes.remove(at).1))
    }
}

fn is_scalar(name: &str, raw: &str) -> bool {
    let text = raw.starts_with('"') && serde_json::from_str::<String>(raw).is_ok();
    text || (!CORE.contains(&name) && raw != "null" && !raw.starts_with(['{', '[', '"']))
}

/// The attributes of an event but its content type, in order.
fn attributes<'a>(event: &'a Event, kept: &mut Kept<'a>) -> Vec<(Cow<'static, str>, Value<'a>)> {
    let meta = &event.meta;
    let mut out: Vec<(Cow<'static, str>, Value<'a>)> = Vec::with_capacity(16);
    let mut put = |kept: &mut Kept<'a>, name: &'static str, text: Option<Cow<'a, str>>| {
        // A value that was no string comes out as it came in. An attribute without characters is not allowed.
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let value = kept.take(name).filter(|value| value.characters() == text).unwrap_or(Value::Text(text));
            out.push((Cow::Borrowed(name), value));
        }
    };
    let mut field = |kept: &mut Kept<'a>, name: &'static str, text: &'a Option<String>| {
        put(kept, name, text.as_deref().map(Cow::Borrowed));
    };
    let causation_id = causation_id(event);
    let source = source(event, kept.came_so);
    let time = meta.occurred_at.as_deref().map_or_else(|| Cow::Owned(event.received_at.to_rfc3339()), Cow::Borrowed);
    field(kept, "subject", &meta.subject);
    field(kept, "channel", &meta.channel);
    field(kept, "facility", &meta.facility);
    field(kept, "aggregatetype", &meta.aggregate_type);
    field(kept, "aggregateid", &meta.aggregate_id);
    field(kept, "orderingkey", &meta.ordering_key);
    field(kept, "reasoncode", &meta.reason_code);
    field(kept, "schemaversion", &meta.schema_version);
    field(kept, "traceparent", &meta.traceparent);
    field(kept, "tracestate", &meta.tracestate);
    field(kept, "correlationid", &meta.correlation_id);
    put(kept, "causationid", causation_id);
    put(kept, "org", Some(Cow::Borrowed(meta.org.as_str())));
    let mut first = vec![
        (Cow::Borrowed("specversion"), Value::Text(Cow::Borrowed(SPECVERSION))),
        (Cow::Borrowed("id"), Value::Text(Cow::Borrowed(meta.id.as_str()))),
        (Cow::Borrowed("source"), Value::Text(source)),
        (Cow::Borrowed("type"), Value::Text(Cow::Borrowed(meta.event_type.as_str()))),
        (Cow::Borrowed("time"), Value::Text(time)),
    ];
    first.append(&mut out);
    let named = |name: &str| first.iter().any(|(known, _)| known == name);
    let rest: Vec<_> = kept
        .attributes
        .drain(..)
        .filter(|(name, _)| !named(name))
        .map(|(name, raw)| (Cow::Owned(name), Value::Raw(raw)))
        .collect();
    first.extend(rest);
    first
}

/// Who speaks, as a URI reference.
fn source(event: &Event, came_so: bool) -> Cow<'_, str> {
    match event.meta.source.as_deref().filter(|source| !source.is_empty()) {
        Some(source) if came_so => Cow::Borrowed(source),
        Some(source) => uri_reference(source),
        None => Cow::Owned(format!("/tidegate/{}", uri_reference(&event.meta.org))),
    }
}

/// The `source` that an event has as a `CloudEvent`.
#[must_use]
pub fn source_of(event: &Event) -> Cow<'_, str> {
    source(event, Kept::of(event).came_so)
}

fn causation_id(event: &Event) -> Option<Cow<'_, str>> {
    let context = event.text(event.meta.request_context?);
    let member = members(context).find(|member| member.name.as_ref() == b"causation_id")?;
    let text: Option<String> = serde_json::from_slice(&context[member.value]).ok()?;
    text.map(Cow::Owned)
}

/// The text with everything percent-encoded that no URI may hold (RFC 3986).
fn uri_reference(text: &str) -> Cow<'_, str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    if text.bytes().all(allowed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if allowed(byte) { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    Cow::Owned(out)
}

/// The content type of the data: what came in, or JSON for data that is.
fn content_type(event: &Event, kept: &mut Kept<'_>) -> Option<String> {
    match kept.take("datacontenttype") {
        Some(value) => Some(value.characters().into_owned()),
        None if kept.came_so => None,
        None => event.meta.data.map(|_| "application/json".to_owned()),
    }
}

fn push_json(out: &mut Vec<u8>, name: &str, value: &Value<'_>) {
    out.push(if out.is_empty() { b'{' } else { b',' });
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    match value {
        // A text cannot fail to be written into memory.
        Value::Text(text) => out.extend_from_slice(&serde_json::to_vec(text).unwrap_or_default()),
        Value::Raw(raw) => out.extend_from_slice(raw.as_bytes()),
    }
}

/// The event in structured mode: the body of a request whose content type is [`super::STRUCTURED`].
#[must_use]
pub fn render_structured(event: &Event) -> Bytes {
    let mut kept = Kept::of(event);
    let content_type = content_type(event, &mut kept);
    let mut out = Vec::with_capacity(event.body.len() + 256);
    for (name, value) in attributes(event, &mut kept) {
        push_json(&mut out, &name, &value);
    }
    if let Some(content_type) = &content_type {
        push_json(&mut out, "datacontenttype", &Value::Text(Cow::Borrowed(content_type)));
    }
    if let Some(span) = event.meta.data {
        let base64 = kept.data_is_base64 && base64_of(event.text(span)).is_some();
        let name = if base64 { "data_base64" } else { "data" };
        out.extend_from_slice(format!(",\"{name}\":").as_bytes());
        out.extend_from_slice(event.text(span));
    }
    out.push(b'}');
    Bytes::from(out)
}

/// The event in binary mode: the headers of a request, `content-type` among them when there is data or it had one, and
/// its body. Names are in lower case; values are percent-encoded and fit for HTTP.
#[must_use]
pub fn render_binary(event: &Event) -> (Vec<(String, String)>, Bytes) {
    let mut kept = Kept::of(event);
    let content_type = content_type(event, &mut kept);
    let body = binary_body(event, &kept, content_type.as_deref());
    let mut headers: Vec<(String, String)> = attributes(event, &mut kept)
        .into_iter()
        .map(|(name, value)| (format!("{HEADER_PREFIX}{name}"), header::encode(&value.characters())))
        .collect();
    // Not percent-encoded: it is HTTP's own header. What HTTP does not allow in it is no content type.
    let fits = |text: &String| text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    match content_type.filter(fits) {
        Some(content_type) => headers.push(("content-type".to_owned(), content_type)),
        None if body.is_empty() => {}
        None => {
            let content_type = if kept.data_is_base64 { "application/octet-stream" } else { "application/json" };
            headers.push(("content-type".to_owned(), content_type.to_owned()));
        }
    }
    (headers, body)
}

fn binary_body(event: &Event, kept: &Kept<'_>, content_type: Option<&str>) -> Bytes {
    let Some(span) = event.meta.data else { return Bytes::new() };
    let whole = || event.body.slice(span.start as usize..span.end as usize);
    let string = || serde_json::from_slice::<String>(event.text(span)).ok();
    if kept.data_is_base64 {
        return base64_of(event.text(span)).map_or_else(whole, Bytes::from);
    }
    if is_json(content_type) {
        return whole();
    }
    string().map_or_else(whole, Bytes::from)
}

/// The bytes that a JSON string holds in base64. Data that came so may have been redacted since.
fn base64_of(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(serde_json::from_slice::<String>(text).ok()?).ok()
}
