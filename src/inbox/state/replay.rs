//! The replay lane: events that are given out again because a replay asked for it, below what is live.
//!
//! A replayed event is an exception row with a mark; it is in no window and moves no cursor. It has lanes of its own, so
//! it neither waits behind live events of its ordering key nor holds them up, while replayed events of one key keep their
//! order among themselves.
//!
//! - `RP-1` An event that is unsettled here is not taken a second time.
//! - `RP-2` Live claims go first. While both can be claimed, one claim in [`LIVE_PER_REPLAY`]` + 1` is a replayed one, so
//!   that a consumer that is never idle still gets on with its replay.
//! - `RP-3` At most half of the concurrency is out with replayed events, and at least one may be.
//! - `RP-4` At most [`REPLAYS_MAX`] rows: a full lane holds the replay back, which reads on later.
//! - `RP-5` Rows past what was read of the log wait; when live reading comes to their event, it takes it over.

use std::collections::HashSet;

use super::item::{Item, Phase};
use super::lanes::Lanes;
use super::{InboxState, Ordering, RowChange};
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::store::records::{ReplayMark, RowRecord, RowState};

/// Most rows of replays, and never more than `parked_max`.
pub const REPLAYS_MAX: usize = 1_000;
/// Live claims that go before a replayed event that could be claimed too.
pub const LIVE_PER_REPLAY: u32 = 8;

/// Which lanes an event goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// It came by the log.
    Live,
    /// A replay asked for it.
    Replay,
}

/// What became of an event that a replay asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It has a row, which must be written.
    Taken(RowChange),
    /// It is unsettled here already and will be given out anyway.
    UnderWay,
    /// There are as many rows as may be: ask again later.
    Full,
}

/// What became of a failed event that somebody wants tried now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hastened {
    /// It is due; the row must be written.
    Due(RowChange),
    /// It is out now.
    InFlight,
    /// It has not been tried yet, or was tried again since the row was read; it waits for nothing but its turn.
    Pending,
    /// It is not here.
    Settled,
}

/// The replayed events of one inbox.
#[derive(Debug)]
pub(super) struct ReplayLane {
    pub(super) lanes: Lanes,
    pub(super) rows: usize,
    out: usize,
    /// Shared lanes that have an event out: an older event that is asked for meanwhile waits for it.
    busy: HashSet<u64>,
    /// Live claims since the last replayed one, while one could have been claimed.
    live_since: u32,
}

impl ReplayLane {
    pub(super) fn new(ordering: Ordering) -> Self {
        Self { lanes: Lanes::new(ordering), rows: 0, out: 0, busy: HashSet::new(), live_since: 0 }
    }

    /// Whether the lane of this key has an event out.
    pub(super) fn is_busy(&self, key: u64) -> bool {
        self.lanes.lane_of(key).is_some_and(|lane| self.busy.contains(&lane))
    }

    fn taken(&mut self, key: u64) {
        self.out += 1;
        self.busy.extend(self.lanes.lane_of(key));
    }

    /// A claim of this key was answered.
    pub(super) fn answered(&mut self, key: u64) {
        self.out -= 1;
        if let Some(lane) = self.lanes.lane_of(key) {
            self.busy.remove(&lane);
        }
    }

    /// Whose turn it is.
    fn choose(&mut self, live: Option<Seq>, replayed: Option<Seq>) -> Option<(Seq, Lane)> {
        let (seq, lane) = match (live, replayed) {
            (None, None) => return None,
            (Some(live), None) => (live, Lane::Live),
            (None, Some(replayed)) => (replayed, Lane::Replay),
            (Some(_), Some(replayed)) if self.live_since >= LIVE_PER_REPLAY => (replayed, Lane::Replay),
            (Some(live), Some(_)) => {
                self.live_since += 1;
                return Some((live, Lane::Live));
            }
        };
        if lane == Lane::Replay {
            self.live_since = 0;
        }
        Some((seq, lane))
    }
}

/// Replayed events that may be out at once, given how many events may be.
fn share(limit: usize) -> usize {
    (limit / 2).max(1)
}

impl InboxState {
    /// The event to be claimed next, when `limit` may be out. It is no longer runnable after this.
    pub(super) fn next_claim(&mut self, limit: usize) -> Option<Seq> {
        // What lies past the place that was read up to waits: only then is it known what lies before it, and it cannot be
        // taken for a new event later.
        let seen = self.seen();
        let live = self.lanes.oldest_runnable().filter(|seq| *seq <= seen);
        let replayed = self.replays.lanes.oldest_runnable();
        let replayed = replayed.filter(|seq| *seq <= seen && self.replays.out < share(limit));
        let (seq, lane) = self.replays.choose(live, replayed)?;
        self.lanes_mut(lane).take(seq);
        if let Some(item) = self.items.get(&seq).filter(|_| lane == Lane::Replay) {
            self.replays.taken(item.key);
        }
        Some(seq)
    }

    pub(super) fn lanes_mut(&mut self, lane: Lane) -> &mut Lanes {
        match lane {
            Lane::Live => &mut self.lanes,
            Lane::Replay => &mut self.replays.lanes,
        }
    }

    pub(super) fn lanes_of(&self, lane: Lane) -> &Lanes {
        match lane {
            Lane::Live => &self.lanes,
            Lane::Replay => &self.replays.lanes,
        }
    }

    /// Takes an event that a replay asks for. It is due at once, below what is live.
    pub fn replay(&mut self, seq: Seq, key: u64, mark: ReplayMark, now: UnixMs) -> Replayed {
        if self.items.contains_key(&seq) {
            return Replayed::UnderWay;
        }
        if self.replays.rows >= REPLAYS_MAX.min(self.rules.parked_max) {
            return Replayed::Full;
        }
        let row = RowRecord {
            state: RowState::Retry { due_at: now },
            attempts: 0,
            key,
            epoch: 0,
            first_attempt: None,
            last_attempt: None,
            last_error: None,
            replay: Some(mark),
        };
        self.replays.rows += 1;
        self.insert(seq, Item::from_row(row.clone()));
        Replayed::Taken(RowChange::Put(seq, row))
    }

    /// Makes an event that failed and waits due now. `row` is its row as it stands in the store: it has the last error,
    /// which is not kept in memory.
    pub fn hasten(&mut self, seq: Seq, row: &RowRecord, now: UnixMs) -> Hastened {
        let Some(item) = self.items.get_mut(&seq) else { return Hastened::Settled };
        match item.phase {
            Phase::InFlight { .. } => Hastened::InFlight,
            Phase::Waiting { due_at } if item.attempts == row.attempts => {
                self.due.remove(&(due_at, seq));
                self.due.insert((now, seq));
                item.phase = Phase::Waiting { due_at: now };
                let row = item.to_row(RowState::Retry { due_at: now }, row.last_error.clone());
                Hastened::Due(RowChange::Put(seq, row))
            }
            Phase::Ready | Phase::Waiting { .. } => Hastened::Pending,
        }
    }

    /// Lets live reading have an event that it has come to: the row of its replay goes. None when there is no such row,
    /// or it is out now and settles the event all the same.
    pub(super) fn take_over(&mut self, seq: Seq) -> Option<RowChange> {
        let item = self.items.get(&seq).filter(|item| item.lane() == Lane::Replay)?;
        match item.phase {
            Phase::InFlight { .. } => return None,
            Phase::Waiting { due_at } => {
                self.due.remove(&(due_at, seq));
            }
            Phase::Ready => {}
        }
        let key = item.key;
        self.items.remove(&seq);
        self.replays.rows -= 1;
        self.replays.lanes.leave(seq, key);
        self.refresh(seq, key, Lane::Replay);
        Some(RowChange::Delete(seq))
    }

    /// The dead letter that this event is given out again from.
    #[must_use]
    pub fn dead_letter_of(&self, seq: Seq) -> Option<&str> {
        self.items.get(&seq)?.replay.as_ref()?.dead_letter.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replayed_event_gets_its_turn_among_live_ones_and_all_of_it_when_there_are_none() {
        let mut lane = ReplayLane::new(Ordering::None);
        let mut turns = Vec::new();
        for _ in 0..20 {
            turns.extend(lane.choose(Some(Seq(1)), Some(Seq(2))).map(|(_, lane)| lane));
        }
        let replayed: Vec<usize> = (0..20).filter(|at| turns[*at] == Lane::Replay).collect();
        assert_eq!(replayed, [8, 17]);
        assert_eq!(lane.choose(None, Some(Seq(2))), Some((Seq(2), Lane::Replay)));
        assert_eq!(lane.choose(Some(Seq(1)), None), Some((Seq(1), Lane::Live)));
        assert_eq!(lane.choose(None, None), None);
    }

    #[test]
    fn half_of_the_concurrency_is_for_replayed_events_and_never_none() {
        assert_eq!([1, 2, 3, 4, 10].map(share), [1, 1, 1, 2, 5]);
    }
}
