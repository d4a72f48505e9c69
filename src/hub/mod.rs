//! The hub: puts store, actors and services together, and is the library's face for embedding (EMB-1).
//!
//! ```no_run
//! use tidegate::handler::{HandlerContext, NewEvent, handler_fn};
//! use tidegate::hub::Hub;
//!
//! # async fn example() -> anyhow::Result<()> {
//! let hub = Hub::open_dir("./data")?;
//! hub.subscribe("invoice.*", "ledger", 0, handler_fn(|event: std::sync::Arc<tidegate::event::envelope::Event>, _: HandlerContext| async move {
//!     println!("{} at {}", event.meta.event_type, event.seq);
//!     Ok(())
//! }))
//! .await?;
//! let receipt = hub.publish(&NewEvent::new("invoice.paid").org("acme").data(serde_json::json!({"amount": 12}))).await?;
//! println!("{} is durable at {}", receipt.id, receipt.seq);
//! hub.stop().await;
//! # Ok(()) }
//! ```
//!
//! A hub runs on threads of its own, so it can be used from any runtime. Stopping is ordered: nothing new is taken, what
//! is out is waited for, positions are written, then the threads end.

mod accept;
mod alerts;
mod bulk;
mod bulk_exports;
mod bulk_imports;
mod catalog;
mod consume;
mod deliveries;
mod directory;
mod documents;
mod explain;
mod handlers;
mod housekeeping;
mod idempotent;
mod jobs;
mod keys;
mod letters;
mod lifecycles;
mod links;
mod open;
mod operate;
mod owner;
mod pause;
mod publishes;
mod pulls;
mod quarantine;
mod query;
mod replays;
mod rotation;
mod schedule;
mod settings;
mod sources;
mod stop;
mod threads;
mod upstreams;
mod verify;
mod webhooks;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::bulk::Bulk;
use crate::catalog::Catalog;
use crate::catalog::quarantine::Book as Quarantine;
use crate::cdc::feed::Feed;
use crate::config::{Config, OutboxSettings};
use crate::event::envelope::Draft;
use crate::event::parse::{ParseRules, not_reserved, parse_event};
use crate::event::redact::Redactor;
use crate::ground::clock::SharedClock;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::ground::random::SharedRandom;
use crate::ground::secret::Sealer;
use crate::handler::{HandlerRegistry, NewEvent, Receipt};
use crate::idempotency::Idempotency;
use crate::inbox::ledger::Ledger;
use crate::inbox::spec::HubPause;
use crate::job::Jobs;
use crate::link::LinkBook;
use crate::lookup::{Finder, IndexerActor};
use crate::metrics::Metrics;
use crate::outbox::{Append, AppendReply, Intake, OutboxActor, SharedGate, Tail, TenantPermit};
use crate::replay::ReplayParts;
use crate::router::RouterActor;
use crate::schedule::{Book, Passage, ScheduleActor};
use crate::store::{AppendUnit, Appended, Engine, EventLog as _, Prepared};
use crate::supervise::{ActorKind, Handle, Health, PanicSwitch};
use crate::trace::Tracer;
use crate::upstream::Upstreams;
use crate::webhook::guard::AddressPolicy;

pub use crate::store::store_problem;
pub use accept::Accepted;
pub use bulk_exports::PartFile;
pub use bulk_imports::Upload;
pub use catalog::{TypeQuery, VERSIONS_MAX, Write};
pub use consume::{Consuming, Deliveries, DeliveryForm, PULL_MAX, TOKENS_MAX};
pub use deliveries::{DeliveryPlace, DeliveryQuery, DeliveryStatus};
pub use directory::{Consumer, Directory, Service};
pub use documents::Documents;
pub use explain::ExplainQuery;
pub(crate) use idempotent::key_problem;
pub use idempotent::{Once, OnceKey};
pub use keys::{Key, Keys, Scope};
pub use letters::{LetterQuery, LetterState, REASON_CHARS_MAX};
pub use open::{HubError, HubOptions};
pub(crate) use pulls::STANDING;
pub use quarantine::REDRIVE_MAX;
pub use query::{EventQuery, Page, bad_cursor};
pub use replays::Asked;
pub use sources::SourceAnswer;
pub use upstreams::{AdapterOptions, check_settings};
pub use verify::verify;

/// A running hub. Cheap to clone; it runs until [`Hub::stop`].
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    clock: SharedClock,
    random: SharedRandom,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    gate: Arc<SharedGate>,
    tail: Arc<Tail>,
    finder: Finder,
    feed: Feed,
    book: Arc<Book>,
    schedule: Handle<ScheduleActor>,
    indexer: Handle<IndexerActor>,
    ledger: Ledger,
    pause: Arc<HubPause>,
    tracer: Tracer,
    outbox: Handle<OutboxActor>,
    intake: Arc<Intake>,
    router: Handle<RouterActor>,
    directory: Arc<Directory>,
    handlers: Arc<HandlerRegistry>,
    handler_documents: Documents<handlers::HandlerRecord>,
    keys: Keys,
    webhooks: webhooks::Webhooks,
    pulls: pulls::Pulls,
    publishes: publishes::Publishes,
    owners: owner::Owners,
    settings: settings::Settings,
    idempotency: Arc<Idempotency>,
    jobs: Arc<Jobs>,
    replays: ReplayParts,
    bulk: Arc<Bulk>,
    imports: bulk_imports::Imports,
    sources: sources::Sources,
    upstreams: Arc<Upstreams>,
    declared_upstreams: upstreams::DeclaredUpstreams,
    links: Arc<LinkBook>,
    redactor: Redactor,
    types: catalog::Types,
    quarantine: Arc<Quarantine>,
    lifecycles: lifecycles::Lifecycles,
    noise: quarantine::Noise,
    sealer: Sealer,
    policy: AddressPolicy,
    /// Makes housekeeping panic, for tests.
    house_panics: PanicSwitch,
    stopping: AtomicBool,
    threads: parking_lot::Mutex<Option<threads::ThreadsLife>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("data_dir", &self.config.server.data_dir).finish_non_exhaustive()
    }
}

/// One component of the health detail.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Component {
    /// Its name.
    pub name: &'static str,
    /// Whether it does its work.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

impl Hub {
    /// Opens a hub over a directory, with the default settings. Blocks while the log is opened.
    ///
    /// # Errors
    /// When the directory cannot be used, another process holds it, or what is in it is damaged.
    pub fn open_dir(data_dir: impl AsRef<Path>) -> Result<Self, HubError> {
        let mut config = Config::default();
        config.server.data_dir = data_dir.as_ref().to_owned();
        Self::open(HubOptions::new(config))
    }

    /// Publishes an event and waits until it is durable.
    ///
    /// # Errors
    /// When a field does not fit, its id belongs to another event, or the hub cannot take it now. After
    /// [`ProblemKind::Overloaded`] the outcome may be unknown: publish again with the same id.
    pub async fn publish(&self, event: &NewEvent) -> Result<Receipt, Problem> {
        self.publish_json(event.to_body()?).await
    }

    /// Publishes an envelope given as JSON text and waits until it is durable.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub async fn publish_json(&self, body: Bytes) -> Result<Receipt, Problem> {
        let draft = parse_event(&body, &self.parse_rules(None, None))?;
        not_reserved(&draft.meta)?;
        self.publish_draft(draft).await
    }

    /// Publishes an event of the hub's own, given as JSON text, and waits until it is durable.
    pub(crate) async fn publish_own_json(&self, body: Bytes) -> Result<Receipt, Problem> {
        self.publish_draft(parse_event(&body, &self.parse_rules(None, None))?).await
    }

    async fn publish_draft(&self, draft: Draft) -> Result<Receipt, Problem> {
        let id = draft.meta.id.clone();
        let context =
            || WriteContext { by: "program".to_owned(), at: self.inner.clock.now(), ..WriteContext::default() };
        let (accepted, warnings) = match self.accept(vec![draft], false, context).await?.pop() {
            Some(Accepted::Flagged(accepted, warnings)) => (Some(*accepted), warnings),
            accepted => (accepted, Vec::new()),
        };
        let warnings = warnings.into_iter().map(|warning| warning.message).collect();
        let receipt = |seq, duplicate, deliver_at| Receipt { id: id.clone(), seq, duplicate, deliver_at, warnings };
        match accepted {
            Some(Accepted::Log(Appended::New(event))) => Ok(receipt(event.seq, false, None)),
            Some(Accepted::Log(Appended::Duplicate(seq))) => Ok(receipt(seq, true, None)),
            Some(Accepted::Log(Appended::Conflict(seq))) => Err(id_conflict(&id, seq)),
            Some(Accepted::Scheduled { deliver_at, duplicate }) => Ok(receipt(Seq::ZERO, duplicate, Some(deliver_at))),
            Some(Accepted::Refused(problem)) => Err(problem),
            Some(Accepted::Log(Appended::Withheld) | Accepted::Flagged(..)) | None => {
                Err(Problem::new(ProblemKind::Internal, "no receipt for the event"))
            }
        }
    }

    /// What an event is checked against.
    #[must_use]
    pub fn parse_rules<'a>(&'a self, default_org: Option<&'a str>, confined_to: Option<&'a str>) -> ParseRules<'a> {
        ParseRules {
            default_org,
            confined_to,
            event_bytes_max: self.inner.config.limits.event_bytes_max,
            now: self.inner.clock.now(),
            random: &*self.inner.random,
        }
    }

    /// Refuses when no events are taken.
    fn check_takes_events(&self) -> Result<(), Problem> {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::Acquire) {
            return Err(Problem::new(ProblemKind::Overloaded, "the hub is stopping").retry_after(5));
        }
        if !inner.settings.takes_events() {
            let text = "the outbox is switched off (outbox.enabled)";
            return Err(Problem::new(ProblemKind::Overloaded, text).retry_after(OUTBOX_OFF_RETRY_S));
        }
        Ok(())
    }

    /// Puts events into the queue of the log.
    fn send(
        &self,
        events: Vec<Prepared>,
        atomic: bool,
        lane: accept::Lane,
        passage: Passage,
    ) -> Result<oneshot::Receiver<AppendReply>, Problem> {
        let inner = &self.inner;
        let permit = self.enter(lane, &events)?;
        let (reply, answer) = oneshot::channel();
        let unit = AppendUnit { events, atomic };
        inner
            .intake
            .append(Append { unit, permit, passage: Some(passage), reply })
            .map_err(|error| Problem::new(ProblemKind::Overloaded, error.to_string()))?;
        Ok(answer)
    }

    /// A share of the gate for these events.
    fn enter<'a>(
        &self,
        lane: accept::Lane,
        events: impl IntoIterator<Item = &'a Prepared>,
    ) -> Result<TenantPermit, Problem> {
        let (mut org, mut bytes) = (None, 0);
        for event in events {
            org.get_or_insert(event.org());
            bytes += event.record().len();
        }
        let full = |full: crate::outbox::Full| Problem::new(ProblemKind::Overloaded, full.to_string());
        let tenant = match lane {
            accept::Lane::Org => org.unwrap_or_default(),
            accept::Lane::Bulk => accept::BULK_TENANT,
        };
        self.inner.gate.enter(tenant, bytes).map_err(full)
    }

    /// The answers of the log, counted.
    async fn receipts(&self, answer: oneshot::Receiver<AppendReply>) -> Result<Vec<Appended>, Problem> {
        let inner = &self.inner;
        let answers = match answer.await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(store_problem(&error)),
            Err(_) => {
                let text = "the outcome is unknown; send it again with the same id";
                return Err(Problem::new(ProblemKind::Overloaded, text));
            }
        };
        for one in &answers {
            match one {
                Appended::New(_) => inner.metrics.events_appended.inc(),
                Appended::Duplicate(_) => inner.metrics.events_duplicate.inc(),
                Appended::Conflict(_) | Appended::Withheld => {}
            }
        }
        Ok(answers)
    }

    /// Stops in order: nothing new is taken, what is out is waited for (up to `server.shutdown_ms`), positions are
    /// written and synced, threads end. Calling it again does nothing. The store is let go of with the last handle: only
    /// then can the directory be opened again.
    pub async fn stop(&self) {
        let inner = &self.inner;
        if inner.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        // A store that does not come back must not keep the process from ending.
        let limit = Duration::from_millis(inner.config.server.shutdown_ms) + WRITE_LIMIT;
        if tokio::time::timeout(limit, self.settle_down()).await.is_err() {
            tracing::warn!("the stop took too long; some deliveries come again");
        }
        inner.tracer.flush().await;
        let threads = inner.threads.lock().take();
        if let Some(threads) = threads {
            threads.end().await;
        }
    }

    /// Whether the hub can take events: nothing is stopping, the store is open and writable, every actor runs.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        let inner = &self.inner;
        let stopping = inner.stopping.load(Ordering::Acquire);
        let available = inner.engine.is_available();
        let floor = inner.config.log.free_space_floor_bytes;
        let free = inner.engine.free_bytes().unwrap_or(0);
        let degraded = inner.health.degraded();
        let core_up = inner.outbox.is_running() && inner.router.is_running();
        let ledger = inner.ledger.waiting();
        let backlog_ok = ledger < LEDGER_BACKLOG_UNREADY;
        vec![
            Component { name: "process", ok: !stopping, detail: if stopping { "stopping" } else { "running" }.into() },
            Component {
                name: "store",
                ok: available,
                detail: if available { "open" } else { "being reopened" }.into(),
            },
            Component { name: "disk", ok: free >= floor, detail: format!("{free} bytes free, floor {floor}") },
            Component {
                name: "actors",
                ok: degraded.is_empty() && core_up,
                detail: if degraded.is_empty() {
                    if core_up { "running".into() } else { "being restarted".into() }
                } else {
                    format!(
                        "restarted too often: {}",
                        degraded.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
                    )
                },
            },
            // A pause is what an operator wants: it does not make the hub unready.
            Component {
                name: "deliveries",
                ok: true,
                detail: if self.is_paused() { "paused" } else { "going out" }.into(),
            },
            // A system that is down is no fault of the hub's: it stays ready.
            Component { name: "upstreams", ok: true, detail: self.upstreams_seen() },
            Component { name: "backlog", ok: backlog_ok, detail: format!("{ledger} changes of consumer state wait") },
        ]
    }

    /// Brings the gauges up to date and renders the series.
    ///
    /// # Errors
    /// When a series cannot be written: a mistake of the program.
    pub fn metrics_text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let inner = &self.inner;
        let metrics = &inner.metrics;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (scheduled, scheduled_bytes) = inner.book.size();
        metrics.scheduled.set(gauge(scheduled as u64));
        metrics.scheduled_bytes.set(gauge(scheduled_bytes));
        let (quarantined, quarantined_bytes) = inner.quarantine.size();
        metrics.quarantine_events.set(gauge(quarantined));
        metrics.quarantine_bytes.set(gauge(quarantined_bytes));
        let (keys, key_bytes) = inner.idempotency.size();
        metrics.idempotency_keys.set(gauge(keys as u64));
        metrics.idempotency_bytes.set(gauge(key_bytes));
        metrics.log_head.set(gauge(inner.engine.head().0));
        metrics.log_earliest.set(gauge(inner.engine.earliest().0));
        metrics.ingest_queue_bytes.set(gauge(inner.gate.held() as u64));
        metrics.tail_bytes.set(gauge(inner.tail.bytes() as u64));
        metrics.store_bytes.set(gauge(inner.engine.size_on_disk()));
        metrics.store_reopened.set(gauge(inner.engine.reopened()));
        metrics.cdc_streams.set(gauge(inner.feed.open_streams() as u64));
        metrics.state_queue.set(gauge(inner.ledger.waiting() as u64));
        for kind in ActorKind::ALL {
            metrics.actor_restarts.with_label_values(&[kind.as_str()]).set(gauge(inner.health.restarts(kind)));
            metrics.actors.with_label_values(&[kind.as_str()]).set(inner.health.running(kind));
        }
        for (kind, count) in self.consumer_counts() {
            metrics.consumers.with_label_values(&[kind.as_str()]).set(gauge(count));
        }
        let (queued, running) = inner.jobs.counts();
        metrics.jobs.with_label_values(&["queued"]).set(gauge(queued as u64));
        metrics.jobs.with_label_values(&["running"]).set(gauge(running as u64));
        metrics.paused.set(gauge(u64::from(self.is_paused())));
        metrics.ready.set(if self.components().iter().all(|one| one.ok) { 1.0 } else { 0.0 });
        metrics.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        metrics.render()
    }

    /// The settings the hub was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The hub's clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    /// Shows events as an audience may see them (EVT-4). The hub's own calls that give events to the program around it,
    /// and its handlers, show them as they stand in the log.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.inner.redactor
    }

    /// The idempotency keys.
    #[must_use]
    pub fn idempotency(&self) -> &Arc<Idempotency> {
        &self.inner.idempotency
    }

    /// The change feed.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.inner.feed
    }

    /// What events mean: types, schemas, what is hidden of them.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        self.inner.types.catalog()
    }

    /// The hub's series.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The API keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// The store, for tests that plan its failures.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }

    /// The registry of in-process handlers.
    #[must_use]
    pub fn handlers(&self) -> &Arc<HandlerRegistry> {
        &self.inner.handlers
    }

    /// Runs work that blocks (the registry syncs) off the async threads.
    ///
    /// # Errors
    /// Those of the work; [`ProblemKind::Internal`] when it panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Hub) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let hub = self.clone();
        match tokio::task::spawn_blocking(move || work(&hub)).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "work on the store panicked");
                Err(Problem::new(ProblemKind::Internal, "the work failed; the log of the hub has the cause"))
            }
        }
    }

    /// The run-time settings of in-process handlers.
    #[must_use]
    pub fn outbox_settings(&self) -> OutboxSettings {
        (*self.inner.settings.get()).clone()
    }
}

/// After the wait for what is in flight, writing positions may take this long at the stop.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// When to come back while an operator has switched the outbox off.
const OUTBOX_OFF_RETRY_S: u64 = 30;

/// Changes of consumer state that may wait before readiness turns red.
const LEDGER_BACKLOG_UNREADY: usize = 100_000;

/// The id belongs to another event.
#[must_use]
pub fn id_conflict(id: &str, first: crate::ground::ids::Seq) -> Problem {
    let mut problem = Problem::new(ProblemKind::IdConflict, "the same id was used for another body");
    problem.field = Some("id".to_owned());
    problem.sent = Some(id.to_owned());
    if first == crate::ground::ids::Seq::ZERO { problem } else { problem.with("first_seq", first.0) }
}
