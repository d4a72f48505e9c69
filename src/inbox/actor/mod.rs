//! The inbox actor: performs what the machine in [`super::state`] decides.
//!
//! It *follows* while the router's offers fit its window, and is *behind* otherwise: then it has detached from the
//! router and reads the log itself, until it is close enough to attach again. Its position is the router's to keep
//! (`CK-1`): it reports, the router writes.
//!
//! - `reading`: where events come from: offers, the log, attaching and detaching
//! - `settling`: where they go: claims given out, answers, dead letters, attempt pages
//! - `judging`: what clients of a pull consumer say of their claims
//! - `replaying`: events given out again because somebody asked
//! - `reporting`: what is told: positions, the next wake, the end of an idle inbox
//! - here: the start, one turn, a handler for each message

mod judging;
mod reading;
mod replaying;
mod reporting;
mod settling;

pub use replaying::lane_key;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _,
};

use super::catch_up::blocking;
use super::ledger::Session;
use super::messages::{
    Answers, Deferred, Detached, Inspect, Offer, Publish, Quiesce, Reconfigure, Renew, Settled, Wake,
};
use super::spec::{ConsumerSpec, InboxParts};
use super::state::{Illegal, InboxState};
use crate::event::envelope::Event;
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::router::messages::{Attach, Attached, Attachment};
use crate::store::StoreError;
use crate::store::records::{AttemptRecord, RowRecord};

/// Pause before a start that failed (store or router away) is tried again.
const START_PAUSE: Duration = Duration::from_millis(100);

/// One consumer's deliveries.
pub struct InboxActor {
    parts: InboxParts,
    spec: Arc<ConsumerSpec>,
    session: Session,
    /// None until rows and position are there.
    state: Option<InboxState>,
    bodies: HashMap<Seq, Arc<Event>>,
    /// Matches that were read or offered and do not fit the window yet, in order.
    pending: VecDeque<Arc<Event>>,
    /// Everything up to here is in the state or in `pending`.
    looked_at: Seq,
    /// Offers that came while the log is read up to where they begin.
    later: VecDeque<Arc<Event>>,
    /// Whether the router offers; then offers begin after `boundary`.
    attached: bool,
    boundary: Seq,
    reading: bool,
    attaching: bool,
    page: Vec<AttemptRecord>,
    page_bytes: usize,
    report_planned: bool,
    idle_planned: bool,
    wake: Option<(UnixMs, SpawnHandle)>,
    idle_since: Option<UnixMs>,
    /// Since when nobody asks, of a consumer that is given only what it asks for.
    unasked_since: Option<UnixMs>,
    /// The hub is stopping: nothing more is given out.
    quiesced: bool,
    /// How tickets answer; made at the first claim.
    answers: Option<Arc<dyn Answers>>,
}

impl InboxActor {
    /// An inbox that reads its state when it starts.
    #[must_use]
    pub fn new(parts: InboxParts) -> Self {
        parts.metrics.inboxes.inc();
        let spec = parts.spec.load_full();
        let session = parts.ledger.session();
        Self {
            parts,
            spec,
            session,
            state: None,
            bodies: HashMap::new(),
            pending: VecDeque::new(),
            looked_at: Seq::ZERO,
            later: VecDeque::new(),
            attached: false,
            boundary: Seq::ZERO,
            reading: false,
            attaching: false,
            page: Vec::new(),
            page_bytes: 0,
            report_planned: false,
            idle_planned: false,
            wake: None,
            idle_since: None,
            unasked_since: None,
            quiesced: false,
            answers: None,
        }
    }

    fn now(&self) -> UnixMs {
        self.parts.clock.now()
    }

    /// Reads rows, then attaches. The mailbox waits meanwhile.
    fn load(&mut self, ctx: &mut Context<Self>) {
        self.session = self.parts.ledger.session();
        let (state, consumer) = (Arc::clone(&self.parts.state), self.parts.consumer.clone());
        let (router, session) = (self.parts.router.clone(), self.session.clone());
        let loading = async move {
            let of = consumer.clone();
            // The last life (a panic, an idle end) may have handed in rows that are still on their way to the store, and
            // its position, which the router holds, has passed them.
            session.drained().await?;
            let rows = blocking(move || state.rows(&of)).await?;
            let attach = Attach { consumer, generation: session.generation(), position: None };
            let attached = router.get().ask(attach).await.map_err(|_| StoreError::Unavailable)?;
            Ok::<_, StoreError>((rows, attached))
        };
        ctx.wait(loading.into_actor(self).map(|loaded, inbox, ctx| match loaded {
            Ok((rows, Attachment::Attached(attached))) => inbox.begin(rows, attached, ctx),
            Ok((_, Attachment::Unknown)) => {
                tracing::debug!(consumer = %inbox.parts.consumer, "the consumer is gone; its inbox ends");
                ctx.stop();
            }
            Ok((_, Attachment::NotYet)) => {
                ctx.run_later(START_PAUSE, Self::load);
            }
            Err(error) => {
                tracing::warn!(consumer = %inbox.parts.consumer, %error, "the inbox cannot start yet");
                ctx.run_later(START_PAUSE, Self::load);
            }
        }));
    }

    fn begin(&mut self, rows: Vec<(Seq, RowRecord)>, attached: Attached, ctx: &mut Context<Self>) {
        let Attached { position, boundary } = attached;
        // Larger than any epoch of an earlier life: time has moved on, and a claim takes longer than a nanosecond.
        let first_epoch = self.now().0 << 20;
        self.looked_at = position.cursor;
        let state = InboxState::restore(self.spec.rules, position, rows, first_epoch, self.spec.paused);
        self.state = Some(state);
        self.attached = true;
        self.boundary = boundary;
        // Nothing is read before somebody asks.
        self.unasked_since = Some(UnixMs::default());
        if let Some(deliver) = self.parts.deliver.load().as_ref() {
            deliver.begun();
        }
        self.turn(ctx);
    }

    /// Looked at in every turn, so that a pause holds whenever an inbox was made, and whoever told it what.
    fn heed_hub_pause(&mut self) {
        let paused = self.parts.pause.is_on();
        if let Some(state) = self.state.as_mut() {
            state.set_hub_paused(paused);
        }
    }

    /// One turn: take in what fits, read on, give out what can be given out, plan when to look again.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.state.is_none() {
            return;
        }
        self.note_demand();
        self.heed_hub_pause();
        self.rest_if_held();
        self.fill(ctx);
        self.expire_leases();
        self.give_out(ctx);
        self.plan_wake(ctx);
        self.plan_report(ctx);
    }
}

impl Actor for InboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.write_page();
    }
}

impl Drop for InboxActor {
    fn drop(&mut self) {
        self.parts.metrics.inboxes.dec();
    }
}

impl Handler<Offer> for InboxActor {
    type Result = ();

    fn handle(&mut self, Offer { after, events, permit }: Offer, ctx: &mut Self::Context) {
        drop(permit);
        self.take_offer(after, events, ctx);
    }
}

impl Handler<Detached> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Detached, ctx: &mut Self::Context) {
        self.let_go();
        self.turn(ctx);
    }
}

impl Handler<Settled> for InboxActor {
    type Result = ();

    fn handle(&mut self, settled: Settled, ctx: &mut Self::Context) {
        self.settle(settled);
        self.turn(ctx);
    }
}

impl Handler<Deferred> for InboxActor {
    type Result = ();

    fn handle(&mut self, deferred: Deferred, ctx: &mut Self::Context) {
        self.defer(deferred);
        self.turn(ctx);
    }
}

impl Handler<Renew> for InboxActor {
    type Result = actix::MessageResult<Renew>;

    fn handle(&mut self, Renew { seq, epoch }: Renew, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let renewed = match self.state.as_mut() {
            Some(state) => state.renew(seq, epoch, now),
            None => Err(Illegal::Unknown(seq)),
        };
        actix::MessageResult(renewed)
    }
}

impl Handler<Wake> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        if let Some(state) = self.state.as_mut() {
            state.resume_now();
        }
        self.turn(ctx);
    }
}

impl Handler<Reconfigure> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Reconfigure, ctx: &mut Self::Context) {
        self.spec = self.parts.spec.load_full();
        if let Some(state) = self.state.as_mut() {
            state.set_rules(self.spec.rules);
            state.unthrottle();
            state.set_paused(self.spec.paused);
        }
        self.turn(ctx);
    }
}

impl Handler<Publish> for InboxActor {
    type Result = actix::ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, _: Publish, _: &mut Self::Context) -> Self::Result {
        self.write_page();
        let session = self.session.clone();
        Box::pin(async move { session.drained().await })
    }
}

impl Handler<Quiesce> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Quiesce, ctx: &mut Self::Context) {
        self.quiesced = true;
        self.report(ctx);
    }
}

impl Handler<Inspect> for InboxActor {
    type Result = actix::MessageResult<Inspect>;

    fn handle(&mut self, Inspect { seqs }: Inspect, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.view(&seqs))
    }
}

crate::supervised!(InboxActor);

#[cfg(test)]
mod tests;
