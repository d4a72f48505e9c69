//! A rule as it is kept, and as an operator asks for it: which events it takes, and which call each becomes (UPS-5).

use std::collections::BTreeMap;

use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pattern::Pattern;
use crate::event::filter::EventFilter;
use crate::event::filter::expression::Expression;
use crate::event::filter::fields::read_scopes;
use crate::event::filter::path::{FieldPath, PATH_CHARS_MAX};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::inbox::state::Ordering;
use crate::retry::RetryPolicy;
use crate::upstream::call::Method;
use crate::webhook::template::Template;

/// Most rules of an upstream.
pub const RULES_MAX: usize = 50;
/// Longest name of a rule, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Most fields that a rule may require, or members of its body that must be filled.
pub const REQUIRES_MAX: usize = 20;
/// Most headers of a rule.
pub const HEADERS_MAX: usize = 20;
/// Most calls of a rule under way at once.
pub const CONCURRENCY_MAX: u64 = 64;
/// Calls under way at once of a rule that does not say.
pub const CONCURRENCY_DEFAULT: usize = 8;
/// Longest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 500;
/// The formats of bodies.
pub const FORMATS: &str = "json, cloudevents";
/// The methods of publishes.
pub const METHODS: [Method; 4] = [Method::Post, Method::Put, Method::Patch, Method::Delete];
/// Headers that a rule may not set: the hub, HTTP or the upstream's credential does.
const RESERVED_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-correlation-id",
    "x-idempotency-key",
    "traceparent",
    "upgrade",
    "te",
    "trailer",
    "expect",
];

/// In which form the body goes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyForm {
    /// What the template makes, or the event's data.
    #[default]
    Json,
    /// The same as the data of a `CloudEvent`, whose id is `type:external id:timestamp`.
    Cloudevents,
}

/// The call that an event becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSettings {
    /// By which method.
    pub method: Method,
    /// Path and query below the upstream's base URL.
    pub path: Pattern,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Pattern>,
    /// In which form the body goes out.
    #[serde(default)]
    pub format: BodyForm,
    /// The template of the body; none sends the event's data.
    #[serde(default)]
    pub body: Option<String>,
    /// Members of the body that must not be empty.
    #[serde(default)]
    pub filled: Vec<String>,
}

/// What an event is about, in the upstream's terms: for the log, and for the id of a `CloudEvent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AboutPaths {
    /// The thing.
    pub external_id: FieldPath,
    /// The contact.
    #[serde(default)]
    pub contact_id: Option<FieldPath>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishRule {
    /// Its name, unique within the upstream.
    pub name: String,
    /// Which events it takes.
    pub filter: EventFilter,
    /// In which order they go out.
    #[serde(default)]
    pub ordering: Ordering,
    /// Calls under way at once.
    #[serde(default)]
    pub concurrency: Option<usize>,
    /// When a failed call is made again; none for the upstream's policy.
    #[serde(default)]
    pub retry: Option<RetryPolicy>,
    /// Whether nothing goes out now.
    #[serde(default)]
    pub paused: bool,
    /// What an event is about.
    pub about: AboutPaths,
    /// The call.
    pub call: CallSettings,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// Reads the rules of an upstream from a client's JSON: a list of objects. `org` is the tenant of the upstream, when it has
/// one: rules may name no other. Refusals name the rule by its place: `publishes[2].call.path`.
///
/// # Errors
/// When a field does not fit, or two rules have one name.
pub fn read_rules(sent: Value, org: Option<&str>) -> Result<Vec<PublishRule>, Problem> {
    let Value::Array(sent) = sent else {
        return Err(Problem::field("publishes", "a list of rules", sent));
    };
    if sent.len() > RULES_MAX {
        return Err(Problem::field("publishes", format!("at most {RULES_MAX} rules"), sent.len()));
    }
    let mut rules: Vec<PublishRule> = Vec::with_capacity(sent.len());
    for (at, value) in sent.into_iter().enumerate() {
        let place = format!("publishes[{at}]");
        let fields = Fields::within(value, &place)?;
        let rule = read_rule(fields, org).map_err(|problem| problem.under(&place))?;
        if let Some(first) = rules.iter().position(|known| known.name == rule.name) {
            let limit = format!("a name of its own; publishes[{first}] has this one");
            return Err(Problem::field(format!("{place}.name"), limit, rule.name));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn read_rule(mut fields: Fields, org: Option<&str>) -> Result<PublishRule, Problem> {
    let name = fields.required_text("name", NAME_CHARS_MAX)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.bytes().next().is_some_and(plain);
    if !fits || !name.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_')) {
        let limit = format!("1 to {NAME_CHARS_MAX} of a-z 0-9 - _, a letter or digit first");
        return Err(Problem::field("name", limit, name));
    }
    let given = fields.text("org", SCOPE_CHARS_MAX)?;
    let org = match (given, org) {
        (Some(given), Some(own)) if given != own => {
            return Err(Problem::field("org", format!("the upstream is {own}'s"), given));
        }
        (given, own) => given.or_else(|| own.map(str::to_owned)),
    };
    let mut filter = EventFilter { org, ..EventFilter::default() };
    read_scopes(&mut fields, &mut filter)?;
    if filter.event_types.is_empty() {
        return Err(Problem::field("event_types", "required: at least one pattern", "nothing"));
    }
    if let Some(when) = fields.take("when") {
        let text = when.as_str().ok_or_else(|| Problem::field("when", "an expression, as a text", &when))?;
        filter.expression = Some(Expression::parse(text).map_err(|problem| renamed(problem, "filter", "when"))?);
    }
    let requires = fields.texts("requires", REQUIRES_MAX, PATH_CHARS_MAX)?.unwrap_or_default();
    let path = |(at, text): (usize, &String)| FieldPath::parse(text, &format!("requires[{at}]"));
    filter.requires = requires.iter().enumerate().map(path).collect::<Result<_, _>>()?;
    let ordering = fields.choice("ordering", "none, key, strict")?.unwrap_or_default();
    let concurrency = fields.number("concurrency", 1, CONCURRENCY_MAX)?.and_then(|count| usize::try_from(count).ok());
    let retry = fields.take("retry").map(|sent| RetryPolicy::from_json(&sent, "retry")).transpose()?;
    let paused = match fields.take("paused") {
        None => false,
        Some(Value::Bool(paused)) => paused,
        Some(other) => return Err(Problem::field("paused", "true or false", other)),
    };
    let about = match fields.take("about") {
        None => AboutPaths { external_id: FieldPath::parse("aggregate_id", "about")?, contact_id: None },
        Some(sent) => read_about(Fields::within(sent, "about")?).map_err(|problem| problem.under("about"))?,
    };
    let call = fields.take("call").ok_or_else(|| Problem::field("call", "required: {method?, path, …}", "nothing"))?;
    let call = read_call(Fields::within(call, "call")?).map_err(|problem| problem.under("call"))?;
    let description = fields.text("description", DESCRIPTION_CHARS_MAX)?;
    fields.finish()?;
    Ok(PublishRule { name, filter, ordering, concurrency, retry, paused, about, call, description })
}

fn renamed(mut problem: Problem, from: &str, to: &str) -> Problem {
    if let Some(rest) = problem.detail.strip_prefix(from) {
        problem.detail = format!("{to}{rest}");
    }
    problem.field = problem.field.map(|field| if field == from { to.to_owned() } else { field });
    problem
}

fn read_about(mut fields: Fields) -> Result<AboutPaths, Problem> {
    let path = |fields: &mut Fields, name| {
        let text = fields.text(name, PATH_CHARS_MAX)?;
        text.map(|text| FieldPath::parse(&text, name)).transpose()
    };
    let external_id = path(&mut fields, "external_id")?;
    let contact_id = path(&mut fields, "contact_id")?;
    fields.finish()?;
    let external_id = match external_id {
        Some(external_id) => external_id,
        None => FieldPath::parse("aggregate_id", "external_id")?,
    };
    Ok(AboutPaths { external_id, contact_id })
}

fn read_call(mut fields: Fields) -> Result<CallSettings, Problem> {
    let words = METHODS.map(Method::as_str).join(", ");
    let method = fields.choice::<Method>("method", &words)?.unwrap_or(Method::Post);
    if !METHODS.contains(&method) {
        return Err(Problem::field("method", format!("one of {words}"), method.as_str()));
    }
    let path = fields.required_text("path", super::pattern::PATTERN_CHARS_MAX)?;
    let path = read_path(&path)?;
    let headers = match fields.take("headers") {
        None => BTreeMap::new(),
        Some(sent) => read_headers(sent)?,
    };
    let format = fields.choice("format", FORMATS)?.unwrap_or_default();
    let body = match fields.take("body") {
        None => None,
        Some(Value::String(body)) => {
            Template::compile(&body, "application/json", "body")?;
            Some(body)
        }
        Some(other) => return Err(Problem::field("body", "a template, as a text", other)),
    };
    if method == Method::Delete && (body.is_some() || format == BodyForm::Cloudevents) {
        let field = if body.is_some() { "body" } else { "format" };
        return Err(Problem::field(field, "none with the method DELETE", "one"));
    }
    let filled = fields.texts("filled", REQUIRES_MAX, PATH_CHARS_MAX)?.unwrap_or_default();
    fields.finish()?;
    Ok(CallSettings { method, path, headers, format, body, filled })
}

fn read_path(text: &str) -> Result<Pattern, Problem> {
    let pattern = Pattern::parse(text, "path")?;
    if !pattern.begins_with("/") || pattern.begins_with("//") {
        return Err(Problem::field("path", "a path that begins with one `/`, below the upstream's base URL", text));
    }
    let bad = |byte: u8| byte <= 0x20 || byte >= 0x7f || b"\\\"<>^`|#".contains(&byte);
    if pattern.plain().any(|plain| plain.bytes().any(bad)) {
        return Err(Problem::field("path", "outside its places what a path and a query may hold (RFC 3986)", text));
    }
    let dots = |plain: &str| plain.split(['/', '?']).any(|segment| matches!(segment, "." | ".."));
    if pattern.plain().any(dots) || text.to_ascii_lowercase().contains("%2e") {
        return Err(Problem::field("path", "a path without dot segments", text));
    }
    Ok(pattern)
}

fn read_headers(sent: Value) -> Result<BTreeMap<String, Pattern>, Problem> {
    let Value::Object(map) = sent else {
        return Err(Problem::field("headers", "an object of texts", "another type"));
    };
    if map.len() > HEADERS_MAX {
        return Err(Problem::field("headers", format!("at most {HEADERS_MAX}"), map.len()));
    }
    let mut out = BTreeMap::new();
    for (name, value) in map {
        let field = format!("headers.{name}");
        let name = name.to_ascii_lowercase();
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(Problem::field(field, "a header name (RFC 9110)", name));
        }
        if RESERVED_HEADERS.contains(&name.as_str()) {
            let limit = "not one that the hub sets itself; a credential belongs into the upstream's `auth`";
            return Err(Problem::field(field, limit, name));
        }
        let Value::String(text) = value else {
            return Err(Problem::field(field, "a text", "another type"));
        };
        let pattern = Pattern::parse(&text, &field)?;
        if pattern.plain().any(|plain| !plain.bytes().all(|byte| (0x20..=0x7e).contains(&byte))) {
            return Err(Problem::field(field, "visible ASCII outside its places", "something else"));
        }
        out.insert(name, pattern);
    }
    Ok(out)
}

impl PublishRule {
    /// The rule as operators see it: what they sent, with the defaults filled in.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { name, filter, ordering, concurrency, retry, paused, about, call, description } = self;
        let EventFilter { org, event_types, channel, facility, service, expression, requires } = filter;
        let CallSettings { method, path, headers, format, body, filled } = call;
        json!({
            "name": name,
            "org": org,
            "event_types": event_types,
            "channel": channel,
            "facility": facility,
            "service": service,
            "when": expression,
            "requires": requires,
            "ordering": ordering,
            "concurrency": concurrency,
            "retry": retry,
            "paused": paused,
            "about": { "external_id": about.external_id, "contact_id": about.contact_id },
            "call": {
                "method": method,
                "path": path,
                "headers": headers,
                "format": format,
                "body": body,
                "filled": filled,
            },
            "description": description,
        })
    }
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
