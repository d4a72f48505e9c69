//! A hub process over a directory of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Api, until};

/// What every hub of the tests has set, before a test's own settings.
const SETTINGS: &[(&str, &str)] = &[
    ("TIDEGATE__DELIVERY__ALLOW_PRIVATE_NETWORKS", "true"),
    ("TIDEGATE__DELIVERY__OVERLOAD_REST_MS", "0"),
    ("TIDEGATE__LOG__CACHE_BYTES", "33554432"),
    ("TIDEGATE__LOG__FREE_SPACE_FLOOR_BYTES", "1048576"),
    ("TIDEGATE__LOGGING__LEVEL", "info"),
    ("TIDEGATE__LOGGING__FORMAT", "json"),
];

/// A process that was started: it may not be ready yet, and it is killed when dropped.
pub struct Running {
    child: Child,
}

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, and waits until the process is gone with all its sockets and locks.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // The process may have ended by itself, which is what a kill wants.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// The status, when the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A hub over a directory; the process may come and go, the directory stays.
pub struct Hub {
    dir: TempDir,
    settings: Vec<(String, String)>,
    running: Option<Running>,
    log: Arc<Mutex<String>>,
    public: String,
    admin: String,
    /// Where the public listener is to be.
    public_at: String,
}

impl Hub {
    /// A hub with the settings of the tests, ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A ready hub with further settings, `SECTION__KEY` each.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut hub = Self::stopped(settings);
        hub.restart().await;
        hub
    }

    /// A hub that was never started.
    pub fn stopped(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("tidegate-it-").tempdir().unwrap();
        let own = settings.iter().map(|(key, value)| (format!("TIDEGATE__{key}"), (*value).to_owned()));
        let settings =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).chain(own).collect();
        let log = Arc::new(Mutex::new(String::new()));
        Self {
            dir,
            settings,
            running: None,
            log,
            public: String::new(),
            admin: String::new(),
            public_at: "127.0.0.1:0".to_owned(),
        }
    }

    /// Sets a variable of the environment for the runs to come.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the process and does not wait for it. The addresses of an earlier run are forgotten.
    pub fn spawn(&self) -> Running {
        let data_dir = self.data_dir();
        fs::create_dir_all(&data_dir).unwrap();
        // A file that is not there is as good as removed.
        fs::remove_file(data_dir.join("addresses.json")).ok();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--public", &self.public_at, "--admin", "127.0.0.1:0", "--data-dir"]).arg(&data_dir);
        let foreign = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE"));
        for (name, _) in foreign {
            command.env_remove(name);
        }
        command.envs(self.settings.iter().map(|(key, value)| (key, value)));
        command.current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        self.collect(child.stdout.take().unwrap());
        self.collect(child.stderr.take().unwrap());
        Running { child }
    }

    /// Keeps what the process says, in a thread that ends with it.
    fn collect(&self, stream: impl Read + Send + 'static) {
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let mut log = log.lock();
                log.push_str(&String::from_utf8_lossy(&line));
                log.push('\n');
            }
        });
    }

    /// Starts the hub on its directory and waits until it is ready.
    pub async fn restart(&mut self) {
        let running = self.spawn();
        self.adopt(running).await;
    }

    /// Starts the hub again with its public listener where it was.
    pub async fn restart_at(&mut self, public: &str) {
        self.public_at = public.to_owned();
        self.restart().await;
    }

    /// Makes a started process this hub's own and waits until it is ready.
    pub async fn adopt(&mut self, running: Running) {
        self.adopt_unready(running).await;
        let anyone = Api::anonymous(&self.admin);
        until("the hub is ready", || {
            assert!(self.ended().is_none(), "the hub ended before it was ready:\n{}", self.log());
            let anyone = anyone.clone();
            async move {
                let answer = anyone.try_send(reqwest::Method::GET, "/readyz", &[], None).await.ok()?;
                (answer.status == 200).then_some(())
            }
        })
        .await;
    }

    /// Makes a started process this hub's own and waits until it listens, ready or not.
    pub async fn adopt_unready(&mut self, running: Running) {
        self.running = Some(running);
        let addresses = until("the hub writes its addresses", || {
            assert!(self.ended().is_none(), "the hub ended while starting:\n{}", self.log());
            let addresses = read_addresses(&self.data_dir());
            async move { addresses }
        })
        .await;
        (self.public, self.admin) = addresses;
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut().and_then(Running::ended)
    }

    /// SIGKILL now.
    pub fn kill(&mut self) {
        self.running.take().expect("the hub runs").kill();
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        self.running.as_ref().expect("the hub runs").signal(Signal::TERM);
    }

    /// SIGHUP: the settings are read again.
    pub fn ask_to_reload(&self) {
        self.running.as_ref().expect("the hub runs").signal(Signal::HUP);
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_end(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the hub runs");
        until("the hub ends", || {
            let ended = running.ended();
            async move { ended }
        })
        .await
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait_end().await
    }

    /// Everything the processes of this hub said, on either stream.
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Forgets what was said so far.
    pub fn clear_log(&self) {
        self.log.lock().clear();
    }

    /// Most memory the process held so far, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        let id = self.running.as_ref().expect("the hub runs").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// The public listener's address.
    pub fn public_address(&self) -> &str {
        &self.public
    }

    /// The admin listener's address.
    pub fn admin_address(&self) -> &str {
        &self.admin
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> String {
        fs::read_to_string(self.data_dir().join("admin.token")).unwrap().trim().to_owned()
    }

    /// The administrator on the admin listener.
    pub fn admin(&self) -> Api {
        Api::with_bearer(&self.admin, &self.admin_token())
    }

    /// Nobody on the public listener.
    pub fn anonymous(&self) -> Api {
        Api::anonymous(&self.public)
    }

    /// An application on the public listener.
    pub fn public(&self, key: &str) -> Api {
        Api::with_key(&self.public, key)
    }

    /// A new key: its text.
    pub async fn key(&self, scopes: &[&str], org: Option<&str>) -> String {
        let mut wanted = json!({"application": "it", "scopes": scopes});
        if let Some(org) = org {
            wanted["org"] = Value::from(org);
        }
        let made = self.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
        made["key"].as_str().unwrap().to_owned()
    }

    /// An application of org `acme` that may do everything.
    pub async fn acme(&self) -> Api {
        let key = self.key(&["publish", "consume", "work", "manage", "read"], Some("acme")).await;
        self.public(&key)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the last the hub said ---\n{}\n---", tail.join("\n"));
        }
    }
}

fn read_addresses(data_dir: &Path) -> Option<(String, String)> {
    let text = fs::read_to_string(data_dir.join("addresses.json")).ok()?;
    let addresses: Value = serde_json::from_str(&text).ok()?;
    let bare = |name: &str| Some(addresses[name].as_str()?.trim_start_matches("http://").to_owned());
    Some((bare("public")?, bare("admin")?))
}
