//! The inbox as a pure state machine: no clock, no I/O, no actor.
//!
//! - [`rules`](InboxRules): order and bounds
//! - `item`: one event: its phase, the claim on it, its row
//! - `progress`: what was seen, the window, the settled ranges ahead of the cursor
//! - `lanes`: which events wait behind which
//! - `claims`: events given out, answered, put aside
//! - `replay`: events given out again because a replay asked for it
//! - here: what comes in, rests, and how the inbox stands
//!
//! An event that is open is in the window; one that failed, or waits behind a failure and was put aside, is an
//! exception row; one that is settled is nowhere but in the position.

mod claims;
mod item;
mod lanes;
mod progress;
mod replay;
mod rules;

use std::collections::{BTreeSet, HashMap};

use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::store::Position;
use crate::store::records::RowRecord;
use item::{Item, Phase};
use lanes::Lanes;
use progress::Progress;
use replay::{Lane, ReplayLane};

pub use item::{Claim, Illegal, RowChange, Settlement, Standing};
pub use replay::{Hastened, LIVE_PER_REPLAY, REPLAYS_MAX, Replayed};
pub use rules::{InboxRules, Ordering};

/// What became of an offered event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the window.
    Taken,
    /// It is in the window, in place of the row that a replay had made of it.
    TakenOver(RowChange),
    /// It was known or settled already.
    Known,
    /// The window is full: offer it again later.
    Full,
}

/// Why nothing is claimed now, for the `explain` answer and the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The whole hub is paused: nothing is given out to anyone.
    HubPaused,
    /// The consumer is paused.
    Paused,
    /// The upstream is resting until then.
    Suspended {
        /// Until when.
        until: UnixMs,
    },
    /// As many as its rate allows are given out; the next one then.
    RateLimited {
        /// Until when.
        until: UnixMs,
    },
}

impl Hold {
    /// The names of all reasons.
    pub const NAMES: [&'static str; 4] = ["hub_paused", "paused", "suspended", "rate_limited"];

    /// The name of the reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let [hub_paused, paused, suspended, rate_limited] = Self::NAMES;
        match self {
            Self::HubPaused => hub_paused,
            Self::Paused => paused,
            Self::Suspended { .. } => suspended,
            Self::RateLimited { .. } => rate_limited,
        }
    }
}

/// Sizes of an inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events in the window.
    pub window: usize,
    /// Claims out.
    pub in_flight: usize,
    /// Exception rows, those of replays aside.
    pub rows: usize,
    /// Rows of replays.
    pub replays: usize,
    /// Events waiting for their due time.
    pub due: usize,
}

/// The state of one consumer's inbox.
#[derive(Debug)]
pub struct InboxState {
    rules: InboxRules,
    /// Everything unsettled that is known here: the window and the rows.
    items: HashMap<Seq, Item>,
    progress: Progress,
    lanes: Lanes,
    replays: ReplayLane,
    /// Exception rows of live events.
    rows: usize,
    due: BTreeSet<(UnixMs, Seq)>,
    leases: BTreeSet<(UnixMs, Seq)>,
    in_flight: usize,
    next_epoch: u64,
    ramp: Option<usize>,
    suspended_until: Option<UnixMs>,
    throttled_until: Option<UnixMs>,
    paused: bool,
    hub_paused: bool,
}

impl InboxState {
    /// An inbox at a position, with its exception rows. `first_epoch` is larger than any given out before.
    #[must_use]
    pub fn restore(
        rules: InboxRules,
        position: Position,
        rows: impl IntoIterator<Item = (Seq, RowRecord)>,
        first_epoch: u64,
        paused: bool,
    ) -> Self {
        let mut state = Self {
            rules,
            items: HashMap::new(),
            progress: Progress::at(position),
            lanes: Lanes::new(rules.ordering),
            replays: ReplayLane::new(rules.ordering),
            rows: 0,
            due: BTreeSet::new(),
            leases: BTreeSet::new(),
            in_flight: 0,
            next_epoch: first_epoch,
            ramp: None,
            suspended_until: None,
            throttled_until: None,
            paused,
            hub_paused: false,
        };
        for (seq, row) in rows {
            state.next_epoch = state.next_epoch.max(row.epoch.saturating_add(1));
            let item = Item::from_row(row);
            match item.lane() {
                Lane::Live => state.rows += 1,
                Lane::Replay => state.replays.rows += 1,
            }
            state.insert(seq, item);
        }
        state
    }

    fn insert(&mut self, seq: Seq, item: Item) {
        let (key, lane) = (item.key, item.lane());
        if let Phase::Waiting { due_at } = item.phase {
            self.due.insert((due_at, seq));
        }
        self.items.insert(seq, item);
        self.lanes_mut(lane).enter(seq, key);
        self.refresh(seq, key, lane);
    }

    /// Makes the leader of the lane of `seq` runnable when it is ready.
    fn refresh(&mut self, seq: Seq, key: u64, lane: Lane) {
        if lane == Lane::Replay && self.replays.is_busy(key) {
            return;
        }
        let Some(leader) = self.lanes_of(lane).leader(seq, key) else { return };
        if self.items.get(&leader).is_some_and(|item| item.phase == Phase::Ready) {
            self.lanes_mut(lane).release(leader);
        }
    }

    /// Takes a matching event into the window. Events come in order; positions at or before [`InboxState::seen`] are
    /// known.
    pub fn offer(&mut self, seq: Seq, key: u64, bytes: usize) -> Offered {
        if seq <= self.seen() {
            return Offered::Known;
        }
        if self.progress.was_settled(seq) || self.items.get(&seq).is_some_and(|item| item.stays()) {
            self.progress.pass_known(seq);
            return Offered::Known;
        }
        if !self.has_room(bytes) {
            return Offered::Full;
        }
        let replaced = self.take_over(seq);
        self.progress.open(seq, bytes);
        self.insert(seq, Item::fresh(key, bytes));
        replaced.map_or(Offered::Taken, Offered::TakenOver)
    }

    fn has_room(&self, bytes: usize) -> bool {
        let events = self.progress.window_events();
        self.has_room_for_a_row()
            && (events == 0
                || (events < self.rules.window_events
                    && self.progress.window_bytes() + bytes <= self.rules.window_bytes
                    && self.progress.has_ranges_left()))
    }

    /// Every event in the window may yet fail and need a row.
    fn has_room_for_a_row(&self) -> bool {
        self.rows + self.progress.window_events() < self.rules.parked_max
    }

    /// Whether at least half of the window is free: time to read on.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        let events = self.progress.window_events();
        events * 2 <= self.rules.window_events
            && (events == 0
                || (self.progress.window_bytes() * 2 <= self.rules.window_bytes && self.progress.has_ranges_left()))
            && self.has_room_for_a_row()
    }

    /// Notes that nothing up to `upto` matches beyond what was offered.
    pub fn passed(&mut self, upto: Seq) {
        self.progress.pass(upto);
    }

    /// What keeps this inbox from claiming, if anything does.
    #[must_use]
    pub fn hold(&self, now: UnixMs) -> Option<Hold> {
        if self.hub_paused {
            return Some(Hold::HubPaused);
        }
        if self.paused {
            return Some(Hold::Paused);
        }
        if let Some(until) = self.suspended_until.filter(|until| *until > now) {
            return Some(Hold::Suspended { until });
        }
        self.throttled_until.filter(|until| *until > now).map(|until| Hold::RateLimited { until })
    }

    /// Gives nothing out until `until`, because the rate is used up. Unlike a rest it says nothing about the upstream:
    /// the window stays as it is, and so does the number of claims at once.
    pub fn throttle(&mut self, until: UnixMs) {
        self.throttled_until = Some(until);
    }

    /// Forgets that the rate is used up: there is another rate now.
    pub fn unthrottle(&mut self) {
        self.throttled_until = None;
    }

    /// Whether something could be given out, were there nothing to hold it.
    #[must_use]
    pub fn has_runnable(&self) -> bool {
        self.lanes.oldest_runnable().is_some_and(|seq| seq <= self.seen())
    }

    /// Rests until `until`, then starts with one claim at a time and grows with each success.
    pub fn suspend(&mut self, until: UnixMs) {
        self.suspended_until = Some(self.suspended_until.map_or(until, |set| set.max(until)));
        self.ramp = Some(1);
    }

    /// Ends a rest early: the breaker was reset by hand.
    pub fn resume_now(&mut self) {
        self.suspended_until = None;
    }

    /// Forgets what waits in the window, to be read again from the log: for a rest that is not over soon, so that sick
    /// and paused consumers hold no events in memory. Does nothing while a claim is out.
    pub fn shed(&mut self) {
        if self.in_flight > 0 || self.progress.window_events() == 0 {
            return;
        }
        for seq in self.progress.rewind() {
            let Some(item) = self.items.remove(&seq) else { continue };
            self.lanes.leave(seq, item.key);
            // A row behind it in its lane leads now.
            if let Some(head) = self.lanes.head(item.key) {
                self.refresh(head, item.key, Lane::Live);
            }
        }
    }

    /// Pauses or resumes claiming. What is out stays out.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Pauses or resumes claiming because the whole hub is paused. What is out stays out.
    pub fn set_hub_paused(&mut self, paused: bool) {
        self.hub_paused = paused;
    }

    /// Changes the bounds. The ordering of an inbox that holds anything changes for what comes after a restart of it.
    pub fn set_rules(&mut self, rules: InboxRules) {
        self.rules = InboxRules { ordering: self.rules.ordering, ..rules };
    }

    /// When to look again though nobody asks: the next due time, lease end, or end of a rest.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMs> {
        let lease = self.leases.first().map(|(at, _)| *at);
        if self.paused || self.hub_paused {
            return lease;
        }
        let due = self.due.first().map(|(at, _)| *at);
        // A rest also with nothing in the window: what was shed is read again when it is over. Before the end of either,
        // what is due is not given out.
        let work = self.suspended_until.or(self.throttled_until).or(due);
        [lease, work].into_iter().flatten().min()
    }

    /// The position to keep: the cursor, and what is settled ahead of it.
    #[must_use]
    pub fn position(&self) -> Position {
        self.progress.position()
    }

    /// Everything up to here was offered or passed.
    #[must_use]
    pub fn seen(&self) -> Seq {
        self.progress.seen()
    }

    /// The lowest position this inbox may still have to read from the log.
    #[must_use]
    pub fn needed_from(&self) -> Seq {
        // A dead letter has the event with it.
        let reads_log = |item: &Item| item.replay.as_ref().is_none_or(|mark| mark.dead_letter.is_none());
        let lowest = self.items.iter().filter(|(_, item)| reads_log(item)).map(|(seq, _)| *seq).min();
        lowest.unwrap_or_else(|| self.seen().next()).min(self.seen().next())
    }

    /// Whether nothing is in the window or out.
    #[must_use]
    pub fn window_is_empty(&self) -> bool {
        self.progress.window_events() == 0 && self.in_flight == 0
    }

    /// Whether an exception row exists.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.rows + self.replays.rows > 0
    }

    /// Counts for the statistics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let window = self.progress.window_events();
        let Self { in_flight, rows, .. } = *self;
        Counts { window, in_flight, rows, replays: self.replays.rows, due: self.due.len() }
    }

    /// Where one event stands.
    #[must_use]
    pub fn standing(&self, seq: Seq) -> Standing {
        let Some(item) = self.items.get(&seq) else {
            let settled = seq <= self.seen() || self.progress.was_settled(seq);
            return if settled { Standing::Settled } else { Standing::Ahead };
        };
        match item.phase {
            Phase::InFlight { .. } => Standing::Processing { attempts: item.attempts + 1 },
            Phase::Waiting { due_at } => Standing::Failed { due_at, attempts: item.attempts },
            Phase::Ready => match self.lanes_of(item.lane()).head(item.key).filter(|head| *head != seq) {
                Some(head) => Standing::BehindKey { head },
                None => Standing::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests;
