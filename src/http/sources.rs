//! Provider sources over HTTP (ING-4): what manages them, and where third parties post to.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json as document;

use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::events::answer_of;
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::scoped_org;
use crate::hub::{Page, Scope, SourceAnswer};

/// `POST /v1/sources`
pub(crate) async fn create(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let org = principal.org().map(str::to_owned);
    let record = app.hub.blocking(move |hub| hub.create_source(fields, org.as_deref(), context)).await?;
    Ok(json(StatusCode::CREATED, &record.to_json()))
}

/// `GET /v1/sources`
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["org", "cursor", "limit"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    let limit = params.limit()?;
    let after = params.text("cursor").unwrap_or_default();
    let mut records = app.hub.sources(org.as_deref());
    records.retain(|record| record.name > after);
    let has_more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().map_or(after, |record| record.name.clone());
    let items = records.iter().map(|record| record.to_json()).collect();
    Ok(page("items", Page { items, next, has_more }))
}

/// `GET /v1/sources/{name}`
pub(crate) async fn show(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    Ok(json(StatusCode::OK, &app.hub.source(&name, principal.org())?.to_json()))
}

/// `PATCH /v1/sources/{name}`
pub(crate) async fn change(
    app: Shared,
    request: HttpRequest,
    name: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let org = principal.org().map(str::to_owned);
    let record = app.hub.blocking(move |hub| hub.change_source(&name, org.as_deref(), fields, context)).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `DELETE /v1/sources/{name}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = principal.org().map(str::to_owned);
    app.hub.blocking(move |hub| hub.delete_source(&name, org.as_deref())).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v1/sources/{name}`: a third party's request, which its own verification lets in. No key is asked for.
pub(crate) async fn receive(
    app: Shared,
    request: HttpRequest,
    name: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let limit = app.hub.config().limits.event_bytes_max;
    let bytes = body::read(&app, &request, &mut payload, limit).await?;
    let headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let ip = request.peer_addr().map(|address| address.ip().to_string());
    match app.hub.receive(&name, &headers, &bytes, ip).await? {
        SourceAnswer::Challenge(challenge) => Ok(json(StatusCode::OK, &document!({ "challenge": challenge }))),
        SourceAnswer::Taken { id, accepted } => answer_of(&id, Some(accepted)),
    }
}
