//! What is told: to the router where this inbox stands, to its timer when to look again, to whoever asks how it is.

use std::sync::atomic::Ordering as Atomic;
use std::time::Duration;

use actix::{ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::InboxActor;
use crate::ground::ids::Seq;
use crate::inbox::messages::InboxView;
use crate::inbox::state::{Counts, InboxState, Standing};
use crate::router::messages::{Positioned, Retire};
use crate::store::Position;

/// Pause while so many changes wait to be written that nothing new is begun.
const CONGESTED_PAUSE_MS: u64 = 100;
/// While the hub is paused, an inbox looks this often whether it still is.
const PAUSED_LOOK_MS: u64 = 10_000;
/// Pause while nobody takes deliveries.
const UNTAKEN_PAUSE_MS: u64 = 1_000;

impl InboxActor {
    /// One timer at a time, at the earliest time something may happen.
    pub(super) fn plan_wake(&mut self, ctx: &mut Context<Self>) {
        let at = [self.state.as_ref().and_then(InboxState::wake_at), self.rest_at()].into_iter().flatten().min();
        let at = if self.parts.pause.is_on() {
            // The end of the pause is told; this is for an inbox that was being restarted just then.
            let look = self.now().plus_ms(PAUSED_LOOK_MS);
            Some(at.map_or(look, |at| at.min(look)))
        } else {
            at
        };
        let at = if self.session.is_congested() {
            // Neither reading nor claiming goes on: what is due stays due meanwhile.
            Some(self.now().plus_ms(CONGESTED_PAUSE_MS))
        } else if self.quiesced || self.parts.deliver.load().is_none() {
            at.map(|at| at.max(self.now().plus_ms(UNTAKEN_PAUSE_MS)))
        } else {
            at
        };
        let Some(at) = at else { return };
        if let Some((planned, handle)) = self.wake {
            // A timer that is early enough stays: when it fires, the next one is planned. Leases end late and are
            // answered early, so this spares a timer per delivery.
            if planned <= at && planned > self.now() {
                return;
            }
            ctx.cancel_future(handle);
        }
        let sleep = self.parts.clock.sleep(Duration::from_millis(at.since_ms(self.now())));
        let handle = ctx.spawn(sleep.into_actor(self).map(|(), inbox, ctx| {
            inbox.wake = None;
            inbox.turn(ctx);
        }));
        self.wake = Some((at, handle));
    }

    fn is_idle(&self) -> bool {
        self.attached
            && !self.is_behind()
            && self.pending.is_empty()
            && self.later.is_empty()
            && self.page.is_empty()
            && self.state.as_ref().is_some_and(|state| state.window_is_empty())
    }

    pub(super) fn plan_report(&mut self, ctx: &mut Context<Self>) {
        if self.report_planned {
            return;
        }
        self.report_planned = true;
        ctx.run_later(self.parts.report_every, |inbox, ctx| {
            inbox.report_planned = false;
            inbox.report(ctx);
        });
    }

    /// Writes the attempts of the last while, tells the router where this inbox stands, and ends when idle for long.
    pub(super) fn report(&mut self, ctx: &mut Context<Self>) {
        self.write_page();
        let idle = self.is_idle();
        let Some(state) = &self.state else { return };
        let told = Positioned {
            consumer: self.parts.consumer.clone(),
            generation: self.session.generation(),
            position: state.position(),
            seen: state.seen(),
            needed_from: Some(state.needed_from()).filter(|needed| *needed <= state.seen()),
            nothing_unsettled: idle,
        };
        self.parts.router.get().hint(told);
        if !idle || state.has_rows() {
            self.idle_since = None;
            return;
        }
        let now = self.now();
        let since = *self.idle_since.get_or_insert(now);
        let idle_ms = u64::try_from(self.parts.idle_after.as_millis()).unwrap_or(u64::MAX);
        if now.since_ms(since) >= idle_ms {
            self.retire(ctx);
        } else {
            let left = Duration::from_millis(idle_ms - now.since_ms(since)).max(self.parts.report_every);
            self.look_when_idle(left, ctx);
        }
    }

    /// One timer beside that of the reports, which must not wait for it.
    fn look_when_idle(&mut self, left: Duration, ctx: &mut Context<Self>) {
        if self.idle_planned {
            return;
        }
        self.idle_planned = true;
        ctx.run_later(left, |inbox, ctx| {
            inbox.idle_planned = false;
            inbox.report(ctx);
        });
    }

    /// Asks the router to let this inbox end; it makes a new one when an event matches.
    fn retire(&mut self, ctx: &mut Context<Self>) {
        let (router, consumer) = (self.parts.router.clone(), self.parts.consumer.clone());
        let generation = self.session.generation();
        let seen = self.state.as_ref().map_or(Seq::ZERO, InboxState::seen);
        let asked = async move { router.get().ask(Retire { consumer, generation, seen }).await };
        ctx.wait(asked.into_actor(self).map(|answer, inbox, ctx| {
            inbox.idle_since = None;
            match answer {
                // Without an answer the router may have let it go, and may have made another one: two must not be. It
                // has nothing to lose; the router makes a new one of whatever has stopped.
                Ok(true) | Err(_) => ctx.stop(),
                Ok(false) => inbox.plan_report(ctx),
            }
        }));
    }

    /// How this inbox stands, and each of these events in it.
    pub(super) fn view(&self, seqs: &[Seq]) -> InboxView {
        let totals = &self.parts.totals;
        let (processed, failed) = (totals.processed.load(Atomic::Relaxed), totals.failed.load(Atomic::Relaxed));
        match &self.state {
            Some(state) => InboxView {
                standings: seqs.iter().map(|seq| state.standing(*seq)).collect(),
                position: state.position(),
                needed_from: state.needed_from(),
                counts: state.counts(),
                out: state.claims_out(),
                follows: !self.is_behind() && self.pending.is_empty() && self.later.is_empty(),
                hold: state.hold(self.now()),
                processed,
                failed,
            },
            None => InboxView {
                standings: vec![Standing::Pending; seqs.len()],
                position: Position::default(),
                needed_from: Seq::ZERO,
                counts: Counts::default(),
                out: Vec::new(),
                follows: false,
                hold: None,
                processed,
                failed,
            },
        }
    }
}
