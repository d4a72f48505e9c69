//! The catalog over HTTP: types, versions, policies, the list as JSON and as a page, the contract of a service.

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json as document;

use super::answer::{Answer, json, page};
use super::auth::{Principal, authorize, write_context};
use super::params::Params;
use super::{App, Shared, body};
use crate::event::filter::TypePattern;
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Scope, TypeQuery, Write};

/// A document that runs nothing, loads nothing and stands in no frame.
const PAGE_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The org a request is about, from its query.
fn org_of(request: &HttpRequest, principal: &Principal) -> Result<Option<String>, Problem> {
    scoped_org(Params::read(request, &["org"])?.text("org"), principal.org())
}

/// `PUT /v1/catalog/types/{name}`
pub(crate) async fn put(
    app: Shared,
    request: HttpRequest,
    name: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&request, &principal)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let (told, new) = app.hub.blocking(move |hub| hub.put_type(&name, org.as_deref(), fields, context)).await?;
    Ok(json(if new { StatusCode::CREATED } else { StatusCode::OK }, &told))
}

/// `PATCH /v1/catalog/types/{name}`
pub(crate) async fn change(
    app: Shared,
    request: HttpRequest,
    name: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&request, &principal)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let told = app.hub.blocking(move |hub| hub.change_type(&name, org.as_deref(), fields, context)).await?;
    Ok(json(StatusCode::OK, &told))
}

/// `GET /v1/catalog/types/{name}`
pub(crate) async fn show(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    Ok(json(StatusCode::OK, &app.hub.catalog_type(&name, org.as_deref())?))
}

/// `DELETE /v1/catalog/types/{name}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&request, &principal)?;
    app.hub.blocking(move |hub| hub.delete_type(&name, org.as_deref())).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /v1/catalog/types`
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, &["org", "type", "service", "lifecycle", "cursor", "limit"])?;
    let refuse = |name: &str, limit: String, sent: &str| {
        Problem::field(name, limit, sent).as_kind(ProblemKind::InvalidParameter)
    };
    let pattern = |text: &str| {
        TypePattern::parse(text).map_err(|problem| refuse("type", problem.limit.unwrap_or(problem.detail), text))
    };
    let lifecycle = |text: &str| {
        let read = serde_json::from_value(text.into());
        read.map_err(|_| refuse("lifecycle", "one of draft, active, deprecated, retired".to_owned(), text))
    };
    let query = TypeQuery {
        org: scoped_org(params.text("org"), principal.org())?,
        service: params.text("service"),
        lifecycle: params.get("lifecycle").map(lifecycle).transpose()?,
        name: params.get("type").map(pattern).transpose()?,
        after: params.text("cursor"),
        limit: params.limit()?,
    };
    Ok(page("items", app.hub.catalog_types(&query)))
}

/// `POST /v1/catalog/types/{name}/versions`
pub(crate) async fn register(
    app: Shared,
    request: HttpRequest,
    name: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["org", "dry_run"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    let write = if params.flag("dry_run")? { Write::Dry } else { Write::Really };
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let work = move |hub: &crate::hub::Hub| hub.register_version(&name, org.as_deref(), fields, write, context);
    let (told, new) = app.hub.blocking(work).await?;
    let status = if new && write == Write::Really { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json(status, &told))
}

/// `GET /v1/catalog/types/{name}/versions`
pub(crate) async fn versions(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    let versions = app.hub.catalog_versions(&name, org.as_deref())?;
    Ok(json(StatusCode::OK, &document!({ "items": versions })))
}

/// `GET /v1/catalog/types/{name}/versions/{version}`
pub(crate) async fn version(app: Shared, request: HttpRequest, path: web::Path<(String, String)>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    let (name, version) = path.into_inner();
    Ok(json(StatusCode::OK, &app.hub.catalog_version(&name, org.as_deref(), &version)?))
}

/// `PATCH /v1/catalog/types/{name}/versions/{version}`
pub(crate) async fn change_version(
    app: Shared,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&request, &principal)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let (name, version) = path.into_inner();
    let work = move |hub: &crate::hub::Hub| hub.change_version(&name, org.as_deref(), &version, fields, context);
    Ok(json(StatusCode::OK, &app.hub.blocking(work).await?))
}

/// `GET /v1/catalog/types/{name}/specimens`
pub(crate) async fn specimens(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    let told = app.hub.blocking(move |hub| hub.catalog_specimens(&name, org.as_deref())).await?;
    Ok(json(StatusCode::OK, &told))
}

/// Whether a client wants a page rather than a document.
fn wants_page(request: &HttpRequest) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kinds = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.into_iter().find(|kind| matches!(*kind, "text/html" | "application/json" | "*/*")) == Some("text/html")
}

/// `GET /v1/catalog`: the full list, as a page for who prefers one.
pub(crate) async fn full(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    if wants_page(&request) {
        return Ok(page_of(&app, org.as_deref()));
    }
    Ok(json(StatusCode::OK, &app.hub.catalog_list(org.as_deref())))
}

/// `GET /v1/catalog.html`
pub(crate) async fn full_page(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    Ok(page_of(&app, org.as_deref()))
}

fn page_of(app: &App, org: Option<&str>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(app.hub.catalog_page(org))
}

/// `GET /v1/catalog/contracts`
pub(crate) async fn services(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    Ok(json(StatusCode::OK, &app.hub.catalog_services(org.as_deref())))
}

/// `GET /v1/catalog/contracts/{service}`
pub(crate) async fn contract(app: Shared, request: HttpRequest, service: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    Ok(json(StatusCode::OK, &app.hub.export_contract(&service, org.as_deref())?))
}

/// `GET /v1/catalog/policy`
pub(crate) async fn policy(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    Ok(json(StatusCode::OK, &app.hub.org_policy(org.as_deref())))
}

/// `PATCH /v1/catalog/policy`
pub(crate) async fn change_policy(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&request, &principal)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let told = app.hub.blocking(move |hub| hub.change_org_policy(org.as_deref(), fields, context)).await?;
    Ok(json(StatusCode::OK, &told))
}
