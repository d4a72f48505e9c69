//! Reading events from the outside: the one place where an envelope is checked (EVT-1, EVT-2).
//!
//! The body is parsed once. Each known field is read by hand, so that a refusal names the field, the bound and what was
//! sent; what is kept is the producer's own text (EVT-3) and where its parts lie. Strictness is on purpose: an unknown
//! field, or a name given twice, is a mistake that its producer wants to hear of, and readers that take the first or the
//! last of two would disagree on what the event says.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::{Draft, EventMeta, Span};
use super::json::{StructureFault, StructureScan};
pub use super::json::{has_member, same_json};
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::uuid_v7;
use crate::ground::limits;
use crate::ground::random::Random;

/// What an event is checked against.
#[derive(Clone, Copy, Debug)]
pub struct ParseRules<'a> {
    /// The org of an event that names none: the key's.
    pub default_org: Option<&'a str>,
    /// The only org the key may speak for.
    pub confined_to: Option<&'a str>,
    /// Largest body, in bytes.
    pub event_bytes_max: usize,
    /// When the event was received.
    pub now: UnixMs,
    /// Where the id of an event that has none comes from.
    pub random: &'a dyn Random,
}

macro_rules! fields {
    ($($field:ident = $name:literal,)+) => {
        /// The fields of an envelope that a producer may set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field { $($field,)+ }

        impl Field {
            const NAMES: &'static [&'static str] = &[$($name,)+];
            fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$field),)+ _ => None }
            }
            fn name(self) -> &'static str {
                match self { $(Self::$field => $name,)+ }
            }
        }
    };
}

fields! {
    Id = "id",
    Type = "type",
    Source = "source",
    AggregateType = "aggregate_type",
    AggregateId = "aggregate_id",
    Org = "org",
    Channel = "channel",
    Facility = "facility",
    Subject = "subject",
    Data = "data",
    Metadata = "metadata",
    OccurredAt = "occurred_at",
    ReasonCode = "reason_code",
    SourceRefs = "source_refs",
    SchemaVersion = "schema_version",
    OrderingKey = "ordering_key",
    RequestContext = "request_context",
    Traceparent = "traceparent",
}

const FIELDS: usize = Field::NAMES.len();

/// The members of an envelope as raw text, by field.
struct Members<'a> {
    raw: [Option<&'a str>; FIELDS],
    /// The first thing wrong with the names; told only when the whole body is JSON.
    fault: Option<Problem>,
}

impl<'a> Members<'a> {
    /// The field's text; `null` counts as absent.
    fn get(&self, field: Field) -> Option<&'a str> {
        self.raw[field as usize].filter(|raw| *raw != "null")
    }

    fn take(&mut self, name: &str, raw: &'a str) {
        let fault = match Field::of(name) {
            Some(field) => self.raw[field as usize].replace(raw).map(|_| twice(name)),
            None => Some(unknown(name, raw)),
        };
        if self.fault.is_none() {
            self.fault = fault;
        }
    }
}

/// A name, borrowed where its text holds no escape.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members { raw: [None; FIELDS], fault: None };
        while let Some(Name(name)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            members.take(&name, value.get());
        }
        Ok(members)
    }
}

/// Reads and checks one event. Costs a few microseconds for a body of 1 KiB. The draft owns an exact copy of the object,
/// so that it keeps no network buffer alive.
///
/// # Errors
/// `NotJson` with the place, `TooLarge`, `InvalidField` naming the field, the bound and what was sent, or `Forbidden`
/// for an org that the key does not speak for.
pub fn parse_event(body: &Bytes, rules: &ParseRules<'_>) -> Result<Draft, Problem> {
    // Spans are 32 bits wide.
    let bytes_max = rules.event_bytes_max.min(u32::MAX as usize);
    if body.len() > bytes_max {
        return Err(too_large("body", bytes_max, body.len()));
    }
    let text = utf8(body)?;
    let object = text.trim_matches(JSON_SPACE);
    let members = read_object(text, object)?;
    if let Some(fault) = members.fault {
        return Err(fault);
    }
    let raw_of = |field: Field| members.get(field);
    scan(&members)?;

    let event_type = required_type(raw_of(Field::Type))?;
    let given_id = identifier(Field::Id, raw_of(Field::Id), limits::EVENT_ID_CHARS_MAX)?;
    let id_given = given_id.is_some();
    let org = org_of(raw_of(Field::Org), rules)?;
    let aggregate_type = string(Field::AggregateType, raw_of(Field::AggregateType), limits::SCOPE_CHARS_MAX)?;
    let aggregate_id = string(Field::AggregateId, raw_of(Field::AggregateId), limits::AGGREGATE_ID_CHARS_MAX)?;
    let ordering_key = match string(Field::OrderingKey, raw_of(Field::OrderingKey), limits::KEY_CHARS_MAX)? {
        Some(key) => Some(key),
        None => default_ordering_key(aggregate_type.as_deref(), aggregate_id.as_deref()),
    };
    let span = |field: Field| raw_of(field).map(|raw| span_in(object, raw));
    let meta = EventMeta {
        id: given_id.unwrap_or_else(|| uuid_v7(rules.now, rules.random).to_string()),
        event_type,
        org,
        source: string(Field::Source, raw_of(Field::Source), limits::SCOPE_CHARS_MAX)?,
        aggregate_type,
        aggregate_id,
        channel: string(Field::Channel, raw_of(Field::Channel), limits::SCOPE_CHARS_MAX)?,
        facility: string(Field::Facility, raw_of(Field::Facility), limits::SCOPE_CHARS_MAX)?,
        subject: string(Field::Subject, raw_of(Field::Subject), limits::KEY_CHARS_MAX)?,
        occurred_at: occurred_at(raw_of(Field::OccurredAt))?,
        reason_code: string(Field::ReasonCode, raw_of(Field::ReasonCode), limits::CODE_CHARS_MAX)?,
        schema_version: schema_version(raw_of(Field::SchemaVersion))?,
        ordering_key,
        traceparent: traceparent(raw_of(Field::Traceparent))?,
        correlation_id: request_context(raw_of(Field::RequestContext))?,
        // `"data": null` is data; only a missing member is none.
        data: members.raw[Field::Data as usize].map(|raw| span_in(object, raw)),
        metadata: object_within(Field::Metadata, raw_of(Field::Metadata), limits::METADATA_BYTES_MAX)
            .map(|_| span(Field::Metadata))?,
        source_refs: source_refs(raw_of(Field::SourceRefs)).map(|()| span(Field::SourceRefs))?,
        request_context: span(Field::RequestContext),
    };
    Ok(Draft { meta, body: Bytes::copy_from_slice(object.as_bytes()), id_given, received_at: rules.now })
}

/// The elements of a JSON array, each a slice of `body`.
///
/// # Errors
/// `NotJson`, `InvalidField` when it is no array, `TooLarge` past `events_max` elements.
pub fn split_array(body: &Bytes, events_max: usize) -> Result<Vec<Bytes>, Problem> {
    struct ArrayVisitor {
        events_max: usize,
    }
    impl<'de> Visitor<'de> for ArrayVisitor {
        type Value = (Vec<&'de RawValue>, usize);
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON array")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while elements.len() < self.events_max {
                match seq.next_element()? {
                    Some(element) => elements.push(element),
                    None => return Ok((elements, 0)),
                }
            }
            let mut over = 0;
            while seq.next_element::<IgnoredAny>()?.is_some() {
                over += 1;
            }
            Ok((elements, over))
        }
    }
    let text = utf8(body)?;
    let array = text.trim_matches(JSON_SPACE);
    if !array.starts_with('[') {
        return Err(not_a(text, array, "a JSON array of events"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let (elements, over) = deserializer
        .deserialize_seq(ArrayVisitor { events_max })
        .and_then(|found| deserializer.end().map(|()| found))
        .map_err(|error| not_json(text, &error))?;
    if over > 0 {
        let sent = format!("{} events", events_max + over);
        return Err(Problem::field("body", format!("at most {events_max} events in a batch"), sent)
            .as_kind(ProblemKind::TooLarge));
    }
    Ok(elements.into_iter().map(|element| body.slice_ref(element.get().as_bytes())).collect())
}

/// The white space of JSON, which is less than Unicode's.
const JSON_SPACE: [char; 4] = [' ', '\n', '\r', '\t'];

fn utf8(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        Problem::new(ProblemKind::NotJson, format!("the body is not UTF-8: invalid byte at offset {at}"))
            .with("offset", at)
    })
}

fn not_json(text: &str, error: &serde_json::Error) -> Problem {
    let detail = if text.starts_with('\u{feff}') {
        "the body starts with a byte order mark, which JSON does not allow (line 1 column 1)".to_owned()
    } else if text.trim_matches(JSON_SPACE).is_empty() {
        "the body is empty (line 1 column 0)".to_owned()
    } else {
        format!("the body is not valid JSON: {error}")
    };
    Problem::new(ProblemKind::NotJson, detail).with("line", error.line()).with("column", error.column())
}

/// Why `text`, which is something else than the container wanted, is refused.
fn not_a(text: &str, trimmed: &str, wanted: &str) -> Problem {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => Problem::field("body", wanted, clipped(trimmed)),
        Err(error) => not_json(text, &error),
    }
}

fn read_object<'a>(text: &'a str, object: &str) -> Result<Members<'a>, Problem> {
    if !object.starts_with('{') {
        return Err(not_a(text, object, "one JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer
        .deserialize_map(ObjectVisitor)
        .and_then(|members| deserializer.end().map(|()| members))
        .map_err(|error| not_json(text, &error))
}

/// Looks for duplicate names and deep nesting inside the fields.
fn scan(members: &Members<'_>) -> Result<(), Problem> {
    let mut scan = StructureScan::default();
    for (name, raw) in Field::NAMES.iter().zip(members.raw) {
        let Some(raw) = raw else { continue };
        scan.check(name, raw.as_bytes(), limits::NESTING_MAX - 1).map_err(|fault| match fault {
            StructureFault::Duplicate { path } => twice(&path),
            StructureFault::TooDeep { path } => {
                let limit = format!("at most {} levels of nesting", limits::NESTING_MAX);
                Problem::field(path, limit, format!("a container at level {}", limits::NESTING_MAX + 1))
            }
        })?;
    }
    Ok(())
}

fn twice(path: &str) -> Problem {
    Problem::field(clipped(path), "given once", "the same name twice in one object")
}

/// Names that other systems use for a field of ours.
const ALIASES: &[(&str, Field)] = &[
    ("event_type", Field::Type),
    ("event", Field::Type),
    ("event_id", Field::Id),
    ("payload", Field::Data),
    ("body", Field::Data),
    ("time", Field::OccurredAt),
    ("timestamp", Field::OccurredAt),
    ("tenant", Field::Org),
    ("tenant_id", Field::Org),
    ("organization", Field::Org),
    ("service", Field::Source),
    ("entity_type", Field::AggregateType),
    ("entity_id", Field::AggregateId),
    ("context", Field::RequestContext),
];

fn unknown(name: &str, raw: &str) -> Problem {
    if matches!(name, "seq" | "received_at") {
        return Problem::field(name, "set by the hub, not by the producer", clipped(raw));
    }
    let limit = match nearest_field(name) {
        Some(near) => format!("no field of an event; did you mean `{near}`?"),
        None => "no field of an event; what is the producer's own belongs into `data` or `metadata`".to_owned(),
    };
    Problem::field(clipped(name), limit, clipped(raw))
}

/// The field that was probably meant.
fn nearest_field(name: &str) -> Option<&'static str> {
    if name.len() > 40 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, field)) = ALIASES.iter().find(|(alias, _)| *alias == lower) {
        return Some(field.name());
    }
    let (near, likeness) = Field::NAMES
        .iter()
        .map(|known| (*known, strsim::normalized_damerau_levenshtein(known, &lower)))
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (likeness >= 0.6).then_some(near)
}

fn clipped(text: &str) -> &str {
    limits::clip(text, 200)
}

fn too_large(field: &str, bytes_max: usize, bytes: usize) -> Problem {
    Problem::field(field, format!("at most {bytes_max} bytes"), format!("{bytes} bytes")).as_kind(ProblemKind::TooLarge)
}

/// Where `part`, which was borrowed from `whole`, lies in it.
fn span_in(whole: &str, part: &str) -> Span {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    // The body was checked to be no longer than a span can say.
    Span { start: start as u32, end: (start + part.len()) as u32 }
}

/// The characters of a JSON string, of at most `chars_max`.
fn characters<'a>(name: &str, raw: &'a str, chars_max: usize) -> Result<Cow<'a, str>, Problem> {
    let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err(Problem::field(name, "a string", clipped(raw)));
    };
    let text = if inner.contains('\\') {
        let text: String = serde_json::from_str(raw)
            .map_err(|_| Problem::field(name, "a string of whole characters", clipped(raw)))?;
        Cow::Owned(text)
    } else {
        Cow::Borrowed(inner)
    };
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(Problem::field(name, format!("at most {chars_max} characters"), clipped(&text)));
    }
    Ok(text)
}

fn string(field: Field, raw: Option<&str>, chars_max: usize) -> Result<Option<String>, Problem> {
    raw.map(|raw| characters(field.name(), raw, chars_max).map(Cow::into_owned)).transpose()
}

/// A string that names something: not empty, and fit for a header or a line of a log.
fn identifier(field: Field, raw: Option<&str>, chars_max: usize) -> Result<Option<String>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    let text = characters(field.name(), raw, chars_max)?;
    if text.is_empty() {
        return Err(Problem::field(field.name(), "not empty", clipped(raw)));
    }
    no_control(field.name(), &text, raw)?;
    Ok(Some(text.into_owned()))
}

fn no_control(name: &str, text: &str, raw: &str) -> Result<(), Problem> {
    if text.chars().any(char::is_control) {
        return Err(Problem::field(name, "no control characters", clipped(raw)));
    }
    Ok(())
}

fn required_type(raw: Option<&str>) -> Result<String, Problem> {
    let Some(event_type) = identifier(Field::Type, raw, limits::EVENT_TYPE_CHARS_MAX)? else {
        return Err(Problem::field(Field::Type.name(), "required", "nothing"));
    };
    check_type_name(Field::Type.name(), &event_type)?;
    Ok(event_type)
}

/// Whether `name` is a dotted name, such as `invoice.paid`; `field` is named when it is not.
///
/// # Errors
/// `InvalidField` saying which rule is broken.
pub(super) fn check_type_name(field: &str, name: &str) -> Result<(), Problem> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/' | b':');
    if !name.bytes().all(fits) {
        return Err(Problem::field(field, "a dotted name of A-Z a-z 0-9 _ - / : and dots", clipped(name)));
    }
    if name.split('.').any(str::is_empty) {
        return Err(Problem::field(field, "a dotted name with no empty part", clipped(name)));
    }
    Ok(())
}

fn org_of(raw: Option<&str>, rules: &ParseRules<'_>) -> Result<String, Problem> {
    let org = identifier(Field::Org, raw, limits::SCOPE_CHARS_MAX)?
        .unwrap_or_else(|| rules.default_org.or(rules.confined_to).unwrap_or_default().to_owned());
    match rules.confined_to {
        Some(own) if own != org => {
            Err(Problem::field(Field::Org.name(), "the org of the key", org).as_kind(ProblemKind::Forbidden))
        }
        Some(_) | None => Ok(org),
    }
}

fn default_ordering_key(aggregate_type: Option<&str>, aggregate_id: Option<&str>) -> Option<String> {
    let (kind, id) = (aggregate_type.unwrap_or_default(), aggregate_id.unwrap_or_default());
    if kind.is_empty() && id.is_empty() {
        return None;
    }
    let mut key = String::with_capacity(kind.len() + 1 + id.len());
    key.push_str(kind);
    key.push('/');
    key.push_str(id);
    Some(key)
}

/// Longest RFC 3339 text taken; nanoseconds and an offset make 35.
const TIME_CHARS_MAX: usize = 64;

fn occurred_at(raw: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    let text = characters(Field::OccurredAt.name(), raw, TIME_CHARS_MAX)?;
    let refused = |why: &str| {
        let limit = format!("an RFC 3339 time such as 2026-11-21T08:00:00Z ({why})");
        Problem::field(Field::OccurredAt.name(), limit, clipped(&text))
    };
    if !looks_like_rfc3339(text.as_bytes()) {
        return Err(refused("date, T, time, and Z or an offset"));
    }
    UnixMs::parse_rfc3339(&text).map_err(|why| refused(&why))?;
    Ok(Some(text.into_owned()))
}

/// Whether the text has the shape of RFC 3339 section 5.6. Parsers take more (ISO 8601 basic dates, zone names), which
/// the receivers of the event might not.
fn looks_like_rfc3339(text: &[u8]) -> bool {
    let shape = |text: &[u8], pattern: &[u8]| {
        text.len() == pattern.len()
            && text.iter().zip(pattern).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b't'),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte == other,
            })
    };
    let Some((seconds, mut rest)) = text.split_at_checked(19) else { return false };
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    shape(seconds, b"0000-00-00T00:00:00") && (matches!(rest, b"Z" | b"z") || shape(rest, b"+00:00"))
}

fn schema_version(raw: Option<&str>) -> Result<Option<String>, Problem> {
    let field = Field::SchemaVersion;
    let Some(raw) = raw else { return Ok(None) };
    if raw.starts_with('"') {
        return string(field, Some(raw), limits::CODE_CHARS_MAX);
    }
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::field(field.name(), "a string or an integer", clipped(raw)));
    }
    if raw.len() > limits::CODE_CHARS_MAX {
        return Err(Problem::field(
            field.name(),
            format!("at most {} characters", limits::CODE_CHARS_MAX),
            clipped(raw),
        ));
    }
    Ok(Some(raw.to_owned()))
}

/// Checks the shape that W3C Trace Context gives the header of this name.
fn traceparent(raw: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    let text = characters(Field::Traceparent.name(), raw, limits::KEY_CHARS_MAX)?;
    if !is_traceparent(&text) {
        let limit =
            "a W3C traceparent: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, lower case, ids not all zero";
        return Err(Problem::field(Field::Traceparent.name(), limit, clipped(&text)));
    }
    Ok(Some(text.into_owned()))
}

fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |len: usize| {
        parts.next().filter(|part| {
            part.len() == len && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    // Later versions may append parts; version 00 has none.
    version != "ff" && !zero(trace) && !zero(parent) && (version != "00" || parts.next().is_none())
}

/// Checks that a field is an object of at most `bytes_max` bytes, and gives its text.
fn object_within(field: Field, raw: Option<&str>, bytes_max: usize) -> Result<Option<&str>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    if !raw.starts_with('{') {
        return Err(Problem::field(field.name(), "a JSON object", clipped(raw)));
    }
    if raw.len() > bytes_max {
        return Err(too_large(field.name(), bytes_max, raw.len()));
    }
    Ok(Some(raw))
}

/// Checks the known members of the request context and gives its correlation id.
fn request_context(raw: Option<&str>) -> Result<Option<String>, Problem> {
    const CORRELATION_ID: &str = "request_context.correlation_id";
    let Some(raw) = object_within(Field::RequestContext, raw, limits::REQUEST_CONTEXT_BYTES_MAX)? else {
        return Ok(None);
    };
    let mut correlation_id = None;
    for member in super::json::members(raw.as_bytes()) {
        let (path, chars_max) = match member.name.as_ref() {
            b"correlation_id" => (CORRELATION_ID, limits::KEY_CHARS_MAX),
            b"causation_id" => ("request_context.causation_id", limits::KEY_CHARS_MAX),
            b"user_id" => ("request_context.user_id", limits::KEY_CHARS_MAX),
            b"tenant_id" => ("request_context.tenant_id", limits::KEY_CHARS_MAX),
            b"ip" => ("request_context.ip", limits::KEY_CHARS_MAX),
            b"user_agent" => ("request_context.user_agent", limits::REQUEST_CONTEXT_BYTES_MAX),
            _ => continue,
        };
        let value = &raw[member.value];
        if value == "null" {
            continue;
        }
        let text = characters(path, value, chars_max)?;
        if path == CORRELATION_ID {
            // It travels in a header.
            no_control(path, &text, value)?;
            correlation_id = Some(text.into_owned());
        }
    }
    Ok(correlation_id)
}

fn source_refs(raw: Option<&str>) -> Result<(), Problem> {
    let field = Field::SourceRefs.name();
    let Some(raw) = raw else { return Ok(()) };
    let shape = "a list of {system, type, id}, each a string";
    let refs: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| Problem::field(field, shape, clipped(raw)))?;
    if refs.len() > limits::SOURCE_REFS_MAX {
        return Err(Problem::field(
            field,
            format!("at most {} entries", limits::SOURCE_REFS_MAX),
            format!("{} entries", refs.len()),
        ));
    }
    for (at, entry) in refs.iter().map(|entry| entry.get()).enumerate() {
        if !entry.starts_with('{') {
            return Err(Problem::field(format!("{field}[{at}]"), "an object of system, type and id", clipped(entry)));
        }
        let mut missing = vec!["system", "type", "id"];
        for member in super::json::members(entry.as_bytes()) {
            let name = String::from_utf8_lossy(&member.name);
            let path = format!("{field}[{at}].{}", clipped(&name));
            let value = &entry[member.value.clone()];
            let Some(known) = missing.iter().position(|known| *known == name) else {
                return Err(Problem::field(
                    path,
                    "no part of a source reference; it has system, type and id",
                    clipped(value),
                ));
            };
            missing.swap_remove(known);
            characters(&path, value, limits::AGGREGATE_ID_CHARS_MAX)?;
        }
        if let Some(name) = missing.first() {
            return Err(Problem::field(format!("{field}[{at}].{name}"), "required, a string", clipped(entry)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
