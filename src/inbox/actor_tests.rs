//! Router, inboxes, ledger and engine together, on one thread, with a scripted deliverer and a clock that the test moves:
//! whatever is stopped, panics or fails under load, every event is settled, and it is delivered again only where a
//! crash explains it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Atomic};
use std::time::Duration;

use actix::Arbiter;
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use super::actor::{ConsumerKind, ConsumerSpec, InboxActor, InboxParts, Totals};
use super::catch_up::LogReader;
use super::ledger::Ledger;
use super::messages::{Deliver, Deliverer, Ticket};
use super::state::{InboxRules, Ordering};
use crate::event::envelope::{Draft, Event, EventMeta};
use crate::event::filter::EventFilter;
use crate::ground::clock::{Clock as _, ManualClock, SharedClock, UnixMs};
use crate::ground::ids::{ConsumerId, Seq};
use crate::ground::random::{SeededRandom, SharedRandom};
use crate::lookup::Finder;
use crate::metrics::Metrics;
use crate::outbox::{OutboxActor, OutboxParts, RetentionRules, Tail};
use crate::retry::{AttemptResult, FailureKind, RetryPolicy};
use crate::router::messages::{CheckpointNow, Inspect};
use crate::router::{Inboxes, RouterActor, RouterLink, RouterParts};
use crate::store::engine::EngineOptions;
use crate::store::{AppendUnit, Appended, ConsumerState, Engine, EventLog, Position, Prepared, StoreError};
use crate::supervise::{ActorKind, Handle, Health, PanicNow, RestartBudget, Stop, supervise};

const START: UnixMs = UnixMs(1_795_248_000_000);

/// Answers claims as the test has laid down, after a few turns of the other actors.
#[derive(Default)]
struct Endpoint {
    /// Attempts of each event, in the order in which they came.
    attempts: Mutex<Vec<(Seq, u32)>>,
    accepted: Mutex<BTreeMap<Seq, u32>>,
    order: Mutex<Vec<Seq>>,
    /// Tickets are kept instead of answered.
    holds: AtomicBool,
    held: Mutex<Vec<(Ticket, Seq)>>,
    /// Events whose position divides by this fail at their first two attempts; zero for none.
    fails_every: AtomicU64,
    /// The next answers are 429 with this `Retry-After`, in milliseconds.
    busy_ms: AtomicU64,
}

impl Endpoint {
    fn take(&self, ticket: Ticket, seq: Seq) {
        let attempt = ticket.attempt();
        self.attempts.lock().push((seq, attempt));
        if self.holds.load(Atomic::Relaxed) {
            self.held.lock().push((ticket, seq));
            return;
        }
        let busy_ms = self.busy_ms.swap(0, Atomic::Relaxed);
        let every = self.fails_every.load(Atomic::Relaxed);
        if busy_ms > 0 {
            let result = AttemptResult::Failed {
                kind: FailureKind::Status,
                status: Some(429),
                message: "status 429".to_owned(),
                retry_after_ms: Some(busy_ms),
            };
            ticket.settle(result, 1, String::new());
        } else if every > 0 && seq.0.is_multiple_of(every) && attempt <= 2 {
            ticket.settle(AttemptResult::failed(FailureKind::Connect, "reset"), 1, String::new());
        } else {
            self.accept(ticket, seq);
        }
    }

    fn accept(&self, ticket: Ticket, seq: Seq) {
        *self.accepted.lock().entry(seq).or_default() += 1;
        self.order.lock().push(seq);
        ticket.settle(AttemptResult::Delivered { status: 200 }, 1, String::new());
    }

    fn release(&self) {
        self.holds.store(false, Atomic::Relaxed);
        let held = std::mem::take(&mut *self.held.lock());
        for (ticket, seq) in held {
            self.accept(ticket, seq);
        }
    }

    fn doubled(&self) -> Vec<Seq> {
        self.accepted.lock().iter().filter(|(_, times)| **times > 1).map(|(seq, _)| *seq).collect()
    }
}

struct Scripted(Arc<Endpoint>);

impl Deliverer for Scripted {
    fn deliver(&self, Deliver { work }: Deliver) {
        for (ticket, event) in work {
            let endpoint = Arc::clone(&self.0);
            actix::spawn(async move {
                for _ in 0..event.seq.0 % 4 {
                    tokio::task::yield_now().await;
                }
                endpoint.take(ticket, event.seq);
            });
        }
    }
}

type MakeParts = dyn Fn(&ConsumerId, &Arc<ArcSwap<ConsumerSpec>>, &Arc<Endpoint>) -> InboxParts + Send + Sync;

/// The consumers of one life of the hub.
struct Directory {
    consumers: HashMap<ConsumerId, (Arc<ArcSwap<ConsumerSpec>>, Arc<Endpoint>)>,
    running: Mutex<HashMap<ConsumerId, Handle<InboxActor>>>,
    make: Box<MakeParts>,
    health: Arc<Health>,
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
struct Disk {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    consumers: Vec<(ConsumerId, ConsumerSpec, Arc<Endpoint>)>,
}

/// One life of the hub.
struct Life {
    engine: Arc<Engine>,
    tail: Arc<Tail>,
    ledger: Ledger,
    directory: Arc<Directory>,
    router: Handle<RouterActor>,
    outbox: Handle<OutboxActor>,
    clock: Arc<ManualClock>,
}

fn spec(ordering: Ordering) -> ConsumerSpec {
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
        paused: false,
        dead_letters: true,
        from: Seq::ZERO,
    }
}

impl Disk {
    fn new(orderings: &[Ordering]) -> Self {
        let of = |(n, ordering): (usize, &Ordering)| {
            (ConsumerId::handler(&format!("c{n}")), spec(*ordering), Arc::<Endpoint>::default())
        };
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            clock: ManualClock::starting_at(START),
            consumers: orderings.iter().enumerate().map(of).collect(),
        }
    }

    fn endpoint(&self, n: usize) -> &Arc<Endpoint> {
        &self.consumers[n].2
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.consumers.iter().map(|(_, _, endpoint)| Arc::clone(endpoint)).collect()
    }

    fn start(&self) -> Life {
        self.start_with(Duration::from_millis(3), Duration::from_secs(3_600))
    }

    fn start_with(&self, checkpoint_every: Duration, idle_after: Duration) -> Life {
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
            reader: LogReader::new(Finder::new(Arc::clone(&log), engine.clone()), Arc::clone(&tail), 2),
            state: Arc::clone(&state),
            ledger: ledger.clone(),
            router: link.clone(),
            deliver: Arc::new(ArcSwap::from_pointee(None)),
            notice: Arc::new(|_, _| {}),
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
            enabled: true,
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
            poll_every: Duration::from_millis(20),
            offer_bytes_max: 1 << 20,
            startup_drain: true,
        };
        let router = supervise(&arbiter, ActorKind::Router, &health, move || RouterActor::new(router_parts.clone()));
        link.set(router.clone());
        Life { engine, tail, ledger, directory: made, router, outbox, clock: Arc::clone(&self.clock) }
    }
}

/// One event of a handful of keys.
fn event(n: u64) -> Prepared {
    let meta = EventMeta {
        id: format!("e{n}"),
        event_type: "a.b".to_owned(),
        org: "acme".to_owned(),
        ordering_key: Some(format!("k{}", n % 5)),
        ..EventMeta::default()
    };
    let draft = Draft { meta, body: Bytes::from_static(b"{}"), id_given: true, received_at: START };
    Prepared::new(draft).expect("prepares")
}

impl Life {
    /// Appends events as the writer does. Those that failed with the store are sent again.
    async fn append(&self, numbers: std::ops::Range<u64>) {
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
    async fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
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
            inboxes.push(inbox.ask(super::messages::Inspect { seqs: Vec::new() }).await);
        }
        panic!("never: {what}; head {}, router {view:?}, inboxes {inboxes:?}", self.engine.head());
    }

    async fn until_all_accepted(&self, disk: &Disk, count: u64) {
        let endpoints = disk.endpoints();
        let all = || endpoints.iter().all(|one| one.accepted.lock().len() as u64 >= count);
        self.until("every event accepted", all).await;
        for endpoint in endpoints {
            let accepted = endpoint.accepted.lock();
            assert!((1..=count).all(|seq| accepted.contains_key(&Seq(seq))), "some event is missing");
        }
    }

    async fn positions(&self) -> BTreeMap<ConsumerId, Option<Position>> {
        loop {
            if let Ok(view) = self.router.ask(Inspect { consumers: Vec::new() }).await {
                return view.consumers.into_iter().collect();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_everyone_follows(&self) {
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
    async fn kill(self) {
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

const ALL: [Ordering; 3] = [Ordering::None, Ordering::Key, Ordering::Strict];

#[actix::test]
async fn who_falls_behind_catches_up_and_gets_every_event_once() {
    let disk = Disk::new(&ALL);
    for endpoint in disk.endpoints() {
        endpoint.fails_every.store(11, Atomic::Relaxed);
    }
    let life = disk.start();
    life.append(1..401).await;
    life.until_all_accepted(&disk, 400).await;
    for endpoint in disk.endpoints() {
        assert_eq!(endpoint.doubled(), []);
        let failed = (1..=400).filter(|seq: &u64| seq.is_multiple_of(11)).count();
        assert_eq!(endpoint.attempts.lock().len(), 400 + 2 * failed, "each failure was tried again twice");
    }
    let order = |n: usize| disk.endpoint(n).order.lock().clone();
    assert!(order(2).windows(2).all(|pair| pair[0] < pair[1]), "strict order");
    for key in 0..5 {
        let of_key: Vec<Seq> = order(1).into_iter().filter(|seq| seq.0 % 5 == key).collect();
        assert!(of_key.windows(2).all(|pair| pair[0] < pair[1]), "order within the key {key}");
    }
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn after_an_orderly_end_nothing_is_delivered_again() {
    let disk = Disk::new(&ALL);
    let life = disk.start();
    life.append(1..101).await;
    life.until_all_accepted(&disk, 100).await;
    life.until_everyone_follows().await;
    life.router.ask(CheckpointNow).await.expect("answers").expect("writes");
    life.kill().await;

    let life = disk.start();
    assert!(life.directory.running.lock().is_empty(), "who has nothing to do is not started");
    life.append(101..151).await;
    life.until_all_accepted(&disk, 150).await;
    for endpoint in disk.endpoints() {
        assert_eq!(endpoint.doubled(), []);
    }
    life.kill().await;
}

#[actix::test]
async fn what_was_unsettled_at_a_kill_is_delivered_by_the_next_life() {
    let disk = Disk::new(&ALL);
    disk.endpoint(0).fails_every.store(3, Atomic::Relaxed);
    for round in 0..6 {
        let life = disk.start();
        let first = round * 60 + 1;
        life.append(first..first + 60).await;
        // Killed at some point of the work, different each time.
        let at = round * 60 + round * 9;
        let endpoint = Arc::clone(disk.endpoint(0));
        life.until("some are accepted", move || endpoint.accepted.lock().len() as u64 >= at).await;
        life.kill().await;
    }
    let life = disk.start();
    life.until_all_accepted(&disk, 360).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn panics_under_load_lose_nothing() {
    let disk = Disk::new(&ALL);
    disk.endpoint(1).fails_every.store(4, Atomic::Relaxed);
    let life = disk.start();
    for round in 0..12 {
        let first = round * 30 + 1;
        life.append(first..first + 30).await;
        let running: Vec<_> = life.directory.running.lock().values().cloned().collect();
        match round % 3 {
            0 => running.iter().for_each(|inbox| inbox.hint(PanicNow)),
            1 => life.router.hint(PanicNow),
            _ => {
                life.router.hint(PanicNow);
                running.iter().for_each(|inbox| inbox.hint(PanicNow));
            }
        }
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
    }
    life.until_all_accepted(&disk, 360).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn a_store_that_fails_under_load_loses_nothing() {
    let disk = Disk::new(&ALL);
    for endpoint in disk.endpoints() {
        endpoint.fails_every.store(5, Atomic::Relaxed);
    }
    let life = disk.start();
    for round in 0..4 {
        let first = round * 40 + 1;
        life.append(first..first + 20).await;
        life.engine.faults().fail_commits.store(1, Atomic::Relaxed);
        life.append(first + 20..first + 40).await;
    }
    let count = life.engine.head().0;
    assert!((160..=164).contains(&count), "an append that failed may be in the log");
    assert_eq!(life.engine.reopened(), 4);
    life.until_all_accepted(&disk, count).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn a_long_rest_ends_by_itself_and_doubles_nothing() {
    let disk = Disk::new(&[Ordering::None]);
    let life = disk.start();
    life.append(1..11).await;
    life.until_all_accepted(&disk, 10).await;
    disk.endpoint(0).busy_ms.store(60_000, Atomic::Relaxed);
    life.append(11..61).await;
    life.until_all_accepted(&disk, 60).await;
    assert!(life.clock.now().since_ms(START) >= 60_000, "the endpoint was left alone as long as it asked");
    assert_eq!(disk.endpoint(0).doubled(), []);
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn an_idle_inbox_ends_and_the_next_event_makes_another_one() {
    let disk = Disk::new(&[Ordering::Key]);
    let life = disk.start_with(Duration::from_millis(3), Duration::from_millis(500));
    for round in 0..5 {
        let first = round * 10 + 1;
        life.append(first..first + 10).await;
        life.until_all_accepted(&disk, first + 9).await;
        let directory = Arc::clone(&life.directory);
        life.until("the inbox has ended", move || directory.running.lock().is_empty()).await;
    }
    assert_eq!(disk.endpoint(0).doubled(), []);
    life.kill().await;
}

#[actix::test]
async fn a_position_that_was_cleared_and_is_needed_again_is_in_the_next_checkpoint() {
    let disk = Disk::new(&[Ordering::None]);
    let endpoint = disk.endpoint(0);
    let life = disk.start_with(Duration::from_secs(3_600), Duration::from_secs(3_600));
    let checkpoint = || async { life.router.ask(CheckpointNow).await.expect("answers").expect("writes") };
    endpoint.holds.store(true, Atomic::Relaxed);
    life.append(1..2).await;
    let held = Arc::clone(endpoint);
    life.until("the first is out", move || held.held.lock().len() == 1).await;
    checkpoint().await;
    endpoint.release();
    life.until_everyone_follows().await;
    endpoint.holds.store(true, Atomic::Relaxed);
    life.append(2..3).await;
    let held = Arc::clone(endpoint);
    life.until("the second is out", move || held.held.lock().len() == 1).await;
    checkpoint().await;
    let kept = life.engine.checkpoints().expect("reads");
    assert_eq!(kept.router, Some(Seq(2)));
    assert_eq!(kept.consumers, [(disk.consumers[0].0.clone(), Position::at(Seq(1)))], "the second is not settled");
    endpoint.release();
    life.until_everyone_follows().await;
    checkpoint().await;
    assert_eq!(life.engine.checkpoints().expect("reads").consumers, []);
    life.kill().await;
}
