//! The directory of consumers: what each asked for, and the actors that serve those that have something to do.
//!
//! A consumer at rest is a record and its place in the router's index. Its inbox, delivery and breaker actors are made
//! when an event matches, all on one arbiter, and end when it has been idle.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::breaker::actor::{BreakerActor, BreakerParts};
use crate::event::redact::Redactor;
use crate::ground::clock::SharedClock;
use crate::ground::ids::ConsumerId;
use crate::ground::random::SharedRandom;
use crate::handler::HandlerActor;
use crate::inbox::actor::InboxActor;
use crate::inbox::catch_up::LogReader;
use crate::inbox::ledger::Ledger;
use crate::inbox::messages::{Deliverer, DelivererSlot};
use crate::inbox::spec::{ConsumerSpec, HubPause, InboxParts, NoticeTaker, Totals};
use crate::metrics::Metrics;
use crate::pull::PullService;
use crate::pull::service::PullDeliverer;
use crate::ratelimit::Bucket;
use crate::router::{Inboxes, RouterLink};
use crate::store::{ConsumerState, Registry};
use crate::supervise::{ActorKind, Handle, Health, PanicNow, Stop, supervise};
use crate::trace::Tracer;
use crate::upstream::publish::publisher::{PublishDeliverer, Publisher};
use crate::webhook::delivery::{DeliveryActor, DeliveryParts, Target};
use crate::webhook::health::Tracked;
use crate::webhook::outbound::Outbound;

/// What the directory makes actors with.
pub struct DirectoryParts {
    /// Reads the log.
    pub reader: LogReader,
    /// Rows.
    pub state: Arc<dyn ConsumerState>,
    /// Breakers.
    pub registry: Arc<dyn Registry>,
    /// Where changes go.
    pub ledger: std::sync::OnceLock<Ledger>,
    /// The router.
    pub router: RouterLink,
    /// The arbiters that deliver, each with its client.
    pub lanes: Vec<(ArbiterHandle, Outbound)>,
    /// Whether the whole hub is paused.
    pub pause: Arc<HubPause>,
    /// Traces attempts.
    pub tracer: Tracer,
    /// What may be seen of events.
    pub redactor: Redactor,
    /// What supervision has seen.
    pub health: Arc<Health>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
    /// How often positions are reported.
    pub report_every: Duration,
    /// Idle for this long, actors end.
    pub idle_after: Duration,
    /// Called with what the hub must do about a consumer.
    pub notice: NoticeTaker,
}

/// How a consumer is served.
pub enum Service {
    /// By calling its endpoint.
    Webhook(Arc<ArcSwap<Target>>),
    /// By code in this process, once it is registered.
    Handler,
    /// By clients that ask.
    Pull(Arc<PullService>),
    /// By calls to an upstream.
    Publish(Arc<Publisher>),
}

/// A consumer.
pub struct Consumer {
    /// Its id.
    pub id: ConsumerId,
    /// What it asked for.
    pub spec: Arc<ArcSwap<ConsumerSpec>>,
    /// Its totals.
    pub totals: Arc<Totals>,
    /// How it is served.
    pub service: Service,
    deliver: Arc<DelivererSlot>,
    /// How its endpoint fares; outlives the actors.
    pub tracked: Arc<Mutex<Tracked>>,
    /// Outlives the actors, so that a consumer that comes and goes keeps to its rate.
    rate: Arc<Mutex<Bucket>>,
    running: Mutex<Option<Running>>,
    handler: Mutex<Option<Handle<HandlerActor>>>,
}

impl Consumer {
    /// The actor of an in-process consumer, made by `make` at the first call.
    pub fn handler_or_make(&self, make: impl FnOnce() -> Handle<HandlerActor>) -> Handle<HandlerActor> {
        self.handler.lock().get_or_insert_with(make).clone()
    }

    /// Its name, where that is not its id.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.service {
            Service::Pull(service) => Some(service.name()),
            Service::Publish(publisher) => Some(publisher.name()),
            Service::Webhook(_) | Service::Handler => None,
        }
    }

    /// Makes every actor of this consumer that runs panic. Returns how many.
    pub fn panic_all(&self) -> usize {
        let mut count = 0;
        if let Some(Running { inbox, calling }) = self.running.lock().clone() {
            inbox.hint(PanicNow);
            count += 1;
            if let Some((delivery, breaker)) = calling {
                delivery.hint(PanicNow);
                breaker.hint(PanicNow);
                count += 2;
            }
        }
        if let Some(handler) = &*self.handler.lock() {
            handler.hint(PanicNow);
            count += 1;
        }
        if let Service::Pull(service) = &self.service {
            count += usize::from(service.panic_now());
        }
        count
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Running {
    inbox: Handle<InboxActor>,
    calling: Option<(Handle<DeliveryActor>, Handle<BreakerActor>)>,
}

/// Every consumer.
pub struct Directory {
    parts: DirectoryParts,
    consumers: DashMap<ConsumerId, Arc<Consumer>>,
    hasher: RandomState,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("consumers", &self.consumers.len()).finish_non_exhaustive()
    }
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new(parts: DirectoryParts) -> Arc<Self> {
        Arc::new(Self { parts, consumers: DashMap::new(), hasher: RandomState::new() })
    }

    /// Sets where changes go: the ledger and the directory need each other, so it comes after both are made.
    pub fn set_ledger(&self, ledger: Ledger) {
        self.parts.ledger.get_or_init(|| ledger);
    }

    /// Puts a consumer in; one that is there already stays.
    pub fn add(&self, id: ConsumerId, spec: ConsumerSpec, service: Service) -> Arc<Consumer> {
        let entry = self.consumers.entry(id.clone()).or_insert_with(|| {
            Arc::new(Consumer {
                id,
                spec: Arc::new(ArcSwap::from_pointee(spec)),
                totals: Arc::default(),
                service,
                deliver: Arc::new(ArcSwap::from_pointee(None)),
                tracked: Arc::default(),
                rate: Arc::default(),
                running: Mutex::new(None),
                handler: Mutex::new(None),
            })
        });
        Arc::clone(&entry)
    }

    /// Takes a consumer out and ends its actors. Waits until its inbox has ended, so that nothing of it is written after
    /// its state is forgotten: another consumer may have its name next. One that does not end in time is left to
    /// supervision.
    pub async fn remove(&self, id: &ConsumerId) {
        let Some((_, consumer)) = self.consumers.remove(id) else { return };
        let running = consumer.running.lock().take();
        let handler = consumer.handler.lock().take();
        if let Service::Pull(service) = &consumer.service {
            service.stop();
        }
        if let Some(handler) = handler {
            handler.hint(Stop);
        }
        if let Some(inbox) = end(running)
            && tokio::time::timeout(END_LIMIT, inbox.ended()).await.is_err()
        {
            tracing::warn!(consumer = %id, "the inbox does not end");
        }
    }

    /// A consumer.
    #[must_use]
    pub fn get(&self, id: &ConsumerId) -> Option<Arc<Consumer>> {
        self.consumers.get(id).map(|entry| Arc::clone(&entry))
    }

    /// Every consumer, in no particular order.
    #[must_use]
    pub fn consumers(&self) -> Vec<Arc<Consumer>> {
        self.consumers.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// Sets who takes the deliveries of an in-process consumer.
    pub fn set_deliverer(&self, consumer: &Consumer, deliverer: Option<Arc<dyn Deliverer>>) {
        consumer.deliver.store(Arc::new(deliverer));
        if let Some(inbox) = self.running(&consumer.id) {
            inbox.hint(crate::inbox::messages::Wake);
        }
    }

    /// The breaker of a webhook, its actors started when they do not run.
    #[must_use]
    pub fn breaker(&self, id: &ConsumerId) -> Option<Handle<BreakerActor>> {
        let running = self.ensure(id)?;
        running.calling.map(|(_, breaker)| breaker)
    }

    /// The breaker of a webhook, when it runs.
    #[must_use]
    pub fn running_breaker(&self, id: &ConsumerId) -> Option<Handle<BreakerActor>> {
        let consumer = self.get(id)?;
        let running = consumer.running.lock().clone()?;
        running.calling.map(|(_, breaker)| breaker)
    }

    /// The arbiter and client that serve a consumer.
    #[must_use]
    pub fn lane(&self, id: &ConsumerId) -> &(ArbiterHandle, Outbound) {
        let hash = usize::try_from(self.hasher.hash_one(id) >> 33).unwrap_or(0);
        &self.parts.lanes[hash % self.parts.lanes.len()]
    }

    /// Begins a new life of every inbox that runs: the store was opened again.
    pub fn rebuild_all(&self) {
        for consumer in self.consumers() {
            if let Some(running) = consumer.running.lock().clone() {
                running.inbox.rebuild();
            }
        }
    }

    fn ensure(&self, id: &ConsumerId) -> Option<Running> {
        let consumer = self.get(id)?;
        let mut slot = consumer.running.lock();
        if let Some(running) = slot.as_ref().filter(|running| !running.inbox.has_stopped()) {
            return Some(running.clone());
        }
        end(slot.take());
        let running = self.make(&consumer)?;
        *slot = Some(running.clone());
        Some(running)
    }

    fn make(&self, consumer: &Consumer) -> Option<Running> {
        let parts = &self.parts;
        let (arbiter, outbound) = self.lane(&consumer.id);
        let calling = match &consumer.service {
            Service::Webhook(target) => {
                let settings = Arc::clone(target);
                let breaker_parts = BreakerParts {
                    id: consumer.id.as_str().to_owned(),
                    settings: Arc::new(move || settings.load().breaker.clone()),
                    registry: Arc::clone(&parts.registry),
                    metrics: Arc::clone(&parts.metrics),
                    clock: Arc::clone(&parts.clock),
                    watch: None,
                };
                let breaker = supervise(arbiter, ActorKind::Breaker, &parts.health, move || {
                    BreakerActor::new(breaker_parts.clone())
                });
                let delivery_parts = DeliveryParts {
                    consumer: consumer.id.clone(),
                    tracer: parts.tracer.clone(),
                    target: Arc::clone(target),
                    breaker: breaker.clone(),
                    outbound: outbound.clone(),
                    metrics: Arc::clone(&parts.metrics),
                    redactor: parts.redactor.clone(),
                    clock: Arc::clone(&parts.clock),
                };
                let delivery = supervise(arbiter, ActorKind::Delivery, &parts.health, move || {
                    DeliveryActor::new(delivery_parts.clone())
                });
                consumer.deliver.store(Arc::new(Some(Arc::new(delivery.clone()))));
                Some((delivery, breaker))
            }
            Service::Handler => None,
            Service::Pull(service) => {
                consumer.deliver.store(Arc::new(Some(Arc::new(PullDeliverer(Arc::clone(service))))));
                None
            }
            Service::Publish(publisher) => {
                consumer.deliver.store(Arc::new(Some(Arc::new(PublishDeliverer(Arc::clone(publisher))))));
                None
            }
        };
        let inbox_parts = InboxParts {
            consumer: consumer.id.clone(),
            spec: Arc::clone(&consumer.spec),
            totals: Arc::clone(&consumer.totals),
            pause: Arc::clone(&parts.pause),
            reader: parts.reader.clone(),
            state: Arc::clone(&parts.state),
            ledger: parts.ledger.get()?.clone(),
            router: parts.router.clone(),
            deliver: Arc::clone(&consumer.deliver),
            rate: Arc::clone(&consumer.rate),
            tracked: Arc::clone(&consumer.tracked),
            notice: Arc::clone(&parts.notice),
            redactor: parts.redactor.clone(),
            metrics: Arc::clone(&parts.metrics),
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
            report_every: parts.report_every,
            idle_after: parts.idle_after,
        };
        let inbox = supervise(arbiter, ActorKind::Inbox, &parts.health, move || InboxActor::new(inbox_parts.clone()));
        Some(Running { inbox, calling })
    }
}

/// Longest wait for the end of a consumer's inbox.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Ends the actors; returns the inbox, which may still be at something.
fn end(running: Option<Running>) -> Option<Handle<InboxActor>> {
    let Running { inbox, calling } = running?;
    inbox.hint(Stop);
    if let Some((delivery, breaker)) = calling {
        delivery.hint(Stop);
        breaker.hint(Stop);
    }
    Some(inbox)
}

impl Inboxes for Directory {
    fn all(&self) -> Vec<(ConsumerId, Arc<ConsumerSpec>)> {
        self.consumers.iter().map(|entry| (entry.key().clone(), entry.spec.load_full())).collect()
    }

    fn spec(&self, consumer: &ConsumerId) -> Option<Arc<ConsumerSpec>> {
        self.get(consumer).map(|consumer| consumer.spec.load_full())
    }

    fn running(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>> {
        let consumer = self.get(consumer)?;
        let running = consumer.running.lock().clone()?;
        Some(running.inbox).filter(|inbox| !inbox.has_stopped())
    }

    fn start(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>> {
        self.ensure(consumer).map(|running| running.inbox)
    }

    fn retired(&self, consumer: &ConsumerId) {
        let Some(consumer) = self.get(consumer) else { return };
        // The inbox ends by itself when it has its answer; what called for it ends here.
        let running = consumer.running.lock().take();
        if let Some((delivery, breaker)) = running.and_then(|running| running.calling) {
            delivery.hint(Stop);
            breaker.hint(Stop);
        }
    }
}
