//! Where events come from: the router's offers while this inbox follows, the log while it is behind.

use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;

use actix::{ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::{InboxActor, START_PAUSE, lane_key};
use crate::event::envelope::Event;
use crate::ground::ids::Seq;
use crate::inbox::catch_up::Chunk;
use crate::inbox::state::{Hold, InboxState, Offered, RowChange};
use crate::router::messages::{Attach, Attached, Attachment, Detach};

/// A rest shorter than this does not empty the window.
pub(super) const SHED_REST_MS: u64 = 1_000;

impl InboxActor {
    /// Takes what the router offers, in order; what is known already is left out.
    pub(super) fn take_offer(&mut self, after: Seq, events: Vec<Arc<Event>>, ctx: &mut Context<Self>) {
        if self.state.is_none() {
            return;
        }
        if !self.attached {
            // The router does not know (it was built anew): tell it again.
            self.detach();
            return;
        }
        let known = self.later.back().map_or(self.boundary.max(self.looked_at), |last| last.seq);
        if after > known {
            // It comes from an earlier life of the router, which was further on and had offered what lies between to an
            // earlier life of this inbox. Taken, it would hide that for ever.
            self.detach();
            self.turn(ctx);
            return;
        }
        let fresh = events.into_iter().filter(|event| event.seq > known);
        if self.is_behind() {
            self.later.extend(fresh);
        } else {
            for event in fresh {
                self.looked_at = event.seq;
                self.pending.push_back(event);
            }
        }
        self.take_pending();
        let bound = self.spec.rules.window_events;
        if self.pending.len() > bound || self.later.len() > bound {
            self.fall_behind();
        }
        self.turn(ctx);
    }

    /// Gives the newest matches back to the log: they are read again when there is room.
    fn fall_behind(&mut self) {
        let bound = self.spec.rules.window_events;
        if self.pending.len() > bound {
            self.pending.truncate(bound);
            self.looked_at = self.pending.back().map_or(self.looked_at, |last| last.seq);
        }
        self.detach();
    }

    /// A consumer that rests for long holds no events in memory: it detaches and reads again later.
    pub(super) fn rest_if_held(&mut self) {
        let (now, unasked) = (self.now(), self.is_unasked());
        let Some(state) = self.state.as_mut() else { return };
        let long = match state.hold(now) {
            Some(Hold::HubPaused | Hold::Paused) => true,
            Some(Hold::Suspended { until }) => until.since_ms(now) > SHED_REST_MS,
            Some(Hold::RateLimited { .. }) | None => unasked,
        };
        if !long || state.counts().in_flight > 0 {
            return;
        }
        let held = !self.pending.is_empty() || !self.later.is_empty() || !state.window_is_empty();
        if held {
            state.shed();
            self.looked_at = state.seen();
            self.bodies.clear();
            self.pending.clear();
            self.detach();
        }
    }

    fn is_held(&self) -> bool {
        if self.is_unasked() {
            return true;
        }
        match self.state.as_ref().and_then(|state| state.hold(self.now())) {
            Some(Hold::HubPaused | Hold::Paused | Hold::Suspended { .. }) => true,
            // It goes on all the time, only slowly: the window is kept full.
            Some(Hold::RateLimited { .. }) | None => false,
        }
    }

    /// Nothing is offered any more: what comes is read from the log.
    pub(super) fn let_go(&mut self) {
        self.later.clear();
        self.attached = false;
    }

    /// Tells the router to offer nothing more.
    fn detach(&mut self) {
        self.let_go();
        if let Some(state) = &self.state {
            let position = state.position();
            let (consumer, generation) = (self.parts.consumer.clone(), self.session.generation());
            self.parts.router.get().hint(Detach { consumer, generation, position });
        }
    }

    /// Whether part of the log up to the router's place is still to be read here.
    pub(super) fn is_behind(&self) -> bool {
        !self.attached || self.looked_at < self.boundary
    }

    /// Moves matches into the window, and reads on when there is room.
    pub(super) fn fill(&mut self, ctx: &mut Context<Self>) {
        self.take_pending();
        if !self.is_behind() && !self.later.is_empty() {
            while let Some(event) = self.later.pop_front() {
                self.looked_at = self.looked_at.max(event.seq);
                self.pending.push_back(event);
            }
            self.take_pending();
        }
        if self.is_behind() && !self.is_held() {
            self.read_on(ctx);
        }
    }

    fn take_pending(&mut self) {
        let mut rows = Vec::new();
        let Some(state) = self.state.as_mut() else { return };
        let mut parked = false;
        while let Some(event) = self.pending.front() {
            match state.offer(event.seq, lane_key(event), event.weight()) {
                taken @ (Offered::Taken | Offered::TakenOver(_)) => {
                    if let Offered::TakenOver(change) = taken {
                        rows.push(change);
                    }
                    self.bodies.insert(event.seq, Arc::clone(event));
                    self.pending.pop_front();
                }
                Offered::Known => {
                    self.pending.pop_front();
                }
                Offered::Full if parked => break,
                Offered::Full => {
                    parked = true;
                    rows.extend(state.park_blocked());
                }
            }
        }
        if self.pending.is_empty() {
            state.passed(self.looked_at);
        }
        self.write_rows(rows);
    }

    /// Writes row changes; a parked event leaves memory.
    pub(super) fn write_rows(&mut self, rows: Vec<RowChange>) {
        let ops = rows
            .into_iter()
            .map(|change| {
                if let RowChange::Put(seq, _) = &change {
                    self.bodies.remove(seq);
                }
                change.into_op(&self.parts.consumer)
            })
            .collect();
        self.session.commit(ops);
    }

    fn read_on(&mut self, ctx: &mut Context<Self>) {
        if self.reading || self.attaching || !self.pending.is_empty() || self.session.is_congested() {
            return;
        }
        if !self.state.as_ref().is_some_and(InboxState::wants_more) {
            // What waits behind a failing key must not keep the other keys from being read.
            let rows = self.state.as_mut().map(InboxState::park_blocked).unwrap_or_default();
            let parked = !rows.is_empty();
            self.write_rows(rows);
            if !parked || !self.state.as_ref().is_some_and(InboxState::wants_more) {
                return;
            }
        }
        let upto = if self.attached { self.boundary } else { Seq(u64::MAX) };
        let from = self.looked_at.next();
        if !self.attached && from > self.parts.reader.head() {
            self.attach(ctx);
            return;
        }
        self.reading = true;
        let (reader, filter) = (self.parts.reader.clone(), Arc::clone(&self.spec.filter));
        let read = async move { reader.read(filter, from, upto).await };
        ctx.spawn(read.into_actor(self).map(move |read, inbox, ctx| {
            inbox.reading = false;
            match read {
                Ok(chunk) => inbox.take_chunk(from, chunk, ctx),
                Err(error) => {
                    tracing::warn!(consumer = %inbox.parts.consumer, %error, "reading the log failed; trying again");
                    ctx.run_later(START_PAUSE, Self::turn);
                }
            }
        }));
    }

    fn take_chunk(&mut self, from: Seq, chunk: Chunk, ctx: &mut Context<Self>) {
        // The place was given up while this was read (the consumer went to rest): it is read again later.
        if from != self.looked_at.next() {
            self.turn(ctx);
            return;
        }
        if let Some(gap_to) = chunk.gap_to {
            let lost = gap_to.0.saturating_sub(from.0);
            self.parts.totals.gaps.fetch_add(lost, Atomic::Relaxed);
            tracing::warn!(consumer = %self.parts.consumer, from = from.0, to = gap_to.prev().0, "retention has dropped events before this consumer read them");
        }
        self.looked_at = self.looked_at.max(chunk.upto);
        self.pending.extend(chunk.events);
        let left = self.parts.reader.head().0.saturating_sub(self.looked_at.0);
        let near = left <= self.spec.rules.window_events as u64 / 2;
        if !self.attached && near && !self.is_held() {
            self.attach(ctx);
        }
        self.turn(ctx);
    }

    /// Asks the router to offer again what comes after its place; what lies before that is read here. The mailbox waits
    /// for the answer: offers that come behind it must not be handled before it.
    fn attach(&mut self, ctx: &mut Context<Self>) {
        if self.attaching {
            return;
        }
        self.attaching = true;
        let router = self.parts.router.clone();
        let consumer = self.parts.consumer.clone();
        let position = self.state.as_ref().map(InboxState::position);
        let generation = self.session.generation();
        let asked = async move { router.get().ask(Attach { consumer, generation, position }).await };
        ctx.wait(asked.into_actor(self).map(|answer, inbox, ctx| {
            inbox.attaching = false;
            match answer {
                Ok(Attachment::Attached(Attached { position: _, boundary })) => {
                    inbox.attached = true;
                    inbox.boundary = boundary;
                    inbox.turn(ctx);
                }
                Ok(Attachment::Unknown) => ctx.stop(),
                Ok(Attachment::NotYet) | Err(_) => {
                    ctx.run_later(START_PAUSE, Self::turn);
                }
            }
        }));
    }
}
