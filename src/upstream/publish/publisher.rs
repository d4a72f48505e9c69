//! Makes the calls of one rule: the deliverer of its inbox.
//!
//! It holds nothing that a restart would lose. Each claim is a task of its own on the thread of the inbox; a ticket that
//! is dropped gives its claim back.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::report::{Deferred, Published, Refused, Report, Retried};
use super::write::{Write, Writer};
use crate::event::envelope::Event;
use crate::ground::clock::SharedClock;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::messages::{Deliver, Deliverer, Outcome, Ticket, Told};
use crate::metrics::Metrics;
use crate::retry::{AttemptResult, FailureKind};
use crate::trace::{AttemptKind, Tracer};
use crate::upstream::adapter::AdapterContext;
use crate::upstream::call::{CallError, CallErrorKind, CallPath};

/// How long a rule rests when the upstream cannot be asked and nobody says for how long.
const REST_MS: u64 = 5_000;
/// Events that are remembered as deferred before their first attempt.
const DEFERRED_MAX: usize = 4_096;

/// What a publisher works with.
#[derive(Clone)]
pub struct PublisherParts {
    /// The one way to upstreams.
    pub calls: Arc<dyn CallPath>,
    /// Traces attempts.
    pub tracer: Tracer,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
}

/// Publishes the events of one rule.
pub struct Publisher {
    consumer: ConsumerId,
    upstream: String,
    name: String,
    /// The rule; replaced as a whole when it changes.
    writer: ArcSwap<Writer>,
    parts: PublisherParts,
    /// Events that were put aside before their first attempt: each is told of once.
    deferred: Mutex<HashSet<Seq>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

impl Publisher {
    /// The publisher of a rule of this upstream.
    #[must_use]
    pub fn new(upstream: &str, writer: Writer, parts: PublisherParts) -> Arc<Self> {
        let name = writer.rule().name.clone();
        Arc::new(Self {
            consumer: ConsumerId::publish(upstream, &name),
            upstream: upstream.to_owned(),
            name,
            writer: ArcSwap::from_pointee(writer),
            parts,
            deferred: Mutex::default(),
        })
    }

    /// The name of the rule.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the upstream.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The rule as it is now.
    #[must_use]
    pub fn writer(&self) -> Arc<Writer> {
        self.writer.load_full()
    }

    /// Goes by another version of the rule from the next call on.
    pub fn change(&self, writer: Writer) {
        self.writer.store(Arc::new(writer));
    }

    fn report<'a>(&'a self, event: &'a Event, attempt: u32) -> Report<'a> {
        let about = self.writer.load().about(event);
        Report { metrics: &self.parts.metrics, upstream: &self.upstream, rule: &self.name, event, attempt, about }
    }

    /// Notes that an event is put aside; false when that is known.
    fn put_aside(&self, seq: Seq) -> bool {
        let mut deferred = self.deferred.lock();
        if deferred.len() >= DEFERRED_MAX && !deferred.contains(&seq) {
            deferred.clear();
        }
        deferred.insert(seq)
    }

    async fn publish(self: Arc<Self>, ticket: Ticket, event: Arc<Event>) {
        let writer = self.writer.load_full();
        let Write { call, correlation_id } = match writer.write(&event).await {
            Ok(write) => write,
            Err(fault) => {
                let result = AttemptResult::failed(FailureKind::Template, fault.to_string());
                ticket.settle(result, 0, String::new());
                return;
            }
        };
        let span = self.parts.tracer.attempt(&event, &self.consumer, ticket.attempt(), AttemptKind::Call);
        let context = AdapterContext {
            correlation_id,
            tenant: Some(event.meta.org.clone()).filter(|org| !org.is_empty()),
            user: Some(self.consumer.to_string()),
            timestamp: self.parts.clock.now(),
            retry_count: ticket.attempt().saturating_sub(1),
            traceparent: span.traceparent(),
            ..AdapterContext::default()
        };
        let asked_ns = self.parts.clock.monotonic_ns();
        let answer = self.parts.calls.call(&self.upstream, call, context).await;
        let latency_ms = self.parts.clock.monotonic_ns().saturating_sub(asked_ns) / 1_000_000;
        let result = match answer {
            Ok(answer) => AttemptResult::Delivered { status: answer.status },
            // Nothing was sent: the claim waits with all of its attempts.
            Err(error) if waits(&error) => {
                let until = self.parts.clock.now().plus_ms(error.retry_after_ms.unwrap_or(REST_MS));
                if ticket.attempt() == 1 && self.put_aside(event.seq) {
                    self.report(&event, ticket.attempt()).emit(&Deferred { reason: error.kind.as_str(), until });
                }
                self.parts.metrics.deliveries_deferred.with_label_values(&[error.kind.as_str()]).inc();
                ticket.defer(Some(until));
                return;
            }
            Err(error) => error.to_attempt(),
        };
        self.parts.tracer.attempted(span, &result);
        ticket.settle(result, u32::try_from(latency_ms).unwrap_or(u32::MAX), String::new());
    }
}

/// Whether an error means that the event waits for a better time.
fn waits(error: &CallError) -> bool {
    match error.kind {
        // An upstream that is not there is being taken away or brought back.
        CallErrorKind::Unknown | CallErrorKind::RateLimited | CallErrorKind::CircuitOpen | CallErrorKind::Busy => true,
        CallErrorKind::Validation
        | CallErrorKind::Timeout
        | CallErrorKind::Transient
        | CallErrorKind::Auth
        | CallErrorKind::NotFound
        | CallErrorKind::Permanent
        | CallErrorKind::Malformed
        | CallErrorKind::Internal => false,
    }
}

/// The publisher as an inbox knows it.
pub struct PublishDeliverer(pub Arc<Publisher>);

impl Deliverer for PublishDeliverer {
    fn deliver(&self, Deliver { work }: Deliver) {
        for (ticket, event) in work {
            actix::spawn(Arc::clone(&self.0).publish(ticket, event));
        }
    }

    fn came_of(&self, outcome: &Outcome<'_>) -> Told {
        let publisher = &self.0;
        let Some(event) = outcome.event else { return Told::ByInbox };
        let known = publisher.deferred.lock().remove(&event.seq);
        let attempt = outcome.attempt.attempt;
        let report = publisher.report(event, attempt);
        if attempt > 1 {
            report.emit(&Retried);
        }
        match (outcome.failure, outcome.attempt.next_try_at) {
            (None, _) => report.emit(&Published { status: outcome.attempt.status }),
            (Some(kind), _) if outcome.given_up => {
                let error = outcome.attempt.error.as_deref().unwrap_or_default();
                report.emit(&Refused { kind, status: outcome.attempt.status, error });
            }
            (Some(kind), until) => {
                if attempt == 1
                    && !known
                    && let Some(until) = until
                {
                    report.emit(&Deferred { reason: kind.as_str(), until });
                }
            }
        }
        Told::ByDeliverer
    }
}
