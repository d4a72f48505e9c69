//! What supervision has seen: restarts by kind of actor, and which kinds restart too often.

use std::collections::VecDeque;
use std::fmt;

use parking_lot::Mutex;

use crate::ground::clock::{SharedClock, UnixMs};

/// The kinds of actors, as they are named in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActorKind {
    /// Takes appends in.
    Outbox,
    /// Reads the tail and hands events to inboxes.
    Router,
    /// One consumer's deliveries.
    Inbox,
    /// Calls one webhook.
    Delivery,
    /// Runs in-process handlers.
    Handler,
    /// One upstream's breaker.
    Breaker,
    /// Writes the index of the log.
    Indexer,
    /// Takes the steps of one job.
    Job,
    /// Releases scheduled events.
    Schedule,
    /// Hands the deliveries of one consumer to the clients that wait for them.
    Pull,
    /// Keeps house: what is done now and then, and what inboxes ask of the hub.
    House,
    /// Calls one upstream.
    Upstream,
    /// Follows aggregates through their declared order.
    Lifecycle,
}

impl ActorKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Outbox,
        Self::Router,
        Self::Inbox,
        Self::Delivery,
        Self::Handler,
        Self::Breaker,
        Self::Indexer,
        Self::Job,
        Self::Schedule,
        Self::Pull,
        Self::House,
        Self::Upstream,
        Self::Lifecycle,
    ];

    /// Its name, bounded for labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Router => "router",
            Self::Inbox => "inbox",
            Self::Delivery => "delivery",
            Self::Handler => "handler",
            Self::Breaker => "breaker",
            Self::Indexer => "indexer",
            Self::Job => "job",
            Self::Schedule => "schedule",
            Self::Pull => "pull",
            Self::House => "house",
            Self::Upstream => "upstream",
            Self::Lifecycle => "lifecycle",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Outbox => 0,
            Self::Router => 1,
            Self::Inbox => 2,
            Self::Delivery => 3,
            Self::Handler => 4,
            Self::Breaker => 5,
            Self::Indexer => 6,
            Self::Job => 7,
            Self::Schedule => 8,
            Self::Pull => 9,
            Self::House => 10,
            Self::Upstream => 11,
            Self::Lifecycle => 12,
        }
    }
}

impl fmt::Display for ActorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often actors may be restarted before the hub is reported as degraded.
#[derive(Clone, Copy, Debug)]
pub struct RestartBudget {
    /// Restarts of one kind within the window that are still fine.
    pub restarts_max: usize,
    /// The window.
    pub window_ms: u64,
    /// Pause before the first restart; doubled for each further one within the window.
    pub backoff_ms: u64,
    /// Longest pause.
    pub backoff_cap_ms: u64,
}

#[derive(Debug, Default)]
struct Kind {
    running: i64,
    down: i64,
    restarts: u64,
    recent: VecDeque<UnixMs>,
}

/// The state of every kind of actor.
pub struct Health {
    budget: RestartBudget,
    clock: SharedClock,
    kinds: Mutex<[Kind; ActorKind::ALL.len()]>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("kinds", &*self.kinds.lock()).finish_non_exhaustive()
    }
}

impl Health {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(budget: RestartBudget, clock: SharedClock) -> Self {
        Self { budget, clock, kinds: Mutex::default() }
    }

    pub(super) fn started(&self, kind: ActorKind) {
        self.kinds.lock()[kind.index()].running += 1;
    }

    pub(super) fn stopped(&self, kind: ActorKind) {
        self.kinds.lock()[kind.index()].running -= 1;
    }

    /// Counts a panic; returns how long to wait before the restart, in milliseconds.
    pub(super) fn panicked(&self, kind: ActorKind, text: &str) -> u64 {
        let now = self.clock.now();
        let mut kinds = self.kinds.lock();
        let state = &mut kinds[kind.index()];
        state.restarts += 1;
        state.down += 1;
        self.forget_old(&mut state.recent, now);
        let doublings = u32::try_from(state.recent.len()).unwrap_or(u32::MAX).min(16);
        // More is not needed to tell that the budget is spent.
        if state.recent.len() <= self.budget.restarts_max {
            state.recent.push_back(now);
        }
        let pause_ms = (self.budget.backoff_ms << doublings).min(self.budget.backoff_cap_ms);
        drop(kinds);
        tracing::error!(actor = %kind, panic = text, pause_ms, "an actor panicked and is built anew");
        pause_ms
    }

    pub(super) fn restarted(&self, kind: ActorKind) {
        self.kinds.lock()[kind.index()].down -= 1;
    }

    fn forget_old(&self, recent: &mut VecDeque<UnixMs>, now: UnixMs) {
        while recent.front().is_some_and(|at| now.since_ms(*at) > self.budget.window_ms) {
            recent.pop_front();
        }
    }

    /// Kinds that were restarted more often than the budget allows.
    #[must_use]
    pub fn degraded(&self) -> Vec<ActorKind> {
        let now = self.clock.now();
        let mut kinds = self.kinds.lock();
        ActorKind::ALL
            .into_iter()
            .filter(|kind| {
                let recent = &mut kinds[kind.index()].recent;
                self.forget_old(recent, now);
                recent.len() > self.budget.restarts_max
            })
            .collect()
    }

    /// Restarts of a kind since the process began.
    #[must_use]
    pub fn restarts(&self, kind: ActorKind) -> u64 {
        self.kinds.lock()[kind.index()].restarts
    }

    /// Actors of a kind that run now, those being restarted included.
    #[must_use]
    pub fn running(&self, kind: ActorKind) -> i64 {
        self.kinds.lock()[kind.index()].running
    }

    /// Actors of a kind that are being restarted now.
    #[must_use]
    pub fn down(&self, kind: ActorKind) -> i64 {
        self.kinds.lock()[kind.index()].down
    }
}
