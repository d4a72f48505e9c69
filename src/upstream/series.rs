//! The series of one upstream (OBS-1). Its id is a label while it is registered and no longer, so that labels are as many
//! as upstreams are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::call::{Answer, CallError, CallErrorKind};
use crate::breaker::state::Phase;
use crate::metrics::Metrics;

/// Why a read was answered without what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The upstream has no such thing.
    NotFound,
    /// What it said makes no sense.
    Malformed,
    /// It cannot be had, and a page says so.
    Unavailable,
}

impl Fallback {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::NotFound, Self::Malformed, Self::Unavailable];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Malformed => "malformed",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a call was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permanent {
    /// The credential is not taken.
    Auth,
    /// The retries are used up, or would not help.
    DeadLetter,
}

impl Permanent {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Auth, Self::DeadLetter];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::DeadLetter => "dead_letter",
        }
    }
}

const STATUSES: [&str; 2] = ["success", "error"];

/// The number of a breaker's state in series.
#[must_use]
pub fn phase_number(phase: Phase) -> i64 {
    match phase {
        Phase::Closed | Phase::Disabled => 0,
        Phase::HalfOpen => 1,
        Phase::Open | Phase::ForcedOpen => 2,
    }
}

/// The series of one upstream.
#[derive(Debug)]
pub struct Series {
    metrics: Arc<Metrics>,
    id: Arc<str>,
    /// The upstream is no more: what is still under way is not counted.
    gone: AtomicBool,
}

impl Series {
    /// The series of the upstream `id`, all of them there from now on.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, id: Arc<str>) -> Self {
        let series = Self { metrics, id, gone: AtomicBool::new(false) };
        let (metrics, id) = (&series.metrics, &[&*series.id]);
        for status in STATUSES {
            metrics.integration_requests.with_label_values(&[&*series.id, status]);
        }
        metrics.integration_seconds.with_label_values(id);
        metrics.integration_retries.with_label_values(id);
        for counter in series.bridge_counters() {
            counter.with_label_values(id);
        }
        for reason in Fallback::ALL {
            metrics.bridge_contact_fallback.with_label_values(&[&*series.id, reason.as_str()]);
        }
        for reason in Permanent::ALL {
            metrics.bridge_permanent_failure.with_label_values(&[&*series.id, reason.as_str()]);
        }
        metrics.bridge_retry_depth_max.with_label_values(id);
        metrics.bridge_dead_letters.with_label_values(id);
        series.phase(Phase::Closed);
        series
    }

    /// The counters of the bridge that have no label but the upstream's.
    fn bridge_counters(&self) -> [&prometheus::IntCounterVec; 6] {
        let metrics = &self.metrics;
        [
            &metrics.bridge_contact_success,
            &metrics.bridge_cache_hit,
            &metrics.bridge_cache_stale,
            &metrics.bridge_publish_success,
            &metrics.bridge_publish_deferred,
            &metrics.bridge_retry_attempts,
        ]
    }

    fn count(&self, counter: &prometheus::IntCounterVec) {
        if !self.gone.load(Ordering::Acquire) {
            counter.with_label_values(&[&*self.id]).inc();
        }
    }

    fn count_of(&self, counter: &prometheus::IntCounterVec, word: &str) {
        if !self.gone.load(Ordering::Acquire) {
            counter.with_label_values(&[&*self.id, word]).inc();
        }
    }

    /// A call has ended.
    pub fn ended(&self, result: &Result<Answer, CallError>, seconds: f64) {
        if self.gone.load(Ordering::Acquire) {
            return;
        }
        self.metrics.integration_seconds.with_label_values(&[&*self.id]).observe(seconds);
        match result {
            Ok(_) => self.count_of(&self.metrics.integration_requests, "success"),
            Err(error) => {
                self.count_of(&self.metrics.integration_requests, "error");
                self.count_of(&self.metrics.integration_errors, error.kind.as_str());
            }
        }
    }

    /// A call is tried again.
    pub fn retried(&self) {
        self.count(&self.metrics.integration_retries);
    }

    /// A call waits for the bucket.
    pub fn held_back(&self) {
        self.metrics.rate_limited.with_label_values(&["upstream"]).inc();
    }

    /// A read has found what it asked for.
    pub fn found(&self) {
        self.count(&self.metrics.bridge_contact_success);
    }

    /// A read was answered without what it asked for.
    pub fn fell_back(&self, reason: Fallback) {
        self.count_of(&self.metrics.bridge_contact_fallback, reason.as_str());
    }

    /// The cache has answered a read.
    pub fn hit(&self) {
        self.count(&self.metrics.bridge_cache_hit);
    }

    /// An old answer has served a read.
    pub fn served_stale(&self) {
        self.count(&self.metrics.bridge_cache_stale);
    }

    /// A call was given up.
    pub fn gave_up(&self, reason: Permanent) {
        self.count_of(&self.metrics.bridge_permanent_failure, reason.as_str());
    }

    /// The state of the breaker.
    pub fn phase(&self, phase: Phase) {
        if !self.gone.load(Ordering::Acquire) {
            for gauge in [&self.metrics.integration_breaker, &self.metrics.bridge_circuit_state] {
                gauge.with_label_values(&[&*self.id]).set(phase_number(phase));
            }
        }
    }

    /// Sets the counters of the bridge back to zero. What is a state stays: the breaker's, and the dead letters there are.
    pub fn reset(&self) {
        let id = &[&*self.id];
        for counter in self.bridge_counters() {
            counter.with_label_values(id).reset();
        }
        for reason in Fallback::ALL {
            self.metrics.bridge_contact_fallback.with_label_values(&[&*self.id, reason.as_str()]).reset();
        }
        for reason in Permanent::ALL {
            self.metrics.bridge_permanent_failure.with_label_values(&[&*self.id, reason.as_str()]).reset();
        }
        self.metrics.bridge_retry_depth_max.with_label_values(id).set(0);
    }

    /// The upstream is no more: its labels are taken away.
    pub fn remove(&self) {
        self.gone.store(true, Ordering::Release);
        let (metrics, id) = (&self.metrics, &*self.id);
        // What was never counted has no label to take away.
        for status in STATUSES {
            metrics.integration_requests.remove_label_values(&[id, status]).ok();
        }
        for kind in CallErrorKind::ALL {
            metrics.integration_errors.remove_label_values(&[id, kind.as_str()]).ok();
        }
        for reason in Fallback::ALL {
            metrics.bridge_contact_fallback.remove_label_values(&[id, reason.as_str()]).ok();
        }
        for reason in Permanent::ALL {
            metrics.bridge_permanent_failure.remove_label_values(&[id, reason.as_str()]).ok();
        }
        for counter in self.bridge_counters().into_iter().chain([&metrics.integration_retries]) {
            counter.remove_label_values(&[id]).ok();
        }
        metrics.integration_seconds.remove_label_values(&[id]).ok();
        for gauge in [
            &metrics.integration_breaker,
            &metrics.bridge_circuit_state,
            &metrics.bridge_retry_depth_max,
            &metrics.bridge_dead_letters,
        ] {
            gauge.remove_label_values(&[id]).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = String::from_utf8(metrics.render().expect("renders")).expect("text");
        text.lines().filter(|line| line.contains("adapter_id=\"crm\"")).map(str::to_owned).collect()
    }

    #[test]
    fn an_upstream_has_its_labels_while_it_is_there_and_its_counters_can_be_reset() {
        let metrics = Arc::new(Metrics::new().expect("series"));
        let series = Series::new(Arc::clone(&metrics), "crm".into());
        series.found();
        series.fell_back(Fallback::NotFound);
        series.gave_up(Permanent::Auth);
        series.phase(Phase::Open);
        metrics.bridge_dead_letters.with_label_values(&["crm"]).set(3);
        series.ended(&Err(CallError::new(CallErrorKind::Timeout, "late")), 0.3);
        let told = lines(&metrics).join("\n");
        for line in [
            "integration_requests_total{adapter_id=\"crm\",status=\"error\"} 1",
            "integration_errors_total{adapter_id=\"crm\",error_type=\"timeout\"} 1",
            "integration_request_duration_seconds_bucket{adapter_id=\"crm\",le=\"0.1\"} 0",
            "integration_request_duration_seconds_bucket{adapter_id=\"crm\",le=\"0.5\"} 1",
            "integration_circuit_breaker_state{adapter_id=\"crm\"} 2",
            "integration_bridge_contact_success_total{adapter_id=\"crm\"} 1",
            "integration_bridge_permanent_failure_total{adapter_id=\"crm\",reason=\"auth\"} 1",
        ] {
            assert!(told.lines().any(|one| one == line), "{line} in\n{told}");
        }
        series.reset();
        let told = lines(&metrics).join("\n");
        for line in [
            "integration_bridge_contact_success_total{adapter_id=\"crm\"} 0",
            "integration_bridge_contact_fallback_total{adapter_id=\"crm\",reason=\"not_found\"} 0",
            "integration_bridge_circuit_state{adapter_id=\"crm\"} 2",
            "integration_bridge_dead_letters{adapter_id=\"crm\"} 3",
            "integration_requests_total{adapter_id=\"crm\",status=\"error\"} 1",
        ] {
            assert!(told.lines().any(|one| one == line), "{line} in\n{told}");
        }
        series.remove();
        series.found();
        series.phase(Phase::Closed);
        assert_eq!(lines(&metrics), Vec::<String>::new());
    }
}
