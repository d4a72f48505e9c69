//! Quarantined events over HTTP (ING-6).

use actix_web::http::StatusCode;
use actix_web::web;

use super::answer::{Answer, json, page, text};
use super::caller::Call;
use crate::catalog::quarantine::{Listing, State};
use crate::hub::{Hub, Scope, bad_cursor};
use crate::store::quarantine::QuarantineId;

/// `GET /v1/quarantine`, oldest first
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(&["org", "type", "state", "cursor", "limit"])?;
    let cursor = |text: &str| QuarantineId::parse(text).ok_or_else(|| bad_cursor(text));
    let listing = Listing {
        org: caller.org_within(&params)?,
        event_type: params.text("type"),
        state: params.choice("state", &State::ALL, State::as_str)?,
        after: params.get("cursor").map(cursor).transpose()?,
    };
    let limit = params.limit()?;
    Ok(page(caller.hub().blocking(move |hub| hub.quarantined(&listing, limit)).await?))
}

/// `GET /v1/quarantine/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.own_org();
    let found = caller.hub().blocking(move |hub| hub.quarantined_event(&id, org.as_deref())).await?;
    Ok(text(StatusCode::OK, found))
}

/// `POST /v1/quarantine/{id}/redrive`
pub(crate) async fn redrive(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let context = caller.context();
    Ok(json(StatusCode::OK, &caller.hub().redrive_quarantined(&id, caller.org(), context).await?))
}

/// `POST /v1/quarantine/{id}/discard`
pub(crate) async fn discard(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let org = caller.own_org();
    let work = move |hub: &Hub| hub.discard_quarantined(&id, org.as_deref(), fields, context);
    Ok(json(StatusCode::OK, &caller.hub().blocking(work).await?))
}

/// `POST /v1/quarantine/redrive`: many
pub(crate) async fn redrive_many(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(json(StatusCode::OK, &caller.hub().redrive_quarantine(fields, caller.org(), context).await?))
}
