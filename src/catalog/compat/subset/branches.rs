//! Words that join schemas: `allOf`, `anyOf`, `oneOf`, `not`, `if`.

use serde_json::{Map, Value};

use super::super::bounds::{Kinds, kinds, values};
use super::super::node::{Node, Placed, both, read};
use super::{Places, Side, Walk};

impl Walk<'_> {
    /// The writer must fit each of its `allOf`: when one of them alone fits the reader, all is well.
    pub(super) fn fits_a_part(&mut self, own: &Placed<'_>, words: &Map<String, Value>, at: &str) -> bool {
        let Some(parts) = words.get("allOf").and_then(Value::as_array) else { return false };
        let reader = self.as_value(&own.node);
        parts.iter().any(|part| {
            let (reader, writer) = (Side { at: &own.at, schema: &reader }, Side { at, schema: part });
            self.trial(reader, writer)
        })
    }

    /// A word that both have alike is left out of the comparison.
    pub(super) fn without(&mut self, own: &Placed<'_>, word: &str, writer: &Value, at: &str) {
        let mut reader = self.as_value(&own.node);
        if let Some(words) = reader.as_object_mut() {
            words.remove(word);
        }
        self.compare(Side { at: &own.at, schema: &reader }, Side { at, schema: writer });
    }

    /// The reader must take whatever fits a branch of the writer.
    pub(super) fn each_branch(
        &mut self,
        own: &Placed<'_>,
        branches: &[Value],
        rest: &Map<String, Value>,
        at: &str,
        word: &str,
    ) {
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

    /// Words that are about the value as a whole.
    pub(super) fn conditions(&mut self, own: &Placed<'_>, theirs: &Placed<'_>, common: Kinds) {
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
