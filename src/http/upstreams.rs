//! Upstreams over HTTP: declared, changed, checked by operators (UPS-2, UPS-7, UPS-9); read by applications (UPS-3, UPS-4).

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json as document};

use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::{Page, Scope};
use crate::upstream::AdapterContext;
use crate::upstream::health::Report;
use crate::upstream::reading::Question;

/// `POST /v1/admin/upstreams`
pub(crate) async fn create(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::CREATED, &app.hub.create_upstream(fields, context).await?))
}

/// `GET /v1/admin/upstreams`
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["cursor", "limit"])?;
    let limit = params.limit()?;
    let after = params.text("cursor").unwrap_or_default();
    let mut all = app.hub.upstream_list();
    all.retain(|(id, _)| *id > after);
    let has_more = all.len() > limit;
    all.truncate(limit);
    let next = all.last().map_or(after, |(id, _)| id.clone());
    Ok(page("items", Page { items: all.into_iter().map(|(_, one)| one).collect(), next, has_more }))
}

/// `GET /v1/admin/upstreams/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    Ok(json(StatusCode::OK, &app.hub.upstream(&id)?))
}

/// `PATCH /v1/admin/upstreams/{id}`
pub(crate) async fn change(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::OK, &app.hub.change_upstream(&id, fields, context).await?))
}

/// `DELETE /v1/admin/upstreams/{id}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    app.hub.delete_upstream(&id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v1/admin/upstreams/{id}/rotate-credential`
pub(crate) async fn rotate(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::OK, &app.hub.rotate_upstream_credential(&id, fields, context).await?))
}

fn report_json(report: &Report) -> Result<Value, Problem> {
    serde_json::to_value(report).map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))
}

/// `POST /v1/admin/upstreams/{id}/test`
pub(crate) async fn test(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let mut fields = body::fields(&app, &request, &mut payload).await?;
    let tenant = fields.text("org", SCOPE_CHARS_MAX)?;
    fields.finish()?;
    Ok(json(StatusCode::OK, &report_json(&app.hub.test_upstream(&id, tenant.as_deref()).await?)?))
}

/// `POST /v1/admin/upstreams/{id}/clear-cache`
pub(crate) async fn clear_cache(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    let cleared = app.hub.clear_upstream_cache(&id).await?;
    Ok(json(StatusCode::OK, &document!({ "id": *id, "cleared": cleared })))
}

/// `POST /v1/admin/upstreams/{id}/reset-counters`
pub(crate) async fn reset_counters(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Manage)?;
    app.hub.reset_upstream_counters(&id)?;
    Ok(json(StatusCode::OK, &document!({ "id": *id, "reset": true })))
}

/// `GET /v1/admin/upstreams/health`
pub(crate) async fn health(app: Shared, request: HttpRequest) -> Answer {
    authorize(&app, &request, Scope::Read)?;
    let (overall, reports) = app.hub.check_upstreams().await;
    let items = reports.iter().map(report_json).collect::<Result<Vec<_>, _>>()?;
    Ok(json(StatusCode::OK, &document!({ "status": overall.as_str(), "items": items })))
}

/// `GET /v1/upstreams/{id}/reads/{read}`
pub(crate) async fn read(app: Shared, request: HttpRequest, path: web::Path<(String, String)>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let (id, name) = path.into_inner();
    // Whether there is such a read for this key is said before anything of its parameters is.
    let read = app.hub.upstream_read(&id, &name, principal.org())?;
    let mut known: Vec<&str> = read.parameters().collect();
    known.push("org");
    if read.page.is_some() {
        known.extend(["limit", "offset"]);
    }
    let params = Params::read(&request, &known)?;
    let tenant = scoped_org(params.text("org"), principal.org())?;
    let value = |name: &str| params.get(name).map(|value| (name.to_owned(), value.to_owned()));
    let values: BTreeMap<String, String> = read.parameters().filter_map(value).collect();
    let question = Question { values, limit: params.text("limit"), offset: params.text("offset") };
    let asked = write_context(&app, &request, &principal);
    let mut context = AdapterContext::new(tenant.as_deref(), asked.at);
    context.correlation_id = asked.correlation_id.unwrap_or_default();
    context.user = Some(asked.by);
    let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    context.traceparent = trace.filter(|text| crate::trace::TraceContext::parse(text).is_some()).map(str::to_owned);
    Ok(json(StatusCode::OK, &app.hub.read_upstream(&id, &name, &question, context).await?))
}
