//! Where everyone stands: what inboxes tell of their positions, and the checkpoint that holds them (CK-1, CK-3).

use actix::{AsyncContext as _, Context, Handler, ResponseFuture, WrapFuture as _};

use super::RouterActor;
use crate::ground::ids::{ConsumerId, Seq};
use crate::router::messages::{
    Attach, Attached, Attachment, CheckpointNow, Detach, Inspect, Keep, Positioned, Retire, RouterView,
};
use crate::store::{Position, StateOp, StoreError};

impl RouterActor {
    /// Something has moved: a checkpoint is written in a while, with whatever moves until then.
    pub(super) fn plan_checkpoint(&mut self, ctx: &mut Context<Self>) {
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
    pub(super) fn keep(&mut self, consumer: ConsumerId, position: Position) -> ResponseFuture<Result<(), StoreError>> {
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
    pub(super) fn needed_from(&self) -> Seq {
        let of_each = self.slots.iter().flatten().flat_map(|one| {
            let unsettled = one.unsettled.as_ref().map(|position| position.cursor.next());
            [unsettled, one.needed_from]
        });
        of_each.flatten().min().unwrap_or(Seq(u64::MAX)).min(self.cursor.next())
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
