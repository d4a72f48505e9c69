//! The schedule actor: takes requests in turn, and wakes when the next event is due.

use std::collections::VecDeque;
use std::time::Duration;

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, WrapFuture as _};
use tokio::sync::oneshot;

use super::lane::{Cancelled, LaneParts, Released, Request};
use crate::ground::error::Problem;
use crate::hub::store_problem;
use crate::store::{ScheduleKey, StoreError};

/// What the actor works with.
pub type ScheduleParts = LaneParts;

/// Asks to schedule events. What may wait is bounded by the gate the permit is from.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Schedule(pub Request);

/// Asks to take an event away.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Cancel {
    /// Which.
    pub key: ScheduleKey,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Cancelled, Problem>>,
}

/// Events of requests answered in one commit, besides at least one request.
const GROUP_EVENTS_MAX: usize = 1_000;
/// Longest sleep: the machine's clock may have been put forward meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Pause while the log or the store takes nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// Whose turn it is when both wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Requests,
    Due,
}

/// Runs the lane.
pub struct ScheduleActor {
    parts: ScheduleParts,
    requests: VecDeque<Request>,
    cancels: VecDeque<Cancel>,
    /// The lane is in use.
    busy: bool,
    /// The book must be read from the store before anything else.
    unsure: bool,
    /// The log takes nothing that is due: it rests until the next look.
    resting: bool,
    /// Whose turn comes next.
    next: Side,
    /// Counts sleeps: one that was replaced does nothing when it ends.
    sleep: u64,
}

impl ScheduleActor {
    /// An actor that reads the book when it starts.
    #[must_use]
    pub fn new(parts: ScheduleParts) -> Self {
        Self {
            parts,
            requests: VecDeque::new(),
            cancels: VecDeque::new(),
            busy: false,
            unsure: true,
            resting: false,
            next: Side::Requests,
            sleep: 0,
        }
    }

    /// Does the next thing, unless one is being done.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            return;
        }
        let parts = self.parts.clone();
        if self.unsure {
            self.run(ctx, async move { parts.reload().await.map(|()| Done::Sure) });
            return;
        }
        if let Some(Cancel { key, reply }) = self.cancels.pop_front() {
            self.run(ctx, async move {
                let done = parts.cancel(key).await;
                let told = done.as_ref().map(|cancelled| *cancelled).map_err(store_problem);
                // Whoever asked may be gone.
                reply.send(told).ok();
                done.map(|_| Done::Work)
            });
            return;
        }
        let now = self.parts.clock.now();
        let next_due = self.parts.book.next_due();
        let due = !self.resting && next_due.is_some_and(|at| at <= now);
        if due && (self.next == Side::Due || self.requests.is_empty()) {
            self.next = Side::Requests;
            self.run(ctx, async move { parts.release().await.map(Done::Released) });
            return;
        }
        if !self.requests.is_empty() {
            self.next = Side::Due;
            let group = self.group();
            self.run(ctx, async move { parts.schedule(group).await.map(|()| Done::Work) });
            return;
        }
        if let Some(at) = next_due.filter(|_| !self.resting) {
            self.sleep_for(ctx, Duration::from_millis(at.since_ms(now)).min(SLEEP_MAX));
        }
    }

    fn group(&mut self) -> Vec<Request> {
        let (mut group, mut events) = (Vec::new(), 0);
        while let Some(next) = self.requests.front() {
            events += next.events.len();
            if !group.is_empty() && events > GROUP_EVENTS_MAX {
                break;
            }
            group.extend(self.requests.pop_front());
        }
        group
    }

    fn run(&mut self, ctx: &mut Context<Self>, work: impl Future<Output = Result<Done, StoreError>> + 'static) {
        self.busy = true;
        ctx.spawn(work.into_actor(self).map(|done, actor, ctx| {
            actor.busy = false;
            match done {
                Ok(Done::Sure) => actor.unsure = false,
                Ok(Done::Work | Done::Released(Released::All)) => {}
                Ok(Done::Released(Released::Later)) => {
                    actor.resting = true;
                    ctx.run_later(PAUSE, |actor, ctx| {
                        actor.resting = false;
                        actor.turn(ctx);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the schedule failed; it is read from the store again");
                    actor.unsure = true;
                    actor.busy = true;
                    ctx.run_later(PAUSE, |actor, ctx| {
                        actor.busy = false;
                        actor.turn(ctx);
                    });
                }
            }
            actor.turn(ctx);
        }));
    }

    fn sleep_for(&mut self, ctx: &mut Context<Self>, duration: Duration) {
        self.sleep += 1;
        let this = self.sleep;
        let sleep = self.parts.clock.sleep(duration);
        ctx.spawn(sleep.into_actor(self).map(move |(), actor, ctx| {
            if actor.sleep == this {
                actor.turn(ctx);
            }
        }));
    }
}

/// What the lane has done.
enum Done {
    /// The book is what the store holds.
    Sure,
    /// Requests were answered.
    Work,
    Released(Released),
}

impl Actor for ScheduleActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.turn(ctx);
    }
}

impl Handler<Schedule> for ScheduleActor {
    type Result = ();

    fn handle(&mut self, Schedule(request): Schedule, ctx: &mut Self::Context) {
        self.requests.push_back(request);
        self.turn(ctx);
    }
}

impl Handler<Cancel> for ScheduleActor {
    type Result = ();

    fn handle(&mut self, cancel: Cancel, ctx: &mut Self::Context) {
        self.cancels.push_back(cancel);
        self.turn(ctx);
    }
}

crate::supervised!(ScheduleActor);
