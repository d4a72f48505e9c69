//! The front door: two listeners over one hub (SEC-5). The public one takes API keys, the admin one the admin token;
//! the admin listener offers everything of the public one, for every org. Handlers read, ask the hub, and answer.

mod admin;
mod answer;
mod auth;
mod body;
mod cloud_events;
mod dead_letters;
mod deliveries;
mod events;
mod health;
mod params;
mod schedule;
mod server;
mod stream;
mod webhooks;

pub use server::{Addresses, Servers, start};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use actix_web::web::{self, ServiceConfig};
use prometheus::IntCounter;

use crate::hub::Hub;

/// Which listener a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Producers, consumers, workers.
    Public,
    /// Operators.
    Admin,
}

impl Listener {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }
}

/// What every handler of a listener shares.
pub(crate) struct App {
    pub(crate) hub: Hub,
    pub(crate) listener: Listener,
    /// SHA-256 of the admin token.
    pub(crate) admin_token: [u8; 32],
    /// Requests being answered, on both listeners.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// Set at the stop: nothing new is taken.
    pub(crate) stopping: Arc<AtomicBool>,
    /// Answers by status class, 1xx to 5xx.
    pub(crate) answers: [IntCounter; 5],
}

pub(crate) type Shared = web::Data<App>;

/// The routes of one listener.
fn routes(listener: Listener, config: &mut ServiceConfig) {
    let other = || web::route().to(answer::method_not_allowed);
    config
        .service(web::resource("/healthz").get(health::healthz).default_service(other()))
        .service(web::resource("/readyz").get(health::readyz).default_service(other()))
        .service(web::resource("/version").get(health::version).default_service(other()))
        .service(
            web::resource("/v1/events")
                .route(web::post().to(events::publish))
                .route(web::get().to(events::list))
                .default_service(other()),
        )
        .service(web::resource("/v1/events/batch").post(events::publish_batch).default_service(other()))
        .service(web::resource("/v1/events/stream").post(stream::publish_stream).default_service(other()))
        .service(web::resource("/v1/events/{id}").get(events::show).default_service(other()))
        .service(web::resource("/v1/scheduled").get(schedule::list).default_service(other()))
        .service(
            web::resource("/v1/scheduled/{id}")
                .route(web::get().to(schedule::show))
                .route(web::delete().to(schedule::cancel))
                .default_service(other()),
        )
        .service(
            web::resource("/v1/webhooks")
                .route(web::post().to(webhooks::create))
                .route(web::get().to(webhooks::list))
                .default_service(other()),
        )
        .service(
            web::resource("/v1/webhooks/{id}")
                .route(web::get().to(webhooks::show))
                .route(web::patch().to(webhooks::change))
                .route(web::delete().to(webhooks::delete))
                .default_service(other()),
        )
        .service(web::resource("/v1/webhooks/{id}/attempts").get(webhooks::attempts).default_service(other()))
        .service(web::resource("/v1/webhooks/{id}/deliveries").get(deliveries::of_webhook).default_service(other()))
        .service(web::resource("/v1/webhooks/{id}/pause").post(webhooks::pause).default_service(other()))
        .service(web::resource("/v1/webhooks/{id}/resume").post(webhooks::resume).default_service(other()))
        .service(web::resource("/v1/webhooks/{id}/test").post(webhooks::test).default_service(other()))
        .service(web::resource("/v1/dead-letters").get(dead_letters::list).default_service(other()))
        .service(web::resource("/v1/dead-letters/{id}").get(dead_letters::show).default_service(other()));
    if listener == Listener::Admin {
        config
            .service(web::resource("/metrics").get(health::metrics).default_service(other()))
            .service(
                web::resource("/v1/admin/keys")
                    .route(web::post().to(admin::create_key))
                    .route(web::get().to(admin::list_keys))
                    .default_service(other()),
            )
            .service(web::resource("/v1/admin/keys/{id}").delete(admin::revoke_key).default_service(other()))
            .service(
                web::resource("/v1/admin/settings")
                    .route(web::get().to(admin::settings))
                    .route(web::patch().to(admin::change_settings))
                    .default_service(other()),
            )
            .service(web::resource("/v1/admin/stats").get(admin::stats).default_service(other()))
            .service(web::resource("/v1/admin/health").get(admin::health).default_service(other()))
            .service(web::resource("/v1/admin/consumers").get(admin::consumers).default_service(other()))
            .service(
                web::resource("/v1/admin/consumers/{id}/rows").get(deliveries::of_consumer).default_service(other()),
            )
            .service(web::resource("/v1/admin/breakers").get(admin::breakers).default_service(other()))
            .service(
                web::resource("/v1/admin/breakers/{id}/{command}")
                    .post(admin::command_breaker)
                    .default_service(other()),
            )
            .service(web::resource("/v1/admin/faults/{fault}").post(admin::inject_fault).default_service(other()));
    }
    config.default_service(web::route().to(answer::not_found));
}
