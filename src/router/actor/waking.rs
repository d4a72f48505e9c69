//! Inboxes that must run and do not: the start-up drain (OUT-5), the safety net behind the notifier (OUT-4), and those
//! that have ended with something unsettled.

use actix::{AsyncContext as _, Context, Handler};

use super::RouterActor;
use crate::router::messages::Reconsider;
use crate::router::pace::Pace;
use crate::supervise::Handle;

impl RouterActor {
    /// Starts the next of the consumers that had something pending, unless that is left to the safety net.
    pub(super) fn go_on_draining(&mut self) {
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
    pub(super) fn poll(&mut self, ctx: &mut Context<Self>) {
        if self.drain.is_waiting() {
            self.drain.let_go();
            self.start_waiting();
        }
        self.revive();
        self.turn(ctx);
        let pace = self.pace();
        self.plan_poll(pace, ctx);
    }

    pub(super) fn pace(&self) -> Pace {
        let unsettled = || self.slots.iter().flatten().any(|one| one.unsettled.is_some() || one.needed_from.is_some());
        if self.drain.is_waiting() || self.cursor < self.parts.log.head() || unsettled() {
            Pace::Working
        } else {
            Pace::Idle
        }
    }

    /// Plans the next look of the safety net anew, by the settings that hold now.
    pub(super) fn plan_poll(&mut self, pace: Pace, ctx: &mut Context<Self>) {
        let timer = ctx.run_later(pace.interval(&self.parts.settings.load()), Self::poll);
        if let Some((_, before)) = self.poll.replace((pace, timer)) {
            ctx.cancel_future(before);
        }
    }

    /// Starts the inbox of whoever has something unsettled and whose inbox has ended. One that asks to retire while this
    /// router is built anew gets no answer and ends; what came for it meanwhile must not wait for its next match.
    pub(super) fn revive(&mut self) {
        for subscriber in self.slots.iter_mut().flatten().filter(|one| one.unsettled.is_some()) {
            if subscriber.inbox.as_ref().is_some_and(Handle::has_stopped) {
                subscriber.attached = false;
                subscriber.inbox = self.parts.inboxes.start(&subscriber.consumer);
            }
        }
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
