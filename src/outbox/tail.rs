//! The newest events, shared: each is built once, when it is appended, and read from here by whoever follows.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::event::envelope::Event;
use crate::ground::ids::Seq;
use crate::store::{IndexLevel, IndexRow};

/// A ring of the newest events, bounded in bytes. It holds one unbroken run of positions.
#[derive(Debug)]
pub struct Tail {
    ring: Mutex<Ring>,
    moved: Notify,
    /// The newest position, for any number of readers.
    newest: watch::Sender<Seq>,
    block_completed: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Tail {
    /// An empty ring.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            ring: Mutex::default(),
            moved: Notify::new(),
            newest: watch::Sender::new(Seq::ZERO),
            block_completed: Notify::new(),
            bytes_max,
        }
    }

    /// Adds synced events, in order, and wakes the router; the indexer too, when they complete a block.
    pub fn push(&self, events: impl Iterator<Item = Arc<Event>>) {
        let mut ring = self.ring.lock();
        let mut completed = false;
        for event in events {
            // A gap (the log was reopened with events nobody was told of) starts the ring anew.
            if ring.events.back().is_some_and(|last| last.seq.next() != event.seq) {
                ring.events.clear();
                ring.bytes = 0;
            }
            completed |= IndexRow::holding(IndexLevel::Block, event.seq).last() == event.seq;
            ring.bytes += event.weight();
            ring.events.push_back(event);
            while ring.bytes > self.bytes_max && ring.events.len() > 1 {
                if let Some(old) = ring.events.pop_front() {
                    ring.bytes -= old.weight();
                }
            }
        }
        let newest = ring.events.back().map(|event| event.seq);
        drop(ring);
        self.moved.notify_one();
        if let Some(newest) = newest {
            self.newest.send_replace(newest);
        }
        if completed {
            self.block_completed.notify_one();
        }
    }

    /// Up to `limit` events from `from` on, when the ring holds `from`.
    #[must_use]
    pub fn read(&self, from: Seq, limit: usize) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.lock();
        let first = ring.events.front()?.seq;
        let skip = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        if skip >= ring.events.len() {
            return None;
        }
        Some(ring.events.range(skip..).take(limit).cloned().collect())
    }

    /// Ends when something was pushed since the last time this ended. One waiter.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Tells of each push; for any number of readers.
    #[must_use]
    pub fn growth(&self) -> watch::Receiver<Seq> {
        self.newest.subscribe()
    }

    /// Ends when a block of the index was completed since the last time this ended. One waiter.
    pub async fn block_completed(&self) {
        self.block_completed.notified().await;
    }

    /// Wakes the waiter of [`Tail::moved`] without a push: something else gives it reason to look.
    pub fn nudge(&self) {
        self.moved.notify_one();
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ring.lock().bytes
    }
}
