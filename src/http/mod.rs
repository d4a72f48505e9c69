//! The front door: two listeners over one hub (SEC-5). The public one takes API keys, the admin one the admin token;
//! the admin listener offers everything of the public one, for every org. Handlers read, ask the hub, and answer.

mod admin;
mod answer;
mod auth;
mod body;
mod caller;
mod catalog;
mod cdc;
mod cloud_events;
mod consumers;
mod dead_letters;
mod deliveries;
mod events;
mod exports;
mod health;
mod idempotency;
mod imports;
mod jobs;
mod lifecycles;
mod links;
mod openapi;
mod params;
mod publishes;
mod push;
mod quarantine;
mod replays;
mod schedule;
mod server;
mod socket;
mod sources;
mod stream;
mod table;
mod upstreams;
mod webhooks;

pub use server::{Addresses, Servers, start};

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};

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
    /// Turns true at the stop: answers that have no end of their own end.
    pub(crate) ending: tokio::sync::watch::Receiver<bool>,
    /// The OpenAPI document of this listener, written when it is first asked for: megabytes while it is put together.
    pub(crate) openapi: OnceLock<bytes::Bytes>,
    /// Answers by status class, 1xx to 5xx.
    pub(crate) answers: [IntCounter; 5],
}

pub(crate) type Shared = web::Data<App>;

/// The routes of one listener: those of the table.
fn routes(listener: Listener, config: &mut ServiceConfig) {
    table::register(table::TABLE, listener, config);
    config.default_service(web::route().to(answer::not_found));
}
