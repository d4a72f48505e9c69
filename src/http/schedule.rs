//! Scheduled events over HTTP (ING-7).

use actix_web::http::StatusCode;
use actix_web::web;

use super::answer::{Answer, done, page, text};
use super::caller::Call;
use crate::hub::Scope;

/// `GET /v1/scheduled`, in the order of their time
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    let (cursor, limit) = (params.text("cursor"), params.limit()?);
    let found =
        caller.hub().blocking(move |hub| hub.scheduled_events(org.as_deref(), cursor.as_deref(), limit)).await?;
    Ok(page(found))
}

/// `GET /v1/scheduled/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    let found = caller.hub().blocking(move |hub| hub.scheduled_event(&id, org.as_deref())).await?;
    Ok(text(StatusCode::OK, found))
}

/// `DELETE /v1/scheduled/{id}`: who may publish may take back.
pub(crate) async fn cancel(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Publish)?;
    let org = caller.org_asked()?;
    caller.hub().cancel_scheduled(&id, org.as_deref()).await?;
    Ok(done())
}
