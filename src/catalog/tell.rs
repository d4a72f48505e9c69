//! What is told of the catalog: types as JSON, specimens and samples, the contract of a service, the page for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::record::VersionState;
use super::schema::walk::{Document, children};
use super::snapshot::{Snapshot, TypeEntry, Version};
use super::specimen::specimen;
use crate::bulk::CONTRACT_VERSION;
use crate::ground::limits::clip;

/// Fields that a contract lists of one version.
const FIELDS_MAX: usize = 500;
/// Deepest field that a contract lists.
const FIELD_DEPTH_MAX: usize = 12;
/// Schemas looked at for the fields of one version.
const SCHEMAS_MAX: usize = 5_000;

/// The types that count for an org; all there are when none is named.
pub fn visible<'a>(snapshot: &'a Snapshot, org: Option<&'a str>) -> impl Iterator<Item = &'a Arc<TypeEntry>> {
    snapshot.all().filter(move |entry| match (org, &entry.record.org) {
        (None, _) => true,
        (Some(org), Some(own)) => org == own,
        (Some(org), None) => snapshot.declared(Some(org), &entry.record.name).is_none(),
    })
}

/// A type with its versions, as clients see it.
#[must_use]
pub fn of_type(entry: &TypeEntry) -> Value {
    let mut json = entry.record.to_json();
    json["versions"] = entry.versions.iter().map(|version| version.record.summary()).collect();
    json["newest_version"] = entry.newest().map(|version| version.record.version.as_str()).into();
    json["sample"] = entry.record.sample.clone().unwrap_or_default();
    json
}

/// The specimens that were given, and one made of each version in use that has none.
#[must_use]
pub fn specimens(entry: &TypeEntry) -> Vec<Value> {
    let given = entry
        .record
        .specimens
        .iter()
        .map(|one| json!({ "name": one.name, "version": one.version, "data": one.data, "generated": false }));
    let newest = entry.newest().map(|version| version.record.version.as_str());
    let has = |version: &Version| {
        let name = Some(version.record.version.as_str());
        entry
            .record
            .specimens
            .iter()
            .any(|one| one.version.as_deref() == name || (one.version.is_none() && name == newest))
    };
    let made = entry.versions.iter().filter(|version| version.record.state != VersionState::Retired && !has(version));
    let made = made.filter_map(|version| {
        let data = specimen(version.compiled()?)?;
        let name = &version.record.version;
        Some(json!({ "name": format!("generated-{name}"), "version": name, "data": data, "generated": true }))
    });
    given.chain(made).collect()
}

/// A whole event as a `CloudEvent`: the one given, or one made of a specimen of the newest version.
#[must_use]
pub fn sample(entry: &TypeEntry) -> Value {
    if let Some(sample) = &entry.record.sample {
        return sample.clone();
    }
    let record = &entry.record;
    let newest = entry.newest();
    let version = newest.map(|version| version.record.version.clone());
    let given = record.specimens.iter().find(|one| one.version == version || one.version.is_none());
    let data = match (given, newest) {
        (Some(given), _) => Some(given.data.clone()),
        (None, Some(newest)) => newest.compiled().and_then(specimen),
        (None, None) => None,
    };
    let mut out = json!({
        "specversion": "1.0",
        "id": "sample-1",
        "source": record.service.as_deref().unwrap_or("sample"),
        "type": record.name,
        "time": record.created.at.to_rfc3339(),
        "datacontenttype": "application/json",
    });
    if let Some(version) = version {
        out["schemaversion"] = Value::from(version);
    }
    if let Some(data) = data {
        out["data"] = data;
    }
    out
}

/// The fields that a schema declares: pointer into the data, types, whether each is required.
#[must_use]
pub fn fields(schema: &Value) -> Vec<Value> {
    let mut gatherer =
        Gatherer { document: Document::new(schema), left: SCHEMAS_MAX, seen: BTreeSet::new(), out: Vec::new() };
    gatherer.gather(schema, "", false, 0);
    gatherer.out
}

struct Gatherer<'a> {
    document: Document<'a>,
    /// Schemas that may still be looked at: one within itself has no end.
    left: usize,
    seen: BTreeSet<String>,
    out: Vec<Value>,
}

impl Gatherer<'_> {
    fn gather(&mut self, schema: &Value, pointer: &str, required: bool, depth: usize) {
        let Some(map) = schema.as_object() else { return };
        if depth > FIELD_DEPTH_MAX || self.out.len() >= FIELDS_MAX || self.left == 0 {
            return;
        }
        self.left -= 1;
        let target = map.get("$ref").and_then(Value::as_str).and_then(|reference| self.document.resolve(reference));
        if let Some((_, target)) = target {
            self.gather(target, pointer, required, depth + 1);
        }
        let said = ["type", "enum", "const", "format"].iter().any(|word| map.contains_key(*word));
        if !pointer.is_empty() && said && self.seen.insert(pointer.to_owned()) {
            self.out.push(field(map, pointer, required));
        }
        let names: Vec<&str> =
            map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (place, child) in children(map, "") {
            let mut parts = place.split('/').skip(1);
            match (parts.next(), parts.next()) {
                (Some("properties"), Some(name)) => {
                    let plain = name.replace("~1", "/").replace("~0", "~");
                    let inner = format!("{pointer}/{name}");
                    self.gather(child, &inner, names.contains(&plain.as_str()), depth + 1);
                }
                (Some("items" | "additionalProperties"), None) => {
                    self.gather(child, &format!("{pointer}/*"), false, depth + 1);
                }
                (Some("prefixItems"), Some(at)) => self.gather(child, &format!("{pointer}/{at}"), false, depth + 1),
                (Some("allOf"), Some(_)) => self.gather(child, pointer, required, depth + 1),
                (Some("anyOf" | "oneOf"), Some(_)) => self.gather(child, pointer, false, depth + 1),
                (_, _) => {}
            }
        }
    }
}

fn field(map: &serde_json::Map<String, Value>, pointer: &str, required: bool) -> Value {
    let types = match map.get("type") {
        Some(Value::String(kind)) => vec![Value::from(kind.as_str())],
        Some(Value::Array(kinds)) => kinds.clone(),
        Some(_) | None => Vec::new(),
    };
    let mut field = json!({ "pointer": pointer, "types": types, "required": required });
    for word in ["format", "description", "enum", "const"] {
        if let Some(value) = map.get(word) {
            field[word] = value.clone();
        }
    }
    field
}

/// The services that types name, with how many each has.
#[must_use]
pub fn services(snapshot: &Snapshot, org: Option<&str>) -> Value {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in visible(snapshot, org) {
        if let Some(service) = &entry.record.service {
            *counts.entry(service).or_default() += 1;
        }
    }
    let items: Vec<Value> =
        counts.into_iter().map(|(service, types)| json!({ "service": service, "types": types })).collect();
    json!({ "services": items })
}

/// What a service's events are for whoever reads exports and feeds (BLK-4).
#[must_use]
pub fn contract(snapshot: &Snapshot, service: &str, org: Option<&str>) -> Option<Value> {
    let mut entries: Vec<&Arc<TypeEntry>> =
        visible(snapshot, org).filter(|entry| entry.record.service.as_deref() == Some(service)).collect();
    if entries.is_empty() {
        return None;
    }
    entries.sort_by(|a, b| (&a.record.name, &a.record.org).cmp(&(&b.record.name, &b.record.org)));
    let types: Vec<Value> = entries.into_iter().map(|entry| contract_of(entry)).collect();
    Some(json!({
        "contract": "tidegate.export",
        "contract_version": CONTRACT_VERSION,
        "service": service,
        "org": org,
        "event_types": types,
        "pagination": {
            "order": "seq ascending: the order of the log",
            "feed": "/v1/cdc",
            "cursor": "opaque; `next_cursor` of one page begins the next, and stays good for as long as the log keeps the place",
            "limit_default": 100,
            "limit_max": 1_000,
            "delivery": "at least once: tell events apart by `id`",
        },
    }))
}

fn contract_of(entry: &TypeEntry) -> Value {
    let record = &entry.record;
    let versions: Vec<Value> = entry
        .versions
        .iter()
        .map(|version| {
            let schema: Value = serde_json::from_str(&version.record.schema).unwrap_or_default();
            json!({
                "version": version.record.version,
                "state": version.record.state,
                "fields": fields(&schema),
                "schema": schema,
            })
        })
        .collect();
    json!({
        "type": record.name,
        "org": record.org,
        "description": record.description,
        "owner": record.owner,
        "lifecycle": record.lifecycle,
        "compatibility": record.compatibility,
        "newest_version": entry.newest().map(|version| version.record.version.as_str()),
        "schema_versions": versions,
        "redactions": record.redactions,
    })
}

/// A text that stands for itself within HTML, in text and in attributes.
fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// The catalog as a page for people: plain HTML without a script.
#[must_use]
pub fn page(snapshot: &Snapshot, org: Option<&str>) -> String {
    let mut entries: Vec<&Arc<TypeEntry>> = visible(snapshot, org).collect();
    entries.sort_by(|a, b| (&a.record.name, &a.record.org).cmp(&(&b.record.name, &b.record.org)));
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Event catalog</title>\n</head>\n<body>\n<h1>Event catalog</h1>\n",
    );
    let whose = org.map_or_else(|| "all orgs".to_owned(), |org| format!("org {}", html(org)));
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("<p>{} event types, {whose}.</p>", entries.len()));
    line("<table>\n<thead><tr><th>Type</th><th>Org</th><th>Service</th><th>Owner</th><th>Lifecycle</th><th>Versions</th><th>Hidden</th><th>Description</th></tr></thead>\n<tbody>".to_owned());
    for entry in entries {
        line(row(entry));
    }
    line("</tbody>\n</table>\n</body>\n</html>".to_owned());
    out
}

fn row(entry: &TypeEntry) -> String {
    let record = &entry.record;
    let text = |text: Option<&str>| html(text.unwrap_or("–"));
    let mut versions = String::new();
    for version in &entry.versions {
        // A text can always be written to.
        write!(versions, "{} ({}) ", html(&version.record.version), version.record.state.as_str()).ok();
    }
    let mut hidden = String::new();
    for rule in &record.redactions {
        write!(hidden, "{} ({}) ", html(&rule.path), rule.action.as_str()).ok();
    }
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        html(&record.name),
        record.org.as_deref().map_or_else(|| "every org".to_owned(), html),
        text(record.service.as_deref()),
        text(record.owner.as_deref()),
        record.lifecycle.as_str(),
        versions.trim_end(),
        hidden.trim_end(),
        text(record.description.as_deref().map(|text| clip(text, 500))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::record::TypeRecord;
    use crate::event::redact::RedactionKey;
    use crate::ground::secret::Sealer;

    fn entry(org: Option<&str>, name: &str, said: &Value) -> TypeEntry {
        let mut record =
            json!({"name": name, "org": org, "created": {"by": "a", "at": 0}, "updated": {"by": "a", "at": 0}});
        for (name, value) in said.as_object().expect("an object") {
            record[name] = value.clone();
        }
        let record: TypeRecord = serde_json::from_value(record).expect("a record");
        TypeEntry::new(record, 1, Vec::new(), &RedactionKey::of(&Sealer::new(&[7; 32])))
    }

    #[test]
    fn nothing_that_was_said_becomes_markup() {
        let mut snapshot = Snapshot::default();
        let nasty = "<script>alert('1')</script> & \"x\"";
        snapshot.put(entry(Some("a<b"), "a.b", &json!({"owner": nasty, "service": nasty, "description": nasty})));
        let page = page(&snapshot, None);
        assert!(!page.contains("<script") && !page.contains("a<b"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;").count(), 3);
    }

    #[test]
    fn an_org_sees_its_own_and_what_is_for_every_org_and_not_replaced() {
        let mut snapshot = Snapshot::default();
        for (org, name) in [(None, "a.b"), (None, "a.c"), (Some("acme"), "a.b"), (Some("globex"), "a.d")] {
            snapshot.put(entry(org, name, &json!({})));
        }
        let seen = |org: Option<&str>| {
            let mut seen: Vec<_> = visible(&snapshot, org)
                .map(|entry| format!("{}:{}", entry.record.org.as_deref().unwrap_or(""), entry.record.name))
                .collect();
            seen.sort();
            seen
        };
        assert_eq!(seen(Some("acme")), [":a.c", "acme:a.b"]);
        assert_eq!(seen(Some("globex")), [":a.b", ":a.c", "globex:a.d"]);
        assert_eq!(seen(None).len(), 4);
    }

    #[test]
    fn the_fields_of_a_schema_are_told_with_their_place() {
        let schema = json!({
            "type": "object", "required": ["id", "a/b"],
            "properties": {
                "id": {"type": "string", "format": "uuid"},
                "a/b": {"enum": [1, 2]},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
                "next": {"$ref": "#"},
            },
            "$defs": {"line": {"type": "object", "required": ["n"], "properties": {"n": {"type": ["integer", "null"]}}}},
        });
        let fields = fields(&schema);
        let of = |pointer: &str| fields.iter().find(|field| field["pointer"] == pointer).cloned().unwrap_or_default();
        assert_eq!(of("/id"), json!({"pointer": "/id", "types": ["string"], "required": true, "format": "uuid"}));
        assert_eq!(of("/a~1b")["required"], true);
        assert_eq!(of("/lines/*/n"), json!({"pointer": "/lines/*/n", "types": ["integer", "null"], "required": true}));
        assert!(fields.len() <= FIELDS_MAX, "{}", fields.len());
    }
}
