//! Declared orders of aggregates over HTTP (CAT-3). A key that is confined to no org names one, or means events without.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::answer::{Answer, json, page};
use super::auth::{Principal, authorize, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::ground::limits::AGGREGATE_ID_CHARS_MAX;
use crate::hub::{Scope, bad_cursor};

fn org_of(params: &Params, principal: &Principal) -> Result<String, Problem> {
    Ok(scoped_org(params.text("org"), principal.org())?.unwrap_or_default())
}

/// `PUT /v1/catalog/lifecycles/{aggregate_type}`
pub(crate) async fn put(
    app: Shared,
    request: HttpRequest,
    aggregate_type: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&Params::read(&request, &["org"])?, &principal)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let work = move |hub: &crate::hub::Hub| hub.put_lifecycle(&org, &aggregate_type, fields, context);
    let (told, new) = app.hub.blocking(work).await?;
    Ok(json(if new { StatusCode::CREATED } else { StatusCode::OK }, &told))
}

/// `GET /v1/catalog/lifecycles`
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, &["org", "cursor", "limit"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    Ok(page("items", app.hub.lifecycles(org.as_deref(), params.get("cursor"), params.limit()?)))
}

/// `GET /v1/catalog/lifecycles/{aggregate_type}`
pub(crate) async fn show(app: Shared, request: HttpRequest, aggregate_type: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&Params::read(&request, &["org"])?, &principal)?;
    Ok(json(StatusCode::OK, &app.hub.lifecycle(&org, &aggregate_type)?))
}

/// `DELETE /v1/catalog/lifecycles/{aggregate_type}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, aggregate_type: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let org = org_of(&Params::read(&request, &["org"])?, &principal)?;
    app.hub.blocking(move |hub| hub.delete_lifecycle(&org, &aggregate_type)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /v1/catalog/lifecycles/{aggregate_type}/flags`
pub(crate) async fn flags(app: Shared, request: HttpRequest, aggregate_type: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, &["org", "cursor", "limit"])?;
    let org = org_of(&params, &principal)?;
    let after = |text: &str| text.parse().map(Seq).map_err(|_| bad_cursor(text));
    let after = params.get("cursor").map(after).transpose()?.unwrap_or(Seq::ZERO);
    let limit = params.limit()?;
    let work = move |hub: &crate::hub::Hub| hub.lifecycle_flags(&org, &aggregate_type, after, limit);
    Ok(page("items", app.hub.blocking(work).await?))
}

/// `GET /v1/catalog/lifecycles/{aggregate_type}/aggregates/{id}`
pub(crate) async fn aggregate(app: Shared, request: HttpRequest, path: web::Path<(String, String)>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&Params::read(&request, &["org"])?, &principal)?;
    let (aggregate_type, id) = path.into_inner();
    if id.chars().count() > AGGREGATE_ID_CHARS_MAX || id.chars().any(char::is_control) {
        let limit = format!("at most {AGGREGATE_ID_CHARS_MAX} characters, none of them a control character");
        return Err(Problem::field("id", limit, id).as_kind(ProblemKind::InvalidParameter).into());
    }
    let work = move |hub: &crate::hub::Hub| hub.aggregate_place(&org, &aggregate_type, &id);
    Ok(json(StatusCode::OK, &app.hub.blocking(work).await?))
}
