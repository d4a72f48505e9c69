//! The lifecycle actor: takes a step whenever the log has grown. While nothing is declared it sleeps.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext as _, Context, WrapFuture as _};

use super::follow::{Done, Follower};
use super::record::DeclaredLifecycles;
use crate::ground::clock::SharedClock;
use crate::metrics::Metrics;
use crate::outbox::Tail;
use crate::store::{EventLog, LifecycleStore, StoreError, blocking};

/// Pause before a step that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest rest between two stretches of a log that is followed later than it was written.
const REST_MAX: Duration = Duration::from_millis(50);

/// What the actor works with.
#[derive(Clone)]
pub struct LifecycleParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Where aggregates stand.
    pub store: Arc<dyn LifecycleStore>,
    /// The newest events, and the word that there are more.
    pub tail: Arc<Tail>,
    /// What is declared.
    pub declared: Arc<DeclaredLifecycles>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
}

/// Follows the log along the declared orders.
pub struct LifecycleActor {
    parts: LifecycleParts,
}

impl LifecycleActor {
    /// An actor that finds its place when it starts.
    #[must_use]
    pub fn new(parts: LifecycleParts) -> Self {
        Self { parts }
    }
}

/// One step off the async threads: the follower as it is after it, what it did, how long that took.
async fn step(
    clock: &SharedClock,
    mut follower: Follower,
) -> Result<(Follower, Result<Done, StoreError>, Duration), StoreError> {
    let clock = Arc::clone(clock);
    blocking(move || {
        let began_ns = clock.monotonic_ns();
        let done = follower.step();
        Ok((follower, done, Duration::from_nanos(clock.monotonic_ns().saturating_sub(began_ns))))
    })
    .await
}

async fn follow(parts: LifecycleParts) {
    let LifecycleParts { log, store, tail, declared, metrics, clock } = parts;
    let new = || Follower::new(Arc::clone(&log), Arc::clone(&store), Arc::clone(&tail), Arc::clone(&declared));
    let mut follower = new();
    let mut growth = tail.growth();
    loop {
        growth.mark_unchanged();
        let (next, done, took) = match step(&clock, follower).await {
            Ok((follower, done, took)) => (follower, done, took),
            Err(error) => (new(), Err(error), Duration::ZERO),
        };
        follower = next;
        match done {
            Ok(Done::Judged { broken, live }) => {
                metrics.lifecycle_broken.inc_by(broken);
                if !live {
                    // As long as it worked it rests: whoever reads or writes the log now comes first.
                    clock.sleep(took.min(REST_MAX)).await;
                }
            }
            Ok(Done::UpToDate | Done::Idle) if !follower.is_tidy() => clock.sleep(took.min(REST_MAX)).await,
            Ok(Done::UpToDate) => tokio::select! {
                grown = growth.changed() => {
                    if grown.is_err() {
                        return;
                    }
                }
                () = declared.changed() => {}
            },
            Ok(Done::Idle) => declared.changed().await,
            Err(error) => {
                tracing::warn!(%error, "the lifecycles of aggregates wait; trying again");
                clock.sleep(RETRY_PAUSE).await;
            }
        }
    }
}

impl Actor for LifecycleActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(follow(self.parts.clone()).into_actor(self));
    }
}

crate::supervised!(LifecycleActor);
