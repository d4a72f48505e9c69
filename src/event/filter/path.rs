//! A field of an event by its path: `aggregate_id`, `data.contact.id`, `metadata.origin`.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::subject::Subject;
use crate::event::json::tree::Json;
use crate::ground::clock::utc_seconds;
use crate::ground::error::Problem;

/// Longest path, in characters.
pub const PATH_CHARS_MAX: usize = 200;
/// Most parts of a path.
pub const PATH_PARTS_MAX: usize = 16;

macro_rules! roots {
    ($($name:ident = $text:literal;)+) => {
        /// What a path begins with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        enum Root { $($name,)+ }

        impl Root {
            const NAMES: &'static [&'static str] = &[$($text,)+];

            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

roots! {
    Id = "id";
    Type = "type";
    Org = "org";
    Source = "source";
    AggregateType = "aggregate_type";
    AggregateId = "aggregate_id";
    Channel = "channel";
    Facility = "facility";
    Subject = "subject";
    OccurredAt = "occurred_at";
    Timestamp = "timestamp";
    ReasonCode = "reason_code";
    SchemaVersion = "schema_version";
    OrderingKey = "ordering_key";
    CorrelationId = "correlation_id";
    Data = "data";
    Metadata = "metadata";
    RequestContext = "request_context";
}

/// A field of an event. `timestamp` is `occurred_at`, or when the event was received, in UTC and to the second.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldPath {
    text: String,
    root: Root,
    /// The members below `data`, `metadata` or `request_context`.
    below: Vec<String>,
}

/// What an event has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Nothing, or null.
    Missing,
    /// A text without characters, or of white space alone.
    Empty,
    /// A text, a number or a truth value, as text.
    Text(Cow<'a, str>),
    /// A list or an object.
    Nested,
}

impl Found<'_> {
    /// The value as text, where it is one.
    #[must_use]
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.into_owned()),
            Self::Missing | Self::Empty | Self::Nested => None,
        }
    }
}

impl FieldPath {
    /// Reads a path; a refusal names `field`.
    ///
    /// # Errors
    /// When it is too long, has an empty part, or begins with what no event has.
    pub fn parse(text: &str, field: &str) -> Result<Self, Problem> {
        let refuse = |limit: String| Problem::field(field, limit, text);
        if text.is_empty() || text.chars().count() > PATH_CHARS_MAX {
            return Err(refuse(format!("a path of 1 to {PATH_CHARS_MAX} characters")));
        }
        let mut parts = text.split('.');
        let root = parts.next().and_then(Root::parse);
        let root = root.ok_or_else(|| refuse(format!("a path that begins with one of {}", Root::NAMES.join(", "))))?;
        let below: Vec<String> = parts.map(str::to_owned).collect();
        if below.len() >= PATH_PARTS_MAX || below.iter().any(|part| part.is_empty() || part.contains(['{', '}'])) {
            return Err(refuse(format!("up to {PATH_PARTS_MAX} names with a dot between them, none of them empty")));
        }
        if below.is_empty() == matches!(root, Root::Data | Root::Metadata | Root::RequestContext) {
            return Err(refuse("a field of the envelope, or one within data, metadata or request_context".to_owned()));
        }
        Ok(Self { text: text.to_owned(), root, below })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the event has there.
    #[must_use]
    pub fn find<'s>(&self, subject: &'s Subject<'_>) -> Found<'s> {
        let meta = &subject.event.meta;
        let own = |text: &'s str| if text.trim().is_empty() { Found::Empty } else { Found::Text(Cow::Borrowed(text)) };
        let optional = |text: &'s Option<String>| text.as_deref().map_or(Found::Missing, own);
        match self.root {
            Root::Id => own(&meta.id),
            Root::Type => own(&meta.event_type),
            Root::Org => own(&meta.org),
            Root::Source => optional(&meta.source),
            Root::AggregateType => optional(&meta.aggregate_type),
            Root::AggregateId => optional(&meta.aggregate_id),
            Root::Channel => optional(&meta.channel),
            Root::Facility => optional(&meta.facility),
            Root::Subject => optional(&meta.subject),
            Root::OccurredAt => match &meta.occurred_at {
                Some(text) => own(text),
                None => Found::Text(Cow::Owned(subject.event.received_at.to_rfc3339())),
            },
            Root::Timestamp => Found::Text(Cow::Owned(timestamp(subject))),
            Root::ReasonCode => optional(&meta.reason_code),
            Root::SchemaVersion => optional(&meta.schema_version),
            Root::OrderingKey => optional(&meta.ordering_key),
            Root::CorrelationId => optional(&meta.correlation_id),
            Root::Data => self.within(Some(subject.data())),
            Root::Metadata => self.within(subject.metadata()),
            Root::RequestContext => self.within(subject.request_context()),
        }
    }

    fn within<'s>(&self, part: Option<&'s Json<'_>>) -> Found<'s> {
        let mut at = part;
        for name in &self.below {
            at = match at {
                Some(Json::Map(members)) => members.get(name),
                Some(_) | None => None,
            };
        }
        match at {
            None | Some(Json::Null) => Found::Missing,
            Some(Json::Text(text)) if text.trim().is_empty() => Found::Empty,
            Some(Json::Text(text)) => Found::Text(Cow::Borrowed(text)),
            Some(Json::Bool(value)) => Found::Text(Cow::Owned(value.to_string())),
            Some(Json::Int(value)) => Found::Text(Cow::Owned(value.to_string())),
            Some(Json::UInt(value)) => Found::Text(Cow::Owned(value.to_string())),
            Some(Json::Double(value)) => Found::Text(Cow::Owned(value.to_string())),
            Some(Json::List(_) | Json::Map(_)) => Found::Nested,
        }
    }

    /// Why a rule that needs this field passes the event over; none when the field is there.
    #[must_use]
    pub fn lacking(&self, subject: &Subject<'_>) -> Option<String> {
        match self.find(subject) {
            Found::Missing => Some(format!("the event has no `{}`", self.text)),
            Found::Empty => Some(format!("`{}` of the event is empty", self.text)),
            Found::Text(_) | Found::Nested => None,
        }
    }
}

/// When an event happened, in UTC and to the second.
fn timestamp(subject: &Subject<'_>) -> String {
    let written = subject.event.meta.occurred_at.as_deref().and_then(utc_seconds);
    let received = || utc_seconds(&subject.event.received_at.to_rfc3339()).unwrap_or_default();
    written.unwrap_or_else(received)
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FieldPath").field(&self.text).finish()
    }
}

impl TryFrom<String> for FieldPath {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text, "path")
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::event::envelope::Event;
    use crate::event::parse::{ParseRules, parse_event};
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::Seq;
    use crate::ground::random::SeededRandom;

    fn event(body: &str) -> Arc<Event> {
        let (random, now) = (SeededRandom::shared(1), UnixMs(1_795_248_000_999));
        let rules =
            ParseRules { default_org: None, confined_to: None, event_bytes_max: 1 << 20, now, random: &*random };
        let draft = parse_event(&Bytes::copy_from_slice(body.as_bytes()), &rules).expect("is taken");
        Event::new(Seq(1), now, draft.meta, draft.body)
    }

    fn found(path: &str, body: &str) -> Option<String> {
        let event = event(body);
        let subject = Subject::new(&event);
        let path = FieldPath::parse(path, "requires").expect("a path");
        let lacking = path.lacking(&subject);
        let text = path.find(&subject).into_text();
        assert!(lacking.is_none() || text.is_none());
        lacking.map(|reason| format!("! {reason}")).or(text)
    }

    #[test]
    fn a_path_leads_to_the_fields_of_envelope_data_metadata_and_context() {
        let body = r#"{"id":"e-1","type":"booking.created","org":"acme","aggregate_type":"booking","aggregate_id":"B-7",
            "occurred_at":"2026-11-21T09:00:00.750+01:00","data":{"contact":{"id":"c-1","age":41,"vip":true,"rate":0.5},"lines":[1]},
            "metadata":{"a.b":1,"origin":"web"},"request_context":{"correlation_id":"co-1","user_id":"u"}}"#;
        for (path, wanted) in [
            ("id", "e-1"),
            ("type", "booking.created"),
            ("org", "acme"),
            ("aggregate_id", "B-7"),
            ("occurred_at", "2026-11-21T09:00:00.750+01:00"),
            ("timestamp", "2026-11-21T08:00:00Z"),
            ("correlation_id", "co-1"),
            ("request_context.user_id", "u"),
            ("metadata.origin", "web"),
            ("data.contact.id", "c-1"),
            ("data.contact.age", "41"),
            ("data.contact.vip", "true"),
            ("data.contact.rate", "0.5"),
            ("channel", "! the event has no `channel`"),
            ("data.contact.name", "! the event has no `data.contact.name`"),
            ("data.lines.0", "! the event has no `data.lines.0`"),
        ] {
            assert_eq!(found(path, body).as_deref(), Some(wanted), "{path}");
        }
        assert_eq!(found("data.lines", body), None, "a list is there, and is no text");
        assert_eq!(found("timestamp", r#"{"type":"a.b"}"#).as_deref(), Some("2026-11-21T08:00:00Z"));
    }

    #[test]
    fn null_an_empty_text_and_white_space_are_lacking() {
        for (body, wanted) in [
            (r#"{"type":"a","data":{"c":null}}"#, "! the event has no `data.c`"),
            (r#"{"type":"a","data":{"c":""}}"#, "! `data.c` of the event is empty"),
            (r#"{"type":"a","data":{"c":"  "}}"#, "! `data.c` of the event is empty"),
            (r#"{"type":"a"}"#, "! the event has no `data.c`"),
            (r#"{"type":"a","data":7}"#, "! the event has no `data.c`"),
        ] {
            assert_eq!(found("data.c", body).as_deref(), Some(wanted), "{body}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused_and_a_good_one_survives_a_document() {
        let (long, deep) = (format!("data.{}", "x".repeat(PATH_CHARS_MAX)), "data".to_owned() + &".x".repeat(16));
        for text in ["", "data", "metadata", "colour", "id.x", "data.", "data..x", ".x", "data.{x}", &long, &deep] {
            let problem = FieldPath::parse(text, "publishes[0].requires[1]").expect_err(text);
            assert_eq!(problem.field.as_deref(), Some("publishes[0].requires[1]"), "{text}");
            assert!(serde_json::from_value::<FieldPath>(text.into()).is_err());
        }
        let path = FieldPath::parse("data.contact.id", "x").expect("a path");
        let json = serde_json::to_string(&path).expect("writes");
        assert_eq!(json, r#""data.contact.id""#);
        assert_eq!(serde_json::from_str::<FieldPath>(&json).expect("reads"), path);
    }
}
