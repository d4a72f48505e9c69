//! What the machine can do without a hub, measured in the same run: the yardsticks of the ratios.
//!
//! *Parse only*: an actix-web handler that reads the same body, parses it and answers 202, nothing more.
//! *Client loop*: the HTTP client the hub delivers with, posting the same bodies to the same receiver as fast as it can.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::load::per_second;
use super::request::event_json;
use crate::ground::clock::SharedClock;

/// Largest body of the parse-only handler, in bytes: a batch.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Failed posts after which a task of the client loop gives up.
const ERRORS_MAX: u64 = 100;
/// Bytes of one posted body.
const BODY_BYTES: usize = 1_024;

/// Worker threads of the front door on this machine: one a core.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The envelope as far as the baseline looks at it: members are found, values stay text.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

async fn parse(body: web::Bytes) -> HttpResponse {
    match serde_json::from_slice::<Envelope<'_>>(&body) {
        Ok(event) => {
            // The optimiser must not see that nobody looks.
            std::hint::black_box((event.event_type.len(), event.id.is_some(), event.data.map(RawValue::get)));
            HttpResponse::Accepted().finish()
        }
        Err(error) => HttpResponse::BadRequest().body(error.to_string()),
    }
}

/// A running parse-only handler. Dropping it stops the server.
#[derive(Debug)]
pub struct ParseOnly {
    addr: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl ParseOnly {
    /// Listens on a free port of 127.0.0.1 with one worker a core.
    ///
    /// # Errors
    /// When the port or the threads cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("parse-only".to_owned()).spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(|| {
                    App::new()
                        .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
                        .route("/v1/events", web::post().to(parse))
                })
                .workers(cores())
                .disable_signals()
                .bind(("127.0.0.1", 0))?;
                let addr = server.addrs().first().copied();
                let server = server.run();
                if sender.send((addr, server.handle())).is_err() {
                    return Ok(());
                }
                server.await
            })
        })?;
        match receiver.recv() {
            Ok((Some(addr), handle)) => Ok(Self { addr, handle, thread: Some(thread) }),
            Ok((None, _)) | Err(_) => anyhow::bail!("the parse-only handler did not start"),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for ParseOnly {
    fn drop(&mut self) {
        // The command is sent by the call; its future only tells of the end, which the thread's end tells as well.
        drop(self.handle.stop(false));
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Ok(()))) | None => {}
            Some(Ok(Err(error))) => tracing::warn!(%error, "the parse-only handler failed"),
            Some(Err(_)) => tracing::warn!("the parse-only handler panicked"),
        }
    }
}

/// How the client loop runs.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// The URL posted to; its host must be loopback.
    pub target: SocketAddr,
    /// Threads, each with a client and a runtime of its own.
    pub threads: usize,
    /// Posts in flight on each thread.
    pub tasks_per_thread: usize,
    /// No post starts later than this.
    pub time_max: Duration,
    /// Most posts.
    pub posts_max: u64,
}

/// What the client loop did.
#[derive(Clone, Copy, Debug)]
pub struct ClientReport {
    /// Posts answered with 2xx.
    pub delivered: u64,
    /// Posts that failed or were answered otherwise.
    pub failed: u64,
    /// 2xx answers per second.
    pub per_second: f64,
}

/// The HTTP client as deliveries use it: pooled HTTP/1.1, no redirects, no proxy, rustls with the ring provider.
///
/// # Errors
/// When the TLS roots of the system cannot be read.
pub fn client() -> anyhow::Result<reqwest::Client> {
    Ok(client_builder().build()?)
}

/// The settings of [`client`].
pub(super) fn client_builder() -> reqwest::ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("another thread installed the TLS provider meanwhile");
    }
    reqwest::Client::builder()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
}

struct ClientLoop {
    url: url::Url,
    body: bytes::Bytes,
    clock: SharedClock,
    deadline_ns: u64,
    posts_max: u64,
    started: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

/// Posts bodies of 1 KiB to `/ok` of a receiver as fast as the client can.
///
/// # Errors
/// When the target is not loopback or threads and clients cannot be made.
pub fn run_client(clock: &SharedClock, plan: &ClientPlan) -> anyhow::Result<ClientReport> {
    anyhow::ensure!(plan.target.ip().is_loopback(), "the client loop posts to loopback addresses only");
    let started_ns = clock.monotonic_ns();
    let body = event_json("bench.event", r#""id":"018f0000-0000-7000-8000-000000000000","#, BODY_BYTES);
    let shared = Arc::new(ClientLoop {
        url: format!("http://{}/ok", plan.target).parse()?,
        body: bytes::Bytes::from(body),
        clock: Arc::clone(clock),
        deadline_ns: started_ns.saturating_add(u64::try_from(plan.time_max.as_nanos())?),
        posts_max: plan.posts_max,
        started: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let mut threads = Vec::new();
    for _ in 0..plan.threads {
        let shared = Arc::clone(&shared);
        let tasks = plan.tasks_per_thread;
        threads.push(std::thread::Builder::new().name("bench-client".to_owned()).spawn(
            move || -> anyhow::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let client = client()?;
                runtime.block_on(async {
                    let mut posting = tokio::task::JoinSet::new();
                    for _ in 0..tasks {
                        posting.spawn(post_until_over(Arc::clone(&shared), client.clone()));
                    }
                    while posting.join_next().await.is_some() {}
                });
                Ok(())
            },
        )?);
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the client loop panicked"))??;
    }
    let delivered = shared.delivered.load(Ordering::Relaxed);
    Ok(ClientReport {
        delivered,
        failed: shared.failed.load(Ordering::Relaxed),
        per_second: per_second(delivered, started_ns, clock.monotonic_ns()),
    })
}

async fn post_until_over(shared: Arc<ClientLoop>, client: reqwest::Client) {
    let mut errors = 0;
    while errors < ERRORS_MAX && !shared.over.load(Ordering::Relaxed) {
        if shared.clock.monotonic_ns() >= shared.deadline_ns
            || shared.started.fetch_add(1, Ordering::Relaxed) >= shared.posts_max
        {
            shared.over.store(true, Ordering::Relaxed);
            return;
        }
        let request = client
            .post(shared.url.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(shared.body.clone());
        let delivered = match request.send().await {
            Ok(answer) => answer.status().is_success() && answer.bytes().await.is_ok(),
            Err(_) => false,
        };
        if delivered {
            shared.delivered.fetch_add(1, Ordering::Relaxed);
        } else {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            errors += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::{self, LoadPlan, Pace, Refused};
    use crate::bench::receiver::{Receiver, ReceiverOptions};
    use crate::bench::request::{Shape, Template};
    use crate::ground::clock::SystemClock;

    fn plan(target: SocketAddr, event: String) -> LoadPlan {
        LoadPlan {
            target,
            template: Template::post(target, "/v1/events", &[], &[event], Shape::One),
            connections: 3,
            threads: 1,
            pace: Pace::Closed,
            refused: Refused::Count,
            requests_max: 30,
            first_number: 0,
            time_max: Duration::from_secs(30),
            starts: None,
            enough: None,
        }
    }

    #[test]
    fn the_parse_only_handler_takes_events_and_refuses_what_is_no_event() {
        let clock = SystemClock::shared();
        let server = ParseOnly::start().expect("server");
        let good = load::run(&clock, plan(server.addr(), event_json("bench.event", "", 1_024))).expect("load");
        good.all_accepted().expect("all accepted");
        assert_eq!(good.statuses.get(&202), Some(&30));
        let bad = load::run(&clock, plan(server.addr(), "{\"data\":1}".to_owned())).expect("load");
        assert_eq!(bad.statuses.get(&400), Some(&30));
    }

    #[test]
    fn the_client_loop_delivers_its_count_to_the_receiver() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let plan = ClientPlan {
            target: receiver.addr(),
            threads: 2,
            tasks_per_thread: 4,
            time_max: Duration::from_secs(30),
            posts_max: 40,
        };
        let report = run_client(&clock, &plan).expect("client loop");
        assert_eq!((report.delivered, report.failed), (40, 0));
        assert_eq!(receiver.counts("/ok").requests, 40);
    }
}
