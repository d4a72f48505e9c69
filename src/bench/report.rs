//! A run's figures as a table for people and as JSON for programs.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::measure::{Check, Measure};

/// The machine a run was made on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor cores.
    pub cores: usize,
    /// Kernel, such as `Linux 6.8.0`.
    pub system: String,
    /// Processor, where the machine tells.
    pub processor: String,
    /// Whether the data directories lie in memory, which makes syncing free and the figures worthless.
    pub data_in_memory: bool,
    /// Median time of appending 1 KiB to a file and syncing it, in milliseconds.
    pub sync_ms: f64,
}

/// A scenario that did not come to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its name.
    pub scenario: String,
    /// Why.
    pub error: String,
}

/// Everything a run says.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// This binary's version.
    pub version: &'static str,
    /// Whether counts were small: the figures then only show that it works.
    pub quick: bool,
    /// Whether the binary was built without optimisation.
    pub debug_build: bool,
    /// Where it ran.
    pub machine: Machine,
    /// The figures.
    pub measures: Vec<Measure>,
    /// Scenarios that failed.
    pub failures: Vec<Failure>,
}

impl Report {
    /// The table and the lines around it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(presets::ASCII_MARKDOWN)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(["", "Figure", "", "p50 ms", "p99 ms", "Target", "Seen", ""]);
        for measure in &self.measures {
            let [target, seen, met] = cells(measure.checks.first());
            table.add_row([
                measure.what.clone(),
                figure(measure.value),
                measure.unit.label().to_owned(),
                measure.p50_ms.map(figure).unwrap_or_default(),
                measure.p99_ms.map(figure).unwrap_or_default(),
                target,
                seen,
                met,
            ]);
            for check in measure.checks.iter().skip(1) {
                let [target, seen, met] = cells(Some(check));
                let [no_words, no_figure, no_unit, no_p50, no_p99] = <[String; 5]>::default();
                table.add_row([no_words, no_figure, no_unit, no_p50, no_p99, target, seen, met]);
            }
        }
        for column in [1, 3, 4, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let machine = &self.machine;
        let mut text = format!(
            "tidegate {} on {} cores ({}, {}); appending and syncing 1 KiB takes {} ms\n\n{table}\n\n",
            self.version,
            machine.cores,
            machine.processor,
            machine.system,
            figure(machine.sync_ms),
        );
        for measure in self.measures.iter().filter(|measure| !measure.note.is_empty()) {
            text.push_str(&format!("- {}: {}\n", measure.what, measure.note));
        }
        let (met, judged) = self.score();
        text.push_str(&format!("{met} of {judged} targets met\n"));
        if self.quick {
            text.push_str("a quick run: the counts are too small for the figures to mean much\n");
        }
        if self.debug_build {
            text.push_str("a build without optimisation: the figures mean nothing\n");
        }
        if machine.data_in_memory {
            text.push_str("the data directories lie in memory: syncing costs nothing there (see --data-dir)\n");
        }
        for failure in &self.failures {
            text.push_str(&format!("failed: {}: {}\n", failure.scenario, failure.error));
        }
        text
    }

    /// Targets met, and targets that could be judged.
    #[must_use]
    pub fn score(&self) -> (usize, usize) {
        let checks = self.measures.iter().flat_map(|measure| &measure.checks);
        let judged: Vec<bool> = checks.filter_map(|check| check.met).collect();
        (judged.iter().filter(|met| **met).count(), judged.len())
    }
}

fn cells(check: Option<&Check>) -> [String; 3] {
    check.map_or_else(<[String; 3]>::default, |check| {
        let seen = check.seen.map_or_else(|| "—".to_owned(), figure);
        [check.target.clone(), seen, mark(check.met).to_owned()]
    })
}

fn mark(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "✓",
        Some(false) => "✗",
        None => "?",
    }
}

/// Three to four figures that count, thousands set apart: `33,012`, `412`, `12.3`, `0.251`.
fn figure(value: f64) -> String {
    if value >= 1_000.0 {
        let digits = format!("{value:.0}");
        let mut out = String::with_capacity(digits.len() + digits.len() / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        out
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if value >= 1.0 || value == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::{Unit, judge};

    fn report() -> Report {
        let mut measures = vec![
            Measure::new("baseline.parse.64", "Parse only, 64 connections", 132_000.0, Unit::RequestsPerSecond),
            Measure::new("ingest.64", "Ingest, 64 connections", 20_000.0, Unit::EventsPerSecond)
                .latency(Some(1.25), Some(4.0)),
        ];
        judge(&mut measures);
        Report {
            version: "0.1.0",
            quick: true,
            debug_build: false,
            machine: Machine {
                cores: 2,
                system: "Linux".to_owned(),
                processor: "a processor".to_owned(),
                data_in_memory: false,
                sync_ms: 0.5,
            },
            measures,
            failures: vec![Failure { scenario: "drain".to_owned(), error: "the hub ended".to_owned() }],
        }
    }

    #[test]
    fn the_table_shows_figures_targets_and_failures() {
        let text = report().to_text();
        for part in ["132,000", "20,000", "p99 ≤ 5 ms", "✓", "✗", "1 of 2 targets met", "failed: drain", "quick run"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_json_names_each_measure_and_its_checks() {
        let json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(json["measures"][1]["key"], "ingest.64");
        assert_eq!(json["measures"][1]["unit"], "events/s");
        assert_eq!(json["measures"][1]["checks"][1]["met"], true);
        assert_eq!(json["failures"][0]["scenario"], "drain");
    }

    #[test]
    fn figures_keep_what_counts() {
        let shown: Vec<_> = [1_234_567.0, 1_000.0, 999.4, 12.34, 1.234, 0.25, 0.0].map(figure).into();
        assert_eq!(shown, ["1,234,567", "1,000", "999", "12.3", "1.23", "0.250", "0.00"]);
    }
}
