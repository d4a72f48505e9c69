//! What a client asks for, checked: each refusal names the field, the bound and what was sent.

use serde_json::Value;

use super::spec::Matching;
use crate::event::filter::fields::read_clauses;
use crate::event::filter::{EventFilter, TypePattern};
use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::ground::limits::{AGGREGATE_ID_CHARS_MAX, CODE_CHARS_MAX, EVENT_ID_CHARS_MAX, SCOPE_CHARS_MAX};

/// Most events that one replay lists by their ids.
pub const EVENT_IDS_MAX: usize = 1_000;
/// Largest rate cap, in events a second.
pub const RATE_MAX: u64 = 100_000;

/// Longest id of a consumer, in characters.
pub const CONSUMER_CHARS_MAX: usize = 256;

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A position in the log.
    Seq(Seq),
    /// A time of receipt.
    Time(UnixMs),
}

/// A replay as a client asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayRequest {
    /// Where it begins: this position, or what was received at or after this time.
    pub from: Option<Bound>,
    /// Where it ends: this position, or what was received before this time.
    pub to: Option<Bound>,
    /// What fits, the org aside.
    pub filter: EventFilter,
    /// Of aggregates of this type.
    pub aggregate_type: Option<String>,
    /// Of this aggregate.
    pub aggregate_id: Option<String>,
    /// These events.
    pub event_ids: Vec<String>,
    /// Which of those that fit.
    pub matching: Matching,
    /// Most events a second.
    pub rate: Option<u32>,
    /// Only tell what would be replayed.
    pub dry_run: bool,
}

/// Reads the body of a replay.
///
/// # Errors
/// When a field does not fit.
pub fn read_replay(mut fields: Fields) -> Result<ReplayRequest, Problem> {
    let request = ReplayRequest {
        from: read_bound(&mut fields, "from")?,
        to: read_bound(&mut fields, "to")?,
        filter: filter(&mut fields)?,
        aggregate_type: fields.text("aggregate_type", SCOPE_CHARS_MAX)?,
        aggregate_id: fields.text("aggregate_id", AGGREGATE_ID_CHARS_MAX)?,
        event_ids: event_ids(&mut fields)?,
        matching: fields.choice("match", "current, all, delivered")?.unwrap_or_default(),
        rate: rate(&mut fields)?,
        dry_run: flag(&mut fields, "dry_run")?,
    };
    fields.finish()?;
    if !request.event_ids.is_empty() && (request.from.is_some() || request.to.is_some()) {
        return Err(Problem::field("event_ids", "not together with `from` or `to`", "both"));
    }
    match (request.from, request.to) {
        (Some(Bound::Seq(from)), Some(Bound::Seq(to))) if from > to => {
            Err(Problem::field("from", format!("at most `to`, which is {to}"), from))
        }
        (Some(Bound::Time(from)), Some(Bound::Time(to))) if from >= to => {
            Err(Problem::field("from", format!("before `to`, which is {to}"), from))
        }
        _ if request.matching == Matching::Delivered && !request.event_ids.is_empty() => {
            Err(Problem::field("match", "`current` or `all` when events are listed by their ids", "delivered"))
        }
        _ => Ok(request),
    }
}

/// The rate cap.
///
/// # Errors
/// When it does not fit.
pub fn rate(fields: &mut Fields) -> Result<Option<u32>, Problem> {
    let rate = fields.number("rate", 1, RATE_MAX)?;
    Ok(rate.and_then(|rate| u32::try_from(rate).ok()))
}

fn flag(fields: &mut Fields, name: &'static str) -> Result<bool, Problem> {
    match fields.take(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => Err(Problem::field(name, "true or false", other)),
    }
}

/// One end of a range: a position or a time.
///
/// # Errors
/// When the field is something else.
pub fn read_bound(fields: &mut Fields, name: &'static str) -> Result<Option<Bound>, Problem> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    let read = match &value {
        Value::Number(number) => number.as_u64().filter(|seq| *seq > 0).map(|seq| Bound::Seq(Seq(seq))),
        Value::String(text) => UnixMs::parse_rfc3339(text).ok().map(Bound::Time),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let limit = "a position (a whole number from 1) or an RFC 3339 time";
    read.map(Some).ok_or_else(|| Problem::field(name, limit, value))
}

/// The clauses that webhooks have, too; `source` is another name of `service`.
fn filter(fields: &mut Fields) -> Result<EventFilter, Problem> {
    let mut filter = EventFilter::default();
    read_clauses(fields, &mut filter)?;
    if let Some(source) = fields.text("source", SCOPE_CHARS_MAX)? {
        if filter.service.is_some() {
            return Err(Problem::field("source", "not together with `service`: they are the same", source));
        }
        filter.service = Some(source);
    }
    Ok(filter)
}

fn event_ids(fields: &mut Fields) -> Result<Vec<String>, Problem> {
    let ids = fields.texts("event_ids", EVENT_IDS_MAX, EVENT_ID_CHARS_MAX)?;
    match ids {
        Some(ids) if ids.is_empty() => Err(Problem::field("event_ids", format!("1 to {EVENT_IDS_MAX} ids"), "none")),
        ids => Ok(ids.unwrap_or_default()),
    }
}

fn time(fields: &mut Fields, name: &'static str) -> Result<Option<UnixMs>, Problem> {
    let Some(text) = fields.text(name, 64)? else { return Ok(None) };
    let read = UnixMs::parse_rfc3339(&text);
    read.map(Some).map_err(|error| Problem::field(name, format!("an RFC 3339 time ({error})"), text))
}

/// A recovery as a client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverRequest {
    /// What failed at or after this.
    pub since: UnixMs,
    /// Most events a second.
    pub rate: Option<u32>,
}

/// Reads the body of a recovery.
///
/// # Errors
/// When a field does not fit.
pub fn read_recover(mut fields: Fields) -> Result<RecoverRequest, Problem> {
    let since = time(&mut fields, "since")?;
    let rate = rate(&mut fields)?;
    fields.finish()?;
    let since = since.ok_or_else(|| Problem::field("since", "required: an RFC 3339 time", "nothing"))?;
    Ok(RecoverRequest { since, rate })
}

/// A redrive of many as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedriveRequest {
    /// Of this consumer.
    pub consumer: Option<String>,
    /// Of this org.
    pub org: Option<String>,
    /// Of events of this type.
    pub event_type: Option<TypePattern>,
    /// With this kind of error.
    pub error_kind: Option<String>,
    /// Given up at or after.
    pub from: Option<UnixMs>,
    /// Given up before.
    pub to: Option<UnixMs>,
    /// Most events a second.
    pub rate: Option<u32>,
    /// Only tell what would be redriven.
    pub dry_run: bool,
}

/// Reads the body of a redrive of many.
///
/// # Errors
/// When a field does not fit.
pub fn read_redrive(mut fields: Fields) -> Result<RedriveRequest, Problem> {
    let event_type = fields.text("type", crate::ground::limits::EVENT_TYPE_CHARS_MAX)?;
    let event_type = event_type.map(|text| {
        let of_type = |problem: Problem| Problem::field("type", problem.limit.unwrap_or(problem.detail), &text);
        TypePattern::parse(&text).map_err(of_type)
    });
    let request = RedriveRequest {
        consumer: fields.text("consumer", CONSUMER_CHARS_MAX)?,
        org: fields.text("org", SCOPE_CHARS_MAX)?,
        event_type: event_type.transpose()?,
        error_kind: fields.text("error_kind", CODE_CHARS_MAX)?,
        from: time(&mut fields, "from")?,
        to: time(&mut fields, "to")?,
        rate: rate(&mut fields)?,
        dry_run: flag(&mut fields, "dry_run")?,
    };
    fields.finish()?;
    match (request.from, request.to) {
        (Some(from), Some(to)) if from >= to => {
            Err(Problem::field("from", format!("before `to`, which is {to}"), from))
        }
        _ => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).expect("an object")
    }

    #[test]
    fn a_range_is_given_by_positions_or_times() {
        let request = read_replay(fields(r#"{"from":5,"to":"2026-11-21T08:00:00Z","match":"all","rate":7}"#));
        let request = request.expect("is taken");
        assert_eq!(request.from, Some(Bound::Seq(Seq(5))));
        assert_eq!(request.to, Some(Bound::Time(UnixMs(1_795_248_000_000))));
        assert_eq!((request.matching, request.rate, request.dry_run), (Matching::All, Some(7), false));
        assert_eq!(read_replay(fields("{}")).expect("is taken"), ReplayRequest::default());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name() {
        let long = format!(r#"{{"event_ids":[{}]}}"#, vec![r#""e""#; EVENT_IDS_MAX + 1].join(","));
        for (field, text) in [
            ("from", r#"{"from":0}"#),
            ("from", r#"{"from":"yesterday"}"#),
            ("to", r#"{"to":-1}"#),
            ("to", r#"{"to":[1]}"#),
            ("from", r#"{"from":9,"to":8}"#),
            ("from", r#"{"from":"2026-11-21T08:00:00Z","to":"2026-11-21T08:00:00Z"}"#),
            ("event_types[0]", r#"{"event_types":["a*"]}"#),
            ("filter", r#"{"filter":"type =="}"#),
            ("source", r#"{"source":"a","service":"b"}"#),
            ("event_types", r#"{"event_types":"a.b"}"#),
            ("event_ids", r#"{"event_ids":[]}"#),
            ("event_ids", long.as_str()),
            ("event_ids", r#"{"event_ids":["a"],"from":1}"#),
            ("match", r#"{"event_ids":["a"],"match":"delivered"}"#),
            ("match", r#"{"match":"some"}"#),
            ("rate", r#"{"rate":0}"#),
            ("rate", r#"{"rate":100001}"#),
            ("dry_run", r#"{"dry_run":"yes"}"#),
            ("source", r#"{"source":""}"#),
            ("colour", r#"{"colour":1}"#),
        ] {
            let problem = read_replay(fields(text)).expect_err(field);
            assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
            assert!(problem.limit.is_some() && problem.sent.is_some(), "{problem:?}");
        }
        for (field, text) in
            [("since", "{}"), ("since", r#"{"since":"soon"}"#), ("colour", r#"{"since":null,"colour":1}"#)]
        {
            assert_eq!(read_recover(fields(text)).expect_err(text).field.as_deref(), Some(field));
        }
        for (field, text) in [
            ("type", r#"{"type":"*.a"}"#),
            ("from", r#"{"from":"2026-11-21T08:00:00Z","to":"2026-11-21T07:00:00Z"}"#),
            ("rate", r#"{"rate":1.5}"#),
        ] {
            assert_eq!(read_redrive(fields(text)).expect_err(text).field.as_deref(), Some(field));
        }
    }
}
