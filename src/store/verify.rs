//! Offline check of a store: every record is read and every checksum tried.

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;

use super::engine::EngineOptions;
use super::{
    ConsumerState as _, Engine, EventLog as _, IdempotencyStore as _, ReadLimits, Registry as _, ScheduleKey,
    ScheduleStore as _, StoreError, log_record,
};
use crate::ground::ids::Seq;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events read.
    pub events: u64,
    /// First position.
    pub earliest: u64,
    /// Last position.
    pub head: u64,
    /// Exception rows read.
    pub exception_rows: u64,
    /// Dead letters read.
    pub dead_letters: u64,
    /// Scheduled events read.
    pub scheduled: u64,
    /// Idempotency keys read.
    pub idempotency_keys: u64,
    /// Links read, and found in both indexes.
    pub links: u64,
    /// Faults, in words.
    pub faults: Vec<String>,
}

/// Faults that are listed one by one; more are only counted into the last line.
const FAULTS_MAX: usize = 100;

impl Report {
    fn fault(&mut self, text: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text);
        }
    }
}

/// Reads everything in the store under `data_dir`. The hub must not be running. `progress` is told the last position
/// read, now and then.
///
/// # Errors
/// When the store cannot be opened; damage inside it is reported in [`Report::faults`].
pub fn verify(data_dir: &Path, mut progress: impl FnMut(Seq, Seq)) -> Result<Report, StoreError> {
    let engine = Engine::open(EngineOptions {
        data_dir: data_dir.to_owned(),
        cache_bytes: 64 << 20,
        segment_events: 100_000,
        free_space_floor_bytes: 0,
    })?;
    let (earliest, head) = (engine.earliest(), engine.head());
    let mut report = Report { earliest: earliest.0, head: head.0, ..Report::default() };
    let mut next = earliest;
    while next <= head {
        match engine.read(next, ReadLimits { events: 1_000, bytes: 8 << 20, upto: head }) {
            Ok(events) if events.is_empty() => {
                report.fault(format!("events {next} to {head} are missing"));
                break;
            }
            Ok(events) => {
                for event in events {
                    if event.seq != next {
                        report.fault(format!("event {next} is missing before {}", event.seq));
                    }
                    next = event.seq.next();
                    report.events += 1;
                    match engine.find(&event.meta.org, &event.meta.id) {
                        Ok(Some(seq)) if seq == event.seq => {}
                        Ok(found) => report.fault(format!("event {}: its id leads to {found:?}", event.seq)),
                        Err(error) => report.fault(format!("event {}: {error}", event.seq)),
                    }
                }
            }
            Err(error) => {
                report.fault(format!("event {next}: {error}"));
                next = next.next();
            }
        }
        progress(next.prev(), head);
    }
    for consumer in engine.consumers_with_rows()? {
        match engine.rows(&consumer) {
            Ok(rows) => report.exception_rows += rows.len() as u64,
            Err(error) => report.fault(format!("{consumer}: {error}")),
        }
    }
    if let Err(error) = engine.checkpoints() {
        report.fault(error.to_string());
    }
    match engine.dead_letter_counts() {
        Ok(counts) => report.dead_letters = counts.iter().map(|(_, count)| count).sum(),
        Err(error) => report.fault(error.to_string()),
    }
    let mut from = ScheduleKey::MIN;
    loop {
        match engine.scheduled_from(from, 1_000, 8 << 20) {
            Ok(events) => {
                let Some((last, _)) = events.last() else { break };
                from = last.next();
                report.scheduled += events.len() as u64;
                for (key, event) in events {
                    if let Err(error) = log_record::decode(Seq::ZERO, event.event) {
                        report.fault(format!("scheduled event of {}: {error}", key.due_at));
                    }
                }
            }
            Err(error) => {
                report.fault(error.to_string());
                break;
            }
        }
    }
    let mut keys = Vec::new();
    if let Err(error) = engine.keys(&mut |record| keys.push((record.place, record.done.and_then(|kept| kept.bytes)))) {
        report.fault(error.to_string());
    }
    report.idempotency_keys = keys.len() as u64;
    for (place, bytes) in keys {
        match engine.key_answer(place) {
            Ok(answer) if answer.as_ref().map(Bytes::len) == bytes.map(|bytes| bytes as usize) => {}
            Ok(_) => report.fault(format!("idempotency key {}: its answer is not what was recorded", place.number)),
            Err(error) => report.fault(format!("idempotency key {}: {error}", place.number)),
        }
    }

    match engine.check_links() {
        Ok((links, faults)) => {
            report.links = links;
            faults.into_iter().for_each(|fault| report.fault(fault));
        }
        Err(error) => report.fault(error.to_string()),
    }
    for kind in ["webhook", "source", "key", "settings", "breaker", "job"] {
        if let Err(error) = engine.list(kind) {
            report.fault(error.to_string());
        }
    }
    Ok(report)
}
