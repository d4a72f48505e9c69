//! A hub as a child process: started on a directory of its own, talked to over its two listeners, stopped by signal.
//!
//! A hub that is dropped is killed by its process id; its directory is removed by [`DataDir`]. A bench that is killed
//! drops nothing: the hub then sees the end of its standard input, a pipe that only the bench holds, and stops by itself.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::baseline;
use super::proc;
use crate::ground::clock::SharedClock;

/// Longest start: a large log is read on the way.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest graceful stop before the hub is killed.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How often start and stop are looked at.
const POLL: Duration = Duration::from_millis(2);
/// Characters of the hub's log shown when it fails.
const LOG_TAIL_CHARS: usize = 2_000;
/// The org of everything the bench publishes, unless a scenario says otherwise.
pub const ORG: &str = "bench";

/// A fresh directory, removed when dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Makes `tidegate-bench-PID-NAME` under `parent`.
    ///
    /// # Errors
    /// When it exists already or cannot be made.
    pub fn create(parent: &Path, name: &str) -> anyhow::Result<Self> {
        let path = parent.join(format!("tidegate-bench-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a directory of the bench stays behind");
        }
    }
}

/// A running hub.
pub struct Hub {
    child: Child,
    clock: SharedClock,
    control: Control,
    /// Time from the start of the process until it was ready.
    pub ready_after: Duration,
}

impl Hub {
    /// Starts `program serve` on `dir` and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready within a minute; the text has the end of its log.
    pub fn start(clock: &SharedClock, program: &Path, dir: &Path) -> anyhow::Result<Self> {
        let addresses = dir.join("addresses.json");
        if addresses.exists() {
            // Of the run before: a hub killed meanwhile could not remove it.
            std::fs::remove_file(&addresses)?;
        }
        let log_path = dir.join("bench-hub.log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--until-input-ends", "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .env("TIDEGATE__DELIVERY__ALLOW_PRIVATE_NETWORKS", "true")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started_ns = clock.monotonic_ns();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut guard = ChildGuard(Some(child));
        let ready = wait_ready(clock, &mut guard, dir, started_ns).with_context(|| log_tail(&log_path))?;
        let child = guard.0.take().context("the hub's process is gone")?;
        Ok(Self { child, clock: clock.clone(), control: ready.control, ready_after: ready.after })
    }

    /// How it is talked to.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its memory.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> anyhow::Result<proc::Memory> {
        proc::memory(self.child.id())
    }

    /// Processor time it has used, in seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        proc::cpu_seconds(self.child.id())
    }

    /// Asks it to end (SIGTERM) and waits for that; the time it took.
    ///
    /// # Errors
    /// When it does not end within a minute (it is killed then) or ends with another code than 0.
    pub fn stop(mut self) -> anyhow::Result<Duration> {
        let from_ns = self.clock.monotonic_ns();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let took = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(from_ns));
                anyhow::ensure!(status.success(), "the hub stopped with {status}");
                return Ok(took);
            }
            let took = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(from_ns));
            anyhow::ensure!(took < STOP_MAX, "the hub did not stop within {STOP_MAX:?}");
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends the child if it has not ended.
struct ChildGuard(Option<Child>);

impl ChildGuard {
    fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.0 {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    if let Ok(Some(_)) = child.try_wait() {
        return;
    }
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!(%error, "the hub could not be killed");
    }
}

struct Ready {
    control: Control,
    after: Duration,
}

fn wait_ready(clock: &SharedClock, guard: &mut ChildGuard, dir: &Path, started_ns: u64) -> anyhow::Result<Ready> {
    let mut control: Option<Control> = None;
    loop {
        if let Some(status) = guard.exited()? {
            anyhow::bail!("the hub ended with {status} before it was ready");
        }
        match &control {
            None => {
                // Half written, it does not parse: the next look will.
                let text = std::fs::read_to_string(dir.join("addresses.json")).unwrap_or_default();
                if let Some((public, admin)) = parse_addresses(&text) {
                    control = Some(Control::new(public, admin)?);
                    continue;
                }
            }
            Some(found) => {
                if found.is_ready() {
                    break;
                }
            }
        }
        let waited = Duration::from_nanos(clock.monotonic_ns().saturating_sub(started_ns));
        anyhow::ensure!(waited < START_MAX, "the hub was not ready within {START_MAX:?}");
        std::thread::sleep(POLL);
    }
    let after = Duration::from_nanos(clock.monotonic_ns().saturating_sub(started_ns));
    let mut control = control.context("the hub's addresses are gone")?;
    let token = std::fs::read_to_string(dir.join("admin.token")).context("no admin.token")?;
    control.admin_token = token.trim().to_owned();
    control.key = control.make_key(Some(ORG))?;
    Ok(Ready { control, after })
}

fn parse_addresses(text: &str) -> Option<(SocketAddr, SocketAddr)> {
    let value: Value = serde_json::from_str(text).ok()?;
    let read = |name: &str| -> Option<SocketAddr> {
        let text = value.get(name)?.as_str()?;
        text.trim_start_matches("http://").trim_end_matches('/').parse().ok()
    };
    Some((read("public")?, read("admin")?))
}

fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let skip = text.chars().count().saturating_sub(LOG_TAIL_CHARS);
    let tail: String = text.chars().skip(skip).collect();
    format!("the hub's log ends with:\n{tail}")
}

/// The calls by which scenarios arrange a hub: keys, webhooks.
pub struct Control {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    /// The public listener.
    pub public: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    admin_token: String,
    /// An API key of the org [`ORG`] with the scopes publish, manage and read.
    pub key: String,
}

impl Control {
    fn new(public: SocketAddr, admin: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Nothing drives a pooled connection between two calls, so none is kept.
        let client = baseline::client_builder().pool_max_idle_per_host(0).build()?;
        Ok(Self { runtime, client, public, admin, admin_token: String::new(), key: String::new() })
    }

    fn is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.admin);
        let answer = self.runtime.block_on(async { self.client.get(url).send().await });
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// POSTs JSON and reads the JSON answer (null when it is empty).
    ///
    /// # Errors
    /// When the call fails or is answered with another status than 2xx; the text has the answer.
    pub fn post(&self, addr: SocketAddr, path: &str, token: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(Method::POST, addr, path, token, body)
    }

    /// Sends a JSON document by this method and reads the JSON answer.
    ///
    /// # Errors
    /// When the call fails or is refused.
    pub fn send(
        &self,
        method: Method,
        addr: SocketAddr,
        path: &str,
        token: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        self.runtime.block_on(async {
            let request = self.client.request(method.clone(), format!("http://{addr}{path}"));
            let answer = request.bearer_auth(token).json(body).send().await;
            let answer = answer.with_context(|| format!("{method} {path}"))?;
            let status = answer.status();
            let text = answer.text().await.with_context(|| format!("{method} {path}"))?;
            anyhow::ensure!(status.is_success(), "{method} {path}: {status}: {text}");
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_str(&text).with_context(|| format!("{method} {path}: the answer is not JSON"))
        })
    }

    /// Makes an API key that may publish, manage and read, for one org or for any.
    ///
    /// # Errors
    /// When the call fails.
    pub fn make_key(&self, org: Option<&str>) -> anyhow::Result<String> {
        let mut body = json!({"application": "bench", "scopes": ["publish", "manage", "read"]});
        if let Some(org) = org {
            body["org"] = json!(org);
        }
        let answer = self.post(self.admin, "/v1/admin/keys", &self.admin_token, &body)?;
        text_of(&answer, "key")
    }

    /// Creates a webhook of the org [`ORG`] on these event types; its id.
    ///
    /// # Errors
    /// When the call fails.
    pub fn create_webhook(&self, url: &str, event_types: &[&str]) -> anyhow::Result<String> {
        let body = json!({"url": url, "org": ORG, "event_types": event_types, "concurrency": 64});
        text_of(&self.post(self.public, "/v1/webhooks", &self.key, &body)?, "id")
    }

    /// Pauses a webhook.
    ///
    /// # Errors
    /// When the call fails.
    pub fn pause(&self, id: &str) -> anyhow::Result<()> {
        self.post(self.public, &format!("/v1/webhooks/{id}/pause"), &self.key, &json!({})).map(drop)
    }

    /// Resumes a paused webhook.
    ///
    /// # Errors
    /// When the call fails.
    pub fn resume(&self, id: &str) -> anyhow::Result<()> {
        self.post(self.public, &format!("/v1/webhooks/{id}/resume"), &self.key, &json!({})).map(drop)
    }
}

fn text_of(answer: &Value, name: &str) -> anyhow::Result<String> {
    answer.get(name).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {name} in {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::clock::SystemClock;

    #[test]
    fn addresses_are_read_with_or_without_a_scheme() {
        let public = SocketAddr::from(([127, 0, 0, 1], 8081));
        let admin = SocketAddr::from(([127, 0, 0, 1], 8080));
        let plain = r#"{"public":"127.0.0.1:8081","admin":"http://127.0.0.1:8080/"}"#;
        assert_eq!(parse_addresses(plain), Some((public, admin)));
        assert_eq!(parse_addresses(r#"{"public":"127.0.0."#), None);
        assert_eq!(parse_addresses(""), None);
    }

    #[test]
    fn a_program_that_ends_before_it_is_ready_is_an_error_with_its_log() {
        let parent = tempfile::tempdir().expect("directory");
        let dir = DataDir::create(parent.path(), "ends").expect("directory");
        let program = Path::new("/bin/sh");
        let error = Hub::start(&SystemClock::shared(), program, dir.path()).err().expect("error");
        let text = format!("{error:#}");
        assert!(text.contains("before it was ready"), "{text}");
        assert!(text.contains("serve"), "{text}");
    }

    #[test]
    fn a_data_directory_is_removed_when_dropped() {
        let parent = tempfile::tempdir().expect("directory");
        let dir = DataDir::create(parent.path(), "one").expect("directory");
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
