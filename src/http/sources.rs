//! Provider sources over HTTP (ING-4): what manages them, and where third parties post to.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use serde_json::json as document;

use super::answer::{Answer, done, json, page_of};
use super::caller::Call;
use super::events::answer_of;
use super::{Shared, body};
use crate::hub::{Scope, SourceAnswer};

/// `POST /v1/sources`
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let org = caller.own_org();
    let record = caller.hub().blocking(move |hub| hub.create_source(fields, org.as_deref(), context)).await?;
    Ok(json(StatusCode::CREATED, &record.to_json()))
}

/// `GET /v1/sources`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    let records = caller.hub().sources(org.as_deref());
    page_of(records, &params, |record| &record.name, |record| record.to_json())
}

/// `GET /v1/sources/{name}`
pub(crate) async fn show(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    Ok(json(StatusCode::OK, &caller.hub().source(&name, caller.org())?.to_json()))
}

/// `PATCH /v1/sources/{name}`
pub(crate) async fn change(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let org = caller.own_org();
    let record = caller.hub().blocking(move |hub| hub.change_source(&name, org.as_deref(), fields, context)).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `DELETE /v1/sources/{name}`
pub(crate) async fn delete(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let org = caller.own_org();
    caller.hub().blocking(move |hub| hub.delete_source(&name, org.as_deref())).await?;
    Ok(done())
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
