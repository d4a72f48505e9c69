//! Quarantined events over HTTP (ING-6).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};

use super::answer::{Answer, json, page, text};
use super::auth::{authorize, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::catalog::quarantine::{Listing, State};
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Scope, bad_cursor};
use crate::store::quarantine::QuarantineId;

/// `GET /v1/quarantine`, oldest first
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, &["org", "type", "state", "cursor", "limit"])?;
    let state = |text: &str| {
        State::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            Problem::field("state", "one of open, redriven, discarded", text).as_kind(ProblemKind::InvalidParameter)
        })
    };
    let cursor = |text: &str| QuarantineId::parse(text).ok_or_else(|| bad_cursor(text));
    let listing = Listing {
        org: scoped_org(params.text("org"), principal.org())?,
        event_type: params.text("type"),
        state: params.get("state").map(state).transpose()?,
        after: params.get("cursor").map(cursor).transpose()?,
    };
    let limit = params.limit()?;
    Ok(page("items", app.hub.blocking(move |hub| hub.quarantined(&listing, limit)).await?))
}

/// `GET /v1/quarantine/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = principal.org().map(str::to_owned);
    let found = app.hub.blocking(move |hub| hub.quarantined_event(&id, org.as_deref())).await?;
    Ok(text(StatusCode::OK, found))
}

/// `POST /v1/quarantine/{id}/redrive`
pub(crate) async fn redrive(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::OK, &app.hub.redrive_quarantined(&id, principal.org(), context).await?))
}

/// `POST /v1/quarantine/{id}/discard`
pub(crate) async fn discard(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let org = principal.org().map(str::to_owned);
    let work = move |hub: &crate::hub::Hub| hub.discard_quarantined(&id, org.as_deref(), fields, context);
    Ok(json(StatusCode::OK, &app.hub.blocking(work).await?))
}

/// `POST /v1/quarantine/redrive`: many
pub(crate) async fn redrive_many(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::OK, &app.hub.redrive_quarantine(fields, principal.org(), context).await?))
}
