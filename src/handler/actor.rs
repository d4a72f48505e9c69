//! The handler actor: gives the claims of one in-process consumer to its handlers.
//!
//! Each claim is a task of its own on the actor's thread. The actor holds nothing that a restart would lose.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use actix::{Actor, Context, Handler};
use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use tracing::Instrument as _;

use super::context::{Attempt, HandlerContext, Lease};
use super::outcome::{HandlerFailure, attempt_result};
use super::publish::Publisher;
use super::registry::{HandlerRegistry, Registered};
use crate::event::envelope::Event;
use crate::event::filter::Decision;
use crate::event::redact::Redactor;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::inbox::messages::{Deliver, Deliverer, Ticket};
use crate::inbox::spec::ConsumerSpec;
use crate::link::{LinkBook, Links};
use crate::retry::{AttemptResult, FailureKind};
use crate::supervise::{Handle, panic_text};
use crate::trace::{AttemptKind, Tracer};

/// What a handler actor works with.
#[derive(Clone)]
pub struct HandlerParts {
    /// The consumer's name, as its handlers are registered under it.
    pub consumer: Arc<str>,
    /// The handlers.
    pub registry: Arc<HandlerRegistry>,
    /// The consumer's settings, shared with its inbox: the lease, and what it asks for.
    pub spec: Arc<ArcSwap<ConsumerSpec>>,
    /// Where follow-up events go.
    pub publisher: Arc<dyn Publisher>,
    /// Clears what is traced of failures.
    pub redactor: Redactor,
    /// The links of the hub.
    pub links: Arc<LinkBook>,
    /// Traces attempts.
    pub tracer: Tracer,
    /// Time.
    pub clock: SharedClock,
    /// When the consumer's first handler was registered in this run.
    pub since: UnixMs,
}

/// Runs the handlers of one consumer.
pub struct HandlerActor {
    parts: Arc<HandlerParts>,
}

impl HandlerActor {
    /// An actor for one consumer.
    #[must_use]
    pub fn new(parts: HandlerParts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

impl Actor for HandlerActor {
    type Context = Context<Self>;
}

impl Handler<Deliver> for HandlerActor {
    type Result = ();

    fn handle(&mut self, Deliver { work }: Deliver, _: &mut Self::Context) {
        for (ticket, event) in work {
            actix::spawn(attempt(Arc::clone(&self.parts), ticket, event));
        }
    }
}

/// One claim: runs the handlers and answers, or leaves the claim to its lease.
async fn attempt(parts: Arc<HandlerParts>, ticket: Ticket, event: Arc<Event>) {
    let handlers = parts.registry.handlers_of(&parts.consumer, &event.meta.event_type);
    if handlers.is_empty() {
        without_handlers(&parts, ticket, &event);
        return;
    }
    let began_ns = parts.clock.monotonic_ns();
    let consumer = format_args!("handler:{}", parts.consumer);
    let traced = parts.tracer.attempt(&event, consumer, ticket.attempt(), AttemptKind::Handler);
    let context = context(&parts, &ticket, &event);
    let run = run_all(&handlers, &event, &context).instrument(context.span().clone());
    let ended = context.lease().ended();
    let failures = match select(std::pin::pin!(run), std::pin::pin!(ended)).await {
        Either::Left((failures, _)) => failures,
        Either::Right(((), _)) => {
            // Before the handler's future is dropped below, which runs code of the handler.
            ticket.abandon();
            let expired = AttemptResult::failed(FailureKind::LeaseExpired, "the lease ran out");
            parts.tracer.attempted(traced, &expired);
            tracing::warn!(parent: context.span(), "the lease ran out; the handler is stopped");
            return;
        }
    };
    let latency_ms = parts.clock.monotonic_ns().saturating_sub(began_ns) / 1_000_000;
    let result = attempt_result(handlers.len(), &failures);
    let (result, _) = result.cleared(&parts.redactor, Some(&event), String::new());
    parts.tracer.attempted(traced, &result);
    ticket.settle(result, u32::try_from(latency_ms).unwrap_or(u32::MAX), String::new());
}

/// `HA-4`: a handler that is not registered yet is waited for; one that was removed is not.
fn without_handlers(parts: &HandlerParts, ticket: Ticket, event: &Event) {
    let spec = parts.spec.load();
    match spec.filter.decide(event) {
        Decision::Match if parts.clock.now() >= parts.since.plus_ms(spec.rules.lease_ms) => {
            tracing::warn!(consumer = %parts.consumer, r#type = event.meta.event_type, event = event.meta.id, "no handler takes this type any more; the event is passed over");
            ticket.settle(AttemptResult::Delivered { status: 200 }, 0, String::new());
        }
        Decision::Match => {
            tracing::debug!(consumer = %parts.consumer, r#type = event.meta.event_type, "no handler is registered; the event waits");
            ticket.defer(None);
        }
        Decision::NoMatch(_) => ticket.settle(AttemptResult::Delivered { status: 200 }, 0, String::new()),
    }
}

fn context(parts: &HandlerParts, ticket: &Ticket, event: &Arc<Event>) -> HandlerContext {
    let span = tracing::info_span!(
        "handle",
        consumer = %parts.consumer,
        event = event.meta.id,
        r#type = event.meta.event_type,
        attempt = ticket.attempt(),
        correlation_id = event.meta.correlation_id.as_deref().unwrap_or(&event.meta.id),
    );
    HandlerContext::new(Attempt {
        consumer: Arc::clone(&parts.consumer),
        event: Arc::clone(event),
        number: ticket.attempt(),
        lease: Lease::begin(ticket.renewal(), Arc::clone(&parts.spec), Arc::clone(&parts.clock)),
        span,
        publisher: Arc::clone(&parts.publisher),
        links: Links::new(
            Arc::clone(&parts.links),
            Arc::clone(&parts.clock),
            &event.meta.org,
            &format!("handler:{}", parts.consumer),
        )
        .within(event.meta.correlation_id.as_deref().unwrap_or(&event.meta.id)),
    })
}

/// `HA-1`: one after the other, whatever came of the one before.
async fn run_all(handlers: &[Registered], event: &Arc<Event>, context: &HandlerContext) -> Vec<HandlerFailure> {
    let mut failures = Vec::new();
    for known in handlers {
        if let Err(failure) = run(known, Arc::clone(event), context.clone()).await {
            // Its message may repeat the event; what may be told of it is told when the attempt is settled.
            tracing::debug!(pattern = %known.pattern, "a handler failed");
            failures.push(failure);
        }
    }
    failures
}

async fn run(known: &Registered, event: Arc<Event>, context: HandlerContext) -> Result<(), HandlerFailure> {
    // Within the block, so that a panic of the call itself, and of dropping what it returned, is seen as well.
    let call = async { known.handler.handle(event, context).await };
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(answer) => answer.map_err(HandlerFailure::Error),
        Err(cause) => {
            let text = panic_text(&*cause);
            tracing::error!(pattern = %known.pattern, panic = text, "a handler panicked");
            Err(HandlerFailure::Panic(text))
        }
    }
}

impl Deliverer for Handle<HandlerActor> {
    fn deliver(&self, work: Deliver) {
        self.hint(work);
    }
}

crate::supervised!(HandlerActor);
