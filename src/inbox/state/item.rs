//! One event in an inbox: the phase it is in, the claim on it, the row it is kept as.

use super::replay::Lane;
use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Epoch, Seq};
use crate::store::StateOp;
use crate::store::records::{ReplayMark, RowRecord, RowState};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Can be claimed when its lane lets it.
    Ready,
    /// Given out.
    InFlight { epoch: Epoch, lease_until: UnixMs },
    /// Failed; claimable again at this time.
    Waiting { due_at: UnixMs },
}

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) key: u64,
    /// Bytes of the window it takes; none when it has an exception row instead.
    pub(super) window_bytes: Option<usize>,
    pub(super) phase: Phase,
    pub(super) attempts: u32,
    pub(super) epoch: Epoch,
    pub(super) first_attempt: Option<UnixMs>,
    pub(super) last_attempt: Option<UnixMs>,
    /// Set when a replay asked for it.
    pub(super) replay: Option<Box<ReplayMark>>,
}

impl Item {
    /// An event that was never tried.
    pub(super) fn fresh(key: u64, bytes: usize) -> Self {
        Self {
            key,
            window_bytes: Some(bytes),
            phase: Phase::Ready,
            attempts: 0,
            epoch: Epoch(0),
            first_attempt: None,
            last_attempt: None,
            replay: None,
        }
    }

    /// Whether it is kept as it is when reading comes to it: any but a replayed one that is not out.
    pub(super) fn stays(&self) -> bool {
        self.lane() == Lane::Live || matches!(self.phase, Phase::InFlight { .. })
    }

    /// The lanes it goes in.
    pub(super) fn lane(&self) -> Lane {
        if self.replay.is_some() { Lane::Replay } else { Lane::Live }
    }

    /// An event as its exception row tells of it.
    pub(super) fn from_row(row: RowRecord) -> Self {
        let RowRecord { state, attempts, key, epoch, first_attempt, last_attempt, last_error: _, replay } = row;
        let replay = replay.map(Box::new);
        let phase = match state {
            RowState::Retry { due_at } => Phase::Waiting { due_at },
            RowState::Held => Phase::Ready,
        };
        Self { key, window_bytes: None, phase, attempts, epoch: Epoch(epoch), first_attempt, last_attempt, replay }
    }

    /// The exception row that keeps this event.
    pub(super) fn to_row(&self, state: RowState, last_error: Option<String>) -> RowRecord {
        RowRecord {
            state,
            attempts: self.attempts,
            key: self.key,
            epoch: self.epoch.0,
            first_attempt: self.first_attempt,
            last_attempt: self.last_attempt,
            last_error,
            replay: self.replay.as_deref().cloned(),
        }
    }

    /// When the lease of this claim ends.
    ///
    /// # Errors
    /// [`Illegal::StaleEpoch`] when the claim is not the one that counts (IN-2).
    pub(super) fn lease_of(&self, seq: Seq, epoch: Epoch) -> Result<UnixMs, Illegal> {
        match self.phase {
            Phase::InFlight { epoch: current, lease_until } if current == epoch => Ok(lease_until),
            Phase::InFlight { .. } | Phase::Ready | Phase::Waiting { .. } => {
                Err(Illegal::StaleEpoch { seq, answered: epoch, current: self.epoch })
            }
        }
    }
}

/// One event given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which event.
    pub seq: Seq,
    /// The token its answer must carry.
    pub epoch: Epoch,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// What the answer to a claim makes of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Processed,
    /// Given up: it becomes a dead letter, or is only counted.
    GivenUp,
    /// Tried again at this time.
    Retry {
        /// When.
        due_at: UnixMs,
        /// What went wrong.
        error: String,
    },
    /// Never tried (breaker open, deliverer gone): no attempt is used up.
    Deferred,
}

/// Why an answer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The event is not in this inbox: it was settled before.
    #[error("event {0} is not in flight here")]
    Unknown(Seq),
    /// The event was given out again since: the answer comes from an old holder.
    #[error("event {seq} was claimed again: the answer is of epoch {answered:?}, the claim of {current:?}")]
    StaleEpoch {
        /// Which event.
        seq: Seq,
        /// The epoch of the answer.
        answered: Epoch,
        /// The epoch of the claim that counts.
        current: Epoch,
    },
}

/// Where one event stands with this consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Received, not yet claimed.
    Pending,
    /// Received, waits behind an older event of its key.
    BehindKey {
        /// The oldest of that key, which goes first.
        head: Seq,
    },
    /// Given out.
    Processing {
        /// Attempts, this one included.
        attempts: u32,
    },
    /// Failed, tried again then.
    Failed {
        /// When it is tried again.
        due_at: UnixMs,
        /// Attempts made.
        attempts: u32,
    },
    /// Settled.
    Settled,
    /// Not reached yet.
    Ahead,
}

/// A change of an exception row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// Write it.
    Put(Seq, RowRecord),
    /// Remove it.
    Delete(Seq),
}

impl RowChange {
    /// The operation for the store.
    #[must_use]
    pub fn into_op(self, consumer: &ConsumerId) -> StateOp {
        match self {
            Self::Put(seq, row) => StateOp::PutRow(consumer.clone(), seq, row),
            Self::Delete(seq) => StateOp::DeleteRow(consumer.clone(), seq),
        }
    }
}
