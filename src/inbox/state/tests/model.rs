//! The machine beside a simple model: whatever happens, in whatever order, and through crashes that lose the last
//! commits, every event is settled and no invariant is broken.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::actions::{Action, Answer, action, ordering, settlement};
use super::*;

/// What the store would hold, in the order in which it was handed in.
#[derive(Clone, Debug)]
enum Commit {
    Row(RowChange),
    Position(Position),
}

/// The model: a log, what was settled, and what the store holds; beside it the inbox.
struct World {
    ordering: Ordering,
    inbox: InboxState,
    now: UnixMs,
    log: Vec<(Seq, u64)>,
    head: Seq,
    /// Settled in this life, or before it and covered by what the store had kept.
    done: HashSet<Seq>,
    ever_settled: HashSet<Seq>,
    out: BTreeMap<Seq, Claim>,
    stale: Vec<Claim>,
    /// Rows of replays that the inbox has.
    replays: BTreeSet<Seq>,
    due: BTreeMap<Seq, UnixMs>,
    failures: BTreeMap<Seq, u32>,
    commits: Vec<Commit>,
    rows: BTreeMap<Seq, RowRecord>,
    newest_epoch: Epoch,
    suspended_until: Option<UnixMs>,
    paused: bool,
    hub_paused: bool,
}

impl World {
    fn new(ordering: Ordering) -> Self {
        Self {
            ordering,
            inbox: InboxState::restore(rules(ordering), Position::at(Seq::ZERO), [], 1, false),
            now: START,
            log: Vec::new(),
            head: Seq::ZERO,
            done: HashSet::new(),
            ever_settled: HashSet::new(),
            out: BTreeMap::new(),
            stale: Vec::new(),
            replays: BTreeSet::new(),
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
            commits: Vec::new(),
            rows: BTreeMap::new(),
            newest_epoch: Epoch(0),
            suspended_until: None,
            paused: false,
            hub_paused: false,
        }
    }

    fn write(&mut self, change: RowChange) {
        apply(&mut self.rows, &change);
        self.commits.push(Commit::Row(change));
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Append { key, gap } => {
                self.head = Seq(self.head.0 + gap + 1);
                self.log.push((self.head, key));
                self.offer(1);
            }
            Action::Offer(count) => self.offer(count),
            Action::Claim => self.claim(),
            Action::Settle(at, answer) => {
                if !self.out.is_empty() {
                    let claims: Vec<Claim> = self.out.values().copied().collect();
                    self.settle(*at.get(&claims), answer);
                }
            }
            Action::SettleStale(at, answer) => self.settle_stale(&at, answer),
            Action::Renew(at) => {
                if !self.out.is_empty() {
                    let claims: Vec<Claim> = self.out.values().copied().collect();
                    let Claim { seq, epoch, attempt: _ } = *at.get(&claims);
                    assert_eq!(self.inbox.renew(seq, epoch, self.now), Ok(()));
                }
            }
            Action::Advance(ms) => self.now = self.now.plus_ms(ms),
            Action::ExpireLeases => self.expire_leases(),
            Action::Suspend(ms) => {
                let until = self.now.plus_ms(ms);
                self.inbox.suspend(until);
                self.suspended_until = Some(self.suspended_until.map_or(until, |set| set.max(until)));
            }
            Action::ResumeNow => {
                self.inbox.resume_now();
                self.suspended_until = None;
            }
            Action::Pause(paused) => {
                self.inbox.set_paused(paused);
                self.paused = paused;
            }
            Action::PauseHub(paused) => {
                self.inbox.set_hub_paused(paused);
                self.hub_paused = paused;
            }
            Action::Shed => {
                self.inbox.shed();
                assert!(!self.out.is_empty() || self.inbox.window_is_empty(), "a rest holds no events in memory");
            }
            Action::Park => self.park(),
            Action::Replay(at) => self.replay(&at),
            Action::Hasten(at) => self.hasten(&at),
            Action::Report => self.commits.push(Commit::Position(self.inbox.position())),
            Action::Crash { lost } => self.crash(lost),
        }
    }

    fn next_in_log(&self) -> Option<(Seq, u64)> {
        let at = self.log.partition_point(|(seq, _)| *seq <= self.inbox.seen());
        self.log.get(at).copied()
    }

    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let Some((seq, key)) = self.next_in_log() else {
                self.inbox.passed(self.head);
                return;
            };
            match self.inbox.offer(seq, key, EVENT_BYTES) {
                Offered::Taken => {
                    assert!(!self.done.contains(&seq), "{seq} was settled and is taken again");
                    assert!(!self.replays.contains(&seq), "RP-1: {seq} is in the window and has a row");
                }
                Offered::TakenOver(change) => {
                    assert!(!self.done.contains(&seq), "{seq} was settled and is taken again");
                    assert_eq!(change, RowChange::Delete(seq));
                    assert!(self.replays.remove(&seq) && !self.out.contains_key(&seq), "{seq} is taken over");
                    self.due.remove(&seq);
                    self.failures.remove(&seq);
                    self.write(change);
                }
                Offered::Known => {
                    assert!(self.done.contains(&seq) || self.rows.contains_key(&seq), "IN-1: {seq} is lost");
                }
                Offered::Full => return,
            }
        }
    }

    fn replay(&mut self, at: &prop::sample::Index) {
        if self.log.is_empty() {
            return;
        }
        let (seq, key) = *at.get(&self.log);
        let in_window = self.inbox.progress.window().any(|open| open == seq);
        let known = in_window || self.rows.contains_key(&seq);
        let mark = ReplayMark { job: Some("job_1".to_owned()), dead_letter: None };
        match self.inbox.replay(seq, key, mark.clone(), self.now) {
            Replayed::UnderWay => assert!(known, "{seq} is settled and cannot be replayed"),
            Replayed::Full => {
                assert!(!known);
                assert_eq!(self.replays.len(), rules(self.ordering).parked_max, "RP-4: there is room");
            }
            Replayed::Taken(change) => {
                assert!(!known, "RP-1: {seq} is unsettled and is taken a second time");
                assert!(matches!(&change, RowChange::Put(_, row) if row.replay == Some(mark)), "{change:?}");
                self.write(change);
                self.replays.insert(seq);
                self.failures.remove(&seq);
                self.due.remove(&seq);
            }
        }
    }

    fn hasten(&mut self, at: &prop::sample::Index) {
        let rows: Vec<(Seq, RowRecord)> = self.rows.iter().map(|(seq, row)| (*seq, row.clone())).collect();
        if rows.is_empty() {
            return;
        }
        let (seq, row) = at.get(&rows);
        match self.inbox.hasten(*seq, row, self.now) {
            Hastened::Due(change) => {
                let due_now = RowRecord { state: RowState::Retry { due_at: self.now }, ..row.clone() };
                assert_eq!(change, RowChange::Put(*seq, RowRecord { epoch: epoch_of(&change), ..due_now }));
                assert!(!self.out.contains_key(seq));
                self.write(change);
                self.due.insert(*seq, self.now);
            }
            Hastened::InFlight => assert!(self.out.contains_key(seq)),
            Hastened::Pending => assert!(!self.out.contains_key(seq)),
            Hastened::Settled => panic!("{seq} has a row and is not here"),
        }
    }

    fn park(&mut self) {
        for change in self.inbox.park_blocked() {
            self.write(change);
        }
    }

    fn claim(&mut self) {
        let held = self.paused || self.hub_paused || self.suspended_until.is_some_and(|until| until > self.now);
        let claims = self.inbox.claim(self.now);
        if !held {
            self.suspended_until = None;
        }
        for claim in claims {
            let Claim { seq, epoch, attempt } = claim;
            assert!(!held, "{seq} is claimed during a rest");
            assert!(epoch > self.newest_epoch, "IN-2: an epoch is larger than every one before");
            self.newest_epoch = epoch;
            let replayed = self.replays.contains(&seq);
            assert_eq!(
                self.done.contains(&seq),
                replayed,
                "{seq} was settled and is given out again, or is not and is"
            );
            assert!(self.due.get(&seq).is_none_or(|due| *due <= self.now), "{seq} is tried before it is due");
            assert_eq!(attempt, self.failures.get(&seq).copied().unwrap_or(0) + 1, "attempts of {seq}");
            self.due.remove(&seq);
            assert!(self.out.insert(seq, claim).is_none(), "{seq} is out twice");
            self.check_order(seq);
        }
        let concurrency = if self.ordering == Ordering::Strict { 1 } else { rules(self.ordering).concurrency };
        assert!(self.out.len() <= concurrency, "IN-4: concurrency");
        let replays_out = self.out.keys().filter(|seq| self.replays.contains(seq)).count();
        assert!(replays_out <= 1.max(concurrency / 2), "RP-3: {replays_out} are out");
        self.check_wake();
    }

    /// IN-3.
    fn check_order(&self, claimed: Seq) {
        let key_of = |seq: Seq| self.log.iter().find(|(one, _)| *one == seq).map(|(_, key)| *key);
        let same_lane = |seq: Seq| match self.ordering {
            Ordering::None => false,
            Ordering::Key => key_of(seq) == key_of(claimed),
            Ordering::Strict => true,
        };
        let replayed = self.replays.contains(&claimed);
        let together = self.out.keys().filter(|seq| self.replays.contains(seq) == replayed && same_lane(**seq)).count();
        assert!(together <= 1, "IN-3: a lane has one event out");
        if replayed {
            let older = self.replays.range(..claimed).find(|seq| same_lane(**seq));
            assert!(older.is_none(), "{claimed} is given out again before {older:?}, which is before it in its lane");
            return;
        }
        for (seq, _) in self.log.iter().filter(|(seq, _)| *seq < claimed && same_lane(*seq)) {
            assert!(self.done.contains(seq), "IN-3: {claimed} is out and {seq}, before it in its lane, is not settled");
        }
    }

    /// After a claim: nothing is due now, and what will be due has a wake.
    fn check_wake(&self) {
        if !self.inbox.expired_leases(self.now).is_empty() {
            return;
        }
        let wake = self.inbox.wake_at();
        if let Some(at) = wake {
            assert!(at > self.now, "a wake at {at:?} has nothing to do and comes at once, again and again");
        }
        if let Some(claim) = self.out.values().next() {
            assert!(wake.is_some(), "the lease of {claim:?} is watched");
        }
        if self.paused || self.hub_paused {
            return;
        }
        let resting = self.suspended_until.filter(|until| *until > self.now);
        let known_due = self.due.iter().filter(|(seq, due)| **due > self.now && self.rows.contains_key(seq));
        let next = match resting {
            Some(until) => Some(until),
            None => known_due.map(|(_, due)| *due).min(),
        };
        if let Some(next) = next {
            assert!(wake.is_some_and(|at| at <= next), "something is to be done at {next:?}, the wake is {wake:?}");
        }
    }

    fn settle(&mut self, claim: Claim, answer: Answer) {
        let Claim { seq, epoch, attempt: _ } = claim;
        let settlement = settlement(answer, self.now);
        let change = self.inbox.settle(seq, epoch, settlement, self.now).expect("the claim counts");
        self.out.remove(&seq);
        self.stale.push(claim);
        match answer {
            Answer::Processed | Answer::GivenUp => {
                if self.replays.remove(&seq) {
                    assert_eq!(change, Some(RowChange::Delete(seq)), "the row of a replay goes");
                }
                self.done.insert(seq);
                self.ever_settled.insert(seq);
            }
            Answer::Retry(ms) => {
                self.due.insert(seq, self.now.plus_ms(ms));
                *self.failures.entry(seq).or_default() += 1;
                assert!(matches!(change, Some(RowChange::Put(..))), "a failure has a row");
            }
            Answer::Deferred => {}
        }
        if let Some(change) = change {
            self.write(change);
        }
    }

    /// IN-2: an old answer changes nothing at all.
    fn settle_stale(&mut self, at: &prop::sample::Index, answer: Answer) {
        if self.stale.is_empty() {
            return;
        }
        let Claim { seq, epoch, attempt: _ } = *at.get(&self.stale);
        let before = format!("{:?}", self.inbox);
        self.inbox
            .settle(seq, epoch, settlement(answer, self.now), self.now)
            .expect_err("IN-2: settled by an old claim");
        self.inbox.renew(seq, epoch, self.now).expect_err("IN-2: an old claim is renewed");
        self.inbox.claimed(seq, epoch).expect_err("IN-2: an old claim counts");
        assert_eq!(format!("{:?}", self.inbox), before, "IN-2: an old answer changed something");
    }

    fn expire_leases(&mut self) {
        for claim in self.inbox.expired_leases(self.now) {
            assert_eq!(self.out.get(&claim.seq), Some(&claim));
            self.settle(claim, Answer::Retry(50));
        }
    }

    fn crash(&mut self, lost: usize) {
        self.commits.truncate(self.commits.len().saturating_sub(lost));
        let mut position = Position::at(Seq::ZERO);
        self.rows.clear();
        for commit in &self.commits {
            match commit {
                Commit::Row(change) => apply(&mut self.rows, change),
                Commit::Position(one) => position = one.clone(),
            }
        }
        self.done = self.log.iter().map(|(seq, _)| *seq).filter(|seq| position.covers(*seq)).collect();
        self.done.retain(|seq| self.rows.get(seq).is_none_or(|row| row.replay.is_some()));
        self.replays = self.rows.iter().filter(|(_, row)| row.replay.is_some()).map(|(seq, _)| *seq).collect();
        let lost: Vec<&Seq> = self.done.iter().filter(|seq| !self.ever_settled.contains(seq)).collect();
        assert!(lost.is_empty(), "IN-1: {lost:?} were never settled and the store holds them for settled");
        self.stale.extend(std::mem::take(&mut self.out).into_values());
        self.due.clear();
        self.failures.clear();
        for (seq, row) in &self.rows {
            if let RowState::Retry { due_at } = row.state {
                self.due.insert(*seq, due_at);
            }
            self.failures.insert(*seq, row.attempts);
        }
        self.suspended_until = None;
        let rows = self.rows.clone();
        let first_epoch = self.newest_epoch.0 + 1;
        self.inbox = InboxState::restore(rules(self.ordering), position, rows, first_epoch, self.paused);
        self.inbox.set_hub_paused(self.hub_paused);
    }

    /// IN-1 and IN-4, after every step.
    fn check(&self) {
        let InboxRules { window_events, window_bytes, parked_max, concurrency, .. } = rules(self.ordering);
        let position = self.inbox.position();
        for (seq, _) in self.log.iter().filter(|(seq, _)| position.covers(*seq)) {
            assert!(
                self.done.contains(seq) || self.rows.contains_key(seq),
                "IN-1: {position:?} covers {seq}, which is neither settled nor has a row"
            );
        }
        for (seq, _) in self.log.iter().filter(|(seq, _)| *seq <= self.inbox.seen()) {
            let kept = position.covers(*seq) || self.inbox.progress.window().any(|open| open == *seq);
            assert!(kept, "IN-1: {seq} was offered and is neither covered by {position:?} nor in the window");
            if self.done.contains(seq) {
                assert!(position.covers(*seq), "{seq} is settled and {position:?} does not tell");
            }
        }
        let mut after = position.cursor;
        for (start, end) in &position.ahead {
            assert!(*start > after && end >= start, "{position:?} is not ascending");
            after = *end;
        }
        let counts = self.inbox.counts();
        assert!(counts.window <= window_events, "IN-4: window");
        assert!(counts.window <= 1 || self.inbox.progress.window_bytes() <= window_bytes, "IN-4: bytes");
        assert_eq!(self.inbox.progress.window_bytes(), counts.window * EVENT_BYTES, "bytes of the window");
        assert!(counts.rows <= parked_max, "IN-4: {} rows", counts.rows);
        assert!(counts.in_flight <= concurrency && counts.in_flight == self.out.len(), "IN-4: in flight");
        assert_eq!(counts.rows + counts.replays, self.rows.len(), "every row is written");
        assert_eq!(counts.replays, self.replays.len(), "every replayed event has a row");
        assert!(self.rows.keys().all(|seq| self.inbox.needed_from() <= *seq), "what a row needs stays in the log");
    }

    /// Drives everything to its end: nothing may be left over, and nothing may wait for ever.
    fn finish(&mut self) {
        self.apply(Action::Pause(false));
        self.apply(Action::PauseHub(false));
        for _ in 0..10_000 {
            self.offer(1_000);
            if self.next_in_log().is_some() {
                self.park();
            }
            self.claim();
            self.check();
            if let Some(claim) = self.out.values().next() {
                self.settle(*claim, Answer::Processed);
                self.check();
                continue;
            }
            if self.next_in_log().is_none() && self.inbox.window_is_empty() && !self.inbox.has_rows() {
                let left: Vec<_> = self.log.iter().filter(|(seq, _)| !self.done.contains(seq)).collect();
                assert!(left.is_empty(), "IN-1: {left:?} were never settled");
                assert!(self.replays.is_empty(), "{:?} were never given out again", self.replays);
                assert_eq!(self.inbox.position(), Position::at(self.head), "the cursor is at the head");
                return;
            }
            let wake = self.inbox.wake_at();
            self.now = wake.unwrap_or_else(|| panic!("nothing wakes an inbox that is not done: {:?}", self.inbox));
        }
        panic!("the inbox does not come to its end: {:?}", self.inbox);
    }
}

fn epoch_of(change: &RowChange) -> u64 {
    match change {
        RowChange::Put(_, row) => row.epoch,
        RowChange::Delete(seq) => panic!("{seq} is deleted"),
    }
}

fn apply(rows: &mut BTreeMap<Seq, RowRecord>, change: &RowChange) {
    match change {
        RowChange::Put(seq, row) => {
            rows.insert(*seq, row.clone());
        }
        RowChange::Delete(seq) => {
            assert!(rows.remove(seq).is_some(), "a row that is deleted was there");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_event_is_settled_and_no_rule_is_broken(
        ordering in ordering(),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut world = World::new(ordering);
        for action in actions {
            world.apply(action);
            world.check();
        }
        world.finish();
    }
}
