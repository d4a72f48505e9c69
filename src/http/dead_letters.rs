//! Dead letters over HTTP (RTY-3, RTY-4).

use actix_web::http::StatusCode;
use actix_web::web;

use super::answer::{Answer, json, page};
use super::caller::Call;
use super::jobs::asked;
use crate::hub::{LetterQuery, LetterState, Scope};

/// `GET /v1/dead-letters`, newest first
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let known = ["consumer", "type", "org", "state", "from", "to", "cursor", "limit"];
    let params = caller.params(&known)?;
    let before = params.cursor_of("dlq_")?;
    let query = LetterQuery {
        org: caller.org_within(&params)?,
        consumer: params.text("consumer"),
        event_type: params.pattern("type")?,
        state: params.get("state").map(LetterState::parse).transpose()?,
        from: params.time("from")?,
        to: params.time("to")?,
        before,
        limit: params.limit()?,
    };
    let found = caller.hub().blocking(move |hub| hub.dead_letters(&query)).await?;
    Ok(page(found))
}

/// `GET /v1/dead-letters/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.own_org();
    let found = caller.hub().blocking(move |hub| hub.dead_letter(&id, org.as_deref())).await?;
    Ok(json(StatusCode::OK, &found))
}

/// `POST /v1/dead-letters/{id}/redrive`
pub(crate) async fn redrive(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let context = caller.context();
    Ok(json(StatusCode::ACCEPTED, &caller.hub().redrive_letter(&id, caller.org(), context).await?))
}

/// `POST /v1/dead-letters/{id}/discard`
pub(crate) async fn discard(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(json(StatusCode::OK, &caller.hub().discard_letter(&id, caller.org(), fields, context).await?))
}

/// `POST /v1/dead-letters/redrive`: many, as a job
pub(crate) async fn redrive_many(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(asked(caller.hub().redrive_letters(fields, caller.org(), context).await?))
}
