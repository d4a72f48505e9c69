//! Deliveries over HTTP: those that are not settled, for a webhook's owner and for operators (OUT-3), and the attempts made.

use actix_web::web;

use super::answer::{Answer, page};
use super::caller::{Call, Caller};
use super::params::Params;
use crate::ground::error::Problem;
use crate::ground::ids::ConsumerId;
use crate::hub::{DeliveryPlace, DeliveryQuery, DeliveryStatus, Scope};

fn query(caller: &Caller) -> Result<DeliveryQuery, Problem> {
    let params = caller.params(&["status", "due_before", "due_after", "cursor", "limit"])?;
    Ok(DeliveryQuery {
        status: params.get("status").map(DeliveryStatus::parse).transpose()?,
        due_before: params.time("due_before")?,
        due_after: params.time("due_after")?,
        after: params.get("cursor").map(DeliveryPlace::from_cursor).transpose()?,
        limit: params.limit()?,
    })
}

/// `GET /v1/webhooks/{id}/deliveries`, those due first
pub(crate) async fn of_webhook(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let query = query(&caller)?;
    caller.hub().webhook(&id, caller.org())?;
    Ok(page(caller.hub().deliveries(&ConsumerId::new(&id), query).await?))
}

/// `GET /v1/admin/consumers/{id}/rows`, those due first
pub(crate) async fn of_consumer(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let query = query(&caller)?;
    Ok(page(caller.hub().deliveries(&ConsumerId::new(&id), query).await?))
}

/// The newest attempts to deliver to a consumer, as the query asks for them.
pub(super) async fn attempts_of(caller: &Caller, consumer: ConsumerId, params: &Params) -> Answer {
    let (limit, cursor) = (params.limit()?, params.text("cursor"));
    caller.hub().publish_attempts(&consumer).await;
    let found = caller.hub().blocking(move |hub| hub.attempts(&consumer, cursor.as_deref(), limit)).await?;
    Ok(page(found))
}
