//! Declared orders of aggregates over HTTP (CAT-3). A key that is confined to no org names one, or means events without.

use actix_web::http::StatusCode;
use actix_web::web;

use super::answer::{Answer, done, json, page, written};
use super::caller::Call;
use super::params::refuse;
use crate::ground::ids::Seq;
use crate::ground::limits::AGGREGATE_ID_CHARS_MAX;
use crate::hub::{Hub, Scope};

/// `PUT /v1/catalog/lifecycles/{aggregate_type}`
pub(crate) async fn put(call: Call, aggregate_type: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?.unwrap_or_default();
    let (fields, context) = caller.write().await?;
    let work = move |hub: &Hub| hub.put_lifecycle(&org, &aggregate_type, fields, context);
    let (told, new) = caller.hub().blocking(work).await?;
    Ok(written(&told, new))
}

/// `GET /v1/catalog/lifecycles`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    Ok(page(caller.hub().lifecycles(org.as_deref(), params.get("cursor"), params.limit()?)))
}

/// `GET /v1/catalog/lifecycles/{aggregate_type}`
pub(crate) async fn show(call: Call, aggregate_type: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?.unwrap_or_default();
    Ok(json(StatusCode::OK, &caller.hub().lifecycle(&org, &aggregate_type)?))
}

/// `DELETE /v1/catalog/lifecycles/{aggregate_type}`
pub(crate) async fn delete(call: Call, aggregate_type: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?.unwrap_or_default();
    caller.hub().blocking(move |hub| hub.delete_lifecycle(&org, &aggregate_type)).await?;
    Ok(done())
}

/// `GET /v1/catalog/lifecycles/{aggregate_type}/flags`
pub(crate) async fn flags(call: Call, aggregate_type: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?.unwrap_or_default();
    let (after, limit) = (params.cursor_number()?.map_or(Seq::ZERO, Seq), params.limit()?);
    let work = move |hub: &Hub| hub.lifecycle_flags(&org, &aggregate_type, after, limit);
    Ok(page(caller.hub().blocking(work).await?))
}

/// `GET /v1/catalog/lifecycles/{aggregate_type}/aggregates/{id}`
pub(crate) async fn aggregate(call: Call, path: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?.unwrap_or_default();
    let (aggregate_type, id) = path.into_inner();
    if id.chars().count() > AGGREGATE_ID_CHARS_MAX || id.chars().any(char::is_control) {
        let limit = format!("at most {AGGREGATE_ID_CHARS_MAX} characters, none of them a control character");
        return Err(refuse("id", limit, &id).into());
    }
    let work = move |hub: &Hub| hub.aggregate_place(&org, &aggregate_type, &id);
    Ok(json(StatusCode::OK, &caller.hub().blocking(work).await?))
}
