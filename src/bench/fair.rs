//! One org floods, another goes on as ever: what its producers and its webhook notice of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hdrhistogram::Histogram;
use serde_json::json;

use super::hub::Hub;
use super::load::{self, LoadPlan, LoadReport, Pace, Refused, histogram, percentile_ms};
use super::measure::{Measure, Unit};
use super::receiver::Receiver;
use super::request::NUMBER;
use super::scenario::{BATCH_EVENTS, Bench, Publish};

/// Events a second of the quiet org.
const QUIET_RATE: f64 = 100.0;
/// Connections of the flood, each with a batch under way all the time.
const FLOOD_CONNECTIONS: usize = 64;

/// The quiet org's events, alone and while another org sends batches on 64 connections as fast as it can.
///
/// # Errors
/// When the hub fails, refuses an event of the quiet org or does not deliver it in time.
pub fn fair(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("fair")?;
    let receiver = bench.receiver()?;
    let key = hub.control().make_key(Some("quiet"))?;
    let webhook = json!({"url": receiver.url("/ok/quiet"), "org": "quiet", "event_types": ["bench.*"]});
    hub.control().post(hub.control().public, "/v1/webhooks", &key, &webhook)?;
    let alone = Quiet { bench, hub: &hub, receiver: &receiver, key: &key, first: 0 };
    let (report, ways) = alone.run()?;
    let mut measures = measures("fair.alone", "Alone", &report, &ways);

    let flood = LoadPlan {
        refused: Refused::Resend,
        time_max: bench.sizes.wait_max,
        ..bench.publish_plan(&hub, Publish { connections: FLOOD_CONNECTIONS, ..Publish::batches() })
    };
    let enough = Arc::new(AtomicBool::new(false));
    let flood = LoadPlan { enough: Some(Arc::clone(&enough)), ..flood };
    let clock = Arc::clone(&bench.clock);
    let flooding =
        std::thread::Builder::new().name("bench-flood".to_owned()).spawn(move || load::run(&clock, flood))?;
    let beside = Quiet { first: bench.sizes.latency_events, ..alone }.run();
    enough.store(true, Ordering::Relaxed);
    let flood = flooding.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
    let (report, ways) = beside?;
    let note = format!("beside {:.0} events/s in batches of {BATCH_EVENTS} of another org", flood.events_per_second());
    measures.extend(
        self::measures("fair.beside", "Beside a flood", &report, &ways).into_iter().map(|one| one.note(note.clone())),
    );
    drop(hub);
    Ok(measures)
}

struct Quiet<'a> {
    bench: &'a Bench,
    hub: &'a Hub,
    receiver: &'a Receiver,
    key: &'a str,
    /// The number of its first event.
    first: u64,
}

impl Quiet<'_> {
    /// Sends the quiet org's events and waits for them: what its producers saw, and the ways to its webhook.
    fn run(&self) -> anyhow::Result<(LoadReport, Histogram<u64>)> {
        let (bench, events) = (self.bench, self.bench.sizes.latency_events);
        let starts: Arc<[AtomicU64]> = (0..events).map(|_| AtomicU64::new(0)).collect();
        let extra = format!(r#""id":"quiet-{NUMBER}","#);
        let publish = Publish { extra: &extra, connections: 4, key: Some(self.key), ..Publish::default() };
        let plan = LoadPlan {
            pace: Pace::PerSecond(QUIET_RATE),
            requests_max: events,
            first_number: self.first,
            time_max: bench.sizes.wait_max,
            starts: Some(Arc::clone(&starts)),
            ..bench.publish_plan(self.hub, publish)
        };
        let report = load::run(&bench.clock, plan)?;
        report.all_accepted()?;
        bench.wait_delivered(self.receiver, &["/ok/quiet".to_owned()], self.first + events)?;
        let mut ways = histogram()?;
        for (number, start) in (self.first..).zip(starts.iter()) {
            let arrived_ns = self
                .receiver
                .arrived_ns("/ok/quiet", &format!("quiet-{number:012}"))
                .ok_or_else(|| anyhow::anyhow!("event quiet-{number:012} did not arrive under its own id"))?;
            ways.saturating_record(arrived_ns.saturating_sub(start.load(Ordering::Relaxed)));
        }
        Ok((report, ways))
    }
}

fn measures(key: &str, when: &str, report: &LoadReport, ways: &Histogram<u64>) -> Vec<Measure> {
    let events = ways.len() as f64;
    vec![
        Measure::new(
            format!("{key}.publish"),
            format!("{when}: publish at {QUIET_RATE:.0} events/s"),
            events,
            Unit::Events,
        )
        .latency(report.latency_ms(50.0), report.latency_ms(99.0)),
        Measure::new(format!("{key}.arrival"), format!("{when}: publish to arrival"), events, Unit::Events)
            .latency(percentile_ms(ways, 50.0), percentile_ms(ways, 99.0)),
    ]
}
