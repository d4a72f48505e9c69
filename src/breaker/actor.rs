//! The breaker actor: one per upstream, and each webhook is an upstream of its own (BRK-1).
//!
//! It performs what [`super::state`] decides: answers who asks to call, takes the results, logs and counts each
//! transition, and keeps the state in the registry so that an open breaker is open after a restart (BRK-3).

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, WrapFuture as _};

use super::record;
use super::settings::BreakerSettings;
use super::state::{Admission, Breaker, BreakerState, CallResult, Command, Permit, Phase, Refusal, Transition};
use crate::ground::clock::{SharedClock, UnixMs};
use crate::inbox::catch_up::blocking;
use crate::metrics::Metrics;
use crate::store::{Registry, StoreError};

/// Kind of the breakers' documents in the registry.
pub const DOCUMENT_KIND: &str = "breaker";
/// Pause before a state that could not be stored is stored again.
const SAVE_PAUSE: Duration = Duration::from_millis(500);

/// May I call?
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Admitted")]
pub struct Admit;

/// Answer to [`Admit`].
#[derive(Clone, Copy, Debug)]
pub enum Admitted {
    /// Yes; the permit goes back with [`Record`].
    Yes(Permit),
    /// No, and no attempt is spent.
    No {
        /// When to ask again; none until a command.
        until: Option<UnixMs>,
        /// Why.
        reason: Refusal,
    },
}

/// What a call said about the upstream.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Record {
    /// The permit of the call.
    pub permit: Permit,
    /// What it said; none when it said nothing.
    pub result: Option<CallResult>,
    /// How long it took.
    pub latency_ms: u64,
}

/// An operator's command. Answered with the state after it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "BreakerView")]
pub struct Instruct(pub Command);

/// Your numbers have changed: read them again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Configure;

/// Where do you stand?
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "BreakerView")]
pub struct Inspect;

/// A breaker as operators see it.
#[derive(Clone, Debug)]
pub struct BreakerView {
    /// Its state.
    pub state: BreakerState,
    /// Probes under way.
    pub probes: usize,
}

/// Told the state of a breaker when it is known and whenever it changes.
pub type PhaseWatch = Arc<dyn Fn(Phase) + Send + Sync>;

/// What a breaker works with.
#[derive(Clone)]
pub struct BreakerParts {
    /// The upstream.
    pub id: String,
    /// Reads its numbers; they can be changed while it runs.
    pub settings: Arc<dyn Fn() -> BreakerSettings + Send + Sync>,
    /// Where its state is kept.
    pub registry: Arc<dyn Registry>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Who else is told its state.
    pub watch: Option<PhaseWatch>,
}

/// One upstream's breaker.
pub struct BreakerActor {
    parts: BreakerParts,
    breaker: Breaker,
    revision: Option<u64>,
    saving: bool,
    unsaved: bool,
}

impl BreakerActor {
    /// A breaker that reads its state when it starts.
    #[must_use]
    pub fn new(parts: BreakerParts) -> Self {
        let breaker = Breaker::new((parts.settings)());
        Self { parts, breaker, revision: None, saving: false, unsaved: false }
    }

    fn load(&mut self, ctx: &mut Context<Self>) {
        let (registry, id) = (Arc::clone(&self.parts.registry), self.parts.id.clone());
        let loading = blocking(move || registry.get(DOCUMENT_KIND, &id));
        ctx.wait(loading.into_actor(self).map(|loaded, actor, ctx| match loaded {
            Ok(Some(document)) => {
                actor.revision = Some(document.revision);
                match record::decode(&document.bytes, (actor.parts.settings)()) {
                    Ok(breaker) => {
                        actor.breaker = breaker;
                        actor.tell();
                    }
                    Err(error) => {
                        tracing::warn!(breaker = %actor.parts.id, %error, "the stored breaker does not decode; it starts closed");
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(breaker = %actor.parts.id, %error, "the breaker cannot start yet");
                ctx.run_later(SAVE_PAUSE, Self::load);
            }
        }));
    }

    fn tell(&self) {
        if let Some(watch) = &self.parts.watch {
            watch(self.breaker.state().phase());
        }
    }

    fn moved(&mut self, transition: Option<Transition>, ctx: &mut Context<Self>) {
        let Some(Transition { from, to, reason }) = transition else { return };
        tracing::warn!(breaker = %self.parts.id, from = from.as_str(), to = to.as_str(), reason = reason.as_str(), "breaker changed state");
        let metrics = &self.parts.metrics;
        metrics.breaker_transitions.with_label_values(&[to.as_str()]).inc();
        if from != Phase::Closed {
            metrics.breakers.with_label_values(&[from.as_str()]).dec();
        }
        if to != Phase::Closed {
            metrics.breakers.with_label_values(&[to.as_str()]).inc();
        }
        self.tell();
        self.save(ctx);
    }

    /// Stores the state; one write at a time, the newest state last.
    fn save(&mut self, ctx: &mut Context<Self>) {
        if self.saving {
            self.unsaved = true;
            return;
        }
        let bytes = match record::encode(&self.breaker) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(breaker = %self.parts.id, %error, "the breaker does not encode");
                return;
            }
        };
        self.saving = true;
        let (registry, id, revision) = (Arc::clone(&self.parts.registry), self.parts.id.clone(), self.revision);
        let saving = blocking(move || registry.put(DOCUMENT_KIND, &id, &bytes, revision));
        ctx.spawn(saving.into_actor(self).map(|saved, actor, ctx| {
            actor.saving = false;
            match saved {
                Ok(revision) => actor.revision = Some(revision),
                Err(StoreError::Revision { found, .. }) => {
                    actor.revision = found;
                    actor.unsaved = true;
                }
                Err(error) => {
                    tracing::warn!(breaker = %actor.parts.id, %error, "the breaker's state is not stored yet");
                    ctx.run_later(SAVE_PAUSE, Self::save);
                }
            }
            if std::mem::take(&mut actor.unsaved) {
                actor.save(ctx);
            }
        }));
    }

    fn view(&self) -> BreakerView {
        BreakerView {
            state: self.breaker.state().clone(),
            probes: self.breaker.probes_in_flight(self.parts.clock.now()),
        }
    }
}

impl Actor for BreakerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
    }
}

impl Handler<Admit> for BreakerActor {
    type Result = actix::MessageResult<Admit>;

    fn handle(&mut self, _: Admit, ctx: &mut Self::Context) -> Self::Result {
        actix::MessageResult(match self.breaker.admit(self.parts.clock.now()) {
            Admission::Admitted { permit, transition } => {
                self.moved(transition, ctx);
                Admitted::Yes(permit)
            }
            Admission::Refused { until, reason } => Admitted::No { until, reason },
        })
    }
}

impl Handler<Record> for BreakerActor {
    type Result = ();

    fn handle(&mut self, Record { permit, result, latency_ms }: Record, ctx: &mut Self::Context) {
        match result {
            Some(result) => {
                let transition = self.breaker.record(permit, result, latency_ms, self.parts.clock.now());
                self.moved(transition, ctx);
            }
            None => self.breaker.release(permit),
        }
    }
}

impl Handler<Instruct> for BreakerActor {
    type Result = actix::MessageResult<Instruct>;

    fn handle(&mut self, Instruct(command): Instruct, ctx: &mut Self::Context) -> Self::Result {
        let transition = self.breaker.command(command, self.parts.clock.now());
        self.moved(transition, ctx);
        actix::MessageResult(self.view())
    }
}

impl Handler<Configure> for BreakerActor {
    type Result = ();

    fn handle(&mut self, _: Configure, _: &mut Self::Context) {
        self.breaker.set_settings((self.parts.settings)());
    }
}

impl Handler<Inspect> for BreakerActor {
    type Result = actix::MessageResult<Inspect>;

    fn handle(&mut self, _: Inspect, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.view())
    }
}

crate::supervised!(BreakerActor);
