//! The scenarios by name, how much each does, and what they share: a fresh hub on a fresh directory, a receiver,
//! ways to publish and to wait for deliveries. Every wait and every load is bounded by time.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::hub::{DataDir, Hub};
use super::load::{self, LoadPlan, LoadReport, Pace, Refused};
use super::measure::Measure;
use super::receiver::{Receiver, ReceiverOptions};
use super::request::{Shape, Template, event_json};
use super::{capacity, deliver, fair, ingest, schema};
use crate::ground::clock::SharedClock;

/// Bytes of an event unless a scenario says otherwise.
pub const EVENT_BYTES: usize = 1_024;
/// Events of a batch.
pub const BATCH_EVENTS: usize = 100;
/// The type of events unless a scenario says otherwise.
pub const EVENT_TYPE: &str = "bench.event";
/// How often a wait looks.
const POLL: Duration = Duration::from_millis(5);
/// Load before a measure begins: connections, caches and threads come to life.
const WARM_UP: Duration = Duration::from_millis(300);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// A handler that only parses, at 1, 16 and 64 connections.
    BaselineParse,
    /// The bare HTTP client against the receiver.
    BaselineClient,
    /// Durable single events at 1, 16 and 64 connections.
    Ingest,
    /// Durable batches of 100.
    Batch,
    /// Durable single events unchecked, and under a strict schema.
    Schema,
    /// One webhook takes everything while events come in.
    OneWebhook,
    /// Ten webhooks take every event.
    TenWebhooks,
    /// A paused webhook takes its backlog.
    Drain,
    /// From publish to arrival at 100 events a second.
    Latency,
    /// One of fifty endpoints never answers.
    Hanging,
    /// One org floods while another goes on.
    Fair,
    /// A million events in the log: memory, stop and start.
    Million,
    /// Ten thousand webhooks that get nothing.
    IdleWebhooks,
    /// A hub with nothing to do.
    Idle,
}

impl Scenario {
    /// Every scenario, in the order of a run: baselines come before what is compared with them.
    pub const ALL: &'static [Self] = &[
        Self::BaselineParse,
        Self::BaselineClient,
        Self::Ingest,
        Self::Batch,
        Self::Schema,
        Self::OneWebhook,
        Self::TenWebhooks,
        Self::Drain,
        Self::Latency,
        Self::Hanging,
        Self::Fair,
        Self::Million,
        Self::IdleWebhooks,
        Self::Idle,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BaselineParse => "baseline-parse",
            Self::BaselineClient => "baseline-client",
            Self::Ingest => "ingest",
            Self::Batch => "batch",
            Self::Schema => "schema",
            Self::OneWebhook => "one-webhook",
            Self::TenWebhooks => "ten-webhooks",
            Self::Drain => "drain",
            Self::Latency => "latency",
            Self::Hanging => "hanging",
            Self::Fair => "fair",
            Self::Million => "million",
            Self::IdleWebhooks => "idle-webhooks",
            Self::Idle => "idle",
        }
    }

    /// What this one's targets compare with, measured in the same run.
    fn needs(self) -> &'static [Self] {
        match self {
            Self::Ingest => &[Self::BaselineParse],
            Self::Drain => &[Self::BaselineClient],
            Self::BaselineParse
            | Self::BaselineClient
            | Self::Batch
            | Self::Schema
            | Self::OneWebhook
            | Self::TenWebhooks
            | Self::Latency
            | Self::Hanging
            | Self::Fair
            | Self::Million
            | Self::IdleWebhooks
            | Self::Idle => &[],
        }
    }

    /// The scenarios of a run: those asked for (all when none is) and what they compare with, in order.
    #[must_use]
    pub fn selection(asked: &[Self]) -> Vec<Self> {
        let wanted = |scenario: Self| {
            asked.is_empty() || asked.iter().any(|one| *one == scenario || one.needs().contains(&scenario))
        };
        Self::ALL.iter().copied().filter(|scenario| wanted(*scenario)).collect()
    }

    /// Measures it.
    ///
    /// # Errors
    /// When the hub fails, refuses what it should take, or does not deliver in time.
    pub fn run(self, bench: &Bench) -> anyhow::Result<Vec<Measure>> {
        match self {
            Self::BaselineParse => ingest::baseline_parse(bench),
            Self::BaselineClient => deliver::baseline_client(bench),
            Self::Ingest => ingest::single(bench),
            Self::Batch => ingest::batch(bench),
            Self::Schema => schema::schema_check(bench),
            Self::OneWebhook => deliver::one_webhook(bench),
            Self::TenWebhooks => deliver::ten_webhooks(bench),
            Self::Drain => deliver::drain(bench),
            Self::Latency => deliver::latency(bench),
            Self::Hanging => deliver::hanging(bench),
            Self::Fair => fair::fair(bench),
            Self::Million => capacity::million(bench),
            Self::IdleWebhooks => capacity::idle_webhooks(bench),
            Self::Idle => capacity::idle(bench),
        }
    }
}

/// How much each scenario does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Time of each load that is bounded by time.
    pub load: Duration,
    /// Events of a drained backlog.
    pub drain_events: u64,
    /// Events that ten webhooks take.
    pub fanout_events: u64,
    /// Events that fifty webhooks take, per round.
    pub hanging_events: u64,
    /// Rounds without and with the hanging endpoint.
    pub hanging_rounds: u32,
    /// Events at 100 a second.
    pub latency_events: u64,
    /// Events of the large log.
    pub log_events: u64,
    /// Webhooks that get nothing.
    pub idle_webhooks: u64,
    /// Time an idle hub is watched.
    pub watch: Duration,
    /// Longest wait for deliveries or for a load of a fixed count.
    pub wait_max: Duration,
}

impl Sizes {
    /// The sizes the targets speak of; `seconds` (1 to 600) for each load that is bounded by time.
    #[must_use]
    pub fn full(seconds: u64) -> Self {
        Self {
            load: Duration::from_secs(seconds.clamp(1, 600)),
            drain_events: 200_000,
            fanout_events: 20_000,
            hanging_events: 4_000,
            hanging_rounds: 2,
            latency_events: 1_000,
            log_events: 1_000_000,
            idle_webhooks: 10_000,
            watch: Duration::from_secs(5),
            wait_max: Duration::from_secs(180),
        }
    }

    /// Small sizes, which show that everything works within seconds.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            load: Duration::from_millis(500),
            drain_events: 2_000,
            fanout_events: 200,
            hanging_events: 40,
            hanging_rounds: 1,
            latency_events: 100,
            log_events: 10_000,
            idle_webhooks: 100,
            watch: Duration::from_secs(1),
            wait_max: Duration::from_secs(60),
        }
    }
}

/// A run: the clock, the program under test, where its data goes, how much is done.
pub struct Bench {
    /// The clock of every figure.
    pub clock: SharedClock,
    /// The binary that is started as the hub.
    pub program: PathBuf,
    /// Where data directories are made.
    pub parent: PathBuf,
    /// How much is done.
    pub sizes: Sizes,
}

/// Which events a load publishes.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Their type.
    pub event_type: &'a str,
    /// Members in front of the others, each with its comma.
    pub extra: &'a str,
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Events of one request.
    pub events_per_request: usize,
    /// Connections.
    pub connections: usize,
    /// The API key; none for that of the bench's own org.
    pub key: Option<&'a str>,
}

impl Default for Publish<'_> {
    fn default() -> Self {
        Self {
            event_type: EVENT_TYPE,
            extra: "",
            event_bytes: EVENT_BYTES,
            events_per_request: 1,
            connections: 64,
            key: None,
        }
    }
}

impl Publish<'_> {
    /// Batches of 100 events of 1 KiB on 16 connections.
    #[must_use]
    pub fn batches() -> Self {
        Self { events_per_request: BATCH_EVENTS, connections: 16, ..Self::default() }
    }
}

impl Bench {
    /// A hub on a fresh directory called after `name`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn hub(&self, name: &str) -> anyhow::Result<(DataDir, Hub)> {
        let dir = DataDir::create(&self.parent, name)?;
        let hub = Hub::start(&self.clock, &self.program, dir.path())?;
        Ok((dir, hub))
    }

    /// A receiver on a free port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn receiver(&self) -> anyhow::Result<Receiver> {
        Ok(Receiver::start(ReceiverOptions::new(&self.clock))?)
    }

    /// A load that publishes to a hub for the time of [`Sizes::load`].
    #[must_use]
    pub fn publish_plan(&self, hub: &Hub, publish: Publish<'_>) -> LoadPlan {
        let control = hub.control();
        let event = event_json(publish.event_type, publish.extra, publish.event_bytes);
        let (path, shape) = match publish.events_per_request {
            0 | 1 => ("/v1/events", Shape::One),
            _ => ("/v1/events/batch", Shape::Array),
        };
        let events = vec![event; publish.events_per_request.max(1)];
        let headers = [("x-api-key", publish.key.unwrap_or(&control.key))];
        self.timed_plan(
            Template::post(control.public, path, &headers, &events, shape),
            control.public,
            publish.connections,
        )
    }

    /// A closed load for the time of [`Sizes::load`].
    #[must_use]
    pub fn timed_plan(&self, template: Template, target: std::net::SocketAddr, connections: usize) -> LoadPlan {
        LoadPlan {
            target,
            template,
            connections,
            threads: load_threads(connections),
            pace: Pace::Closed,
            refused: Refused::Count,
            requests_max: u64::MAX,
            first_number: 0,
            time_max: self.sizes.load,
            starts: None,
            enough: None,
        }
    }

    /// Runs a load after a short run of the same that is not counted.
    ///
    /// # Errors
    /// When a request is refused or breaks.
    pub fn warm_load(&self, plan: LoadPlan) -> anyhow::Result<LoadReport> {
        let warm_up = LoadPlan { time_max: WARM_UP.min(plan.time_max), ..plan.clone() };
        load::run(&self.clock, warm_up)?.all_accepted()?;
        let report = load::run(&self.clock, LoadPlan { first_number: 1 << 32, ..plan })?;
        report.all_accepted()?;
        Ok(report)
    }

    /// Publishes exactly `events` events, sending again what the hub refuses for want of room.
    ///
    /// # Errors
    /// When they are not all accepted within [`Sizes::wait_max`].
    pub fn publish_all(&self, hub: &Hub, publish: Publish<'_>, events: u64) -> anyhow::Result<LoadReport> {
        let per_request = publish.events_per_request.max(1) as u64;
        let plan = LoadPlan {
            requests_max: events.div_ceil(per_request),
            time_max: self.sizes.wait_max,
            refused: Refused::Resend,
            ..self.publish_plan(hub, publish)
        };
        let report = load::run(&self.clock, plan)?;
        anyhow::ensure!(
            report.accepted_events >= events,
            "{} of {events} events were accepted in time; first trouble: {}",
            report.accepted_events,
            report.first_trouble.as_deref().unwrap_or("none"),
        );
        Ok(report)
    }

    /// Waits until each of the targets got `events` different events; the monotonic time of the last arrival.
    ///
    /// # Errors
    /// When they have not all arrived within [`Sizes::wait_max`].
    pub fn wait_delivered(&self, receiver: &Receiver, targets: &[String], events: u64) -> anyhow::Result<u64> {
        let from_ns = self.clock.monotonic_ns();
        loop {
            let counts: Vec<_> = targets.iter().map(|target| receiver.counts(target)).collect();
            if counts.iter().all(|counts| counts.distinct >= events) {
                return Ok(counts.iter().map(|counts| counts.last_ns).max().unwrap_or(from_ns));
            }
            let waited = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(from_ns));
            if waited > self.sizes.wait_max {
                let arrived: u64 = counts.iter().map(|counts| counts.distinct.min(events)).sum();
                let wanted = events * targets.len() as u64;
                anyhow::bail!("{arrived} of {wanted} deliveries arrived within {waited:.0?}");
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Threads a load of so many connections needs to keep a hub on this machine busy.
fn load_threads(connections: usize) -> usize {
    if connections >= 16 { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn a_scenario_brings_what_it_is_compared_with() {
        let selection = Scenario::selection(&[Scenario::Drain, Scenario::Ingest]);
        let expected = [Scenario::BaselineParse, Scenario::BaselineClient, Scenario::Ingest, Scenario::Drain];
        assert_eq!(selection, expected);
        assert_eq!(Scenario::selection(&[]), Scenario::ALL);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for scenario in Scenario::value_variants() {
            let value = scenario.to_possible_value().expect("a name");
            assert_eq!(value.get_name(), scenario.name());
            assert!(Scenario::ALL.contains(scenario));
        }
    }
}
