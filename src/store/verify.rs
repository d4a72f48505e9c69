//! Offline check of a store: every record is read and every checksum tried. What stands in documents is checked by those
//! who know their kinds.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::engine::EngineOptions;
use super::{Engine, EventLog as _, ReadLimits, ScheduleKey, ScheduleStore as _, StoreError, log_record};
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
    /// Pages of attempts read.
    pub attempt_pages: u64,
    /// Dead letters read.
    pub dead_letters: u64,
    /// Scheduled events read.
    pub scheduled: u64,
    /// Links read, and found in both indexes.
    pub links: u64,
    /// Idempotency keys read.
    pub idempotency_keys: u64,
    /// Quarantined events read.
    pub quarantined: u64,
    /// Places of aggregates in their declared order read.
    pub lifecycle_places: u64,
    /// Events read that broke such an order.
    pub lifecycle_flags: u64,
    /// Documents read, by kind.
    pub documents: BTreeMap<String, u64>,
    /// Parts of exports, contents and reports of imports read.
    pub bulk_files: u64,
    /// Faults, in words.
    pub faults: Vec<String>,
}

/// Faults that are listed one by one; more are only counted into the last line.
const FAULTS_MAX: usize = 100;

impl Report {
    /// Adds a fault, unless there are very many.
    pub fn fault(&mut self, text: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text);
        }
    }
}

/// Reads everything in the store under `data_dir`. The hub must not be running. `document` is given every document that
/// is whole: its kind, its key, its bytes. `progress` is told the last position read, now and then.
///
/// # Errors
/// When the store cannot be opened; damage inside it is reported in [`Report::faults`].
pub fn verify(
    data_dir: &Path,
    document: &mut dyn FnMut(&str, &str, &[u8]),
    progress: &mut dyn FnMut(Seq, Seq),
) -> Result<Report, StoreError> {
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
    let consumers = engine.check_consumers(&mut |fault| report.fault(fault))?;
    report.exception_rows = consumers.exceptions;
    report.attempt_pages = consumers.attempt_pages;
    report.dead_letters = consumers.dead_letters;
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
    match engine.check_links() {
        Ok((links, faults)) => {
            report.links = links;
            faults.into_iter().for_each(|fault| report.fault(fault));
        }
        Err(error) => report.fault(error.to_string()),
    }
    report.idempotency_keys = engine.check_idempotency(&mut |fault| report.fault(fault))?;
    report.quarantined = engine.check_quarantine(&mut |fault| report.fault(fault))?;
    let followed = engine.check_lifecycle(&mut |fault| report.fault(fault))?;
    (report.lifecycle_places, report.lifecycle_flags) = (followed.places, followed.flags);
    let (mut counts, mut faults) = (BTreeMap::new(), Vec::new());
    let mut count = |kind: &str, key: &str, bytes: &[u8]| {
        *counts.entry(kind.to_owned()).or_default() += 1;
        document(kind, key, bytes);
    };
    engine.check_documents(&mut count, &mut |fault| faults.push(fault))?;
    report.documents = counts;
    faults.into_iter().for_each(|fault| report.fault(fault));
    Ok(report)
}
