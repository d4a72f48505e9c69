//! The inbox as a pure state machine: no clock, no I/O, no actor.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::ground::clock::UnixMs;
use crate::ground::ids::{Epoch, Seq};
use crate::store::records::{RowRecord, RowState};
use crate::store::{Position, StateOp};

/// What order a consumer's events are given out in (INB-6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Any number at once, up to the concurrency.
    #[default]
    None,
    /// One at a time per ordering key; keys side by side. A failing key waits alone.
    Key,
    /// One at a time.
    Strict,
}

/// The bounds of one inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxRules {
    /// Order.
    pub ordering: Ordering,
    /// Most claims out at once; at least 1.
    pub concurrency: usize,
    /// Most events in the window.
    pub window_events: usize,
    /// Most bytes in the window, besides at least one event.
    pub window_bytes: usize,
    /// Most exception rows.
    pub parked_max: usize,
    /// How long a claim may stay unanswered.
    pub lease_ms: u64,
}

/// Settled ranges ahead of the cursor that are kept at most.
const RANGES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Can be claimed when its lane lets it.
    Ready,
    /// Given out.
    InFlight { epoch: Epoch, lease_until: UnixMs },
    /// Failed; claimable again at this time.
    Waiting { due_at: UnixMs },
}

#[derive(Clone, Debug)]
struct Item {
    key: u64,
    /// Bytes of the window it takes; none when it has an exception row instead.
    window_bytes: Option<usize>,
    phase: Phase,
    attempts: u32,
    epoch: Epoch,
    first_attempt: Option<UnixMs>,
    last_attempt: Option<UnixMs>,
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

/// What became of an offered event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the window.
    Taken,
    /// It was known or settled already.
    Known,
    /// The window is full: offer it again later.
    Full,
}

/// Where one event stands with this consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Received, not yet claimed.
    Pending,
    /// Received, waits behind an older event of its key.
    BehindKey,
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

/// Why nothing is claimed now, for the `explain` answer and the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The consumer is paused.
    Paused,
    /// The upstream is resting until then.
    Suspended {
        /// Until when.
        until: UnixMs,
    },
}

/// The state of one consumer's inbox.
#[derive(Debug)]
pub struct InboxState {
    rules: InboxRules,
    items: HashMap<Seq, Item>,
    window: BTreeSet<Seq>,
    window_bytes: usize,
    rows: usize,
    lanes: HashMap<u64, BTreeSet<Seq>>,
    runnable: BTreeSet<Seq>,
    due: BTreeSet<(UnixMs, Seq)>,
    leases: BTreeSet<(UnixMs, Seq)>,
    in_flight: usize,
    seen: Seq,
    ahead: BTreeMap<Seq, Seq>,
    restored: Position,
    next_epoch: u64,
    ramp: Option<usize>,
    suspended_until: Option<UnixMs>,
    paused: bool,
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
            window: BTreeSet::new(),
            window_bytes: 0,
            rows: 0,
            lanes: HashMap::new(),
            runnable: BTreeSet::new(),
            due: BTreeSet::new(),
            leases: BTreeSet::new(),
            in_flight: 0,
            seen: position.cursor,
            ahead: BTreeMap::new(),
            restored: position,
            next_epoch: first_epoch,
            ramp: None,
            suspended_until: None,
            paused,
        };
        for (seq, row) in rows {
            let RowRecord { state: row_state, attempts, key, epoch, first_attempt, last_attempt, last_error: _ } = row;
            let phase = match row_state {
                RowState::Retry { due_at } => Phase::Waiting { due_at },
                RowState::Held => Phase::Ready,
            };
            let item =
                Item { key, window_bytes: None, phase, attempts, epoch: Epoch(epoch), first_attempt, last_attempt };
            state.next_epoch = state.next_epoch.max(epoch.saturating_add(1));
            state.rows += 1;
            state.insert(seq, item);
        }
        state
    }

    fn insert(&mut self, seq: Seq, item: Item) {
        let lane = self.lane_of(item.key);
        if let Phase::Waiting { due_at } = item.phase {
            self.due.insert((due_at, seq));
        }
        self.items.insert(seq, item);
        match lane {
            Some(lane) => {
                let waiting = self.lanes.entry(lane).or_default();
                // A row can lie ahead of events that are read again after a restart: the oldest leads the lane.
                if let Some(head) = waiting.first() {
                    self.runnable.remove(head);
                }
                waiting.insert(seq);
                self.refresh_lane(lane);
            }
            None => self.refresh(seq),
        }
    }

    fn lane_of(&self, key: u64) -> Option<u64> {
        match self.rules.ordering {
            Ordering::None => None,
            Ordering::Key => Some(key),
            Ordering::Strict => Some(0),
        }
    }

    /// Makes an item runnable when nothing of its own keeps it back.
    fn refresh(&mut self, seq: Seq) {
        if self.items.get(&seq).is_some_and(|item| item.phase == Phase::Ready) {
            self.runnable.insert(seq);
        }
    }

    /// Makes the head of a lane runnable when it can be.
    fn refresh_lane(&mut self, lane: u64) {
        if let Some(&head) = self.lanes.get(&lane).and_then(BTreeSet::first) {
            self.refresh(head);
        }
    }

    /// Whether `seq` is settled or known here already.
    #[must_use]
    pub fn knows(&self, seq: Seq) -> bool {
        self.items.contains_key(&seq) || self.restored.covers(seq)
    }

    /// Takes a matching event into the window. Events come in order; positions at or before [`InboxState::seen`] are
    /// known.
    pub fn offer(&mut self, seq: Seq, key: u64, bytes: usize) -> Offered {
        if seq <= self.seen {
            return Offered::Known;
        }
        if self.knows(seq) {
            self.seen = seq;
            self.mark_ahead(seq);
            return Offered::Known;
        }
        if !self.has_room(bytes) {
            return Offered::Full;
        }
        self.seen = seq;
        self.window.insert(seq);
        self.window_bytes += bytes;
        let item = Item {
            key,
            window_bytes: Some(bytes),
            phase: Phase::Ready,
            attempts: 0,
            epoch: Epoch(0),
            first_attempt: None,
            last_attempt: None,
        };
        self.insert(seq, item);
        Offered::Taken
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.has_room_for_a_row()
            && (self.window.is_empty()
                || (self.window.len() < self.rules.window_events
                    && self.window_bytes + bytes <= self.rules.window_bytes
                    && self.ranges() < RANGES_MAX))
    }

    /// Every event in the window may yet fail and need a row.
    fn has_room_for_a_row(&self) -> bool {
        self.rows + self.window.len() < self.rules.parked_max
    }

    /// Settled ranges that [`InboxState::position`] lists.
    fn ranges(&self) -> usize {
        let read = self.restored.ahead.partition_point(|(_, end)| *end <= self.seen);
        self.ahead.len() + (self.restored.ahead.len() - read)
    }

    /// Whether at least half of the window is free: time to read on.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.window.len() * 2 <= self.rules.window_events
            && (self.window.is_empty()
                || (self.window_bytes * 2 <= self.rules.window_bytes && self.ranges() < RANGES_MAX))
            && self.has_room_for_a_row()
    }

    /// Notes that nothing up to `upto` matches beyond what was offered.
    pub fn passed(&mut self, upto: Seq) {
        self.seen = self.seen.max(upto);
        if self.window.is_empty() {
            self.ahead.clear();
        }
    }

    /// Gives out what can be given out, oldest first. A lane has one event out at a time.
    pub fn claim(&mut self, now: UnixMs) -> Vec<Claim> {
        self.wake_due(now);
        let mut claims = Vec::new();
        if self.hold(now).is_some() {
            return claims;
        }
        self.suspended_until = None;
        let limit = self.ramp.map_or(self.rules.concurrency, |ramp| ramp.min(self.rules.concurrency)).max(1);
        while self.in_flight < limit {
            // A row from before a restart waits until reading has come to its place: only then is it known what lies
            // before it, and it cannot be taken for a new event later.
            let Some(seq) = self.runnable.first().copied().filter(|seq| *seq <= self.seen) else { break };
            self.runnable.remove(&seq);
            let epoch = Epoch(self.next_epoch);
            let lease_until = now.plus_ms(self.rules.lease_ms);
            let Some(item) = self.items.get_mut(&seq) else { continue };
            item.phase = Phase::InFlight { epoch, lease_until };
            item.epoch = epoch;
            self.next_epoch += 1;
            self.in_flight += 1;
            self.leases.insert((lease_until, seq));
            claims.push(Claim { seq, epoch, attempt: item.attempts + 1 });
        }
        claims
    }

    fn wake_due(&mut self, now: UnixMs) {
        while let Some(&(due_at, seq)) = self.due.first() {
            if due_at > now {
                break;
            }
            self.due.pop_first();
            let Some(item) = self.items.get_mut(&seq) else { continue };
            item.phase = Phase::Ready;
            match self.lane_of(self.items.get(&seq).map_or(0, |item| item.key)) {
                Some(lane) => self.refresh_lane(lane),
                None => self.refresh(seq),
            }
        }
    }

    /// What keeps this inbox from claiming, if anything does.
    #[must_use]
    pub fn hold(&self, now: UnixMs) -> Option<Hold> {
        if self.paused {
            return Some(Hold::Paused);
        }
        self.suspended_until.filter(|until| *until > now).map(|until| Hold::Suspended { until })
    }

    /// Takes the answer to a claim. Returns what must be written, in order.
    ///
    /// # Errors
    /// [`Illegal`] when the claim is not the one that counts; nothing has changed then.
    pub fn settle(
        &mut self,
        seq: Seq,
        epoch: Epoch,
        settlement: Settlement,
        now: UnixMs,
    ) -> Result<Option<RowChange>, Illegal> {
        let item = self.items.get_mut(&seq).ok_or(Illegal::Unknown(seq))?;
        let lease_until = match item.phase {
            Phase::InFlight { epoch: current, lease_until } if current == epoch => lease_until,
            Phase::InFlight { epoch: current, .. } => {
                return Err(Illegal::StaleEpoch { seq, answered: epoch, current });
            }
            Phase::Ready | Phase::Waiting { .. } => {
                return Err(Illegal::StaleEpoch { seq, answered: epoch, current: item.epoch });
            }
        };
        self.leases.remove(&(lease_until, seq));
        self.in_flight -= 1;
        let change = match settlement {
            Settlement::Processed => {
                self.ramp = self.ramp.map(|ramp| ramp + 1).filter(|ramp| *ramp < self.rules.concurrency);
                self.finish(seq)
            }
            Settlement::GivenUp => self.finish(seq),
            Settlement::Deferred => {
                item.phase = Phase::Ready;
                None
            }
            Settlement::Retry { due_at, error } => {
                item.attempts += 1;
                item.first_attempt.get_or_insert(now);
                item.last_attempt = Some(now);
                item.phase = Phase::Waiting { due_at };
                self.due.insert((due_at, seq));
                self.set_aside(seq, RowState::Retry { due_at }, Some(error))
            }
        };
        if let Some(key) = self.items.get(&seq).map(|item| item.key) {
            match self.lane_of(key) {
                Some(lane) => self.refresh_lane(lane),
                None => self.refresh(seq),
            }
        }
        Ok(change)
    }

    /// Moves an item out of the window (if it was there) into an exception row.
    fn set_aside(&mut self, seq: Seq, state: RowState, last_error: Option<String>) -> Option<RowChange> {
        let item = self.items.get_mut(&seq)?;
        let row = RowRecord {
            state,
            attempts: item.attempts,
            key: item.key,
            epoch: item.epoch.0,
            first_attempt: item.first_attempt,
            last_attempt: item.last_attempt,
            last_error,
        };
        if let Some(bytes) = item.window_bytes.take() {
            self.rows += 1;
            self.leave_window(seq, bytes);
        }
        Some(RowChange::Put(seq, row))
    }

    /// Removes a settled item everywhere.
    fn finish(&mut self, seq: Seq) -> Option<RowChange> {
        let item = self.items.remove(&seq)?;
        self.runnable.remove(&seq);
        if let Some(lane) = self.lane_of(item.key) {
            if let Some(waiting) = self.lanes.get_mut(&lane) {
                waiting.remove(&seq);
                if waiting.is_empty() {
                    self.lanes.remove(&lane);
                }
            }
            self.refresh_lane(lane);
        }
        match item.window_bytes {
            Some(bytes) => {
                self.leave_window(seq, bytes);
                None
            }
            None => {
                self.rows -= 1;
                Some(RowChange::Delete(seq))
            }
        }
    }

    /// Takes a position out of the window and notes it as settled, ahead of the cursor if it is.
    fn leave_window(&mut self, seq: Seq, bytes: usize) {
        self.window.remove(&seq);
        self.window_bytes -= bytes;
        self.mark_ahead(seq);
    }

    /// Notes a position outside the window as settled (or kept as a row). Ranges with nothing unsettled between them
    /// become one.
    fn mark_ahead(&mut self, seq: Seq) {
        let Some(&lowest) = self.window.first() else {
            self.ahead.clear();
            return;
        };
        if lowest > seq {
            // The cursor has moved up to `lowest`: ranges before it say nothing any more.
            self.ahead = self.ahead.split_off(&lowest);
            return;
        }
        let (mut start, mut end) = (seq, seq);
        if let Some((&before_start, &before_end)) = self.ahead.range(..=seq).next_back()
            && self.window.range(before_end.min(seq)..seq).next().is_none()
        {
            start = before_start;
            end = end.max(before_end);
        }
        if let Some((&after_start, &after_end)) = self.ahead.range(seq.next()..).next()
            && self.window.range(seq..after_start).next().is_none()
        {
            end = end.max(after_end);
            self.ahead.remove(&after_start);
        }
        self.ahead.insert(start, end);
    }

    /// When the window is full of events that wait behind a failing key, puts those aside so that other keys go on.
    /// Returns the rows to write.
    pub fn park_blocked(&mut self) -> Vec<RowChange> {
        if self.rules.ordering != Ordering::Key || !self.runnable.is_empty() {
            return Vec::new();
        }
        let blocked: Vec<Seq> = self
            .window
            .iter()
            .copied()
            .filter(|seq| {
                let Some(item) = self.items.get(seq) else { return false };
                let head = self.lanes.get(&item.key).and_then(BTreeSet::first);
                item.phase == Phase::Ready
                    && head.and_then(|head| self.items.get(head)).is_some_and(|head| head.window_bytes.is_none())
            })
            .take(self.rules.parked_max.saturating_sub(self.rows))
            .collect();
        blocked.into_iter().filter_map(|seq| self.set_aside(seq, RowState::Held, None)).collect()
    }

    /// Claims whose lease has run out, to be settled as failed by the caller.
    #[must_use]
    pub fn expired_leases(&self, now: UnixMs) -> Vec<Claim> {
        self.leases
            .iter()
            .take_while(|(until, _)| *until <= now)
            .filter_map(|(_, seq)| {
                let item = self.items.get(seq)?;
                Some(Claim { seq: *seq, epoch: item.epoch, attempt: item.attempts + 1 })
            })
            .collect()
    }

    /// The claims that are out, each with the end of its lease: at most as many as the concurrency.
    #[must_use]
    pub fn claims_out(&self) -> Vec<(Claim, UnixMs)> {
        let claim = |&(until, seq): &(UnixMs, Seq)| {
            let item = self.items.get(&seq)?;
            Some((Claim { seq, epoch: item.epoch, attempt: item.attempts + 1 }, until))
        };
        self.leases.iter().filter_map(claim).collect()
    }

    /// Renews the lease of a claim.
    ///
    /// # Errors
    /// [`Illegal`] when the claim is not the one that counts.
    pub fn renew(&mut self, seq: Seq, epoch: Epoch, now: UnixMs) -> Result<(), Illegal> {
        let lease_ms = self.rules.lease_ms;
        let item = self.items.get_mut(&seq).ok_or(Illegal::Unknown(seq))?;
        match item.phase {
            Phase::InFlight { epoch: current, lease_until } if current == epoch => {
                self.leases.remove(&(lease_until, seq));
                let lease_until = now.plus_ms(lease_ms);
                item.phase = Phase::InFlight { epoch, lease_until };
                self.leases.insert((lease_until, seq));
                Ok(())
            }
            Phase::InFlight { .. } | Phase::Ready | Phase::Waiting { .. } => {
                Err(Illegal::StaleEpoch { seq, answered: epoch, current: item.epoch })
            }
        }
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
        if self.in_flight > 0 || self.window.is_empty() {
            return;
        }
        self.restored = self.position();
        self.seen = self.restored.cursor;
        self.ahead.clear();
        for seq in std::mem::take(&mut self.window) {
            let Some(item) = self.items.remove(&seq) else { continue };
            self.runnable.remove(&seq);
            let Some(lane) = self.lane_of(item.key) else { continue };
            if let Some(waiting) = self.lanes.get_mut(&lane) {
                waiting.remove(&seq);
                if waiting.is_empty() {
                    self.lanes.remove(&lane);
                }
            }
            self.refresh_lane(lane);
        }
        self.window_bytes = 0;
    }

    /// Pauses or resumes claiming. What is out stays out.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Changes the bounds. The ordering of an inbox that holds anything changes for what comes after a restart of it.
    pub fn set_rules(&mut self, rules: InboxRules) {
        self.rules = InboxRules { ordering: self.rules.ordering, ..rules };
    }

    /// When to look again though nobody asks: the next due time, lease end, or end of a rest.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMs> {
        let lease = self.leases.first().map(|(at, _)| *at);
        if self.paused {
            return lease;
        }
        let due = self.due.first().map(|(at, _)| *at);
        let work = match self.suspended_until {
            // Also with nothing in the window: what was shed is read again when the rest is over.
            Some(until) => Some(until),
            None => due,
        };
        [lease, work].into_iter().flatten().min()
    }

    /// The position to keep: the cursor, and what is settled ahead of it.
    #[must_use]
    pub fn position(&self) -> Position {
        let cursor = self.window.first().map_or(self.seen, |lowest| lowest.prev());
        let mut ahead: Vec<(Seq, Seq)> = self.ahead.iter().map(|(start, end)| (*start, *end)).collect();
        // What an earlier life had settled ahead and this one has not read up to yet.
        for (start, end) in &self.restored.ahead {
            if *end > self.seen {
                ahead.push(((*start).max(self.seen.next()), *end));
            }
        }
        Position { cursor, ahead }
    }

    /// Everything up to here was offered or passed.
    #[must_use]
    pub fn seen(&self) -> Seq {
        self.seen
    }

    /// The lowest position this inbox may still have to read from the log.
    #[must_use]
    pub fn needed_from(&self) -> Seq {
        let lowest = self.items.keys().min().copied();
        lowest.unwrap_or_else(|| self.seen.next()).min(self.seen.next())
    }

    /// Whether nothing is in the window or out.
    #[must_use]
    pub fn window_is_empty(&self) -> bool {
        self.window.is_empty() && self.in_flight == 0
    }

    /// Whether an exception row exists.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.rows > 0
    }

    /// Counts for the statistics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { window: self.window.len(), in_flight: self.in_flight, rows: self.rows, due: self.due.len() }
    }

    /// Where one event stands.
    #[must_use]
    pub fn standing(&self, seq: Seq) -> Standing {
        let Some(item) = self.items.get(&seq) else {
            return if seq <= self.seen || self.restored.covers(seq) { Standing::Settled } else { Standing::Ahead };
        };
        match item.phase {
            Phase::InFlight { .. } => Standing::Processing { attempts: item.attempts + 1 },
            Phase::Waiting { due_at } => Standing::Failed { due_at, attempts: item.attempts },
            Phase::Ready => {
                let head = self.lane_of(item.key).and_then(|lane| self.lanes.get(&lane)).and_then(BTreeSet::first);
                if head.is_some_and(|head| *head != seq) { Standing::BehindKey } else { Standing::Pending }
            }
        }
    }

    /// Attempts made before this claim, and when the first was.
    ///
    /// # Errors
    /// [`Illegal`] when the claim is not the one that counts.
    pub fn claimed(&self, seq: Seq, epoch: Epoch) -> Result<(u32, Option<UnixMs>), Illegal> {
        let item = self.items.get(&seq).ok_or(Illegal::Unknown(seq))?;
        match item.phase {
            Phase::InFlight { epoch: current, .. } if current == epoch => Ok((item.attempts, item.first_attempt)),
            Phase::InFlight { .. } | Phase::Ready | Phase::Waiting { .. } => {
                Err(Illegal::StaleEpoch { seq, answered: epoch, current: item.epoch })
            }
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
    /// Exception rows.
    pub rows: usize,
    /// Events waiting for their due time.
    pub due: usize,
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
    pub fn into_op(self, consumer: &crate::ground::ids::ConsumerId) -> StateOp {
        match self {
            Self::Put(seq, row) => StateOp::PutRow(consumer.clone(), seq, row),
            Self::Delete(seq) => StateOp::DeleteRow(consumer.clone(), seq),
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
