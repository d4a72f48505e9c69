//! The ordered stop: no claims any more, what is out is waited for, positions are written.
//!
//! Its limits are of the process and not of what is stored, so they run in real time whatever clock the hub was given.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Consumer, Hub, Service};
use crate::inbox::messages::{Inspect, Quiesce};
use crate::router::Inboxes as _;
use crate::router::messages::CheckpointNow;
use crate::supervise::Stop;

/// A step of a job that is under way may take this long at the stop.
const JOBS_REST: Duration = Duration::from_secs(5);
/// How often it is asked whether everything that was out is back.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Hub {
    /// Waits for what is out (up to `server.shutdown_ms`), then writes and syncs where everyone stands.
    pub(super) async fn settle_down(&self) {
        let inner = &self.inner;
        self.close_feeds();
        if timeout(JOBS_REST, inner.jobs.rest()).await.is_err() {
            tracing::warn!("a step of a job takes long; it is taken again");
        }
        // What falls due from now on waits for the next start.
        inner.schedule.hint(Stop);
        let paused = self.pause_all();
        let all_back = async {
            while self.in_flight(&paused).await > 0 {
                sleep(LOOK_AGAIN).await;
            }
        };
        if timeout(Duration::from_millis(inner.config.server.shutdown_ms), all_back).await.is_err() {
            tracing::warn!("deliveries were still out at the end of server.shutdown_ms; they come again");
        }
        // Inboxes have answered after their last settlement, so what they reported reaches the router before this.
        self.report_all(&paused).await;
        match inner.router.ask(CheckpointNow).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last checkpoint was not written; some deliveries come again"),
            Err(error) => tracing::warn!(%error, "the last checkpoint was not written; some deliveries come again"),
        }
        self.save_key_uses().await;
        let engine = Arc::clone(&inner.engine);
        match crate::inbox::catch_up::blocking(move || engine.sync()).await {
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the last sync failed"),
        }
    }

    /// Tells every inbox to give out nothing more. Returns those that run.
    fn pause_all(&self) -> Vec<Arc<Consumer>> {
        let running = |consumer: &Arc<Consumer>| match self.inner.directory.running(&consumer.id) {
            Some(inbox) => inbox.tell(Quiesce).is_ok(),
            None => false,
        };
        self.inner.directory.consumers().into_iter().filter(running).collect()
    }

    /// Claims that are out, those of pull consumers aside: their clients cannot answer any more.
    async fn in_flight(&self, consumers: &[Arc<Consumer>]) -> usize {
        let mut count = 0;
        for consumer in consumers.iter().filter(|one| !matches!(one.service, Service::Pull(_))) {
            let Some(inbox) = self.inner.directory.running(&consumer.id) else { continue };
            count += inbox.ask(Inspect { seqs: Vec::new() }).await.map_or(0, |view| view.counts.in_flight);
        }
        count
    }

    /// Has every inbox write its attempts and tell the router its position.
    async fn report_all(&self, consumers: &[Arc<Consumer>]) {
        for consumer in consumers {
            let Some(inbox) = self.inner.directory.running(&consumer.id) else { continue };
            // An inbox that is being restarted reports nothing: its last position on disk holds.
            if inbox.ask(Quiesce).await.is_err() {
                tracing::debug!(consumer = %consumer.id, "an inbox did not report at the stop");
            }
        }
    }
}
