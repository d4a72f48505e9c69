//! A schema as the comparison sees it: references followed, `allOf` folded in where that can be done exactly.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::catalog::schema::walk::Document;

/// Words that say nothing about what is allowed.
const ANNOTATIONS: [&str; 19] = [
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$id",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];
/// References followed from one schema to the next.
const HOPS_MAX: usize = 32;

/// A schema with what it says itself.
#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    /// `true`, or `{}`.
    Anything,
    /// `false`.
    Nothing,
    /// Words.
    Words(Cow<'a, Map<String, Value>>),
}

/// A node with where it was found.
#[derive(Clone, Debug)]
pub(super) struct Placed<'a> {
    pub(super) node: Node<'a>,
    /// Where the words are, after references.
    pub(super) at: String,
}

impl Node<'_> {
    /// A word's value.
    pub(super) fn word(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Words(words) => words.get(name),
            Self::Anything | Self::Nothing => None,
        }
    }
}

/// Whether a word narrows what is allowed.
pub(super) fn narrows(name: &str) -> bool {
    !ANNOTATIONS.contains(&name) && !name.starts_with("x-")
}

/// The value without its annotations, for comparing. References stay as they are.
pub(super) fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, _)| narrows(name));
            Value::Object(kept.map(|(name, value)| (name.clone(), bare_word(name, value))).collect())
        }
        other => other.clone(),
    }
}

fn bare_word(name: &str, value: &Value) -> Value {
    match (name, value) {
        // Values, not schemas.
        ("enum" | "const", value) => value.clone(),
        ("properties" | "patternProperties" | "dependentSchemas", Value::Object(map)) => {
            Value::Object(map.iter().map(|(name, value)| (name.clone(), bare(value))).collect())
        }
        (_, Value::Array(list)) => Value::Array(list.iter().map(bare).collect()),
        (_, value) => bare(value),
    }
}

/// Whether a value holds a reference anywhere.
pub(super) fn refers(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("$ref") || map.contains_key("$dynamicRef") || map.values().any(refers),
        Value::Array(list) => list.iter().any(refers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Reads a schema: follows a reference that stands alone, and folds the rest of what must hold at once into one set of
/// words where that says exactly the same.
pub(super) fn read<'a>(document: &Document<'a>, at: &str, schema: &'a Value) -> Placed<'a> {
    let (mut at, mut schema) = (at.to_owned(), schema);
    for _ in 0..HOPS_MAX {
        let Value::Object(map) = schema else { break };
        let Some(reference) = map.get("$ref").and_then(Value::as_str) else { break };
        let alone = map.keys().filter(|name| narrows(name)).count() == 1;
        let Some((place, target)) = document.resolve(reference).filter(|_| alone) else { break };
        (at, schema) = (place, target);
    }
    let node = match schema {
        Value::Bool(true) => Node::Anything,
        Value::Object(map) if !map.keys().any(|name| narrows(name)) => Node::Anything,
        Value::Object(map) => fold(document, map),
        _ => Node::Nothing,
    };
    Placed { node, at }
}

/// The words of a schema with those of its `allOf` and of a reference beside others, when no word is in two of them in
/// a way that cannot be put together.
fn fold<'a>(document: &Document<'a>, map: &'a Map<String, Value>) -> Node<'a> {
    if !map.contains_key("allOf") && !map.contains_key("$ref") {
        return Node::Words(Cow::Borrowed(map));
    }
    let mut words: Map<String, Value> = map.clone();
    let (branches, reference) = (words.remove("allOf"), words.remove("$ref"));
    let mut rest: Vec<Value> = Vec::new();
    let target = reference.as_ref().and_then(Value::as_str).and_then(|text| document.resolve(text));
    let mut parts: Vec<Value> = branches.and_then(|list| list.as_array().cloned()).unwrap_or_default();
    parts.extend(target.map(|(_, target)| target.clone()));
    for part in parts {
        let part = match followed(document, part) {
            Value::Bool(true) => continue,
            Value::Bool(false) => return Node::Nothing,
            part => part,
        };
        match part.as_object().and_then(|part| both(&words, part)) {
            Some(folded) => words = folded,
            None => rest.push(part),
        }
    }
    if !rest.is_empty() {
        words.insert("allOf".to_owned(), Value::Array(rest));
    }
    if words.keys().any(|name| narrows(name)) { Node::Words(Cow::Owned(words)) } else { Node::Anything }
}

fn followed(document: &Document<'_>, mut part: Value) -> Value {
    for _ in 0..HOPS_MAX {
        let Some(map) = part.as_object() else { break };
        let alone = map.keys().filter(|name| narrows(name)).count() == 1;
        let reference = map.get("$ref").and_then(Value::as_str).filter(|_| alone);
        let Some((_, target)) = reference.and_then(|text| document.resolve(text)) else { break };
        part = target.clone();
    }
    part
}

/// Both sets of words at once, when that can be said in one set.
pub(super) fn both(a: &Map<String, Value>, b: &Map<String, Value>) -> Option<Map<String, Value>> {
    // What an object may have besides its properties is said relative to the properties beside it.
    let relative = ["additionalProperties", "items", "unevaluatedProperties", "unevaluatedItems", "patternProperties"];
    if relative.iter().any(|name| a.contains_key(*name) || b.contains_key(*name)) {
        let disjoint = ["properties", "prefixItems", "patternProperties", "additionalProperties", "items"];
        let touched = |map: &Map<String, Value>| disjoint.iter().any(|name| map.contains_key(*name));
        if (touched(a) && touched(b)) || a.keys().chain(b.keys()).any(|name| name.starts_with("unevaluated")) {
            return None;
        }
    }
    let mut out = a.clone();
    for (name, value) in b.iter().filter(|(name, _)| narrows(name)) {
        let Some(own) = a.get(name) else {
            out.insert(name.clone(), value.clone());
            continue;
        };
        if own == value {
            continue;
        }
        out.insert(name.clone(), together(name, own, value)?);
    }
    Some(out)
}

fn together(name: &str, a: &Value, b: &Value) -> Option<Value> {
    match name {
        "required" => {
            let mut all: Vec<Value> = a.as_array()?.clone();
            all.extend(b.as_array()?.iter().filter(|name| !a.as_array().is_some_and(|a| a.contains(name))).cloned());
            Some(Value::Array(all))
        }
        "properties" => {
            let (a, b) = (a.as_object()?, b.as_object()?);
            let same = b.iter().all(|(name, value)| a.get(name).is_none_or(|own| own == value));
            same.then(|| Value::Object(a.iter().chain(b).map(|(name, value)| (name.clone(), value.clone())).collect()))
        }
        "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties" => {
            let larger = a.as_f64()? >= b.as_f64()?;
            Some(if larger { a.clone() } else { b.clone() })
        }
        "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties" => {
            let smaller = a.as_f64()? <= b.as_f64()?;
            Some(if smaller { a.clone() } else { b.clone() })
        }
        _ => None,
    }
}
