//! Small words for JSON Schema (2020-12, as OpenAPI 3.1 uses it), so that the areas read as lists of fields.

use serde_json::{Map, Value, json};

use crate::config::{Range, SETTINGS};
use crate::ground::error::ProblemKind;

/// No control characters (Unicode category Cc).
pub(super) const PRINTABLE: &str = r"^[^\u0000-\u001F\u007F-\u009F]*$";
/// A dotted event type.
pub(super) const EVENT_TYPE: &str = r"^[A-Za-z0-9_/:-]+(\.[A-Za-z0-9_/:-]+)*$";
/// An event type, `prefix.*` or `*`.
pub(super) const TYPE_PATTERN: &str = r"^(\*|[A-Za-z0-9_/:-]+(\.[A-Za-z0-9_/:-]+)*(\.\*)?)$";
/// A W3C tracestate; a key may be there once.
pub(super) const TRACESTATE: &str = concat!(
    "^([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[ -+\\--<>-~]{0,255}[!-+\\--<>-~]",
    "(,([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[ -+\\--<>-~]{0,255}[!-+\\--<>-~]){0,31}$",
);
/// A W3C traceparent.
pub(super) const TRACEPARENT: &str = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$";

/// A schema of the components.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The same, or null: left out and null are one.
pub(super) fn nullable(mut schema: Value) -> Value {
    let kinds = match schema.get("type") {
        Some(Value::String(kind)) => vec![Value::from(kind.as_str()), Value::from("null")],
        Some(Value::Array(kinds)) => kinds.iter().cloned().chain([Value::from("null")]).collect(),
        Some(_) | None => return json!({ "anyOf": [schema, { "type": "null" }] }),
    };
    schema["type"] = Value::from(kinds);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    schema
}

/// A text as `Fields::text` takes it: 1 to so many characters, none of them a control character.
pub(super) fn text(chars_max: usize) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": chars_max, "pattern": PRINTABLE })
}

/// The same, or an empty text: an empty query parameter counts as absent.
pub(super) fn or_empty(schema: Value) -> Value {
    let takes_empty = schema["type"] == "string"
        && ["minLength", "pattern", "format", "enum"].iter().all(|word| schema.get(word).is_none());
    if takes_empty { schema } else { json!({ "anyOf": [schema, { "type": "string", "maxLength": 0 }] }) }
}

/// Any text of at most so many characters.
pub(super) fn any_text(chars_max: usize) -> Value {
    json!({ "type": "string", "maxLength": chars_max })
}

/// A text that the hub writes.
pub(super) fn told() -> Value {
    json!({ "type": "string" })
}

/// A text of this form.
pub(super) fn of_form(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// An id that the hub makes: `prefix_` and 32 hex digits.
pub(super) fn id(prefix: &str) -> Value {
    of_form(&format!("^{prefix}_[0-9a-f]{{32}}$"))
}

/// One of these words.
pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Value {
    json!({ "type": "string", "enum": words.into_iter().collect::<Vec<_>>() })
}

/// A whole number within bounds, both included.
pub(super) fn whole(min: u64, max: u64) -> Value {
    json!({ "type": "integer", "minimum": min, "maximum": max })
}

/// A whole number from 0.
pub(super) fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// Yes or no.
pub(super) fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// An RFC 3339 time.
pub(super) fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// A list.
pub(super) fn list(item: Value) -> Value {
    json!({ "type": "array", "items": item })
}

/// A list within bounds.
pub(super) fn list_of(item: Value, min: usize, max: usize) -> Value {
    json!({ "type": "array", "items": item, "minItems": min, "maxItems": max })
}

/// Fields by name.
pub(super) type FieldList = Vec<(&'static str, Value)>;

fn object(fields: FieldList, required: &[&str]) -> Value {
    let properties: Map<String, Value> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An object that the hub writes: every field is there, and later versions may add more.
pub(super) fn answer(fields: FieldList) -> Value {
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    object(fields, &required)
}

/// An object that the hub writes, of which only some fields are always there.
pub(super) fn answer_with(fields: FieldList, required: &[&str]) -> Value {
    object(fields, required)
}

/// An object that a client sends: unknown fields are refused.
pub(super) fn request(fields: FieldList, required: &[&str]) -> Value {
    let mut schema = object(fields, required);
    schema["additionalProperties"] = Value::from(false);
    schema
}

/// A page of a list.
pub(super) fn page(name: &'static str, item: &str) -> Value {
    answer(vec![(name, list(reference(item))), ("next_cursor", told()), ("has_more", flag())])
}

/// A problem of one of these kinds.
pub(super) fn problem(kinds: &[ProblemKind]) -> Value {
    let types: Vec<String> = kinds.iter().map(|kind| problem_type(*kind)).collect();
    json!({ "allOf": [reference("Problem"), { "properties": { "type": { "enum": types } } }] })
}

/// The `type` of a problem.
pub(super) fn problem_type(kind: ProblemKind) -> String {
    format!("urn:tidegate:problem:{}", kind.slug())
}

fn of_range(range: Range) -> Value {
    match range {
        Range::Flag => flag(),
        Range::Whole(min, max) => whole(min, max),
        Range::WholeOrZero(min, max) => json!({ "type": "integer", "anyOf": [{ "const": 0 }, whole(min, max)] }),
        Range::Fraction(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
        Range::Text(chars) => any_text(chars),
        Range::Name(chars) => json!({ "type": "string", "minLength": 1, "maxLength": chars }),
        Range::Choice(choices) => words(choices.iter().copied()),
        Range::Address | Range::Levels => told(),
        Range::Networks(most) => list_of(told(), 0, most),
        Range::Upstreams(most) => list_of(json!({ "type": "object" }), 0, most),
        Range::Wholes(most, min, max) => list_of(whole(min, max), 0, most),
    }
}

/// The settings of a section, each with its range.
pub(super) fn settings(section: &str) -> FieldList {
    let field = |(key, range): &(&'static str, Range)| {
        let (of, name) = key.split_once('.')?;
        (of == section).then(|| (name, of_range(*range)))
    };
    SETTINGS.iter().filter_map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_added_to_a_kind_to_words_and_to_a_reference() {
        assert_eq!(nullable(flag()), json!({ "type": ["boolean", "null"] }));
        assert_eq!(nullable(words(["a"])), json!({ "type": ["string", "null"], "enum": ["a", null] }));
        let either = json!({ "anyOf": [{ "$ref": "#/components/schemas/X" }, { "type": "null" }] });
        assert_eq!(nullable(reference("X")), either);
        assert_eq!(nullable(json!({ "type": ["string", "integer"] }))["type"], json!(["string", "integer", "null"]));
    }

    #[test]
    fn every_setting_of_the_section_has_its_range() {
        let fields = settings("outbox");
        let of = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, schema)| schema.clone());
        assert_eq!(of("enabled"), Some(flag()));
        assert_eq!(of("batch_size"), Some(whole(1, 1_000)));
        assert_eq!(fields.len(), SETTINGS.iter().filter(|(key, _)| key.starts_with("outbox.")).count());
    }
}
