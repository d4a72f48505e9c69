//! The settings as the rest of the hub reads them: plain structs, already checked.
//!
//! A section has no default of its own in code: `config/default.toml` names every key, and a test holds the two equal.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::ground::random::Random;
use crate::ground::secret::{Sealer, Secret, SecretError};

/// Every setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Systems that the hub calls, as they are declared here; others are declared over the admin API.
    pub upstreams: Vec<UpstreamTable>,
    /// What all upstreams share.
    pub upstream: Upstream,
    /// Listeners, threads, timeouts of the front door.
    pub server: Server,
    /// Bounds of what a producer may send.
    pub limits: Limits,
    /// The log: memory, segments, retention.
    pub log: Log,
    /// Events that are held back until they are due.
    pub schedule: Schedule,
    /// Links between entities.
    pub links: Links,
    /// In-process handlers; changeable at run time.
    pub outbox: OutboxSettings,
    /// Windows and cursors of consumers.
    pub inbox: Inbox,
    /// The change feed.
    pub cdc: Cdc,
    /// Webhook deliveries.
    pub delivery: Delivery,
    /// Clients of pull consumers.
    pub pull: Pull,
    /// Circuit breakers of webhooks.
    pub breaker: Breaker,
    /// Idempotency keys.
    pub idempotency: Idempotency,
    /// Long work in steps: replays, redrives.
    pub jobs: Jobs,
    /// Exports and imports.
    pub bulk: Bulk,
    /// When owners of webhooks are told that they fail, and when webhooks are paused.
    pub health: Health,
    /// Where the key that seals secrets comes from.
    pub secrets: Secrets,
    /// The hub's own log.
    pub logging: Logging,
    /// Traces of events.
    pub trace: Trace,
    /// Restarts of actors.
    pub supervise: Supervise,
    /// Fault injection.
    pub faults: Faults,
}

/// The declaration of one upstream, as it stands in the file: who reads it is `upstream::record`. Secrets are elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpstreamTable(pub serde_json::Map<String, serde_json::Value>);

/// What all upstreams share (UPS-3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Answers of reads that are kept.
    pub cache_entries_max: u64,
    /// And the memory they take, in bytes.
    pub cache_bytes_max: u64,
}

/// Listeners, threads, timeouts of the front door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The one directory the hub owns.
    pub data_dir: PathBuf,
    /// Producers, consumers, workers. Port 0 picks one.
    pub public: SocketAddr,
    /// Console, admin API, metrics.
    pub admin: SocketAddr,
    /// HTTP threads of the public listener; 0 means one per core. See [`Server::worker_count`].
    pub workers: usize,
    /// An idle connection is closed after this.
    pub keep_alive_ms: u64,
    /// A client must have sent its request head by then.
    pub slow_request_ms: u64,
    /// A client must have sent its body by then.
    pub body_timeout_ms: u64,
    /// Connections of one listener.
    pub connections_max: usize,
    /// What is in flight may take this long after SIGTERM.
    pub shutdown_ms: u64,
    /// Whether the hub starts paused: it takes events and delivers nothing until it is resumed.
    pub paused: bool,
}

impl Server {
    /// HTTP threads, with 0 resolved to the cores of the machine.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => cores(),
            given => given,
        }
    }
}

/// Bounds of what a producer may send (EVT-2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest body of one event.
    pub event_bytes_max: usize,
    /// Most events of a batch.
    pub batch_events_max: usize,
    /// Largest body of a batch.
    pub batch_bytes_max: usize,
}

/// The log: memory, segments, retention (OUT-9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Page cache of the store.
    pub cache_bytes: u64,
    /// Events of one segment; retention drops whole segments.
    pub segment_events: u64,
    /// Appends that share one sync.
    pub group_events_max: usize,
    /// Bytes accepted and not yet synced; past it producers are told to come back.
    pub ingest_queue_bytes: usize,
    /// Newest events kept in memory for consumers that keep up.
    pub tail_ring_bytes: usize,
    /// Age at which events may go.
    pub retention_ms: u64,
    /// Size at which the oldest events may go; 0 means no bound. See [`Log::retention_bytes_max`].
    pub retention_bytes: u64,
    /// How far back what a live consumer still needs is kept. Never less than `retention_ms`.
    pub max_consumer_lag_ms: u64,
    /// With less free disk than this nothing is accepted.
    pub free_space_floor_bytes: u64,
    /// How often retention looks.
    pub retention_check_ms: u64,
}

impl Log {
    /// The bound in bytes, if there is one.
    #[must_use]
    pub fn retention_bytes_max(&self) -> Option<u64> {
        (self.retention_bytes > 0).then_some(self.retention_bytes)
    }
}

/// Links between entities (LNK-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Most links of one org.
    pub per_org_max: u64,
}

/// Events that are held back until they are due (ING-7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Furthest time ahead.
    pub ahead_ms_max: u64,
    /// Most events that wait.
    pub events_max: usize,
    /// Most bytes of events that wait.
    pub bytes_max: u64,
}

/// In-process handlers (OUT-7): changeable at run time through [`OutboxSettings::patch`] and kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxSettings {
    /// Whether new events are taken.
    pub enabled: bool,
    /// Whether events are handed on.
    pub processor_enabled: bool,
    /// Whether consumers with something pending at the last end are started at once; if not, the safety net or their
    /// next event starts them.
    pub startup_drain_enabled: bool,
    /// The safety net behind the notifier while there is work.
    pub polling_interval_ms: u64,
    /// The same while there is none.
    pub idle_polling_interval_ms: u64,
    /// Deliveries claimed at once.
    pub batch_size: u32,
    /// Attempts before a delivery is given up.
    pub max_attempts: u32,
    /// A handler that neither ends nor renews within this loses the delivery.
    pub processing_lease_ms: u64,
    /// Wait before the second attempt, doubled with each further one.
    pub retry_base_delay_ms: u64,
    /// Whether a delivery given up leaves a dead letter.
    pub dead_letter_enabled: bool,
    /// Consumers with something pending that are being started at a time.
    pub startup_drain_batch_size: u32,
}

/// The settings that hold now: replaced as a whole when one is changed, read by whom they concern at each use, so that
/// an actor that is built anew has the current ones.
pub type LiveSettings = Arc<ArcSwap<OutboxSettings>>;

/// Windows and cursors of consumers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbox {
    /// Matches one consumer holds in memory.
    pub window_events: usize,
    /// Bytes one consumer holds in memory.
    pub window_bytes: usize,
    /// Failed deliveries that wait; past it the cursor stops.
    pub parked_max: usize,
    /// How often settled work is written.
    pub checkpoint_ms: u64,
    /// A consumer with nothing to do ends its actors after this.
    pub idle_ms: u64,
    /// Consumers that read the log at once because they are behind.
    pub catch_up_readers: usize,
}

/// The change feed (CDC-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cdc {
    /// Streams that may be open.
    pub streams_max: usize,
    /// How long a stream is silent at most.
    pub heartbeat_ms: u64,
    /// Readers of the feed that read the store at once.
    pub readers: usize,
}

/// Webhook deliveries (WHK-5, WHK-6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Whether webhooks may point at loopback and private addresses.
    pub allow_private_networks: bool,
    /// Private networks that webhooks may point at all the same.
    pub allowed_networks: Vec<IpNet>,
    /// For the connection alone. Never more than `total_timeout_ms`.
    pub connect_timeout_ms: u64,
    /// For connect, send and answer together.
    pub total_timeout_ms: u64,
    /// Deliveries in flight to one webhook.
    pub concurrency: usize,
    /// How long attempts are kept.
    pub attempts_retention_ms: u64,
    /// How long dead letters are kept (RTY-3).
    pub dead_letter_retention_ms: u64,
    /// Threads that deliver; 0 means one per core, at most [`ARBITERS_DEFAULT_MAX`]. See [`Delivery::arbiter_count`].
    pub arbiters: usize,
    /// How long an endpoint rests that answers 429 or 503 without saying for how long; 0 means not at all.
    pub overload_rest_ms: u64,
    /// Authorities trusted for https beside those of the machine: a file of PEM certificates; empty means none.
    pub extra_ca_file: PathBuf,
    /// The proxy that deliveries go through, without credentials; empty means none. See [`Delivery::proxy_url`].
    pub proxy: String,
    /// When a failed delivery is tried again.
    pub retry: RetrySchedule,
}

/// Clients of pull consumers (INB-5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// Polls that wait and streams that are open, of every consumer together.
    pub clients_max: usize,
    /// The same of one consumer.
    pub consumer_clients_max: usize,
    /// A stream says this often that it is alive; a WebSocket whose client is silent for three times as long is closed.
    pub heartbeat_ms: u64,
    /// A stream whose client takes nothing for this long is closed.
    pub send_timeout_ms: u64,
}

/// Threads that deliver when the number is left to the hub.
pub const ARBITERS_DEFAULT_MAX: usize = 4;

impl Delivery {
    /// The proxy, if there is one.
    ///
    /// # Errors
    /// What the text is instead of an `http` or `https` URL without credentials.
    pub fn proxy_url(&self) -> Result<Option<Url>, String> {
        if self.proxy.is_empty() {
            return Ok(None);
        }
        let fail = |reason: &str| Err(format!("delivery.proxy: {reason}"));
        match Url::parse(&self.proxy) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => fail("no credentials: this is shown"),
            Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => fail("an http or https URL"),
            Ok(url) => Ok(Some(url)),
            Err(error) => fail(&error.to_string()),
        }
    }

    /// Threads that deliver, with 0 resolved.
    #[must_use]
    pub fn arbiter_count(&self) -> usize {
        match self.arbiters {
            0 => cores().min(ARBITERS_DEFAULT_MAX),
            given => given,
        }
    }
}

/// A fixed list of waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySchedule {
    /// The wait after each failed attempt; attempts = waits + 1.
    pub delays_ms: Vec<u64>,
    /// Fraction by which a wait is moved at most, either way.
    pub jitter: f64,
}

/// Circuit breakers of webhooks (BRK-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Consecutive failures that open it.
    pub failure_threshold: u32,
    /// Successful probes that close it.
    pub success_threshold: u32,
    /// From open to the first probe.
    pub cooldown_ms: u64,
    /// Repeated opening doubles the cooldown up to this.
    pub cooldown_cap_ms: u64,
    /// Probes at a time.
    pub probes_max: u32,
}

/// Long work in steps: replays, redrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// Jobs that run at once; the others wait.
    pub running_max: usize,
    /// Jobs kept that have ended.
    pub finished_max: usize,
    /// How long they are kept.
    pub finished_ms: u64,
}

/// Exports and imports (BLK-1, BLK-2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bulk {
    /// Bytes of a part of an export before they are packed, when its request does not say.
    pub part_bytes: u64,
    /// Bytes of all exports on disk.
    pub exports_bytes_max: u64,
    /// How long exports that have ended are kept.
    pub exports_ms: u64,
    /// Bytes of one upload.
    pub import_bytes_max: u64,
    /// Bytes of all uploads on disk.
    pub imports_bytes_max: u64,
    /// Imports that are kept, uploads among them.
    pub imports_max: usize,
    /// How long an upload that nothing is sent to, and an import that has ended, is kept.
    pub imports_ms: u64,
    /// Events a second of an import whose request does not say; 0 means as fast as live traffic lets it.
    pub import_rate: u32,
}

/// When owners of webhooks are told that they fail, and when webhooks are paused (WHK-7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Failures in a row after which a webhook is told to fail.
    pub failing_after: u32,
    /// Time of nothing but failures that pauses it; 0 means never.
    pub pause_after_ms: u64,
    /// Failures in a row that pause it; 0 means never.
    pub pause_after_failures: u32,
}

/// Idempotency keys of clients and programs (IDM-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// How long a key is kept from the first request under it.
    pub keep_ms: u64,
    /// How long the same request waits for the answer of the first one.
    pub wait_ms: u64,
    /// How long a key is held whose holder does not answer.
    pub lock_ms: u64,
    /// Largest answer that is kept; a larger one is recorded as done.
    pub answer_bytes_max: usize,
    /// Keys kept for one org; past it the oldest go.
    pub org_keys_max: usize,
    /// Bytes of answers kept for one org; past it the oldest go.
    pub org_bytes_max: u64,
    /// Keys kept in all.
    pub keys_max: usize,
    /// No key younger than this goes to make room; a new one is refused then.
    pub keep_at_least_ms: u64,
}

/// Where the key that seals secrets comes from (SEC-6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// File with 32 bytes in base64; empty means `store.key` in the data directory, made when missing.
    pub key_file: PathBuf,
    /// Environment variable that holds the key; when it is set no file is read. Empty means none is asked.
    pub key_env: String,
}

impl Secrets {
    /// The file the key is read from when the environment has none.
    #[must_use]
    pub fn key_path(&self, data_dir: &Path) -> PathBuf {
        if self.key_file.as_os_str().is_empty() { data_dir.join("store.key") } else { self.key_file.clone() }
    }

    /// The sealer of this hub: key from the environment, else from the file, which is made when missing.
    ///
    /// # Errors
    /// When the variable or the file holds no key, or the file cannot be read or made.
    pub fn sealer(&self, data_dir: &Path, random: &dyn Random) -> Result<Sealer, SecretError> {
        let given = if self.key_env.is_empty() { None } else { std::env::var(&self.key_env).ok() };
        self.sealer_with(given.map(Secret::new), data_dir, random)
    }

    fn sealer_with(&self, given: Option<Secret>, data_dir: &Path, random: &dyn Random) -> Result<Sealer, SecretError> {
        match given {
            Some(key) => Sealer::from_base64(&key),
            None => Sealer::from_file(&self.key_path(data_dir), random),
        }
    }
}

/// The hub's own log (OBS-2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// `info`, or with modules: `info,tidegate::outbox=debug`. Changeable with SIGHUP.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the hub's log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Traces of events (OBS-3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The collector that takes traces over OTLP/HTTP; empty means no spans are made.
    pub otlp_endpoint: String,
    /// Share of the traces that begin here which are recorded; others are as who began them says.
    pub sampling_ratio: f64,
    /// Spans that wait to be sent; past it they are dropped and counted.
    pub queue_spans_max: usize,
    /// For one request to the collector.
    pub timeout_ms: u64,
}

/// Restarts of actors (OPS-4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supervise {
    /// Restarts of one actor within the window; past it readiness is red.
    pub restarts_max: u32,
    /// The window.
    pub window_ms: u64,
    /// Before the first restart, doubled with each.
    pub backoff_ms: u64,
    /// Longest wait before a restart.
    pub backoff_cap_ms: u64,
}

/// Fault injection, for tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Whether the admin endpoint that injects faults answers.
    pub enabled: bool,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::random::SeededRandom;

    #[test]
    fn the_store_key_comes_from_the_environment_before_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let random = SeededRandom::shared(1);
        let secrets = Config::default().secrets;
        let key = Secret::new("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        let sealed = Sealer::new(&[7; 32]).seal(&Secret::new("x"), "c", &*random);
        let sealer = secrets.sealer_with(Some(key), folder.path(), &*random).expect("a key");
        assert_eq!(sealer.open(&sealed, "c").expect("opens").expose(), "x");
        assert!(!folder.path().join("store.key").exists());
        assert!(secrets.sealer_with(Some(Secret::new("short")), folder.path(), &*random).is_err());

        secrets.sealer_with(None, folder.path(), &*random).expect("made");
        assert!(folder.path().join("store.key").exists());
    }

    #[test]
    fn a_proxy_is_a_url_without_credentials() {
        let mut delivery = Config::default().delivery;
        assert_eq!(delivery.proxy_url(), Ok(None));
        delivery.proxy = "http://proxy.internal:3128".to_owned();
        assert_eq!(delivery.proxy_url().map(|url| url.and_then(|url| url.port())), Ok(Some(3128)));
        for wrong in ["proxy:3128", "http://u:p@proxy", "socks5://proxy", "http://", "x"] {
            delivery.proxy = wrong.to_owned();
            assert!(delivery.proxy_url().is_err(), "{wrong}");
        }
    }

    #[test]
    fn zero_threads_means_what_the_machine_has() {
        let mut config = Config::default();
        assert!(config.server.worker_count() >= 1);
        assert!((1..=ARBITERS_DEFAULT_MAX).contains(&config.delivery.arbiter_count()));
        config.delivery.arbiters = 9;
        assert_eq!(config.delivery.arbiter_count(), 9);
    }
}
