//! Who waits for deliveries of one consumer, and who gets the next one: no clock, no I/O, no actor (PU-3, PU-4).

use std::collections::{HashMap, VecDeque};

use crate::ground::ids::{Epoch, Seq};

/// Names one client that waits; never used twice by a consumer in one life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TakerId(pub u64);

/// How a client takes deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// Up to so many, once.
    Once,
    /// So many unanswered at a time: each one that is settled makes room for another.
    Replenished,
    /// As many as it has asked for; it asks again.
    Granted,
}

#[derive(Clone, Copy, Debug)]
struct Taker {
    taking: Taking,
    /// How many more it may be given.
    left: usize,
    /// What it has not taken from us yet is at its bound.
    is_full: bool,
    /// It has been given something.
    served: bool,
}

impl Taker {
    fn wants(&self) -> usize {
        if self.is_full { 0 } else { self.left }
    }
}

/// The clients that wait.
#[derive(Debug, Default)]
pub struct Room {
    takers: HashMap<TakerId, Taker>,
    /// Whose turn it is: the front.
    turns: VecDeque<TakerId>,
    /// Unanswered deliveries of those whose room comes back.
    out: HashMap<Seq, (Epoch, TakerId)>,
}

impl Room {
    /// Lets a client wait for so many.
    pub fn enter(&mut self, id: TakerId, taking: Taking, left: usize) {
        self.takers.insert(id, Taker { taking, left, is_full: false, served: false });
        self.turns.push_back(id);
    }

    /// A client has gone.
    pub fn leave(&mut self, id: TakerId) {
        if self.takers.remove(&id).is_some() {
            self.turns.retain(|other| *other != id);
            self.out.retain(|_, (_, of)| *of != id);
        }
    }

    /// A client may be given so many more, at most `most` in all.
    pub fn grant(&mut self, id: TakerId, more: usize, most: usize) {
        if let Some(taker) = self.takers.get_mut(&id) {
            taker.left = taker.left.saturating_add(more).min(most);
        }
    }

    /// Notes whether a client has as much before it as may be held for it.
    pub fn set_full(&mut self, id: TakerId, is_full: bool) {
        if let Some(taker) = self.takers.get_mut(&id) {
            taker.is_full = is_full;
        }
    }

    /// How many deliveries are waited for.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.takers.values().map(Taker::wants).sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.takers.is_empty()
    }

    /// Who gets this delivery; none when nobody waits.
    pub fn assign(&mut self, seq: Seq, epoch: Epoch) -> Option<TakerId> {
        let wants = |id: &TakerId| self.takers.get(id).is_some_and(|taker| taker.wants() > 0);
        let at = self.turns.iter().position(wants)?;
        let id = self.turns.remove(at)?;
        self.turns.push_back(id);
        let taker = self.takers.get_mut(&id)?;
        taker.left -= 1;
        taker.served = true;
        if taker.taking == Taking::Replenished {
            self.out.insert(seq, (epoch, id));
        }
        Some(id)
    }

    /// Those who wait once and have been given something: they have had their turn and are gone.
    pub fn take_served(&mut self) -> Vec<TakerId> {
        let done = |(id, taker): (&TakerId, &Taker)| (taker.taking == Taking::Once && taker.served).then_some(*id);
        let served: Vec<TakerId> = self.takers.iter().filter_map(done).collect();
        served.iter().for_each(|id| self.leave(*id));
        served
    }

    /// A claim counts no longer: its client has room for another.
    pub fn ended(&mut self, seq: Seq, epoch: Epoch) {
        let Some((_, id)) = self.out.get(&seq).copied().filter(|(of, _)| *of == epoch) else { return };
        self.out.remove(&seq);
        if let Some(taker) = self.takers.get_mut(&id) {
            taker.left += 1;
        }
    }

    /// No claim of before counts any longer.
    pub fn all_ended(&mut self) {
        for (_, (_, id)) in self.out.drain() {
            if let Some(taker) = self.takers.get_mut(&id) {
                taker.left += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: TakerId = TakerId(1);
    const B: TakerId = TakerId(2);
    const C: TakerId = TakerId(3);

    fn assigned(room: &mut Room, seqs: std::ops::Range<u64>) -> Vec<u64> {
        seqs.map(|seq| room.assign(Seq(seq), Epoch(seq)).map_or(0, |id| id.0)).collect()
    }

    #[test]
    fn those_who_wait_are_served_in_turn_and_each_gets_no_more_than_it_asked_for() {
        let mut room = Room::default();
        room.enter(A, Taking::Once, 3);
        room.enter(B, Taking::Once, 1);
        room.enter(C, Taking::Once, 2);
        assert_eq!(room.wanted(), 6);
        assert_eq!(assigned(&mut room, 1..3), [1, 2]);
        let mut served = room.take_served();
        served.sort();
        assert_eq!((served, room.wanted()), (vec![A, B], 2), "who got something waits no longer");
        room.enter(A, Taking::Once, 9);
        assert_eq!(assigned(&mut room, 3..8), [3, 1, 3, 1, 1]);
        assert_eq!(room.take_served().len(), 2);
        assert_eq!(assigned(&mut room, 8..9), [0], "nobody waits");
    }

    #[test]
    fn an_answer_makes_room_for_another_delivery_and_a_late_one_does_not() {
        let mut room = Room::default();
        room.enter(A, Taking::Replenished, 2);
        assert_eq!(assigned(&mut room, 1..4), [1, 1, 0]);
        room.ended(Seq(1), Epoch(9));
        assert_eq!(room.wanted(), 0, "another claim of the same event");
        room.ended(Seq(1), Epoch(1));
        room.ended(Seq(1), Epoch(1));
        assert_eq!(room.wanted(), 1);
        room.all_ended();
        assert_eq!(room.wanted(), 2);
    }

    #[test]
    fn who_asks_for_each_delivery_gets_no_more_than_that_and_who_is_full_gets_none() {
        let mut room = Room::default();
        room.enter(A, Taking::Granted, 0);
        assert_eq!(assigned(&mut room, 1..2), [0]);
        room.grant(A, 100, 3);
        assert_eq!(room.wanted(), 3);
        room.set_full(A, true);
        assert_eq!(assigned(&mut room, 2..3), [0]);
        room.set_full(A, false);
        assert_eq!(assigned(&mut room, 3..7), [1, 1, 1, 0]);
        room.ended(Seq(3), Epoch(3));
        assert_eq!(room.wanted(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u64, Taking, usize),
        Leave(u64),
        Grant(u64, usize),
        Full(u64, bool),
        Assign,
        Served,
        Ended(u64),
        AllEnded,
    }

    fn step() -> impl Strategy<Value = Step> {
        let taking = prop_oneof![Just(Taking::Once), Just(Taking::Replenished), Just(Taking::Granted)];
        prop_oneof![
            2 => (0_u64..6, taking, 0_usize..5).prop_map(|(id, taking, left)| Step::Enter(id, taking, left)),
            1 => (0_u64..6).prop_map(Step::Leave),
            1 => (0_u64..6, 0_usize..5).prop_map(|(id, more)| Step::Grant(id, more)),
            1 => (0_u64..6, any::<bool>()).prop_map(|(id, full)| Step::Full(id, full)),
            6 => Just(Step::Assign),
            1 => Just(Step::Served),
            2 => (0_u64..60).prop_map(Step::Ended),
            1 => Just(Step::AllEnded),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_delivery_goes_to_one_who_wants_it_and_the_count_of_what_is_wanted_holds(steps in prop::collection::vec(step(), 1..120)) {
            let mut room = Room::default();
            let mut next = 0;
            for step in steps {
                let before = room.wanted();
                match step {
                    Step::Enter(id, taking, left) => {
                        room.leave(TakerId(id));
                        let before = room.wanted();
                        room.enter(TakerId(id), taking, left);
                        prop_assert_eq!(room.wanted(), before + left);
                    }
                    Step::Leave(id) => room.leave(TakerId(id)),
                    Step::Grant(id, more) => room.grant(TakerId(id), more, 8),
                    Step::Full(id, full) => room.set_full(TakerId(id), full),
                    Step::Assign => {
                        next += 1;
                        let given = room.assign(Seq(next), Epoch(next));
                        prop_assert_eq!(given.is_some(), before > 0);
                        prop_assert_eq!(room.wanted(), before.saturating_sub(1));
                    }
                    Step::Served => {
                        room.take_served();
                        prop_assert!(room.takers.values().all(|one| one.taking != Taking::Once || !one.served));
                    }
                    Step::Ended(seq) => room.ended(Seq(seq), Epoch(seq)),
                    Step::AllEnded => room.all_ended(),
                }
                prop_assert_eq!(room.turns.len(), room.takers.len());
                prop_assert!(room.out.values().all(|(_, id)| room.takers.contains_key(id)), "nothing is kept of who has gone");
            }
        }
    }
}
