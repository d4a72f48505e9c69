//! The router actor.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, SpawnHandle, WrapFuture as _,
};

use super::drain::Drain;
use super::index::SubscriptionIndex;
use super::messages::{
    Attach, Attached, Attachment, Begin, CheckpointNow, Detach, Inspect, Keep, Positioned, Reconsider, Retire,
    RouterView, Subscribe, Unsubscribe,
};
use super::pace::Pace;
use crate::config::LiveSettings;
use crate::event::envelope::Event;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::actor::InboxActor;
use crate::inbox::catch_up::blocking;
use crate::inbox::ledger::{Ledger, Session};
use crate::inbox::messages::{Detached, Offer};
use crate::inbox::spec::ConsumerSpec;
use crate::metrics::Metrics;
use crate::outbox::{Gate, OutboxActor, Retain, Tail};
use crate::store::{Checkpoints, ConsumerState, EventLog, Position, ReadLimits, StateOp, StoreError};
use crate::supervise::{Handle, Stop};

/// Events matched in one turn before other messages are looked at.
const TURN_EVENTS: usize = 256;
/// Bytes read from the log in one turn, when the tail has moved past the cursor.
const READ_BYTES: usize = 4 << 20;
/// Pause before a start or a reading that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A handle on the router that exists before the router does.
#[derive(Clone, Default)]
pub struct RouterLink(Arc<OnceLock<Handle<RouterActor>>>);

impl RouterLink {
    /// Sets the handle; the first one stays.
    pub fn set(&self, handle: Handle<RouterActor>) {
        self.0.get_or_init(|| handle);
    }

    /// The handle.
    ///
    /// # Panics
    /// When it was not set: the hub sets it before it starts an inbox.
    #[must_use]
    pub fn get(&self) -> &Handle<RouterActor> {
        #[expect(clippy::expect_used, reason = "the hub sets the link before it starts the first inbox")]
        self.0.get().expect("the router's link is set")
    }
}

/// The consumers, as the router needs them.
pub trait Inboxes: Send + Sync {
    /// Every consumer.
    fn all(&self) -> Vec<(ConsumerId, Arc<ConsumerSpec>)>;
    /// One consumer's settings.
    fn spec(&self, consumer: &ConsumerId) -> Option<Arc<ConsumerSpec>>;
    /// The consumer's inbox when it runs.
    fn running(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>>;
    /// The consumer's inbox, started when it does not run.
    fn start(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>>;
    /// The inbox ends: the next event that matches starts another one.
    fn retired(&self, consumer: &ConsumerId);
}

/// What the router works with.
#[derive(Clone)]
pub struct RouterParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The newest events.
    pub tail: Arc<Tail>,
    /// Checkpoints at the start.
    pub state: Arc<dyn ConsumerState>,
    /// Where checkpoints go.
    pub ledger: Ledger,
    /// The consumers.
    pub inboxes: Arc<dyn Inboxes>,
    /// Told what retention may drop.
    pub outbox: Handle<OutboxActor>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// How long after something has moved a checkpoint is written.
    pub checkpoint_every: Duration,
    /// How often retention looks.
    pub retention_every: Duration,
    /// Bytes that may wait in one inbox's mailbox.
    pub offer_bytes_max: usize,
    /// How often the safety net looks, and how the start-up drain goes.
    pub settings: LiveSettings,
}

struct Subscriber {
    consumer: ConsumerId,
    from: Seq,
    inbox: Option<Handle<InboxActor>>,
    attached: bool,
    /// Its position; none when it follows.
    unsettled: Option<Position>,
    /// Whether that differs from what the last checkpoint holds.
    dirty: bool,
    /// Whether there is one on disk.
    on_disk: bool,
    /// The lowest position its rows need.
    needed_from: Option<Seq>,
    last_offered: Seq,
    /// While attached: its matches up to here were offered, or are read by the inbox itself.
    told_upto: Seq,
    gate: Gate,
}

/// Reads the tail and hands events to inboxes.
pub struct RouterActor {
    parts: RouterParts,
    session: Session,
    ready: bool,
    cursor: Seq,
    checkpointed: Seq,
    slots: Vec<Option<Subscriber>>,
    free: Vec<u32>,
    by_id: HashMap<ConsumerId, u32>,
    index: SubscriptionIndex<u32>,
    reading: bool,
    matches: Vec<u32>,
    drain: Drain,
    /// Whether the next checkpoint has its timer: there is none while nothing moves.
    checkpoint_planned: bool,
    /// The one timer of the safety net, and why it is as long as it is.
    poll: Option<(Pace, SpawnHandle)>,
}

impl RouterActor {
    /// A router that reads its checkpoint when it starts.
    #[must_use]
    pub fn new(parts: RouterParts) -> Self {
        let session = parts.ledger.session();
        Self {
            parts,
            session,
            ready: false,
            cursor: Seq::ZERO,
            checkpointed: Seq::ZERO,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            index: SubscriptionIndex::new(),
            reading: false,
            matches: Vec::new(),
            drain: Drain::default(),
            checkpoint_planned: false,
            poll: None,
        }
    }

    /// Reads the checkpoint, after the one that an earlier life may have handed in is written. The mailbox waits until
    /// that has worked: a consumer that asked earlier would be told that it is not known.
    fn load(&mut self, ctx: &mut Context<Self>) {
        self.session = self.parts.ledger.session();
        let (state, session) = (Arc::clone(&self.parts.state), self.session.clone());
        let loading = async move {
            session.drained().await?;
            blocking(move || Ok((state.checkpoints()?, state.consumers_with_rows()?))).await
        };
        ctx.wait(loading.into_actor(self).map(|loaded, router, ctx| match loaded {
            Ok((checkpoints, with_rows)) => router.begin(checkpoints, with_rows, ctx),
            Err(error) => {
                tracing::warn!(%error, "the router cannot start yet");
                let pause = tokio::time::sleep(RETRY_PAUSE).into_actor(router);
                ctx.wait(pause.map(|(), router, ctx| router.load(ctx)));
            }
        }));
    }

    fn begin(&mut self, checkpoints: Checkpoints, with_rows: Vec<ConsumerId>, ctx: &mut Context<Self>) {
        self.cursor = checkpoints.router.unwrap_or_default();
        self.checkpointed = self.cursor;
        for (consumer, spec) in self.parts.inboxes.all() {
            self.subscribe(&consumer, &spec);
        }
        for (consumer, position) in checkpoints.consumers {
            match self.subscriber(&consumer) {
                Some(subscriber) => {
                    subscriber.unsettled = Some(position);
                    subscriber.on_disk = true;
                }
                // Deleted, and the end came before its state was forgotten.
                None => self.session.commit(vec![StateOp::DropConsumer(consumer)]),
            }
        }
        for consumer in with_rows {
            match self.subscriber(&consumer) {
                Some(subscriber) => subscriber.needed_from = Some(Seq::ZERO),
                None => self.session.commit(vec![StateOp::DropConsumer(consumer)]),
            }
        }
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            match self.parts.inboxes.running(&slot.consumer) {
                // It was attached to an earlier life of this router; it attaches again.
                Some(inbox) => {
                    inbox.hint(Detached);
                    slot.inbox = Some(inbox);
                }
                None if slot.unsettled.is_some() || slot.needed_from.is_some() => {
                    self.drain.add(u32::try_from(at).unwrap_or(u32::MAX));
                }
                None => {}
            }
        }
        self.ready = true;
        self.go_on_draining();
        self.turn(ctx);
        let pace = self.pace();
        self.plan_poll(pace, ctx);
    }

    /// Starts the next of the consumers that had something pending, unless that is left to the safety net.
    fn go_on_draining(&mut self) {
        if self.drain.is_waiting() && self.parts.settings.load().startup_drain_enabled {
            self.start_waiting();
        }
    }

    fn start_waiting(&mut self) {
        let batch = self.parts.settings.load().startup_drain_batch_size as usize;
        for slot in self.drain.next(batch) {
            let Some(subscriber) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            subscriber.inbox = self.parts.inboxes.start(&subscriber.consumer);
        }
    }

    /// The safety net (OUT-4): looks at the log though nobody said that it has moved, and starts consumers that still
    /// wait to be.
    fn poll(&mut self, ctx: &mut Context<Self>) {
        if self.drain.is_waiting() {
            self.drain.let_go();
            self.start_waiting();
        }
        self.revive();
        self.turn(ctx);
        let pace = self.pace();
        self.plan_poll(pace, ctx);
    }

    fn pace(&self) -> Pace {
        let unsettled = || self.slots.iter().flatten().any(|one| one.unsettled.is_some() || one.needed_from.is_some());
        if self.drain.is_waiting() || self.cursor < self.parts.log.head() || unsettled() {
            Pace::Working
        } else {
            Pace::Idle
        }
    }

    /// Plans the next look of the safety net anew, by the settings that hold now.
    fn plan_poll(&mut self, pace: Pace, ctx: &mut Context<Self>) {
        let timer = ctx.run_later(pace.interval(&self.parts.settings.load()), Self::poll);
        if let Some((_, before)) = self.poll.replace((pace, timer)) {
            ctx.cancel_future(before);
        }
    }

    fn subscriber(&mut self, consumer: &ConsumerId) -> Option<&mut Subscriber> {
        let slot = *self.by_id.get(consumer)?;
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn subscribe(&mut self, consumer: &ConsumerId, spec: &ConsumerSpec) {
        let slot = match self.by_id.get(consumer) {
            Some(slot) => *slot,
            None => {
                let subscriber = Subscriber {
                    consumer: consumer.clone(),
                    from: spec.from,
                    inbox: None,
                    attached: false,
                    unsettled: None,
                    dirty: false,
                    on_disk: false,
                    needed_from: None,
                    last_offered: Seq::ZERO,
                    told_upto: Seq::ZERO,
                    gate: Gate::new(self.parts.offer_bytes_max),
                };
                let slot = match self.free.pop() {
                    Some(slot) => {
                        self.slots[slot as usize] = Some(subscriber);
                        slot
                    }
                    None => {
                        self.slots.push(Some(subscriber));
                        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
                    }
                };
                self.by_id.insert(consumer.clone(), slot);
                slot
            }
        };
        self.index.insert(slot, &spec.filter);
    }

    /// Waits for the head to move, again and again.
    fn follow(&mut self, ctx: &mut Context<Self>) {
        let tail = Arc::clone(&self.parts.tail);
        let moved = async move { tail.moved().await };
        ctx.spawn(moved.into_actor(self).map(|(), router, ctx| {
            router.turn(ctx);
            router.follow(ctx);
        }));
    }

    /// One turn: hand on up to [`TURN_EVENTS`] events; when there are more, come back after other messages.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        if !self.ready || self.reading {
            return;
        }
        if self.cursor >= self.parts.log.head() {
            return;
        }
        match self.parts.tail.read(self.cursor.next(), TURN_EVENTS) {
            Some(events) => {
                self.hand_on(events, ctx);
                self.parts.tail.nudge();
            }
            None => self.read_log(ctx),
        }
    }

    /// The tail has moved past the cursor (a start, or a gap): read the log.
    fn read_log(&mut self, ctx: &mut Context<Self>) {
        self.reading = true;
        let (log, from) = (Arc::clone(&self.parts.log), self.cursor.next());
        let read = blocking(move || {
            let start = from.max(log.earliest());
            let upto = log.head();
            let events = log.read(start, ReadLimits { events: TURN_EVENTS * 2, bytes: READ_BYTES, upto })?;
            Ok((events, upto))
        });
        ctx.spawn(read.into_actor(self).map(|read, router, ctx| {
            router.reading = false;
            match read {
                Ok((events, upto)) if events.is_empty() => {
                    // Everything up to the head was dropped by retention.
                    router.cursor = router.cursor.max(upto);
                    router.plan_checkpoint(ctx);
                    router.turn(ctx);
                }
                Ok((events, _)) => {
                    router.hand_on(events, ctx);
                    router.turn(ctx);
                }
                Err(error) => {
                    tracing::warn!(%error, "the router cannot read the log; trying again");
                    ctx.run_later(RETRY_PAUSE, Self::turn);
                }
            }
        }));
    }

    /// Hands each event to the inboxes it matches, and moves the cursor.
    fn hand_on(&mut self, events: Vec<Arc<Event>>, ctx: &mut Context<Self>) {
        let mut offers: HashMap<u32, Vec<Arc<Event>>> = HashMap::new();
        let mut matches = std::mem::take(&mut self.matches);
        for event in &events {
            matches.clear();
            self.index.matches(event, &mut matches);
            for slot in &matches {
                offers.entry(*slot).or_default().push(Arc::clone(event));
            }
        }
        self.matches = matches;
        if !offers.is_empty() && self.poll.is_some_and(|(pace, _)| pace == Pace::Idle) {
            self.plan_poll(Pace::Working, ctx);
        }
        for (slot, events) in offers {
            self.offer(slot, events);
        }
        if let Some(last) = events.last() {
            self.plan_checkpoint(ctx);
            self.cursor = last.seq;
            self.parts.metrics.router_cursor.set(i64::try_from(last.seq.0).unwrap_or(i64::MAX));
        }
    }

    fn offer(&mut self, slot: u32, mut events: Vec<Arc<Event>>) {
        let Some(subscriber) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        events.retain(|event| event.seq > subscriber.from);
        let (Some(first), Some(last)) = (events.first().map(|event| event.seq), events.last().map(|event| event.seq))
        else {
            return;
        };
        subscriber.last_offered = last;
        if subscriber.unsettled.is_none() {
            subscriber.unsettled = Some(Position::at(first.prev()));
            subscriber.dirty = true;
        }
        let running = subscriber.inbox.as_ref().is_some_and(|inbox| !inbox.has_stopped());
        if !running && self.drain.waits(slot) && self.parts.settings.load().startup_drain_enabled {
            // Its turn comes; it reads these after what it had pending.
            return;
        }
        if !running {
            self.drain.done(slot);
            // It asks for its place when it has started, and reads these from the tail.
            subscriber.attached = false;
            subscriber.inbox = self.parts.inboxes.start(&subscriber.consumer);
            return;
        }
        let Some(inbox) = subscriber.inbox.as_ref().filter(|_| subscriber.attached) else { return };
        let bytes = events.iter().map(|event| event.weight()).sum();
        match subscriber.gate.enter(bytes) {
            Some(permit) => {
                let after = std::mem::replace(&mut subscriber.told_upto, last);
                inbox.hint(Offer { after, events, permit: Some(permit) });
            }
            None => {
                subscriber.attached = false;
                inbox.hint(Detached);
            }
        }
    }

    /// Starts the inbox of whoever has something unsettled and whose inbox has ended. One that asks to retire while this
    /// router is built anew gets no answer and ends; what came for it meanwhile must not wait for its next match.
    fn revive(&mut self) {
        for subscriber in self.slots.iter_mut().flatten().filter(|one| one.unsettled.is_some()) {
            if subscriber.inbox.as_ref().is_some_and(Handle::has_stopped) {
                subscriber.attached = false;
                subscriber.inbox = self.parts.inboxes.start(&subscriber.consumer);
            }
        }
    }

    /// Something has moved: a checkpoint is written in a while, with whatever moves until then.
    fn plan_checkpoint(&mut self, ctx: &mut Context<Self>) {
        if self.checkpoint_planned {
            return;
        }
        self.checkpoint_planned = true;
        ctx.run_later(self.parts.checkpoint_every, |router, _| {
            router.checkpoint_planned = false;
            router.revive();
            let due = router.checkpoint();
            router.session.commit(due.into_iter().collect());
        });
    }

    /// The checkpoint that is due; none when nothing has moved.
    fn checkpoint(&mut self) -> Option<StateOp> {
        let (mut set, mut clear) = (Vec::new(), Vec::new());
        for subscriber in self.slots.iter_mut().flatten().filter(|one| one.dirty) {
            subscriber.dirty = false;
            match &subscriber.unsettled {
                Some(position) => {
                    subscriber.on_disk = true;
                    set.push((subscriber.consumer.clone(), position.clone()));
                }
                None if subscriber.on_disk => {
                    subscriber.on_disk = false;
                    clear.push(subscriber.consumer.clone());
                }
                None => {}
            }
        }
        if set.is_empty() && clear.is_empty() && self.cursor == self.checkpointed {
            return None;
        }
        self.checkpointed = self.cursor;
        Some(StateOp::Checkpoint { router: self.cursor, set, clear })
    }

    /// Writes the position of one consumer beside the router's cursor of the last checkpoint, which stays: of the others
    /// nothing is said (CK-1). Waits for the disk.
    fn keep(&mut self, consumer: ConsumerId, position: Position) -> ResponseFuture<Result<(), StoreError>> {
        let router = self.checkpointed;
        let Some(subscriber) = self.subscriber(&consumer) else {
            return Box::pin(std::future::ready(Err(StoreError::Unavailable)));
        };
        subscriber.unsettled = Some(position.clone());
        subscriber.dirty = false;
        subscriber.on_disk = true;
        let op = StateOp::Checkpoint { router, set: vec![(consumer, position)], clear: Vec::new() };
        // Handed in now: a checkpoint that follows must not be undone by the cursor of the one before it.
        Box::pin(self.session.hand_in_synced(vec![op]))
    }

    /// Whether an inbox and this router have read their state from the same opening of the store (CK-3).
    fn believes(&self, generation: u64) -> bool {
        generation == self.session.generation()
    }

    /// The lowest position that anyone still needs.
    fn needed_from(&self) -> Seq {
        let of_each = self.slots.iter().flatten().flat_map(|one| {
            let unsettled = one.unsettled.as_ref().map(|position| position.cursor.next());
            [unsettled, one.needed_from]
        });
        of_each.flatten().min().unwrap_or(Seq(u64::MAX)).min(self.cursor.next())
    }
}

impl Actor for RouterActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
        self.follow(ctx);
        ctx.run_interval(self.parts.retention_every, |router, _| {
            if router.ready {
                router.parts.outbox.hint(Retain { needed_from: router.needed_from() });
            }
        });
    }
}

impl Handler<Subscribe> for RouterActor {
    type Result = ();

    fn handle(&mut self, Subscribe { consumer }: Subscribe, _: &mut Self::Context) {
        if let Some(spec) = self.parts.inboxes.spec(&consumer) {
            self.subscribe(&consumer, &spec);
        }
    }
}

impl Handler<Begin> for RouterActor {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, Begin { consumer }: Begin, _: &mut Self::Context) -> Self::Result {
        let spec = self.parts.inboxes.spec(&consumer).filter(|_| self.ready);
        let Some(spec) = spec else { return Box::pin(std::future::ready(Err(StoreError::Unavailable))) };
        self.subscribe(&consumer, &spec);
        if spec.from >= self.cursor {
            return Box::pin(std::future::ready(Ok(())));
        }
        let kept = self.keep(consumer.clone(), Position::at(spec.from));
        // From here on it is like one that had something pending at a restart.
        let inbox = self.parts.inboxes.start(&consumer);
        if let Some(subscriber) = self.subscriber(&consumer) {
            subscriber.inbox = inbox;
        }
        kept
    }
}

impl Handler<Keep> for RouterActor {
    type Result = ();

    fn handle(&mut self, Keep { consumer, generation, position, done }: Keep, ctx: &mut Self::Context) {
        // Without an answer whoever waits learns that the outcome is unknown.
        if self.ready && self.believes(generation) {
            let kept = self.keep(consumer, position);
            ctx.spawn(async move { drop(done.send(kept.await)) }.into_actor(self));
        }
    }
}

impl Handler<Unsubscribe> for RouterActor {
    type Result = ();

    fn handle(&mut self, Unsubscribe { consumer }: Unsubscribe, _: &mut Self::Context) {
        if let Some(slot) = self.by_id.remove(&consumer) {
            self.drain.done(slot);
            self.go_on_draining();
            self.index.remove(slot);
            let inbox = self.slots[slot as usize].take().and_then(|subscriber| subscriber.inbox);
            // One that was between two lives when its consumer was removed has not been told.
            if let Some(inbox) = inbox {
                inbox.hint(Stop);
            }
            self.free.push(slot);
        }
        self.session.commit(vec![StateOp::DropConsumer(consumer)]);
    }
}

impl Handler<Attach> for RouterActor {
    type Result = actix::MessageResult<Attach>;

    fn handle(&mut self, attach: Attach, ctx: &mut Self::Context) -> Self::Result {
        let Attach { consumer, generation, position } = attach;
        if !self.ready || !self.believes(generation) {
            return actix::MessageResult(Attachment::NotYet);
        }
        let boundary = self.cursor;
        let inbox = self.parts.inboxes.running(&consumer);
        let Some(subscriber) = self.subscriber(&consumer) else {
            return actix::MessageResult(Attachment::Unknown);
        };
        subscriber.inbox = inbox;
        subscriber.attached = true;
        subscriber.told_upto = boundary;
        if let Some(position) = position {
            subscriber.unsettled = Some(position);
            subscriber.dirty = true;
        }
        let position = subscriber.unsettled.clone().unwrap_or_else(|| Position::at(boundary.max(subscriber.from)));
        if let Some(slot) = self.by_id.get(&consumer) {
            self.drain.done(*slot);
        }
        self.go_on_draining();
        self.plan_checkpoint(ctx);
        actix::MessageResult(Attachment::Attached(Attached { position, boundary }))
    }
}

impl Handler<Reconsider> for RouterActor {
    type Result = ();

    fn handle(&mut self, _: Reconsider, ctx: &mut Self::Context) {
        if self.ready {
            self.go_on_draining();
            let pace = self.pace();
            self.plan_poll(pace, ctx);
        }
    }
}

impl Handler<Detach> for RouterActor {
    type Result = ();

    fn handle(&mut self, Detach { consumer, generation, position }: Detach, ctx: &mut Self::Context) {
        if !self.believes(generation) {
            return;
        }
        if let Some(subscriber) = self.subscriber(&consumer) {
            subscriber.attached = false;
            subscriber.unsettled = Some(position);
            subscriber.dirty = true;
            self.plan_checkpoint(ctx);
        }
    }
}

impl Handler<Positioned> for RouterActor {
    type Result = ();

    fn handle(&mut self, told: Positioned, ctx: &mut Self::Context) {
        let Positioned { consumer, generation, position, seen, needed_from, nothing_unsettled } = told;
        if !self.believes(generation) {
            return;
        }
        let Some(subscriber) = self.subscriber(&consumer) else { return };
        subscriber.needed_from = needed_from;
        if nothing_unsettled && subscriber.attached && subscriber.last_offered <= seen {
            subscriber.dirty |= subscriber.unsettled.take().is_some();
        } else if subscriber.unsettled.as_ref() != Some(&position) {
            subscriber.unsettled = Some(position);
            subscriber.dirty = true;
        }
        if subscriber.dirty {
            self.plan_checkpoint(ctx);
        }
    }
}

impl Handler<Retire> for RouterActor {
    type Result = bool;

    fn handle(&mut self, Retire { consumer, generation, seen }: Retire, _: &mut Self::Context) -> bool {
        if !self.ready || !self.believes(generation) {
            return false;
        }
        let Some(subscriber) = self.subscriber(&consumer) else { return true };
        let idle = subscriber.attached && subscriber.unsettled.is_none() && subscriber.last_offered <= seen;
        if idle {
            subscriber.inbox = None;
            subscriber.attached = false;
            self.parts.inboxes.retired(&consumer);
        }
        idle
    }
}

impl Handler<Inspect> for RouterActor {
    type Result = actix::MessageResult<Inspect>;

    fn handle(&mut self, Inspect { consumers }: Inspect, _: &mut Self::Context) -> Self::Result {
        let known = self.slots.iter().flatten();
        let asked = known.filter(|one| consumers.is_empty() || consumers.contains(&one.consumer));
        let consumers = asked.map(|one| (one.consumer.clone(), one.unsettled.clone())).collect();
        actix::MessageResult(RouterView { cursor: self.cursor, consumers })
    }
}

impl Handler<CheckpointNow> for RouterActor {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, _: CheckpointNow, _: &mut Self::Context) -> Self::Result {
        let due = if self.ready { self.checkpoint() } else { None };
        Box::pin(self.session.hand_in_synced(due.into_iter().collect()))
    }
}

crate::supervised!(RouterActor);
