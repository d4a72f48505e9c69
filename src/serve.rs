//! `tidegate serve`: a hub with its listeners, until a signal ends it.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Loaded;
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

/// The admin token: from the environment, else from its file, which is made (and the token shown) at the first start.
fn admin_token(data_dir: &Path) -> anyhow::Result<Secret> {
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
            crate::cli::say_once(&format!("admin token: {} (kept in {})", token.expose(), path.display()));
            Ok(token)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Runs the hub until SIGTERM or SIGINT; a second signal ends the wait for what is in flight. SIGHUP reads the log level
/// again.
///
/// # Errors
/// When the hub cannot start.
pub async fn run(loaded: Loaded, log: LogHandle) -> anyhow::Result<()> {
    let data_dir = loaded.config.server.data_dir.clone();
    let config = loaded.config.clone();
    let addresses = data_dir.join(ADDRESSES_FILE);
    // An address from an earlier run must not be taken for this one's.
    match std::fs::remove_file(&addresses) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| addresses.display().to_string()),
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let hub = tokio::task::spawn_blocking(move || Hub::open(HubOptions::new(config))).await??;
    let token = admin_token(&data_dir)?;
    let servers = http::start(&hub, &token).context("binding the listeners")?;
    write_private(&addresses, &serde_json::to_string(&servers.addresses)?)
        .with_context(|| addresses.display().to_string())?;
    tracing::info!(public = %servers.addresses.public, admin = %servers.addresses.admin, version = env!("CARGO_PKG_VERSION"), "tidegate is ready");

    wait_for_end(&mut terminate, &mut interrupt, &mut hangup, &loaded, &log).await;
    tracing::info!("stopping: no new requests, then what is in flight, then the store");
    let stop = async {
        servers.stop().await;
        hub.stop().await;
    };
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        _ = terminate.recv() => tracing::warn!("a second signal: stopping at once"),
        _ = interrupt.recv() => tracing::warn!("a second signal: stopping at once"),
    }
    Ok(())
}

async fn wait_for_end(
    terminate: &mut Signal,
    interrupt: &mut Signal,
    hangup: &mut Signal,
    loaded: &Loaded,
    log: &LogHandle,
) {
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = hangup.recv() => match loaded.reload() {
                Ok(fresh) => match log.set_level(&fresh.config.logging.level) {
                    Ok(()) => tracing::info!(level = fresh.config.logging.level, "settings read again; other changes need a restart"),
                    Err(error) => tracing::error!(%error, "the log level was not changed"),
                },
                Err(error) => tracing::error!(%error, "the settings do not load; nothing has changed"),
            },
        }
    }
}
