//! Lanes: which events wait behind which (IN-3), and which can be claimed now.
//!
//! With ordering `none` every event is its own lane; with `key` those of a key share one; with `strict` all do. Only the
//! oldest of a lane is ever runnable.

use std::collections::{BTreeSet, HashMap};

use super::rules::Ordering;
use crate::ground::ids::Seq;

/// The lanes of one inbox.
#[derive(Debug)]
pub(super) struct Lanes {
    ordering: Ordering,
    /// Every event of each lane that is shared; none is empty.
    waiting: HashMap<u64, BTreeSet<Seq>>,
    runnable: BTreeSet<Seq>,
}

impl Lanes {
    pub(super) fn new(ordering: Ordering) -> Self {
        Self { ordering, waiting: HashMap::new(), runnable: BTreeSet::new() }
    }

    /// The lane of a key; none when no event shares one.
    pub(super) fn lane_of(&self, key: u64) -> Option<u64> {
        match self.ordering {
            Ordering::None => None,
            Ordering::Key => Some(key),
            Ordering::Strict => Some(0),
        }
    }

    /// Puts an event into the lane of its key.
    pub(super) fn enter(&mut self, seq: Seq, key: u64) {
        let Some(lane) = self.lane_of(key) else { return };
        let waiting = self.waiting.entry(lane).or_default();
        // A row can lie ahead of events that are read again after a restart: the oldest leads the lane.
        if let Some(head) = waiting.first() {
            self.runnable.remove(head);
        }
        waiting.insert(seq);
    }

    /// Takes an event out of the lane of its key.
    pub(super) fn leave(&mut self, seq: Seq, key: u64) {
        self.runnable.remove(&seq);
        let Some(lane) = self.lane_of(key) else { return };
        if let Some(waiting) = self.waiting.get_mut(&lane) {
            waiting.remove(&seq);
            if waiting.is_empty() {
                self.waiting.remove(&lane);
            }
        }
    }

    /// The oldest event of the lane of this key; none when no event shares it.
    pub(super) fn head(&self, key: u64) -> Option<Seq> {
        self.waiting.get(&self.lane_of(key)?)?.first().copied()
    }

    /// Which event may be claimed first, now that `seq` of this key has changed: itself, or the head of its lane. None
    /// when the lane is empty.
    pub(super) fn leader(&self, seq: Seq, key: u64) -> Option<Seq> {
        match self.lane_of(key) {
            None => Some(seq),
            Some(_) => self.head(key),
        }
    }

    /// Notes that the leader of a lane can be claimed.
    pub(super) fn release(&mut self, leader: Seq) {
        self.runnable.insert(leader);
    }

    /// The oldest event that can be claimed.
    pub(super) fn oldest_runnable(&self) -> Option<Seq> {
        self.runnable.first().copied()
    }

    /// Notes that an event is given out.
    pub(super) fn take(&mut self, seq: Seq) {
        self.runnable.remove(&seq);
    }

    #[cfg(test)]
    fn lanes(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_order_every_event_leads_itself() {
        let mut lanes = Lanes::new(Ordering::None);
        lanes.enter(Seq(1), 7);
        lanes.enter(Seq(2), 7);
        assert_eq!(lanes.leader(Seq(2), 7), Some(Seq(2)));
        assert_eq!((lanes.head(7), lanes.lanes()), (None, 0), "nothing is kept of a lane that nobody shares");
    }

    #[test]
    fn an_older_event_that_comes_later_takes_the_lead_of_its_lane() {
        let mut lanes = Lanes::new(Ordering::Key);
        lanes.enter(Seq(9), 7);
        lanes.release(Seq(9));
        lanes.enter(Seq(6), 7);
        assert_eq!(lanes.oldest_runnable(), None, "9 waits behind 6 now");
        assert_eq!(lanes.leader(Seq(9), 7), Some(Seq(6)));
        assert_eq!(lanes.leader(Seq(8), 8), None, "another key has a lane of its own");
    }

    #[test]
    fn a_lane_that_is_empty_leaves_nothing_behind() {
        for (ordering, lanes_then) in [(Ordering::Key, 2), (Ordering::Strict, 1)] {
            let mut lanes = Lanes::new(ordering);
            for (seq, key) in [(1, 7), (2, 8), (3, 7)] {
                lanes.enter(Seq(seq), key);
            }
            assert_eq!(lanes.lanes(), lanes_then);
            lanes.release(Seq(1));
            for (seq, key) in [(1, 7), (2, 8), (3, 7)] {
                lanes.leave(Seq(seq), key);
            }
            assert_eq!((lanes.lanes(), lanes.oldest_runnable()), (0, None));
        }
    }
}
