//! Jobs over a store that fails and a clock that the test moves: whatever ends a life of them, a job comes to its end, and
//! only steps that were not saved are taken twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Arbiter;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::ground::clock::{Clock as _, ManualClock, SharedClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::error::ProblemKind;
use crate::ground::random::SeededRandom;
use crate::metrics::Metrics;
use crate::store::Registry as _;
use crate::store::fake::{Call, FakeStore, Fault};
use crate::supervise::{Health, RestartBudget};

const START: UnixMs = UnixMs(1_795_248_000_000);

/// Counts to `upto`; what is handed on outlives the process.
#[derive(Clone, Default)]
struct Counting {
    handed: Arc<Mutex<Vec<u64>>>,
    /// The next steps fail so often, for a while.
    fails: Arc<AtomicU64>,
    /// Nothing is taken from this number on until it is raised.
    room_upto: Arc<AtomicU64>,
}

struct Count {
    world: Counting,
    upto: u64,
}

impl Workshop for Counting {
    fn open(&self, job: &JobRecord) -> Result<Box<dyn JobWork>, StepError> {
        let upto = job.spec["upto"].as_u64().ok_or_else(|| StepError::Fatal("no number".to_owned()))?;
        Ok(Box::new(Count { world: self.clone(), upto }))
    }
}

impl JobWork for Count {
    fn step<'a>(&'a mut self, cursor: Option<&'a str>, room: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let fails = &self.world.fails;
            if fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(StepError::Again("not now".to_owned()));
            }
            let at: u64 = cursor.map_or(0, |text| text.parse().expect("our own"));
            let to = (at + room.min(10) as u64).min(self.upto).min(self.world.room_upto.load(Ordering::SeqCst).max(at));
            self.world.handed.lock().extend(at + 1..=to);
            let gained = Progress { looked_at: to - at, matched: to - at, handed_on: to - at, ..Progress::default() };
            let next = match to {
                to if to >= self.upto => Next::Done,
                to if to == at => Next::Wait { reason: "no room" },
                _ => Next::GoOn,
            };
            Ok(StepOutcome { cursor: Some(to.to_string()), gained, next })
        })
    }
}

struct World {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    counting: Counting,
}

impl World {
    fn new() -> Self {
        let counting = Counting::default();
        counting.room_upto.store(u64::MAX, Ordering::SeqCst);
        Self { store: FakeStore::new(10), clock: ManualClock::starting_at(START), counting }
    }

    fn start(&self, running_max: usize) -> Arc<Jobs> {
        let clock = Arc::clone(&self.clock) as SharedClock;
        let budget = RestartBudget { restarts_max: 1_000, window_ms: 1_000, backoff_ms: 1, backoff_cap_ms: 2 };
        let jobs = Jobs::load(JobsParts {
            registry: self.store.clone(),
            arbiters: vec![Arbiter::current()],
            health: Arc::new(Health::new(budget, Arc::clone(&clock))),
            metrics: Arc::new(Metrics::new().expect("series")),
            clock,
            random: SeededRandom::shared(5),
            running_max,
            finished_max: 3,
            finished_ms: 3_600_000,
        })
        .expect("loads");
        jobs.begin(Arc::new(self.counting.clone()));
        jobs
    }

    fn context(&self) -> WriteContext {
        WriteContext { by: "admin".to_owned(), at: self.clock.now(), ..WriteContext::default() }
    }

    fn create(&self, jobs: &Arc<Jobs>, spec: Value, rate: Option<u32>) -> String {
        // Ids sort by time.
        self.clock.advance(Duration::from_millis(1));
        let new = NewJob { kind: "count", org: Some("acme".to_owned()), spec, rate, total: None };
        jobs.create(new, self.context()).expect("is taken").id.clone()
    }

    async fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        for _ in 0..20_000 {
            if so() {
                return;
            }
            self.clock.advance(Duration::from_millis(5));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("never: {what}");
    }
}

fn state(jobs: &Jobs, id: &str) -> JobState {
    jobs.get(id, None).expect("is there").0.state
}

#[actix::test]
async fn a_job_is_done_and_its_progress_is_that_of_its_steps() {
    let world = World::new();
    let jobs = world.start(2);
    let id = world.create(&jobs, json!({"upto": 95}), None);
    world.until("it is done", || state(&jobs, &id) == JobState::Done).await;
    assert_eq!(*world.counting.handed.lock(), (1..=95).collect::<Vec<_>>());
    let record = jobs.get(&id, Some("acme")).expect("is there").0;
    assert_eq!((record.progress.handed_on, record.cursor.as_deref()), (95, Some("95")));
    assert_eq!(jobs.get(&id, Some("globex")).expect_err("not theirs").kind, ProblemKind::NotFound);
    let stored: JobRecord =
        serde_json::from_slice(&world.store.get("job", &id).expect("reads").expect("is there").bytes).expect("reads");
    assert_eq!(stored, *record);
}

#[actix::test]
async fn over_panics_restarts_and_failures_of_the_store_nothing_is_left_out_and_doubles_are_bounded() {
    let world = World::new();
    let mut jobs = world.start(2);
    let id = world.create(&jobs, json!({"upto": 2_000}), None);
    let mut ends = 0;
    for round in 0..12_usize {
        let counting = world.counting.clone();
        let begun = round as u64 * 100;
        // It does not come to its end before the last round.
        counting.room_upto.store(begun + 100, Ordering::SeqCst);
        world.until("it goes on", || counting.handed.lock().iter().any(|n| *n >= begun + 25)).await;
        match round % 3 {
            0 => assert_eq!(jobs.panic_all(), 1),
            1 => {
                world.store.plan(Call::Put, 1, Fault::Torn);
                counting.room_upto.store(begun + 200, Ordering::SeqCst);
                world.until("the store has failed", || world.store.has_failed()).await;
                world.store.reopen();
            }
            _ => {
                jobs.rest().await;
                jobs = world.start(2);
            }
        }
        ends += 1;
    }
    world.counting.room_upto.store(u64::MAX, Ordering::SeqCst);
    world.until("it is done", || state(&jobs, &id) == JobState::Done).await;
    let handed = world.counting.handed.lock().clone();
    assert!((1..=2_000).all(|n| handed.contains(&n)), "something was left out");
    assert!(handed.len() <= 2_000 + ends * 10, "{} handed on over {ends} ends", handed.len());
}

#[actix::test]
async fn a_rate_holds_over_time_and_a_wait_is_not_made_up_for() {
    let world = World::new();
    let jobs = world.start(2);
    let id = world.create(&jobs, json!({"upto": 300}), Some(100));
    let began = world.clock.now();
    let check = || {
        let spent_ms = world.clock.now().since_ms(began);
        let handed = world.counting.handed.lock().len() as u64;
        assert!(handed * 1_000 <= spent_ms * 100 + 21_000, "{handed} in {spent_ms} ms");
        handed
    };
    world.until("half of it", || check() >= 150).await;
    world.counting.room_upto.store(150, Ordering::SeqCst);
    world.until("it waits", || jobs.get(&id, None).expect("is there").1.as_deref() == Some("no room")).await;
    world.clock.advance(Duration::from_secs(3_600));
    let resumed = world.clock.now();
    let before = world.counting.handed.lock().len() as u64;
    world.counting.room_upto.store(u64::MAX, Ordering::SeqCst);
    world
        .until("it is done", || {
            let handed = world.counting.handed.lock().len() as u64 - before;
            let spent_ms = world.clock.now().since_ms(resumed);
            assert!(handed * 1_000 <= spent_ms * 100 + 21_000, "{handed} in {spent_ms} ms after the wait");
            state(&jobs, &id) == JobState::Done
        })
        .await;
}

#[actix::test]
async fn a_cancelled_job_takes_no_further_step_and_stays_so_over_a_restart() {
    let world = World::new();
    let jobs = world.start(1);
    world.counting.room_upto.store(40, Ordering::SeqCst);
    let (first, second) =
        (world.create(&jobs, json!({"upto": 90}), None), world.create(&jobs, json!({"upto": 7}), None));
    let counting = world.counting.clone();
    world.until("it waits for room", || counting.handed.lock().len() == 40).await;
    assert_eq!(state(&jobs, &second), JobState::Queued, "one at a time");
    let cancelled = jobs.cancel(&first, Some("acme"), world.context()).expect("cancels");
    assert_eq!((cancelled.state, cancelled.updated.by.as_str()), (JobState::Cancelled, "admin"));
    world.until("the next one is done", || state(&jobs, &second) == JobState::Done).await;
    for id in [&first, &second] {
        let problem = jobs.cancel(id, None, world.context()).expect_err("has ended");
        assert_eq!(problem.kind, ProblemKind::Conflict);
    }
    assert_eq!(jobs.cancel(&first, Some("globex"), world.context()).expect_err("hidden").kind, ProblemKind::NotFound);
    jobs.rest().await;
    world.counting.room_upto.store(u64::MAX, Ordering::SeqCst);
    let jobs = world.start(1);
    assert_eq!(state(&jobs, &first), JobState::Cancelled);
    let third = world.create(&jobs, json!({"upto": 1}), None);
    world.until("another one is done", || state(&jobs, &third) == JobState::Done).await;
    assert_eq!(world.counting.handed.lock().iter().filter(|n| **n > 40).count(), 0);
}

#[actix::test]
async fn a_step_that_fails_is_tried_again_and_work_that_cannot_be_opened_fails_with_its_reason() {
    let world = World::new();
    let jobs = world.start(2);
    world.counting.fails.store(3, Ordering::SeqCst);
    let (good, bad) = (world.create(&jobs, json!({"upto": 5}), None), world.create(&jobs, json!({}), None));
    world.until("both have ended", || jobs.counts() == (0, 0)).await;
    assert_eq!(state(&jobs, &good), JobState::Done);
    let record = jobs.get(&bad, None).expect("is there").0;
    assert_eq!((record.state, record.error.as_deref()), (JobState::Failed, Some("no number")));
}

#[actix::test]
async fn jobs_are_listed_newest_first_and_those_that_have_ended_are_forgotten_past_their_bound() {
    let world = World::new();
    let jobs = world.start(2);
    let mut made = Vec::new();
    for _ in 0..6 {
        let id = world.create(&jobs, json!({"upto": 1}), None);
        world.until("it is done", || jobs.counts() == (0, 0)).await;
        made.insert(0, id);
    }
    let ids = |filter: &JobFilter| -> (Vec<String>, bool) {
        let (items, more) = jobs.list(filter);
        (items.iter().map(|item| item["id"].as_str().expect("text").to_owned()).collect(), more)
    };
    let all = JobFilter { limit: 10, ..JobFilter::default() };
    assert_eq!(ids(&all), (made[..3].to_vec(), false));
    let first = JobFilter { limit: 2, state: Some(JobState::Done), kind: Some("count".to_owned()), ..all.clone() };
    assert_eq!(ids(&first), (made[..2].to_vec(), true));
    assert_eq!(ids(&JobFilter { before: Some(made[1].clone()), ..first }), (vec![made[2].clone()], false));
    assert!(ids(&JobFilter { org: Some("globex".to_owned()), ..all.clone() }).0.is_empty());
    assert!(ids(&JobFilter { state: Some(JobState::Failed), ..all }).0.is_empty());
    assert_eq!(world.store.list("job").expect("lists").len(), 3);
}
