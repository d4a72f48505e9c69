//! Webhooks over HTTP (WHK-1, WHK-8).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::scoped_org;
use crate::ground::ids::ConsumerId;
use crate::hub::{Page, Scope};
use crate::webhook::record::{WebhookRecord, WebhookStatus};
use crate::webhook::signer::Made;

/// `POST /v1/webhooks`
pub(crate) async fn create(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let (record, made) = app.hub.create_webhook(fields, principal.org(), context).await?;
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
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["org", "cursor", "limit"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    let limit = params.limit()?;
    let after = params.text("cursor").unwrap_or_default();
    let mut records = app.hub.webhooks(org.as_deref());
    records.retain(|record| record.id > after);
    let has_more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().map_or(after, |record| record.id.clone());
    let items = records.iter().map(|record| record.to_json()).collect();
    Ok(page("items", Page { items, next, has_more }))
}

/// `GET /v1/webhooks/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    Ok(json(StatusCode::OK, &app.hub.webhook(&id, principal.org())?.to_json()))
}

/// `PATCH /v1/webhooks/{id}`
pub(crate) async fn change(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let record = app.hub.change_webhook(&id, principal.org(), fields, context).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `DELETE /v1/webhooks/{id}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    app.hub.delete_webhook(&id, principal.org()).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn set_status(app: Shared, request: HttpRequest, id: &str, status: WebhookStatus) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let context = write_context(&app, &request, &principal);
    let record = app.hub.set_webhook_status(id, principal.org(), status, None, context).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `POST /v1/webhooks/{id}/pause`
pub(crate) async fn pause(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    set_status(app, request, &id, WebhookStatus::Paused).await
}

/// `POST /v1/webhooks/{id}/resume`
pub(crate) async fn resume(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    set_status(app, request, &id, WebhookStatus::Active).await
}

/// `POST /v1/webhooks/{id}/rotate-secret`
pub(crate) async fn rotate_secret(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let (record, made) = app.hub.rotate_webhook_secret(&id, principal.org(), fields, context).await?;
    Ok(json(StatusCode::OK, &with_secret(&record, &made)))
}

/// `POST /v1/webhooks/{id}/test`
pub(crate) async fn test(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    Ok(json(StatusCode::OK, &app.hub.test_webhook(&id, principal.org()).await?))
}

/// `GET /v1/webhooks/{id}/attempts`, newest first
pub(crate) async fn attempts(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["cursor", "limit"])?;
    app.hub.webhook(&id, principal.org())?;
    let (limit, cursor) = (params.limit()?, params.text("cursor"));
    let consumer = ConsumerId::new(&id);
    app.hub.publish_attempts(&consumer).await;
    let found = app.hub.blocking(move |hub| hub.attempts(&consumer, cursor.as_deref(), limit)).await?;
    Ok(page("items", found))
}
