//! Publish rules of upstreams over HTTP (UPS-5). The rules themselves are a field of their upstream.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};

use super::answer::{Answer, json};
use super::auth::{authorize, write_context};
use super::{Shared, body};
use crate::hub::Scope;

/// `POST /v1/admin/upstreams/{id}/publishes/{name}/preview`
pub(crate) async fn preview(
    app: Shared,
    request: HttpRequest,
    rule: web::Path<(String, String)>,
    mut payload: web::Payload,
) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let (id, name) = rule.into_inner();
    Ok(json(StatusCode::OK, &app.hub.preview_publish(&id, &name, fields).await?))
}

/// `DELETE /v1/admin/upstreams/{id}/publishes/{name}`
pub(crate) async fn discard(app: Shared, request: HttpRequest, rule: web::Path<(String, String)>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let context = write_context(&app, &request, &principal);
    let (id, name) = rule.into_inner();
    Ok(json(StatusCode::OK, &app.hub.discard_publish(&id, &name, context).await?))
}
