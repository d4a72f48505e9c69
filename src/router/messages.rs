//! What is said to the router.

use actix::Message;
use tokio::sync::oneshot;

use crate::ground::ids::{ConsumerId, Seq};
use crate::store::{Position, StoreError};

/// Hub → router: a consumer was made or its filter has changed. Answered when events are matched by it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe {
    /// Which consumer; its settings are read from the hub's directory.
    pub consumer: ConsumerId,
}

/// Hub → router: a consumer was made that begins in the past. Answered when events are matched by it and its position is
/// on disk: from then on it gets everything after its beginning.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), crate::store::StoreError>")]
pub struct Begin {
    /// Which consumer; its settings are read from the hub's directory.
    pub consumer: ConsumerId,
}

/// Hub → router: a consumer is gone. Its state is forgotten.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    /// Which consumer.
    pub consumer: ConsumerId,
}

/// Inbox → router: offer me what comes after your place.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Attachment")]
pub struct Attach {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// The generation of the inbox's ledger session.
    pub generation: u64,
    /// Where the inbox stands; none when it has just begun and asks for its position.
    pub position: Option<Position>,
}

/// Answer to [`Attach`].
#[derive(Clone, Debug)]
pub enum Attachment {
    /// Offers come from now on.
    Attached(Attached),
    /// The consumer is not subscribed: its inbox may end.
    Unknown,
    /// The router has not read its state yet, or one of the two is about to be built anew because the store failed: ask
    /// again.
    NotYet,
}

/// Where an inbox begins.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Where the consumer stands.
    pub position: Position,
    /// Offers come for events after this; those up to here the inbox reads from the log.
    pub boundary: Seq,
}

/// Inbox → router: offer me nothing more.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Detach {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// The generation of the inbox's ledger session.
    pub generation: u64,
    /// Where it stands.
    pub position: Position,
}

/// Inbox → router: this is where I stand.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Positioned {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// The generation of the inbox's ledger session: rows handed in through an older one may not be in the store, so the
    /// position counts for nothing.
    pub generation: u64,
    /// Its position.
    pub position: Position,
    /// The last position it was offered or has read.
    pub seen: Seq,
    /// The lowest position it may still read from the log; none when there is none up to `seen`.
    pub needed_from: Option<Seq>,
    /// Whether it is attached and everything it was offered is settled or has a row.
    pub nothing_unsettled: bool,
}

/// Inbox → router: this is where I stand, and it must not be undone. Answered when it is on disk, with everything that
/// the inbox has handed in before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Keep {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// The generation of the inbox's ledger session.
    pub generation: u64,
    /// Its position.
    pub position: Position,
    /// Told when it is on disk. A message that is sent, not asked: positions of one inbox must come in their order.
    pub done: oneshot::Sender<Result<(), StoreError>>,
}

/// Inbox → router: may I end? True when nothing was offered that it has not seen.
#[derive(Clone, Debug, Message)]
#[rtype(result = "bool")]
pub struct Retire {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// The generation of the inbox's ledger session.
    pub generation: u64,
    /// The last position it has seen.
    pub seen: Seq,
}

/// Anyone → router: where do you and this consumer stand?
#[derive(Clone, Debug, Message)]
#[rtype(result = "RouterView")]
pub struct Inspect {
    /// Which consumers; all when empty.
    pub consumers: Vec<ConsumerId>,
}

/// Answer to [`Inspect`].
#[derive(Clone, Debug)]
pub struct RouterView {
    /// Everything up to here was handed to whom it matches.
    pub cursor: Seq,
    /// Each known consumer's position; none when it follows the cursor.
    pub consumers: Vec<(ConsumerId, Option<Position>)>,
}

/// Hub → router: the run-time settings have changed; act by them from now on.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Reconsider;

/// Stop → router: write a checkpoint now, and answer when it is on disk.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), crate::store::StoreError>")]
pub struct CheckpointNow;
