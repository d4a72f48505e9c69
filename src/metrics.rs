//! The series of `/metrics` (OBS-1). Label values are bounded: kinds and outcomes, never ids of events.

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::ground::ids::ConsumerId;

macro_rules! series {
    ($($field:ident: $kind:ty = $make:expr;)+) => {
        /// Every series the hub keeps. One set per hub, so that two hubs in one process do not mix.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[expect(missing_docs, reason = "the help text beside the name says it")] pub $field: $kind,)+
        }

        impl Metrics {
            /// A fresh set.
            ///
            /// # Errors
            /// When two series have one name: a mistake of the program.
            pub fn new() -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                $(let $field: $kind = $make?;
                registry.register(Box::new($field.clone()))?;)+
                registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
                Ok(Self { registry, $($field,)+ })
            }
        }
    };
}

/// Bounds of latencies within the hub, in seconds.
const FAST: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Bounds of calls to the outside, in seconds.
const CALLS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Bounds of whole calls of upstreams, waits and further attempts included, in seconds.
const INTEGRATIONS: &[f64] = &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

series! {
    events_appended: IntCounter = IntCounter::new("tidegate_events_appended_total", "Events made durable in the log.");
    source_requests: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_source_requests_total", "Requests of third parties at sources, by kind of verification and outcome."), &["kind", "outcome"]);
    schedule_taken: IntCounter = IntCounter::new("tidegate_schedule_taken_total", "Events held back until they are due.");
    schedule_ended: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_schedule_ended_total", "Scheduled events that wait no longer, by what became of them."), &["outcome"]);
    scheduled: IntGauge = IntGauge::new("tidegate_scheduled_events", "Events that wait until they are due.");
    scheduled_bytes: IntGauge = IntGauge::new("tidegate_scheduled_bytes", "Bytes of the events that wait until they are due.");
    events_duplicate: IntCounter = IntCounter::new("tidegate_events_duplicate_total", "Events sent again and recognised.");
    events_refused: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_events_refused_total", "Events refused, by the kind of problem."), &["problem"]);
    catalog_checked: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_catalog_checked_total", "Events checked against the catalog, by what became of them."), &["outcome"]);
    catalog_findings: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_catalog_findings_total", "Events that were not as the catalog says, by what was the matter and whether they were refused for it."), &["finding", "outcome"]);
    quarantined: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_quarantine_total", "Refused events at the quarantine, by what became of them."), &["outcome"]);
    quarantine_events: IntGauge = IntGauge::new("tidegate_quarantine_events", "Quarantined events that nobody has redriven or discarded.");
    quarantine_bytes: IntGauge = IntGauge::new("tidegate_quarantine_bytes", "Bytes of their envelopes.");
    lifecycle_broken: IntCounter = IntCounter::new("tidegate_lifecycle_broken_total", "Events that broke the declared order of their aggregate.");
    commit_seconds: Histogram = Histogram::with_opts(HistogramOpts::new("tidegate_log_commit_seconds", "Time of one group commit, sync included.").buckets(FAST.to_vec()));
    log_head: IntGauge = IntGauge::new("tidegate_log_head_seq", "Last position written to the log.");
    log_earliest: IntGauge = IntGauge::new("tidegate_log_earliest_seq", "First position still in the log.");
    router_cursor: IntGauge = IntGauge::new("tidegate_router_cursor_seq", "Position up to which events were handed to those they match.");
    log_index_cursor: IntGauge = IntGauge::new("tidegate_log_index_cursor_seq", "Position up to which the index of the log was written.");
    ingest_queue_bytes: IntGauge = IntGauge::new("tidegate_ingest_queue_bytes", "Bytes taken in and not yet synced.");
    tail_bytes: IntGauge = IntGauge::new("tidegate_tail_bytes", "Bytes of the newest events kept in memory.");
    store_bytes: IntGauge = IntGauge::new("tidegate_store_size_bytes", "Size of the store's file.");
    store_reopened: IntGauge = IntGauge::new("tidegate_store_reopened", "Times the store was opened again after a failure.");
    state_queue: IntGauge = IntGauge::new("tidegate_state_queue_depth", "Changes of consumer state waiting to be committed.");
    attempts: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_delivery_attempts_total", "Delivery attempts, by the kind of consumer and outcome."), &["consumer_kind", "outcome"]);
    delivery_seconds: HistogramVec = HistogramVec::new(HistogramOpts::new("tidegate_delivery_duration_seconds", "Time of one delivery attempt.").buckets(CALLS.to_vec()), &["consumer_kind"]);
    deliveries_deferred: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_deliveries_deferred_total", "Claims given back without an attempt, by reason."), &["reason"]);
    rate_limited: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_rate_limited_total", "Requests and deliveries held back by a token bucket, by whose it is."), &["whose"]);
    dead_letters: IntGauge = IntGauge::new("tidegate_dead_letters", "Dead letters that nobody has redriven or discarded.");
    idempotency_requests: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_idempotency_requests_total", "Requests that named an idempotency key, by what they met."), &["outcome"]);
    idempotency_waiting: IntGauge = IntGauge::new("tidegate_idempotency_waiting", "Requests that wait for the answer of the first one under their idempotency key.");
    idempotency_evicted: IntCounter = IntCounter::new("tidegate_idempotency_evicted_total", "Idempotency keys forgotten before their time, because newer ones needed room.");
    idempotency_keys: IntGauge = IntGauge::new("tidegate_idempotency_keys", "Idempotency keys that are kept.");
    idempotency_bytes: IntGauge = IntGauge::new("tidegate_idempotency_answer_bytes", "Bytes of the answers that are kept for idempotency keys.");
    jobs: IntGaugeVec = IntGaugeVec::new(Opts::new("tidegate_jobs", "Jobs that wait or run, by state."), &["state"]);
    jobs_finished: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_jobs_finished_total", "Jobs that have ended, by kind and state."), &["kind", "state"]);
    job_events: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_job_events_total", "Events that jobs have handed on, by kind of job."), &["kind"]);
    owner_events: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_owner_events_total", "Events that the hub put on the log for owners of consumers, by type."), &["type"]);
    stale_answers: IntCounter = IntCounter::new("tidegate_stale_answers_total", "Answers refused because the claim was given out again.");
    cdc_streams: IntGauge = IntGauge::new("tidegate_cdc_streams", "Streams of the change feed that are open.");
    cdc_events: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_cdc_events_total", "Events that the change feed has told, by form."), &["form"]);
    inboxes: IntGauge = IntGauge::new("tidegate_inboxes_active", "Consumers whose inbox is in memory.");
    consumers: IntGaugeVec = IntGaugeVec::new(Opts::new("tidegate_consumers", "Consumers, by kind."), &["consumer_kind"]);
    pull_clients: IntGaugeVec = IntGaugeVec::new(Opts::new("tidegate_pull_clients", "Clients that wait for deliveries of pull consumers, by how they get them."), &["client"]);
    breaker_transitions: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_breaker_transitions_total", "Changes of breakers, by the state they came to."), &["to"]);
    breakers: IntGaugeVec = IntGaugeVec::new(Opts::new("tidegate_breakers", "Breakers that are not closed, by state."), &["state"]);
    actor_restarts: IntGaugeVec = IntGaugeVec::new(Opts::new("tidegate_actor_restarts", "Actors built anew after a panic since the process began, by kind."), &["actor"]);
    actors: IntGaugeVec = IntGaugeVec::new(Opts::new("tidegate_actors", "Actors running, by kind."), &["actor"]);
    http_requests: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_http_requests_total", "Requests, by listener and status class."), &["listener", "status"]);
    errors_swallowed: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_errors_swallowed_total", "Errors that were logged and passed over, by place."), &["place"]);
    integration_requests: IntCounterVec = IntCounterVec::new(Opts::new("integration_requests_total", "Calls of upstreams, by adapter and whether they succeeded."), &["adapter_id", "status"]);
    integration_seconds: HistogramVec = HistogramVec::new(HistogramOpts::new("integration_request_duration_seconds", "Time of one call of an upstream, further attempts and waits included.").buckets(INTEGRATIONS.to_vec()), &["adapter_id"]);
    integration_errors: IntCounterVec = IntCounterVec::new(Opts::new("integration_errors_total", "Calls of upstreams that failed, by adapter and kind of error."), &["adapter_id", "error_type"]);
    integration_breaker: IntGaugeVec = IntGaugeVec::new(Opts::new("integration_circuit_breaker_state", "State of an upstream's breaker: 0 closed, 1 half-open, 2 open."), &["adapter_id"]);
    integration_retries: IntCounterVec = IntCounterVec::new(Opts::new("integration_retries_total", "Further attempts of calls of upstreams."), &["adapter_id"]);
    bridge_contact_success: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_contact_success_total", "Reads of an upstream that found what they asked for."), &["adapter_id"]);
    bridge_contact_fallback: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_contact_fallback_total", "Reads of an upstream that were answered without what they asked for, by reason."), &["adapter_id", "reason"]);
    bridge_cache_hit: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_cache_hit_total", "Reads of an upstream that the cache answered."), &["adapter_id"]);
    bridge_cache_stale: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_cache_stale_total", "Reads of an upstream that an old answer served because it was down."), &["adapter_id"]);
    bridge_publish_success: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_publish_success_total", "Publishes that an upstream has taken."), &["adapter_id"]);
    bridge_publish_deferred: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_publish_deferred_total", "Publishes that failed and wait in the durable queue."), &["adapter_id"]);
    bridge_permanent_failure: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_permanent_failure_total", "Calls of an upstream that were given up, by reason."), &["adapter_id", "reason"]);
    bridge_retry_attempts: IntCounterVec = IntCounterVec::new(Opts::new("integration_bridge_retry_attempts_total", "Further attempts of publishes out of the durable queue."), &["adapter_id"]);
    bridge_retry_depth_max: IntGaugeVec = IntGaugeVec::new(Opts::new("integration_bridge_retry_depth_max", "Most publishes of an upstream that have waited at once."), &["adapter_id"]);
    bridge_dead_letters: IntGaugeVec = IntGaugeVec::new(Opts::new("integration_bridge_dead_letters", "Publishes of an upstream that are dead letters."), &["adapter_id"]);
    bridge_circuit_state: IntGaugeVec = IntGaugeVec::new(Opts::new("integration_bridge_circuit_state", "State of an upstream's breaker: 0 closed, 1 half-open, 2 open."), &["adapter_id"]);
    trace_spans: IntCounterVec = IntCounterVec::new(Opts::new("tidegate_trace_spans_total", "Spans, by what came of them: exported, dropped because the queue was full, dropped because the collector did not take them."), &["outcome"]);
    paused: IntGauge = IntGauge::new("tidegate_paused", "1 while the hub is paused: events are taken and nothing is delivered.");
    ready: Gauge = Gauge::new("tidegate_ready", "1 when the hub is ready.");
    build: GaugeVec = GaugeVec::new(Opts::new("tidegate_build_info", "Always 1; the version is in the label."), &["version"]);
}

impl Metrics {
    /// Counts a dead letter of this consumer that was made.
    pub fn dead_letter_made(&self, consumer: &ConsumerId) {
        self.dead_letters_moved(consumer, 1);
    }

    /// Counts a dead letter of this consumer that was redriven or discarded.
    pub fn dead_letter_closed(&self, consumer: &ConsumerId) {
        self.dead_letters_moved(consumer, -1);
    }

    /// Counts so many open dead letters of this consumer more, or fewer.
    pub fn dead_letters_moved(&self, consumer: &ConsumerId, by: i64) {
        self.dead_letters.add(by);
        if let Some((upstream, _)) = consumer.of_publish() {
            let gauge = self.bridge_dead_letters.with_label_values(&[upstream]);
            // The series of an upstream that was deleted is gone; its dead letters may still be closed.
            gauge.set(gauge.get().saturating_add(by).max(0));
        }
    }

    /// The exposition text.
    ///
    /// # Errors
    /// When a series cannot be written: a mistake of the program.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}
