//! A hub with its listeners as a process runs it: started, announced, ended by a signal. `tidegate serve` is this alone.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{Config, Loaded};
use crate::ground::random::{Random as _, SystemRandom};
use crate::ground::secret::{Secret, write_private};
use crate::http;
use crate::hub::{Hub, HubOptions};
use crate::logging::LogHandle;

/// Environment variable with the admin token.
pub const TOKEN_ENV: &str = "TIDEGATE_ADMIN_TOKEN";
/// File with the admin token, in the data directory.
pub const TOKEN_FILE: &str = "admin.token";
/// File with the addresses of the listeners, in the data directory.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// The admin token: from the environment, else from its file, which is made (and the token told through
/// `announce`) at the first start.
fn admin_token(data_dir: &Path, announce: fn(&str)) -> anyhow::Result<Secret> {
    if let Some(token) = std::env::var(TOKEN_ENV).ok().filter(|token| !token.is_empty()) {
        return Ok(Secret::new(token));
    }
    let path = data_dir.join(TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(text.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0_u8; 32];
            SystemRandom.fill(&mut bytes);
            let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            let token = Secret::new(format!("tga_{encoded}"));
            write_private(&path, token.expose()).with_context(|| path.display().to_string())?;
            // To the terminal, once, and never to the log.
            announce(&format!("admin token: {} (kept in {})", token.expose(), path.display()));
            Ok(token)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// A hub that runs with both its listeners.
#[derive(Debug)]
pub struct Running {
    /// The hub.
    pub hub: Hub,
    /// Its listeners.
    pub servers: http::Servers,
    /// The admin token.
    pub token: Secret,
}

impl Running {
    /// Opens the hub, binds the listeners on the actor system of the caller's thread and writes their addresses into the
    /// data directory. A new admin token is told once through `announce`.
    ///
    /// # Errors
    /// When the hub cannot start.
    pub async fn start(config: &Config, announce: fn(&str)) -> anyhow::Result<Self> {
        let data_dir = config.server.data_dir.clone();
        let addresses = data_dir.join(ADDRESSES_FILE);
        // An address from an earlier run must not be taken for this one's.
        match std::fs::remove_file(&addresses) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| addresses.display().to_string()),
        }
        let options = HubOptions::new(config.clone());
        let hub = tokio::task::spawn_blocking(move || Hub::open(options)).await??;
        let token = admin_token(&data_dir, announce)?;
        let servers = http::start(&hub, &token).context("binding the listeners")?;
        write_private(&addresses, &serde_json::to_string(&servers.addresses)?)
            .with_context(|| addresses.display().to_string())?;
        tracing::info!(public = %servers.addresses.public, admin = %servers.addresses.admin, version = env!("CARGO_PKG_VERSION"), "tidegate is ready");
        Ok(Self { hub, servers, token })
    }

    /// Stops in order: listeners, what is in flight, the store. A signal meanwhile ends the wait.
    pub async fn stop(self, signals: &mut Signals) {
        tracing::info!("stopping: no new requests, then what is in flight, then the store");
        let stop = async {
            self.servers.stop().await;
            self.hub.stop().await;
        };
        tokio::select! {
            () = stop => tracing::info!("stopped"),
            () = signals.end() => tracing::warn!("a second signal: stopping at once"),
        }
    }
}

/// The signals that a running hub heeds, caught from when this is made.
#[derive(Debug)]
pub struct Signals {
    ending: Ending,
    hangup: Signal,
}

/// What ends a hub.
#[derive(Debug)]
struct Ending {
    terminate: Signal,
    interrupt: Signal,
    /// Ends with standard input, when that is watched.
    input: Option<oneshot::Receiver<()>>,
}

impl Ending {
    /// Ends at the next of them. Cancel-safe.
    async fn next(&mut self) {
        let input = async {
            match &mut self.input {
                Some(input) => input.await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => return,
            _ = self.interrupt.recv() => return,
            _ = input => {}
        }
        // It ends once: what comes after that is a second signal.
        self.input = None;
    }
}

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            ending: Ending {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                input: None,
            },
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Takes the end of standard input for a signal to end, too: whoever holds the other end of the pipe may die in any
    /// way, and the hub does not outlive it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn watch_input(&mut self) -> std::io::Result<()> {
        let (ended, input) = oneshot::channel();
        // A thread of its own, because a read that never ends would keep the runtime from ending.
        std::thread::Builder::new().name("stdin-watch".into()).spawn(move || {
            if let Err(error) = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()) {
                tracing::warn!(%error, "standard input cannot be read; that counts as its end");
            }
            // Fails when the hub is ending already.
            ended.send(()).ok();
        })?;
        self.ending.input = Some(input);
        Ok(())
    }

    /// Ends at the next SIGTERM or SIGINT, or with standard input when that is watched. Cancel-safe.
    pub async fn end(&mut self) {
        self.ending.next().await;
    }

    /// The same, and reads the log level and the declared upstreams again at each SIGHUP. Cancel-safe, but for a reload
    /// that is under way: it may be made in part.
    pub async fn end_or_reload(&mut self, loaded: &Loaded, log: &LogHandle, hub: &Hub) {
        loop {
            tokio::select! {
                () = self.ending.next() => return,
                _ = self.hangup.recv() => reload(loaded, log, hub).await,
            }
        }
    }
}

async fn reload(loaded: &Loaded, log: &LogHandle, hub: &Hub) {
    match loaded.reload() {
        Ok(fresh) => {
            match log.set_level(&fresh.config.logging.level) {
                Ok(()) => {
                    tracing::info!(
                        level = fresh.config.logging.level,
                        "settings read again; other changes than those of upstreams need a restart"
                    );
                }
                Err(error) => tracing::error!(%error, "the log level was not changed"),
            }
            if let Err(problem) = hub.declare_upstreams(&fresh.config.upstreams).await {
                tracing::error!(%problem, "the declared upstreams do not fit; none of them has changed");
            }
        }
        Err(error) => tracing::error!(%error, "the settings do not load; nothing has changed"),
    }
}

/// What ends a hub besides SIGTERM and SIGINT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Nothing.
    Signal,
    /// The end of standard input.
    InputEnds,
}

/// Runs the hub until SIGTERM or SIGINT, or what `until` says; a second signal ends the wait for what is in flight. SIGHUP
/// reads the log level and the declared upstreams again.
///
/// # Errors
/// When the hub cannot start.
pub async fn run(loaded: Loaded, log: LogHandle, until: Until) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    match until {
        Until::Signal => {}
        Until::InputEnds => signals.watch_input().context("watching standard input")?,
    }
    let running = Running::start(&loaded.config, crate::cli::say_once).await?;
    signals.end_or_reload(&loaded, &log, &running.hub).await;
    running.stop(&mut signals).await;
    Ok(())
}
