//! What is said to and by inboxes.

use std::fmt;
use std::sync::Arc;

use actix::{Addr, Message};
use futures_util::future::BoxFuture;

use super::actor::InboxActor;
use super::demand::Expected;
use super::state::{Claim, Counts, Hold, Standing};
use crate::event::envelope::Event;
use crate::ground::clock::UnixMs;
use crate::ground::ids::{Epoch, Seq};
use crate::retry::{AttemptResult, FailureKind};
use crate::store::records::ReplayMark;
use crate::store::{AttemptRecord, DeadLetterRecord, Position, RowRecord};

/// Router → inbox: events that match, in order. The permit bounds what waits in the mailbox.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Offer {
    /// Every match after this one, up to the last of the events, is among them.
    pub after: Seq,
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

/// The inbox as the holders of its claims see it. Made once for each life of an inbox and shared by its tickets: a later
/// life refuses old answers anyway.
pub trait Answers: Send + Sync {
    /// Takes what came of an attempt.
    fn settled(&self, settled: Settled);
    /// Takes a claim back untried.
    fn deferred(&self, deferred: Deferred);
    /// Extends the lease of a claim.
    fn renew(&self, renew: Renew) -> BoxFuture<'static, Result<(), LeaseLost>>;
}

impl Answers for Addr<InboxActor> {
    fn settled(&self, settled: Settled) {
        self.do_send(settled);
    }

    fn deferred(&self, deferred: Deferred) {
        self.do_send(deferred);
    }

    fn renew(&self, renew: Renew) -> BoxFuture<'static, Result<(), LeaseLost>> {
        let asked = self.send(renew);
        Box::pin(async move {
            match asked.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(LeaseLost),
            }
        })
    }
}

/// The claim counts no longer: it was settled, given out again, or its inbox is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost: the event was settled or is given out again")]
pub struct LeaseLost;

/// The right and duty to answer one claim. A ticket that is dropped unanswered (its holder panicked or is being
/// restarted) gives the claim back at once, without an attempt.
pub struct Ticket {
    claim: Claim,
    inbox: Arc<dyn Answers>,
    answered: bool,
    /// When the lease ends, as it was given out.
    lease_until: UnixMs,
    /// Counts it as on its way, where that is counted.
    expected: Option<Expected>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("claim", &self.claim).field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl Ticket {
    /// A ticket for a claim of this inbox.
    #[must_use]
    pub fn new(claim: Claim, inbox: Arc<dyn Answers>) -> Self {
        Self { claim, inbox, answered: false, lease_until: UnixMs::default(), expected: None }
    }

    /// The same ticket, leased until then, counted as on its way to whoever asked for it.
    #[must_use]
    pub fn leased(mut self, lease_until: UnixMs, expected: Option<Expected>) -> Self {
        self.lease_until = lease_until;
        self.expected = expected;
        self
    }

    /// The claim.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// When the lease ends, as it was given out.
    #[must_use]
    pub fn lease_until(&self) -> UnixMs {
        self.lease_until
    }

    /// It is no longer on its way.
    pub fn arrived(&mut self) {
        self.expected = None;
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.claim.attempt
    }

    /// What renews the lease of this claim.
    #[must_use]
    pub fn renewal(&self) -> Renewal {
        let Claim { seq, epoch, attempt: _ } = self.claim;
        Renewal { inbox: Arc::clone(&self.inbox), renew: Renew { seq, epoch } }
    }

    /// Answers with what came of the attempt.
    pub fn settle(mut self, result: AttemptResult, latency_ms: u32, snippet: String) {
        let Claim { seq, epoch, attempt: _ } = self.claim;
        self.answered = true;
        self.inbox.settled(Settled { seq, epoch, result, latency_ms, snippet });
    }

    /// Gives the claim back untried, to be tried at `until` (none: soon).
    pub fn defer(mut self, until: Option<UnixMs>) {
        self.give_back(until);
    }

    /// Leaves the claim to its lease: the inbox sees it run out and counts a failed attempt. Giving it back instead
    /// would count none, and an event that hangs its handler would be tried for ever.
    pub fn abandon(mut self) {
        self.answered = true;
    }

    fn give_back(&mut self, until: Option<UnixMs>) {
        self.answered = true;
        self.inbox.deferred(Deferred { seq: self.claim.seq, epoch: self.claim.epoch, until });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.give_back(None);
        }
    }
}

/// Renews the lease of one claim; outlives its ticket without holding the claim.
#[derive(Clone)]
pub struct Renewal {
    inbox: Arc<dyn Answers>,
    renew: Renew,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Renewal").field(&self.renew).finish()
    }
}

impl Renewal {
    /// Asks for the whole lease time anew, from now.
    ///
    /// # Errors
    /// [`LeaseLost`] when the claim counts no longer.
    pub async fn renew(&self) -> Result<(), LeaseLost> {
        self.inbox.renew(self.renew).await
    }
}

/// What an attempt came to, and what follows.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The event; none when it is not in memory.
    pub event: Option<&'a Arc<Event>>,
    /// The attempt.
    pub attempt: &'a AttemptRecord,
    /// How it failed; none when it did not. A failure without a next try is the last one.
    pub failure: Option<FailureKind>,
}

/// Who tells of an outcome in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The inbox, in the words it has for all consumers.
    ByInbox,
    /// The deliverer has.
    ByDeliverer,
}

/// The place of a deliverer: none while an in-process handler is not registered.
pub type DelivererSlot = arc_swap::ArcSwap<Option<Arc<dyn Deliverer>>>;

/// Whoever takes the deliveries of a consumer.
pub trait Deliverer: Send + Sync {
    /// Takes work in. What it cannot take it drops, and the tickets give the claims back.
    fn deliver(&self, work: Deliver);

    /// How many claims it takes now: any number, unless it is one that is given only what it asked for.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Counts a claim as on its way, where that is counted.
    fn expect(&self) -> Option<Expected> {
        None
    }

    /// A claim that it was given was answered, the answer counts, and this follows.
    fn came_of(&self, _: &Outcome<'_>) -> Told {
        Told::ByInbox
    }

    /// A claim that it was given counts no longer.
    fn ended(&self, _seq: Seq, _epoch: Epoch) {}

    /// A life of the inbox has begun: what was given out before counts no longer.
    fn begun(&self) {}
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

/// A claim as its holder names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimName {
    /// The event.
    pub seq: Seq,
    /// The token of the claim.
    pub epoch: Epoch,
    /// When it was given out.
    pub claimed_at: UnixMs,
}

/// What the holder of a claim says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Ack,
    /// Not done: try again, after so many milliseconds when they are given, else as the retry policy has it.
    Nak {
        /// Wait before the next attempt.
        delay_ms: Option<u64>,
        /// Why.
        reason: Option<String>,
    },
    /// Give it up at once.
    Term {
        /// Why.
        reason: Option<String>,
    },
    /// Still at it: a whole lease from now, or so many milliseconds.
    Extend {
        /// The lease.
        lease_ms: Option<u64>,
    },
}

/// Client of a pull consumer → inbox: this is what came of these claims. Answered when it is on disk: not even a crash
/// undoes what was answered. A lease that was extended is not kept over a restart.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<Judged>, crate::store::StoreError>")]
pub struct Judge {
    /// The claims.
    pub claims: Vec<ClaimName>,
    /// What came of them.
    pub verdict: Verdict,
}

/// What a verdict on one claim led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is done.
    Acked,
    /// It is tried again at that time.
    Retried {
        /// When.
        due_at: UnixMs,
    },
    /// It is given up.
    GivenUp,
    /// The lease ends at that time.
    Extended {
        /// When.
        lease_until: UnixMs,
    },
    /// The claim counts no longer (IN-2); nothing has changed.
    Stale,
}

/// Breaker or operator → inbox: the upstream may be called again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Hub → inbox: the consumer's settings have changed; read them again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Reconfigure;

/// Hub → inbox, at the stop: give out nothing more, write your attempts, tell the router where you stand.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Quiesce;

/// Reader → inbox: make what you have recorded so far readable in the store.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), crate::store::StoreError>")]
pub struct Publish;

/// One event that a replay asks for.
#[derive(Clone, Debug)]
pub struct ReplayItem {
    /// The event.
    pub seq: Seq,
    /// Its lane, by [`super::actor::lane_key`].
    pub key: u64,
    /// What asks for it.
    pub mark: ReplayMark,
    /// Its dead letter as it is when closed; written together with the row.
    pub letter: Option<Box<DeadLetterRecord>>,
}

/// Job or operator → inbox: give these out again, in this order. Answered when the rows can be read from the store, so
/// that whatever is synced after the answer carries them.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<ReplayAnswer>, crate::store::StoreError>")]
pub struct Replay {
    /// The events.
    pub items: Vec<ReplayItem>,
}

/// What became of one event of a [`Replay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayAnswer {
    /// It is given out again.
    Taken,
    /// It is unsettled and is given out anyway.
    UnderWay,
    /// No room: neither this one nor any after it was taken. Ask again later.
    Full,
}

/// Job or operator → inbox: try these failed events now. Answered as [`Replay`] is.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Vec<HastenAnswer>, crate::store::StoreError>")]
pub struct Hasten {
    /// The events with their rows, as the store has them.
    pub rows: Vec<(Seq, RowRecord)>,
}

/// What became of one event of a [`Hasten`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HastenAnswer {
    /// It is due now.
    Due,
    /// It is out.
    InFlight,
    /// It waits for its turn only.
    Pending,
    /// It is settled.
    Settled,
}

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
    /// The claims that are out, each with the end of its lease.
    pub out: Vec<(Claim, UnixMs)>,
    /// What keeps it from claiming.
    pub hold: Option<Hold>,
    /// Settled since the inbox was built.
    pub processed: u64,
    /// Failed attempts since the inbox was built.
    pub failed: u64,
}
