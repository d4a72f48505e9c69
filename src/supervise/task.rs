//! Tasks that are no actors: a loop that goes on until the hub ends. One that panics is begun anew, counted and held to the
//! same budget as actors are (SU-2).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use futures_util::FutureExt as _;
use tokio::sync::watch;

use super::{ActorKind, Health, panic_text};

/// Makes tasks panic, for tests of what happens then. Reached only when `faults.enabled` is set.
#[derive(Clone, Debug)]
pub struct PanicSwitch(Arc<watch::Sender<u64>>);

impl Default for PanicSwitch {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl PanicSwitch {
    /// Every task that runs under it panics where it waits; how many those are.
    pub fn panic_all(&self) -> usize {
        self.0.send_modify(|count| *count += 1);
        self.0.receiver_count()
    }
}

/// Runs a task on an arbiter until it ends by itself. `begin` begins each of its lives: what a life must not take with it is
/// kept outside of it.
pub fn keep_running<F, T>(
    arbiter: &ArbiterHandle,
    kind: ActorKind,
    health: &Arc<Health>,
    switch: &PanicSwitch,
    begin: F,
) where
    F: Fn() -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let (health, mut panics) = (Arc::clone(health), switch.0.subscribe());
    health.started(kind);
    let started = arbiter.spawn(async move {
        loop {
            panics.mark_unchanged();
            let life = begin();
            let life = async {
                tokio::select! {
                    () = life => {}
                    Ok(()) = panics.changed() => panic!("panic asked for by fault injection"),
                }
            };
            let Err(cause) = AssertUnwindSafe(life).catch_unwind().await else { break };
            let pause_ms = health.panicked(kind, &panic_text(&*cause));
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            health.restarted(kind);
        }
        health.stopped(kind);
    });
    if !started {
        tracing::warn!(%kind, "the arbiter has stopped; the task does not start");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::ground::clock::{ManualClock, UnixMs};
    use crate::supervise::RestartBudget;

    #[actix::test]
    async fn a_task_that_panics_is_begun_anew_until_it_ends_by_itself() {
        let budget = RestartBudget { restarts_max: 1, window_ms: 1_000, backoff_ms: 1, backoff_cap_ms: 2 };
        let health = Arc::new(Health::new(budget, ManualClock::starting_at(UnixMs(1))));
        let (lives, switch) = (Arc::new(AtomicU32::new(0)), PanicSwitch::default());
        let counted = Arc::clone(&lives);
        let arbiter = actix::Arbiter::current();
        keep_running(&arbiter, ActorKind::House, &health, &switch, move || {
            let life = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                assert_ne!(life, 1, "a mistake of the first life");
                if life == 2 {
                    std::future::pending::<()>().await;
                }
            }
        });
        while lives.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!((health.restarts(ActorKind::House), health.running(ActorKind::House)), (1, 1));
        assert!(health.degraded().is_empty());
        // The second life waits for ever; the third ends by itself.
        assert_eq!(switch.panic_all(), 1);
        while health.running(ActorKind::House) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((lives.load(Ordering::SeqCst), health.restarts(ActorKind::House)), (3, 2));
        assert_eq!(health.degraded(), [ActorKind::House]);
    }
}
