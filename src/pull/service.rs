//! What of a pull consumer outlives its actor: the demand, who is there, and when somebody last was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::actor::{Begun, Ended, PullActor};
use super::state::TakerId;
use crate::ground::clock::UnixMs;
use crate::ground::ids::{Epoch, Seq};
use crate::inbox::demand::{Demand, Expected};
use crate::inbox::messages::{Deliver, Deliverer};
use crate::supervise::{Handle, PanicNow, Stop};

/// How a client gets its deliveries; the label of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// A long poll.
    Poll,
    /// Server-sent events.
    Sse,
    /// A WebSocket.
    Socket,
}

impl ClientKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Poll, Self::Sse, Self::Socket];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Sse => "sse",
            Self::Socket => "websocket",
        }
    }
}

/// One pull consumer at work.
#[derive(Debug, Default)]
pub struct PullService {
    name: String,
    demand: Arc<Demand>,
    actor: Mutex<Option<Handle<PullActor>>>,
    next_taker: AtomicU64,
    clients: AtomicUsize,
    streams: AtomicUsize,
    last_seen_ms: AtomicU64,
}

impl PullService {
    /// A consumer of this name that somebody was last there for at `now`.
    #[must_use]
    pub fn new(name: &str, now: UnixMs) -> Arc<Self> {
        let service = Self { name: name.to_owned(), ..Self::default() };
        service.touch(now);
        Arc::new(service)
    }

    /// Its name within its org.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked for.
    #[must_use]
    pub fn demand(&self) -> Arc<Demand> {
        Arc::clone(&self.demand)
    }

    /// The actor, made by `make` when there is none.
    pub fn actor_or_make(&self, make: impl FnOnce() -> Handle<PullActor>) -> Handle<PullActor> {
        let mut actor = self.actor.lock();
        match actor.as_ref().filter(|actor| !actor.has_stopped()) {
            Some(actor) => actor.clone(),
            None => actor.insert(make()).clone(),
        }
    }

    fn actor(&self) -> Option<Handle<PullActor>> {
        self.actor.lock().clone()
    }

    /// Ends the actor, and with it every wait and stream.
    pub fn stop(&self) {
        if let Some(actor) = self.actor.lock().take() {
            actor.hint(Stop);
        }
    }

    /// Makes the actor panic, for tests. False when it does not run.
    pub fn panic_now(&self) -> bool {
        let actor = self.actor().filter(|actor| !actor.has_stopped());
        actor.is_some_and(|actor| actor.tell(PanicNow).is_ok())
    }

    /// A name for a client that waits.
    #[must_use]
    pub fn taker(&self) -> TakerId {
        TakerId(self.next_taker.fetch_add(1, Ordering::Relaxed))
    }

    /// Clients that wait or hold a stream.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    /// Notes that somebody is there.
    pub fn touch(&self, now: UnixMs) {
        self.last_seen_ms.fetch_max(now.0, Ordering::AcqRel);
    }

    /// When somebody was last there; somebody who is there now counts as `now`.
    #[must_use]
    pub fn last_seen(&self, now: UnixMs) -> UnixMs {
        if self.clients() > 0 { now } else { UnixMs(self.last_seen_ms.load(Ordering::Acquire)) }
    }
}

/// A client that is there; counts as long as it lives.
#[derive(Debug)]
pub struct Client {
    service: Arc<PullService>,
    kind: ClientKind,
    everyone: Arc<AtomicUsize>,
    gauge: prometheus::IntGauge,
}

impl Client {
    /// Counts a client in; none past the bound of the consumer, or of the hub.
    ///
    /// # Errors
    /// The bound that is reached, in words.
    pub fn enter(
        service: &Arc<PullService>,
        kind: ClientKind,
        everyone: &Arc<AtomicUsize>,
        (of_consumer, of_hub): (usize, usize),
        gauge: prometheus::IntGauge,
    ) -> Result<Self, String> {
        if !enter(everyone, of_hub) {
            return Err(format!("at most {of_hub} clients wait for deliveries of this hub (pull.clients_max)"));
        }
        if !enter(&service.clients, of_consumer) {
            everyone.fetch_sub(1, Ordering::AcqRel);
            return Err(format!(
                "at most {of_consumer} clients wait for deliveries of one consumer (pull.consumer_clients_max)"
            ));
        }
        if kind != ClientKind::Poll {
            service.streams.fetch_add(1, Ordering::AcqRel);
        }
        gauge.inc();
        Ok(Self { service: Arc::clone(service), kind, everyone: Arc::clone(everyone), gauge })
    }
}

fn enter(count: &AtomicUsize, most: usize) -> bool {
    let room = |now: usize| (now < most).then_some(now + 1);
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok()
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.kind != ClientKind::Poll {
            self.service.streams.fetch_sub(1, Ordering::AcqRel);
        }
        self.service.clients.fetch_sub(1, Ordering::AcqRel);
        self.everyone.fetch_sub(1, Ordering::AcqRel);
        self.gauge.dec();
    }
}

/// The inbox's way to whoever waits.
#[derive(Debug)]
pub struct PullDeliverer(pub Arc<PullService>);

impl Deliverer for PullDeliverer {
    fn deliver(&self, work: Deliver) {
        // Nobody waits any more when there is no actor: the tickets give the claims back.
        if let Some(actor) = self.0.actor() {
            actor.hint(work);
        }
    }

    fn room(&self) -> usize {
        self.0.demand.room()
    }

    fn expect(&self) -> Option<Expected> {
        Some(self.0.demand.expect())
    }

    fn ended(&self, seq: Seq, epoch: Epoch) {
        // Of interest to those alone whose room comes back.
        if self.0.streams.load(Ordering::Acquire) > 0
            && let Some(actor) = self.0.actor()
        {
            actor.hint(Ended { seq, epoch });
        }
    }

    fn begun(&self) {
        if let Some(actor) = self.0.actor() {
            actor.hint(Begun);
        }
    }
}
