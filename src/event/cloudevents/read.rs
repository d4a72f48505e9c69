//! Reading: a `CloudEvent` becomes the text of an envelope, which is then checked as every envelope is.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{CORE, HEADER_PREFIX, IS_BASE64, KEPT, Place, SPECVERSION, header, is_json, is_name, is_text, place_of};
use crate::event::envelope::Draft;
use crate::event::json::members;
use crate::event::object::{Object, json_string};
use crate::event::parse::{ParseRules, object_text, parse_event};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::clip;

/// Most attributes of one event.
const ATTRIBUTES_MAX: usize = 128;

/// How a mode calls attributes and data when it refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Structured,
    Binary,
}

impl Mode {
    fn field(self, attribute: &str) -> String {
        let attribute = clip(attribute, 64);
        match self {
            Self::Structured => attribute.to_owned(),
            Self::Binary if attribute == "datacontenttype" => "content-type".to_owned(),
            Self::Binary => format!("{HEADER_PREFIX}{attribute}"),
        }
    }

    fn refuse(self, attribute: &str, limit: impl Into<String>, sent: impl std::fmt::Display) -> Problem {
        Problem::field(self.field(attribute), limit, sent)
    }
}

/// The event's data as the envelope takes it.
enum Data<'a> {
    None,
    /// JSON text.
    Json(Cow<'a, str>),
    /// The JSON string of bytes in base64.
    Base64(Cow<'a, str>),
}

/// An attribute: its name, and its value as JSON text (a string, a number or a boolean).
struct Attribute<'a> {
    name: Cow<'a, str>,
    raw: Cow<'a, str>,
}

impl Attribute<'_> {
    /// The value's characters; a number or boolean is its own text.
    fn text(&self) -> Option<Cow<'_, str>> {
        if !self.raw.starts_with('"') {
            return Some(Cow::Borrowed(&self.raw));
        }
        serde_json::from_str(&self.raw).ok().map(Cow::Owned)
    }
}

/// Reads an event in structured mode: one JSON object of attributes and data.
///
/// # Errors
/// As [`parse_event`], naming attributes instead of fields; also for what `CloudEvents` does not allow.
pub fn read_structured(body: &Bytes, rules: &ParseRules<'_>) -> Result<Draft, Problem> {
    check_size(body, rules)?;
    let object = object_text(body)?;
    let mode = Mode::Structured;
    let mut attributes: Vec<Attribute<'_>> = Vec::new();
    let (mut data, mut encoded) = (None, None);
    for member in members(object.as_bytes()) {
        let name = String::from_utf8_lossy(&member.name).into_owned();
        let raw = &object[member.value];
        let taken = match name.as_str() {
            "data" => data.replace(raw).is_some(),
            "data_base64" => encoded.replace(raw).is_some(),
            _ => take(mode, &mut attributes, name.clone(), raw)?,
        };
        if taken {
            return Err(mode.refuse(&name, "given once", "the same name twice in one object"));
        }
    }
    let data = match (data, encoded.filter(|raw| *raw != "null")) {
        (Some(_), Some(_)) => return Err(mode.refuse("data_base64", "not beside `data`", "both")),
        (Some(raw), None) => Data::Json(Cow::Borrowed(raw)),
        (None, Some(raw)) => {
            let text = serde_json::from_str::<String>(raw).ok();
            if text.is_none_or(|text| STANDARD.decode(text).is_err()) {
                return Err(mode.refuse("data_base64", "a string of base64, padded", clip(raw, 200)));
            }
            Data::Base64(Cow::Borrowed(raw))
        }
        (None, None) => Data::None,
    };
    translate(mode, &attributes, data, rules)
}

/// Takes a member of the structured form in; true when there was one of this name.
fn take<'a>(mode: Mode, attributes: &mut Vec<Attribute<'a>>, name: String, raw: &'a str) -> Result<bool, Problem> {
    if !is_name(&name) {
        return Err(mode.refuse(&name, "an attribute's name: lower-case letters and digits", clip(raw, 200)));
    }
    // An attribute that is null is one that is absent.
    if raw == "null" {
        return Ok(false);
    }
    if raw.starts_with(['{', '[']) {
        return Err(mode.refuse(&name, "a string, a number or a boolean", clip(raw, 200)));
    }
    if attributes.iter().any(|known| known.name == name) {
        return Ok(true);
    }
    push(mode, attributes, Attribute { name: Cow::Owned(name), raw: Cow::Borrowed(raw) })?;
    Ok(false)
}

fn push<'a>(mode: Mode, attributes: &mut Vec<Attribute<'a>>, attribute: Attribute<'a>) -> Result<(), Problem> {
    if attributes.len() == ATTRIBUTES_MAX {
        return Err(mode.refuse(&attribute.name, format!("at most {ATTRIBUTES_MAX} attributes"), "one more"));
    }
    attributes.push(attribute);
    Ok(())
}

/// Reads an event in binary mode: attributes in headers, data in the body. Headers that are none of `CloudEvents` are
/// passed over.
///
/// # Errors
/// As [`read_structured`], naming headers.
pub fn read_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &Bytes,
    rules: &ParseRules<'_>,
) -> Result<Draft, Problem> {
    check_size(body, rules)?;
    let mode = Mode::Binary;
    let mut attributes: Vec<Attribute<'_>> = Vec::new();
    let mut content_type = None;
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if name == "content-type" {
            let text = std::str::from_utf8(value);
            let text = text.map_err(|_| Problem::field("content-type", "readable text", "other bytes"))?.trim();
            content_type = Some(text).filter(|text| !text.is_empty());
            continue;
        }
        let Some(attribute) = name.strip_prefix(HEADER_PREFIX) else { continue };
        if !is_name(attribute) || attribute == "data" {
            return Err(mode.refuse(attribute, "`ce-` and an attribute's name: letters and digits", "another name"));
        }
        if attribute == "datacontenttype" {
            let problem = "in binary mode the content type of the data is the header `content-type`";
            return Err(Problem::field(name, problem, String::from_utf8_lossy(value)));
        }
        if attributes.iter().any(|known| known.name == attribute) {
            return Err(Problem::field(name, "given once", "the same header twice"));
        }
        let Some(text) = header::decode(value) else {
            return Err(Problem::field(name, "UTF-8, percent-encoded", String::from_utf8_lossy(value)));
        };
        let raw = Cow::Owned(json_string(&text));
        push(mode, &mut attributes, Attribute { name: Cow::Owned(attribute.to_owned()), raw })?;
    }
    let data = binary_data(content_type, body)?;
    let known_type = match (&data, content_type) {
        (_, Some(content_type)) => Some(content_type),
        // HTTP has bytes of no type be just that.
        (Data::Base64(_), None) => Some("application/octet-stream"),
        (Data::Json(_) | Data::None, None) => None,
    };
    if let Some(content_type) = known_type {
        let raw = Cow::Owned(json_string(content_type));
        push(mode, &mut attributes, Attribute { name: Cow::Borrowed("datacontenttype"), raw })?;
    }
    translate(mode, &attributes, data, rules)
}

/// The data of a body in binary mode (CE-2).
fn binary_data<'a>(content_type: Option<&str>, body: &'a Bytes) -> Result<Data<'a>, Problem> {
    if body.is_empty() {
        return Ok(Data::None);
    }
    let text = std::str::from_utf8(body);
    let base64 = || Data::Base64(Cow::Owned(json_string(&STANDARD.encode(body))));
    if is_json(content_type) {
        let json = text.ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        return match (json, content_type) {
            (Some(json), _) => Ok(Data::Json(Cow::Borrowed(json.get()))),
            (None, None) => Ok(base64()),
            (None, Some(content_type)) => {
                let detail = format!("the body is not valid JSON, as its content type {} says", clip(content_type, 80));
                Err(Problem::new(ProblemKind::NotJson, detail))
            }
        };
    }
    match text {
        Ok(text) if content_type.is_some_and(is_text) => Ok(Data::Json(Cow::Owned(json_string(text)))),
        Ok(_) | Err(_) => Ok(base64()),
    }
}

fn check_size(body: &Bytes, rules: &ParseRules<'_>) -> Result<(), Problem> {
    if body.len() <= rules.event_bytes_max {
        return Ok(());
    }
    let limit = format!("at most {} bytes", rules.event_bytes_max);
    Err(Problem::field("body", limit, format!("{} bytes", body.len())).as_kind(ProblemKind::TooLarge))
}

/// Writes the envelope and has it checked.
fn translate(
    mode: Mode,
    attributes: &[Attribute<'_>],
    data: Data<'_>,
    rules: &ParseRules<'_>,
) -> Result<Draft, Problem> {
    check_core(mode, attributes)?;
    let mut fields = Object::new();
    let mut context = Object::new();
    let mut kept = Object::new();
    kept.put("specversion", &json_string(SPECVERSION));
    for attribute in attributes {
        let name = attribute.name.as_ref();
        let Some(text) = attribute.text() else {
            return Err(mode.refuse(name, "a string of whole characters", clip(&attribute.raw, 200)));
        };
        let place = match name {
            "specversion" => continue,
            "partitionkey" if !attributes.iter().any(|other| other.name == "orderingkey") => {
                kept.put(name, &attribute.raw);
                Some(Place::Field("ordering_key"))
            }
            _ => place_of(name),
        };
        let Some(place) = place else {
            kept.put(name, &attribute.raw);
            continue;
        };
        // A number in a field of text: the field has its digits, and the number comes out again.
        if !attribute.raw.starts_with('"') && name != "delay" {
            kept.put(name, &attribute.raw);
        }
        match place {
            Place::Field(field) => fields.put(field, &json_string(&text)),
            Place::Context(field) => context.put(field, &json_string(&text)),
        }
    }
    if !context.is_empty() {
        fields.put("request_context", &context.close());
    }
    match &data {
        Data::None => {}
        Data::Json(raw) => fields.put("data", raw),
        Data::Base64(raw) => {
            kept.put(IS_BASE64, "true");
            fields.put("data", raw);
        }
    }
    let mut metadata = Object::new();
    metadata.put(KEPT, &kept.close());
    fields.put("metadata", &metadata.close());
    parse_event(&Bytes::from(fields.close()), rules).map_err(|problem| in_words_of(mode, attributes, problem))
}

/// What the specification asks of its own attributes, beyond what every envelope is checked for.
fn check_core(mode: Mode, attributes: &[Attribute<'_>]) -> Result<(), Problem> {
    let find = |name: &str| attributes.iter().find(|attribute| attribute.name == name);
    for required in ["specversion", "id", "source", "type"] {
        let Some(attribute) = find(required) else {
            return Err(mode.refuse(required, "required", "nothing"));
        };
        if attribute.raw == "\"\"" {
            return Err(mode.refuse(required, "not empty", "\"\""));
        }
    }
    for name in CORE {
        let Some(attribute) =
            find(name).filter(|attribute| attribute.text().is_none() || !attribute.raw.starts_with('"'))
        else {
            continue;
        };
        return Err(mode.refuse(name, "a string", clip(&attribute.raw, 200)));
    }
    match find("specversion").and_then(Attribute::text) {
        Some(version) if version == SPECVERSION => Ok(()),
        Some(other) => Err(mode.refuse("specversion", format!("`{SPECVERSION}`"), clip(&other, 64))),
        None => Ok(()),
    }
}

/// The problem of an envelope, told with the names that the sender used.
fn in_words_of(mode: Mode, attributes: &[Attribute<'_>], mut problem: Problem) -> Problem {
    let Some(field) = problem.field.as_deref() else { return problem };
    let context = field.strip_prefix("request_context.");
    let known = super::PLACES.iter().find(|(_, place)| match place {
        Place::Field(name) => *name == field,
        Place::Context(name) => context == Some(name),
    });
    let given = |name: &str| attributes.iter().any(|attribute| attribute.name == name);
    let told = match known {
        Some(("orderingkey", _)) if !given("orderingkey") => mode.field("partitionkey"),
        Some((name, _)) => mode.field(name),
        None if field == "metadata" => "extension attributes".to_owned(),
        None => return problem,
    };
    if let Some(limit) = &problem.limit {
        problem.detail = format!("{told}: {limit}");
    }
    problem.field = Some(told);
    problem
}
