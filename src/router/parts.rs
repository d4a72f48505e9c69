//! What the router is built from, and how others reach it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::actor::RouterActor;
use crate::config::LiveSettings;
use crate::ground::ids::ConsumerId;
use crate::inbox::actor::InboxActor;
use crate::inbox::ledger::Ledger;
use crate::inbox::spec::ConsumerSpec;
use crate::metrics::Metrics;
use crate::outbox::{OutboxActor, Tail};
use crate::store::{ConsumerState, EventLog};
use crate::supervise::Handle;

/// A handle on the router that exists before the router does.
#[derive(Clone, Default)]
pub struct RouterLink(Arc<OnceLock<Handle<RouterActor>>>);

impl RouterLink {
    /// Sets the handle; the first one stays.
    pub fn set(&self, handle: Handle<RouterActor>) {
        self.0.get_or_init(|| handle);
    }

    /// The handle.
    ///
    /// # Panics
    /// When it was not set: the hub sets it before it starts an inbox.
    #[must_use]
    pub fn get(&self) -> &Handle<RouterActor> {
        #[expect(clippy::expect_used, reason = "the hub sets the link before it starts the first inbox")]
        self.0.get().expect("the router's link is set")
    }
}

/// The consumers, as the router needs them.
pub trait Inboxes: Send + Sync {
    /// Every consumer.
    fn all(&self) -> Vec<(ConsumerId, Arc<ConsumerSpec>)>;
    /// One consumer's settings.
    fn spec(&self, consumer: &ConsumerId) -> Option<Arc<ConsumerSpec>>;
    /// The consumer's inbox when it runs.
    fn running(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>>;
    /// The consumer's inbox, started when it does not run.
    fn start(&self, consumer: &ConsumerId) -> Option<Handle<InboxActor>>;
    /// The inbox ends: the next event that matches starts another one.
    fn retired(&self, consumer: &ConsumerId);
}

/// What the router works with.
#[derive(Clone)]
pub struct RouterParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The newest events.
    pub tail: Arc<Tail>,
    /// Checkpoints at the start.
    pub state: Arc<dyn ConsumerState>,
    /// Where checkpoints go.
    pub ledger: Ledger,
    /// The consumers.
    pub inboxes: Arc<dyn Inboxes>,
    /// Told what retention may drop.
    pub outbox: Handle<OutboxActor>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// How long after something has moved a checkpoint is written.
    pub checkpoint_every: Duration,
    /// How often retention looks.
    pub retention_every: Duration,
    /// Bytes that may wait in one inbox's mailbox.
    pub offer_bytes_max: usize,
    /// How often the safety net looks, and how the start-up drain goes.
    pub settings: LiveSettings,
}
