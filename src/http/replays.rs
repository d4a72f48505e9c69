//! Replays, recovery and single retries over HTTP (WHK-8, CDC-4).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};

use super::answer::{Answer, json};
use super::auth::{authorize, write_context};
use super::jobs::asked;
use super::{Listener, Shared, body};
use crate::ground::error::Problem;
use crate::hub::{Hub, Scope};

/// `POST /v1/webhooks/{id}/replay`
pub(crate) async fn of_webhook(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    app.hub.webhook(&id, principal.org())?;
    let consumer = app.hub.consumer_named(&id, principal.org())?;
    let context = write_context(&app, &request, &principal);
    Ok(asked(app.hub.replay(&consumer, fields, context).await?))
}

/// `POST /v1/consumers/{name}/replay`: in-process handlers by the admin API alone.
pub(crate) async fn of_consumer(
    app: Shared,
    request: HttpRequest,
    name: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let consumer = app.hub.consumer_named(&name, principal.org())?;
    if app.listener == Listener::Public && Hub::is_handler(&consumer) {
        return Err(Problem::not_found("consumer", &name).into());
    }
    let context = write_context(&app, &request, &principal);
    Ok(asked(app.hub.replay(&consumer, fields, context).await?))
}

/// `POST /v1/webhooks/{id}/recover`
pub(crate) async fn recover(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(asked(app.hub.recover_webhook(&id, principal.org(), fields, context).await?))
}

/// `POST /v1/webhooks/{id}/deliveries/{event_id}/retry`
pub(crate) async fn retry(app: Shared, request: HttpRequest, path: web::Path<(String, String)>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let (webhook, event_id) = path.into_inner();
    let context = write_context(&app, &request, &principal);
    let outcome = app.hub.retry_delivery(&webhook, &event_id, principal.org(), context).await?;
    Ok(json(StatusCode::ACCEPTED, &outcome))
}
