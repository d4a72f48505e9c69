//! Reading the clauses of a filter from what a client sends: the same fields and bounds wherever there is a filter
//! (webhooks, consumers, replays).

use serde_json::Value;

use super::expression::Expression;
use super::{EventFilter, TypePattern};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::{EVENT_TYPE_CHARS_MAX, SCOPE_CHARS_MAX};

/// Most patterns of a filter.
pub const EVENT_TYPES_MAX: usize = 100;

/// Takes `event_types`, `channel`, `facility`, `service` and `filter` out of the fields, and sets those that were sent; null takes
/// a scope or the expression away. The org is not read here: who may name which is another question.
///
/// # Errors
/// When a field does not fit.
pub fn read_clauses(fields: &mut Fields, filter: &mut EventFilter) -> Result<(), Problem> {
    read_scopes(fields, filter)?;
    read_expression(fields, "filter", filter)
}

/// Takes the expression out of the field that holds it: `filter`, or another name where that would mislead.
///
/// # Errors
/// When it does not fit; the problem names the field.
pub fn read_expression(fields: &mut Fields, name: &'static str, filter: &mut EventFilter) -> Result<(), Problem> {
    match fields.sent(name) {
        None => {}
        Some(Value::Null) => filter.expression = None,
        Some(Value::String(text)) => {
            filter.expression = Some(Expression::parse(&text).map_err(|problem| renamed(problem, name))?);
        }
        Some(other) => return Err(Problem::field(name, "an expression, as a text", other)),
    }
    Ok(())
}

/// A mistake in an expression, under the name of the field that holds it.
fn renamed(mut problem: Problem, name: &str) -> Problem {
    if let Some(rest) = problem.detail.strip_prefix("filter") {
        problem.detail = format!("{name}{rest}");
    }
    problem.field = problem.field.map(|field| if field == "filter" { name.to_owned() } else { field });
    problem
}

/// Takes `event_types`, `channel`, `facility` and `service` alone.
///
/// # Errors
/// When a field does not fit.
pub fn read_scopes(fields: &mut Fields, filter: &mut EventFilter) -> Result<(), Problem> {
    if let Some(patterns) = event_types(fields)? {
        filter.event_types = patterns;
    }
    scope(fields, "channel", &mut filter.channel)?;
    scope(fields, "facility", &mut filter.facility)?;
    scope(fields, "service", &mut filter.service)
}

fn event_types(fields: &mut Fields) -> Result<Option<Vec<TypePattern>>, Problem> {
    let Some(texts) = fields.texts("event_types", EVENT_TYPES_MAX, EVENT_TYPE_CHARS_MAX + 2)? else { return Ok(None) };
    if texts.is_empty() {
        return Err(Problem::field("event_types", "at least one pattern; `*` for all", "[]"));
    }
    let read = |(at, text): (usize, &String)| {
        TypePattern::parse(text).map_err(|problem| {
            Problem::field(format!("event_types[{at}]"), problem.limit.unwrap_or(problem.detail), text)
        })
    };
    texts.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

fn scope(fields: &mut Fields, name: &'static str, place: &mut Option<String>) -> Result<(), Problem> {
    match fields.sent(name) {
        None => {}
        Some(Value::Null) => *place = None,
        Some(Value::String(text)) if !text.is_empty() && text.chars().count() <= SCOPE_CHARS_MAX => *place = Some(text),
        Some(other) => {
            return Err(Problem::field(name, format!("a text of 1 to {SCOPE_CHARS_MAX} characters"), other));
        }
    }
    Ok(())
}
