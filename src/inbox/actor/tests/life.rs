//! A hub without its doors: what outlives it, and one life of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use super::endpoint::{Endpoint, Scripted};
use crate::config::{Config, OutboxSettings};
use crate::event::envelope::{Draft, Event, EventMeta};
use crate::event::filter::EventFilter;
use crate::event::redact::Redactor;
use crate::ground::clock::{ManualClock, SharedClock, UnixMs};
use crate::ground::ids::{ConsumerId, Seq};
use crate::ground::random::{SeededRandom, SharedRandom};
use crate::inbox::actor::InboxActor;
use crate::inbox::catch_up::LogReader;
use crate::inbox::ledger::Ledger;
use crate::inbox::messages::Deliverer;
use crate::inbox::spec::{ConsumerKind, ConsumerSpec, HubPause, InboxParts, Totals};
use crate::inbox::state::{InboxRules, Ordering};
use crate::lookup::Finder;
use crate::metrics::Metrics;
use crate::outbox::{OutboxActor, OutboxParts, RetentionRules, Tail};
use crate::retry::RetryPolicy;
use crate::router::messages::Inspect;
use crate::router::{Inboxes, RouterActor, RouterLink, RouterParts};
use crate::store::engine::EngineOptions;
use crate::store::{AppendUnit, Appended, ConsumerState, Engine, EventLog, Position, Prepared, StoreError};
use crate::supervise::{ActorKind, Handle, Health, RestartBudget, Stop, supervise};

pub(super) const START: UnixMs = UnixMs(1_795_248_000_000);

pub(super) type MakeParts =
    dyn Fn(&ConsumerId, &Arc<ArcSwap<ConsumerSpec>>, &Arc<Endpoint>) -> InboxParts + Send + Sync;

/// The consumers of one life of the hub.
pub(super) struct Directory {
    pub(super) consumers: HashMap<ConsumerId, (Arc<ArcSwap<ConsumerSpec>>, Arc<Endpoint>)>,
    pub(super) running: Mutex<HashMap<ConsumerId, Handle<InboxActor>>>,
    pub(super) make: Box<MakeParts>,
    pub(super) health: Arc<Health>,
}

impl Inboxes for Directory {
    fn all(&self) -> Vec<(ConsumerId, Arc<ConsumerSpec>)> {
        self.consumers.iter().map(|(id, (spec, _))| (id.clone(), spec.load_full())).collect()
    }

    fn spec(&self, consumer: &ConsumerId) -> Option<Arc<ConsumerSpec>> {
        self.consumers.get(consumer).map(|(spec, _)| spec.load_full())
    }

    fn running(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>> {
        self.running.lock().get(consumer).filter(|inbox| !inbox.has_stopped()).cloned()
    }

    fn start(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>> {
        if let Some(inbox) = self.running(consumer) {
            return Some(inbox);
        }
        let (spec, endpoint) = self.consumers.get(consumer)?;
        let parts = (self.make)(consumer, spec, endpoint);
        let inbox =
            supervise(&Arbiter::current(), ActorKind::Inbox, &self.health, move || InboxActor::new(parts.clone()));
        self.running.lock().insert(consumer.clone(), inbox.clone());
        Some(inbox)
    }

    fn retired(&self, consumer: &ConsumerId) {
        self.running.lock().remove(consumer);
    }
}

/// What outlives a restart of the hub.
pub(super) struct Disk {
    pub(super) dir: tempfile::TempDir,
    pub(super) clock: Arc<ManualClock>,
    pub(super) consumers: Vec<(ConsumerId, ConsumerSpec, Arc<Endpoint>)>,
    /// How often the router looks at the log without being told.
    pub(super) poll_every: Duration,
}

/// One life of the hub.
pub(super) struct Life {
    pub(super) engine: Arc<Engine>,
    pub(super) tail: Arc<Tail>,
    pub(super) ledger: Ledger,
    pub(super) directory: Arc<Directory>,
    pub(super) router: Handle<RouterActor>,
    pub(super) outbox: Handle<OutboxActor>,
    pub(super) clock: Arc<ManualClock>,
}

pub(super) fn spec(ordering: Ordering) -> ConsumerSpec {
    ConsumerSpec {
        kind: ConsumerKind::Handler,
        filter: Arc::new(EventFilter::default()),
        rules: InboxRules {
            ordering,
            concurrency: 4,
            window_events: 8,
            window_bytes: 1 << 20,
            parked_max: 1_000,
            lease_ms: 3_600_000,
        },
        retry: RetryPolicy::Fixed { attempts_max: 10, delays_ms: vec![200], jitter: 0.0 },
        rate_limit: None,
        health: None,
        overload_rest_ms: 0,
        paused: false,
        dead_letters: true,
        from: Seq::ZERO,
    }
}

impl Disk {
    pub(super) fn new(orderings: &[Ordering]) -> Self {
        let of = |(n, ordering): (usize, &Ordering)| {
            (ConsumerId::handler(&format!("c{n}")), spec(*ordering), Arc::<Endpoint>::default())
        };
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            clock: ManualClock::starting_at(START),
            consumers: orderings.iter().enumerate().map(of).collect(),
            poll_every: Duration::from_millis(20),
        }
    }

    pub(super) fn endpoint(&self, n: usize) -> &Arc<Endpoint> {
        &self.consumers[n].2
    }

    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.consumers.iter().map(|(_, _, endpoint)| Arc::clone(endpoint)).collect()
    }

    pub(super) fn start(&self) -> Life {
        self.start_with(Duration::from_millis(3), Duration::from_secs(3_600))
    }

    pub(super) fn start_with(&self, checkpoint_every: Duration, idle_after: Duration) -> Life {
        let engine = Engine::open(EngineOptions {
            data_dir: self.dir.path().to_owned(),
            cache_bytes: 16 << 20,
            segment_events: 100,
            free_space_floor_bytes: 0,
        })
        .expect("opens");
        let (log, state) = (Arc::clone(&engine) as Arc<dyn EventLog>, Arc::clone(&engine) as Arc<dyn ConsumerState>);
        let clock = Arc::clone(&self.clock) as SharedClock;
        let metrics = Arc::new(Metrics::new().expect("series"));
        // Small enough that a consumer that is behind reads the log itself.
        let tail = Arc::new(Tail::new(30_000));
        let link = RouterLink::default();
        let budget = RestartBudget { restarts_max: 1_000, window_ms: 1_000, backoff_ms: 1, backoff_cap_ms: 2 };
        let health = Arc::new(Health::new(budget, Arc::clone(&clock)));
        // The ledger's thread must not hold who holds the ledger.
        let directory: Arc<std::sync::OnceLock<std::sync::Weak<Directory>>> = Arc::default();
        let (reset, router_link, generation) = (Arc::clone(&directory), link.clone(), Arc::clone(&engine));
        let ledger = Ledger::start(
            Arc::clone(&state),
            move || generation.reopened(),
            move || {
                router_link.get().rebuild();
                let Some(directory) = reset.get().and_then(std::sync::Weak::upgrade) else { return };
                let running: Vec<_> = directory.running.lock().values().cloned().collect();
                running.iter().for_each(Handle::rebuild);
            },
        )
        .expect("a thread");
        let parts = InboxParts {
            consumer: ConsumerId::new("set below"),
            spec: Arc::new(ArcSwap::from_pointee(spec(Ordering::None))),
            totals: Arc::<Totals>::default(),
            pause: HubPause::new(false),
            reader: LogReader::new(Finder::new(Arc::clone(&log), engine.clone()), Arc::clone(&tail), 2),
            state: Arc::clone(&state),
            ledger: ledger.clone(),
            router: link.clone(),
            deliver: Arc::new(ArcSwap::from_pointee(None)),
            rate: Arc::default(),
            tracked: Arc::default(),
            notice: Arc::new(|_, _| {}),
            redactor: Redactor::none(),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            random: SeededRandom::shared(7) as SharedRandom,
            report_every: Duration::from_millis(2),
            idle_after,
        };
        let made = Arc::new(Directory {
            consumers: self
                .consumers
                .iter()
                .map(|(id, spec, endpoint)| {
                    (id.clone(), (Arc::new(ArcSwap::from_pointee(spec.clone())), Arc::clone(endpoint)))
                })
                .collect(),
            running: Mutex::default(),
            make: Box::new(move |consumer, spec, endpoint| InboxParts {
                consumer: consumer.clone(),
                spec: Arc::clone(spec),
                deliver: Arc::new(ArcSwap::from_pointee(Some(
                    Arc::new(Scripted(Arc::clone(endpoint))) as Arc<dyn Deliverer>
                ))),
                ..parts.clone()
            }),
            health: Arc::clone(&health),
        });
        directory.get_or_init(|| Arc::downgrade(&made));
        let arbiter = Arbiter::current();
        let poll_every_ms = u64::try_from(self.poll_every.as_millis()).expect("fits");
        let settings = OutboxSettings {
            polling_interval_ms: poll_every_ms,
            idle_polling_interval_ms: poll_every_ms,
            ..Config::default().outbox
        };

        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let outbox_parts = OutboxParts {
            writing: Arc::default(),
            log: Arc::clone(&log),
            state: Arc::clone(&state),
            tail: Arc::clone(&tail),
            metrics: Arc::clone(&metrics),
            clock,
            group_events_max: 64,
            retention: RetentionRules {
                age_ms: u64::MAX,
                bytes: 0,
                max_consumer_lag_ms: u64::MAX,
                attempts_ms: u64::MAX,
                dead_letters_ms: u64::MAX,
            },
            intake: Arc::new(crate::outbox::Intake::new()),
        };
        let outbox = supervise(&arbiter, ActorKind::Outbox, &health, move || OutboxActor::new(outbox_parts.clone()));
        let router_parts = RouterParts {
            log,
            tail: Arc::clone(&tail),
            state,
            ledger: ledger.clone(),
            inboxes: Arc::clone(&made) as Arc<dyn Inboxes>,
            outbox: outbox.clone(),
            metrics,
            checkpoint_every,
            retention_every: Duration::from_secs(3_600),
            offer_bytes_max: 1 << 20,
            settings,
        };
        let router = supervise(&arbiter, ActorKind::Router, &health, move || RouterActor::new(router_parts.clone()));
        link.set(router.clone());
        Life { engine, tail, ledger, directory: made, router, outbox, clock: Arc::clone(&self.clock) }
    }
}

/// One event of a handful of keys.
pub(super) fn event(n: u64) -> Prepared {
    let meta = EventMeta {
        id: format!("e{n}"),
        event_type: "a.b".to_owned(),
        org: "acme".to_owned(),
        ordering_key: Some(format!("k{}", n % 5)),
        ..EventMeta::default()
    };
    let draft = Draft { meta, body: Bytes::from_static(b"{}"), id_given: true, received_at: START, deliver_at: None };
    Prepared::new(draft).expect("prepares")
}

impl Life {
    /// Appends one group of events and tells nobody of them yet.
    pub(super) fn append_silently(&self, numbers: std::ops::Range<u64>) -> Vec<Arc<Event>> {
        let group = AppendUnit { events: numbers.map(event).collect(), atomic: false };
        let answers = self.engine.append(vec![group]).expect("appends");
        let fresh = answers.into_iter().flatten().map(|answer| match answer {
            Appended::New(event) => event,
            other => panic!("{other:?}"),
        });
        fresh.collect()
    }

    /// Lets the router hand on events that were appended silently, and waits until it has.
    pub(super) async fn hand_on(&self, events: Vec<Arc<Event>>) {
        let last = events.last().map_or(Seq::ZERO, |event| event.seq);
        self.tail.push(events.into_iter());
        while self.router.ask(Inspect { consumers: Vec::new() }).await.is_ok_and(|view| view.cursor < last) {
            tokio::task::yield_now().await;
        }
    }

    /// Appends events as the writer does. Those that failed with the store are sent again.
    pub(super) async fn append(&self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            loop {
                match self.engine.append(vec![AppendUnit { events: vec![event(n)], atomic: false }]) {
                    Ok(answers) => {
                        let fresh: Vec<Arc<Event>> = answers
                            .into_iter()
                            .flatten()
                            .filter_map(|answer| match answer {
                                Appended::New(event) => Some(event),
                                Appended::Duplicate(_) | Appended::Conflict(_) | Appended::Withheld => None,
                            })
                            .collect();
                        self.tail.push(fresh.into_iter());
                        break;
                    }
                    Err(StoreError::Unavailable | StoreError::Engine(_)) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            if n.is_multiple_of(7) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Moves the clock on until something is so.
    pub(super) async fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        for _ in 0..20_000 {
            if so() {
                return;
            }
            self.clock.advance(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let view = self.router.ask(Inspect { consumers: Vec::new() }).await;
        let mut inboxes = Vec::new();
        let running: Vec<_> = self.directory.running.lock().values().cloned().collect();
        for inbox in running {
            inboxes.push(inbox.ask(crate::inbox::messages::Inspect { seqs: Vec::new() }).await);
        }
        panic!("never: {what}; head {}, router {view:?}, inboxes {inboxes:?}", self.engine.head());
    }

    pub(super) async fn until_all_accepted(&self, disk: &Disk, count: u64) {
        let endpoints = disk.endpoints();
        let all = || endpoints.iter().all(|one| one.accepted.lock().len() as u64 >= count);
        self.until("every event accepted", all).await;
        for endpoint in endpoints {
            let accepted = endpoint.accepted.lock();
            assert!((1..=count).all(|seq| accepted.contains_key(&Seq(seq))), "some event is missing");
        }
    }

    pub(super) async fn positions(&self) -> BTreeMap<ConsumerId, Option<Position>> {
        loop {
            if let Ok(view) = self.router.ask(Inspect { consumers: Vec::new() }).await {
                return view.consumers.into_iter().collect();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn until_everyone_follows(&self) {
        for _ in 0..20_000 {
            if self.positions().await.values().all(Option::is_none) {
                return;
            }
            self.clock.advance(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never: everyone follows; {:?}", self.positions().await);
    }

    /// Ends the actors where they stand, as a kill would, and closes the store.
    pub(super) async fn kill(self) {
        let Self { engine, tail, ledger, directory, router, outbox, clock } = self;
        let running: Vec<_> = directory.running.lock().drain().map(|(_, inbox)| inbox).collect();
        router.hint(Stop);
        outbox.hint(Stop);
        running.iter().for_each(|inbox| inbox.hint(Stop));
        while !router.has_stopped() || !outbox.has_stopped() || !running.iter().all(Handle::has_stopped) {
            clock.advance(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let closed = Arc::downgrade(&engine);
        drop((engine, tail, ledger, directory, router, outbox, running));
        for _ in 0..20_000 {
            // Deliveries, timers and the ledger's thread let go of it.
            if closed.strong_count() == 0 {
                return;
            }
            clock.advance(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never: the store is closed; {} hold it", closed.strong_count());
    }
}
