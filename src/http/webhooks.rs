//! Webhooks over HTTP (WHK-1, WHK-8).

use actix_web::http::StatusCode;
use actix_web::web;
use serde_json::Value;

use super::answer::{Answer, done, json, page_of};
use super::caller::Call;
use super::deliveries::attempts_of;
use crate::ground::ids::ConsumerId;
use crate::hub::Scope;
use crate::webhook::record::{WebhookRecord, WebhookStatus};
use crate::webhook::signer::Made;

/// `POST /v1/webhooks`
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let (record, made) = caller.hub().create_webhook(fields, caller.org(), context).await?;
    Ok(json(StatusCode::CREATED, &with_secret(&record, &made)))
}

/// The webhook with its new secret, this once. A private key is told to nobody: receivers need its public key only.
fn with_secret(record: &WebhookRecord, made: &Made) -> Value {
    let mut out = record.to_json();
    if let (Value::Object(map), None) = (&mut out, &made.public_key) {
        map.insert("signing_secret".into(), Value::from(made.secret.expose()));
    }
    out
}

/// `GET /v1/webhooks`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    let records = caller.hub().webhooks(org.as_deref());
    page_of(records, &params, |record| &record.id, |record| record.to_json())
}

/// `GET /v1/webhooks/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    Ok(json(StatusCode::OK, &caller.hub().webhook(&id, caller.org())?.to_json()))
}

/// `PATCH /v1/webhooks/{id}`
pub(crate) async fn change(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let record = caller.hub().change_webhook(&id, caller.org(), fields, context).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `DELETE /v1/webhooks/{id}`
pub(crate) async fn delete(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    caller.hub().delete_webhook(&id, caller.org()).await?;
    Ok(done())
}

async fn set_status(call: Call, id: &str, status: WebhookStatus) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let context = caller.context();
    let record = caller.hub().set_webhook_status(id, caller.org(), status, None, context).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `POST /v1/webhooks/{id}/pause`
pub(crate) async fn pause(call: Call, id: web::Path<String>) -> Answer {
    set_status(call, &id, WebhookStatus::Paused).await
}

/// `POST /v1/webhooks/{id}/resume`
pub(crate) async fn resume(call: Call, id: web::Path<String>) -> Answer {
    set_status(call, &id, WebhookStatus::Active).await
}

/// `POST /v1/webhooks/{id}/rotate-secret`
pub(crate) async fn rotate_secret(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let (record, made) = caller.hub().rotate_webhook_secret(&id, caller.org(), fields, context).await?;
    Ok(json(StatusCode::OK, &with_secret(&record, &made)))
}

/// `POST /v1/webhooks/{id}/test`
pub(crate) async fn test(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    Ok(json(StatusCode::OK, &caller.hub().test_webhook(&id, caller.org()).await?))
}

/// `GET /v1/webhooks/{id}/attempts`, newest first
pub(crate) async fn attempts(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let params = caller.params(&["cursor", "limit"])?;
    caller.hub().webhook(&id, caller.org())?;
    attempts_of(&caller, ConsumerId::new(&id), &params).await
}
