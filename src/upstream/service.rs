//! Every upstream of a hub: registered, called, read, checked, taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use actix::ArbiterHandle;
use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::actor::{Check, Perform, UpstreamActor};
use super::adapter::{AdapterContext, check_id, check_version};
use super::cache::ReadCache;
use super::call::{Answer, Call, CallError, CallErrorKind, CallPath};
use super::health::{Grade, Report, Seen};
use super::perform::{Core, Served};
use super::series::Series;
use crate::breaker::actor::{BreakerActor, BreakerParts, Configure};
use crate::breaker::state::Phase;
use crate::ground::clock::SharedClock;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::random::SharedRandom;
use crate::metrics::Metrics;
use crate::store::Registry;
use crate::supervise::{ActorKind, Handle, Health, PanicNow, Stop, supervise};
use crate::trace::Tracer;

/// Most upstreams of a hub: their ids are labels of series.
pub const UPSTREAMS_MAX: usize = 1_000;

/// What becomes of the answers that were read of an upstream which changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptAnswers {
    /// They are still those of its reads.
    Stay,
    /// Its reads may be others now.
    Forgotten,
}

/// What upstreams work with.
#[derive(Clone)]
pub struct UpstreamParts {
    /// The arbiters that call out.
    pub arbiters: Vec<ArbiterHandle>,
    /// Where breakers keep their state.
    pub registry: Arc<dyn Registry>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// What supervision has seen.
    pub health: Arc<Health>,
    /// Spans.
    pub tracer: Tracer,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
}

/// A registered upstream.
pub struct Registered {
    /// What stays of it over its changes.
    pub core: Arc<Core>,
    /// The thread that calls it.
    pub arbiter: ArbiterHandle,
    actor: Handle<UpstreamActor>,
    generation: AtomicU64,
    phase: Arc<AtomicU64>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("id", &self.core.id).finish_non_exhaustive()
    }
}

fn restarting() -> CallError {
    CallError::new(CallErrorKind::Internal, "the upstream's actor is being restarted")
}

impl Registered {
    /// Answers kept before this number changed are given no more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Has the actor make a call, and waits for what came of it.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn ask(&self, call: Call, mut context: AdapterContext) -> Result<Answer, CallError> {
        let org = self.core.served.load().org.clone();
        match (&org, &context.tenant) {
            // One tenant's upstream is not there for another.
            (Some(org), Some(tenant)) if org != tenant => return Err(unknown(&self.core.id)),
            (Some(_), None) => context.tenant = org,
            (Some(_) | None, _) => {}
        }
        let (reply, answer) = oneshot::channel();
        self.actor.tell(Perform { call, context, reply }).map_err(|_| restarting())?;
        answer.await.unwrap_or_else(|_| Err(restarting()))
    }

    /// Has the actor see whether it is there.
    ///
    /// # Errors
    /// When the actor is being restarted.
    pub async fn check(&self, context: AdapterContext) -> Result<Report, CallError> {
        let (reply, report) = oneshot::channel();
        self.actor.tell(Check { context, reply }).map_err(|_| restarting())?;
        report.await.map_err(|_| restarting())
    }

    /// The state of its breaker as it was told last.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let at = usize::try_from(self.phase.load(Ordering::Acquire)).unwrap_or(0);
        Phase::ALL.get(at).copied().unwrap_or(Phase::Closed)
    }

    /// How it fares as far as is known without asking it.
    #[must_use]
    pub fn grade(&self) -> Grade {
        self.core.seen.lock().grade(self.phase())
    }
}

fn unknown(id: &str) -> CallError {
    CallError::new(CallErrorKind::Unknown, format!("there is no upstream {id}"))
}

/// Every upstream of a hub. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams {
    pub(super) parts: Arc<UpstreamParts>,
    pub(super) cache: ReadCache,
    by_id: Arc<DashMap<String, Arc<Registered>>>,
    next: Arc<AtomicUsize>,
    generations: Arc<AtomicU64>,
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams").field("count", &self.by_id.len()).finish_non_exhaustive()
    }
}

impl Upstreams {
    /// No upstream yet.
    #[must_use]
    pub fn new(parts: UpstreamParts, cache: ReadCache) -> Self {
        Self { parts: Arc::new(parts), cache, by_id: Arc::default(), next: Arc::default(), generations: Arc::default() }
    }

    /// An upstream.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Registered>> {
        self.by_id.get(id).map(|found| Arc::clone(&found))
    }

    /// Every upstream, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Registered>> {
        let mut all: Vec<_> = self.by_id.iter().map(|entry| Arc::clone(&entry)).collect();
        all.sort_by(|a, b| a.core.id.cmp(&b.core.id));
        all
    }

    /// Registers an upstream.
    ///
    /// # Errors
    /// When its id or version does not fit, the id is taken, or there are too many.
    pub fn register(&self, served: Served) -> Result<Arc<Registered>, Problem> {
        let id = served.adapter.id().to_owned();
        check_id("id", &id)?;
        check_version("version", served.adapter.version())?;
        served.rules.retry.validate("retry")?;
        served.rules.breaker.validate("breaker")?;
        if self.by_id.len() >= UPSTREAMS_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a hub has at most {UPSTREAMS_MAX} upstreams")));
        }
        match self.by_id.entry(id) {
            Entry::Occupied(slot) => {
                let mut problem = Problem::new(ProblemKind::Conflict, "an upstream of the hub has this id");
                (problem.field, problem.sent) = (Some("id".to_owned()), Some(slot.key().clone()));
                Err(problem)
            }
            Entry::Vacant(slot) => {
                let made = self.make(slot.key(), served);
                Ok(Arc::clone(&slot.insert(made)))
            }
        }
    }

    fn make(&self, id: &str, served: Served) -> Arc<Registered> {
        let parts = &self.parts;
        let at = self.next.fetch_add(1, Ordering::Relaxed) % parts.arbiters.len().max(1);
        let arbiter = parts.arbiters[at].clone();
        let id: Arc<str> = id.into();
        let (rules, phase) =
            (Arc::new(ArcSwap::from_pointee(served.rules.breaker.clone())), Arc::new(AtomicU64::new(0)));
        let series = Arc::new(Series::new(Arc::clone(&parts.metrics), Arc::clone(&id)));
        let (numbers, told, counted) = (Arc::clone(&rules), Arc::clone(&phase), Arc::clone(&series));
        let breaker_parts = BreakerParts {
            id: id.to_string(),
            settings: Arc::new(move || (**numbers.load()).clone()),
            registry: Arc::clone(&parts.registry),
            metrics: Arc::clone(&parts.metrics),
            clock: Arc::clone(&parts.clock),
            watch: Some(Arc::new(move |phase: Phase| {
                let at = Phase::ALL.iter().position(|one| *one == phase).unwrap_or(0);
                told.store(at as u64, Ordering::Release);
                counted.phase(phase);
            })),
        };
        let breaker =
            supervise(&arbiter, ActorKind::Breaker, &parts.health, move || BreakerActor::new(breaker_parts.clone()));
        let core = Arc::new(Core {
            id,
            served: ArcSwap::from_pointee(served),
            breaker,
            breaker_numbers: rules,
            series,
            seen: parking_lot::Mutex::new(Seen::default()),
            bucket: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
            tracer: parts.tracer.clone(),
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
        });
        let of_actor = Arc::clone(&core);
        let actor =
            supervise(&arbiter, ActorKind::Upstream, &parts.health, move || UpstreamActor::new(Arc::clone(&of_actor)));
        Arc::new(Registered { core, arbiter, actor, generation: AtomicU64::new(self.next_generation()), phase })
    }

    /// A number that no generation of any upstream has had.
    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::AcqRel)
    }

    /// Gives an upstream that is registered its new rules, from the next call on.
    pub async fn replace(&self, registered: &Registered, served: Served, answers: KeptAnswers) {
        registered.core.breaker_numbers.store(Arc::new(served.rules.breaker.clone()));
        registered.core.served.store(Arc::new(served));
        registered.core.breaker.hint(Configure);
        match answers {
            KeptAnswers::Forgotten => {
                self.clear(registered).await;
            }
            KeptAnswers::Stay => {}
        }
    }

    /// Forgets what was read of an upstream. Returns how many answers that were.
    pub async fn clear(&self, registered: &Registered) -> usize {
        registered.generation.store(self.next_generation(), Ordering::Release);
        self.cache.clear(&registered.core.id).await
    }

    /// Takes an upstream away: its actors end, its series go, what was read of it is forgotten. What is under way is
    /// ended.
    pub async fn remove(&self, id: &str) -> Option<Arc<Registered>> {
        let (_, registered) = self.by_id.remove(id)?;
        registered.actor.hint(Stop);
        registered.core.breaker.hint(Stop);
        registered.core.series.remove();
        self.clear(&registered).await;
        Some(registered)
    }

    /// Makes every actor of every upstream panic. Returns how many.
    #[must_use]
    pub fn panic_all(&self) -> usize {
        let all = self.all();
        for one in &all {
            one.actor.hint(PanicNow);
            one.core.breaker.hint(PanicNow);
        }
        2 * all.len()
    }

    /// Entries and bytes of the cache.
    pub async fn cache_size(&self) -> (u64, u64) {
        self.cache.size().await
    }
}

impl CallPath for Upstreams {
    fn call(
        &self,
        upstream: &str,
        call: Call,
        context: AdapterContext,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let found = self.get(upstream).ok_or_else(|| unknown(upstream));
        async move { found?.ask(call, context).await }.boxed()
    }
}
