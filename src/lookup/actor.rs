//! The indexer actor: takes a step whenever a block has been completed.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::follow::{Done, Follower, Source};
use crate::ground::clock::SharedClock;
use crate::metrics::Metrics;
use crate::outbox::Tail;
use crate::store::{EventLog, LogIndex, StoreError, blocking};

/// Pause before a step that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest rest between two blocks of a log that is indexed later than it was written.
const REST_MAX: Duration = Duration::from_millis(50);

/// What the indexer works with.
#[derive(Clone)]
pub struct IndexerParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Where rows go.
    pub index: Arc<dyn LogIndex>,
    /// The newest events, and the word that a block is complete.
    pub tail: Arc<Tail>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// How often it looks without being told to: retention may have dropped something.
    pub look_every: Duration,
}

/// Follows the log and writes the index (LK-4).
pub struct IndexerActor {
    parts: IndexerParts,
    /// Away while a step is under way.
    follower: Option<Follower>,
    /// Something came while a step was under way.
    again: bool,
}

impl IndexerActor {
    /// An indexer that finds its place when it starts.
    #[must_use]
    pub fn new(parts: IndexerParts) -> Self {
        let follower = Some(Self::follower(&parts));
        Self { parts, follower, again: false }
    }

    fn follower(parts: &IndexerParts) -> Follower {
        Follower::new(Arc::clone(&parts.log), Arc::clone(&parts.index), Arc::clone(&parts.tail))
    }

    fn wait_for_blocks(&mut self, ctx: &mut Context<Self>) {
        let tail = Arc::clone(&self.parts.tail);
        let completed = async move { tail.block_completed().await };
        ctx.spawn(completed.into_actor(self).map(|(), indexer, ctx| {
            indexer.turn(ctx);
            indexer.wait_for_blocks(ctx);
        }));
    }

    /// One step off the async threads, unless one is under way.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        let Some(mut follower) = self.follower.take() else {
            self.again = true;
            return;
        };
        self.again = false;
        let clock = Arc::clone(&self.parts.clock);
        let step = blocking(move || {
            let began_ns = clock.monotonic_ns();
            let done = follower.step();
            let took = Duration::from_nanos(clock.monotonic_ns().saturating_sub(began_ns));
            Ok((follower, done, took))
        });
        ctx.spawn(step.into_actor(self).map(|step, indexer, ctx| {
            let done = match step {
                Ok((follower, done, took)) => {
                    indexer.follower = Some(follower);
                    done.map(|done| (done, took))
                }
                Err(error) => {
                    indexer.follower = Some(Self::follower(&indexer.parts));
                    Err(error)
                }
            };
            indexer.go_on(done, ctx);
        }));
    }

    fn go_on(&mut self, done: Result<(Done, Duration), StoreError>, ctx: &mut Context<Self>) {
        let (upto, rest) = match done {
            Ok((Done::Wrote { upto, from: Source::Tail }, _)) => (upto, Some(Duration::ZERO)),
            // As long as it worked it rests: whoever reads or writes the log now comes first.
            Ok((Done::Wrote { upto, from: Source::Log } | Done::PassedOver { upto }, took)) => {
                (upto, Some(took.min(REST_MAX)))
            }
            Ok((Done::UpToDate { upto }, _)) => (upto, self.again.then_some(Duration::ZERO)),
            Err(error) => {
                tracing::warn!(%error, "the index of the log waits; trying again");
                ctx.run_later(RETRY_PAUSE, Self::turn);
                return;
            }
        };
        self.parts.metrics.log_index_cursor.set(i64::try_from(upto.0).unwrap_or(i64::MAX));
        if let Some(rest) = rest {
            ctx.run_later(rest, Self::turn);
        }
    }
}

impl Actor for IndexerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.wait_for_blocks(ctx);
        ctx.run_interval(self.parts.look_every, Self::turn);
        self.turn(ctx);
    }
}

crate::supervised!(IndexerActor);
