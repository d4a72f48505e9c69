//! Reading events from the outside: the one place where an envelope is checked (EVT-1, EVT-2).
//!
//! The body is parsed once. Each known field is read by hand, so that a refusal names the field, the bound and what was
//! sent; what is kept is the producer's own text (EVT-3) and where its parts lie. Strictness is on purpose: an unknown
//! field, or a name given twice, is a mistake that its producer wants to hear of, and readers that take the first or the
//! last of two would disagree on what the event says.

mod checks;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub(crate) use self::checks::check_type_name;
use self::checks::{
    default_ordering_key, deliver_at, identifier, object_within, occurred_at, org_of, request_context, required_type,
    schema_version, source_refs, string, traceparent, tracestate,
};
use super::envelope::{Draft, EventMeta, Span};
use super::json::{StructureFault, StructureScan};
pub use super::json::{has_member, same_json};
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::uuid_v7;
use crate::ground::limits;
use crate::ground::random::Random;
pub use checks::not_reserved;

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
    Tracestate = "tracestate",
    DeliverAt = "deliver_at",
    Delay = "delay",
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
        tracestate: tracestate(raw_of(Field::Tracestate), raw_of(Field::Traceparent))?,
    };
    let deliver_at = deliver_at(raw_of(Field::DeliverAt), raw_of(Field::Delay), rules.now)?;
    let body = Bytes::copy_from_slice(object.as_bytes());
    Ok(Draft { meta, body, id_given, received_at: rules.now, deliver_at })
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

/// The text of a body that is one JSON object, without space around it.
///
/// # Errors
/// `NotJson`, or `InvalidField` when it is something else.
pub(super) fn object_text(body: &[u8]) -> Result<&str, Problem> {
    let text = utf8(body)?;
    let object = text.trim_matches(JSON_SPACE);
    if !object.starts_with('{') {
        return Err(not_a(text, object, "one JSON object"));
    }
    serde_json::from_str::<&RawValue>(object).map_err(|error| not_json(text, &error))?;
    Ok(object)
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
        Ok(_) => Problem::field("body", wanted, kind_of_text(trimmed)),
        Err(error) => not_json(text, &error),
    }
}

/// What a JSON text is. The text itself may be a credential in the wrong place: it is not repeated.
fn kind_of_text(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a truth value",
        Some(b'n') => "null",
        Some(_) | None => "a number",
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
    Problem::unknown(clipped(name), limit)
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

#[cfg(test)]
mod tests;
