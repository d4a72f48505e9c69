//! The start-up drain (OUT-5), as a pure rule: which of the consumers that had something pending at the last end are
//! started next, so that ten thousand of them do not read the store all at once.
//!
//! A consumer *waits* until it is started, is *starting* until its inbox has attached, and then is no concern of the
//! drain. It gets its old events before its new ones, because it reads the log in order.
//!
//! - `DR-1` At most a batch of consumers is starting at a time, until the safety net lets go of those that hang.
//! - `DR-2` A consumer that waits is started once, by the drain or by an event, or is forgotten with its subscription.

use std::collections::BTreeSet;

/// Consumers to be started, by their slot.
#[derive(Debug, Default)]
pub(super) struct Drain {
    waiting: BTreeSet<u32>,
    starting: BTreeSet<u32>,
}

impl Drain {
    /// Adds a consumer that has something pending and no inbox.
    pub(super) fn add(&mut self, slot: u32) {
        self.waiting.insert(slot);
    }

    /// Whether any consumer has not been started yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether this consumer has not been started yet.
    pub(super) fn waits(&self, slot: u32) -> bool {
        self.waiting.contains(&slot)
    }

    /// Takes those to be started now: as many as may be starting beside those that are.
    pub(super) fn next(&mut self, batch: usize) -> Vec<u32> {
        let room = batch.saturating_sub(self.starting.len());
        let next: Vec<u32> = self.waiting.iter().copied().take(room).collect();
        for slot in &next {
            self.waiting.remove(slot);
            self.starting.insert(*slot);
        }
        next
    }

    /// This consumer has been started, or is gone: it makes room.
    pub(super) fn done(&mut self, slot: u32) {
        self.waiting.remove(&slot);
        self.starting.remove(&slot);
    }

    /// Those that are starting keep nobody waiting any longer.
    pub(super) fn let_go(&mut self) {
        self.starting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(count: u32) -> Drain {
        let mut drain = Drain::default();
        (0..count).for_each(|slot| drain.add(slot));
        drain
    }

    #[test]
    fn no_more_than_a_batch_is_starting_and_each_that_has_started_makes_room_for_one() {
        let mut drain = drain(5);
        assert_eq!(drain.next(2), [0, 1]);
        assert!(drain.next(2).is_empty());
        drain.done(1);
        assert_eq!(drain.next(2), [2]);
        drain.done(0);
        drain.done(2);
        assert_eq!(drain.next(2), [3, 4]);
        assert!(!drain.is_waiting());
    }

    #[test]
    fn one_that_hangs_keeps_the_others_waiting_only_until_it_is_let_go() {
        let mut drain = drain(3);
        assert_eq!(drain.next(1), [0]);
        assert!(drain.next(1).is_empty());
        drain.let_go();
        assert_eq!(drain.next(1), [1]);
    }

    #[test]
    fn one_that_an_event_has_started_or_that_is_gone_is_not_started_again() {
        let mut drain = drain(3);
        drain.done(1);
        assert!(!drain.waits(1) && drain.waits(2));
        assert_eq!(drain.next(10), [0, 2]);
    }

    #[test]
    fn a_larger_batch_holds_from_the_next_turn_and_a_smaller_one_starts_nobody_too_many() {
        let mut drain = drain(6);
        assert_eq!(drain.next(1), [0]);
        assert_eq!(drain.next(3), [1, 2]);
        assert!(drain.next(2).is_empty());
        drain.done(0);
        drain.done(1);
        assert_eq!(drain.next(2), [3]);
    }
}
