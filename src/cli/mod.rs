//! The command line: a thin client of the hub's own HTTP surface, and the way to start one.
//!
//! Every command prints a table for people or, with `--json`, what the hub sent. Errors go to stderr; the exit code says
//! their kind ([`exit::code`]).

pub mod client;
pub mod exit;
pub mod output;

mod catalog;
mod config;
mod demo;
mod dlq;
mod events;
mod export;
mod import;
mod keys;
mod links;
mod listen;
mod pause;
mod publish;
mod replay;
mod rules;
mod schedule;
mod serve;
mod sources;
mod tail;
mod upstreams;
mod verify;
mod webhooks;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use client::Target;
use exit::Failure;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed on this side: a file, the terminal, a damaged store
  2  bad arguments or settings
  3  the hub knows nothing of this name
  4  the hub refused
  5  no hub answers";

/// An event hub in one binary: durable log, signed webhooks, handlers, retries, breakers and dead letters.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    /// Print JSON, as the hub sends it
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub until SIGTERM or Ctrl-C
    Serve(serve::Args),
    /// Start a hub and a local receiver, publish events and show what becomes of them; the hub then goes on running
    ///
    /// Without --data-dir the hub has a fresh directory among the temporary files, which is removed at the end.
    Demo(demo::Args),
    /// Publish one event from flags, or many from stdin, one JSON envelope a line
    Publish(publish::Args),
    /// Show new events as they arrive
    Tail(tail::Args),
    /// Forward live deliveries to a program on this machine, signed, and show each result; needs a key with the scopes
    /// manage and consume
    Listen(listen::Args),
    /// Look up events
    #[command(subcommand)]
    Events(events::Command),
    /// Scheduled events: list and cancel what waits until it is due
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// The catalog: event types and their schemas
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// API keys of applications
    #[command(subcommand)]
    Keys(keys::Command),
    /// Webhooks: endpoints that events are delivered to
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// Sources: addresses that third parties post their webhooks to
    #[command(subcommand)]
    Sources(sources::Command),
    /// Upstreams: systems that the hub calls
    #[command(subcommand)]
    Upstreams(upstreams::Command),
    /// Publish rules: which events become calls to an upstream
    #[command(subcommand)]
    Rules(rules::Command),
    /// Links between the entities of modules
    #[command(subcommand)]
    Links(links::Command),
    /// Dead letters: deliveries that were given up
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Replays: events given out again, and the jobs that do it
    #[command(subcommand)]
    Replay(replay::Command),
    /// Export events to files: runs the job, waits for it, and downloads its parts
    Export(Box<export::Args>),
    /// Import events from files of NDJSON, packed with zstd or not: uploads, commits, and waits for the job
    Import(import::Args),
    /// Deliver nothing to any consumer until `tidegate resume`; events are taken all the same
    Pause,
    /// Deliver again what waits since `tidegate pause` or `tidegate serve --paused`
    Resume,
    /// Settings
    #[command(subcommand)]
    Config(config::Command),
    /// Read everything in a store and try every checksum; the hub must not be running
    Verify(verify::Args),
    /// Measure this hub on this machine: ingest, deliveries, latency, memory; on loopback, with directories of its own
    Bench(crate::bench::BenchArgs),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that the process was started with, and gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are not errors; clap knows which stream and code.
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(exit::code::USAGE);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(exit::code::FAILURE) };
        }
    };
    let output = if cli.json { Output::Json } else { Output::Human };
    let outcome = perform(&cli.target, output, cli.command);
    if let Err(failure) = &outcome {
        output.failure(failure);
    }
    exit::exit_code(&outcome)
}

fn perform(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(target, &args),
        Command::Demo(args) => demo::run(target, output, &args),
        Command::Publish(args) => wait(publish::run(target, output, args)),
        Command::Tail(args) => wait(tail::run(target, output, args)),
        Command::Listen(args) => run_to_end(listen::run(target, output, args)),
        Command::Events(command) => wait(events::run(target, output, command)),
        Command::Schedule(command) => wait(schedule::run(target, output, command)),
        Command::Catalog(command) => wait(catalog::run(target, output, command)),
        Command::Keys(command) => wait(keys::run(target, output, command)),
        Command::Webhooks(command) => wait(webhooks::run(target, output, command)),
        Command::Sources(command) => wait(sources::run(target, output, command)),
        Command::Upstreams(command) => wait(upstreams::run(target, output, command)),
        Command::Rules(command) => wait(rules::run(target, output, command)),
        Command::Links(command) => wait(links::run(target, output, command)),
        Command::Dlq(command) => wait(dlq::run(target, output, command)),
        Command::Replay(command) => wait(replay::run(target, output, command)),
        Command::Export(args) => wait(export::run(target, output, *args)),
        Command::Import(args) => wait(import::run(target, output, args)),
        Command::Pause => wait(pause::run(target, output, pause::Order::Pause)),
        Command::Resume => wait(pause::run(target, output, pause::Order::Resume)),
        Command::Config(command) => config::run(target, output, command),
        Command::Verify(args) => verify::run(target, output, &args),
        Command::Bench(args) => {
            Ok(crate::bench::run(crate::bench::BenchArgs { json: output == Output::Json, ..args })?)
        }
        Command::Completions { shell } => completions(output, shell),
    }
}

/// Runs a client command to its end. Ctrl-C ends it early, without an error: whoever pressed it knows.
fn wait(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    // A thread that still reads stdin must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// The same for a command that heeds Ctrl-C itself, because it has something to put away.
fn run_to_end(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn completions(output: Output, shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end())
}

/// Writes a line to standard output, which is not the log: for what an operator sees once, such as a new admin token.
pub(crate) fn say_once(text: &str) {
    use std::io::Write as _;
    // Without a terminal nobody is there to read it; the file has it.
    writeln!(std::io::stdout(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its path, depth first.
    fn walk(command: &clap::Command, path: &str, out: &mut Vec<(String, clap::Command)>) {
        out.push((path.to_owned(), command.clone()));
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            walk(inner, &format!("{path} {}", inner.get_name()), out);
        }
    }

    #[test]
    fn the_arguments_of_every_command_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_is_as_recorded() {
        let mut root = Cli::command().term_width(110);
        root.build();
        let mut commands = Vec::new();
        walk(&root, "tidegate", &mut commands);
        let text: String = commands
            .into_iter()
            .map(|(path, mut command)| format!("==== {path} --help\n{}\n", command.render_long_help()))
            .collect();
        let text: Vec<&str> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!("help", text.join("\n"));
    }

    #[test]
    fn global_flags_are_taken_before_and_after_the_command() {
        for line in [
            ["tidegate", "--json", "--data-dir", "/d", "dlq", "list"],
            ["tidegate", "dlq", "list", "--json", "--data-dir", "/d"],
        ] {
            let cli = Cli::try_parse_from(line).expect("parsed");
            assert!(cli.json);
            assert_eq!(cli.target.data_dir.as_deref(), Some(std::path::Path::new("/d")));
        }
    }
}
