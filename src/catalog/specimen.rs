//! Specimens (CAT-4): data that fits a schema, made from the schema. The same schema always gives the same specimen.

use serde_json::{Map, Value, json};

use super::schema::Compiled;
use super::schema::walk::Document;

/// Deepest nesting of a specimen; below it only what is required is there.
const DEPTH_MAX: usize = 6;
/// Deepest nesting at all.
const DEPTH_END: usize = 40;
/// Values made for one specimen.
const VALUES_MAX: usize = 5_000;
/// Longest list or text that is made because a schema asks for it.
const LENGTH_MAX: u64 = 1_000;

/// How much of what may be left out is put in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fullness {
    Everything,
    Required,
}

/// Data that fits the schema; none when none was found that does.
#[must_use]
pub fn specimen(compiled: &Compiled) -> Option<Value> {
    [Fullness::Everything, Fullness::Required].into_iter().find_map(|fullness| {
        let mut maker = Maker { document: Document::new(compiled.schema()), fullness, left: VALUES_MAX };
        let made = maker.value(compiled.schema(), 0, 0)?;
        compiled.fits(&made).then_some(made)
    })
}

struct Maker<'a> {
    document: Document<'a>,
    fullness: Fullness,
    left: usize,
}

impl Maker<'_> {
    /// A value for a schema; `n` tells those of one list apart.
    fn value(&mut self, schema: &Value, depth: usize, n: u64) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        if depth > DEPTH_END {
            return None;
        }
        let Value::Object(words) = schema else { return (schema != &Value::Bool(false)).then(|| json!("any")) };
        let words = &self.folded(words, depth)?;
        if let Some(value) = words.get("const") {
            return Some(value.clone());
        }
        if let Some(values) = words.get("enum").and_then(Value::as_array) {
            let at = usize::try_from(n).unwrap_or(0) % values.len().max(1);
            return values.get(at).cloned();
        }
        let example = words.get("examples").and_then(Value::as_array).and_then(|list| list.first());
        if let (Some(example), 0) = (example.or_else(|| words.get("default")), n) {
            return Some(example.clone());
        }
        match kind(words) {
            "object" => self.object(words, depth),
            "array" => self.array(words, depth),
            "string" => Some(Value::from(text(words, n)?)),
            "integer" | "number" => number(words, n),
            "boolean" => Some(Value::Bool(n.is_multiple_of(2))),
            _ => Some(Value::Null),
        }
    }

    /// The words with those of references and of the branches that are taken: each of `allOf`, the first of the others.
    fn folded(&self, words: &Map<String, Value>, depth: usize) -> Option<Map<String, Value>> {
        let mut out = words.clone();
        for _ in 0..DEPTH_END.saturating_sub(depth) {
            let mut parts: Vec<Value> = Vec::new();
            for name in ["$ref", "$dynamicRef"] {
                if let Some(Value::String(reference)) = out.remove(name) {
                    parts.push(self.document.resolve(&reference)?.1.clone());
                }
            }
            parts.extend(out.remove("allOf").and_then(|list| list.as_array().cloned()).unwrap_or_default());
            for name in ["anyOf", "oneOf"] {
                let branches = out.remove(name).and_then(|list| list.as_array().cloned()).unwrap_or_default();
                parts.extend(self.simplest(&branches));
            }
            // What a condition asks for when it holds is put in, and so does no harm when it does not.
            parts.extend(out.remove("then").filter(|_| words.contains_key("if")));
            if parts.is_empty() {
                return Some(out);
            }
            for part in parts {
                match part {
                    Value::Object(part) => merge(&mut out, part),
                    Value::Bool(false) => return None,
                    _ => {}
                }
            }
        }
        None
    }

    /// The first branch that does not lead back to itself.
    fn simplest(&self, branches: &[Value]) -> Option<Value> {
        let plain = branches.iter().find(|branch| branch.get("$ref").is_none());
        let first = if self.fullness == Fullness::Required { plain.or(branches.first()) } else { branches.first() };
        first.cloned()
    }

    fn object(&mut self, words: &Map<String, Value>, depth: usize) -> Option<Value> {
        let empty = Map::new();
        let map = |name: &str| words.get(name).and_then(Value::as_object).unwrap_or(&empty);
        let mut required: Vec<&str> =
            words.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = map("properties");
        let everything = self.fullness == Fullness::Everything && depth < DEPTH_MAX;
        let most = words.get("maxProperties").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let mut out = Map::new();
        for (name, schema) in properties {
            let wanted = required.contains(&name.as_str());
            if !wanted && (!everything || out.len() as u64 >= most.saturating_sub(required.len() as u64)) {
                continue;
            }
            match self.value(schema, depth + 1, 0) {
                Some(value) => {
                    out.insert(name.clone(), value);
                }
                None if wanted => return None,
                None => {}
            }
        }
        let asked = map("dependentRequired");
        let beside: Vec<&str> = asked
            .iter()
            .filter(|(name, _)| out.contains_key(*name))
            .flat_map(|(_, names)| names.as_array().into_iter().flatten().filter_map(Value::as_str))
            .collect();
        required.extend(beside);
        let further = words.get("additionalProperties").cloned().unwrap_or(Value::Bool(true));
        for name in required {
            if !out.contains_key(name) {
                let schema = properties.get(name).unwrap_or(&further).clone();
                out.insert(name.to_owned(), self.value(&schema, depth + 1, 0)?);
            }
        }
        let least = words.get("minProperties").and_then(Value::as_u64).unwrap_or(0).min(LENGTH_MAX);
        let mut n = 0;
        while (out.len() as u64) < least {
            n += 1;
            out.insert(format!("property{n}"), self.value(&further, depth + 1, n)?);
        }
        Some(Value::Object(out))
    }

    fn array(&mut self, words: &Map<String, Value>, depth: usize) -> Option<Value> {
        let number = |name: &str| words.get(name).and_then(Value::as_u64);
        let first = words.get("prefixItems").and_then(Value::as_array).cloned().unwrap_or_default();
        let rest = words.get("items").cloned().unwrap_or(Value::Bool(true));
        let open = rest != Value::Bool(false) && words.contains_key("items") && self.fullness == Fullness::Everything;
        let usual = if open && depth < DEPTH_MAX { 1 } else { 0 };
        let most = number("maxItems").unwrap_or(LENGTH_MAX);
        let contained = words.get("contains").map(|_| number("minContains").unwrap_or(1)).unwrap_or(0);
        let wanted = (first.len() as u64).max(number("minItems").unwrap_or(usual)).max(contained).min(most);
        if wanted > LENGTH_MAX {
            return None;
        }
        let mut out = Vec::new();
        for n in 0..wanted {
            let schema = match (first.get(n as usize), words.get("contains")) {
                (None, Some(contains)) if n < contained => contains.clone(),
                (Some(schema), _) => schema.clone(),
                (None, _) => rest.clone(),
            };
            out.push(self.value(&schema, depth + 1, n)?);
        }
        Some(Value::Array(out))
    }
}

/// Adds words; of what both have, the narrower where that is plain, else what is there stays.
fn merge(out: &mut Map<String, Value>, part: Map<String, Value>) {
    for (name, value) in part {
        let Some(own) = out.get_mut(&name) else {
            out.insert(name, value);
            continue;
        };
        match (name.as_str(), own, value) {
            ("properties" | "patternProperties", Value::Object(own), Value::Object(value)) => {
                for (name, value) in value {
                    match own.get_mut(&name) {
                        Some(Value::Object(both)) => {
                            if let Value::Object(value) = value {
                                merge(both, value);
                            }
                        }
                        Some(_) => {}
                        None => {
                            own.insert(name, value);
                        }
                    }
                }
            }
            ("required" | "allOf", Value::Array(own), Value::Array(value)) => own.extend(value),
            ("minimum" | "minLength" | "minItems" | "minProperties" | "exclusiveMinimum", own, value) => {
                if value.as_f64() > own.as_f64() {
                    *own = value;
                }
            }
            ("maximum" | "maxLength" | "maxItems" | "maxProperties" | "exclusiveMaximum", own, value) => {
                if value.as_f64() < own.as_f64() {
                    *own = value;
                }
            }
            ("type", Value::Array(own), value) => {
                let allowed = |kind: &Value| value == *kind || value.as_array().is_some_and(|all| all.contains(kind));
                own.retain(allowed);
            }
            (_, _, _) => {}
        }
    }
}

/// The kind of value to make.
fn kind(words: &Map<String, Value>) -> &str {
    match words.get("type") {
        Some(Value::String(kind)) => return kind,
        Some(Value::Array(kinds)) => {
            let named = || kinds.iter().filter_map(Value::as_str);
            return named().find(|kind| *kind != "null").or_else(|| named().next()).unwrap_or("null");
        }
        Some(_) | None => {}
    }
    let has = |names: &[&str]| names.iter().any(|name| words.contains_key(*name));
    if has(&["properties", "required", "additionalProperties", "minProperties", "patternProperties"]) {
        "object"
    } else if has(&["items", "prefixItems", "minItems", "contains"]) {
        "array"
    } else if has(&["minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"]) {
        "number"
    } else {
        "string"
    }
}

/// A number within the bounds, `n` steps from where they begin.
fn number(words: &Map<String, Value>, n: u64) -> Option<Value> {
    let bound = |name: &str| words.get(name).and_then(Value::as_f64);
    let whole = words.get("type").and_then(Value::as_str) != Some("number");
    let step = bound("multipleOf").filter(|step| *step > 0.0);
    let (least, over) = (bound("minimum"), bound("exclusiveMinimum"));
    let (most, under) = (bound("maximum"), bound("exclusiveMaximum"));
    let unit = step.unwrap_or(if whole { 1.0 } else { 0.5 });
    let low = match (least, over) {
        (Some(least), Some(over)) if over >= least => Some((over, false)),
        (Some(least), _) => Some((least, true)),
        (None, Some(over)) => Some((over, false)),
        (None, None) => None,
    };
    let high = match (most, under) {
        (Some(most), Some(under)) if under <= most => Some((under, false)),
        (Some(most), _) => Some((most, true)),
        (None, Some(under)) => Some((under, false)),
        (None, None) => None,
    };
    let first = match (low, high) {
        (Some((low, itself)), _) => {
            let at = (low / unit).ceil() * unit;
            if at > low || itself { at } else { at + unit }
        }
        (None, Some((high, itself))) if high <= 0.0 => {
            let at = (high / unit).floor() * unit;
            if at < high || itself { at } else { at - unit }
        }
        (None, Some(_) | None) => 0.0,
    };
    let fits = |value: f64| {
        high.is_none_or(|(high, itself)| value < high || (itself && value == high))
            && low.is_none_or(|(low, itself)| value > low || (itself && value == low))
    };
    let mut value = first + unit * n as f64;
    if !fits(value) {
        // Narrow bounds leave no room for a step: the middle of them fits a number that is no multiple.
        value = match (low, high, step, whole) {
            (Some((low, _)), Some((high, _)), None, false) => low + (high - low) / (n as f64 + 2.0),
            _ => first,
        };
    }
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Some(Value::from(value as i64));
    }
    serde_json::Number::from_f64(value).map(Value::Number)
}

/// A text of the form that is asked for.
fn text(words: &Map<String, Value>, n: u64) -> Option<String> {
    let number = |name: &str| words.get(name).and_then(Value::as_u64);
    let (least, most) = (number("minLength").unwrap_or(0), number("maxLength").unwrap_or(u64::MAX));
    if least > LENGTH_MAX {
        return None;
    }
    let mut made = match (words.get("format").and_then(Value::as_str), words.get("pattern").and_then(Value::as_str)) {
        (Some(format), None) if formed(format, n).is_some() => return formed(format, n),
        (_, Some(pattern)) => return pattern_text(pattern, least, n),
        (_, None) if n == 0 => "text".to_owned(),
        (_, None) => format!("text{n}"),
    };
    while (made.chars().count() as u64) < least {
        made.push('x');
    }
    if made.chars().count() as u64 > most {
        let tail = made.chars().rev().take(usize::try_from(most).unwrap_or(0)).collect::<Vec<_>>();
        made = tail.into_iter().rev().collect();
    }
    Some(made)
}

/// A text of a format.
fn formed(format: &str, n: u64) -> Option<String> {
    let day = n % 28 + 1;
    Some(match format {
        "date-time" => format!("2026-01-{day:02}T12:00:00Z"),
        "date" => format!("2026-01-{day:02}"),
        "time" => format!("12:{:02}:00Z", n % 60),
        "duration" => format!("P{}D", n + 1),
        "email" | "idn-email" => format!("person{n}@example.org"),
        "hostname" | "idn-hostname" => format!("host{n}.example.org"),
        "ipv4" => format!("192.0.2.{}", n % 254 + 1),
        "ipv6" => format!("2001:db8::{:x}", n % 65_000 + 1),
        "uuid" => format!("0190a000-0000-7000-8000-{n:012x}"),
        "uri" | "iri" => format!("https://example.org/{n}"),
        "uri-reference" | "iri-reference" => format!("/{n}"),
        "uri-template" => format!("/{n}/{{id}}"),
        "json-pointer" => format!("/{n}"),
        "relative-json-pointer" => format!("{n}"),
        "regex" => format!("^{n}$"),
        _ => return None,
    })
}

/// A text that a pattern matches: the shortest the pattern's parts allow, repeated until it is long enough.
fn pattern_text(pattern: &str, least: u64, n: u64) -> Option<String> {
    let parsed = regex_syntax::Parser::new().parse(pattern).ok()?;
    for extra in 0..=least.min(LENGTH_MAX) as u32 {
        let mut out = String::new();
        write(&parsed, extra, n, &mut out)?;
        if out.chars().count() as u64 >= least {
            return Some(out);
        }
    }
    // A pattern that is not tied to the end leaves room for more.
    let mut out = String::new();
    write(&parsed, 0, n, &mut out)?;
    while (out.chars().count() as u64) < least {
        out.push('x');
    }
    Some(out)
}

/// Writes what the expression matches; what may be repeated is so `extra` times more than it must.
fn write(expression: &regex_syntax::hir::Hir, extra: u32, n: u64, out: &mut String) -> Option<()> {
    use regex_syntax::hir::{Class, HirKind};
    if out.len() > LENGTH_MAX as usize * 4 {
        return None;
    }
    match expression.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(Class::Unicode(class)) => out.push(readable(class, n)?),
        HirKind::Class(Class::Bytes(class)) => out.push(char::from(class.ranges().first()?.start())),
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(u32::MAX);
            for _ in 0..repetition.min.saturating_add(extra).min(most) {
                write(&repetition.sub, extra, n, out)?;
            }
        }
        HirKind::Capture(capture) => write(&capture.sub, extra, n, out)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, extra, n, out))?,
        HirKind::Alternation(branches) => write(branches.get(n as usize % branches.len())?, extra, n, out)?,
    }
    Some(())
}

/// A character of the class, a letter or a digit when it has one.
fn readable(class: &regex_syntax::hir::ClassUnicode, n: u64) -> Option<char> {
    let holds = |wanted: char| class.ranges().iter().any(|range| range.start() <= wanted && wanted <= range.end());
    let known: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').filter(|one| holds(*one)).collect();
    match known.len() {
        0 => class.ranges().first().map(|range| range.start()),
        count => known.get(n as usize % count).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(schema: Value) -> Option<Value> {
        specimen(&Compiled::new(schema).expect("a schema"))
    }

    #[test]
    fn a_specimen_fits_the_schema_it_was_made_of_and_is_always_the_same() {
        let formats = [
            "date-time",
            "date",
            "time",
            "duration",
            "email",
            "idn-email",
            "hostname",
            "ipv4",
            "ipv6",
            "uuid",
            "uri",
            "iri",
            "uri-reference",
            "iri-reference",
            "uri-template",
            "json-pointer",
            "relative-json-pointer",
            "regex",
        ];
        let mut schemas: Vec<Value> =
            formats.iter().map(|format| json!({"type": "string", "format": format})).collect();
        schemas.extend([
            json!(true),
            json!({}),
            json!({"const": {"a": 1}}),
            json!({"enum": [3, "x"]}),
            json!({"type": ["null", "integer"], "minimum": 5}),
            json!({"type": "null"}),
            json!({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1.25}),
            json!({"type": "number", "maximum": -3.5}),
            json!({"type": "integer", "multipleOf": 7, "minimum": 8}),
            json!({"type": "integer", "exclusiveMaximum": 0}),
            json!({"type": "string", "minLength": 40, "maxLength": 41}),
            json!({"type": "string", "maxLength": 2}),
            json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4,}$"}),
            json!({"type": "string", "pattern": "^(foo|bar)+$", "minLength": 9}),
            json!({"type": "string", "pattern": "^inv_[0-9a-f]{8}$"}),
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": true}),
            json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false}),
            json!({"type": "array", "contains": {"const": 5}, "minContains": 2, "items": {"type": "integer"}}),
            json!({"type": "object", "required": ["a", "z"], "properties": {"a": {"type": "string"}}, "minProperties": 4}),
            json!({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["c"], "maxProperties": 2}),
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "dependentRequired": {"a": ["b"]}}),
            json!({"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "integer", "minimum": 3}}}]}),
            json!({"oneOf": [{"type": "string", "minLength": 3}, {"type": "integer"}]}),
            json!({"$ref": "#/$defs/money", "$defs": {"money": {"type": "object", "required": ["amount"],
                "properties": {"amount": {"type": "integer"}, "currency": {"enum": ["EUR", "USD"]}}}}}),
            json!({"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#"}}, "required": ["name"]}),
            json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}),
            json!({"type": "object", "properties": {"kind": {"const": "a"}}, "if": {"properties": {"kind": {"const": "a"}}}, "then": {"required": ["kind", "x"]}}),
            json!({"type": "string", "examples": ["given"]}),
        ]);
        for schema in schemas {
            let compiled = Compiled::new(schema.clone()).expect("a schema");
            let one = specimen(&compiled);
            assert!(one.as_ref().is_some_and(|value| compiled.fits(value)), "{schema} gave {one:?}");
            assert_eq!(one, specimen(&compiled), "{schema}");
        }
    }

    #[test]
    fn what_no_data_fits_has_no_specimen() {
        for schema in [
            json!(false),
            json!({"type": "integer", "minimum": 5, "maximum": 4}),
            json!({"allOf": [{"type": "string"}, {"type": "integer"}]}),
            json!({"type": "object", "required": ["n"], "properties": {"n": {"$ref": "#"}}}),
            json!({"type": "array", "minItems": 100_000}),
        ] {
            assert_eq!(made(schema.clone()), None, "{schema}");
        }
    }

    #[test]
    fn a_specimen_shows_what_may_be_there() {
        let value = made(json!({"type": "object", "properties": {
            "id": {"type": "string", "format": "uuid"}, "lines": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}},
        }}));
        let wanted = json!({"id": "0190a000-0000-7000-8000-000000000000", "lines": [{"n": 1}]});
        assert_eq!(value, Some(wanted));
    }
}
