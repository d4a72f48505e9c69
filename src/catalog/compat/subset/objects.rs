//! What objects must and may have.

use regex::Regex;
use serde_json::{Map, Value};

use super::super::node::Node;
use super::{Places, Side, TRUE, VALUE_CHARS_MAX, Walk};
use crate::catalog::schema::walk::join;
use crate::ground::limits::clip;

impl Walk<'_> {
    pub(super) fn objects(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>) {
        let required = |node: &Node<'_>| -> Vec<String> {
            let names = node.word("required").and_then(Value::as_array).into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let theirs = required(writer);
        for name in required(reader).iter().filter(|name| !theirs.contains(name)) {
            let name = clip(name, VALUE_CHARS_MAX);
            let reason = self.by(
                format!("`{name}` became required"),
                format!("`{name}` is no longer required, and the older version requires it"),
            );
            self.lack(places, "/required", true, reason);
        }
        self.dependent(places, reader, writer, &theirs);
        self.properties(places, reader, writer);
        self.word(places, reader, writer, &["propertyNames"]);
        self.word(places, reader, writer, &["dependentSchemas"]);
        self.closing(places, reader, "unevaluatedProperties");
    }

    fn dependent(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>, required: &[String]) {
        let Some(own) = reader.word("dependentRequired").and_then(Value::as_object) else { return };
        let theirs = writer.word("dependentRequired").and_then(Value::as_object);
        for (name, wanted) in own {
            let given = theirs.and_then(|theirs| theirs.get(name)).and_then(Value::as_array);
            let missing = wanted.as_array().into_iter().flatten().find(|one| {
                let named = one.as_str().is_some_and(|one| required.iter().any(|other| other == one));
                !named && !given.is_some_and(|given| given.contains(one))
            });
            if let Some(missing) = missing {
                let reason = format!("{missing} beside `{}` is required by one version alone", clip(name, 80));
                self.lack(places, "/dependentRequired", true, reason);
            }
        }
    }

    fn properties(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>) {
        let (own, theirs) = (Members::of(reader), Members::of(writer));
        let (Some(own), Some(theirs)) = (own, theirs) else {
            self.lack(places, "/patternProperties", false, "cannot be judged: a pattern that is not understood");
            return;
        };
        let named: Vec<&String> =
            own.named.keys().chain(theirs.named.keys().filter(|name| !own.named.contains_key(*name))).collect();
        for name in named {
            let place = join("/properties", name);
            for (their_place, written) in theirs.rules(name) {
                // What is not declared is not written, unless the schema says what else there is.
                if their_place.is_none() && written == TRUE || written == &Value::Bool(false) {
                    continue;
                }
                for (own_place, read) in own.rules(name) {
                    if read == &Value::Bool(false) && own_place.is_none() {
                        let name = clip(name, VALUE_CHARS_MAX);
                        let reason = self.by(
                            format!("the property `{name}` is no longer allowed"),
                            format!("the property `{name}` is new, and the older version allows no further properties"),
                        );
                        self.lack(places, &place, true, reason);
                        continue;
                    }
                    let own_at =
                        format!("{}{}", places.reader, own_place.as_deref().unwrap_or("/additionalProperties"));
                    let their_at =
                        format!("{}{}", places.writer, their_place.as_deref().unwrap_or("/additionalProperties"));
                    self.compare(Side { at: &own_at, schema: read }, Side { at: &their_at, schema: written });
                }
            }
        }
        self.further(places, &own, &theirs);
    }

    /// Properties that neither names.
    fn further(&mut self, places: &Places<'_>, own: &Members<'_>, theirs: &Members<'_>) {
        for (pattern, _, read) in &own.patterns {
            let at = join("/patternProperties", pattern);
            let same = theirs.patterns.iter().find(|(other, _, _)| other == pattern);
            match same {
                Some((_, _, written)) => self.compare(
                    Side { at: &format!("{}{at}", places.reader), schema: read },
                    Side { at: &format!("{}{at}", places.writer), schema: written },
                ),
                None if theirs.patterns.is_empty() && matches!(theirs.rest, Value::Bool(_)) => {}
                None => self.lack(places, &at, false, "cannot be judged: the pattern of properties changed"),
            }
        }
        let gone =
            theirs.patterns.iter().find(|(pattern, _, _)| !own.patterns.iter().any(|(one, _, _)| one == pattern));
        if let (Some((pattern, _, _)), true) = (gone, own.rest != TRUE || !own.patterns.is_empty()) {
            let at = join("/patternProperties", pattern);
            self.lack(places, &at, false, "cannot be judged: the pattern of properties changed");
        }
        match (own.rest, theirs.rest) {
            (Value::Bool(false), rest) if rest != &Value::Bool(false) => {
                let reason = self.by("further properties are no longer allowed", "further properties became allowed");
                self.lack(places, "/additionalProperties", true, reason);
            }
            (read, written) => {
                let (own_at, their_at) = (
                    format!("{}/additionalProperties", places.reader),
                    format!("{}/additionalProperties", places.writer),
                );
                self.compare(Side { at: &own_at, schema: read }, Side { at: &their_at, schema: written });
            }
        }
    }
}

/// What an object may have.
struct Members<'n> {
    named: std::borrow::Cow<'n, Map<String, Value>>,
    patterns: Vec<(&'n str, Regex, &'n Value)>,
    rest: &'n Value,
}

impl<'n> Members<'n> {
    /// None when a pattern is not understood.
    fn of(node: &'n Node<'_>) -> Option<Self> {
        let map = |word: &str| node.word(word).and_then(Value::as_object);
        let named = match map("properties") {
            Some(named) => std::borrow::Cow::Borrowed(named),
            None => std::borrow::Cow::Owned(Map::new()),
        };
        let mut patterns = Vec::new();
        for (pattern, schema) in map("patternProperties").into_iter().flatten() {
            patterns.push((pattern.as_str(), Regex::new(pattern).ok()?, schema));
        }
        Some(Self { named, patterns, rest: node.word("additionalProperties").unwrap_or(TRUE) })
    }

    /// What holds for a property of this name, with its place; no place for what is not declared.
    fn rules(&self, name: &str) -> Vec<(Option<String>, &Value)> {
        let named = self.named.get(name).map(|schema| (Some(join("/properties", name)), schema));
        let matching = self.patterns.iter().filter(|(_, pattern, _)| pattern.is_match(name));
        let mut rules: Vec<_> = named.into_iter().collect();
        rules.extend(matching.map(|(pattern, _, schema)| (Some(join("/patternProperties", pattern)), *schema)));
        if rules.is_empty() {
            rules.push((None, self.rest));
        }
        rules
    }
}
