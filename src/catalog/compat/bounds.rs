//! Types and bounds: what two schemas say of kinds of values, numbers and lengths, compared.

use serde_json::Value;

use super::node::Node;

/// The kinds of values, `integer` apart from the other numbers.
pub(super) const KINDS: [&str; 7] = ["null", "boolean", "integer", "fraction", "string", "array", "object"];

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    const ALL: Self = Self(0b111_1111);

    fn of_word(word: &str) -> Self {
        let bit = |name: &str| KINDS.iter().position(|kind| *kind == name).map_or(0, |at| 1 << at);
        match word {
            "number" => Self(bit("integer") | bit("fraction")),
            other => Self(bit(other)),
        }
    }

    /// The kind of a value.
    pub(super) fn of_value(value: &Value) -> Self {
        Self::of_word(match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) => {
                let whole = number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0);
                if whole { "integer" } else { "fraction" }
            }
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        })
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether a kind is in it.
    pub(super) fn has(self, word: &str) -> bool {
        let wanted = Self::of_word(word);
        self.0 & wanted.0 != 0
    }

    /// Those that are not in the other.
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names, as schemas have them.
    pub(super) fn names(self) -> String {
        let mut names: Vec<&str> = Vec::new();
        let both = self.has("integer") && self.has("fraction");
        for kind in KINDS.iter().filter(|kind| self.has(kind)) {
            match *kind {
                "integer" if both => names.push("number"),
                "fraction" if both => {}
                "fraction" => names.push("number with a fraction"),
                other => names.push(other),
            }
        }
        names.join(", ")
    }
}

/// The kinds that a node allows.
pub(super) fn kinds(node: &Node<'_>) -> Kinds {
    let listed = match node.word("type") {
        Some(Value::String(word)) => Kinds::of_word(word),
        Some(Value::Array(words)) => {
            words.iter().filter_map(Value::as_str).map(Kinds::of_word).fold(Kinds(0), Kinds::union)
        }
        Some(_) | None => Kinds::ALL,
    };
    match values(node) {
        Some(values) => listed.and(values.iter().map(Kinds::of_value).fold(Kinds(0), Kinds::union)),
        None => listed,
    }
}

/// The values that a node lists, when it lists them.
pub(super) fn values(node: &Node<'_>) -> Option<Vec<Value>> {
    if let Some(value) = node.word("const") {
        return Some(vec![value.clone()]);
    }
    node.word("enum").and_then(Value::as_array).cloned()
}

/// Words that bound a length or a count from below, with the kind they are about.
const LEAST: [(&str, &str); 3] = [("minLength", "string"), ("minItems", "array"), ("minProperties", "object")];
/// The same from above.
const MOST: [(&str, &str); 3] = [("maxLength", "string"), ("maxItems", "array"), ("maxProperties", "object")];

fn number(node: &Node<'_>, word: &str) -> Option<f64> {
    node.word(word).and_then(Value::as_f64)
}

/// The lowest number a node allows, and whether itself is allowed.
fn lowest(node: &Node<'_>) -> Option<(f64, bool)> {
    let (at, over) = (number(node, "minimum"), number(node, "exclusiveMinimum"));
    match (at, over) {
        (Some(at), Some(over)) => Some(if over >= at { (over, false) } else { (at, true) }),
        (Some(at), None) => Some((at, true)),
        (None, Some(over)) => Some((over, false)),
        (None, None) => None,
    }
}

fn highest(node: &Node<'_>) -> Option<(f64, bool)> {
    let (at, under) = (number(node, "maximum"), number(node, "exclusiveMaximum"));
    match (at, under) {
        (Some(at), Some(under)) => Some(if under <= at { (under, false) } else { (at, true) }),
        (Some(at), None) => Some((at, true)),
        (None, Some(under)) => Some((under, false)),
        (None, None) => None,
    }
}

fn told(bound: Option<(f64, bool)>) -> String {
    match bound {
        None => "none".to_owned(),
        Some((at, true)) => format!("{at}"),
        Some((at, false)) => format!("{at}, itself excluded"),
    }
}

/// A bound of the reader that is tighter than the writer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tighter {
    pub(super) word: &'static str,
    pub(super) reader: String,
    pub(super) writer: String,
}

fn plain(bound: Option<f64>) -> String {
    bound.map_or("none".to_owned(), |bound| bound.to_string())
}

/// Where the reader's bounds are tighter than the writer's, for values of these kinds.
pub(super) fn tightened(reader: &Node<'_>, writer: &Node<'_>, kinds: Kinds) -> Vec<Tighter> {
    let mut out = Vec::new();
    if kinds.has("number") {
        numbers(reader, writer, kinds, &mut out);
    }
    for (word, _) in LEAST.into_iter().filter(|(_, kind)| kinds.has(kind)) {
        let (own, theirs) = (number(reader, word), number(writer, word));
        if own.unwrap_or(0.0) > theirs.unwrap_or(0.0) {
            out.push(Tighter { word, reader: plain(own), writer: plain(theirs) });
        }
    }
    for (word, _) in MOST.into_iter().filter(|(_, kind)| kinds.has(kind)) {
        let (own, theirs) = (number(reader, word), number(writer, word));
        if own.is_some_and(|own| theirs.is_none_or(|theirs| theirs > own)) {
            out.push(Tighter { word, reader: plain(own), writer: plain(theirs) });
        }
    }
    out
}

fn numbers(reader: &Node<'_>, writer: &Node<'_>, kinds: Kinds, out: &mut Vec<Tighter>) {
    let (own, theirs) = (lowest(reader), lowest(writer));
    let low = own.is_some_and(|(at, itself)| {
        theirs.is_none_or(|(other, other_itself)| other < at || (other == at && other_itself && !itself))
    });
    if low {
        let word = if own.is_some_and(|(_, itself)| itself) { "minimum" } else { "exclusiveMinimum" };
        out.push(Tighter { word, reader: told(own), writer: told(theirs) });
    }
    let (own, theirs) = (highest(reader), highest(writer));
    let high = own.is_some_and(|(at, itself)| {
        theirs.is_none_or(|(other, other_itself)| other > at || (other == at && other_itself && !itself))
    });
    if high {
        let word = if own.is_some_and(|(_, itself)| itself) { "maximum" } else { "exclusiveMaximum" };
        out.push(Tighter { word, reader: told(own), writer: told(theirs) });
    }
    let Some(step) = number(reader, "multipleOf") else { return };
    let theirs = number(writer, "multipleOf");
    let finer = match theirs {
        Some(theirs) => (theirs / step).fract() != 0.0,
        None => step.recip().fract() != 0.0 || kinds.has("fraction"),
    };
    if finer {
        out.push(Tighter { word: "multipleOf", reader: plain(Some(step)), writer: plain(theirs) });
    }
}
