//! The pause of the whole hub (OPS-2): events are taken, nothing is delivered to any consumer until it is resumed.
//!
//! It is a hold of every inbox, so `explain` and the statistics name it as the reason. What is out when it begins is
//! finished. It is not kept: a hub starts as `server.paused` says, so that a pause that was forgotten ends with a restart
//! and one that is wanted for inspection is asked for with `--paused`.

use super::Hub;
use crate::ground::context::WriteContext;
use crate::inbox::messages::Reconfigure;
use crate::router::Inboxes as _;

impl Hub {
    /// Whether nothing is delivered now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.inner.pause.is_on()
    }

    /// Delivers nothing more, to anyone, until [`Hub::resume`]. Returns whether that is new.
    pub fn pause(&self, context: &WriteContext) -> bool {
        let new = !self.inner.pause.set(true);
        if new {
            tracing::warn!(by = context.by, correlation_id = context.correlation_id, "the hub is paused");
            self.look_at_pause();
        }
        new
    }

    /// Ends a pause. Returns whether there was one.
    pub fn resume(&self, context: &WriteContext) -> bool {
        let was = self.inner.pause.set(false);
        if was {
            tracing::warn!(by = context.by, correlation_id = context.correlation_id, "the hub goes on delivering");
            self.look_at_pause();
        }
        was
    }

    /// Every inbox that runs takes a turn, in which it looks. One that is being made meanwhile looks in its first turn,
    /// which comes after the pause was set: the directory gives it out only when it is made.
    fn look_at_pause(&self) {
        for consumer in self.inner.directory.consumers() {
            if let Some(inbox) = self.inner.directory.running(&consumer.id) {
                inbox.hint(Reconfigure);
            }
        }
    }
}
