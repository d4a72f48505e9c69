//! Publish rules of upstreams over HTTP (UPS-5). The rules themselves are a field of their upstream.

use actix_web::http::StatusCode;
use actix_web::web;

use super::answer::{Answer, json};
use super::caller::Call;
use crate::hub::Scope;

/// `POST /v1/admin/upstreams/{id}/publishes/{name}/preview`
pub(crate) async fn preview(call: Call, rule: web::Path<(String, String)>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let fields = caller.fields().await?;
    let (id, name) = rule.into_inner();
    Ok(json(StatusCode::OK, &caller.hub().preview_publish(&id, &name, fields).await?))
}

/// `DELETE /v1/admin/upstreams/{id}/publishes/{name}`
pub(crate) async fn discard(call: Call, rule: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let context = caller.context();
    let (id, name) = rule.into_inner();
    Ok(json(StatusCode::OK, &caller.hub().discard_publish(&id, &name, context).await?))
}
