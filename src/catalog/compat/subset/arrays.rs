//! What arrays may hold.

use serde_json::Value;

use super::super::node::Node;
use super::{Places, Side, TRUE, Walk};

impl Walk<'_> {
    pub(super) fn arrays(&mut self, places: &Places<'_>, reader: &Node<'_>, writer: &Node<'_>) {
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
}
