//! The queue between the front doors and the writer thread.
//!
//! The outbox actor owns it and starts its writer, but an append does not pass through the actor's mailbox: that hop did
//! nothing with it, and woke one more thread for nearly every event.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::gate::TenantPermit;
use crate::store::{AppendUnit, Appended, StoreError};

/// A unit to append. The permit frees its share of the gate when the unit is done with.
#[derive(Debug)]
pub struct Append {
    /// The events.
    pub unit: AppendUnit,
    /// The share of the gate.
    pub permit: TenantPermit,
    /// Dropped when the unit has been dealt with, whatever came of it: who schedules waits for that.
    pub passage: Option<crate::schedule::Passage>,
    /// Where the receipts go, after the sync. Dropped without an answer when the outcome is unknown.
    pub reply: oneshot::Sender<AppendReply>,
}

/// One receipt per event of the unit, or why there is none.
pub type AppendReply = Result<Vec<Appended>, StoreError>;

impl Append {
    /// Bytes of its records.
    pub(super) fn bytes(&self) -> usize {
        let AppendUnit { events, atomic: _ } = &self.unit;
        events.iter().map(|event| event.record().len()).sum()
    }
}

/// The outbox is between two lives: an append was not taken and nothing of it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is being restarted")]
pub struct Restarting;

/// The way to the writer thread; shared by every front door and every life of the outbox actor.
#[derive(Debug)]
pub struct Intake {
    queue: ArcSwapOption<UnboundedSender<Append>>,
    /// The other end of a queue that has no writer yet: events sent before the actor's first turn wait in it.
    unread: Mutex<Option<UnboundedReceiver<Append>>>,
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}

impl Intake {
    /// An open queue without a writer.
    #[must_use]
    pub fn new() -> Self {
        let (queue, unread) = mpsc::unbounded_channel();
        Self { queue: ArcSwapOption::from_pointee(queue), unread: Mutex::new(Some(unread)) }
    }

    /// Queues a unit for the writer. What may wait is bounded by the gate its permit is from.
    ///
    /// # Errors
    /// [`Restarting`]; the unit is dropped.
    pub fn append(&self, append: Append) -> Result<(), Restarting> {
        match self.queue.load().as_deref() {
            Some(queue) => queue.send(append).map_err(|_| Restarting),
            None => Err(Restarting),
        }
    }

    /// Whether a writer reads the queue, or will.
    pub(super) fn has_writer(&self) -> bool {
        let read = self.queue.load().as_deref().is_some_and(|queue| !queue.is_closed());
        read && self.unread.lock().is_none()
    }

    /// The queue for a new writer.
    pub(super) fn begin(&self) -> UnboundedReceiver<Append> {
        self.unread.lock().take().unwrap_or_else(|| {
            let (queue, unread) = mpsc::unbounded_channel();
            self.queue.store(Some(Arc::new(queue)));
            unread
        })
    }

    /// Ends the queue: its writer finishes what is in it and stops.
    pub(super) fn end(&self) {
        self.queue.store(None);
        self.unread.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::SharedGate;

    fn append() -> (Append, oneshot::Receiver<AppendReply>) {
        let (reply, answer) = oneshot::channel();
        let permit = SharedGate::new(10).enter("acme", 1).expect("the gate is empty");
        (Append { unit: AppendUnit { events: Vec::new(), atomic: false }, permit, passage: None, reply }, answer)
    }

    #[test]
    fn what_comes_before_the_first_writer_waits_for_it() {
        let intake = Intake::new();
        assert_eq!(intake.append(append().0), Ok(()));
        assert!(!intake.has_writer());
        let mut queue = intake.begin();
        assert!(intake.has_writer());
        assert!(queue.try_recv().is_ok());
    }

    #[test]
    fn an_ended_queue_takes_nothing_until_the_next_writer_begins() {
        let intake = Intake::new();
        let mut first = intake.begin();
        assert_eq!(intake.append(append().0), Ok(()));
        intake.end();
        assert_eq!(intake.append(append().0), Err(Restarting));
        assert!(first.try_recv().is_ok(), "the old writer still gets what was queued");
        assert!(first.try_recv().is_err());
        let mut second = intake.begin();
        assert_eq!(intake.append(append().0), Ok(()));
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn a_queue_without_a_reader_answers_by_dropping_the_reply() {
        let intake = Intake::new();
        drop(intake.begin());
        let (append, mut answer) = append();
        assert_eq!(intake.append(append), Err(Restarting));
        assert!(answer.try_recv().is_err());
        assert!(!intake.has_writer());
    }
}
