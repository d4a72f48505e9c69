//! The two listeners: bound, run, and stopped in order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle, Service as _};
use actix_web::http::header::HeaderValue;
use actix_web::{App as WebApp, HttpMessage as _, HttpServer, web};
use prometheus::IntCounter;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::auth::RateSpent;
use super::{App, Listener, idempotency, routes};
use crate::ground::secret::Secret;
use crate::hub::Hub;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 2_048;
/// After the last answer, connections that stay idle are closed this long after the stop.
const IDLE_CLOSE_S: u64 = 1;

/// Where the listeners are, as `DIR/addresses.json` has it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Addresses {
    /// The public listener.
    pub public: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Both listeners.
pub struct Servers {
    /// Where they are.
    pub addresses: Addresses,
    handles: [ServerHandle; 2],
    in_flight: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    ending: watch::Sender<bool>,
    hub: Hub,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// One request being answered; counts as long as it lives.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub(super) fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn counters(hub: &Hub, listener: Listener) -> [IntCounter; 5] {
    ["1xx", "2xx", "3xx", "4xx", "5xx"]
        .map(|class| hub.metrics().http_requests.with_label_values(&[listener.as_str(), class]))
}

/// Binds one listener. Returns the server, which must be awaited or spawned, and where it is.
fn bind(
    hub: &Hub,
    listener: Listener,
    token: &Secret,
    in_flight: &Arc<AtomicUsize>,
    stopping: &Arc<AtomicBool>,
    ending: &watch::Sender<bool>,
) -> std::io::Result<(Server, SocketAddr)> {
    let settings = &hub.config().server;
    let (address, workers) = match listener {
        Listener::Public => (settings.public, settings.worker_count()),
        Listener::Admin => (settings.admin, 1),
    };
    let app = web::Data::new(App {
        hub: hub.clone(),
        listener,
        admin_token: Sha256::digest(token.expose().as_bytes()).into(),
        in_flight: Arc::clone(in_flight),
        stopping: Arc::clone(stopping),
        ending: ending.subscribe(),
        openapi: OnceLock::new(),
        answers: counters(hub, listener),
    });
    let server = HttpServer::new(move || {
        let counted = app.clone();
        WebApp::new()
            .app_data(app.clone())
            .wrap(idempotency::Idempotent { app: app.clone() })
            .wrap_fn(move |request, service| {
                let begun = InFlight::begin(&counted.in_flight);
                let app = counted.clone();
                let answer = service.call(request);
                async move {
                    let mut answer = answer.await?;
                    let spent = answer.request().extensions().get::<RateSpent>().copied();
                    for (name, text) in spent.map(RateSpent::headers).into_iter().flatten() {
                        if let Ok(value) = HeaderValue::from_str(&text) {
                            answer.headers_mut().insert(name, value);
                        }
                    }
                    let class = usize::from(answer.status().as_u16() / 100).clamp(1, 5) - 1;
                    app.answers[class].inc();
                    if app.stopping.load(Ordering::Relaxed) {
                        answer.response_mut().head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
                    }
                    drop(begun);
                    Ok(answer)
                }
            })
            .configure(|config| routes(listener, config))
    })
    .workers(workers)
    .backlog(BACKLOG)
    .max_connections((settings.connections_max / workers.max(1)).max(1))
    .keep_alive(Duration::from_millis(settings.keep_alive_ms))
    .client_request_timeout(Duration::from_millis(settings.slow_request_ms))
    .client_disconnect_timeout(Duration::from_secs(1))
    // A client that closes its side has gone: what it waits for is withdrawn at once.
    .h1_allow_half_closed(false)
    .shutdown_timeout(IDLE_CLOSE_S)
    .disable_signals()
    .bind(address)?;
    let bound = server.addrs().first().copied().ok_or_else(|| std::io::Error::other("no address was bound"))?;
    Ok((server.run(), bound))
}

/// Starts both listeners on the actor system of the caller's thread.
///
/// # Errors
/// When an address cannot be bound.
pub fn start(hub: &Hub, token: &Secret) -> std::io::Result<Servers> {
    let in_flight = Arc::new(AtomicUsize::new(0));
    let stopping = Arc::new(AtomicBool::new(false));
    let ending = watch::Sender::new(false);
    let (public_server, public) = bind(hub, Listener::Public, token, &in_flight, &stopping, &ending)?;
    let (admin_server, admin) = bind(hub, Listener::Admin, token, &in_flight, &stopping, &ending)?;
    let handles = [public_server.handle(), admin_server.handle()];
    for (name, server) in [("public", public_server), ("admin", admin_server)] {
        actix::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(listener = name, %error, "a listener ended");
            }
        });
    }
    Ok(Servers { addresses: Addresses { public, admin }, handles, in_flight, stopping, ending, hub: hub.clone() })
}

impl Servers {
    /// Stops accepting, ends what has no end of its own, waits for requests being answered (up to `server.shutdown_ms`), closes what is left.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ending.send_replace(true);
        // Long polls answer and streams end; what is left is short.
        self.hub.close_feeds();
        for handle in &self.handles {
            handle.pause().await;
        }
        let answered = async {
            while self.in_flight.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_millis(self.hub.config().server.shutdown_ms);
        if tokio::time::timeout(limit, answered).await.is_err() {
            tracing::warn!("requests were still being answered at the end of server.shutdown_ms");
        }
        let [public, admin] = &self.handles;
        futures_util::future::join(public.stop(true), admin.stop(true)).await;
    }
}
