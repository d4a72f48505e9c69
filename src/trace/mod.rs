//! Traces (OBS-3): the W3C trace context of events, in and out, and spans that are exported over OTLP.
//!
//! A call of an upstream is one span, `integration.execute`.
//!
//! One event's trace is `ingest` → `append` → one `attempt` per attempt of each consumer. These happen on different
//! threads, hours apart, in different lives of the process; so a span here is a value with explicit ids, and what joins
//! them is the event's own `traceparent`, which is kept with it. It is the hub's and not the process's: several hubs in
//! one process export each for itself, and an embedding program's own subscriber is left alone.
//!
//! - `context`: the header `traceparent` of W3C Trace Context
//! - `state`: the header `tracestate` beside it
//! - `span`: what is known of a span
//! - `otlp`: spans as OTLP/HTTP has them in JSON
//! - `export`: the bounded queue and the thread that sends
//! - here: which spans there are
//!
//! Invariants:
//! - `TR-1` Without `trace.otlp_endpoint` no span is made. A delivery still carries its event's trace, with an id of
//!   its own.
//! - `TR-2` A span that finds the queue full, or cannot be sent, is dropped and counted; nothing waits for it.
//! - `TR-3` Whether a trace is recorded is decided once: by who began it, else by `trace.sampling_ratio` of its id.

mod context;
mod export;
mod otlp;
mod span;
mod state;

use std::fmt;

use crate::config::Trace;
use crate::event::envelope::{Draft, Event};
use crate::ground::clock::SharedClock;
use crate::ground::error::Problem;
use crate::ground::ids::Seq;
use crate::ground::random::SharedRandom;
use crate::metrics::Metrics;
use crate::retry::AttemptResult;

pub use context::TraceContext;
pub use export::TraceError;
pub(crate) use export::endpoint;
pub use state::{TRACESTATE_CHARS_MAX, read_tracestate};

use context::{SpanId, TraceId};
use export::Exporter;
use span::{Kind, Outcome, SpanData};

/// Makes the spans of one hub. Cheap to clone.
#[derive(Clone)]
pub struct Tracer {
    clock: SharedClock,
    random: SharedRandom,
    export: Option<Exporter>,
    sampling_ratio: f64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("on", &self.export.is_some()).finish_non_exhaustive()
    }
}

/// The moment a span began: what the wall said, and the clock that never goes back.
#[derive(Clone, Copy, Debug)]
struct Began {
    unix_ns: u64,
    monotonic_ns: u64,
}

/// The spans of events that are being appended. Not ending them drops them.
#[derive(Debug)]
pub struct Ingest {
    began: Began,
    events: Vec<Option<IngestedEvent>>,
}

#[derive(Debug)]
struct IngestedEvent {
    trace: TraceId,
    parent: Option<SpanId>,
    ingest: SpanId,
    append: SpanId,
    received_ns: u64,
    id: String,
    event_type: String,
    org: String,
}

/// One attempt of a consumer at an event.
#[derive(Debug)]
pub struct Attempt {
    /// What the call carries; none when the event has no trace.
    context: Option<TraceContext>,
    recorded: Option<Box<SpanData>>,
    began: Option<Began>,
}

impl Tracer {
    /// A tracer that makes no spans.
    #[must_use]
    pub fn off(clock: SharedClock, random: SharedRandom) -> Self {
        Self { clock, random, export: None, sampling_ratio: 0.0 }
    }

    /// The tracer that the settings ask for; its thread is started when they name an endpoint.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the system gives no thread.
    pub fn new(
        settings: &Trace,
        clock: SharedClock,
        random: SharedRandom,
        metrics: &Metrics,
    ) -> Result<Self, TraceError> {
        if settings.otlp_endpoint.is_empty() {
            return Ok(Self::off(clock, random));
        }
        let mut instance = [0_u8; 16];
        random.fill(&mut instance);
        let export = Exporter::start(settings, hex::encode(instance), metrics)?;
        Ok(Self { clock, random, export: Some(export), sampling_ratio: settings.sampling_ratio })
    }

    fn began(&self) -> Began {
        Began { unix_ns: self.clock.now().0.saturating_mul(1_000_000), monotonic_ns: self.clock.monotonic_ns() }
    }

    /// The end of what began then, on the same scale.
    fn end_ns(&self, began: Began) -> u64 {
        began.unix_ns.saturating_add(self.clock.monotonic_ns().saturating_sub(began.monotonic_ns))
    }

    fn span_id(&self) -> SpanId {
        loop {
            let mut bytes = [0_u8; 8];
            self.random.fill(&mut bytes);
            if let Some(id) = SpanId::new(bytes) {
                return id;
            }
        }
    }

    fn trace_id(&self) -> TraceId {
        loop {
            let mut bytes = [0_u8; 16];
            self.random.fill(&mut bytes);
            if let Some(id) = TraceId::new(bytes) {
                return id;
            }
        }
    }

    /// Begins the spans of events that are about to be appended, and gives each the context that its deliveries go on
    /// from. None when nothing is traced.
    pub fn ingest(&self, drafts: &mut [Draft]) -> Option<Ingest> {
        self.export.as_ref()?;
        let began = self.began();
        let events = drafts.iter_mut().map(|draft| self.ingest_one(draft)).collect();
        Some(Ingest { began, events })
    }

    fn ingest_one(&self, draft: &mut Draft) -> Option<IngestedEvent> {
        let parent = draft.meta.traceparent.as_deref().and_then(TraceContext::parse);
        let (trace, sampled) = match parent {
            Some(parent) => (parent.trace, parent.sampled),
            None => {
                let trace = self.trace_id();
                (trace, trace.is_sampled(self.sampling_ratio))
            }
        };
        if !sampled && parent.is_some() {
            return None;
        }
        let (ingest, append) = (self.span_id(), self.span_id());
        draft.meta.traceparent = Some(TraceContext { trace, span: append, sampled }.to_header());
        sampled.then(|| IngestedEvent {
            trace,
            parent: parent.map(|parent| parent.span),
            ingest,
            append,
            received_ns: draft.received_at.0.saturating_mul(1_000_000),
            id: draft.meta.id.clone(),
            event_type: draft.meta.event_type.clone(),
            org: draft.meta.org.clone(),
        })
    }

    /// Ends the spans of events with what came of appending them.
    pub fn ingested<T>(&self, ingest: Ingest, answers: Result<&[T], &Problem>, received: impl Fn(&T) -> Received) {
        let Some(export) = &self.export else { return };
        let end_ns = self.end_ns(ingest.began);
        for (at, event) in ingest.events.into_iter().enumerate() {
            let Some(event) = event else { continue };
            let (outcome, seq) = match answers {
                Ok(answers) => match answers.get(at).map(&received) {
                    Some(Received::New(seq)) => (Outcome::Fine("appended"), Some(seq)),
                    Some(Received::Duplicate(seq)) => (Outcome::Fine("duplicate"), Some(seq)),
                    Some(Received::Scheduled) => (Outcome::Fine("scheduled"), None),
                    Some(Received::Refused(why)) => (Outcome::Failed(why), None),
                    None => (Outcome::Failed("it was not answered".to_owned()), None),
                },
                Err(problem) => (Outcome::Failed(problem.to_string()), None),
            };
            let mut append = SpanData::new("append", Kind::Internal, event.trace, event.append, Some(event.ingest));
            append.begin_ns = ingest.began.unix_ns;
            append.end_ns = end_ns;
            append.text("tidegate.event.id", event.id.clone());
            let mut whole = SpanData::new("ingest", Kind::Server, event.trace, event.ingest, event.parent);
            whole.begin_ns = event.received_ns.min(ingest.began.unix_ns);
            whole.end_ns = end_ns;
            whole.text("tidegate.event.id", event.id);
            whole.text("tidegate.event.type", event.event_type);
            whole.text("tidegate.org", event.org);
            if let Some(seq) = seq {
                append.number("tidegate.seq", seq.0);
                whole.number("tidegate.seq", seq.0);
            }
            append.outcome(outcome.clone());
            whole.outcome(outcome);
            export.send(append);
            export.send(whole);
        }
    }

    /// Begins an attempt of a consumer at an event.
    #[must_use]
    pub fn attempt(&self, event: &Event, consumer: impl fmt::Display, number: u32, how: AttemptKind) -> Attempt {
        let Some(parent) = event.meta.traceparent.as_deref().and_then(TraceContext::parse) else {
            return Attempt { context: None, recorded: None, began: None };
        };
        let context = TraceContext { span: self.span_id(), ..parent };
        if self.export.is_none() || !parent.sampled {
            return Attempt { context: Some(context), recorded: None, began: None };
        }
        let began = self.began();
        let kind = match how {
            AttemptKind::Call => Kind::Client,
            AttemptKind::Handler => Kind::Consumer,
        };
        let mut span = SpanData::new("attempt", kind, context.trace, context.span, Some(parent.span));
        span.begin_ns = began.unix_ns;
        span.text("tidegate.event.id", event.meta.id.clone());
        span.text("tidegate.event.type", event.meta.event_type.clone());
        span.text("tidegate.org", event.meta.org.clone());
        span.number("tidegate.seq", event.seq.0);
        span.text("tidegate.consumer", consumer.to_string());
        span.number("tidegate.attempt", u64::from(number));
        Attempt { context: Some(context), recorded: Some(Box::new(span)), began: Some(began) }
    }

    /// Ends an attempt with what came of it.
    pub fn attempted(&self, attempt: Attempt, result: &AttemptResult) {
        let (Some(export), Some(mut span), Some(began)) = (&self.export, attempt.recorded, attempt.began) else {
            return;
        };
        span.end_ns = self.end_ns(began);
        let (status, outcome) = match result {
            AttemptResult::Delivered { status } => (Some(*status), Outcome::Fine("delivered")),
            AttemptResult::Failed { status, message, .. } => (*status, Outcome::Failed(message.clone())),
        };
        if let Some(status) = status.filter(|_| span.kind == Kind::Client) {
            span.number("http.response.status_code", u64::from(status));
        }
        if matches!(outcome, Outcome::Failed(_)) {
            span.text("tidegate.outcome", result.as_str().to_owned());
        }
        span.outcome(outcome);
        export.send(*span);
    }

    /// Begins a call of an upstream: one span whatever its attempts. `parent` is the trace it is part of; without one it
    /// begins a trace of its own where spans are made.
    #[must_use]
    pub fn execute(&self, parent: Option<&str>, about: &Execution<'_>) -> Attempt {
        let parent = parent.and_then(TraceContext::parse);
        let context = match (parent, &self.export) {
            (Some(parent), _) => TraceContext { span: self.span_id(), ..parent },
            (None, Some(_)) => {
                let trace = self.trace_id();
                TraceContext { trace, span: self.span_id(), sampled: trace.is_sampled(self.sampling_ratio) }
            }
            (None, None) => return Attempt { context: None, recorded: None, began: None },
        };
        if self.export.is_none() || !context.sampled {
            return Attempt { context: Some(context), recorded: None, began: None };
        }
        let began = self.began();
        let parent = parent.map(|parent| parent.span);
        let mut span = SpanData::new("integration.execute", Kind::Client, context.trace, context.span, parent);
        span.begin_ns = began.unix_ns;
        span.text("adapter.id", about.adapter.to_owned());
        span.text("adapter.version", about.version.to_owned());
        span.text("correlation.id", about.correlation_id.to_owned());
        span.text("tenant.id", about.tenant.unwrap_or_default().to_owned());
        span.text("tidegate.operation", about.operation.to_owned());
        Attempt { context: Some(context), recorded: Some(Box::new(span)), began: Some(began) }
    }

    /// Sends what has ended so far, for the stop. Ends when it is sent, or cannot be.
    pub async fn flush(&self) {
        if let Some(export) = &self.export {
            export.flush().await;
        }
    }
}

/// What a call of an upstream is.
#[derive(Clone, Copy, Debug)]
pub struct Execution<'a> {
    /// The upstream.
    pub adapter: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What the call is part of.
    pub correlation_id: &'a str,
    /// For whom it is made.
    pub tenant: Option<&'a str>,
    /// What is done.
    pub operation: &'a str,
}

/// What became of an event that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is in the log.
    New(Seq),
    /// It was in the log before.
    Duplicate(Seq),
    /// It waits until it is due.
    Scheduled,
    /// It was not taken, and why.
    Refused(String),
}

/// How an attempt reaches its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    /// By a request to the outside.
    Call,
    /// By code in this process.
    Handler,
}

impl Attempt {
    /// The header of the call.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.context.as_ref().map(TraceContext::to_header)
    }
}

#[cfg(test)]
mod tests;
