//! The checks of an envelope's fields, one by one. Each takes the raw JSON text of its field, if there is one, and
//! refuses with the field's name, the bound and what was sent.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{Field, ParseRules, clipped, too_large};
use crate::event::envelope::EventMeta;
use crate::event::filter::OWN_PREFIX;
use crate::event::json::members;
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits;
use crate::trace::{TRACESTATE_CHARS_MAX, TraceContext, read_tracestate};

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

pub(super) fn string(field: Field, raw: Option<&str>, chars_max: usize) -> Result<Option<String>, Problem> {
    raw.map(|raw| characters(field.name(), raw, chars_max).map(Cow::into_owned)).transpose()
}

/// A string that names something: not empty, and fit for a header or a line of a log.
pub(super) fn identifier(field: Field, raw: Option<&str>, chars_max: usize) -> Result<Option<String>, Problem> {
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

pub(super) fn required_type(raw: Option<&str>) -> Result<String, Problem> {
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
pub(in crate::event) fn check_type_name(field: &str, name: &str) -> Result<(), Problem> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/' | b':');
    if !name.bytes().all(fits) {
        return Err(Problem::field(field, "a dotted name of A-Z a-z 0-9 _ - / : and dots", clipped(name)));
    }
    if name.split('.').any(str::is_empty) {
        return Err(Problem::field(field, "a dotted name with no empty part", clipped(name)));
    }
    Ok(())
}

pub(super) fn org_of(raw: Option<&str>, rules: &ParseRules<'_>) -> Result<String, Problem> {
    let org = identifier(Field::Org, raw, limits::SCOPE_CHARS_MAX)?
        .unwrap_or_else(|| rules.default_org.or(rules.confined_to).unwrap_or_default().to_owned());
    match rules.confined_to {
        Some(own) if own != org => {
            Err(Problem::field(Field::Org.name(), "the org of the key", org).as_kind(ProblemKind::Forbidden))
        }
        Some(_) | None => Ok(org),
    }
}

pub(super) fn default_ordering_key(aggregate_type: Option<&str>, aggregate_id: Option<&str>) -> Option<String> {
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

/// Refuses an event of a producer whose type is one of the hub's own.
///
/// # Errors
/// When it is.
pub fn not_reserved(meta: &EventMeta) -> Result<(), Problem> {
    if !meta.event_type.starts_with(OWN_PREFIX) {
        return Ok(());
    }
    let limit = format!("not `{OWN_PREFIX}…`: those are the hub's own events");
    Err(Problem::field(Field::Type.name(), limit, &meta.event_type))
}

/// Units of a delay and their milliseconds; a number without one is seconds.
const DELAY_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// When an event is due: at `deliver_at`, or `delay` after now.
pub(super) fn deliver_at(at: Option<&str>, delay: Option<&str>, now: UnixMs) -> Result<Option<UnixMs>, Problem> {
    match (at, delay) {
        (None, None) => Ok(None),
        (Some(_), Some(raw)) => Err(Problem::field(Field::Delay.name(), "not beside `deliver_at`", clipped(raw))),
        (raw, None) => {
            let text = time(Field::DeliverAt, raw)?;
            // The text was read as a time before.
            Ok(text.and_then(|text| UnixMs::parse_rfc3339(&text).ok()))
        }
        (None, Some(raw)) => {
            let limit = "seconds as a whole number, or a text such as `90s`, `10m`, `2h`, `7d`, `PT1H30M`";
            let refused = || Problem::field(Field::Delay.name(), limit, clipped(raw));
            let text = raw.strip_prefix('"').map_or(Some(raw), |rest| rest.strip_suffix('"')).ok_or_else(refused)?;
            if text.starts_with('P') {
                return Ok(Some(now.plus_ms(iso_duration_ms(text).ok_or_else(refused)?)));
            }
            let digits = text.len() - text.trim_start_matches(|char: char| char.is_ascii_digit()).len();
            let (number, unit) = text.split_at(digits);
            let unit_ms = match unit {
                "" => Some(1_000),
                unit => DELAY_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms),
            };
            let ms = number.parse::<u64>().ok().zip(unit_ms).and_then(|(number, unit)| number.checked_mul(unit));
            Ok(Some(now.plus_ms(ms.ok_or_else(refused)?)))
        }
    }
}

/// Longest ISO 8601 duration taken; all units with six digits each make 40.
const DURATION_CHARS_MAX: usize = 64;

/// The milliseconds of an ISO 8601 duration of weeks, days, hours, minutes, seconds. A day has 24 hours here; years and
/// months have no length of their own.
fn iso_duration_ms(text: &str) -> Option<u64> {
    // The parser takes forms beside the standard's, which do not begin so or have lower-case or signs.
    let standard = |byte: u8| byte.is_ascii_digit() || b"PTWDHMS.".contains(&byte);
    if text.len() > DURATION_CHARS_MAX || !text.bytes().all(standard) {
        return None;
    }
    let span: jiff::Span = text.parse().ok()?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    u64::try_from(duration.as_millis()).ok()
}

/// Longest RFC 3339 text taken; nanoseconds and an offset make 35.
const TIME_CHARS_MAX: usize = 64;

pub(super) fn occurred_at(raw: Option<&str>) -> Result<Option<String>, Problem> {
    time(Field::OccurredAt, raw)
}

fn time(field: Field, raw: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    let text = characters(field.name(), raw, TIME_CHARS_MAX)?;
    let refused = |why: &str| {
        let limit = format!("an RFC 3339 time such as 2026-11-21T08:00:00Z ({why})");
        Problem::field(field.name(), limit, clipped(&text))
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

pub(super) fn schema_version(raw: Option<&str>) -> Result<Option<String>, Problem> {
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
pub(super) fn traceparent(raw: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    let text = characters(Field::Traceparent.name(), raw, limits::KEY_CHARS_MAX)?;
    if TraceContext::parse(&text).is_none() {
        let limit =
            "a W3C traceparent: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, lower case, ids not all zero";
        return Err(Problem::field(Field::Traceparent.name(), limit, clipped(&text)));
    }
    Ok(Some(text.into_owned()))
}

/// What the systems of a trace say of it: nothing without the trace.
pub(super) fn tracestate(raw: Option<&str>, traceparent: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(text) = string(Field::Tracestate, raw, TRACESTATE_CHARS_MAX)? else { return Ok(None) };
    let limit = format!("a W3C tracestate of at most {TRACESTATE_CHARS_MAX} characters: key=value, up to 32 of them");
    match read_tracestate(&text) {
        Some(state) => Ok(traceparent.map(|_| state)),
        None => Err(Problem::field(Field::Tracestate.name(), limit, clipped(&text))),
    }
}

/// Checks that a field is an object of at most `bytes_max` bytes, and gives its text.
pub(super) fn object_within(field: Field, raw: Option<&str>, bytes_max: usize) -> Result<Option<&str>, Problem> {
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
pub(super) fn request_context(raw: Option<&str>) -> Result<Option<String>, Problem> {
    const CORRELATION_ID: &str = "request_context.correlation_id";
    let Some(raw) = object_within(Field::RequestContext, raw, limits::REQUEST_CONTEXT_BYTES_MAX)? else {
        return Ok(None);
    };
    let mut correlation_id = None;
    for member in members(raw.as_bytes()) {
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

pub(super) fn source_refs(raw: Option<&str>) -> Result<(), Problem> {
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
        for member in members(entry.as_bytes()) {
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
