//! What is said to and by inboxes.

use std::sync::Arc;

use actix::{Addr, Message};

use super::actor::InboxActor;
use super::state::{Claim, Counts, Hold, Standing};
use crate::event::envelope::Event;
use crate::ground::clock::UnixMs;
use crate::ground::ids::{Epoch, Seq};
use crate::retry::AttemptResult;
use crate::store::Position;

/// Router → inbox: events that match, in order. The permit bounds what waits in the mailbox.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Offer {
    /// The events.
    pub events: Vec<Arc<Event>>,
    /// Frees the share of the consumer's gate.
    pub permit: Option<crate::outbox::Permit>,
}

/// Router → inbox: nothing more is offered until the inbox attaches again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Detached;

/// Inbox → deliverer: give these out.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Deliver {
    /// The claims with their events.
    pub work: Vec<(Ticket, Arc<Event>)>,
}

/// The right and duty to answer one claim. A ticket that is dropped unanswered (its holder panicked or is being
/// restarted) gives the claim back at once, without an attempt.
#[derive(Debug)]
pub struct Ticket {
    claim: Claim,
    inbox: Option<Addr<InboxActor>>,
}

impl Ticket {
    /// A ticket for a claim of this inbox. It goes to this life of the inbox: a later one refuses old answers anyway.
    #[must_use]
    pub fn new(claim: Claim, inbox: Addr<InboxActor>) -> Self {
        Self { claim, inbox: Some(inbox) }
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.claim.attempt
    }

    /// What renews the lease of this claim.
    #[must_use]
    pub fn renewal(&self) -> Option<(Addr<InboxActor>, Renew)> {
        let inbox = self.inbox.clone()?;
        Some((inbox, Renew { seq: self.claim.seq, epoch: self.claim.epoch }))
    }

    /// Answers with what came of the attempt.
    pub fn settle(mut self, result: AttemptResult, latency_ms: u32, snippet: String) {
        if let Some(inbox) = self.inbox.take() {
            let Claim { seq, epoch, attempt: _ } = self.claim;
            inbox.do_send(Settled { seq, epoch, result, latency_ms, snippet });
        }
    }

    /// Gives the claim back untried, to be tried at `until` (none: soon).
    pub fn defer(mut self, until: Option<UnixMs>) {
        self.give_back(until);
    }

    fn give_back(&mut self, until: Option<UnixMs>) {
        if let Some(inbox) = self.inbox.take() {
            inbox.do_send(Deferred { seq: self.claim.seq, epoch: self.claim.epoch, until });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give_back(None);
    }
}

/// Whoever takes the deliveries of a consumer.
pub trait Deliverer: Send + Sync {
    /// Takes work in. What it cannot take it drops, and the tickets give the claims back.
    fn deliver(&self, work: Deliver);
}

/// Deliverer → inbox: what came of one attempt.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Settled {
    /// The event.
    pub seq: Seq,
    /// The token of the claim.
    pub epoch: Epoch,
    /// What came of it.
    pub result: AttemptResult,
    /// How long it took.
    pub latency_ms: u32,
    /// The beginning of the answer.
    pub snippet: String,
}

/// Deliverer → inbox: not tried.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Deferred {
    /// The event.
    pub seq: Seq,
    /// The token of the claim.
    pub epoch: Epoch,
    /// When to try again; none means when told.
    pub until: Option<UnixMs>,
}

/// Handler → inbox: still at it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), super::state::Illegal>")]
pub struct Renew {
    /// The event.
    pub seq: Seq,
    /// The token of the claim.
    pub epoch: Epoch,
}

/// Breaker or operator → inbox: the upstream may be called again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Hub → inbox: the consumer's settings have changed; read them again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Reconfigure;

/// Anyone → inbox: where do these events stand?
#[derive(Clone, Debug, Message)]
#[rtype(result = "InboxView")]
pub struct Inspect {
    /// The events.
    pub seqs: Vec<Seq>,
}

/// Answer to [`Inspect`].
#[derive(Clone, Debug)]
pub struct InboxView {
    /// Where each event stands.
    pub standings: Vec<Standing>,
    /// The cursor and what is settled ahead.
    pub position: Position,
    /// The lowest position that may still be read from the log.
    pub needed_from: Seq,
    /// Sizes.
    pub counts: Counts,
    /// What keeps it from claiming.
    pub hold: Option<Hold>,
    /// Settled since the inbox was built.
    pub processed: u64,
    /// Failed attempts since the inbox was built.
    pub failed: u64,
}
