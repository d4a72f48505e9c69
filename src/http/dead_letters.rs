//! Dead letters over HTTP (RTY-3, RTY-4: list and show).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};

use super::Shared;
use super::answer::{Answer, json, page};
use super::auth::authorize;
use super::params::Params;
use crate::event::filter::TypePattern;
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Scope, bad_cursor};

/// `GET /v1/dead-letters`, newest first
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, &["consumer", "type", "org", "from", "to", "cursor", "limit"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    let consumer = params.text("consumer");
    let pattern = params.get("type").map(|text| {
        TypePattern::parse(text).map_err(|problem| {
            Problem::field("type", problem.limit.unwrap_or(problem.detail), text).as_kind(ProblemKind::InvalidParameter)
        })
    });
    let pattern = pattern.transpose()?;
    let (from, to, limit) = (params.time("from")?, params.time("to")?, params.limit()?);
    let cursor = params.text("cursor");
    if let Some(text) = cursor.as_deref().filter(|text| !text.starts_with("dlq_")) {
        return Err(bad_cursor(text).into());
    }
    let wanted = move |record: &crate::store::DeadLetterRecord| {
        org.as_ref().is_none_or(|org| *org == record.org)
            && consumer.as_ref().is_none_or(|consumer| consumer == record.consumer.as_str())
            && pattern.as_ref().is_none_or(|pattern| pattern.matches(&record.event_type))
            && from.is_none_or(|from| record.at >= from)
            && to.is_none_or(|to| record.at < to)
    };
    let found = app.hub.blocking(move |hub| hub.dead_letters(wanted, cursor.as_deref(), limit)).await?;
    Ok(page("items", found))
}

/// `GET /v1/dead-letters/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = principal.org().map(str::to_owned);
    let found = app.hub.blocking(move |hub| hub.dead_letter(&id, org.as_deref())).await?;
    Ok(json(StatusCode::OK, &found))
}
