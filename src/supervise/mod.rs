//! Supervision: actors that panic are built anew behind a handle that stays the same (OPS-4).
//!
//! actix closes the address of an actor that panics, for good. So the future of each actor is run here, its panic is
//! seen, and a factory builds a fresh actor, whose `started()` reads its state from the store. Between the two the
//! handle drops what it is given: a mailbox carries hints and work that the log can give again.
//!
//! - `SU-1` A handle stays valid over any number of restarts.
//! - `SU-2` Restarts back off; past the budget the kind is reported as degraded until it has been quiet for the window.
//! - `SU-3` An actor that stops by itself is not restarted.
//!
//! Tasks that are no actors are kept running in the same way: see [`keep_running`].

mod health;
mod task;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::dev::channel::{AddressReceiver, AddressSender, channel};
use actix::dev::{SendError, ToEnvelope};
use actix::{Actor, ArbiterHandle, Context, Handler, Message};
use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use health::{ActorKind, Health, RestartBudget};
pub use task::{PanicSwitch, keep_running};

/// Capacity of a mailbox. What an actor has to do is bounded by gates before it, not by this.
const MAILBOX: usize = 64;

/// Makes any actor panic, for tests of what happens then. Reached only when `faults.enabled` is set.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct PanicNow;

/// Ends an actor: for good, or (through [`Handle::rebuild`]) to be built anew from the store.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// The other side is not there: it is being restarted, or has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the actor is not running")]
pub struct Gone;

struct Slot<A: Actor> {
    sender: ArcSwap<AddressSender<A>>,
    stopped: AtomicBool,
    has_ended: Notify,
    /// Whether the next end of the actor is a new beginning. Held while a mailbox is told of it or replaced, so that the
    /// wish and the mailbox that knows of it belong to the same life.
    rebuild: Mutex<bool>,
}

/// A stable way to reach a supervised actor.
pub struct Handle<A: Actor>(Arc<Slot<A>>);

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor> std::fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("actor", &std::any::type_name::<A>()).finish()
    }
}

impl<A: Actor<Context = Context<A>>> Handle<A> {
    /// Puts a message into the mailbox without waiting.
    ///
    /// # Errors
    /// [`Gone`] when the actor is being restarted or has stopped; the message is dropped.
    pub fn tell<M>(&self, message: M) -> Result<(), Gone>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
        Context<A>: ToEnvelope<A, M>,
    {
        match self.0.sender.load().do_send(message) {
            Ok(()) => Ok(()),
            Err(SendError::Full(_) | SendError::Closed(_)) => Err(Gone),
        }
    }

    /// Puts a hint into the mailbox. A hint that is lost is given again by a timer or a restart, so nobody waits for it.
    pub fn hint<M>(&self, message: M)
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
        Context<A>: ToEnvelope<A, M>,
    {
        if self.tell(message).is_err() {
            tracing::debug!(message = std::any::type_name::<M>(), "hint to an actor that is not running");
        }
    }

    /// Sends a message and waits for the answer.
    ///
    /// # Errors
    /// [`Gone`] when the actor stops or panics before it answers. Whether the message took effect is then unknown.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, Gone>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
        Context<A>: ToEnvelope<A, M>,
    {
        let sent = self.0.sender.load().send(message);
        match sent {
            Ok(answer) => answer.await.map_err(|_| Gone),
            Err(SendError::Full(_) | SendError::Closed(_)) => Err(Gone),
        }
    }

    /// Ends this life of the actor and begins the next one, which reads its state from the store.
    pub fn rebuild(&self)
    where
        A: Handler<Stop>,
    {
        let mut rebuild = self.0.rebuild.lock();
        // When it is not running, a new life is about to begin anyway.
        *rebuild |= self.tell(Stop).is_ok();
    }

    /// Whether the actor has stopped for good.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Ends when the actor has stopped for good.
    pub async fn ended(&self) {
        let mut ended = std::pin::pin!(self.0.has_ended.notified());
        // Told of an end from here on, also when it comes between the look and the wait.
        ended.as_mut().enable();
        if !self.has_stopped() {
            ended.await;
        }
    }

    /// Whether the mailbox is open now.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.sender.load().connected()
    }
}

/// Starts an actor on an arbiter and keeps it running.
pub fn supervise<A, F>(arbiter: &ArbiterHandle, kind: ActorKind, health: &Arc<Health>, factory: F) -> Handle<A>
where
    A: Actor<Context = Context<A>>,
    F: Fn() -> A + Send + 'static,
{
    let (sender, receiver) = channel(MAILBOX);
    let handle = Handle(Arc::new(Slot {
        sender: ArcSwap::from_pointee(sender),
        stopped: AtomicBool::new(false),
        has_ended: Notify::new(),
        rebuild: Mutex::new(false),
    }));
    let (kept, health) = (handle.clone(), Arc::clone(health));
    health.started(kind);
    let started = arbiter.spawn_fn(move || {
        actix::spawn(run(kept, receiver, kind, health, factory));
    });
    if !started {
        tracing::warn!(%kind, "the arbiter has stopped; the actor does not start");
    }
    handle
}

/// One life after the other, until the actor stops by itself.
async fn run<A, F>(
    handle: Handle<A>,
    mut receiver: AddressReceiver<A>,
    kind: ActorKind,
    health: Arc<Health>,
    factory: F,
) where
    A: Actor<Context = Context<A>>,
    F: Fn() -> A,
{
    loop {
        let life = AssertUnwindSafe(async { Context::with_receiver(receiver).into_future(factory()).await });
        match life.catch_unwind().await {
            Ok(()) if !*handle.0.rebuild.lock() => break,
            Ok(()) => {}
            Err(cause) => {
                let pause_ms = health.panicked(kind, &panic_text(&*cause));
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                health.restarted(kind);
            }
        }
        let (sender, fresh) = channel(MAILBOX);
        let mut rebuild = handle.0.rebuild.lock();
        *rebuild = false;
        handle.0.sender.store(Arc::new(sender));
        drop(rebuild);
        receiver = fresh;
    }
    handle.0.stopped.store(true, Ordering::Release);
    handle.0.has_ended.notify_waiters();
    health.stopped(kind);
}

/// What a panic said.
#[must_use]
pub fn panic_text(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    crate::ground::limits::clip(text.unwrap_or("no message"), crate::ground::limits::ERROR_CHARS_MAX).to_owned()
}

/// Gives an actor its answers to [`PanicNow`] and [`Stop`].
#[macro_export]
macro_rules! supervised {
    ($actor:ty) => {
        impl actix::Handler<$crate::supervise::Stop> for $actor {
            type Result = ();

            fn handle(&mut self, _: $crate::supervise::Stop, ctx: &mut Self::Context) {
                actix::ActorContext::stop(ctx);
            }
        }

        impl actix::Handler<$crate::supervise::PanicNow> for $actor {
            type Result = ();

            fn handle(&mut self, _: $crate::supervise::PanicNow, _: &mut Self::Context) {
                panic!("panic asked for by fault injection");
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::ground::clock::ManualClock;

    struct Counter {
        count: u32,
    }

    impl Actor for Counter {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Add;

    impl Handler<Add> for Counter {
        type Result = u32;
        fn handle(&mut self, _: Add, _: &mut Self::Context) -> u32 {
            self.count += 1;
            self.count
        }
    }

    supervised!(Counter);

    #[actix::test]
    async fn a_handle_reaches_the_fresh_actor_after_a_panic() {
        let clock = ManualClock::starting_at(crate::ground::clock::UnixMs(1));
        let health = Arc::new(Health::new(
            RestartBudget { restarts_max: 1, window_ms: 1_000, backoff_ms: 1, backoff_cap_ms: 4 },
            clock,
        ));
        let built = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&built);
        let arbiter = actix::Arbiter::current();
        let handle = supervise(&arbiter, ActorKind::Inbox, &health, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Counter { count: 0 }
        });
        assert_eq!(handle.ask(Add).await, Ok(1));
        assert_eq!(handle.ask(Add).await, Ok(2));
        assert!(health.degraded().is_empty());
        for lives in 2..=3 {
            assert_eq!(handle.ask(PanicNow).await, Err(Gone));
            while !handle.is_running() {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(handle.ask(Add).await, Ok(1));
            assert_eq!(built.load(Ordering::SeqCst), lives);
        }
        assert_eq!(health.restarts(ActorKind::Inbox), 2);
        assert_eq!(health.degraded(), [ActorKind::Inbox]);
    }
    #[actix::test]
    async fn a_rebuild_asked_for_during_a_restart_does_not_outlive_it() {
        let clock = ManualClock::starting_at(crate::ground::clock::UnixMs(1));
        let budget = RestartBudget { restarts_max: 9, window_ms: 1_000, backoff_ms: 20, backoff_cap_ms: 20 };
        let health = Arc::new(Health::new(budget, clock));
        let arbiter = actix::Arbiter::current();
        let handle = supervise(&arbiter, ActorKind::Inbox, &health, || Counter { count: 0 });
        let until_running = || async {
            while !handle.is_running() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert_eq!(handle.ask(Add).await, Ok(1));
        handle.rebuild();
        let mut count = handle.ask(Add).await;
        while count == Err(Gone) {
            tokio::task::yield_now().await;
            count = handle.ask(Add).await;
        }
        assert_eq!(count, Ok(1), "a rebuild is a fresh actor");

        assert_eq!(handle.ask(PanicNow).await, Err(Gone));
        handle.rebuild();
        until_running().await;
        assert_eq!(handle.ask(Add).await, Ok(1));
        handle.hint(Stop);
        while !handle.has_stopped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
