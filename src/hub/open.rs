//! Opening a hub: store first, then what is known, then the threads and actors.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::bulk::{Importer, Works};
use super::bulk_imports::Imports;
use super::catalog::Types;
use super::directory::{Directory, DirectoryParts, Service};
use super::handlers::{self, HandlerRecord};
use super::housekeeping::begin_housekeeping;
use super::keys::Keys;
use super::lifecycles::Lifecycles;
use super::owner::{self, Notices, Owners};
use super::publishes::{self, Publishes};
use super::pulls::Pulls;
use super::quarantine::Noise;
use super::settings::Settings;
use super::sources::Sources;
use super::threads::start_threads;
use super::upstreams::DeclaredUpstreams;
use super::webhooks::{Webhooks, webhook_spec, webhook_target};
use super::{Documents, Hub, Inner};
use crate::bulk::Bulk;
use crate::catalog::aggregate::{LifecycleActor, LifecycleParts};
use crate::catalog::quarantine::Book as Quarantine;
use crate::cdc::feed::Feed;
use crate::config::Config;
use crate::event::redact::{RedactionKey, RedactionSource, Redactor};
use crate::ground::clock::{SharedClock, SystemClock};
use crate::ground::error::Problem;
use crate::ground::ids::ConsumerId;
use crate::ground::random::{SharedRandom, SystemRandom};
use crate::ground::secret::SecretError;
use crate::handler::HandlerRegistry;
use crate::idempotency::Idempotency;
use crate::inbox::catch_up::LogReader;
use crate::inbox::ledger::Ledger;
use crate::inbox::spec::HubPause;
use crate::job::{Jobs, JobsParts};
use crate::link::LinkBook;
use crate::lookup::{Finder, IndexerActor, IndexerParts};
use crate::metrics::Metrics;
use crate::outbox::{Intake, OutboxActor, OutboxParts, RetentionRules, SharedGate, Tail};
use crate::pull::{PullService, TokenKey};
use crate::replay::ReplayParts;
use crate::router::{Inboxes, RouterActor, RouterLink, RouterParts};
use crate::schedule::{Book, Bounds, ScheduleActor, ScheduleParts};
use crate::store::engine::EngineOptions;
use crate::store::{ConsumerState, Engine, EventLog, Registry, StoreError};
use crate::supervise::{ActorKind, Health, PanicSwitch, RestartBudget, supervise};
use crate::trace::{TraceError, Tracer};
use crate::upstream::cache::ReadCache;
use crate::upstream::publish::PublisherParts;
use crate::upstream::service::UpstreamParts;
use crate::upstream::{CallPath, Upstreams};
use crate::webhook::guard::AddressPolicy;
use crate::webhook::outbound::{Outbound, OutboundError, OutboundSettings, read_authorities};

/// What a hub is opened with.
pub struct HubOptions {
    /// Settings.
    pub config: Config,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
}

impl HubOptions {
    /// The machine's clock and randomness.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, clock: SystemClock::shared(), random: SystemRandom::shared() }
    }
}

/// Why a hub does not open.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The data directory cannot be made.
    #[error("data directory {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store does not open.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The key that seals secrets is missing or wrong.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Something stored cannot be used.
    #[error("{0}")]
    Stored(#[from] Problem),
    /// The client for deliveries cannot be made.
    #[error("delivery client: {0}")]
    Outbound(#[from] OutboundError),
    /// Traces cannot be exported as the settings ask.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Series with one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system gives no thread.
    #[error("threads: {0}")]
    Threads(std::io::Error),
}

/// Where webhooks and upstreams may be.
pub(super) fn address_policy(config: &Config) -> AddressPolicy {
    AddressPolicy {
        allow_private: config.delivery.allow_private_networks,
        allowed: config.delivery.allowed_networks.clone(),
    }
}

impl Hub {
    /// Opens a hub. Blocks while the log is opened.
    ///
    /// # Errors
    /// When the directory cannot be used, another process holds it, or what is in it is damaged.
    pub fn open(options: HubOptions) -> Result<Self, HubError> {
        let HubOptions { config, clock, random } = options;
        let data_dir = config.server.data_dir.clone();
        std::fs::create_dir_all(&data_dir)
            .map_err(|source| HubError::Directory { path: data_dir.display().to_string(), source })?;
        let engine = Engine::open(EngineOptions {
            data_dir: data_dir.clone(),
            cache_bytes: config.log.cache_bytes,
            segment_events: config.log.segment_events,
            free_space_floor_bytes: config.log.free_space_floor_bytes,
        })?;
        let registry: Arc<dyn Registry> = engine.clone();
        let state: Arc<dyn ConsumerState> = engine.clone();
        let log: Arc<dyn EventLog> = engine.clone();
        let sealer = config.secrets.sealer(&data_dir, &*random)?;
        let metrics = Arc::new(Metrics::new()?);
        let key_uses = Documents::new(Arc::clone(&registry), "key-use");
        let keys = Keys::load(Documents::new(Arc::clone(&registry), "key"), key_uses)?;
        let webhooks = Webhooks::load(Documents::new(Arc::clone(&registry), "webhook"))?;
        let tokens = TokenKey::generate(&*random);
        let pulls = Pulls::load(Documents::new(Arc::clone(&registry), "consumer"), tokens)?;
        let publishes = Publishes::load(Documents::new(Arc::clone(&registry), publishes::DOCUMENT_KIND))?;
        let settings = Settings::load(Documents::new(Arc::clone(&registry), "settings"), &config.outbox)?;
        let sources = Sources::load(Documents::new(Arc::clone(&registry), "source"), &sealer)?;
        let types = Types::load(
            Documents::new(Arc::clone(&registry), "type"),
            Documents::new(Arc::clone(&registry), "schema"),
            Documents::new(Arc::clone(&registry), "policy"),
            RedactionKey::of(&sealer),
        )?;
        let lifecycles = Lifecycles::load(Documents::new(Arc::clone(&registry), "lifecycle"))?;
        let quarantine = Quarantine::open(engine.clone())?;
        let redactor = Redactor::new(Arc::clone(types.catalog()) as Arc<dyn RedactionSource>);
        let links = Arc::new(LinkBook::new(engine.clone(), config.links.per_org_max));
        let imports = Imports::load(Documents::new(Arc::clone(&registry), "import"))?;
        let handler_documents: Documents<HandlerRecord> = Documents::new(Arc::clone(&registry), "handler");
        for (consumer, dead) in state.dead_letter_counts()? {
            metrics.dead_letters_moved(&consumer, i64::try_from(dead).unwrap_or(i64::MAX));
        }

        let health = Arc::new(Health::new(
            RestartBudget {
                restarts_max: config.supervise.restarts_max as usize,
                window_ms: config.supervise.window_ms,
                backoff_ms: config.supervise.backoff_ms,
                backoff_cap_ms: config.supervise.backoff_cap_ms,
            },
            Arc::clone(&clock),
        ));
        let policy = address_policy(&config);
        let jobs_registry = Arc::clone(&registry);
        let threads = start_threads(config.delivery.arbiter_count()).map_err(HubError::Threads)?;
        let outbound_settings = OutboundSettings {
            connect_timeout_ms: config.delivery.connect_timeout_ms,
            total_timeout_ms: config.delivery.total_timeout_ms,
            user_agent: format!("Tidegate/{}", env!("CARGO_PKG_VERSION")),
            extra_ca: read_authorities(&config.delivery.extra_ca_file)?,
            proxy: config.delivery.proxy_url().map_err(OutboundError::new)?,
        };
        let mut lanes = Vec::with_capacity(threads.lanes.len());
        for arbiter in &threads.lanes {
            let outbound = Outbound::new(policy.clone(), outbound_settings.clone())?;
            lanes.push((arbiter.clone(), outbound));
        }

        let idempotency = Idempotency::load(
            engine.clone(),
            config.idempotency.clone(),
            sealer.clone(),
            Arc::clone(&random),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        )?;
        let jobs = Jobs::load(JobsParts {
            registry: jobs_registry,
            arbiters: threads.lanes.clone(),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            running_max: config.jobs.running_max,
            finished_max: config.jobs.finished_max,
            finished_ms: config.jobs.finished_ms,
        })?;
        let bounds = Bounds { events_max: config.schedule.events_max, bytes_max: config.schedule.bytes_max };
        let book = Book::open(&*engine, bounds)?;
        let tail = Arc::new(Tail::new(config.log.tail_ring_bytes));
        let finder = Finder::new(Arc::clone(&log), engine.clone());
        let link = RouterLink::default();
        let tracer = Tracer::new(&config.trace, Arc::clone(&clock), Arc::clone(&random), &metrics)?;
        let pause = HubPause::new(config.server.paused);
        if pause.is_on() {
            tracing::warn!(
                "the hub is paused (server.paused): events are taken and nothing is delivered until it is resumed"
            );
        }
        let upstream_parts = UpstreamParts {
            arbiters: threads.lanes.clone(),
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
            health: Arc::clone(&health),
            tracer: tracer.clone(),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        };
        let cache = ReadCache::new(config.upstream.cache_entries_max, config.upstream.cache_bytes_max);
        let upstreams = Arc::new(Upstreams::new(upstream_parts, cache));
        let declared_upstreams =
            DeclaredUpstreams::new(Documents::new(Arc::clone(&registry), "upstream"), outbound_settings);
        declared_upstreams.load(&upstreams, &config, &policy, &sealer, &clock)?;
        let (sender, noticed) = mpsc::unbounded_channel();
        let (alerts, noted) = (Arc::default(), Arc::default());
        let notices = Notices { alerts: Arc::clone(&alerts), noted: Arc::clone(&noted), sender };
        let owners = Owners::new(Documents::new(Arc::clone(&registry), owner::DOCUMENT_KIND), alerts, noted);
        let mut healths = owners.load()?;
        let directory = Directory::new(DirectoryParts {
            reader: LogReader::new(finder.clone(), Arc::clone(&tail), config.inbox.catch_up_readers),
            state: Arc::clone(&state),
            registry,
            ledger: OnceLock::new(),
            router: link.clone(),
            lanes,
            pause: Arc::clone(&pause),
            tracer: tracer.clone(),
            redactor: redactor.clone(),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            report_every: Duration::from_millis(config.inbox.checkpoint_ms),
            idle_after: Duration::from_millis(config.inbox.idle_ms),
            notice: Arc::new(move |consumer, notice| notices.take(consumer, notice)),
        });
        // Weak, because the directory holds the ledger: a hub that is let go must let go of its store.
        let (reset_directory, reset_link, generation) = (Arc::downgrade(&directory), link.clone(), Arc::clone(&engine));
        let ledger = Ledger::start(
            Arc::clone(&state),
            move || generation.reopened(),
            move || {
                // The router first: inboxes ask its next life for their positions.
                reset_link.get().rebuild();
                if let Some(directory) = reset_directory.upgrade() {
                    directory.rebuild_all();
                }
            },
        )
        .map_err(HubError::Threads)?;
        directory.set_ledger(ledger.clone());

        let intake = Arc::new(Intake::new());
        let outbox_parts = OutboxParts {
            log: Arc::clone(&log),
            state: Arc::clone(&state),
            tail: Arc::clone(&tail),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            group_events_max: config.log.group_events_max,
            retention: RetentionRules {
                age_ms: config.log.retention_ms,
                bytes: config.log.retention_bytes,
                max_consumer_lag_ms: config.log.max_consumer_lag_ms,
                attempts_ms: config.delivery.attempts_retention_ms,
                dead_letters_ms: config.delivery.dead_letter_retention_ms,
            },
            intake: Arc::clone(&intake),
            writing: Arc::default(),
        };
        let outbox =
            supervise(&threads.core, ActorKind::Outbox, &health, move || OutboxActor::new(outbox_parts.clone()));

        let gate = Arc::new(SharedGate::new(config.log.ingest_queue_bytes));
        let schedule_parts = ScheduleParts {
            store: engine.clone(),
            log: Arc::clone(&log),
            book: Arc::clone(&book),
            intake: Arc::clone(&intake),
            gate: Arc::clone(&gate),
            settings: settings.live(),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            turn: Arc::default(),
        };
        let schedule =
            supervise(&threads.core, ActorKind::Schedule, &health, move || ScheduleActor::new(schedule_parts.clone()));

        let indexer_parts = IndexerParts {
            log: Arc::clone(&log),
            index: engine.clone(),
            tail: Arc::clone(&tail),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            look_every: Duration::from_millis(config.log.retention_check_ms),
        };
        let indexer =
            supervise(&threads.core, ActorKind::Indexer, &health, move || IndexerActor::new(indexer_parts.clone()));

        let lifecycle_parts = LifecycleParts {
            log: Arc::clone(&log),
            store: engine.clone(),
            tail: Arc::clone(&tail),
            declared: lifecycles.declared(),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        };
        let lifecycle = supervise(&threads.core, ActorKind::Lifecycle, &health, move || {
            LifecycleActor::new(lifecycle_parts.clone())
        });
        lifecycles.keep(lifecycle);

        // The router reads the directory when it starts, so every consumer is in it first.
        for (record, _) in handler_documents.list()? {
            let spec = handlers::spec(&record, &settings.get(), &config.inbox);
            directory.add(ConsumerId::handler(&record.name), spec, Service::Handler);
        }
        for record in webhooks.all() {
            let target = webhook_target(&config, &sealer, &record)?;
            let service = Service::Webhook(Arc::new(ArcSwap::from_pointee(target)));
            let consumer = directory.add(ConsumerId::new(&record.id), webhook_spec(&config, &record), service);
            if let Some(health) = healths.remove(&record.id) {
                consumer.tracked.lock().health = health;
            }
        }
        let publisher_parts = PublisherParts {
            calls: Arc::clone(&upstreams) as Arc<dyn CallPath>,
            depths: Arc::clone(&publishes.depths),
            redactor: redactor.clone(),
            tracer: tracer.clone(),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        };
        for (id, spec, publisher) in
            publishes.begin(&config, &declared_upstreams.settings(), &engine, &publisher_parts)?
        {
            directory.add(id, spec, Service::Publish(publisher));
        }
        let now = clock.now();
        for record in pulls.all() {
            let service = Service::Pull(PullService::new(&record.settings.name, now));
            directory.add(ConsumerId::new(&record.id), record.spec(&config), service);
        }
        let replays = ReplayParts {
            // Jobs read beside the consumers that are behind, one at a time.
            reader: LogReader::new(finder.clone(), Arc::clone(&tail), 1),
            log: Arc::clone(&log),
            state: Arc::clone(&state),
            inboxes: Arc::clone(&directory) as Arc<dyn Inboxes>,
            closing: Arc::default(),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        };
        let router_parts = RouterParts {
            log,
            tail: Arc::clone(&tail),
            state,
            ledger: ledger.clone(),
            inboxes: Arc::clone(&directory) as Arc<dyn Inboxes>,
            outbox: outbox.clone(),
            metrics: Arc::clone(&metrics),
            checkpoint_every: Duration::from_millis(config.inbox.checkpoint_ms),
            retention_every: Duration::from_millis(config.log.retention_check_ms),
            offer_bytes_max: config.inbox.window_bytes,
            settings: settings.live(),
        };
        let router =
            supervise(&threads.core, ActorKind::Router, &health, move || RouterActor::new(router_parts.clone()));
        link.set(router.clone());

        let bulk = Bulk::new(&config, finder.clone(), redactor.clone(), Arc::clone(&clock), Arc::clone(&random));
        let feed = Feed::new(finder.clone(), Arc::clone(&tail), &config.cdc);
        let inner = Arc::new(Inner {
            gate,
            config,
            clock,
            random,
            engine,
            metrics,
            health,
            tail,
            feed,
            finder,
            book,
            schedule,
            indexer,
            ledger,
            pause,
            tracer,
            outbox,
            intake,
            router,
            directory,
            handlers: HandlerRegistry::new(),
            handler_documents,
            keys,
            webhooks,
            pulls,
            publishes,
            owners,
            settings,
            sources,
            links,
            redactor,
            types,
            quarantine,
            lifecycles,
            noise: Noise::default(),
            idempotency,
            jobs,
            replays,
            bulk,
            imports,
            upstreams,
            declared_upstreams,
            sealer,
            policy,
            house_panics: PanicSwitch::default(),
            stopping: AtomicBool::new(false),
            threads: parking_lot::Mutex::new(Some(threads.life)),
        });
        inner.bulk.set_taking(Arc::new(Importer(Arc::downgrade(&inner))));
        inner.jobs.begin(Arc::new(Works { replays: inner.replays.clone(), bulk: Arc::clone(&inner.bulk) }));
        begin_housekeeping(&threads.core, &inner, noticed);
        Ok(Hub { inner })
    }
}
