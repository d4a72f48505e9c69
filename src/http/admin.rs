//! The admin API: keys, settings, statistics, breakers, fault injection.

use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};

use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::breaker::Command;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Page, Scope};

/// `POST /v1/admin/keys`: the key is shown this once.
pub(crate) async fn create_key(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let made = app.hub.blocking(move |hub| hub.create_key(fields, context)).await?;
    let mut out = made.0.to_json();
    if let Value::Object(map) = &mut out {
        map.insert("key".into(), Value::from(made.1.expose()));
    }
    Ok(json(StatusCode::CREATED, &out))
}

/// `GET /v1/admin/keys`
pub(crate) async fn list_keys(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["cursor", "limit"])?;
    let (limit, after) = (params.limit()?, params.text("cursor").unwrap_or_default());
    let mut keys = app.hub.keys().list();
    keys.retain(|key| key.record.id > after);
    let has_more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().map_or(after, |key| key.record.id.clone());
    Ok(page("items", Page { items: keys.iter().map(|key| key.to_json()).collect(), next, has_more }))
}

/// `PATCH /v1/admin/keys/{id}`: its rate limit, its end
pub(crate) async fn change_key(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let wanted = id.into_inner();
    let key = app.hub.blocking(move |hub| hub.keys().change(&wanted, fields, context)).await?;
    Ok(json(StatusCode::OK, &key.to_json()))
}

/// `DELETE /v1/admin/keys/{id}`
pub(crate) async fn revoke_key(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let wanted = id.clone();
    if app.hub.blocking(move |hub| hub.keys().revoke(&wanted)).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(Problem::not_found("key", &id).into())
    }
}

fn settings_json(app: &Shared) -> Result<Value, Problem> {
    serde_json::to_value(app.hub.outbox_settings())
        .map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))
}

/// `GET /v1/admin/settings`
pub(crate) async fn settings(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    Ok(json(StatusCode::OK, &settings_json(&app)?))
}

/// `PATCH /v1/admin/settings`
pub(crate) async fn change_settings(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    body::expect_type(&request, &["application/json"])?;
    let bytes = body::read(&app, &request, &mut payload, body::DOCUMENT_BYTES_MAX).await?;
    let changes: Map<String, Value> = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => map,
        Ok(other) => return Err(Problem::field("body", "a JSON object", other).into()),
        Err(error) => return Err(Problem::new(ProblemKind::NotJson, error.to_string()).into()),
    };
    app.hub.blocking(move |hub| hub.patch_settings(&changes)).await?;
    Ok(json(StatusCode::OK, &settings_json(&app)?))
}

/// `GET /v1/admin/stats`
pub(crate) async fn stats(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Read)?;
    Ok(json(StatusCode::OK, &app.hub.stats().await))
}

/// `GET /v1/admin/health`: the state of each component.
pub(crate) async fn health(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Read)?;
    let components = app.hub.components();
    let ok = components.iter().all(|one| one.ok);
    let requests = app.in_flight.load(Ordering::Relaxed);
    let body = json!({
        "status": if ok { "ok" } else { "degraded" },
        "components": serde_json::to_value(&components).unwrap_or(Value::Null),
        "requests_in_flight": requests,
    });
    Ok(json(StatusCode::OK, &body))
}

/// `GET /v1/admin/consumers`
pub(crate) async fn consumers(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Read)?;
    Ok(json(StatusCode::OK, &json!({ "items": app.hub.consumers().await, "next_cursor": "", "has_more": false })))
}

/// `GET /v1/admin/breakers`
pub(crate) async fn breakers(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Read)?;
    Ok(json(StatusCode::OK, &json!({ "items": app.hub.breakers().await?, "next_cursor": "", "has_more": false })))
}

/// `POST /v1/admin/breakers/{id}/{command}`: reset, open, disable, enable
pub(crate) async fn command_breaker(app: Shared, request: HttpRequest, path: web::Path<(String, String)>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let (id, command) = path.into_inner();
    let command = match command.as_str() {
        "reset" => Command::Reset,
        "open" => Command::ForceOpen,
        "disable" => Command::Disable,
        "enable" => Command::Enable,
        other => return Err(Problem::not_found("command of a breaker (reset, open, disable, enable)", other).into()),
    };
    Ok(json(StatusCode::OK, &app.hub.command_breaker(&id, command).await?))
}

/// `POST /v1/admin/pause`
pub(crate) async fn pause(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    app.hub.pause(&write_context(&app, &request, &principal));
    Ok(json(StatusCode::OK, &json!({ "paused": true })))
}

/// `POST /v1/admin/resume`
pub(crate) async fn resume(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    app.hub.resume(&write_context(&app, &request, &principal));
    Ok(json(StatusCode::OK, &json!({ "paused": false })))
}

/// `POST /v1/admin/faults/{fault}`: only when `faults.enabled` is set.
///
/// `panic-outbox`, `panic-router`, `panic-indexer`, `panic-jobs`, `panic-upstreams`, `panic-consumers` (inbox, delivery, breaker and handler actors that
/// run), and `fail-commit` (the next durable commit fails).
pub(crate) async fn inject_fault(app: Shared, request: HttpRequest, fault: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    if !app.hub.config().faults.enabled {
        let detail = "fault injection is off; it is for tests (faults.enabled)";
        return Err(Problem::new(ProblemKind::Forbidden, detail).into());
    }
    let hit = app.hub.inject_fault(&fault).ok_or_else(|| Problem::not_found("fault", &fault))?;
    Ok(json(StatusCode::ACCEPTED, &json!({ "fault": *fault, "actors": hit })))
}
