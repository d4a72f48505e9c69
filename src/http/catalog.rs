//! The catalog over HTTP: types, versions, policies, the list as JSON and as a page, the contract of a service.

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json as document;

use super::answer::{Answer, done, json, page, written};
use super::caller::Call;
use crate::catalog::record::Lifecycle;
use crate::hub::{Hub, Scope, TypeQuery, Write};

/// A document that runs nothing, loads nothing and stands in no frame.
const PAGE_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `PUT /v1/catalog/types/{name}`
pub(crate) async fn put(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    let (fields, context) = caller.write().await?;
    let (told, new) = caller.hub().blocking(move |hub| hub.put_type(&name, org.as_deref(), fields, context)).await?;
    Ok(written(&told, new))
}

/// `PATCH /v1/catalog/types/{name}`
pub(crate) async fn change(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    let (fields, context) = caller.write().await?;
    let told = caller.hub().blocking(move |hub| hub.change_type(&name, org.as_deref(), fields, context)).await?;
    Ok(json(StatusCode::OK, &told))
}

/// `GET /v1/catalog/types/{name}`
pub(crate) async fn show(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    Ok(json(StatusCode::OK, &caller.hub().catalog_type(&name, org.as_deref())?))
}

/// `DELETE /v1/catalog/types/{name}`
pub(crate) async fn delete(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    caller.hub().blocking(move |hub| hub.delete_type(&name, org.as_deref())).await?;
    Ok(done())
}

/// `GET /v1/catalog/types`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(&["org", "type", "service", "lifecycle", "cursor", "limit"])?;
    let query = TypeQuery {
        org: caller.org_within(&params)?,
        service: params.text("service"),
        lifecycle: params.choice("lifecycle", &Lifecycle::ALL, Lifecycle::as_str)?,
        name: params.pattern("type")?,
        after: params.text("cursor"),
        limit: params.limit()?,
    };
    Ok(page(caller.hub().catalog_types(&query)))
}

/// `POST /v1/catalog/types/{name}/versions`
pub(crate) async fn register(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let params = caller.params(&["org", "dry_run"])?;
    let org = caller.org_within(&params)?;
    let write = if params.flag("dry_run")? { Write::Dry } else { Write::Really };
    let (fields, context) = caller.write().await?;
    let work = move |hub: &Hub| hub.register_version(&name, org.as_deref(), fields, write, context);
    let (told, new) = caller.hub().blocking(work).await?;
    let status = if new && write == Write::Really { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json(status, &told))
}

/// `GET /v1/catalog/types/{name}/versions`
pub(crate) async fn versions(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    let versions = caller.hub().catalog_versions(&name, org.as_deref())?;
    Ok(json(StatusCode::OK, &document!({ "items": versions })))
}

/// `GET /v1/catalog/types/{name}/versions/{version}`
pub(crate) async fn version(call: Call, path: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    let (name, version) = path.into_inner();
    Ok(json(StatusCode::OK, &caller.hub().catalog_version(&name, org.as_deref(), &version)?))
}

/// `PATCH /v1/catalog/types/{name}/versions/{version}`
pub(crate) async fn change_version(call: Call, path: web::Path<(String, String)>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    let (fields, context) = caller.write().await?;
    let (name, version) = path.into_inner();
    let work = move |hub: &Hub| hub.change_version(&name, org.as_deref(), &version, fields, context);
    Ok(json(StatusCode::OK, &caller.hub().blocking(work).await?))
}

/// `GET /v1/catalog/types/{name}/specimens`
pub(crate) async fn specimens(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    let told = caller.hub().blocking(move |hub| hub.catalog_specimens(&name, org.as_deref())).await?;
    Ok(json(StatusCode::OK, &told))
}

/// Whether a client wants a page rather than a document.
fn wants_page(request: &HttpRequest) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kinds = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.into_iter().find(|kind| matches!(*kind, "text/html" | "application/json" | "*/*")) == Some("text/html")
}

/// `GET /v1/catalog`: the full list, as a page for who prefers one.
pub(crate) async fn full(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    if wants_page(&caller.request) {
        return Ok(document_of(caller.hub(), org.as_deref()));
    }
    Ok(json(StatusCode::OK, &caller.hub().catalog_list(org.as_deref())))
}

/// `GET /v1/catalog.html`
pub(crate) async fn full_page(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    Ok(document_of(caller.hub(), org.as_deref()))
}

fn document_of(hub: &Hub, org: Option<&str>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(hub.catalog_page(org))
}

/// `GET /v1/catalog/contracts`
pub(crate) async fn services(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    Ok(json(StatusCode::OK, &caller.hub().catalog_services(org.as_deref())))
}

/// `GET /v1/catalog/contracts/{service}`
pub(crate) async fn contract(call: Call, service: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    Ok(json(StatusCode::OK, &caller.hub().export_contract(&service, org.as_deref())?))
}

/// `GET /v1/catalog/policy`
pub(crate) async fn policy(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    Ok(json(StatusCode::OK, &caller.hub().org_policy(org.as_deref())))
}

/// `PATCH /v1/catalog/policy`
pub(crate) async fn change_policy(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    let (fields, context) = caller.write().await?;
    let told = caller.hub().blocking(move |hub| hub.change_org_policy(org.as_deref(), fields, context)).await?;
    Ok(json(StatusCode::OK, &told))
}
