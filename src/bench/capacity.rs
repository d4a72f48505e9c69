//! Scenarios of size and rest: a large log, many webhooks, an idle hub.

use std::time::Duration;

use super::hub::Hub;
use super::ingest::rate;
use super::load::{self, LoadPlan, Refused};
use super::measure::{Measure, Unit};
use super::request::{NUMBER, NUMBER_OF_1000, Shape, Template};
use super::scenario::{Bench, Publish};

/// Bytes of an event of the large log.
const LOG_EVENT_BYTES: usize = 512;
/// Time after a load until memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// Connections that create webhooks.
const CREATE_CONNECTIONS: usize = 16;

/// A million events of 512 B: memory, graceful stop, start until ready, memory after the start.
///
/// # Errors
/// When the hub fails or does not take the events in time.
pub fn million(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (dir, hub) = bench.hub("million")?;
    let publish = Publish { event_bytes: LOG_EVENT_BYTES, ..Publish::batches() };
    let report = bench.publish_all(&hub, publish, bench.sizes.log_events)?;
    std::thread::sleep(SETTLE);
    let after_load = hub.memory()?;
    let stop = hub.stop()?;
    let bytes = directory_bytes(dir.path())?;
    let hub = Hub::start(&bench.clock, &bench.program, dir.path())?;
    let start = hub.ready_after;
    std::thread::sleep(SETTLE);
    let restarted = hub.memory()?;
    hub.stop()?;
    let events = report.accepted_events;
    Ok(vec![
        Measure::new(
            "million.rss",
            format!("Memory, {events} events of 512 B in the log"),
            mb(after_load.rss),
            Unit::Megabytes,
        )
        .note(format!(
            "peak {:.0} MB; written at {:.0} events/s; {:.2} GB on disk",
            mb(after_load.peak),
            report.events_per_second(),
            bytes as f64 / 1e9,
        )),
        Measure::new("million.stop", "Graceful stop of the hub with them", stop.as_secs_f64(), Unit::Seconds),
        Measure::new("million.start", "Start with them until ready", start.as_secs_f64(), Unit::Seconds),
        Measure::new("million.rss-restarted", "Memory after that start", mb(restarted.rss), Unit::Megabytes)
            .note(format!("peak {:.0} MB", mb(restarted.peak))),
    ])
}

/// Ten thousand webhooks of a thousand orgs that get nothing: memory, processor time, ingest beside them, and at once
/// after it ingest of a hub without webhooks, so that both are measured on the same minute's machine.
///
/// # Errors
/// When the hub fails or refuses a webhook.
pub fn idle_webhooks(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("idle-webhooks")?;
    let receiver = bench.receiver()?;
    let webhooks = bench.sizes.idle_webhooks;
    let control = hub.control();
    let key = control.make_key(None)?;
    let body = format!(
        r#"{{"url":"{}","org":"idle-{NUMBER_OF_1000}","event_types":["bench.*"]}}"#,
        receiver.url(&format!("/ok/{NUMBER}")),
    );
    let template = Template::post(control.public, "/v1/webhooks", &[("x-api-key", &key)], &[body], Shape::One);
    let created = load::run(
        &bench.clock,
        LoadPlan {
            requests_max: webhooks,
            time_max: bench.sizes.wait_max,
            refused: Refused::Resend,
            ..bench.timed_plan(template, control.public, CREATE_CONNECTIONS)
        },
    )?;
    anyhow::ensure!(
        created.accepted_requests == webhooks,
        "{} of {webhooks} webhooks were created in time; first trouble: {}",
        created.accepted_requests,
        created.first_trouble.as_deref().unwrap_or("none"),
    );
    std::thread::sleep(SETTLE);
    let cpu = idle_cpu_percent(bench, &hub)?;
    let memory = hub.memory()?;
    let ingest = bench.warm_load(bench.publish_plan(&hub, Publish::default()))?;
    let after = hub.memory()?;
    hub.stop()?;
    let (_dir, hub) = bench.hub("no-webhooks")?;
    let alone = bench.warm_load(bench.publish_plan(&hub, Publish::default()))?;
    hub.stop()?;
    let beside = "idle-webhooks.ingest".to_owned();
    let without = "idle-webhooks.without".to_owned();
    Ok(vec![
        Measure::new("idle-webhooks.rss", format!("Memory, {webhooks} idle webhooks"), mb(memory.rss), Unit::Megabytes)
            .note(format!("peak {:.0} MB; created at {:.0}/s", mb(memory.peak), created.events_per_second(),)),
        Measure::new("idle-webhooks.cpu", "Processor time with idle webhooks", cpu, Unit::PercentOfCore),
        rate(without, "Durable ingest without webhooks".to_owned(), Unit::EventsPerSecond, &alone),
        rate(
            beside,
            format!("Durable ingest beside {webhooks} webhooks of other orgs"),
            Unit::EventsPerSecond,
            &ingest,
        )
        .note(format!("64 connections each; peak memory {:.0} MB", mb(after.peak))),
    ])
}

/// A hub with nothing in it: start, memory, processor time, graceful stop.
///
/// # Errors
/// When the hub fails.
pub fn idle(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("idle")?;
    let start = hub.ready_after;
    std::thread::sleep(SETTLE);
    let cpu = idle_cpu_percent(bench, &hub)?;
    let memory = hub.memory()?;
    let stop = hub.stop()?;
    Ok(vec![
        Measure::new("idle.start", "Start of an empty hub until ready", start.as_secs_f64(), Unit::Seconds),
        Measure::new("idle.rss", "Memory of an idle hub", mb(memory.rss), Unit::Megabytes)
            .note(format!("peak {:.0} MB", mb(memory.peak))),
        Measure::new("idle.cpu", "Processor time of an idle hub", cpu, Unit::PercentOfCore),
        Measure::new("idle.stop", "Graceful stop of an idle hub", stop.as_secs_f64(), Unit::Seconds),
    ])
}

/// Processor time of the hub while nothing happens, in hundredths of a core.
fn idle_cpu_percent(bench: &Bench, hub: &Hub) -> anyhow::Result<f64> {
    let (cpu_before, from_ns) = (hub.cpu_seconds()?, bench.clock.monotonic_ns());
    std::thread::sleep(bench.sizes.watch);
    let seconds = bench.clock.monotonic_ns().saturating_sub(from_ns) as f64 / 1e9;
    Ok((hub.cpu_seconds()? - cpu_before) * 100.0 / seconds.max(0.001))
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes of the files below a directory.
fn directory_bytes(dir: &std::path::Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                left.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
