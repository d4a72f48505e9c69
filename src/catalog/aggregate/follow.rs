//! Following the log: one stretch a step, each declaration from where it was left.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::{DeclaredLifecycles, LifecycleRecord};
use super::rule::Step;
use crate::event::envelope::Event;
use crate::ground::ids::Seq;
use crate::outbox::Tail;
use crate::store::lifecycle::{Commit, Cursors, Flag, Generation, Place};
use crate::store::{EventLog, LifecycleStore, ReadLimits, StoreError};

/// Events of one step.
const STEP_EVENTS: usize = 1_024;
/// Bytes of bodies read at once, when the tail has moved past a stretch.
const STEP_BYTES: usize = 4 << 20;
/// Places forgotten in one step.
const FORGET_MAX: usize = 5_000;

/// What one step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// A stretch was judged; so many events broke their order that came after it was declared.
    Judged {
        /// Events that broke the order.
        broken: u64,
        /// Whether the events were still in memory.
        live: bool,
    },
    /// There is nothing to do until the log grows.
    UpToDate,
    /// There is nothing to follow.
    Idle,
}

/// What there is to follow, and how far that was done. Its place is read from the store at the first step, and again
/// after a failure.
pub(super) struct Follower {
    log: Arc<dyn EventLog>,
    store: Arc<dyn LifecycleStore>,
    tail: Arc<Tail>,
    declared: Arc<DeclaredLifecycles>,
    cursors: Option<HashMap<Generation, Seq>>,
    dropped_before: Seq,
    /// Declarations that were taken back, whose places are still there.
    leaving: Vec<Generation>,
    /// Whose turn it is when some declarations are behind others: those in front, or those behind.
    front: bool,
}

impl Follower {
    pub(super) fn new(
        log: Arc<dyn EventLog>,
        store: Arc<dyn LifecycleStore>,
        tail: Arc<Tail>,
        declared: Arc<DeclaredLifecycles>,
    ) -> Self {
        let (cursors, dropped_before, leaving, front) = (None, Seq::ZERO, Vec::new(), false);
        Self { log, store, tail, declared, cursors, dropped_before, leaving, front }
    }

    /// Judges the next stretch. Blocks.
    ///
    /// # Errors
    /// When the store fails; the next step begins from what is stored.
    pub(super) fn step(&mut self) -> Result<Done, StoreError> {
        let done = self.try_step();
        if done.is_err() {
            self.cursors = None;
        }
        done
    }

    fn try_step(&mut self) -> Result<Done, StoreError> {
        let declared = self.declared.look();
        let known: HashMap<Generation, &Arc<LifecycleRecord>> =
            declared.all().map(|record| (record.generation, record)).collect();
        self.arrive(&known)?;
        self.tidy()?;
        let Some(cursors) = self.cursors.as_ref().filter(|_| !known.is_empty()) else { return Ok(Done::Idle) };
        let (head, earliest) = (self.log.head(), self.log.earliest());
        let mut places: Vec<Seq> = cursors.values().map(|cursor| (*cursor).max(earliest.prev())).collect();
        places.sort_unstable();
        places.dedup();
        let Some((&lowest, &highest)) = places.first().zip(places.last()) else { return Ok(Done::Idle) };
        // Those in front go on beside those that catch up.
        self.front = !self.front;
        let from = if (self.front || lowest >= head) && highest < head { highest } else { lowest };
        if from >= head {
            return Ok(Done::UpToDate);
        }
        let upto = places.iter().copied().find(|place| *place > from).unwrap_or(head).min(head);
        let (events, live) = self.events(from.next(), upto)?;
        let Some(last) = events.last().map(|event| event.seq) else { return Ok(Done::UpToDate) };
        let group: HashMap<Generation, &Arc<LifecycleRecord>> = known
            .into_iter()
            .filter(|(generation, _)| cursors.get(generation).is_some_and(|at| (*at).max(earliest.prev()) == from))
            .collect();
        let (commit, broken) = self.judge(&events, &group, last)?;
        self.store.put_lifecycle(&commit)?;
        if let Some(cursors) = &mut self.cursors {
            cursors.extend(group.keys().map(|generation| (*generation, last)));
        }
        Ok(Done::Judged { broken, live })
    }

    /// Brings the cursors in line with what is declared: a new declaration begins with what the log has.
    fn arrive(&mut self, known: &HashMap<Generation, &Arc<LifecycleRecord>>) -> Result<(), StoreError> {
        let cursors = match &mut self.cursors {
            Some(cursors) => cursors,
            None => self.cursors.insert(self.store.lifecycle_cursors()?.0.into_iter().collect()),
        };
        let gone: Vec<Generation> = cursors.keys().filter(|one| !known.contains_key(one)).copied().collect();
        for generation in gone {
            cursors.remove(&generation);
            self.leaving.push(generation);
        }
        let start = self.log.earliest().prev();
        for generation in known.keys() {
            cursors.entry(*generation).or_insert(start);
        }
        Ok(())
    }

    /// Forgets what belongs to declarations that are gone, and to events that retention has dropped.
    fn tidy(&mut self) -> Result<(), StoreError> {
        if let Some(generation) = self.leaving.last().copied()
            && self.store.forget_places(generation, FORGET_MAX)? < FORGET_MAX
        {
            self.leaving.pop();
        }
        let earliest = self.log.earliest();
        if earliest > self.dropped_before {
            self.store.drop_flags(earliest)?;
            self.dropped_before = earliest;
        }
        Ok(())
    }

    /// Whether something is still to be forgotten.
    pub(super) fn is_tidy(&self) -> bool {
        self.leaving.is_empty()
    }

    fn events(&self, from: Seq, upto: Seq) -> Result<(Vec<Arc<Event>>, bool), StoreError> {
        let wanted = usize::try_from(upto.0 - from.0 + 1).unwrap_or(STEP_EVENTS).min(STEP_EVENTS);
        if let Some(events) = self.tail.read(from, wanted) {
            return Ok((events, true));
        }
        Ok((self.log.read(from, ReadLimits { events: wanted, bytes: STEP_BYTES, upto })?, false))
    }

    fn judge(
        &self,
        events: &[Arc<Event>],
        group: &HashMap<Generation, &Arc<LifecycleRecord>>,
        last: Seq,
    ) -> Result<(Commit, u64), StoreError> {
        let mut by_type: HashMap<(&str, &str), &LifecycleRecord> = HashMap::new();
        for record in group.values() {
            by_type.insert((&record.org, &record.aggregate_type), record);
        }
        let mut places: HashMap<(Generation, &str), Place> = HashMap::new();
        let (mut flags, mut broken) = (Vec::new(), 0);
        for event in events {
            let meta = &event.meta;
            let (Some(kind), Some(id)) = (&meta.aggregate_type, &meta.aggregate_id) else { continue };
            let Some(record) = by_type.get(&(meta.org.as_str(), kind.as_str())) else { continue };
            let key = (record.generation, id.as_str());
            let stood = match places.get(&key) {
                Some(place) => place.state.clone(),
                None => {
                    let stored = self.store.place(record.generation, id)?;
                    stored.map_or_else(|| record.order.initial.clone(), |place| place.state)
                }
            };
            let now = match record.order.step(&stood, &meta.event_type) {
                Step::Unrelated => continue,
                Step::Moves(to) => to.to_owned(),
                Step::Breaks { now, expected } => {
                    broken += u64::from(event.seq > record.since);
                    let flag = Flag {
                        generation: record.generation,
                        event_id: meta.id.clone(),
                        event_type: meta.event_type.clone(),
                        aggregate_id: id.clone(),
                        state: stood.clone(),
                        now: now.to_owned(),
                        expected: expected.into_iter().map(str::to_owned).collect(),
                    };
                    flags.push((event.seq, flag));
                    now.to_owned()
                }
            };
            places.insert(key, Place { state: now, seq: event.seq });
        }
        let mut cursors = self.cursors.clone().unwrap_or_default();
        cursors.extend(group.keys().map(|generation| (*generation, last)));
        let mut cursors: Vec<(Generation, Seq)> = cursors.into_iter().collect();
        cursors.sort_unstable();
        let places = places.into_iter().map(|((generation, id), place)| (generation, id.to_owned(), place)).collect();
        Ok((Commit { cursors: Cursors(cursors), places, flags }, broken))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::rule::{Order, Transition};
    use super::*;
    use crate::event::envelope::{Draft, EventMeta};
    use crate::ground::clock::UnixMs;
    use crate::ground::context::WriteContext;
    use crate::store::fake::{Call, FakeStore, Fault};
    use crate::store::{AppendUnit, Prepared};

    struct Bed {
        store: Arc<FakeStore>,
        declared: Arc<DeclaredLifecycles>,
        count: u64,
    }

    impl Bed {
        fn new() -> Self {
            Self { store: FakeStore::new(1_000_000), declared: Arc::default(), count: 0 }
        }

        fn follower(&self) -> Follower {
            let tail = Arc::new(Tail::new(1));
            Follower::new(self.store.clone(), self.store.clone(), tail, Arc::clone(&self.declared))
        }

        fn declare(&self, org: &str, generation: u64) {
            let of = |from: &str, to: &str, event_type: &str| Transition {
                from: from.to_owned(),
                to: to.to_owned(),
                event_type: event_type.to_owned(),
            };
            let order = Order {
                states: ["none", "open", "paid"].map(str::to_owned).to_vec(),
                initial: "none".to_owned(),
                transitions: vec![of("none", "open", "order.placed"), of("open", "paid", "order.paid")],
            };
            let record = LifecycleRecord {
                org: org.to_owned(),
                aggregate_type: "order".to_owned(),
                generation: Generation(generation),
                since: self.store.head(),
                order,
                created: WriteContext::default(),
                updated: WriteContext::default(),
            };
            self.declared.change(|declared| declared.put(record));
        }

        fn publish(&mut self, org: &str, event_type: &str, id: &str) -> Seq {
            self.count += 1;
            let meta = EventMeta {
                id: format!("e{}", self.count),
                event_type: event_type.to_owned(),
                org: org.to_owned(),
                aggregate_type: Some("order".to_owned()),
                aggregate_id: Some(id.to_owned()),
                ..EventMeta::default()
            };
            let body = Bytes::from(format!("{{\"n\":{}}}", self.count));
            let draft = Draft { meta, body, id_given: true, received_at: UnixMs(1), deliver_at: None };
            let events = vec![Prepared::new(draft).expect("prepares")];
            self.store.append(vec![AppendUnit { events, atomic: false }]).expect("appends");
            self.store.head()
        }

        fn state(&self, generation: u64, id: &str) -> Option<String> {
            self.store.place(Generation(generation), id).expect("reads").map(|place| place.state)
        }

        fn flagged(&self) -> Vec<u64> {
            let flags = self.store.flags_after(Seq::ZERO, 99, 999, &|_| true).expect("reads");
            flags.into_iter().map(|(seq, _)| seq.0).collect()
        }
    }

    /// Steps until there is nothing to do; how many events of those that count broke their order.
    fn run(follower: &mut Follower) -> u64 {
        let mut broken = 0;
        loop {
            match follower.step().expect("steps") {
                Done::Judged { broken: more, .. } => broken += more,
                Done::UpToDate | Done::Idle if follower.is_tidy() => return broken,
                Done::UpToDate | Done::Idle => {}
            }
        }
    }

    #[test]
    fn each_event_is_judged_once_by_where_its_aggregate_stands() {
        let mut bed = Bed::new();
        bed.declare("acme", 1);
        let mut follower = bed.follower();
        bed.publish("acme", "order.placed", "7");
        bed.publish("acme", "order.paid", "7");
        bed.publish("acme", "order.paid", "8");
        bed.publish("acme", "order.viewed", "9");
        bed.publish("globex", "order.paid", "7");
        assert_eq!(run(&mut follower), 1);
        assert_eq!(bed.flagged(), [3]);
        assert_eq!((bed.state(1, "7").as_deref(), bed.state(1, "8").as_deref()), (Some("paid"), Some("paid")));
        assert_eq!(bed.state(1, "9"), None, "what is no matter of the order takes no place");
        assert_eq!(run(&mut bed.follower()), 0, "another life of the process judges nothing again");
        bed.publish("acme", "order.placed", "8");
        assert_eq!(run(&mut follower), 1);
        assert_eq!(bed.flagged(), [3, 6]);
    }

    #[test]
    fn a_later_declaration_reads_what_came_before_and_counts_what_comes_after() {
        let mut bed = Bed::new();
        bed.declare("globex", 1);
        let mut follower = bed.follower();
        bed.publish("acme", "order.paid", "1");
        bed.publish("globex", "order.placed", "1");
        assert_eq!(run(&mut follower), 0);
        bed.declare("acme", 2);
        bed.publish("acme", "order.placed", "1");
        bed.publish("globex", "order.paid", "1");
        assert_eq!(run(&mut follower), 1, "the older one is flagged and not counted");
        assert_eq!(bed.flagged(), [1, 3]);
        assert_eq!((bed.state(1, "1").as_deref(), bed.state(2, "1").as_deref()), (Some("paid"), Some("open")));
    }

    #[test]
    fn a_declaration_that_changes_begins_anew_and_the_old_one_is_forgotten() {
        let mut bed = Bed::new();
        bed.declare("acme", 1);
        let mut follower = bed.follower();
        for n in 0..20 {
            bed.publish("acme", "order.placed", &n.to_string());
        }
        run(&mut follower);
        bed.declare("acme", 2);
        run(&mut follower);
        assert_eq!((bed.state(1, "3"), bed.state(2, "3").as_deref()), (None, Some("open")));
        assert_eq!(bed.store.lifecycle_cursors().expect("reads").0, [(Generation(2), Seq(20))]);
        bed.declared.change(|declared| declared.remove("acme", "order"));
        run(&mut follower);
        assert_eq!(bed.state(2, "3"), None);
    }

    #[test]
    fn a_commit_that_failed_or_was_told_to_have_failed_flags_nothing_twice() {
        for fault in [Fault::Error, Fault::Torn] {
            let mut bed = Bed::new();
            bed.declare("acme", 1);
            let mut follower = bed.follower();
            bed.publish("acme", "order.paid", "1");
            bed.publish("acme", "order.paid", "1");
            bed.store.plan(Call::Commit, 2, fault);
            let mut tries = 0;
            while follower.step().is_ok() {
                tries += 1;
                assert!(tries < 10, "the fault comes");
                bed.publish("acme", "order.placed", &tries.to_string());
            }
            bed.store.reopen();
            run(&mut follower);
            assert_eq!(bed.flagged(), [1, 2], "{fault:?}");
            assert_eq!(bed.state(1, "1").as_deref(), Some("paid"));
        }
    }
}
