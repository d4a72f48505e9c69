//! Walking two schemas side by side: where does the reader allow less than the writer?
//!
//! Here are the walk, types and listed values; objects, arrays and words that join schemas have a room each.

mod arrays;
mod branches;
mod objects;

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::bounds::{Kinds, Tighter, kinds, tightened, values};
use super::node::{Node, Placed, bare, read, refers};
use super::{Breaks, CHANGES_LISTED_MAX, Change};
use crate::catalog::schema::walk::{Document, visit};
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

    fn as_value(&self, node: &Node<'_>) -> Value {
        match node {
            Node::Anything => Value::Bool(true),
            Node::Nothing => Value::Bool(false),
            Node::Words(words) => Value::Object(Map::clone(words)),
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

    /// A word whose meaning depends on everything beside it, which is not the same here.
    fn closing(&mut self, places: &Places<'_>, reader: &Node<'_>, word: &str) {
        if reader.word(word).is_some_and(|value| value != TRUE) {
            let reason = format!("cannot be judged: `{word}` beside what changed");
            self.lack(places, &format!("/{word}"), false, reason);
        }
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
