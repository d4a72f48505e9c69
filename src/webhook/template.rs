//! Bodies from templates (WHK-4): a text with places that an event fills, in the language of Jinja.
//!
//! A template sees the envelope's fields by name (`type`, `id`, `org`, `seq`, `received_at`, `data`, `metadata`, …) and,
//! as `data_json`, the text of the data as it came, number for number. `{{ value|tojson }}` writes a value as JSON,
//! `{{ time|utc_seconds }}` an RFC 3339 time in UTC and to the second. What
//! is sent as JSON must be JSON: an event that breaks out of its place fails, it does not get through.
//!
//! A template is written by a customer and runs in the operator's process, so everything is bounded:
//! - `TP-1` Time: fuel for every step, and a bound on the bytes that filters read and write.
//! - `TP-2` Memory: no value grows out of others. There are no assignments, no macros, no captured blocks, and none of
//!   `~ + * **`; events and outputs have a largest size, and so has the number of filters.
//! - `TP-3` Reach: no other template, no function but `range`, no filter but those below.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use minijinja::machinery::{Token, tokenize};
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, functions, tests as checks};
use serde_json::value::RawValue;

use crate::event::envelope::Event;
use crate::event::render;
use crate::ground::clock::utc_seconds;
use crate::ground::error::Problem;
use crate::ground::limits::clip;

/// Longest template, in bytes.
pub const SOURCE_BYTES_MAX: usize = 16 << 10;
/// Largest event that a template is filled with, in bytes.
pub const EVENT_BYTES_MAX: usize = 256 << 10;
/// Largest body a template may make, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Steps of one rendering.
const FUEL: u64 = 50_000;
/// Bytes that the filters of one rendering may read and write.
const FILTER_BYTES_MAX: usize = 8 << 20;
/// Filters in one template.
const FILTERS_MAX: usize = 50;
/// Loops within loops.
const DEPTH_MAX: usize = 50;
/// Characters of an error that are shown.
const ERROR_CHARS_MAX: usize = 300;
/// The blocks there are.
const BLOCKS: [&str; 7] = ["if", "elif", "else", "endif", "for", "endfor", "raw"];
/// The filters there are.
const FILTERS: [&str; 10] =
    ["tojson", "upper", "lower", "trim", "truncate", "length", "first", "default", "join", "utc_seconds"];
/// Characters of a text that was to be a time and is none.
const TIME_CHARS_SHOWN: usize = 40;
const NAME: &str = "template";

thread_local! {
    /// What the filters of the rendering on this thread may still read and write.
    static FILTER_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Why an event could not be written by its template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the template failed: {0}")]
pub struct TemplateFault(String);

/// A compiled template.
pub struct Template {
    environment: Environment<'static>,
    is_json: bool,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("is_json", &self.is_json).finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles a template. `content_type` says whether its output must be JSON.
    ///
    /// # Errors
    /// A problem of `field` with the line and what is wrong there.
    pub fn compile(source: &str, content_type: &str, field: &str) -> Result<Self, Problem> {
        if source.is_empty() || source.len() > SOURCE_BYTES_MAX {
            let sent = format!("{} bytes", source.len());
            return Err(Problem::field(field, format!("1 to {SOURCE_BYTES_MAX} bytes"), sent));
        }
        let refused = |(line, what): (usize, String)| {
            let sent = source.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            Problem::field(field, format!("line {line}: {what}"), sent).with("line", line as u64)
        };
        check_tokens(source).map_err(refused)?;
        let mut environment = environment();
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| refused((error.line().unwrap_or(1), described(&error))))?;
        Ok(Self { environment, is_json: is_json(content_type) })
    }

    /// Fills the template with an event. Does not return soon: call it where that harms nobody.
    ///
    /// # Errors
    /// What the template met: an undefined value, a bound, output that is no JSON.
    pub fn render(&self, event: &Event) -> Result<Bytes, TemplateFault> {
        let fault = |text: String| TemplateFault(clip(&text, ERROR_CHARS_MAX).to_owned());
        if event.body.len() > EVENT_BYTES_MAX {
            return Err(fault(format!("the event has {} bytes, a template takes {EVENT_BYTES_MAX}", event.body.len())));
        }
        let envelope = render::envelope(event);
        let unread = |error: serde_json::Error| fault(format!("the event does not read: {error}"));
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(&envelope).map_err(unread)?;
        let mut seen = BTreeMap::new();
        for (name, text) in fields {
            seen.insert(name, value_of(text.get()).map_err(unread)?);
        }
        let data = event.meta.data.map_or(b"null".as_slice(), |span| event.text(span));
        seen.insert("data_json".to_owned(), Value::from_safe_string(String::from_utf8_lossy(data).into_owned()));
        let template = self.environment.get_template(NAME).map_err(|error| fault(described(&error)))?;
        FILTER_BYTES.set(FILTER_BYTES_MAX);
        let mut out = Bounded(Vec::with_capacity(1_024));
        template.render_captured_to(Value::from(seen), &mut out).map_err(|error| {
            let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
            fault(format!("{line}{}", described(&error)))
        })?;
        if self.is_json
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&out.0)
        {
            return Err(fault(format!("what it makes of this event is no JSON: {error}")));
        }
        Ok(Bytes::from(out.0))
    }
}

/// A JSON text as templates see it. A number that no 64 bits hold is its text, so that it is written as it came. Nesting
/// is bounded since the event was taken in.
fn value_of(text: &str) -> Result<Value, serde_json::Error> {
    let text = text.trim();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
            let read = |(name, text): (String, &RawValue)| Ok((name, value_of(text.get())?));
            Value::from(members.into_iter().map(read).collect::<Result<BTreeMap<_, _>, serde_json::Error>>()?)
        }
        Some(b'[') => {
            let entries: Vec<&RawValue> = serde_json::from_str(text)?;
            let read = |text: &RawValue| value_of(text.get());
            Value::from(entries.into_iter().map(read).collect::<Result<Vec<_>, serde_json::Error>>()?)
        }
        Some(b'"') => Value::from(serde_json::from_str::<String>(text)?),
        Some(b'-' | b'0'..=b'9') => number_of(text),
        _ => Value::from(serde_json::from_str::<Option<bool>>(text)?),
    })
}

fn number_of(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::from(whole);
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Value::from(whole);
    }
    let is_whole = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && !is_whole => Value::from(number),
        Ok(_) | Err(_) => Value::from_safe_string(text.to_owned()),
    }
}

/// Whether bodies of this content type are JSON.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// What an error says, without the source around it.
fn described(error: &Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it takes more than {FUEL} steps");
    }
    if let Some(full) = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return full.to_string();
    }
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Refuses what could make values grow (TP-2), before anything is compiled.
fn check_tokens(source: &str) -> Result<(), (usize, String)> {
    let mut filters = 0;
    let mut in_block = false;
    let mut at_block_start = false;
    let mut at_filter = false;
    for token in tokenize(source, false, minijinja::syntax::SyntaxConfig::default()) {
        let (token, span) = token.map_err(|error| (error.line().unwrap_or(1), described(&error)))?;
        let refuse = |what: &str| Err((usize::from(span.start_line), what.to_owned()));
        match token {
            Token::BlockStart => (in_block, at_block_start) = (true, true),
            Token::BlockEnd => in_block = false,
            Token::Ident(name) if at_block_start => {
                at_block_start = false;
                if !BLOCKS.contains(&name) {
                    return refuse(&format!("there is no block `{name}`; there are if and for"));
                }
            }
            Token::Ident(name) if at_filter => {
                at_filter = false;
                if !FILTERS.contains(&name) {
                    return refuse(&format!("there is no filter `{name}`; there are {}", FILTERS.join(", ")));
                }
            }
            Token::Ident("recursive") if in_block => return refuse("loops cannot be recursive"),
            Token::Tilde | Token::Plus | Token::Mul | Token::Pow => {
                return refuse(&format!("there is no operator {token}; write values one after the other"));
            }
            Token::Pipe => {
                filters += 1;
                at_filter = true;
                if filters > FILTERS_MAX {
                    return refuse(&format!("more than {FILTERS_MAX} filters"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes bytes from what filters may still read and write.
fn spend(bytes: usize) -> Result<(), Error> {
    let left = FILTER_BYTES.get();
    if bytes > left {
        let text = format!("its filters read and write more than {FILTER_BYTES_MAX} bytes");
        return Err(Error::new(ErrorKind::InvalidOperation, text));
    }
    FILTER_BYTES.set(left - bytes);
    Ok(())
}

/// The text of a value; the bytes are counted before they are made into anything else.
fn text(value: &Value) -> Result<String, Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    spend(text.len())?;
    Ok(text)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_debug(false);
    environment.add_filter("tojson", |value: Value| -> Result<Value, Error> {
        let json = serde_json::to_string(&value)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        spend(json.len())?;
        Ok(Value::from_safe_string(json))
    });
    environment.add_filter("upper", |value: Value| text(&value).map(|text| text.to_uppercase()));
    environment.add_filter("lower", |value: Value| text(&value).map(|text| text.to_lowercase()));
    environment.add_filter("trim", |value: Value| text(&value).map(|text| text.trim().to_owned()));
    environment
        .add_filter("truncate", |value: Value, chars: usize| text(&value).map(|text| clip(&text, chars).to_owned()));
    environment.add_filter("utc_seconds", |value: Value| {
        let text = text(&value)?;
        utc_seconds(&text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("{} is no RFC 3339 time", clip(&text, TIME_CHARS_SHOWN)))
        })
    });
    environment.add_filter("length", |value: Value| {
        value.len().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "this has no length"))
    });
    environment.add_filter("first", |value: Value| value.try_iter().map(|mut all| all.next()));
    environment.add_filter("default", |value: Value, other: Value| {
        if matches!(value.kind(), ValueKind::Undefined | ValueKind::None) { other } else { value }
    });
    environment.add_filter("join", |value: Value, between: Option<String>| -> Result<String, Error> {
        let between = between.unwrap_or_default();
        let mut out = String::new();
        for (at, one) in value.try_iter()?.enumerate() {
            spend(between.len())?;
            if at > 0 {
                out.push_str(&between);
            }
            out.push_str(&text(&one)?);
        }
        Ok(out)
    });
    environment.add_function("range", functions::range);
    environment.add_test("defined", checks::is_defined);
    environment.add_test("undefined", checks::is_undefined);
    environment.add_test("none", checks::is_none);
    environment.add_test("string", checks::is_string);
    environment.add_test("number", checks::is_number);
    environment.add_test("mapping", checks::is_mapping);
    environment.add_test("sequence", checks::is_sequence);
    environment
}

/// Takes as much as a body may have.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other(format!("it makes more than {OUTPUT_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills a template off the threads that deliver.
///
/// # Errors
/// As [`Template::render`].
pub async fn render(template: Arc<Template>, event: Arc<Event>) -> Result<Bytes, TemplateFault> {
    match tokio::task::spawn_blocking(move || template.render(&event)).await {
        Ok(rendered) => rendered,
        Err(error) => Err(TemplateFault(format!("it ended early: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::parse::{ParseRules, parse_event};
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::Seq;
    use crate::ground::random::SeededRandom;

    fn event(data: &str) -> Arc<Event> {
        let random = SeededRandom::shared(1);
        let body = format!(r#"{{"id":"e-1","type":"invoice.paid","org":"acme","data":{data}}}"#);
        let now = UnixMs(1_795_248_000_000);
        let rules =
            ParseRules { default_org: None, confined_to: None, event_bytes_max: 1 << 20, now, random: &*random };
        let draft = parse_event(&Bytes::from(body), &rules).expect("is taken");
        Event::new(Seq(7), now, draft.meta, draft.body)
    }

    fn rendered(source: &str, data: &str) -> Result<String, String> {
        let template = Template::compile(source, "text/plain", "template.body").expect("compiles");
        let bytes = template.render(&event(data)).map_err(|fault| fault.to_string())?;
        Ok(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[test]
    fn an_event_fills_the_places_of_a_template() {
        let source = "{{ type }} {{ id }} {{ org }} {{ seq }} {{ received_at }}: {% for one in data.lines %}{{ loop.index }}. \
                      {{ one.name|upper }} {% if one.gift %}(gift) {% endif %}{% endfor %}{{ data.none|default('-') }}";
        let data = r#"{"lines": [{"name": "ink", "gift": true}, {"name": "paper"}]}"#;
        let wanted = "invoice.paid e-1 acme 7 2026-11-21T08:00:00.000Z: 1. INK (gift) 2. PAPER -";
        assert_eq!(rendered(source, data).as_deref(), Ok(wanted));
        assert_eq!(
            rendered("{{ data|join(', ') }}|{{ data|length }}|{{ data|first }}", "[1, 2.5, \"x\"]").as_deref(),
            Ok("1, 2.5, x|3|1")
        );
    }

    #[test]
    fn a_time_is_written_in_utc_and_to_the_second() {
        let data = r#"{"at": "2026-11-21T00:59:59.999+02:00"}"#;
        assert_eq!(rendered("{{ data.at|utc_seconds }}", data).as_deref(), Ok("2026-11-20T22:59:59Z"));
        assert_eq!(rendered("{{ received_at|utc_seconds }}", "{}").as_deref(), Ok("2026-11-21T08:00:00Z"));
        let fault = rendered("{{ data.at|utc_seconds }}", r#"{"at": "tomorrow"}"#).expect_err("no time");
        assert!(fault.contains("tomorrow is no RFC 3339 time"), "{fault}");
    }

    #[test]
    fn the_data_can_be_copied_as_it_came_number_for_number() {
        let data = r#"{"b": 1.10, "a": 123456789012345678901234567890, "c": [1e400]}"#;
        assert_eq!(rendered("{\"x\":{{ data_json }}}", data), Ok(format!("{{\"x\":{data}}}")));
        assert_eq!(rendered("{{ data.a }}", data).as_deref(), Ok("123456789012345678901234567890"));
        assert_eq!(rendered("{{ data|tojson }}", r#"{"t":"a\"b<é"}"#).as_deref(), Ok(r#"{"t":"a\"b<é"}"#));
    }

    #[test]
    fn what_is_sent_as_json_must_be_json() {
        let template =
            |source: &str| Template::compile(source, "application/vnd.x+json; charset=utf-8", "t").expect("compiles");
        let loose = template(r#"{"text": "{{ data.t }}"}"#);
        assert!(loose.render(&event(r#"{"t": "fine"}"#)).is_ok());
        let fault = loose.render(&event(r#"{"t": "a\"b"}"#)).expect_err("it breaks out");
        assert!(fault.to_string().contains("no JSON"), "{fault}");
        assert!(template(r#"{"text": {{ data.t|tojson }}}"#).render(&event(r#"{"t": "a\"b"}"#)).is_ok());
    }

    #[test]
    fn a_wrong_template_is_refused_with_its_line() {
        let cases = [
            ("a\n{{ data.x", 2, "line 2"),
            ("a\n\n{% if data %}x", 3, "line 3"),
            ("{{ data.x|shout }}", 1, "shout"),
            ("{% set x = 1 %}", 1, "`set`"),
            ("\n{% set x %}a{% endset %}", 2, "`set`"),
            ("{% macro m() %}{% endmacro %}", 1, "`macro`"),
            ("{% include 'x' %}", 1, "`include`"),
            ("{% extends 'x' %}", 1, "`extends`"),
            ("{% filter upper %}x{% endfilter %}", 1, "`filter`"),
            ("{% with a = 1 %}{% endwith %}", 1, "`with`"),
            ("{{ data.x ~ data.x }}", 1, "operator"),
            ("{{ data.x * 1000000000 }}", 1, "operator"),
            ("{{ 'a' + 'b' }}", 1, "operator"),
            ("{% for x in data recursive %}{% endfor %}", 1, "recursive"),
            ("{{ 1 }", 1, "line 1"),
        ];
        for (source, line, told) in cases {
            let problem = Template::compile(source, "text/plain", "template.body").expect_err(source);
            assert_eq!(problem.field.as_deref(), Some("template.body"), "{source}");
            let limit = problem.limit.clone().unwrap_or_default();
            assert!(limit.contains(told) && limit.starts_with("line "), "{source}: {problem}");
            assert_eq!(problem.extra["line"], line, "{source}: {problem}");
        }
        let many = "{{ data|upper }}".repeat(FILTERS_MAX + 1);
        assert!(Template::compile(&many, "text/plain", "t").expect_err("many").detail.contains("50 filters"));
        assert!(Template::compile(&"x".repeat(SOURCE_BYTES_MAX + 1), "text/plain", "t").is_err());
        assert!(Template::compile("", "text/plain", "t").is_err());
    }

    #[test]
    fn a_template_that_fails_on_an_event_says_where_and_why() {
        let cases = [
            ("{{ data.x.y }}", "{}", "undefined"),
            ("\n{{ data.missing }}", "{}", "line 2"),
            ("{% for a in range(100000) %}x{% endfor %}", "{}", "50000 steps"),
            ("{% for a in range(5000) %}{{ data }}{% endfor %}", "\"BIG\"", "1048576 bytes"),
            ("{% for a in range(5000) %}{% if data|upper %}{% endif %}{% endfor %}", "\"BIG\"", "filters"),
            ("{{ nothing() }}", "{}", "unknown function"),
            ("{{ range(1000000) }}", "{}", "too many"),
            ("{{ data.a / 0 }}", r#"{"a": 1}"#, "template failed"),
        ];
        for (source, data, told) in cases {
            let data = data.replace("BIG", &"x".repeat(10_000));
            let fault = rendered(source, &data).expect_err(source);
            assert!(fault.to_lowercase().contains(told), "{source}: {fault}");
        }
        let large = format!("\"{}\"", "x".repeat(EVENT_BYTES_MAX));
        assert!(rendered("{{ id }}", &large).expect_err("large").contains("262144"));
        let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
        assert_eq!(rendered("{{ data|tojson }}", &deep), Ok(deep));
    }
}
