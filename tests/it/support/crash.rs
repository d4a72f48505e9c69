//! What tests that kill the hub again and again have in common: the moments of the kills, and clients that find the hub
//! again after each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::Value;
use tidegate::ground::random::{SeededRandom, SharedRandom, SystemRandom};

use super::{Answer, Api, Hub};

/// A hub that comes and goes, as its clients find it.
pub struct Prey {
    /// Where the hub listens; none while it is down.
    address: Mutex<Option<String>>,
    /// Requests that counted since the hub was last started.
    in_this_run: AtomicU64,
    /// Past this many of them clients rest until the next kill, so that what the end checks stays bounded.
    run_max: u64,
    stop: AtomicBool,
    key: String,
}

impl Prey {
    /// A hub that runs, for clients with this key.
    pub fn new(hub: &Hub, key: &str, run_max: u64) -> Self {
        Self {
            address: Mutex::new(Some(hub.public_address().to_owned())),
            in_this_run: AtomicU64::new(0),
            run_max,
            stop: AtomicBool::new(false),
            key: key.to_owned(),
        }
    }

    /// A client with connections of its own; where the hub is it learns with each request.
    pub fn client(&self) -> Api {
        Api::with_key("", &self.key).pooled()
    }

    /// Clients are to come to an end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether clients are to come to an end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes something that counts against the bound of this run.
    pub fn count(&self) {
        self.in_this_run.fetch_add(1, Ordering::Relaxed);
    }

    fn address(&self) -> Option<String> {
        let resting = self.in_this_run.load(Ordering::Relaxed) >= self.run_max && !self.is_stopping();
        self.address.lock().clone().filter(|_| !resting)
    }

    /// Whether a request would be sent now.
    pub fn is_reachable(&self) -> bool {
        self.address().is_some()
    }

    /// One request; none while the hub is down or clients rest, and when the connection broke: then its outcome is unknown.
    pub async fn send(
        &self,
        api: &Api,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Option<Answer> {
        let Some(address) = self.address() else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return None;
        };
        let headers = [&[("content-type", "application/json")], headers].concat();
        let body = body.map(|body| body.to_string().into_bytes());
        api.at(&address).try_send(method, path, &headers, body).await.ok()
    }

    /// Sends a request until it is answered with one of these statuses, over as many runs of the hub as that takes. Until
    /// then it may be told to come back.
    pub async fn insist(
        &self,
        api: &Api,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
        statuses: &[u16],
    ) -> Value {
        loop {
            match self.send(api, Method::POST, path, headers, Some(body)).await {
                Some(answer) if statuses.contains(&answer.status) => return answer.json(),
                Some(answer) => {
                    assert_eq!(answer.status, 503, "{}", answer.text);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                None => {}
            }
        }
    }

    fn is_down(&self) {
        *self.address.lock() = None;
    }

    fn is_up(&self, hub: &Hub) {
        self.in_this_run.store(0, Ordering::Relaxed);
        *self.address.lock() = Some(hub.public_address().to_owned());
    }
}

/// The moments of the kills: those of `CRASH_SEED`, or new ones, which are told.
pub struct Kills {
    random: SharedRandom,
    pub seed: u64,
    /// Longest time between a start and a kill.
    run_ms_max: u64,
}

/// When a kill comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Under load.
    Running,
    /// At once, and again while the hub recovers.
    Recovering,
}

impl Kills {
    pub fn new(run_ms_max: u64) -> Self {
        let seed = match std::env::var("CRASH_SEED") {
            Ok(text) => text.parse().unwrap(),
            Err(_) => {
                let mut bytes = [0_u8; 8];
                SystemRandom::shared().fill(&mut bytes);
                u64::from_le_bytes(bytes)
            }
        };
        eprintln!("CRASH_SEED={seed}");
        Self { random: SeededRandom::shared(seed), seed, run_ms_max }
    }

    pub fn below(&self, bound: u64) -> u64 {
        (self.random.fraction() * bound as f64) as u64
    }

    /// Kills the hub and starts it again; one kill in four hits it once more before it is ready. `down` is called while it is
    /// down. The moment of the kill is chance; nothing may depend on how much happened before it.
    pub async fn strike(&self, hub: &mut Hub, prey: &Prey, down: impl AsyncFn()) -> Kill {
        let kill = if self.below(4) == 0 { Kill::Recovering } else { Kill::Running };
        tokio::time::sleep(Duration::from_millis(30 + self.below(self.run_ms_max))).await;
        hub.kill();
        prey.is_down();
        down().await;
        if kill == Kill::Recovering {
            let recovering = hub.spawn();
            tokio::time::sleep(Duration::from_millis(self.below(150))).await;
            recovering.kill();
            down().await;
        }
        hub.restart().await;
        prey.is_up(hub);
        kill
    }
}
