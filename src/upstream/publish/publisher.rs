//! Makes the calls of one rule: the deliverer of its inbox.
//!
//! It holds nothing that a restart would lose. Each claim is a task of its own on the thread of the inbox; a ticket that
//! is dropped gives its claim back.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use super::report::{Deferred, Published, Refused, Report, Retried};
use super::write::{Write, Writer};
use crate::event::envelope::Event;
use crate::event::redact::{Audience, Redactor};
use crate::ground::clock::SharedClock;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::messages::{Deliver, Deliverer, Outcome, Ticket, Told};
use crate::metrics::Metrics;
use crate::retry::{AttemptResult, FailureKind};
use crate::trace::{AttemptKind, Tracer};
use crate::upstream::adapter::AdapterContext;
use crate::upstream::call::{About, CallError, CallErrorKind, CallPath};

/// How long a rule rests when the upstream cannot be asked and nobody says for how long.
const REST_MS: u64 = 5_000;
/// Events of one rule that are remembered as waiting.
const WAITING_MAX: usize = 100_000;

/// How many events wait for each upstream.
pub type Depths = DashMap<String, usize>;

/// What a publisher works with.
#[derive(Clone)]
pub struct PublisherParts {
    /// The one way to upstreams.
    pub calls: Arc<dyn CallPath>,
    /// How many events wait.
    pub depths: Arc<Depths>,
    /// What people may see of events.
    pub redactor: Redactor,
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
    /// Events that were put aside and are not settled, as far as this process knows.
    waiting: Mutex<HashSet<Seq>>,
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
            waiting: Mutex::default(),
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

    /// What the log may say of an event: what is redacted for people is not in it.
    fn about(&self, event: &Arc<Event>) -> About {
        let shown = self.parts.redactor.shown(event, Audience::Console);
        About { withheld: !Arc::ptr_eq(&shown, event), ..self.writer.load().about(&shown) }
    }

    fn report<'a>(&'a self, event: &'a Arc<Event>, attempt: u32) -> Report<'a> {
        let about = self.about(event);
        Report { metrics: &self.parts.metrics, upstream: &self.upstream, rule: &self.name, event, attempt, about }
    }

    /// Notes that an event waits; false when that was known.
    fn put_aside(&self, seq: Seq) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX || !waiting.insert(seq) {
            return false;
        }
        drop(waiting);
        let depth = {
            let mut depth = self.parts.depths.entry(self.upstream.clone()).or_default();
            *depth += 1;
            *depth
        };
        let deepest = self.parts.metrics.bridge_retry_depth_max.with_label_values(&[self.upstream.as_str()]);
        deepest.set(deepest.get().max(i64::try_from(depth).unwrap_or(i64::MAX)));
        true
    }

    /// Notes that an event waits no longer.
    fn take_up(&self, seq: Seq) {
        if self.waiting.lock().remove(&seq)
            && let Some(mut depth) = self.parts.depths.get_mut(&self.upstream)
        {
            *depth = depth.saturating_sub(1);
        }
    }

    async fn publish(self: Arc<Self>, ticket: Ticket, event: Arc<Event>) {
        let writer = self.writer.load_full();
        let Write { mut call, correlation_id } = match writer.write(&event).await {
            Ok(write) => write,
            Err(fault) => {
                let result = AttemptResult::failed(FailureKind::Template, fault.to_string());
                ticket.settle(result, 0, String::new());
                return;
            }
        };
        call.about = self.about(&event);
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
                if self.put_aside(event.seq) && ticket.attempt() == 1 {
                    self.report(&event, ticket.attempt()).emit(&Deferred { reason: error.kind.as_str(), until });
                }
                self.parts.metrics.deliveries_deferred.with_label_values(&[error.kind.as_str()]).inc();
                ticket.defer(Some(until));
                return;
            }
            Err(error) => result_of(&error),
        };
        let (result, _) = result.cleared(&self.parts.redactor, Some(&event), String::new());
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

/// What an attempt came to. 410 speaks of one path of the upstream, not of the upstream: nothing is disabled by it.
fn result_of(error: &CallError) -> AttemptResult {
    match error.to_attempt() {
        AttemptResult::Failed { kind: FailureKind::Gone, status, message, retry_after_ms } => {
            AttemptResult::Failed { kind: FailureKind::Status, status, message, retry_after_ms }
        }
        result @ (AttemptResult::Delivered { .. } | AttemptResult::Failed { .. }) => result,
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
        let attempt = outcome.attempt.attempt;
        let report = publisher.report(event, attempt);
        if attempt > 1 {
            report.emit(&Retried);
        }
        match (outcome.failure, outcome.attempt.next_try_at) {
            (Some(kind), Some(until)) => {
                if publisher.put_aside(event.seq) && attempt == 1 {
                    report.emit(&Deferred { reason: kind.as_str(), until });
                }
            }
            (Some(kind), None) => {
                publisher.take_up(event.seq);
                let error = outcome.attempt.error.as_deref().unwrap_or_default();
                report.emit(&Refused { kind, status: outcome.attempt.status, error });
            }
            (None, _) => {
                publisher.take_up(event.seq);
                report.emit(&Published { status: outcome.attempt.status });
            }
        }
        Told::ByDeliverer
    }
}
