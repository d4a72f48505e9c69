//! `tidegate bench`: what this hub does on this machine, beside what the machine can do without it.
//!
//! Load generator, receiver and two baselines are in the binary; the hub is the same binary, started as a child on a
//! directory of its own for each scenario, so a figure includes everything a producer would see: HTTP, the sync to
//! disk, signing, delivery. Everything runs on loopback and is bounded by count and time. Figures of one run compare
//! with one another; figures of two machines do not.
//!
//! - [`load`], [`request`]: the load generator; [`receiver`], [`arrivals`]: the endpoint of webhooks
//! - [`baseline`]: parse-only handler and bare client; [`hub`], [`proc`]: the hub as a child process
//! - [`scenario`]: names and sizes; [`ingest`], [`deliver`], [`fair`], [`schema`], [`capacity`]: what they do
//! - [`measure`]: figures and targets; [`report`]: table and JSON

pub mod arrivals;
pub mod baseline;
pub mod capacity;
pub mod deliver;
pub mod fair;
pub mod hub;
pub mod ingest;
pub mod load;
pub mod measure;
pub mod proc;
pub mod receiver;
pub mod report;
pub mod request;
pub mod scenario;
pub mod schema;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::ground::clock::{SharedClock, SystemClock};
use report::{Failure, Machine, Report};
use scenario::{Bench, Scenario, Sizes};

/// Appends of the sync probe.
const SYNC_PROBES: usize = 64;
/// Files a run may hold open: fifty webhooks with 64 connections each, at both ends.
const OPEN_FILES: u64 = 16_384;
/// `f_type` of a tmpfs and of a ramfs (statfs(2)).
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Options of `tidegate bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Small counts: shows within a minute that every scenario works; the figures mean little
    #[arg(long)]
    pub quick: bool,
    /// Only these scenarios and the baselines they are compared with
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    pub only: Vec<Scenario>,
    /// Print JSON instead of the table (the command line's own `--json`)
    #[arg(skip)]
    pub json: bool,
    /// Seconds of each load that is bounded by time
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Where the data directories are made and removed again; a real disk, or syncing is not measured [default: the
    /// directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Runs the bench with this binary as the hub and prints the report to standard output, progress to standard error.
/// Blocks until the end; may be called from within an async runtime, which it does not use.
///
/// # Errors
/// When a scenario failed (the others are reported), or the directory cannot be used. A missed target is no error.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    // A thread of its own: the scenarios block on small runtimes, which must not nest in the caller's.
    let thread = std::thread::Builder::new().name("bench".to_owned()).spawn(move || -> anyhow::Result<()> {
        let program = std::env::current_exe().context("where is this binary?")?;
        let report = measure_all(&args, program)?;
        let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_text() };
        std::io::stdout().lock().write_all(text.as_bytes())?;
        let failed: Vec<_> = report.failures.iter().map(|failure| failure.scenario.as_str()).collect();
        anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
        Ok(())
    })?;
    thread.join().map_err(|_| anyhow::anyhow!("the bench panicked"))?
}

/// Runs the scenarios with `program` as the hub.
///
/// # Errors
/// When the data directory cannot be written. Failures of scenarios are in the report.
pub fn measure_all(args: &BenchArgs, program: PathBuf) -> anyhow::Result<Report> {
    let clock = SystemClock::shared();
    raise_open_files()?;
    let parent = args.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let sizes = if args.quick { Sizes::quick() } else { Sizes::full(args.seconds) };
    let machine = machine(&clock, &parent)?;
    let bench = Bench { clock, program, parent, sizes };
    let selection = Scenario::selection(&args.only);
    let mut measures = Vec::new();
    let mut failures = Vec::new();
    for (index, scenario) in selection.iter().enumerate() {
        progress(&format!("[{}/{}] {}", index + 1, selection.len(), scenario.name()));
        match scenario.run(&bench) {
            Ok(found) => {
                for one in &found {
                    progress(&format!("    {}: {:.1} {}", one.what, one.value, one.unit.label()));
                }
                measures.extend(found);
            }
            Err(error) => {
                progress(&format!("    failed: {error:#}"));
                failures.push(Failure { scenario: scenario.name().to_owned(), error: format!("{error:#}") });
            }
        }
    }
    measure::judge(&mut measures);
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { version, quick: args.quick, debug_build: cfg!(debug_assertions), machine, measures, failures })
}

/// Raises the soft limit of open files of this process, and so of the hubs it starts, as far as it may.
fn raise_open_files() -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
    }
    Ok(())
}

fn progress(line: &str) {
    // Progress is a courtesy: a closed standard error ends no measurement.
    if writeln!(std::io::stderr().lock(), "{line}").is_err() {
        tracing::trace!("standard error is closed");
    }
}

fn machine(clock: &SharedClock, parent: &Path) -> anyhow::Result<Machine> {
    let statfs = rustix::fs::statfs(parent).with_context(|| format!("cannot use {}", parent.display()))?;
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Machine {
        cores: baseline::cores(),
        system: format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned(),
        processor: processor.trim_start_matches(['\t', ' ', ':']).to_owned(),
        data_in_memory: MEMORY_FILE_SYSTEMS.contains(&statfs.f_type),
        sync_ms: sync_probe_ms(clock, parent)?,
    })
}

/// Median time of appending 1 KiB to a file and syncing it.
fn sync_probe_ms(clock: &SharedClock, parent: &Path) -> anyhow::Result<f64> {
    let dir = hub::DataDir::create(parent, "sync-probe")?;
    let mut file = File::create(dir.path().join("probe"))?;
    let mut times = load::histogram()?;
    for _ in 0..SYNC_PROBES {
        let from_ns = clock.monotonic_ns();
        file.write_all(&[b'x'; 1_024])?;
        file.sync_data()?;
        times.saturating_record(clock.monotonic_ns().saturating_sub(from_ns));
    }
    load::percentile_ms(&times, 50.0).context("nothing was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn scenarios_are_chosen_by_name() {
        let line = <Line as clap::Parser>::try_parse_from(["bench", "--only", "drain,one-webhook"]);
        let args = line.map(|line| line.args).expect("valid options");
        assert_eq!(args.only, [Scenario::Drain, Scenario::OneWebhook]);
        assert_eq!((args.seconds, args.json, args.quick), (5, false, false));
        assert!(<Line as clap::Parser>::try_parse_from(["bench", "--only", "all"]).is_err());
        assert!(<Line as clap::Parser>::try_parse_from(["bench", "--seconds", "0"]).is_err());
    }

    #[test]
    fn the_baselines_are_measured_and_a_failing_hub_is_reported() {
        let parent = tempfile::tempdir().expect("directory");
        let args = BenchArgs {
            quick: true,
            only: vec![Scenario::BaselineParse, Scenario::BaselineClient, Scenario::Idle],
            json: false,
            seconds: 1,
            data_dir: Some(parent.path().to_owned()),
        };
        let report = measure_all(&args, PathBuf::from("/bin/false")).expect("report");
        let keys: Vec<_> = report.measures.iter().map(|measure| measure.key.as_str()).collect();
        assert_eq!(keys, ["baseline.parse.1", "baseline.parse.16", "baseline.parse.64", "baseline.client"]);
        assert!(report.measures.iter().all(|measure| measure.value > 0.0));
        assert_eq!(report.failures.len(), 1);
        assert!(report.failures[0].error.contains("before it was ready"), "{}", report.failures[0].error);
        assert_eq!(std::fs::read_dir(parent.path()).expect("directory").count(), 0, "directories stay behind");
    }
}
