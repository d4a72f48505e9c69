//! The ports in memory, with failures that a test plans: the nth call fails, stalls, or is carried out and reported as
//! failed all the same. After a failure every call answers [`StoreError::Unavailable`] until [`FakeStore::reopen`].
//!
//! Here are the planned failures and what is held; each port has a room of its own.

mod consumers;
mod idempotency;
mod lifecycle;
mod links;
mod log;
mod log_index;
mod quarantine;
mod registry;
mod schedule;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::event::envelope::Event;
use crate::ground::ids::{ConsumerId, Seq};
use crate::store::lifecycle::{Cursors, Flag, Generation, Place};
use crate::store::links::{Link, LinkId};
use crate::store::quarantine::{QuarantineId, QuarantineRecord};
use crate::store::records::PageKey;
use crate::store::{
    AttemptPage, DeadLetterRecord, Document, IndexRow, KeyPlace, KeyRecord, Position, RowRecord, ScheduleKey,
    ScheduledRecord, StoreError,
};

/// What a planned failure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written.
    Error,
    /// Everything is written, and the caller is told that it failed.
    Torn,
    /// The call waits for [`FakeStore::release`], then goes on.
    Stall,
}

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Append,
    Read,
    Commit,
    Rows,
    Put,
    PutRow,
    Schedule,
    Links,
    Keys,
}

#[derive(Clone, Default)]
struct Content {
    events: BTreeMap<Seq, Arc<Event>>,
    ids: HashMap<(String, String), Seq>,
    head: Seq,
    /// First position of each segment.
    segments: Vec<Seq>,
    router: Option<Seq>,
    positions: BTreeMap<ConsumerId, Position>,
    rows: BTreeMap<ConsumerId, BTreeMap<Seq, RowRecord>>,
    attempts: BTreeMap<(ConsumerId, PageKey), AttemptPage>,
    newest_page: Option<PageKey>,
    dead: BTreeMap<String, DeadLetterRecord>,
    documents: BTreeMap<(String, String), Document>,
    index: BTreeMap<IndexRow, Vec<u8>>,
    scheduled: BTreeMap<ScheduleKey, ScheduledRecord>,
    links: BTreeMap<LinkId, Link>,
    aside: BTreeMap<QuarantineId, (QuarantineRecord, Option<Bytes>)>,
    places: BTreeMap<(Generation, String), Place>,
    flags: BTreeMap<Seq, Flag>,
    cursors: Cursors,
    keys: BTreeMap<KeyPlace, (KeyRecord, Option<Bytes>)>,
}

#[derive(Default)]
struct State {
    content: Content,
    calls: HashMap<Call, u32>,
    plan: HashMap<(Call, u32), Fault>,
    failed: bool,
    reopened: u64,
    stalled: bool,
    events_read: usize,
}

/// The store in memory.
pub(crate) struct FakeStore {
    segment_events: u64,
    state: Mutex<State>,
    moved: Condvar,
}

impl FakeStore {
    pub(crate) fn new(segment_events: u64) -> Arc<Self> {
        Arc::new(Self { segment_events, state: Mutex::default(), moved: Condvar::new() })
    }

    /// Plans a failure of the `nth` call from now on, from 1.
    pub(crate) fn plan(&self, call: Call, nth: u32, fault: Fault) {
        let mut state = self.state.lock();
        let so_far = state.calls.get(&call).copied().unwrap_or(0);
        state.plan.insert((call, so_far + nth), fault);
    }

    /// Ends a failure.
    pub(crate) fn reopen(&self) {
        let mut state = self.state.lock();
        state.failed = false;
        state.reopened += 1;
    }

    pub(crate) fn reopened(&self) -> u64 {
        self.state.lock().reopened
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Events that readers were given so far.
    pub(crate) fn events_read(&self) -> usize {
        self.state.lock().events_read
    }

    /// Whether a call is stalled now.
    pub(crate) fn is_stalled(&self) -> bool {
        self.state.lock().stalled
    }

    /// Lets the stalled call go on.
    pub(crate) fn release(&self) {
        self.state.lock().stalled = false;
        self.moved.notify_all();
    }

    fn write<T>(&self, call: Call, work: impl FnOnce(&mut Content) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(StoreError::Unavailable);
        }
        let count = state.calls.entry(call).or_default();
        *count += 1;
        let nth = *count;
        match state.plan.remove(&(call, nth)) {
            None => work(&mut state.content),
            Some(Fault::Stall) => {
                state.stalled = true;
                self.moved.wait_while(&mut state, |state| state.stalled);
                work(&mut state.content)
            }
            Some(Fault::Error) => {
                state.failed = true;
                Err(StoreError::Engine("planned fault".to_owned()))
            }
            Some(Fault::Torn) => {
                let done = work(&mut state.content);
                state.failed = true;
                done.and(Err(StoreError::Engine("planned fault".to_owned())))
            }
        }
    }

    fn look<T>(&self, work: impl FnOnce(&Content) -> T) -> Result<T, StoreError> {
        let state = self.state.lock();
        if state.failed { Err(StoreError::Unavailable) } else { Ok(work(&state.content)) }
    }
}
