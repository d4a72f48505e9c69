//! A measured figure, the targets it is held against, and the judgement: pure.

use serde::Serialize;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Requests per second.
    #[serde(rename = "requests/s")]
    RequestsPerSecond,
    /// Events per second.
    #[serde(rename = "events/s")]
    EventsPerSecond,
    /// Deliveries per second.
    #[serde(rename = "deliveries/s")]
    DeliveriesPerSecond,
    /// Events.
    #[serde(rename = "events")]
    Events,
    /// Millions of bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Hundredths of one core.
    #[serde(rename = "% of a core")]
    PercentOfCore,
}

impl Unit {
    /// The unit as shown.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests/s",
            Self::EventsPerSecond => "events/s",
            Self::DeliveriesPerSecond => "deliveries/s",
            Self::Events => "events",
            Self::Megabytes => "MB",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::PercentOfCore => "% of a core",
        }
    }
}

/// One figure of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// Stable name, such as `ingest.64`.
    pub key: String,
    /// The figure in words.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
    /// Median latency in milliseconds, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99th percentile of the latency in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// What else is worth knowing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The targets it was held against.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

impl Measure {
    /// A figure without latencies.
    pub fn new(key: impl Into<String>, what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self {
            key: key.into(),
            what: what.into(),
            value,
            unit,
            p50_ms: None,
            p99_ms: None,
            note: String::new(),
            checks: Vec::new(),
        }
    }

    /// With latencies in milliseconds.
    #[must_use]
    pub fn latency(mut self, p50_ms: Option<f64>, p99_ms: Option<f64>) -> Self {
        self.p50_ms = p50_ms;
        self.p99_ms = p99_ms;
        self
    }

    /// With a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// A figure against one target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The target in words.
    pub target: String,
    /// What was seen, in the target's unit; none when the figure it compares with was not measured.
    pub seen: Option<f64>,
    /// Whether the target was met; none when it could not be judged.
    pub met: Option<bool>,
}

/// What of a measure is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Value,
    P50,
    P99,
    /// The value divided by that of another measure.
    RatioTo(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Target {
    key: &'static str,
    subject: Subject,
    bound: Bound,
    words: &'static str,
}

const fn target(key: &'static str, subject: Subject, bound: Bound, words: &'static str) -> Target {
    Target { key, subject, bound, words }
}

/// What a release is held to, on two cores with load and receiver included.
const TARGETS: &[Target] = &[
    target("ingest.64", Subject::RatioTo("baseline.parse.64"), Bound::AtLeast(0.25), "≥ 0.25 of parse-only"),
    target("ingest.64", Subject::P99, Bound::AtMost(5.0), "p99 ≤ 5 ms"),
    target("batch", Subject::Value, Bound::AtLeast(45_000.0), "≥ 45,000 events/s"),
    target("schema.with", Subject::RatioTo("schema.without"), Bound::AtLeast(0.8), "≥ 0.80 of unchecked"),
    target("one-webhook", Subject::Value, Bound::AtLeast(12_000.0), "≥ 12,000 events/s"),
    target("ten-webhooks", Subject::Value, Bound::AtLeast(20_000.0), "≥ 20,000 deliveries/s"),
    target("drain", Subject::RatioTo("baseline.client"), Bound::AtLeast(0.35), "≥ 0.35 of client loop"),
    target("latency", Subject::P50, Bound::AtMost(1.5), "p50 ≤ 1.5 ms"),
    target("latency", Subject::P99, Bound::AtMost(5.0), "p99 ≤ 5 ms"),
    target("hanging.with", Subject::RatioTo("hanging.without"), Bound::AtLeast(0.9), "≥ 0.90 of without"),
    target("million.rss", Subject::Value, Bound::AtMost(150.0), "≤ 150 MB"),
    target("million.rss-restarted", Subject::Value, Bound::AtMost(150.0), "≤ 150 MB"),
    target("million.stop", Subject::Value, Bound::AtMost(1.0), "≤ 1 s"),
    target("million.start", Subject::Value, Bound::AtMost(2.0), "≤ 2 s"),
    target("idle-webhooks.rss", Subject::Value, Bound::AtMost(100.0), "≤ 100 MB"),
    target("idle-webhooks.cpu", Subject::Value, Bound::AtMost(1.0), "≤ 1 % of a core"),
    target("idle-webhooks.ingest", Subject::RatioTo("idle-webhooks.without"), Bound::AtLeast(0.9), "≥ 0.90 of without"),
    target("idle.rss", Subject::Value, Bound::AtMost(40.0), "≤ 40 MB"),
    target("idle.stop", Subject::Value, Bound::AtMost(1.0), "≤ 1 s"),
];

/// Holds every measure against its targets.
pub fn judge(measures: &mut [Measure]) {
    let values: Vec<(String, f64)> = measures.iter().map(|measure| (measure.key.clone(), measure.value)).collect();
    for measure in measures {
        measure.checks = TARGETS
            .iter()
            .filter(|target| target.key == measure.key)
            .map(|target| {
                let seen = match target.subject {
                    Subject::Value => Some(measure.value),
                    Subject::P50 => measure.p50_ms,
                    Subject::P99 => measure.p99_ms,
                    Subject::RatioTo(key) => values
                        .iter()
                        .find(|(found, value)| found == key && *value > 0.0)
                        .map(|(_, value)| measure.value / value),
                };
                let met = seen.map(|seen| match target.bound {
                    Bound::AtLeast(bound) => seen >= bound,
                    Bound::AtMost(bound) => seen <= bound,
                });
                Check { target: target.words.to_owned(), seen, met }
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_judged_against_the_baseline_of_the_same_run() {
        let mut measures = [
            Measure::new("baseline.parse.64", "", 100_000.0, Unit::RequestsPerSecond),
            Measure::new("ingest.64", "", 30_000.0, Unit::EventsPerSecond).latency(Some(1.0), Some(6.0)),
        ];
        judge(&mut measures);
        let met: Vec<_> = measures[1].checks.iter().map(|check| (check.seen, check.met)).collect();
        assert_eq!(met, [(Some(0.3), Some(true)), (Some(6.0), Some(false))]);
        assert!(measures[0].checks.is_empty());
    }

    #[test]
    fn without_its_baseline_a_ratio_is_not_judged() {
        let mut measures = [Measure::new("drain", "", 30_000.0, Unit::DeliveriesPerSecond)];
        judge(&mut measures);
        assert_eq!(measures[0].checks[0].met, None);
    }

    #[test]
    fn a_bound_itself_is_within_the_target() {
        let mut measures = [
            Measure::new("million.start", "", 2.0, Unit::Seconds),
            Measure::new("batch", "", 45_000.0, Unit::EventsPerSecond),
            Measure::new("idle.rss", "", 40.1, Unit::Megabytes),
        ];
        judge(&mut measures);
        let met: Vec<_> = measures.iter().filter_map(|measure| measure.checks[0].met).collect();
        assert_eq!(met, [true, true, false]);
    }
}
