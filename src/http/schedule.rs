//! Scheduled events over HTTP (ING-7).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::Shared;
use super::answer::{Answer, page, text};
use super::auth::{Principal, authorize};
use super::params::Params;
use crate::ground::context::scoped_org;
use crate::ground::error::Problem;
use crate::hub::Scope;

fn org_of(request: &HttpRequest, principal: &Principal) -> Result<Option<String>, Problem> {
    let given = Params::read(request, &["org"])?.text("org");
    scoped_org(given, principal.org())
}

/// `GET /v1/scheduled`, in the order of their time
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, &["org", "cursor", "limit"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    let (cursor, limit) = (params.text("cursor"), params.limit()?);
    let found = app.hub.blocking(move |hub| hub.scheduled_events(org.as_deref(), cursor.as_deref(), limit)).await?;
    Ok(page("items", found))
}

/// `GET /v1/scheduled/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = org_of(&request, &principal)?;
    let found = app.hub.blocking(move |hub| hub.scheduled_event(&id, org.as_deref())).await?;
    Ok(text(StatusCode::OK, found))
}

/// `DELETE /v1/scheduled/{id}`: who may publish may take back.
pub(crate) async fn cancel(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let org = org_of(&request, &principal)?;
    app.hub.cancel_scheduled(&id, org.as_deref()).await?;
    Ok(HttpResponse::NoContent().finish())
}
