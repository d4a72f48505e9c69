//! Dead letters over HTTP (RTY-3, RTY-4).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};

use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::jobs::asked;
use super::params::Params;
use super::{Shared, body};
use crate::event::filter::TypePattern;
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{LetterQuery, LetterState, Scope, bad_cursor};

/// `GET /v1/dead-letters`, newest first
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let known = ["consumer", "type", "org", "state", "from", "to", "cursor", "limit"];
    let params = Params::read(&request, &known)?;
    let pattern = params.get("type").map(|text| {
        TypePattern::parse(text).map_err(|problem| {
            Problem::field("type", problem.limit.unwrap_or(problem.detail), text).as_kind(ProblemKind::InvalidParameter)
        })
    });
    let before = params.text("cursor");
    if let Some(text) = before.as_deref().filter(|text| !text.starts_with("dlq_")) {
        return Err(bad_cursor(text).into());
    }
    let query = LetterQuery {
        org: scoped_org(params.text("org"), principal.org())?,
        consumer: params.text("consumer"),
        event_type: pattern.transpose()?,
        state: params.get("state").map(LetterState::parse).transpose()?,
        from: params.time("from")?,
        to: params.time("to")?,
        before,
        limit: params.limit()?,
    };
    let found = app.hub.blocking(move |hub| hub.dead_letters(&query)).await?;
    Ok(page("items", found))
}

/// `GET /v1/dead-letters/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = principal.org().map(str::to_owned);
    let found = app.hub.blocking(move |hub| hub.dead_letter(&id, org.as_deref())).await?;
    Ok(json(StatusCode::OK, &found))
}

/// `POST /v1/dead-letters/{id}/redrive`
pub(crate) async fn redrive(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::ACCEPTED, &app.hub.redrive_letter(&id, principal.org(), context).await?))
}

/// `POST /v1/dead-letters/{id}/discard`
pub(crate) async fn discard(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::OK, &app.hub.discard_letter(&id, principal.org(), fields, context).await?))
}

/// `POST /v1/dead-letters/redrive`: many, as a job
pub(crate) async fn redrive_many(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(asked(app.hub.redrive_letters(fields, principal.org(), context).await?))
}
