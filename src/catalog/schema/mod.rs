//! Schemas (CAT-2): JSON Schema 2020-12, read and compiled once, with bounds on what compiling and checking may cost.
//!
//! - `SC-A` Nothing is fetched: a reference leads within the document, or the schema is refused.
//! - `SC-B` A pattern is matched in linear time: one that needs more (look-around, back-references) is refused.
//! - `SC-C` The work of a check is bounded by the schema's expanded size and the data's length.

pub mod walk;

use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use serde::Serialize;
use serde_json::Value;

use crate::ground::error::Problem;
use crate::ground::limits::clip;
use walk::{Document, expanded, visit};

/// Largest schema, in bytes of its JSON text: a row of the store is not much larger.
pub const SCHEMA_BYTES_MAX: usize = 48 << 10;
/// Deepest nesting of a schema's JSON.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Most schemas a schema may come to when its references are written out.
pub const SCHEMA_EXPANDED_MAX: usize = 10_000;
/// Largest pattern, in characters.
pub const PATTERN_CHARS_MAX: usize = 1_000;
/// Most patterns of a schema.
pub const PATTERNS_MAX: usize = 200;
/// Largest compiled pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// Violations that one refusal lists.
pub const VIOLATIONS_LISTED_MAX: usize = 50;
/// Violations that are counted; past it the answer says "at least".
const VIOLATIONS_COUNTED_MAX: usize = 1_000;
/// Characters of a violation's message.
const MESSAGE_CHARS_MAX: usize = 300;
/// Characters of a violation's pointers.
const POINTER_CHARS_MAX: usize = 512;
/// The only dialect.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// One way in which data does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where in the event, as a JSON pointer: `/data/…`.
    pub pointer: String,
    /// Which part of the schema says so; empty when it is not the schema.
    pub schema_path: String,
    /// What it says. Names values of the schema, never those of the data.
    pub message: String,
}

/// Every violation, as far as they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Violations {
    /// The first ones.
    pub listed: Vec<Violation>,
    /// How many there are beyond these.
    pub more: usize,
}

impl Violations {
    /// One violation.
    #[must_use]
    pub fn one(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let violation = Violation { pointer: pointer.into(), schema_path: String::new(), message: message.into() };
        Self { listed: vec![violation], more: 0 }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.listed.len() + self.more
    }
}

/// A schema that is ready to check data.
#[derive(Clone, Debug)]
pub struct Compiled {
    schema: Arc<Value>,
    validator: Arc<Validator>,
}

fn refuse(pointer: &str, limit: impl Into<String>, sent: impl std::fmt::Display) -> Problem {
    Problem::field(format!("schema{}", clip(pointer, POINTER_CHARS_MAX)), limit, sent)
}

impl Compiled {
    /// Reads and compiles a schema.
    ///
    /// # Errors
    /// `InvalidField` of `schema`, with the pointer of what does not fit.
    pub fn new(schema: Value) -> Result<Self, Problem> {
        check_bounds(&schema)?;
        check_words(&schema)?;
        let options = jsonschema::draft202012::options()
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(1 << 20))
            .should_validate_formats(true)
            .offline();
        let validator = options.build(&schema).map_err(|error| {
            let at = error.instance_path().as_str().to_owned();
            refuse(&at, "a schema of JSON Schema 2020-12", clip(&error.to_string(), MESSAGE_CHARS_MAX))
        })?;
        Ok(Self { schema: Arc::new(schema), validator: Arc::new(validator) })
    }

    /// The schema.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Whether the data fits.
    #[must_use]
    pub fn fits(&self, data: &Value) -> bool {
        self.validator.is_valid(data)
    }

    /// In which ways the data does not fit; `root` stands before each pointer. None when it fits.
    #[must_use]
    pub fn violations(&self, data: &Value, root: &str) -> Option<Violations> {
        let mut errors = self.validator.iter_errors(data);
        let mut found = Violations::default();
        for error in errors.by_ref().take(VIOLATIONS_LISTED_MAX) {
            let pointer = format!("{root}{}", error.instance_path());
            found.listed.push(Violation {
                pointer: clip(&pointer, POINTER_CHARS_MAX).to_owned(),
                schema_path: clip(error.schema_path().as_str(), POINTER_CHARS_MAX).to_owned(),
                message: clip(&error.masked().to_string(), MESSAGE_CHARS_MAX).to_owned(),
            });
        }
        found.more = errors.take(VIOLATIONS_COUNTED_MAX - VIOLATIONS_LISTED_MAX).count();
        (!found.listed.is_empty()).then_some(found)
    }

    /// Checks the JSON text of an event's data; no text stands for an event without data.
    ///
    /// # Errors
    /// The violations.
    pub fn check(&self, text: Option<&[u8]>) -> Result<(), Violations> {
        let data: Value = match text {
            // The text was read as JSON before: what serde_json cannot hold is a number out of all range.
            Some(text) => serde_json::from_slice(text)
                .map_err(|error| Violations::one("/data", format!("a value that cannot be checked: {error}")))?,
            None => Value::Null,
        };
        if self.validator.is_valid(&data) {
            return Ok(());
        }
        match self.violations(&data, "/data") {
            Some(violations) => Err(violations),
            None => Ok(()),
        }
    }
}

fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 1)];
    while let Some((value, level)) = open.pop() {
        deepest = deepest.max(level);
        match value {
            Value::Object(map) => open.extend(map.values().map(|value| (value, level + 1))),
            Value::Array(list) => open.extend(list.iter().map(|value| (value, level + 1))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    deepest
}

fn check_bounds(schema: &Value) -> Result<(), Problem> {
    if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
        return Err(refuse("", "a schema: an object, or true or false", schema));
    }
    let bytes = schema.to_string().len();
    if bytes > SCHEMA_BYTES_MAX {
        return Err(refuse("", format!("at most {SCHEMA_BYTES_MAX} bytes of JSON"), format!("{bytes} bytes")));
    }
    if depth(schema) > SCHEMA_DEPTH_MAX {
        return Err(refuse("", format!("at most {SCHEMA_DEPTH_MAX} levels of nesting"), "more"));
    }
    Ok(())
}

/// Checks the words that cost something or lead somewhere else.
fn check_words(schema: &Value) -> Result<(), Problem> {
    let document = Document::new(schema);
    let mut patterns = 0;
    let mut fault: Option<Problem> = None;
    visit(schema, |pointer, part| {
        let found = check_part(&document, pointer, part, &mut patterns);
        if let (None, Err(problem)) = (&fault, found) {
            fault = Some(problem);
        }
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    if patterns > PATTERNS_MAX {
        return Err(refuse("", format!("at most {PATTERNS_MAX} patterns"), format!("{patterns} patterns")));
    }
    if expanded(&document, SCHEMA_EXPANDED_MAX + 1) > SCHEMA_EXPANDED_MAX {
        let limit = format!("at most {SCHEMA_EXPANDED_MAX} schemas when its references are written out");
        return Err(refuse("", limit, "more"));
    }
    Ok(())
}

fn check_part(document: &Document<'_>, pointer: &str, part: &Value, patterns: &mut usize) -> Result<(), Problem> {
    let text = |name: &str| part.get(name).and_then(Value::as_str);
    if let Some(dialect) = text("$schema")
        && dialect.trim_end_matches('#') != DIALECT
    {
        return Err(refuse(&walk::join(pointer, "$schema"), DIALECT, dialect));
    }
    if let (Some(id), false) = (text("$id"), pointer.is_empty()) {
        // It would change what the references below it mean.
        return Err(refuse(&walk::join(pointer, "$id"), "only at the root of the schema", id));
    }
    for name in ["$ref", "$dynamicRef"] {
        let Some(reference) = text(name) else { continue };
        if document.resolve(reference).is_none() {
            let limit = "a reference to a place within the schema (#/$defs/…, #anchor): nothing else is looked up";
            return Err(refuse(&walk::join(pointer, name), limit, reference));
        }
    }
    let named = part.get("patternProperties").and_then(Value::as_object);
    let keys = named.into_iter().flat_map(|map| map.keys().map(String::as_str));
    for pattern in text("pattern").into_iter().chain(keys) {
        *patterns += 1;
        if pattern.chars().count() > PATTERN_CHARS_MAX {
            let limit = format!("patterns of at most {PATTERN_CHARS_MAX} characters");
            return Err(refuse(&walk::join(pointer, "pattern"), limit, pattern));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: Value) -> (String, String) {
        let problem = Compiled::new(schema).expect_err("refused");
        (problem.field.unwrap_or_default(), format!("{} ({})", problem.detail, problem.sent.unwrap_or_default()))
    }

    #[test]
    fn a_schema_that_leads_out_of_itself_is_refused_by_name() {
        for (schema, field) in [
            (json!({"$ref": "https://example.org/a.json"}), "schema/$ref"),
            (json!({"properties": {"a": {"$ref": "other.json#/x"}}}), "schema/properties/a/$ref"),
            (json!({"items": {"$dynamicRef": "#nowhere"}}), "schema/items/$dynamicRef"),
            (json!({"$schema": "http://json-schema.org/draft-07/schema#"}), "schema/$schema"),
            (json!({"$defs": {"a": {"$id": "https://example.org/a"}}}), "schema/$defs/a/$id"),
            (json!({"properties": {"a": {"type": "strin"}}}), "schema/properties/a/type"),
            (json!({"properties": {"a": {"pattern": "(?=x)y"}}}), "schema/properties/a/pattern"),
            (json!({"pattern": "a".repeat(PATTERN_CHARS_MAX + 1)}), "schema/pattern"),
            (json!([1]), "schema"),
            (json!("string"), "schema"),
            (json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}), "schema"),
        ] {
            let told = refused(schema.clone());
            assert_eq!(told.0, field, "{} for {}", told.1, clip(&schema.to_string(), 200));
        }
        Compiled::new(json!({"$id": "https://example.org/a", "$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}}))
            .expect("a root may have an id");
    }

    #[test]
    fn cost_is_bounded_before_anything_is_compiled() {
        let mut deep = json!({});
        for _ in 0..SCHEMA_DEPTH_MAX {
            deep = json!({"not": deep});
        }
        assert!(refused(deep).1.contains("levels of nesting"));
        let patterns: serde_json::Map<String, Value> =
            (0..=PATTERNS_MAX).map(|n| (format!("^p{n}$"), json!({}))).collect();
        assert!(refused(json!({"patternProperties": patterns})).1.contains("patterns"));
        assert_eq!(refused(json!({"pattern": "(a{1000}){1000}"})).0, "schema/pattern");
        let mut defs = serde_json::Map::new();
        for n in 0..20 {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            defs.insert(format!("d{n}"), json!({"anyOf": [next, next]}));
        }
        defs.insert("d20".into(), json!({"type": "string"}));
        assert!(refused(json!({"$ref": "#/$defs/d0", "$defs": defs})).1.contains("written out"));
    }

    #[test]
    fn violations_name_the_place_in_the_event_and_in_the_schema_and_no_value() {
        let compiled = Compiled::new(json!({
            "type": "object",
            "required": ["total"],
            "properties": {"total": {"type": "integer", "minimum": 0}, "mail": {"format": "email"}},
            "additionalProperties": false,
        }))
        .expect("compiles");
        assert_eq!(compiled.check(Some(br#"{"total": 3, "mail": "a@example.org"}"#)), Ok(()));
        let told = compiled.check(Some(br#"{"total":"s3cret","mail":"s3cret","x":1}"#)).expect_err("refused");
        let places: Vec<_> = told.listed.iter().map(|one| (one.pointer.as_str(), one.schema_path.as_str())).collect();
        assert!(places.contains(&("/data/total", "/properties/total/type")), "{places:?}");
        assert!(places.contains(&("/data/mail", "/properties/mail/format")), "{places:?}");
        assert!(places.contains(&("/data", "/additionalProperties")), "{places:?}");
        assert!(told.listed.iter().all(|one| !one.message.contains("s3cret")), "{told:?}");
        let absent = compiled.check(None).expect_err("refused");
        assert_eq!(absent.listed[0].schema_path, "/type");
    }

    #[test]
    fn a_long_list_of_violations_is_cut_and_counted() {
        let compiled = Compiled::new(json!({"items": {"type": "string"}})).expect("compiles");
        let numbers: Vec<u32> = (0..5_000).collect();
        let told = compiled.check(Some(json!(numbers).to_string().as_bytes())).expect_err("refused");
        assert_eq!((told.listed.len(), told.more), (VIOLATIONS_LISTED_MAX, 950));
    }

    #[test]
    fn a_schema_within_itself_is_checked_however_deep_the_data_is() {
        let compiled = Compiled::new(json!({
            "type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": false,
        }))
        .expect("compiles");
        let mut data = json!({});
        for _ in 0..50 {
            data = json!({"next": data});
        }
        assert!(compiled.fits(&data));
        assert!(!compiled.fits(&json!({"next": {"next": {"nxt": 1}}})));
    }
}
