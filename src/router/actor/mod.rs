//! The router actor: its subscribers and how it starts. What it does with events is in [`handing`], with positions in
//! [`places`], with inboxes that do not run in [`waking`].

mod handing;
mod places;
mod waking;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, ResponseFuture, SpawnHandle, WrapFuture as _,
};

use super::drain::Drain;
use super::index::SubscriptionIndex;
use super::messages::{Begin, Subscribe, Unsubscribe};
use super::pace::Pace;
use super::parts::RouterParts;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::actor::InboxActor;
use crate::inbox::catch_up::blocking;
use crate::inbox::ledger::Session;
use crate::inbox::messages::Detached;
use crate::inbox::spec::ConsumerSpec;
use crate::outbox::{Gate, Retain};
use crate::store::{Checkpoints, Position, StateOp, StoreError};
use crate::supervise::{Handle, Stop};

/// Pause before a start or a reading that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

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

crate::supervised!(RouterActor);
