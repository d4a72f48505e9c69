//! Scenarios of the way out: one webhook, ten, a backlog, a hanging neighbour, end-to-end latency, and the bare client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::baseline::{self, ClientPlan};
use super::load::{self, LoadPlan, Pace, histogram, per_second, percentile_ms};
use super::measure::{Measure, Unit};
use super::receiver::Receiver;
use super::request::NUMBER;
use super::scenario::{Bench, Publish};

/// What every webhook of these scenarios takes.
const ALL_EVENTS: &[&str] = &["bench.*"];
/// Posts in flight in the client loop, over both of its threads.
const CLIENT_TASKS: usize = 64;
/// Webhooks of the scenario with a hanging endpoint.
const NEIGHBOURS: usize = 50;
/// Events a second whose way is timed.
const LATENCY_RATE: f64 = 100.0;
/// Events before those that are timed.
const LATENCY_WARM_UP: u64 = 100;

/// The bare HTTP client posting 1 KiB bodies to the receiver.
///
/// # Errors
/// When a post fails.
pub fn baseline_client(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let receiver = bench.receiver()?;
    let plan = ClientPlan {
        target: receiver.addr(),
        threads: 2,
        tasks_per_thread: CLIENT_TASKS / 2,
        time_max: bench.sizes.load,
        posts_max: u64::MAX,
    };
    let report = baseline::run_client(&bench.clock, &plan)?;
    anyhow::ensure!(report.failed == 0, "{} posts failed, {} succeeded", report.failed, report.delivered);
    let what = format!("Client loop, {CLIENT_TASKS} posts in flight");
    Ok(vec![Measure::new("baseline.client", what, report.per_second, Unit::DeliveriesPerSecond)])
}

/// One webhook takes everything while 64 connections publish; ends when all was delivered.
///
/// # Errors
/// When the hub fails or does not deliver in time.
pub fn one_webhook(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("one-webhook")?;
    let receiver = bench.receiver()?;
    let target = "/ok/one".to_owned();
    hub.control().create_webhook(&receiver.url(&target), ALL_EVENTS)?;
    let report = load::run(&bench.clock, bench.publish_plan(&hub, Publish::default()))?;
    let at_end = receiver.counts(&target).distinct;
    let last_ns = bench.wait_delivered(&receiver, std::slice::from_ref(&target), report.accepted_events)?;
    let peak = hub.memory()?.peak as f64 / 1e6;
    let seen = receiver.counts(&target);
    hub.stop()?;
    let value = per_second(report.accepted_events, report.started_ns, last_ns.max(report.ended_ns));
    let note = format!(
        "in alone {:.0}/s; {} of {} out when the load ended; {} duplicates; peak memory {peak:.0} MB{}",
        report.events_per_second(),
        at_end,
        report.accepted_events,
        seen.duplicates,
        trouble(&report),
    );
    let measure = Measure::new("one-webhook", "In and out, one webhook, 64 connections", value, Unit::EventsPerSecond);
    Ok(vec![measure.latency(report.latency_ms(50.0), report.latency_ms(99.0)).note(note)])
}

/// Ten webhooks take every event of a burst.
///
/// # Errors
/// When the hub fails or does not deliver in time.
pub fn ten_webhooks(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("ten-webhooks")?;
    let receiver = bench.receiver()?;
    let targets: Vec<String> = (0..10).map(|index| format!("/ok/{index}")).collect();
    for target in &targets {
        hub.control().create_webhook(&receiver.url(target), ALL_EVENTS)?;
    }
    let report = bench.publish_all(&hub, Publish::batches(), bench.sizes.fanout_events)?;
    let last_ns = bench.wait_delivered(&receiver, &targets, report.accepted_events)?;
    let peak = hub.memory()?.peak as f64 / 1e6;
    hub.stop()?;
    let deliveries = report.accepted_events * targets.len() as u64;
    let value = per_second(deliveries, report.started_ns, last_ns);
    let note = format!("{deliveries} deliveries; {}; peak memory {peak:.0} MB", duplicates(&receiver, &targets));
    Ok(vec![Measure::new("ten-webhooks", "Out, ten webhooks", value, Unit::DeliveriesPerSecond).note(note)])
}

/// A paused webhook is resumed and takes its backlog.
///
/// # Errors
/// When the hub fails, delivers while paused, or does not deliver in time.
pub fn drain(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("drain")?;
    let receiver = bench.receiver()?;
    let target = "/ok/drain".to_owned();
    let webhook = hub.control().create_webhook(&receiver.url(&target), ALL_EVENTS)?;
    hub.control().pause(&webhook)?;
    let report = bench.publish_all(&hub, Publish::batches(), bench.sizes.drain_events)?;
    let early = receiver.counts(&target).requests;
    anyhow::ensure!(early == 0, "{early} deliveries came while the webhook was paused");
    let resumed_ns = bench.clock.monotonic_ns();
    hub.control().resume(&webhook)?;
    let targets = [target];
    let last_ns = bench.wait_delivered(&receiver, &targets, report.accepted_events)?;
    let peak = hub.memory()?.peak as f64 / 1e6;
    hub.stop()?;
    let value = per_second(report.accepted_events, resumed_ns, last_ns);
    let first_ms = receiver.counts(&targets[0]).first_ns.saturating_sub(resumed_ns) as f64 / 1e6;
    let note = format!(
        "{} events; first after {first_ms:.1} ms; {}; peak memory {peak:.0} MB",
        report.accepted_events,
        duplicates(&receiver, &targets),
    );
    Ok(vec![Measure::new("drain", "Backlog to one webhook", value, Unit::DeliveriesPerSecond).note(note)])
}

/// From the sending of an event to its arrival at the receiver, at 100 events a second.
///
/// # Errors
/// When the hub fails, refuses an event or does not deliver in time.
pub fn latency(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let (_dir, hub) = bench.hub("latency")?;
    let receiver = bench.receiver()?;
    let target = "/ok/latency".to_owned();
    hub.control().create_webhook(&receiver.url(&target), ALL_EVENTS)?;
    let total = LATENCY_WARM_UP + bench.sizes.latency_events;
    let starts: Arc<[AtomicU64]> = (0..total).map(|_| AtomicU64::new(0)).collect();
    let extra = format!(r#""id":"bench-{NUMBER}","#);
    let publish = Publish { extra: &extra, connections: 4, ..Publish::default() };
    let plan = LoadPlan {
        pace: Pace::PerSecond(LATENCY_RATE),
        requests_max: total,
        time_max: bench.sizes.wait_max,
        starts: Some(Arc::clone(&starts)),
        ..bench.publish_plan(&hub, publish)
    };
    let report = load::run(&bench.clock, plan)?;
    report.all_accepted()?;
    bench.wait_delivered(&receiver, std::slice::from_ref(&target), total)?;
    hub.stop()?;
    let mut ways = histogram()?;
    for number in LATENCY_WARM_UP..total {
        let start_ns = starts[usize::try_from(number)?].load(Ordering::Relaxed);
        let arrived_ns = receiver
            .arrived_ns(&target, &format!("bench-{number:012}"))
            .ok_or_else(|| anyhow::anyhow!("event bench-{number:012} did not arrive under its own id"))?;
        ways.saturating_record(arrived_ns.saturating_sub(start_ns));
    }
    let measure = Measure::new("latency", "Publish to arrival at 100 events/s", ways.len() as f64, Unit::Events)
        .latency(percentile_ms(&ways, 50.0), percentile_ms(&ways, 99.0))
        .note(format!(
            "longest {:.2} ms; publish answered in p50 {:.2} ms, p99 {:.2} ms",
            ways.max() as f64 / 1e6,
            report.latency_ms(50.0).unwrap_or_default(),
            report.latency_ms(99.0).unwrap_or_default(),
        ));
    Ok(vec![measure])
}

/// Fifty webhooks take every event: the rate of 49 of them while the fiftieth answers, and while it hangs.
///
/// # Errors
/// When the hub fails or does not deliver to the 49 in time.
pub fn hanging(bench: &Bench) -> anyhow::Result<Vec<Measure>> {
    let mut without = Vec::new();
    let mut with = Vec::new();
    // In turns, so that a machine that slows down meanwhile does not look like the endpoint's doing.
    for round in 0..bench.sizes.hanging_rounds {
        without.push(neighbours_rate(bench, &format!("hanging-without-{round}"), "/ok/last")?);
        with.push(neighbours_rate(bench, &format!("hanging-with-{round}"), "/hang/last")?);
    }
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    let listed = |rates: &[f64]| rates.iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(", ");
    let unit = Unit::DeliveriesPerSecond;
    Ok(vec![
        Measure::new("hanging.without", "49 webhooks, the 50th answers", mean(&without), unit).note(listed(&without)),
        Measure::new("hanging.with", "49 webhooks, the 50th hangs", mean(&with), unit).note(listed(&with)),
    ])
}

/// Deliveries a second to all webhooks but the last, whose target is `last`.
fn neighbours_rate(bench: &Bench, name: &str, last: &str) -> anyhow::Result<f64> {
    let (_dir, hub) = bench.hub(name)?;
    let receiver = bench.receiver()?;
    let others: Vec<String> = (1..NEIGHBOURS).map(|index| format!("/ok/{index}")).collect();
    for target in others.iter().map(String::as_str).chain([last]) {
        hub.control().create_webhook(&receiver.url(target), ALL_EVENTS)?;
    }
    let report = bench.publish_all(&hub, Publish::batches(), bench.sizes.hanging_events)?;
    let last_ns = bench.wait_delivered(&receiver, &others, report.accepted_events)?;
    let reached = receiver.counts(last).requests;
    anyhow::ensure!(reached > 0, "the endpoint {last} was never tried");
    // Deliveries to the endpoint that hangs would hold up a graceful stop; the hub is ended at once.
    drop(hub);
    Ok(per_second(report.accepted_events * others.len() as u64, report.started_ns, last_ns))
}

fn duplicates(receiver: &Receiver, targets: &[String]) -> String {
    let duplicates: u64 = targets.iter().map(|target| receiver.counts(target).duplicates).sum();
    format!("{duplicates} duplicates")
}

fn trouble(report: &load::LoadReport) -> String {
    let refused: u64 = report.statuses.iter().filter(|(status, _)| !load::is_success(**status)).map(|(_, n)| n).sum();
    if refused == 0 && report.errors == 0 {
        return String::new();
    }
    format!("; {refused} refused, {} broken", report.errors)
}
