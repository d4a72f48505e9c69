//! The demo as a newcomer runs it: one command, every promise shown, nothing left behind (CON-2).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::Api;

/// The demo with a directory for temporary files of its own, and none of this environment's settings.
fn demo(temporary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("demo").args(args);
    let foreign = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE"));
    for (name, _) in foreign {
        command.env_remove(name);
    }
    command.env("TMPDIR", temporary);
    command.env("TIDEGATE__LOG__CACHE_BYTES", "33554432").env("TIDEGATE__LOG__FREE_SPACE_FLOOR_BYTES", "1048576");
    command.current_dir(temporary).stdin(Stdio::null());
    command
}

/// Killed when a test ends early.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_demo_shows_a_verified_signature_retries_and_a_dead_letter_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let ended = demo(temporary.path(), &["--exit"]).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{told}{errors}");
    assert_eq!(errors, "", "{told}");
    let count =
        |begin: &str, part: &str| told.lines().filter(|line| line.starts_with(begin) && line.contains(part)).count();
    assert!(count("webhook ", "signature verified") >= 3, "{told}");
    assert!(count("handler ", "attempt 1") >= 3, "{told}");
    for attempt in 1..=3 {
        assert_eq!(count("failing ", &format!("answered 500 to attempt {attempt}")), 1, "{told}");
    }
    assert_eq!(count("gave up ", "after 3 attempts"), 1, "{told}");
    assert!(told.contains("dead letter dlq_") && told.contains("curl -sS http://127.0.0.1:"), "{told}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "its directory is gone");
}

#[tokio::test]
async fn the_hub_of_the_demo_goes_on_running_and_tells_what_else_is_delivered() {
    let temporary = tempfile::tempdir().unwrap();
    let data = temporary.path().join("kept");
    let mut command = demo(temporary.path(), &["--json", "--data-dir", "kept"]);
    let mut started = Started(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let stdout = started.0.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let ready = lines.find(|line| line["happening"] == "ready").expect("the show comes to its end");

    let hub =
        Api::with_key(ready["public"].as_str().unwrap().trim_start_matches("http://"), ready["key"].as_str().unwrap());
    let id = hub.publish(&json!({"type": "order.placed"})).await;
    let mut awaited = vec!["handler_called", "webhook_delivered"];
    for line in lines.by_ref().filter(|line| line["event_id"] == *id) {
        assert_ne!(line["signature_verified"], false, "{line}");
        awaited.retain(|one| line["happening"] != **one);
        if awaited.is_empty() {
            break;
        }
    }
    assert!(awaited.is_empty(), "{awaited:?}");
    let letters = hub.get("/v1/dead-letters").await.expect(200).json();
    assert_eq!(letters["items"][0]["attempts"], 3, "{letters}");

    kill_process(Pid::from_child(&started.0), Signal::TERM).unwrap();
    assert_eq!(lines.next(), None);
    assert_eq!(started.0.wait().unwrap().code(), Some(0));
    assert!(data.join("admin.token").exists(), "a directory that was given stays");

    // The same directory once more: what the first run made is not in the way.
    let again = demo(temporary.path(), &["--exit", "--data-dir", "kept"]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{again:?}");
}
