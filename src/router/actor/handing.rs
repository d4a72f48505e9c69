//! Reading the tail, or the log behind it, and handing each event to the inboxes it matches (CK-2, CK-4).

use std::collections::HashMap;
use std::sync::Arc;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::{RETRY_PAUSE, RouterActor};
use crate::event::envelope::Event;
use crate::inbox::catch_up::blocking;
use crate::inbox::messages::{Detached, Offer};
use crate::router::pace::Pace;
use crate::store::{Position, ReadLimits};

/// Events matched in one turn before other messages are looked at.
const TURN_EVENTS: usize = 256;
/// Bytes read from the log in one turn, when the tail has moved past the cursor.
const READ_BYTES: usize = 4 << 20;

impl RouterActor {
    /// Waits for the head to move, again and again.
    pub(super) fn follow(&mut self, ctx: &mut Context<Self>) {
        let tail = Arc::clone(&self.parts.tail);
        let moved = async move { tail.moved().await };
        ctx.spawn(moved.into_actor(self).map(|(), router, ctx| {
            router.turn(ctx);
            router.follow(ctx);
        }));
    }

    /// One turn: hand on up to [`TURN_EVENTS`] events; when there are more, come back after other messages.
    pub(super) fn turn(&mut self, ctx: &mut Context<Self>) {
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
}
