//! The bench leaves no hub behind, however it is ended.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::until;

/// A bench that is killed when a test ends early.
struct Bench(Child);

impl Drop for Bench {
    fn drop(&mut self) {
        // It may have ended already, which is what a kill wants.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The data directory of the bench's hub, once that is ready to be asked.
fn hub_directory(parent: &Path) -> Option<PathBuf> {
    let directories = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    directories.into_iter().find(|path| path.join("addresses.json").exists())
}

/// Whether a process runs with this directory on its command line. One that has ended and is not reaped has none.
fn runs_on(directory: &Path) -> bool {
    let wanted = directory.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    // A process may end while it is looked at.
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.split(|byte| *byte == 0).any(|argument| argument == wanted.as_bytes()))
}

#[tokio::test]
async fn a_bench_that_is_killed_takes_its_hub_with_it() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let parent = tempfile::Builder::new().prefix("tidegate-it-").tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        // A minute and more in one hub: it is killed long before that.
        command.args(["bench", "--only", "latency", "--seconds", "600", "--data-dir"]).arg(parent.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut bench = Bench(command.spawn().unwrap());
        let directory = until("the bench has started a hub", || async { hub_directory(parent.path()) }).await;
        assert!(runs_on(&directory), "{}", directory.display());
        kill_process(Pid::from_child(&bench.0), signal).unwrap();
        bench.0.wait().unwrap();
        until(&format!("the hub ends after {signal:?}"), || async { (!runs_on(&directory)).then_some(()) }).await;
    }
}
