//! The ordered stop: no claims any more, what is out is waited for, positions are written.

use std::sync::Arc;

use super::{Consumer, Hub};
use crate::inbox::messages::{Inspect, Quiesce};
use crate::router::Inboxes as _;

impl Hub {
    /// Tells every inbox to give out nothing more. Returns those that run.
    pub(super) fn pause_all(&self) -> Vec<Arc<Consumer>> {
        let running = |consumer: &Arc<Consumer>| match self.inner.directory.running(&consumer.id) {
            Some(inbox) => inbox.tell(Quiesce).is_ok(),
            None => false,
        };
        self.inner.directory.consumers().into_iter().filter(running).collect()
    }

    /// Claims that are out.
    pub(super) async fn in_flight(&self, consumers: &[Arc<Consumer>]) -> usize {
        let mut count = 0;
        for consumer in consumers {
            let Some(inbox) = self.inner.directory.running(&consumer.id) else { continue };
            count += inbox.ask(Inspect { seqs: Vec::new() }).await.map_or(0, |view| view.counts.in_flight);
        }
        count
    }

    /// Has every inbox write its attempts and tell the router its position.
    pub(super) async fn report_all(&self, consumers: &[Arc<Consumer>]) {
        for consumer in consumers {
            let Some(inbox) = self.inner.directory.running(&consumer.id) else { continue };
            // An inbox that is being restarted reports nothing: its last position on disk holds.
            if inbox.ask(Quiesce).await.is_err() {
                tracing::debug!(consumer = %consumer.id, "an inbox did not report at the stop");
            }
        }
    }
}
