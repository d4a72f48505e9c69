//! Replays, recovery and single retries over HTTP (WHK-8, CDC-4).

use actix_web::http::StatusCode;
use actix_web::web;

use super::Listener;
use super::answer::{Answer, json};
use super::caller::Call;
use super::jobs::asked;
use crate::ground::error::Problem;
use crate::hub::{Hub, Scope};

/// `POST /v1/webhooks/{id}/replay`
pub(crate) async fn of_webhook(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let fields = caller.fields().await?;
    caller.hub().webhook(&id, caller.org())?;
    let consumer = caller.hub().consumer_named(&id, caller.org())?;
    let context = caller.context();
    Ok(asked(caller.hub().replay(&consumer, fields, context).await?))
}

/// `POST /v1/consumers/{name}/replay`: in-process handlers by the admin API alone.
pub(crate) async fn of_consumer(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let fields = caller.fields().await?;
    let consumer = caller.hub().consumer_named(&name, caller.org())?;
    if caller.app.listener == Listener::Public && Hub::is_handler(&consumer) {
        return Err(Problem::not_found("consumer", &name).into());
    }
    let context = caller.context();
    Ok(asked(caller.hub().replay(&consumer, fields, context).await?))
}

/// `POST /v1/webhooks/{id}/recover`
pub(crate) async fn recover(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    Ok(asked(caller.hub().recover_webhook(&id, caller.org(), fields, context).await?))
}

/// `POST /v1/webhooks/{id}/deliveries/{event_id}/retry`
pub(crate) async fn retry(call: Call, path: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let (webhook, event_id) = path.into_inner();
    let context = caller.context();
    let outcome = caller.hub().retry_delivery(&webhook, &event_id, caller.org(), context).await?;
    Ok(json(StatusCode::ACCEPTED, &outcome))
}
