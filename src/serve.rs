//! Where the command line hands over to the hub.

use crate::config::Loaded;
use crate::logging::LogHandle;

/// Runs the hub until it is told to stop.
///
/// # Errors
/// When it cannot start, or ends for another reason than being told to.
pub async fn run(loaded: Loaded, _log: LogHandle) -> anyhow::Result<()> {
    anyhow::bail!("not wired: no hub to start in {}", loaded.config.server.data_dir.display())
}
