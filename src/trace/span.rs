//! What is known of a span when it has ended.

use super::context::{SpanId, TraceId};
use crate::ground::limits::{ERROR_CHARS_MAX, clip};

/// The role of a span, with the numbers of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Consumer = 5,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should, in a word.
    Fine(&'static str),
    /// Not, and why.
    Failed(String),
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u64),
}

/// A span. Its attributes are few and their lengths bounded, as those of events are.
#[derive(Clone, Debug)]
pub(super) struct SpanData {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) begin_ns: u64,
    pub(super) end_ns: u64,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub(super) error: Option<String>,
}

impl SpanData {
    pub(super) fn new(name: &'static str, kind: Kind, trace: TraceId, id: SpanId, parent: Option<SpanId>) -> Self {
        Self { name, kind, trace, id, parent, begin_ns: 0, end_ns: 0, attributes: Vec::with_capacity(8), error: None }
    }

    pub(super) fn text(&mut self, name: &'static str, value: String) {
        if !value.is_empty() {
            self.attributes.push((name, Value::Text(value)));
        }
    }

    pub(super) fn number(&mut self, name: &'static str, value: u64) {
        self.attributes.push((name, Value::Number(value)));
    }

    pub(super) fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Fine(word) => self.text("tidegate.outcome", word.to_owned()),
            Outcome::Failed(why) => self.error = Some(clip(&why, ERROR_CHARS_MAX).to_owned()),
        }
    }
}
