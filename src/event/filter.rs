//! What selects events for a subscription (WHK-1): the org, the types, and the narrower scopes. A decision names the
//! clause that made it, so that `explain`, logs and tests tell the same reason.

mod compile;
pub mod eval;
pub mod expression;
pub mod fields;
pub mod path;
mod program;
pub mod subject;
mod value;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::expression::{Expression, Mistake};
use self::path::FieldPath;
use self::subject::Subject;
use super::envelope::Event;
use super::parse::check_type_name;
use crate::ground::error::Problem;
use crate::ground::limits;

/// What the types of the hub's own events begin with.
pub const OWN_PREFIX: &str = "tidegate.";

/// Whether an event of this type is one of the hub's own. They go to those alone who name them: whoever asked for
/// everything meant the events of producers, and a new kind of notice must not surprise it.
#[must_use]
pub fn is_own(event_type: &str) -> bool {
    event_type.starts_with(OWN_PREFIX)
}

/// Which event types are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TypePattern {
    /// Every type but the hub's own: `*`.
    All,
    /// Every type that has more parts after these: `invoice.*` is `Prefix("invoice")` and means `invoice.paid` and
    /// `invoice.paid.late`, but not `invoice`.
    Prefix(String),
    /// This type alone.
    Exact(String),
}

impl TypePattern {
    /// Reads `*`, `prefix.*` or a type name of at most 255 characters.
    ///
    /// # Errors
    /// `InvalidField` of `event_types` saying which rule is broken.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        const FIELD: &str = "event_types";
        if text == "*" {
            return Ok(Self::All);
        }
        if text.is_empty() {
            return Err(Problem::field(FIELD, "no empty pattern", text));
        }
        if text.len() > limits::EVENT_TYPE_CHARS_MAX {
            let limit = format!("at most {} characters a pattern", limits::EVENT_TYPE_CHARS_MAX);
            return Err(Problem::field(FIELD, limit, text));
        }
        let (name, prefix) = match text.strip_suffix(".*") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(Problem::field(
                FIELD,
                "a type, `prefix.*` or `*`: the star stands alone or after the last dot",
                text,
            ));
        }
        check_type_name(FIELD, name)?;
        Ok(if prefix { Self::Prefix(name.to_owned()) } else { Self::Exact(name.to_owned()) })
    }

    /// Whether events of this type are meant.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => !is_own(event_type),
            Self::Prefix(prefix) => event_type.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('.')),
            Self::Exact(exact) => exact == event_type,
        }
    }

    /// Whether every type that `other` means is meant by this pattern too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, Self::All) => true,
            (Self::All, Self::Prefix(prefix)) => !prefix.starts_with(OWN_PREFIX) && format!("{prefix}.") != OWN_PREFIX,
            (Self::All, Self::Exact(name)) => !is_own(name),
            (Self::Prefix(mine), Self::Prefix(theirs)) => mine == theirs || self.matches(theirs),
            (Self::Prefix(_) | Self::Exact(_), Self::Exact(name)) => self.matches(name),
            (Self::Prefix(_) | Self::Exact(_), Self::All) | (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Prefix(prefix) => write!(f, "{prefix}.*"),
            Self::Exact(exact) => f.write_str(exact),
        }
    }
}

impl TryFrom<String> for TypePattern {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text)
    }
}

impl From<TypePattern> for String {
    fn from(pattern: TypePattern) -> Self {
        pattern.to_string()
    }
}

/// Patterns that a reason repeats.
const REASON_PATTERNS: usize = 5;

/// Selects events. A clause that is not given does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// The tenant; none means every org, which only the hub's own consumers may ask for.
    pub org: Option<String>,
    /// Any of these types; empty means every type there is, the hub's own among them: a filter that says nothing of types
    /// does not narrow them.
    pub event_types: Vec<TypePattern>,
    /// The channel.
    pub channel: Option<String>,
    /// The facility.
    pub facility: Option<String>,
    /// The service, which is the event's `source`.
    pub service: Option<String>,
    /// A condition on envelope and data.
    #[serde(default)]
    pub expression: Option<Expression>,
    /// Fields that the event must have, none of them empty.
    #[serde(default)]
    pub requires: Vec<FieldPath>,
}

/// A part of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clause {
    /// `org`
    Org,
    /// `event_types`
    Type,
    /// `channel`
    Channel,
    /// `facility`
    Facility,
    /// `service`
    Service,
    /// `filter`
    Expression,
    /// `requires`
    Requires,
}

impl Clause {
    /// The name of the clause, as the filter's field is called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Type => "event_types",
            Self::Channel => "channel",
            Self::Facility => "facility",
            Self::Service => "service",
            Self::Expression => "filter",
            Self::Requires => "requires",
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a filter says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every clause holds.
    Match,
    /// The first clause that does not hold.
    NoMatch(Clause),
}

impl EventFilter {
    /// Decides on an event; clauses are looked at in the order org, type, channel, facility, service, expression,
    /// required fields.
    #[must_use]
    pub fn decide(&self, event: &Event) -> Decision {
        self.decide_on(&Subject::new(event))
    }

    /// Decides on an event that other filters look at too: what one has parsed of it is there for the next.
    #[must_use]
    pub fn decide_on(&self, subject: &Subject<'_>) -> Decision {
        let meta = &subject.event.meta;
        let scope = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        if self.org.as_ref().is_some_and(|org| *org != meta.org) {
            return Decision::NoMatch(Clause::Org);
        }
        let named = self.event_types.is_empty() || self.event_types.iter().any(|one| one.matches(&meta.event_type));
        if !named {
            return Decision::NoMatch(Clause::Type);
        }
        if !scope(&self.channel, &meta.channel) {
            return Decision::NoMatch(Clause::Channel);
        }
        if !scope(&self.facility, &meta.facility) {
            return Decision::NoMatch(Clause::Facility);
        }
        if !scope(&self.service, &meta.source) {
            return Decision::NoMatch(Clause::Service);
        }
        match &self.expression {
            Some(expression) if expression.holds(subject) != Ok(true) => {
                return Decision::NoMatch(Clause::Expression);
            }
            Some(_) | None => {}
        }
        if self.requires.iter().any(|path| path.lacking(subject).is_some()) {
            return Decision::NoMatch(Clause::Requires);
        }
        Decision::Match
    }

    /// What is wrong with a stored expression that this version of the hub cannot compile: it matches nothing.
    #[must_use]
    pub fn mistake(&self) -> Option<&Mistake> {
        self.expression.as_ref().and_then(Expression::mistake)
    }

    /// Why [`decide_on`](Self::decide_on) decided so on this clause, in words: `wanted web, the event has shop`.
    #[must_use]
    pub fn reason(&self, clause: Clause, subject: &Subject<'_>) -> String {
        let meta = &subject.event.meta;
        let scope = |wanted: &Option<String>, found: Option<&str>| {
            format!("wanted {}, the event has {}", wanted.as_deref().unwrap_or("any"), found.unwrap_or("none"))
        };
        match clause {
            Clause::Org => scope(&self.org, Some(&meta.org)),
            Clause::Type => {
                let listed = self.event_types.iter().take(REASON_PATTERNS).map(ToString::to_string);
                let more = self.event_types.len().saturating_sub(REASON_PATTERNS);
                let more = if more > 0 { format!(" or {more} more") } else { String::new() };
                format!("wanted {}{more}, the event has {}", listed.collect::<Vec<_>>().join(", "), meta.event_type)
            }
            Clause::Channel => scope(&self.channel, meta.channel.as_deref()),
            Clause::Facility => scope(&self.facility, meta.facility.as_deref()),
            Clause::Service => scope(&self.service, meta.source.as_deref()),
            Clause::Expression => match self.expression.as_ref().map(|one| (one.text(), one.holds(subject))) {
                Some((text, Ok(held))) => format!("`{text}` is {held}"),
                Some((text, Err(fault))) => format!("expression_error: {fault}; in `{text}`"),
                None => "no expression".to_owned(),
            },
            Clause::Requires => {
                let lacking = self.requires.iter().find_map(|path| path.lacking(subject));
                lacking.unwrap_or_else(|| "every field is there".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::event::envelope::EventMeta;
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::Seq;

    fn event(event_type: &str) -> Arc<Event> {
        let meta = EventMeta {
            id: "1".to_owned(),
            event_type: event_type.to_owned(),
            org: "acme".to_owned(),
            source: Some("billing".to_owned()),
            channel: Some("web".to_owned()),
            ..EventMeta::default()
        };
        Event::new(Seq(1), UnixMs(1), meta, Bytes::from_static(b"{}"))
    }

    fn pattern(text: &str) -> TypePattern {
        TypePattern::parse(text).expect("a pattern")
    }

    #[test]
    fn a_prefix_means_what_has_more_parts_and_nothing_else() {
        let prefix = pattern("invoice.*");
        assert!(prefix.matches("invoice.paid") && prefix.matches("invoice.paid.late"));
        assert!(
            !prefix.matches("invoice") && !prefix.matches("invoices.paid") && !prefix.matches("order.invoice.paid")
        );
        assert!(pattern("*").matches("anything") && pattern("*").matches("tidegate"));
        assert!(!pattern("*").matches("tidegate.webhook.paused"), "the hub's own are for those who name them");
        assert!(pattern("tidegate.*").matches("tidegate.webhook.paused"));
        assert!(pattern("invoice").matches("invoice") && !pattern("invoice").matches("invoice.paid"));
    }

    #[test]
    fn a_pattern_survives_the_way_to_text_and_back() {
        for text in ["*", "invoice.*", "a.b.*", "invoice.paid", "com/acme:x-1"] {
            assert_eq!(pattern(text).to_string(), text);
            let json = serde_json::to_string(&pattern(text)).expect("writes");
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<TypePattern>(&json).expect("reads"), pattern(text));
        }
    }

    #[test]
    fn a_bad_pattern_is_refused_with_the_rule() {
        let long = "a".repeat(256);
        for text in ["", ".*", "*.paid", "inv*", "a.*.b", "**", "a..b", ".a", "a.", "a b", "a..*", "a.*.*", &long] {
            let problem = TypePattern::parse(text).expect_err("is refused");
            assert_eq!(problem.field.as_deref(), Some("event_types"), "{text}");
            assert!(serde_json::from_value::<TypePattern>(text.into()).is_err());
        }
    }

    #[test]
    fn covering_follows_matching() {
        assert!(pattern("a.*").covers(&pattern("a.b.*")) && pattern("a.*").covers(&pattern("a.b")));
        assert!(pattern("a.*").covers(&pattern("a.*")) && pattern("*").covers(&pattern("*")));
        for own in ["tidegate.*", "tidegate.webhook.*", "tidegate.webhook.paused"] {
            assert!(!pattern("*").covers(&pattern(own)), "{own}");
        }
        assert!(pattern("*").covers(&pattern("tidegate")) && pattern("*").covers(&pattern("tidegates.*")));
        assert!(!pattern("a.*").covers(&pattern("a")) && !pattern("a.*").covers(&pattern("ab.*")));
        assert!(!pattern("a.b.*").covers(&pattern("a.*")) && !pattern("a.b").covers(&pattern("a.b.*")));
    }

    #[test]
    fn a_refusal_names_the_first_clause_that_does_not_hold() {
        let text = |text: &str| Some(text.to_owned());
        let all = EventFilter::default();
        assert_eq!(all.decide(&event("a")), Decision::Match);
        let full = EventFilter {
            org: text("acme"),
            event_types: vec![pattern("order.*"), pattern("invoice.*")],
            channel: text("web"),
            facility: None,
            service: text("billing"),
            ..EventFilter::default()
        };
        let decide = |filter: EventFilter, event_type: &str| filter.decide(&event(event_type));
        assert_eq!(decide(full.clone(), "invoice.paid"), Decision::Match);
        assert_eq!(decide(full.clone(), "invoice"), Decision::NoMatch(Clause::Type));
        let other_org = EventFilter { org: text("other"), ..full.clone() };
        assert_eq!(decide(other_org, "nothing"), Decision::NoMatch(Clause::Org));
        let other_channel = EventFilter { channel: text("shop"), facility: text("x"), ..full.clone() };
        assert_eq!(decide(other_channel, "invoice.paid"), Decision::NoMatch(Clause::Channel));
        let facility = EventFilter { facility: text("berlin"), ..full.clone() };
        assert_eq!(decide(facility, "invoice.paid"), Decision::NoMatch(Clause::Facility));
        let service = EventFilter { service: text("crm"), ..full };
        assert_eq!(decide(service, "invoice.paid"), Decision::NoMatch(Clause::Service));
    }

    #[test]
    fn a_reason_says_what_was_wanted_and_what_was_found() {
        let text = |text: &str| Some(text.to_owned());
        let expression = |text: &str| Some(Expression::parse(text).expect("compiles"));
        let shop = EventFilter { channel: text("shop"), ..EventFilter::default() };
        let types = ["a.*", "b", "c", "d", "e", "f", "g"].map(pattern).to_vec();
        for (filter, clause, reason) in [
            (EventFilter { org: text("other"), ..shop.clone() }, Clause::Org, "wanted other, the event has acme"),
            (shop.clone(), Clause::Channel, "wanted shop, the event has web"),
            (
                EventFilter { facility: text("x"), ..EventFilter::default() },
                Clause::Facility,
                "wanted x, the event has none",
            ),
            (
                EventFilter { event_types: types, ..EventFilter::default() },
                Clause::Type,
                "wanted a.*, b, c, d, e or 2 more, the event has invoice.paid",
            ),
            (
                EventFilter { expression: expression("event.source == 'crm'"), ..EventFilter::default() },
                Clause::Expression,
                "`event.source == 'crm'` is false",
            ),
            (
                EventFilter { expression: expression("data.amount > 1"), ..EventFilter::default() },
                Clause::Expression,
                "expression_error: there is no field `data.amount`; in `data.amount > 1`",
            ),
        ] {
            let event = event("invoice.paid");
            let subject = Subject::new(&event);
            assert_eq!(filter.decide_on(&subject), Decision::NoMatch(clause));
            assert_eq!(filter.reason(clause, &subject), reason);
        }
    }

    #[test]
    fn an_expression_is_the_last_clause_and_its_failure_is_no_match() {
        let filter = |text: &str| EventFilter {
            channel: Some("web".to_owned()),
            expression: Some(serde_json::from_value(text.into()).expect("reads")),
            ..EventFilter::default()
        };
        assert_eq!(filter("event.channel == 'web'").decide(&event("a")), Decision::Match);
        for text in ["event.channel == 'x'", "data.missing == 1", "event.subject", "no longer an expression"] {
            assert_eq!(filter(text).decide(&event("a")), Decision::NoMatch(Clause::Expression), "{text}");
        }
        let other = EventFilter { channel: Some("x".to_owned()), ..filter("true") };
        assert_eq!(other.decide(&event("a")), Decision::NoMatch(Clause::Channel));
        let stored = serde_json::to_value(filter("event.channel == 'web'")).expect("writes");
        assert_eq!(serde_json::from_value::<EventFilter>(stored).expect("reads"), filter("event.channel == 'web'"));
        let before = r#"{"org":"acme","event_types":["a"],"channel":null,"facility":null,"service":null}"#;
        assert_eq!(serde_json::from_str::<EventFilter>(before).expect("an older record reads").expression, None);
    }
}
