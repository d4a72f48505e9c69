//! Walking two schemas side by side: where does the reader allow less than the writer?

use std::collections::HashSet;

use regex::Regex;
use serde_json::{Map, Value};

use super::bounds::{Kinds, Tighter, kinds, tightened, values};
use super::node::{Node, Placed, bare, both, read, refers};
use super::{Breaks, CHANGES_LISTED_MAX, Change};
use crate::catalog::schema::walk::{Document, join, visit};
use crate::ground::limits::clip;

/// Pairs of schemas that one comparison looks at.
const PAIRS_MAX: usize = 5_000;
/// Deepest nesting of pairs.
const DEPTH_MAX: usize = 100;
/// Characters of a value in a reason.
const VALUE_CHARS_MAX: usize = 80;

/// Everywhere the reader allows less than the writer.
pub(super) fn lacks(breaks: Breaks, reader: &Value, writer: &Value) -> Vec<Change> {
    if reader == writer {
        return Vec::new();
    }
    let mut walk = Walk {
        breaks,
        reader: Document::new(reader),
        writer: Document::new(writer),
        same_definitions: same_definitions(reader, writer),
        pairs: 0,
        depth: 0,
        met: HashSet::new(),
        out: Vec::new(),
    };
    walk.compare(Side { at: "", schema: reader }, Side { at: "", schema: writer });
    walk.out
}

/// Whether the named schemas of both are the same and every reference leads to one of them: then the same words mean the
/// same, references and all.
fn same_definitions(a: &Value, b: &Value) -> bool {
    let leads_there = |root: &Value| {
        let mut all = true;
        visit(root, |_, part| {
            let reference = part.get("$ref").and_then(Value::as_str);
            all &= reference.is_none_or(|one| one.starts_with("#/$defs/") || one.starts_with("#/definitions/"));
            all &= part.get("$dynamicRef").is_none();
        });
        all
    };
    let same = |name: &str| a.get(name) == b.get(name);
    same("$defs") && same("definitions") && leads_there(a) && leads_there(b)
}

/// A schema with its place.
#[derive(Clone, Copy)]
struct Side<'a> {
    at: &'a str,
    schema: &'a Value,
}

/// The places of a pair.
struct Places<'a> {
    reader: &'a str,
    writer: &'a str,
}

struct Walk<'a> {
    breaks: Breaks,
    reader: Document<'a>,
    writer: Document<'a>,
    same_definitions: bool,
    pairs: usize,
    depth: usize,
    /// Pairs of places that have been compared or are being compared.
    met: HashSet<(String, String)>,
    out: Vec<Change>,
}

const TRUE: &Value = &Value::Bool(true);

impl Walk<'_> {
    /// Notes that the reader allows less, at this word.
    fn lack(&mut self, places: &Places<'_>, word: &str, certain: bool, reason: impl Into<String>) {
        let at = match self.breaks {
            Breaks::Backward => places.reader,
            Breaks::Forward => places.writer,
        };
        if self.out.len() < CHANGES_LISTED_MAX {
            let pointer = format!("{at}{word}");
            let change = Change { breaks: self.breaks, pointer, reason: reason.into(), certain };
            if !self.out.contains(&change) {
                self.out.push(change);
            }
        }
    }

    /// "from what the old version says to what the new one says".
    fn change(&self, reader: &str, writer: &str) -> String {
        match self.breaks {
            Breaks::Backward => format!("from {writer} to {reader}"),
            Breaks::Forward => format!("from {reader} to {writer}"),
        }
    }

    /// One text for each direction.
    fn by(&self, backward: impl Into<String>, forward: impl Into<String>) -> String {
        match self.breaks {
            Breaks::Backward => backward.into(),
            Breaks::Forward => forward.into(),
        }
    }

    /// Whether two words say the same.
    fn same(&self, a: Option<&Value>, b: Option<&Value>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (self.same_definitions || !(refers(a) || refers(b))) && bare(a) == bare(b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// What the reader would lack, without noting it.
    fn trial(&mut self, reader: Side<'_>, writer: Side<'_>) -> bool {
        let (out, met) = (std::mem::take(&mut self.out), self.met.clone());
        self.compare(reader, writer);
        let fits = self.out.is_empty();
        (self.out, self.met) = (out, met);
        fits
    }

    fn compare(&mut self, reader: Side<'_>, writer: Side<'_>) {
        let places = Places { reader: reader.at, writer: writer.at };
        self.pairs += 1;
        if self.pairs > PAIRS_MAX || self.depth >= DEPTH_MAX {
            self.lack(&places, "", false, "cannot be judged: the schemas are too large to compare");
            return;
        }
        if self.same(Some(reader.schema), Some(writer.schema)) {
            return;
        }
        let own = read(&self.reader, reader.at, reader.schema);
        let theirs = read(&self.writer, writer.at, writer.schema);
        // Only a reference leads back to where one was.
        let led = own.at != reader.at || theirs.at != writer.at;
        if led && !self.met.insert((own.at.clone(), theirs.at.clone())) {
            return;
        }
        self.depth += 1;
        self.nodes(&own, &theirs);
        self.depth -= 1;
    }

    fn nodes(&mut self, own: &Placed<'_>, theirs: &Placed<'_>) {
        let places = Places { reader: &own.at, writer: &theirs.at };
        let (reader, writer) = (&own.node, &theirs.node);
        if matches!(reader, Node::Anything) || matches!(writer, Node::Nothing) {
            return;
        }
        if matches!(reader, Node::Nothing) {
            let reason = self.by("nothing is allowed here any more", "something is allowed here that was not");
            self.lack(&places, "", true, reason);
            return;
        }
        if let Node::Words(words) = writer {
            if self.fits_a_part(own, words, &theirs.at) {
                return;
            }
            for word in ["anyOf", "oneOf"] {
                if let Some(branches) = words.get(word).and_then(Value::as_array) {
                    let mut rest = Map::clone(words);
                    rest.remove(word);
                    if self.same(reader.word(word), words.get(word)) {
                        self.without(own, word, &Value::Object(rest), &theirs.at);
                    } else {
                        self.each_branch(own, branches, &rest, &theirs.at, word);
                    }
                    return;
                }
            }
        }
        if let Some(listed) = values(writer) {
            self.listed(&places, reader, writer, &listed);
            return;
        }
        if values(reader).is_some() {
            let reason = self.by("the values are now limited to a list", "the values are no longer limited to a list");
            let word = if reader.word("const").is_some() { "/const" } else { "/enum" };
            self.lack(&places, word, true, reason);
            return;
        }
        let common = self.types(&places, reader, writer);
        for Tighter { word, reader, writer } in tightened(reader, writer, common) {
            let reason = format!("`{word}` changed {}", self.change(&reader, &writer));
            self.lack(&places, &format!("/{word}"), true, reason);
        }
        if common.has("string") {
            for word in ["pattern", "format"] {
                self.word(&places, reader, writer, &[word]);
            }
        }
        if common.has("array") {
            self.arrays(&places, reader, writer);
        }
        if common.has("object") {
            self.objects(&places, reader, writer);
        }
        self.conditions(own, theirs, common);
    }

    /// The writer must fit each of its `allOf`: when one of them alone fits the reader, all is well.
    fn fits_a_part(&mut self, own: &Placed<'_>, words: &Map<String, Value>, at: &str) -> bool {
        let Some(parts) = words.get("allOf").and_then(Value::as_array) else { return false };
        let reader = self.as_value(&own.node);
        parts.iter().any(|part| {
            let (reader, writer) = (Side { at: &own.at, schema: &reader }, Side { at, schema: part });
            self.trial(reader, writer)
        })
    }

    fn as_value(&self, node: &Node<'_>) -> Value {
        match node {
            Node::Anything => Value::Bool(true),
            Node::Nothing => Value::Bool(false),
            Node::Words(words) => Value::Object(Map::clone(words)),
        }
    }

    /// A word that both have alike is left out of the comparison.
    fn without(&mut self, own: &Placed<'_>, word: &str, writer: &Value, at: &str) {
        let mut reader = self.as_value(&own.node);
        if let Some(words) = reader.as_object_mut() {
            words.remove(word);
        }
        self.compare(Side { at: &own.at, schema: &reader }, Side { at, schema: writer });
    }

    /// The reader must take whatever fits a branch of the writer.
    fn each_branch(&mut self, own: &Placed<'_>, branches: &[Value], rest: &Map<String, Value>, at: &str, word: &str) {
        let reader = self.as_value(&own.node);
        for (n, branch) in branches.iter().enumerate() {
            let place = format!("{at}/{word}/{n}");
            let followed = read(&self.writer, &place, branch);
            let whole = match &followed.node {
                Node::Nothing => continue,
                Node::Anything => Value::Object(rest.clone()),
                // What cannot be put together with the rest is looked at by itself, which asks for more than it must.
                Node::Words(words) => Value::Object(both(rest, words).unwrap_or_else(|| Map::clone(words))),
            };
            self.compare(Side { at: &own.at, schema: &reader }, Side { at: &place, schema: &whole });
        }
    }

    fn listed(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>, listed: &[Value]) {
        let allowed = kinds(writer);
        let own = self.as_value(reader);
        let known = values(reader);
        // A schema that refers elsewhere cannot be tried by itself.
        let tried = if refers(&own) { None } else { super::super::schema::Compiled::new(bare(&own)).ok() };
        for value in listed.iter().filter(|value| !allowed.and(Kinds::of_value(value)).is_empty()) {
            let (fits, certain) = match (&known, &tried) {
                (_, Some(schema)) => (schema.fits(value), true),
                (Some(known), None) => (known.contains(value), true),
                (None, None) => (false, false),
            };
            if fits {
                continue;
            }
            let text = value.to_string();
            let text = clip(&text, VALUE_CHARS_MAX);
            let reason = match (certain, known.is_some()) {
                (false, _) => format!("cannot be judged: whether {text} is allowed"),
                (true, true) => self.by(
                    format!("the value {text} is no longer allowed"),
                    format!("the value {text} is new, and the older version does not allow it"),
                ),
                (true, false) => format!("the value {text} does not fit both versions"),
            };
            let word = if known.is_some() || self.breaks == Breaks::Forward { "/enum" } else { "" };
            self.lack(places, word, certain, reason);
        }
    }

    /// Compares the types; gives those that both allow.
    fn types(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>) -> Kinds {
        let (own, theirs) = (kinds(reader), kinds(writer));
        let lost = theirs.without(own);
        if !lost.is_empty() {
            let reason = format!("the type changed {}", self.change(&own.names(), &theirs.names()));
            self.lack(places, "/type", true, reason);
        }
        own.and(theirs)
    }

    /// Words that cannot be compared by what they say: alike, or absent at the reader, is fine.
    fn word(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>, words: &[&str]) {
        let Some(name) = words.iter().find(|name| reader.word(name).is_some()) else { return };
        if words.iter().all(|name| self.same(reader.word(name), writer.word(name))) {
            return;
        }
        let place = format!("/{name}");
        if words.iter().all(|name| writer.word(name).is_none()) {
            let reason = self.by(format!("`{name}` was added"), format!("`{name}` was taken away"));
            self.lack(places, &place, true, reason);
        } else {
            self.lack(places, &place, false, format!("cannot be judged: `{name}` changed"));
        }
    }

    fn arrays(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>) {
        let unique = |node: &Node<'_>| node.word("uniqueItems") == Some(TRUE);
        if unique(reader) && !unique(writer) {
            let reason = self.by("items must now be unique", "items need no longer be unique");
            self.lack(places, "/uniqueItems", true, reason);
        }
        fn first<'n>(node: &'n Node<'_>) -> &'n [Value] {
            node.word("prefixItems").and_then(Value::as_array).map_or(&[], Vec::as_slice)
        }
        fn rest<'n>(node: &'n Node<'_>) -> &'n Value {
            node.word("items").unwrap_or(TRUE)
        }
        let (own, theirs) = (first(reader), first(writer));
        for n in 0..own.len().max(theirs.len()) {
            let side = |at: &str, list: &[Value]| match list.get(n) {
                Some(_) => format!("{at}/prefixItems/{n}"),
                None => format!("{at}/items"),
            };
            let (own_at, their_at) = (side(places.reader, own), side(places.writer, theirs));
            let reader = Side { at: &own_at, schema: own.get(n).unwrap_or_else(|| rest(reader)) };
            self.compare(reader, Side { at: &their_at, schema: theirs.get(n).unwrap_or_else(|| rest(writer)) });
        }
        let (own_at, their_at) = (format!("{}/items", places.reader), format!("{}/items", places.writer));
        let reader_rest = Side { at: &own_at, schema: rest(reader) };
        self.compare(reader_rest, Side { at: &their_at, schema: rest(writer) });
        self.word(places, reader, writer, &["contains", "minContains", "maxContains"]);
        self.closing(places, reader, "unevaluatedItems");
    }

    /// A word whose meaning depends on everything beside it, which is not the same here.
    fn closing(&mut self, places: &Places<'_>, reader: &Node<'_>, word: &str) {
        if reader.word(word).is_some_and(|value| value != TRUE) {
            let reason = format!("cannot be judged: `{word}` beside what changed");
            self.lack(places, &format!("/{word}"), false, reason);
        }
    }

    fn objects(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>) {
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

    /// Words that are about the value as a whole.
    fn conditions(&mut self, own: &Placed<'_>, theirs: &Placed<'_>, common: Kinds) {
        let places = Places { reader: &own.at, writer: &theirs.at };
        let (reader, writer) = (&own.node, &theirs.node);
        let whole = self.as_value(writer);
        if let Some(parts) = reader.word("allOf").and_then(Value::as_array) {
            for (n, part) in parts.iter().enumerate() {
                let at = format!("{}/allOf/{n}", own.at);
                self.compare(Side { at: &at, schema: part }, Side { at: &theirs.at, schema: &whole });
            }
        }
        for word in ["anyOf", "oneOf"] {
            let Some(branches) = reader.word(word).and_then(Value::as_array) else { continue };
            if word == "oneOf" && !self.apart(branches) {
                self.lack(&places, "/oneOf", false, "cannot be judged: branches of `oneOf` that may fit at once");
                continue;
            }
            self.some_branch(own, branches, word, (&theirs.at, &whole), common);
        }
        self.word(&places, reader, writer, &["not"]);
        self.word(&places, reader, writer, &["if", "then", "else"]);
        if reader.word("$dynamicRef").is_some() || reader.word("$ref").is_some() {
            let reason = "cannot be judged: a reference that is not followed";
            self.lack(&places, "", false, reason);
        }
    }

    /// For each kind of value that the writer allows some branch must take all of it.
    fn some_branch(
        &mut self,
        own: &Placed<'_>,
        branches: &[Value],
        word: &str,
        (at, writer): (&str, &Value),
        common: Kinds,
    ) {
        let places = Places { reader: &own.at, writer: at };
        for kind in ["null", "boolean", "integer", "number", "string", "array", "object"] {
            let wanted = match kind {
                "number" if !common.has("fraction") => continue,
                "integer" if common.has("fraction") => continue,
                kind if !common.has(kind) => continue,
                kind => kind,
            };
            let mut part = writer.clone();
            match part.as_object_mut() {
                Some(words) => words.insert("type".to_owned(), Value::from(wanted)),
                None => {
                    part = serde_json::json!({"type": wanted});
                    None
                }
            };
            let fits = (0..branches.len()).any(|n| {
                let place = format!("{}/{word}/{n}", own.at);
                self.trial(Side { at: &place, schema: &branches[n] }, Side { at, schema: &part })
            });
            if !fits {
                let known = branches.iter().any(|branch| kinds(&read(&self.reader, "", branch).node).has(wanted));
                let reason = if known {
                    format!("cannot be judged: no branch of `{word}` takes every {wanted} by itself")
                } else {
                    format!("no branch of `{word}` takes a {wanted}")
                };
                self.lack(&places, &format!("/{word}"), !known, reason);
            }
        }
    }

    /// Whether no value fits two of these branches: they are of different types, or a required property tells them apart.
    fn apart(&self, branches: &[Value]) -> bool {
        let nodes: Vec<Node<'_>> = branches.iter().map(|branch| read(&self.reader, "", branch).node).collect();
        let pairs = nodes.iter().enumerate().flat_map(|(n, a)| nodes[n + 1..].iter().map(move |b| (a, b)));
        pairs.into_iter().all(|(a, b)| kinds(a).and(kinds(b)).is_empty() || told_apart(a, b))
    }
}

/// Whether both require a property that has different fixed values in them.
fn told_apart(a: &Node<'_>, b: &Node<'_>) -> bool {
    let requires = |node: &Node<'_>, name: &str| {
        node.word("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|one| one == name))
    };
    let fixed = |node: &Node<'_>, name: &str| {
        let property = node.word("properties")?.get(name)?.as_object()?.clone();
        values(&Node::Words(std::borrow::Cow::Owned(property)))
    };
    let objects = |node: &Node<'_>| kinds(node).names() == "object";
    let names = a.word("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    objects(a)
        && objects(b)
        && names.into_iter().any(|name| {
            let (Some(own), Some(theirs)) = (fixed(a, name), fixed(b, name)) else { return false };
            requires(a, name) && requires(b, name) && !own.iter().any(|value| theirs.contains(value))
        })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::node::narrows;
    use super::*;

    #[test]
    fn words_that_only_describe_do_not_count() {
        assert!(!narrows("description") && !narrows("x-owner") && narrows("minLength"));
        let old = json!({"type": "object", "properties": {"title": {"type": "string", "title": "A"}}});
        let new = json!({"type": "object", "properties": {"title": {"type": "string", "title": "B", "examples": [1]}}});
        assert_eq!(lacks(Breaks::Backward, &new, &old), []);
    }

    #[test]
    fn a_comparison_of_what_grows_without_end_ends() {
        let list = |word: &str| {
            json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {
                "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": word}]}, "other": {"allOf": [{"$ref": "#"}, {"minProperties": 1}]},
            }}}})
        };
        let found = lacks(Breaks::Backward, &list("null"), &list("string"));
        assert!(!found.is_empty() && found.len() <= CHANGES_LISTED_MAX, "{found:?}");
    }
}
