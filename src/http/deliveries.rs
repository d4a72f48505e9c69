//! Deliveries that are not settled, over HTTP: one look-up, for a webhook's owner and for operators (OUT-3).

use actix_web::{HttpRequest, web};

use super::Shared;
use super::answer::{Answer, page};
use super::auth::authorize;
use super::params::Params;
use crate::ground::error::Problem;
use crate::ground::ids::ConsumerId;
use crate::hub::{DeliveryPlace, DeliveryQuery, DeliveryStatus, Scope};

fn query(request: &HttpRequest) -> Result<DeliveryQuery, Problem> {
    let params = Params::read(request, &["status", "due_before", "due_after", "cursor", "limit"])?;
    Ok(DeliveryQuery {
        status: params.get("status").map(DeliveryStatus::parse).transpose()?,
        due_before: params.time("due_before")?,
        due_after: params.time("due_after")?,
        after: params.get("cursor").map(DeliveryPlace::from_cursor).transpose()?,
        limit: params.limit()?,
    })
}

/// `GET /v1/webhooks/{id}/deliveries`, those due first
pub(crate) async fn of_webhook(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let query = query(&request)?;
    app.hub.webhook(&id, principal.org())?;
    Ok(page("items", app.hub.deliveries(&ConsumerId::new(&id), query).await?))
}

/// `GET /v1/admin/consumers/{id}/rows`, those due first
pub(crate) async fn of_consumer(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    authorize(&app, &request, Scope::Read)?;
    let query = query(&request)?;
    Ok(page("items", app.hub.deliveries(&ConsumerId::new(&id), query).await?))
}
