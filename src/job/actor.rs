//! Takes the steps of one job, one after the other, at its pace, and saves how far it has come.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseFuture,
    WrapFuture as _,
};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::pace::Pace;
use super::record::Progress;
use super::service::{Jobs, SaveError};
use super::work::{JobWork, Next, STEP_EVENTS_MAX, StepError, StepOutcome};
use crate::ground::clock::UnixMs;
use crate::store::{StoreError, blocking};

/// Progress that handed nothing on is saved this often.
const SAVE_EVERY_MS: u64 = 1_000;
/// First pause before a step that waits for something; doubled each time up to the last.
const WAIT_MS: (u64, u64) = (20, 1_000);
/// First pause after a step that failed; doubled each time up to the last.
const AGAIN_MS: (u64, u64) = (100, 30_000);

/// Jobs → actor: take no further step; answered when the one under way is saved.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Rest;

/// The steps of one job.
pub struct JobActor {
    jobs: Arc<Jobs>,
    id: String,
    /// Away while a step is under way.
    work: Option<Box<dyn JobWork>>,
    place: Place,
    pace: Pace,
    pauses: u32,
    resting: bool,
    rested: Vec<oneshot::Sender<()>>,
}

/// How far the job has come, and how much of that is saved.
#[derive(Clone, Debug)]
struct Place {
    cursor: Option<String>,
    progress: Progress,
    saved_at: UnixMs,
    /// Something was handed on since: no further step is taken before that is saved.
    unsaved: bool,
}

/// What one turn came to.
enum Turned {
    GoOn,
    Wait(&'static str),
    Again(String),
    Over,
}

impl JobActor {
    pub(super) fn new(jobs: Arc<Jobs>, id: String) -> Self {
        let now = jobs.clock().now();
        let place = Place { cursor: None, progress: Progress::default(), saved_at: now, unsaved: false };
        Self { jobs, id, work: None, place, pace: Pace::new(None, now), pauses: 0, resting: false, rested: Vec::new() }
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.resting {
            return;
        }
        let now = self.jobs.clock().now();
        let most = self.work.as_ref().map_or(STEP_EVENTS_MAX, |work| work.step_events_max());
        let room = self.pace.room(now).min(most);
        if room == 0 {
            let wait_ms = self.pace.wait_ms();
            return self.turn_after(wait_ms, ctx);
        }
        let Some(work) = self.work.take() else { return };
        let turn = take_turn(Arc::clone(&self.jobs), self.id.clone(), work, self.place.clone(), room);
        ctx.spawn(turn.into_actor(self).map(|(work, place, turned), job, ctx| {
            let handed_on = place.progress.handed_on - job.place.progress.handed_on;
            job.work = Some(work);
            job.place = place;
            job.pace.spend(handed_on);
            let kind = job.jobs.running(&job.id).map(|record| record.kind.clone());
            if let Some(kind) = kind {
                job.jobs.metrics().job_events.with_label_values(&[kind.as_str()]).inc_by(handed_on);
            }
            // Whoever waited may have gone.
            job.rested.drain(..).for_each(|rested| {
                rested.send(()).ok();
            });
            job.follow(turned, handed_on, ctx);
        }));
    }

    fn follow(&mut self, turned: Turned, handed_on: u64, ctx: &mut Context<Self>) {
        if handed_on > 0 || matches!(turned, Turned::GoOn) {
            self.pauses = 0;
        }
        match turned {
            Turned::GoOn => {
                self.jobs.note(&self.id, None);
                // After other messages.
                self.turn_after(0, ctx);
            }
            Turned::Wait(reason) => self.pause(WAIT_MS, reason.to_owned(), ctx),
            Turned::Again(reason) => {
                tracing::warn!(job = self.id, reason, "a step of a job failed; trying again");
                self.pause(AGAIN_MS, reason, ctx);
            }
            Turned::Over => ctx.stop(),
        }
    }

    fn pause(&mut self, (first_ms, last_ms): (u64, u64), reason: String, ctx: &mut Context<Self>) {
        self.jobs.note(&self.id, Some(reason));
        let pause_ms = (first_ms << self.pauses.min(16)).min(last_ms);
        self.pauses += 1;
        self.turn_after(pause_ms, ctx);
    }

    fn turn_after(&self, pause_ms: u64, ctx: &mut Context<Self>) {
        let sleep = self.jobs.clock().sleep(Duration::from_millis(pause_ms));
        ctx.spawn(sleep.into_actor(self).map(|(), job, ctx| job.turn(ctx)));
    }
}

/// Work that could not be opened: its first step says why.
struct Unopened(StepError);

impl JobWork for Unopened {
    fn step<'a>(&'a mut self, _: Option<&'a str>, _: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}

/// Saves how far the job has come. None when it is saved, and the job goes on.
async fn save(jobs: &Arc<Jobs>, id: &str, place: &mut Place) -> Option<Turned> {
    let (saver, id, cursor, progress) = (Arc::clone(jobs), id.to_owned(), place.cursor.clone(), place.progress);
    match flat(blocking(move || Ok(saver.save(&id, cursor.as_deref(), progress))).await) {
        Ok(()) => {
            place.saved_at = jobs.clock().now();
            place.unsaved = false;
            None
        }
        Err(SaveError::Ended) => Some(Turned::Over),
        Err(SaveError::Store(error)) => Some(Turned::Again(format!("its progress is not saved yet: {error}"))),
    }
}

/// One step, and what it has done saved.
async fn take_turn(
    jobs: Arc<Jobs>,
    id: String,
    mut work: Box<dyn JobWork>,
    mut place: Place,
    room: usize,
) -> (Box<dyn JobWork>, Place, Turned) {
    if place.unsaved
        && let Some(turned) = save(&jobs, &id, &mut place).await
    {
        return (work, place, turned);
    }
    let outcome = match work.step(place.cursor.as_deref(), room).await {
        Ok(outcome) => outcome,
        Err(StepError::Again(reason)) => return (work, place, Turned::Again(reason)),
        Err(StepError::Fatal(reason)) => {
            let turned = end(jobs, id, place.clone(), Some(reason)).await;
            return (work, place, turned);
        }
    };
    let gained = outcome.gained;
    place.cursor = outcome.cursor;
    place.progress += gained;
    if outcome.next == Next::Done {
        let turned = end(jobs, id, place.clone(), None).await;
        return (work, place, turned);
    }
    place.unsaved = gained.handed_on > 0;
    let due = jobs.clock().now().since_ms(place.saved_at) >= SAVE_EVERY_MS;
    if (place.unsaved || due)
        && let Some(turned) = save(&jobs, &id, &mut place).await
    {
        return (work, place, turned);
    }
    let turned = match outcome.next {
        Next::GoOn | Next::Done => Turned::GoOn,
        Next::Wait { reason } => Turned::Wait(reason),
    };
    (work, place, turned)
}

/// Ends the job; tried again when the store cannot take it now.
async fn end(jobs: Arc<Jobs>, id: String, place: Place, error: Option<String>) -> Turned {
    let Place { cursor, progress, saved_at: _, unsaved: _ } = place;
    match flat(blocking(move || Ok(jobs.finish(&id, cursor.as_deref(), progress, error))).await) {
        Ok(()) | Err(SaveError::Ended) => Turned::Over,
        Err(SaveError::Store(error)) => Turned::Again(error.to_string()),
    }
}

fn flat(done: Result<Result<(), SaveError>, StoreError>) -> Result<(), SaveError> {
    done.map_err(SaveError::Store)?
}

impl Actor for JobActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (Some(record), Some(workshop)) = (self.jobs.running(&self.id), self.jobs.workshop()) else {
            ctx.stop();
            return;
        };
        self.place.cursor.clone_from(&record.cursor);
        self.place.progress = record.progress;
        self.pace = Pace::new(record.rate, self.jobs.clock().now());
        let opened = workshop.open(&record);
        self.work = Some(opened.unwrap_or_else(|error| Box::new(Unopened(error))));
        self.turn(ctx);
    }
}

impl Handler<Rest> for JobActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Rest, _: &mut Self::Context) -> Self::Result {
        self.resting = true;
        if self.work.is_some() {
            return Box::pin(std::future::ready(()));
        }
        let (rested, under_way) = oneshot::channel();
        self.rested.push(rested);
        // It fails when the actor ends before, which is as good.
        Box::pin(async move {
            under_way.await.ok();
        })
    }
}

crate::supervised!(JobActor);
