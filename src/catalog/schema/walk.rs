//! Walking a schema: which members of it are schemas, and what a reference within it means.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// Members that are a schema.
const ONE: [&str; 11] = [
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Members that are lists of schemas.
const LISTS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Members that are schemas by name.
const MAPS: [&str; 5] = ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// A part of a JSON pointer, escaped (RFC 6901).
#[must_use]
pub fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

/// The pointer with one more part.
#[must_use]
pub fn join(pointer: &str, part: &str) -> String {
    format!("{pointer}/{}", escaped(part))
}

/// The schemas right inside a schema, each with its pointer. What only names other schemas (`$defs`) is among them.
pub fn children<'a>(schema: &'a Map<String, Value>, pointer: &str) -> Vec<(String, &'a Value)> {
    let mut out = Vec::new();
    for (name, value) in schema {
        let here = || join(pointer, name);
        if ONE.contains(&name.as_str()) {
            out.push((here(), value));
        } else if let (true, Some(list)) = (LISTS.contains(&name.as_str()), value.as_array()) {
            out.extend(list.iter().enumerate().map(|(at, one)| (format!("{}/{at}", here()), one)));
        } else if let (true, Some(map)) = (MAPS.contains(&name.as_str()), value.as_object()) {
            out.extend(map.iter().map(|(name, one)| (join(&here(), name), one)));
        }
    }
    out
}

/// A schema document, and what its references mean.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, (String, &'a Value)>,
}

impl<'a> Document<'a> {
    /// Reads the anchors of a schema.
    #[must_use]
    pub fn new(root: &'a Value) -> Self {
        let mut anchors = HashMap::new();
        visit(root, |pointer, schema| {
            for name in ["$anchor", "$dynamicAnchor"] {
                if let Some(anchor) = schema.get(name).and_then(Value::as_str) {
                    anchors.entry(anchor).or_insert_with(|| (pointer.to_owned(), schema));
                }
            }
        });
        Self { root, anchors }
    }

    /// The whole.
    #[must_use]
    pub fn root(&self) -> &'a Value {
        self.root
    }

    /// What a reference within the document means, with its pointer; none when it leads nowhere or out of it.
    #[must_use]
    pub fn resolve(&self, reference: &str) -> Option<(String, &'a Value)> {
        let fragment = percent_decoded(reference.strip_prefix('#')?)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            let found = self.root.pointer(&fragment)?;
            return Some((fragment, found));
        }
        self.anchors.get(fragment.as_str()).cloned()
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(out).ok()
}

/// Calls `seen` with the pointer of each schema that is an object, the document itself first. Nothing recurses.
pub fn visit<'a>(root: &'a Value, mut seen: impl FnMut(&str, &'a Value)) {
    let mut open = vec![(String::new(), root)];
    while let Some((pointer, schema)) = open.pop() {
        let Some(map) = schema.as_object() else { continue };
        seen(&pointer, schema);
        let mut inner = children(map, &pointer);
        inner.reverse();
        open.extend(inner);
    }
}

/// How many schemas there are when every reference is written out, one within itself counted once. No more than `most`.
#[must_use]
pub fn expanded(document: &Document<'_>, most: usize) -> usize {
    let mut known = HashMap::new();
    weigh(document, "", document.root(), most, &mut known, &mut HashSet::new())
}

fn weigh(
    document: &Document<'_>,
    pointer: &str,
    schema: &Value,
    most: usize,
    known: &mut HashMap<String, usize>,
    open: &mut HashSet<String>,
) -> usize {
    let Some(map) = schema.as_object() else { return 1 };
    if let Some(weight) = known.get(pointer) {
        return *weight;
    }
    if !open.insert(pointer.to_owned()) {
        return 1;
    }
    let mut weight = 1_usize;
    for (inner, child) in children(map, pointer) {
        let named = inner[pointer.len()..].split('/').nth(1);
        // What is only named there counts where it is used.
        if !matches!(named, Some("$defs" | "definitions")) {
            weight = weight.saturating_add(weigh(document, &inner, child, most, known, open)).min(most);
        }
    }
    for name in ["$ref", "$dynamicRef"] {
        if let Some((at, target)) = map.get(name).and_then(Value::as_str).and_then(|text| document.resolve(text)) {
            weight = weight.saturating_add(weigh(document, &at, target, most, known, open)).min(most);
        }
    }
    open.remove(pointer);
    known.insert(pointer.to_owned(), weight);
    weight
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_schemas_are_visited() {
        let schema = json!({
            "properties": {"$ref": {"type": "string"}, "a/b": true},
            "enum": [{"$ref": "https://example.org"}],
            "allOf": [{"not": {}}],
            "default": {"properties": {"x": {}}},
        });
        let mut seen = Vec::new();
        visit(&schema, |pointer, _| seen.push(pointer.to_owned()));
        seen.sort();
        assert_eq!(seen, ["", "/allOf/0", "/allOf/0/not", "/properties/$ref"]);
    }

    #[test]
    fn references_are_pointers_or_anchors_within_the_document() {
        let schema = json!({"$defs": {"a b": {"$anchor": "here", "type": "null"}}});
        let document = Document::new(&schema);
        assert_eq!(document.resolve("#").map(|found| found.0).as_deref(), Some(""));
        assert_eq!(document.resolve("#/$defs/a%20b").map(|found| found.0).as_deref(), Some("/$defs/a b"));
        assert_eq!(document.resolve("#here").map(|found| found.1), schema.pointer("/$defs/a b"));
        for nowhere in ["#there", "#/x", "other.json", "https://example.org/#here", "#%zz", "#%e"] {
            assert!(document.resolve(nowhere).is_none(), "{nowhere}");
        }
    }

    #[test]
    fn references_that_double_each_other_weigh_what_they_stand_for() {
        let mut defs = Map::new();
        for n in 0..40 {
            let next = format!("#/$defs/d{}", n + 1);
            defs.insert(format!("d{n}"), json!({"allOf": [{"$ref": next}, {"$ref": next}]}));
        }
        defs.insert("d40".to_owned(), json!({"type": "string"}));
        let schema = json!({"$ref": "#/$defs/d0", "$defs": defs});
        assert_eq!(expanded(&Document::new(&schema), 10_000), 10_000);
        let tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        assert_eq!(expanded(&Document::new(&tree), 10_000), 5);
    }
}
