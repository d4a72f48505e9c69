//! What a consumer has asked for, and what its inbox works with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::catch_up::LogReader;
use super::ledger::Ledger;
use super::messages::DelivererSlot;
use super::state::InboxRules;
use crate::event::filter::EventFilter;
use crate::event::redact::Redactor;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::ids::{ConsumerId, Seq};
use crate::ground::random::SharedRandom;
use crate::metrics::Metrics;
use crate::ratelimit::{Bucket, RateLimit};
use crate::retry::RetryPolicy;
use crate::router::RouterLink;
use crate::store::ConsumerState;
use crate::webhook::health::{Change, HealthRules, Tracked};

/// What kind of consumer it is; the label of its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerKind {
    /// An HTTP endpoint.
    Webhook,
    /// In-process code.
    Handler,
    /// Clients that ask for deliveries.
    Pull,
    /// Calls to an upstream, by a rule.
    Publish,
}

impl ConsumerKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Webhook, Self::Handler, Self::Pull, Self::Publish];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Handler => "handler",
            Self::Pull => "pull",
            Self::Publish => "publish",
        }
    }
}

/// What a consumer has asked for; replaced as a whole when it changes.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    /// What it is.
    pub kind: ConsumerKind,
    /// What it gets.
    pub filter: Arc<EventFilter>,
    /// Its bounds and order.
    pub rules: InboxRules,
    /// When it is tried again.
    pub retry: RetryPolicy,
    /// How many are given out in a row and a second; none for no bound.
    pub rate_limit: Option<RateLimit>,
    /// What is made of its failures; none when nobody is told of them.
    pub health: Option<HealthRules>,
    /// How long an endpoint rests that says it has too much to do, and not for how long.
    pub overload_rest_ms: u64,
    /// Whether it gets anything now.
    pub paused: bool,
    /// Whether what is given up becomes a dead letter.
    pub dead_letters: bool,
    /// Nothing at or before this is for it: where the log stood when it was made.
    pub from: Seq,
}

/// Totals of a consumer since the process began; they outlive its actors.
#[derive(Debug, Default)]
pub struct Totals {
    /// Deliveries that succeeded.
    pub processed: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Deliveries given up.
    pub given_up: AtomicU64,
    /// Positions that retention had dropped before they were read.
    pub gaps: AtomicU64,
}

/// Whether the whole hub is paused (OPS-2). Set before the first inbox is made, and looked at by every inbox in every
/// turn: no order of start-up lets a delivery slip out. What is out when it is set is finished.
#[derive(Debug)]
pub struct HubPause(AtomicBool);

impl HubPause {
    /// As the hub is to start.
    #[must_use]
    pub fn new(on: bool) -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(on)))
    }

    /// Whether nothing is given out now.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sets it, and says what it was. Inboxes that run must be told to look.
    pub fn set(&self, on: bool) -> bool {
        self.0.swap(on, Ordering::AcqRel)
    }
}

/// A dead letter that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterNote {
    /// Its id.
    pub id: String,
    /// The event's org.
    pub org: String,
    /// When.
    pub at: UnixMs,
    /// What kind of failure the last one was.
    pub kind: String,
}

/// What the hub must do about a consumer besides its own inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The endpoint said it is gone: disable the webhook.
    Gone,
    /// The endpoint's health has changed: tell its owner, and pause it when that is the change.
    Health(Change),
    /// A delivery was given up: tell of it.
    DeadLetter(DeadLetterNote),
}

/// Takes what the hub must do about a consumer.
pub type NoticeTaker = Arc<dyn Fn(&ConsumerId, Notice) + Send + Sync>;

/// What an inbox works with.
#[derive(Clone)]
pub struct InboxParts {
    /// Whose inbox.
    pub consumer: ConsumerId,
    /// What it asked for.
    pub spec: Arc<ArcSwap<ConsumerSpec>>,
    /// Its totals.
    pub totals: Arc<Totals>,
    /// Whether the whole hub is paused.
    pub pause: Arc<HubPause>,
    /// Reads the log.
    pub reader: LogReader,
    /// Rows at the start.
    pub state: Arc<dyn ConsumerState>,
    /// Where changes go.
    pub ledger: Ledger,
    /// The router.
    pub router: RouterLink,
    /// Who takes the deliveries; none while an in-process handler is not registered.
    pub deliver: Arc<DelivererSlot>,
    /// What is left of its rate.
    pub rate: Arc<Mutex<Bucket>>,
    /// How its endpoint fares.
    pub tracked: Arc<Mutex<Tracked>>,
    /// Called with what the hub must do.
    pub notice: NoticeTaker,
    /// Clears what is kept of failures and answers.
    pub redactor: Redactor,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
    /// How often positions are reported and attempts written.
    pub report_every: Duration,
    /// Idle for this long, the inbox ends.
    pub idle_after: Duration,
}
