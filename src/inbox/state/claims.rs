//! Claims: events given out, answered, given out again, put aside (IN-2).

use super::item::Phase;
use super::replay::Lane;
use super::{Claim, Illegal, InboxState, Ordering, RowChange, Settlement};
use crate::ground::clock::UnixMs;
use crate::ground::ids::{Epoch, Seq};
use crate::store::records::RowState;

impl InboxState {
    /// Gives out what can be given out, oldest first, replayed events below live ones. A lane has one event out at a time.
    pub fn claim(&mut self, now: UnixMs) -> Vec<Claim> {
        self.claim_most(now, usize::MAX)
    }

    /// As [`InboxState::claim`], and at most so many.
    pub fn claim_most(&mut self, now: UnixMs, most: usize) -> Vec<Claim> {
        self.wake_due(now);
        let mut claims = Vec::new();
        if self.hold(now).is_some() {
            return claims;
        }
        self.suspended_until = None;
        self.throttled_until = None;
        let limit = self.ramp.map_or(self.rules.concurrency, |ramp| ramp.min(self.rules.concurrency)).max(1);
        // One at a time means live and replayed events together.
        let limit = if self.rules.ordering == Ordering::Strict { 1 } else { limit };
        while self.in_flight < limit && claims.len() < most {
            let Some(seq) = self.next_claim(limit) else { break };
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
            let (key, lane) = (item.key, item.lane());
            self.refresh(seq, key, lane);
        }
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
        let lease_until = item.lease_of(seq, epoch)?;
        let (key, lane) = (item.key, item.lane());
        self.leases.remove(&(lease_until, seq));
        self.in_flight -= 1;
        if lane == Lane::Replay {
            self.replays.answered(key);
        }
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
        self.refresh(seq, key, lane);
        Ok(change)
    }

    /// Moves an item out of the window (if it was there) into an exception row.
    fn set_aside(&mut self, seq: Seq, state: RowState, last_error: Option<String>) -> Option<RowChange> {
        let item = self.items.get_mut(&seq)?;
        let row = item.to_row(state, last_error);
        if let Some(bytes) = item.window_bytes.take() {
            self.rows += 1;
            self.progress.close(seq, bytes);
        }
        Some(RowChange::Put(seq, row))
    }

    /// Removes a settled item everywhere.
    fn finish(&mut self, seq: Seq) -> Option<RowChange> {
        let item = self.items.remove(&seq)?;
        let lane = item.lane();
        self.lanes_mut(lane).leave(seq, item.key);
        match (item.window_bytes, lane) {
            (Some(bytes), _) => {
                self.progress.close(seq, bytes);
                return None;
            }
            (None, Lane::Live) => self.rows -= 1,
            (None, Lane::Replay) => self.replays.rows -= 1,
        }
        Some(RowChange::Delete(seq))
    }

    /// When the window is full of events that wait behind a failing key, puts those aside so that other keys go on.
    /// Returns the rows to write.
    pub fn park_blocked(&mut self) -> Vec<RowChange> {
        if self.rules.ordering != Ordering::Key || self.lanes.oldest_runnable().is_some() {
            return Vec::new();
        }
        let blocked: Vec<Seq> = self
            .progress
            .window()
            .filter(|seq| {
                let Some(item) = self.items.get(seq) else { return false };
                let head = self.lanes.head(item.key).and_then(|head| self.items.get(&head));
                item.phase == Phase::Ready && head.is_some_and(|head| head.window_bytes.is_none())
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
        self.lease_for(seq, epoch, now, None).map(|_| ())
    }

    /// Lets the lease of a claim end so many milliseconds from now, or a whole lease. Returns when.
    ///
    /// # Errors
    /// [`Illegal`] when the claim is not the one that counts.
    pub fn lease_for(&mut self, seq: Seq, epoch: Epoch, now: UnixMs, lease_ms: Option<u64>) -> Result<UnixMs, Illegal> {
        let item = self.items.get_mut(&seq).ok_or(Illegal::Unknown(seq))?;
        let before = item.lease_of(seq, epoch)?;
        self.leases.remove(&(before, seq));
        let lease_until = now.plus_ms(lease_ms.unwrap_or(self.rules.lease_ms));
        item.phase = Phase::InFlight { epoch, lease_until };
        self.leases.insert((lease_until, seq));
        Ok(lease_until)
    }

    /// Attempts made before this claim, and when the first was.
    ///
    /// # Errors
    /// [`Illegal`] when the claim is not the one that counts.
    pub fn claimed(&self, seq: Seq, epoch: Epoch) -> Result<(u32, Option<UnixMs>), Illegal> {
        let item = self.items.get(&seq).ok_or(Illegal::Unknown(seq))?;
        item.lease_of(seq, epoch).map(|_| (item.attempts, item.first_attempt))
    }
}
