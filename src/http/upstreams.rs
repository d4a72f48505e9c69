//! Upstreams over HTTP: declared, changed, checked by operators (UPS-2, UPS-7, UPS-9); read by applications (UPS-3, UPS-4).

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::web;
use serde_json::{Value, json as document};

use super::answer::{Answer, done, json, page_of};
use super::caller::Call;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::Scope;
use crate::upstream::AdapterContext;
use crate::upstream::health::Report;
use crate::upstream::reading::Question;

/// `POST /v1/admin/upstreams`
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(json(StatusCode::CREATED, &caller.hub().create_upstream(fields, context).await?))
}

/// `GET /v1/admin/upstreams`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let params = caller.params(&["cursor", "limit"])?;
    page_of(caller.hub().upstream_list(), &params, |(id, _)| id, |(_, one)| one)
}

/// `GET /v1/admin/upstreams/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    Ok(json(StatusCode::OK, &caller.hub().upstream(&id)?))
}

/// `PATCH /v1/admin/upstreams/{id}`
pub(crate) async fn change(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(json(StatusCode::OK, &caller.hub().change_upstream(&id, fields, context).await?))
}

/// `DELETE /v1/admin/upstreams/{id}`
pub(crate) async fn delete(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    caller.hub().delete_upstream(&id).await?;
    Ok(done())
}

/// `POST /v1/admin/upstreams/{id}/rotate-credential`
pub(crate) async fn rotate(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(json(StatusCode::OK, &caller.hub().rotate_upstream_credential(&id, fields, context).await?))
}

fn report_json(report: &Report) -> Result<Value, Problem> {
    serde_json::to_value(report).map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))
}

/// `POST /v1/admin/upstreams/{id}/test`
pub(crate) async fn test(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let mut fields = caller.fields().await?;
    let tenant = fields.text("org", SCOPE_CHARS_MAX)?;
    fields.finish()?;
    Ok(json(StatusCode::OK, &report_json(&caller.hub().test_upstream(&id, tenant.as_deref()).await?)?))
}

/// `POST /v1/admin/upstreams/{id}/clear-cache`
pub(crate) async fn clear_cache(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let cleared = caller.hub().clear_upstream_cache(&id).await?;
    Ok(json(StatusCode::OK, &document!({ "id": *id, "cleared": cleared })))
}

/// `POST /v1/admin/upstreams/{id}/reset-counters`
pub(crate) async fn reset_counters(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    caller.hub().reset_upstream_counters(&id)?;
    Ok(json(StatusCode::OK, &document!({ "id": *id, "reset": true })))
}

/// `GET /v1/admin/upstreams/health`
pub(crate) async fn health(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let (overall, reports) = caller.hub().check_upstreams().await;
    let items = reports.iter().map(report_json).collect::<Result<Vec<_>, _>>()?;
    Ok(json(StatusCode::OK, &document!({ "status": overall.as_str(), "items": items })))
}

/// `GET /v1/upstreams/{id}/reads/{read}`
pub(crate) async fn read(call: Call, path: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let (id, name) = path.into_inner();
    // Whether there is such a read for this key is said before anything of its parameters is.
    let read = caller.hub().upstream_read(&id, &name, caller.org())?;
    let mut known: Vec<&str> = read.parameters().collect();
    known.push("org");
    if read.page.is_some() {
        known.extend(["limit", "offset"]);
    }
    let params = caller.params(&known)?;
    let tenant = caller.org_within(&params)?;
    let value = |name: &str| params.get(name).map(|value| (name.to_owned(), value.to_owned()));
    let values: BTreeMap<String, String> = read.parameters().filter_map(value).collect();
    let question = Question { values, limit: params.text("limit"), offset: params.text("offset") };
    let asked = caller.context();
    let mut context = AdapterContext::new(tenant.as_deref(), asked.at);
    context.correlation_id = asked.correlation_id.unwrap_or_default();
    context.user = Some(asked.by);
    let trace = caller.request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    context.traceparent = trace.filter(|text| crate::trace::TraceContext::parse(text).is_some()).map(str::to_owned);
    Ok(json(StatusCode::OK, &caller.hub().read_upstream(&id, &name, &question, context).await?))
}
