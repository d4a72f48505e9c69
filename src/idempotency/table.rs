//! The keys in memory: where each stands, who waits for it, and how much is kept. No clock, no store: what is to be written
//! comes out as operations.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::shelf::{Bounds, Full, Shelf};
use super::state::{Decision, Fingerprint, KeyId, Running, Stale, State, Times};
use crate::ground::clock::UnixMs;
use crate::store::{KeptAnswer, KeyOp, KeyPlace, KeyRecord};

/// What a request under a key meets.
#[derive(Debug)]
pub(super) enum Asked {
    /// It runs, once this is committed.
    Run {
        claim: Running,
        taken_over: bool,
        /// Keys that made room for it.
        evicted: usize,
        ops: Vec<KeyOp>,
    },
    /// Somebody holds the key.
    Wait {
        until: UnixMs,
        /// Whether the holder is known to be at work.
        here: bool,
        /// Told when it is worth asking again.
        changed: watch::Receiver<()>,
    },
    /// It was done.
    Replay { place: KeyPlace, kept: KeptAnswer },
    /// The key was used for another request.
    Mismatch,
    /// There is no room for a key.
    Full(Full),
}

/// An answer that is about to be recorded.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) record: KeyRecord,
    /// What of the answer is kept, as the record has it.
    pub(super) kept: KeptAnswer,
    /// Keys that make room for its bytes.
    pub(super) room: Vec<KeyOp>,
}

#[derive(Debug)]
enum Stage {
    /// Claimed. The sender's end tells those who wait.
    Running {
        recording: bool,
        here: bool,
        changed: watch::Sender<()>,
    },
    Done(KeptAnswer),
}

#[derive(Debug)]
struct Entry {
    org: Arc<str>,
    fingerprint: Fingerprint,
    place: KeyPlace,
    epoch: u64,
    since: UnixMs,
    until: UnixMs,
    stage: Stage,
}

impl Entry {
    fn state(&self) -> State {
        let Self { fingerprint, place: KeyPlace { first, .. }, epoch, since, until, .. } = *self;
        match &self.stage {
            Stage::Running { recording, .. } => {
                State::Running(Running { fingerprint, first, epoch, since, until, recording: *recording })
            }
            Stage::Done(_) => State::Done { fingerprint, first },
        }
    }

    fn record(&self, id: KeyId) -> KeyRecord {
        KeyRecord {
            id: id.0,
            org: self.org.to_string(),
            fingerprint: self.fingerprint.0,
            place: self.place,
            epoch: self.epoch,
            since: self.since,
            until: self.until,
            done: match &self.stage {
                Stage::Running { .. } => None,
                Stage::Done(kept) => Some(kept.clone()),
            },
        }
    }
}

/// All keys.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<KeyId, Entry>,
    shelf: Shelf,
    /// The last number given out, as a place or a token.
    last: u64,
    times: Times,
    bounds: Bounds,
}

impl Table {
    pub(super) fn new(times: Times, bounds: Bounds) -> Self {
        Self { entries: HashMap::new(), shelf: Shelf::default(), last: 0, times, bounds }
    }

    /// Takes in what an earlier life of the process knew. Its holders are gone; their locks last.
    pub(super) fn load(&mut self, record: KeyRecord, now: UnixMs) {
        self.last = self.last.max(record.epoch).max(record.place.number);
        let KeyRecord { id, org, fingerprint, place, epoch, since, until, done } = record;
        let (id, org): (KeyId, Arc<str>) = (KeyId(id), Arc::from(org));
        let bytes = done.as_ref().and_then(|kept| kept.bytes).unwrap_or(0);
        let stage = match done {
            Some(kept) => Stage::Done(kept),
            None => Stage::Running { recording: false, here: false, changed: watch::Sender::new(()) },
        };
        let entry = Entry { org, fingerprint: Fingerprint(fingerprint), place, epoch, since, until, stage };
        if entry.state().at(now, self.times) == State::Absent {
            return;
        }
        // A crash can leave the key's earlier life behind; the later one counts.
        if self.entries.get(&id).is_some_and(|other| other.place > entry.place) {
            return;
        }
        self.remove(id);
        self.shelf.put(&entry.org, place.number, id, place.first);
        self.shelf.mark(&entry.org, place.number, false, bytes.into());
        self.entries.insert(id, entry);
    }

    /// Keys, and bytes of their answers.
    pub(super) fn size(&self) -> (usize, u64) {
        self.shelf.size()
    }

    fn remove(&mut self, id: KeyId) -> Option<KeyOp> {
        let entry = self.entries.remove(&id)?;
        self.shelf.take(&entry.org, entry.place.number);
        Some(KeyOp::Forget(entry.place))
    }

    /// Makes room for a key of this org.
    fn make_room(&mut self, org: &str, now: UnixMs) -> Result<Vec<KeyOp>, Full> {
        let mut ops = Vec::new();
        while ops.len() < Shelf::room_max() {
            match self.shelf.must_go(org, now, &self.bounds) {
                Ok(Some(id)) => ops.extend(self.remove(id)),
                Ok(None) => return Ok(ops),
                // What had to go has gone: the bounds were lowered and the rest follows with the next keys.
                Err(_) if !ops.is_empty() => return Ok(ops),
                Err(full) => return Err(full),
            }
        }
        Ok(ops)
    }

    /// A request under a key.
    pub(super) fn ask(&mut self, id: KeyId, org: &str, fingerprint: Fingerprint, now: UnixMs) -> Asked {
        let state = self.entries.get(&id).map_or(State::Absent, Entry::state);
        let epoch = self.last + 1;
        match state.ask(fingerprint, epoch, now, self.times) {
            Decision::Run(claim) => {
                let mut ops = Vec::new();
                ops.extend(self.remove(id));
                let room = match self.make_room(org, now) {
                    Ok(room) => room,
                    Err(full) => return Asked::Full(full),
                };
                let evicted = room.len();
                ops.extend(room);
                self.last = epoch;
                let place = KeyPlace { first: claim.first, number: epoch };
                ops.push(self.claim(id, Arc::from(org), place, claim));
                Asked::Run { claim, taken_over: false, evicted, ops }
            }
            Decision::TakeOver(claim) => {
                self.last = epoch;
                let Some(entry) = self.entries.remove(&id) else { return Asked::Mismatch };
                let ops = vec![self.claim(id, entry.org, entry.place, claim)];
                Asked::Run { claim, taken_over: true, evicted: 0, ops }
            }
            Decision::Wait { until } => match self.entries.get(&id).map(|entry| &entry.stage) {
                Some(Stage::Running { here, changed, .. }) => {
                    Asked::Wait { until, here: *here, changed: changed.subscribe() }
                }
                Some(Stage::Done(_)) | None => Asked::Mismatch,
            },
            Decision::Replay => match self.entries.get(&id) {
                Some(Entry { place, stage: Stage::Done(kept), .. }) => {
                    Asked::Replay { place: *place, kept: kept.clone() }
                }
                Some(_) | None => Asked::Mismatch,
            },
            Decision::Mismatch => Asked::Mismatch,
        }
    }

    fn claim(&mut self, id: KeyId, org: Arc<str>, place: KeyPlace, claim: Running) -> KeyOp {
        let Running { fingerprint, epoch, since, until, recording, .. } = claim;
        self.shelf.put(&org, place.number, id, place.first);
        self.shelf.mark(&org, place.number, true, 0);
        let stage = Stage::Running { recording, here: true, changed: watch::Sender::new(()) };
        let entry = Entry { org, fingerprint, place, epoch, since, until, stage };
        let op = KeyOp::Put(entry.record(id));
        self.entries.insert(id, entry);
        op
    }

    /// The holder with this token is about to record an answer of so many bytes, if those are to be kept.
    pub(super) fn begin_recording(
        &mut self,
        id: KeyId,
        epoch: u64,
        mut answer: KeptAnswer,
        now: UnixMs,
    ) -> Result<Recording, Stale> {
        let state = self.entries.get(&id).map_or(State::Absent, Entry::state);
        state.begin_recording(epoch)?;
        let org = self.entries.get(&id).map(|entry| Arc::clone(&entry.org)).ok_or(Stale)?;
        let mut room = Vec::new();
        while let Some(bytes) = answer.bytes {
            match self.shelf.must_go_for(&org, bytes.into(), now, &self.bounds) {
                Ok(None) => break,
                Ok(Some(oldest)) if room.len() < Shelf::room_max() => room.extend(self.remove(oldest)),
                // No room for the answer: it is known that it was done, and how.
                Ok(Some(_)) | Err(_) => answer.bytes = None,
            }
        }
        let entry = self.entries.get_mut(&id).ok_or(Stale)?;
        if let Stage::Running { recording, .. } = &mut entry.stage {
            *recording = true;
        }
        let record = KeyRecord { done: Some(answer.clone()), ..entry.record(id) };
        Ok(Recording { record, kept: answer, room })
    }

    /// The answer is on disk: those who wait are told.
    pub(super) fn recorded(&mut self, id: KeyId, epoch: u64, kept: KeptAnswer) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.epoch == epoch) else { return };
        let bytes = kept.bytes.unwrap_or(0).into();
        self.shelf.mark(&entry.org, entry.place.number, false, bytes);
        entry.stage = Stage::Done(kept);
    }

    /// The holder with this token gives the key back: the next request runs.
    pub(super) fn release(&mut self, id: KeyId, epoch: u64, now: UnixMs) -> Option<KeyOp> {
        let entry = self.entries.get_mut(&id)?;
        let released = entry.state().release(epoch, now).ok()?;
        entry.until = released.until;
        // The old sender goes: whoever waits asks again.
        entry.stage = Stage::Running { recording: false, here: false, changed: watch::Sender::new(()) };
        self.shelf.mark(&entry.org, entry.place.number, false, 0);
        Some(KeyOp::Put(entry.record(id)))
    }

    /// The holder with this token was dropped while it ran: what it did is unknown, so its lock lasts.
    pub(super) fn holder_is_gone(&mut self, id: KeyId, epoch: u64) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.epoch == epoch) else { return };
        if let Stage::Running { here, recording: false, .. } = &mut entry.stage {
            *here = false;
            self.shelf.mark(&entry.org, entry.place.number, false, 0);
        }
    }

    /// Forgets keys whose time is over, up to `limit`; how many those were. Their rows go with their stretch.
    pub(super) fn sweep(&mut self, now: UnixMs, limit: usize) -> usize {
        let upto = UnixMs(now.0.saturating_sub(self.times.keep_ms));
        let mut swept = 0;
        for id in self.shelf.old(upto, limit) {
            let over = self.entries.get(&id).is_none_or(|entry| entry.state().at(now, self.times) == State::Absent);
            if over {
                swept += usize::from(self.remove(id).is_some());
            }
        }
        swept
    }
}
