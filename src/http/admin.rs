//! The admin API: keys, settings, statistics, breakers, fault injection.

use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::web;
use serde_json::{Map, Value, json};

use super::answer::{Answer, done, json, page_of, whole};
use super::caller::Call;
use crate::breaker::Command;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Hub, Scope};

/// `POST /v1/admin/keys`: the key is shown this once.
pub(crate) async fn create_key(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let made = caller.hub().blocking(move |hub| hub.create_key(fields, context)).await?;
    let mut out = made.0.to_json();
    if let Value::Object(map) = &mut out {
        map.insert("key".into(), Value::from(made.1.expose()));
    }
    Ok(json(StatusCode::CREATED, &out))
}

/// `GET /v1/admin/keys`
pub(crate) async fn list_keys(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let params = caller.params(&["cursor", "limit"])?;
    page_of(caller.hub().keys().list(), &params, |key| &key.record.id, |key| key.to_json())
}

/// `PATCH /v1/admin/keys/{id}`: its rate limit, its end
pub(crate) async fn change_key(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let wanted = id.into_inner();
    let key = caller.hub().blocking(move |hub| hub.keys().change(&wanted, fields, context)).await?;
    Ok(json(StatusCode::OK, &key.to_json()))
}

/// `DELETE /v1/admin/keys/{id}`
pub(crate) async fn revoke_key(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let wanted = id.clone();
    if caller.hub().blocking(move |hub| hub.keys().revoke(&wanted)).await? {
        Ok(done())
    } else {
        Err(Problem::not_found("key", &id).into())
    }
}

fn settings_json(hub: &Hub) -> Result<Value, Problem> {
    serde_json::to_value(hub.outbox_settings()).map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))
}

/// `GET /v1/admin/settings`
pub(crate) async fn settings(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    Ok(json(StatusCode::OK, &settings_json(caller.hub())?))
}

/// `PATCH /v1/admin/settings`
pub(crate) async fn change_settings(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let bytes = caller.document().await?;
    let changes: Map<String, Value> = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => map,
        Ok(other) => return Err(Problem::field("body", "a JSON object", other).into()),
        Err(error) => return Err(Problem::new(ProblemKind::NotJson, error.to_string()).into()),
    };
    caller.hub().blocking(move |hub| hub.patch_settings(&changes)).await?;
    Ok(json(StatusCode::OK, &settings_json(caller.hub())?))
}

/// `GET /v1/admin/stats`
pub(crate) async fn stats(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    Ok(json(StatusCode::OK, &caller.hub().stats().await))
}

/// `GET /v1/admin/health`: the state of each component.
pub(crate) async fn health(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let components = caller.hub().components();
    let ok = components.iter().all(|one| one.ok);
    let requests = caller.app.in_flight.load(Ordering::Relaxed);
    let body = json!({
        "status": if ok { "ok" } else { "degraded" },
        "components": serde_json::to_value(&components).unwrap_or(Value::Null),
        "requests_in_flight": requests,
    });
    Ok(json(StatusCode::OK, &body))
}

/// `GET /v1/admin/consumers`
pub(crate) async fn consumers(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    Ok(whole(caller.hub().consumers().await.into()))
}

/// `GET /v1/admin/breakers`
pub(crate) async fn breakers(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    Ok(whole(caller.hub().breakers().await?.into()))
}

/// `POST /v1/admin/breakers/{id}/{command}`: reset, open, disable, enable
pub(crate) async fn command_breaker(call: Call, path: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let (id, command) = path.into_inner();
    let command = match command.as_str() {
        "reset" => Command::Reset,
        "open" => Command::ForceOpen,
        "disable" => Command::Disable,
        "enable" => Command::Enable,
        other => return Err(Problem::not_found("command of a breaker (reset, open, disable, enable)", other).into()),
    };
    Ok(json(StatusCode::OK, &caller.hub().command_breaker(&id, command).await?))
}

/// `POST /v1/admin/pause`
pub(crate) async fn pause(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    caller.hub().pause(&caller.context());
    Ok(json(StatusCode::OK, &json!({ "paused": true })))
}

/// `POST /v1/admin/resume`
pub(crate) async fn resume(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    caller.hub().resume(&caller.context());
    Ok(json(StatusCode::OK, &json!({ "paused": false })))
}

/// `POST /v1/admin/faults/{fault}`: only when `faults.enabled` is set.
///
/// `panic-outbox`, `panic-router`, `panic-indexer`, `panic-jobs`, `panic-upstreams`, `panic-consumers` (inbox, delivery, breaker and handler actors that
/// run), and `fail-commit` (the next durable commit fails).
pub(crate) async fn inject_fault(call: Call, fault: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    if !caller.hub().config().faults.enabled {
        let detail = "fault injection is off; it is for tests (faults.enabled)";
        return Err(Problem::new(ProblemKind::Forbidden, detail).into());
    }
    let hit = caller.hub().inject_fault(&fault).ok_or_else(|| Problem::not_found("fault", &fault))?;
    Ok(json(StatusCode::ACCEPTED, &json!({ "fault": *fault, "actors": hit })))
}
