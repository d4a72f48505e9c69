use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

const START: UnixMs = UnixMs(1_795_248_000_000);
const LEASE_MS: u64 = 500;
const EVENT_BYTES: usize = 100;

fn rules(ordering: Ordering) -> InboxRules {
    InboxRules { ordering, concurrency: 3, window_events: 6, window_bytes: 550, parked_max: 8, lease_ms: LEASE_MS }
}

/// What the store would hold, in the order in which it was handed in.
#[derive(Clone, Debug)]
enum Commit {
    Row(RowChange),
    Position(Position),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Processed,
    GivenUp,
    Retry(u64),
    Deferred,
}

#[derive(Clone, Debug)]
enum Action {
    /// The log gets an event of this key after a gap of events that do not match, and everything new is offered.
    Append {
        key: u64,
        gap: u64,
    },
    /// The next events of the log are offered.
    Offer(usize),
    Claim,
    Settle(prop::sample::Index, Answer),
    SettleStale(prop::sample::Index, Answer),
    Renew(prop::sample::Index),
    Advance(u64),
    ExpireLeases,
    Suspend(u64),
    ResumeNow,
    Pause(bool),
    Shed,
    Park,
    /// The position is handed in.
    Report,
    /// The process ends; the store has lost this many of the last commits.
    Crash {
        lost: usize,
    },
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::Processed),
        1 => Just(Answer::GivenUp),
        3 => (1_u64..2_000).prop_map(Answer::Retry),
        1 => Just(Answer::Deferred),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    use prop::sample::Index;
    prop_oneof![
        6 => (0_u64..3, 0_u64..3).prop_map(|(key, gap)| Action::Append { key, gap }),
        4 => (1_usize..8).prop_map(Action::Offer),
        6 => Just(Action::Claim),
        8 => (any::<Index>(), answer()).prop_map(|(at, answer)| Action::Settle(at, answer)),
        1 => (any::<Index>(), answer()).prop_map(|(at, answer)| Action::SettleStale(at, answer)),
        1 => any::<Index>().prop_map(Action::Renew),
        3 => (1_u64..1_500).prop_map(Action::Advance),
        1 => Just(Action::ExpireLeases),
        1 => (1_u64..3_000).prop_map(Action::Suspend),
        1 => Just(Action::ResumeNow),
        1 => any::<bool>().prop_map(Action::Pause),
        1 => Just(Action::Shed),
        1 => Just(Action::Park),
        3 => Just(Action::Report),
        1 => (0_usize..6).prop_map(|lost| Action::Crash { lost }),
    ]
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
    due: BTreeMap<Seq, UnixMs>,
    failures: BTreeMap<Seq, u32>,
    commits: Vec<Commit>,
    rows: BTreeMap<Seq, RowRecord>,
    newest_epoch: Epoch,
    suspended_until: Option<UnixMs>,
    paused: bool,
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
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
            commits: Vec::new(),
            rows: BTreeMap::new(),
            newest_epoch: Epoch(0),
            suspended_until: None,
            paused: false,
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
            Action::Shed => {
                self.inbox.shed();
                assert!(!self.out.is_empty() || self.inbox.window_is_empty(), "a rest holds no events in memory");
            }
            Action::Park => self.park(),
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
                Offered::Taken => assert!(!self.done.contains(&seq), "{seq} was settled and is taken again"),
                Offered::Known => {
                    assert!(self.done.contains(&seq) || self.rows.contains_key(&seq), "IN-1: {seq} is lost");
                }
                Offered::Full => return,
            }
        }
    }

    fn park(&mut self) {
        for change in self.inbox.park_blocked() {
            self.write(change);
        }
    }

    fn claim(&mut self) {
        let held = self.paused || self.suspended_until.is_some_and(|until| until > self.now);
        let claims = self.inbox.claim(self.now);
        if !held {
            self.suspended_until = None;
        }
        for claim in claims {
            let Claim { seq, epoch, attempt } = claim;
            assert!(!held, "{seq} is claimed during a rest");
            assert!(epoch > self.newest_epoch, "IN-2: an epoch is larger than every one before");
            self.newest_epoch = epoch;
            assert!(!self.done.contains(&seq), "{seq} was settled and is given out again");
            assert!(self.due.get(&seq).is_none_or(|due| *due <= self.now), "{seq} is tried before it is due");
            assert_eq!(attempt, self.failures.get(&seq).copied().unwrap_or(0) + 1, "attempts of {seq}");
            self.due.remove(&seq);
            assert!(self.out.insert(seq, claim).is_none(), "{seq} is out twice");
            self.check_order(seq);
        }
        assert!(self.out.len() <= rules(self.ordering).concurrency, "IN-4: concurrency");
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
        for (seq, _) in self.log.iter().filter(|(seq, _)| *seq < claimed && same_lane(*seq)) {
            assert!(self.done.contains(seq), "IN-3: {claimed} is out and {seq}, before it in its lane, is not settled");
        }
        let together = self.out.keys().filter(|seq| same_lane(**seq)).count();
        assert!(together <= 1, "IN-3: a lane has one event out");
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
        if self.paused {
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
        self.done.retain(|seq| !self.rows.contains_key(seq));
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
            let kept = position.covers(*seq) || self.inbox.window.contains(seq);
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
        assert!(counts.window <= 1 || self.inbox.window_bytes <= window_bytes, "IN-4: bytes");
        assert_eq!(self.inbox.window_bytes, counts.window * EVENT_BYTES, "bytes of the window");
        assert!(counts.rows <= parked_max, "IN-4: {} rows", counts.rows);
        assert!(counts.in_flight <= concurrency && counts.in_flight == self.out.len(), "IN-4: in flight");
        assert_eq!(counts.rows, self.rows.len(), "every row is written");
        assert!(self.rows.keys().all(|seq| self.inbox.needed_from() <= *seq), "what a row needs stays in the log");
    }

    /// Drives everything to its end: nothing may be left over, and nothing may wait for ever.
    fn finish(&mut self) {
        self.apply(Action::Pause(false));
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
                assert_eq!(self.inbox.position(), Position::at(self.head), "the cursor is at the head");
                return;
            }
            let wake = self.inbox.wake_at();
            self.now = wake.unwrap_or_else(|| panic!("nothing wakes an inbox that is not done: {:?}", self.inbox));
        }
        panic!("the inbox does not come to its end: {:?}", self.inbox);
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

fn settlement(answer: Answer, now: UnixMs) -> Settlement {
    match answer {
        Answer::Processed => Settlement::Processed,
        Answer::GivenUp => Settlement::GivenUp,
        Answer::Retry(ms) => Settlement::Retry { due_at: now.plus_ms(ms), error: "status 500".to_owned() },
        Answer::Deferred => Settlement::Deferred,
    }
}

fn ordering() -> impl Strategy<Value = Ordering> {
    prop_oneof![Just(Ordering::None), Just(Ordering::Key), Just(Ordering::Strict)]
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

fn inbox(ordering: Ordering) -> InboxState {
    InboxState::restore(rules(ordering), Position::at(Seq::ZERO), [], 1, false)
}

fn offer(inbox: &mut InboxState, seq: u64, key: u64) -> Offered {
    inbox.offer(Seq(seq), key, EVENT_BYTES)
}

fn claimed(inbox: &mut InboxState, now: UnixMs) -> Vec<u64> {
    inbox.claim(now).into_iter().map(|claim| claim.seq.0).collect()
}

fn fail(inbox: &mut InboxState, claim: Claim, due_at: UnixMs) {
    let settlement = Settlement::Retry { due_at, error: "status 500".to_owned() };
    inbox.settle(claim.seq, claim.epoch, settlement, START).expect("counts");
}

#[test]
fn a_rest_that_emptied_the_window_still_ends() {
    let mut inbox = inbox(Ordering::None);
    offer(&mut inbox, 1, 1);
    let until = START.plus_ms(60_000);
    inbox.suspend(until);
    inbox.shed();
    assert_eq!(inbox.wake_at(), Some(until), "somebody reads the log again when the rest is over");
    assert!(claimed(&mut inbox, until).is_empty());
    assert_eq!(inbox.wake_at(), None, "the rest is over once");
    assert_eq!(offer(&mut inbox, 1, 1), Offered::Taken);
    assert_eq!(claimed(&mut inbox, until), [1]);
}

#[test]
fn rows_at_their_bound_stop_the_cursor_even_when_the_window_is_empty() {
    let mut inbox = inbox(Ordering::None);
    let mut seq = 0;
    loop {
        seq += 1;
        if offer(&mut inbox, seq, seq) == Offered::Full {
            break;
        }
        for claim in inbox.claim(START) {
            fail(&mut inbox, claim, START.plus_ms(60_000));
        }
        assert!(seq < 100, "the rows have a bound");
    }
    assert_eq!(inbox.counts().rows, rules(Ordering::None).parked_max);
    assert!(!inbox.wants_more());
    assert_eq!(inbox.position().cursor, Seq(seq - 1), "what did not fit is read again");
    let first = inbox.claim(START.plus_ms(60_000))[0];
    inbox.settle(first.seq, first.epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(offer(&mut inbox, seq, seq), Offered::Taken, "a row less is room for one more");
}

#[test]
fn a_failing_key_waits_alone() {
    let mut inbox = inbox(Ordering::Key);
    for seq in 1..=5 {
        assert_eq!(offer(&mut inbox, seq, 7), Offered::Taken);
    }
    let first = inbox.claim(START)[0];
    fail(&mut inbox, first, START.plus_ms(60_000));
    assert_eq!(offer(&mut inbox, 6, 8), Offered::Taken);
    assert_eq!(claimed(&mut inbox, START), [6], "another key goes on");
    assert!(!inbox.wants_more(), "the window is full of events that wait for the failing one");
    let parked: Vec<u64> = inbox
        .park_blocked()
        .into_iter()
        .map(|change| match change {
            RowChange::Put(seq, row) => {
                assert_eq!(row.state, RowState::Held);
                seq.0
            }
            RowChange::Delete(seq) => panic!("{seq} is deleted"),
        })
        .collect();
    assert_eq!(parked, [2, 3, 4, 5]);
    assert!(inbox.wants_more());
    assert_eq!(inbox.standing(Seq(2)), Standing::BehindKey);
    assert_eq!(claimed(&mut inbox, START.plus_ms(60_000)), [1], "the oldest of the key first");
}

#[test]
fn a_strict_inbox_gives_out_nothing_behind_a_failure() {
    let mut inbox = inbox(Ordering::Strict);
    for seq in 1..=3 {
        offer(&mut inbox, seq, seq);
    }
    let first = inbox.claim(START)[0];
    fail(&mut inbox, first, START.plus_ms(1_000));
    assert!(claimed(&mut inbox, START.plus_ms(999)).is_empty());
    assert_eq!(claimed(&mut inbox, START.plus_ms(1_000)), [1]);
}

#[test]
fn a_row_from_before_a_restart_waits_until_reading_has_come_to_it() {
    let row = RowRecord {
        state: RowState::Held,
        attempts: 0,
        key: 7,
        epoch: 90,
        first_attempt: None,
        last_attempt: None,
        last_error: None,
    };
    let mut inbox = InboxState::restore(rules(Ordering::Key), Position::at(Seq(4)), [(Seq(9), row)], 1, false);
    assert!(claimed(&mut inbox, START).is_empty());
    assert_eq!(offer(&mut inbox, 6, 7), Offered::Taken);
    let claims = inbox.claim(START);
    assert_eq!(claims[0].seq, Seq(6), "an older event of the key comes first");
    assert!(claims[0].epoch > Epoch(90), "IN-2: larger than any epoch of an earlier life");
    assert_eq!(offer(&mut inbox, 9, 7), Offered::Known);
    inbox.settle(Seq(6), claims[0].epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(claimed(&mut inbox, START), [9]);
}

#[test]
fn after_a_rest_claims_begin_one_at_a_time_and_grow_with_each_success() {
    let mut inbox = inbox(Ordering::None);
    for seq in 1..=5 {
        offer(&mut inbox, seq, seq);
    }
    inbox.suspend(START.plus_ms(100));
    let first = inbox.claim(START.plus_ms(100));
    assert_eq!(first.len(), 1);
    inbox.settle(first[0].seq, first[0].epoch, Settlement::Processed, START).expect("counts");
    assert_eq!(claimed(&mut inbox, START.plus_ms(100)), [2, 3]);
}

#[test]
fn the_settled_ranges_are_bounded() {
    let wide = InboxRules {
        window_events: 10_000,
        window_bytes: usize::MAX / 4,
        concurrency: 10_000,
        parked_max: 100_000,
        ..rules(Ordering::None)
    };
    let mut inbox = InboxState::restore(wide, Position::at(Seq::ZERO), [], 1, false);
    let mut offered = 0;
    for seq in 1..=9_000 {
        if offer(&mut inbox, seq, seq) == Offered::Full {
            break;
        }
        offered = seq;
        for claim in inbox.claim(START) {
            if claim.seq.0 % 2 == 0 {
                inbox.settle(claim.seq, claim.epoch, Settlement::Processed, START).expect("counts");
            }
        }
    }
    assert_eq!(inbox.position().ahead.len(), RANGES_MAX);
    assert_eq!(offered, 2 * RANGES_MAX as u64);
    assert!(!inbox.wants_more());
}
