//! Scenarios of the way in: durable single events, batches, and the parse-only baseline under the same load.

use super::baseline::ParseOnly;
use super::load::LoadReport;
use super::measure::{Measure, Unit};
use super::request::{Shape, Template, event_json};
use super::scenario::{BATCH_EVENTS, Bench, EVENT_BYTES, EVENT_TYPE, Publish};

/// Connections at which single requests are measured.
const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// A handler that only parses the body, at 1, 16 and 64 connections.
///
/// # Errors
/// When the handler does not start or refuses an event.
pub fn baseline_parse(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let server = ParseOnly::start()?;
    let event = [event_json(EVENT_TYPE, "", EVENT_BYTES)];
    let template = Template::post(server.addr(), "/v1/events", &[], &event, Shape::One);
    let measure = |connections: usize| {
        let report = bench.warm_load(bench.timed_plan(template.clone(), server.addr(), connections))?;
        let key = format!("baseline.parse.{connections}");
        let what = format!("Parse only, {}", plural(connections));
        Ok(rate(key, what, Unit::RequestsPerSecond, &report))
    };
    CONNECTIONS.into_iter().map(measure).collect()
}

/// Durable single events of 1 KiB at 1, 16 and 64 connections, nothing subscribed; then the peak memory.
///
/// # Errors
/// When the hub fails or refuses an event.
pub fn single(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("ingest")?;
    let mut measures = Vec::new();
    for connections in CONNECTIONS {
        let cpu_before = hub.cpu_seconds()?;
        let report = bench.warm_load(bench.publish_plan(&hub, Publish { connections, ..Publish::default() }))?;
        let cpu = hub.cpu_seconds()? - cpu_before;
        let key = format!("ingest.{connections}");
        let what = format!("Durable ingest, {}", plural(connections));
        measures.push(rate(key, what, Unit::EventsPerSecond, &report).note(format!("{cpu:.1} s of CPU in the hub")));
    }
    let memory = hub.memory()?;
    measures.push(
        Measure::new("ingest.peak", "Peak memory of the hub in these", memory.peak as f64 / 1e6, Unit::Megabytes)
            .note(format!("{:.0} MB resident at the end", memory.rss as f64 / 1e6)),
    );
    hub.stop()?;
    Ok(measures)
}

/// Durable batches of 100 events of 1 KiB on 16 connections, nothing subscribed.
///
/// # Errors
/// When the hub fails or does not accept whole batches.
pub fn batch(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("batch")?;
    let events: Vec<serde_json::Value> =
        vec![serde_json::from_str(&event_json(EVENT_TYPE, "", EVENT_BYTES))?; BATCH_EVENTS];
    let control = hub.control();
    let answer = control.post(control.public, "/v1/events/batch", &control.key, &events.into())?;
    anyhow::ensure!(answer["accepted"] == BATCH_EVENTS, "a batch was not accepted whole: {answer}");
    let report = bench.warm_load(bench.publish_plan(&hub, Publish::batches()))?;
    let peak = hub.memory()?.peak as f64 / 1e6;
    hub.stop()?;
    let what = format!("Durable ingest, batches of {BATCH_EVENTS}, 16 connections");
    Ok(vec![rate("batch".to_owned(), what, Unit::EventsPerSecond, &report).note(format!("peak memory {peak:.0} MB"))])
}

/// A load's rate with its latencies.
pub(super) fn rate(key: String, what: String, unit: Unit, report: &LoadReport) -> Measure {
    Measure::new(key, what, report.events_per_second(), unit).latency(report.latency_ms(50.0), report.latency_ms(99.0))
}

fn plural(connections: usize) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}
