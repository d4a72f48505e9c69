//! The writer thread: the one place that appends to the log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;

use super::fair::FairQueue;
use super::intake::Append;
use super::tail::Tail;
use crate::ground::clock::SharedClock;
use crate::metrics::Metrics;
use crate::store::{Appended, EventLog, StoreError};

/// What a group may hold at most, besides at least one unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

pub(super) struct Writer {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) tail: Arc<Tail>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: SharedClock,
    pub(super) limits: GroupLimits,
    pub(super) alone: Arc<Mutex<()>>,
}

impl Writer {
    /// Runs until every sender is gone. A panic costs the group it happened in: its callers get no receipt.
    pub(super) fn run(self, mut queue: UnboundedReceiver<Append>) {
        // The writer of the actor's last life may still be at its queue: two at once would give out the same places.
        let alone = Arc::clone(&self.alone);
        let _alone = alone.lock();
        let mut waiting = FairQueue::new();
        while let Some(group) = self.collect(&mut waiting, &mut queue) {
            if let Err(cause) = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit(group))) {
                tracing::error!(
                    panic = crate::supervise::panic_text(&*cause),
                    "the log writer panicked; its group is not acknowledged"
                );
            }
        }
    }

    /// What has queued while the last group was synced, as much as one group holds, tenants taking turns. Waits when
    /// nothing has; none when the queue has ended and nothing is left.
    fn collect(&self, waiting: &mut FairQueue<Append>, queue: &mut UnboundedReceiver<Append>) -> Option<Vec<Append>> {
        if waiting.is_empty() {
            enqueue(waiting, queue.blocking_recv()?);
        }
        while let Ok(next) = queue.try_recv() {
            enqueue(waiting, next);
        }
        let (mut events, mut bytes, mut group) = (0, 0, Vec::new());
        while events < self.limits.events && bytes < self.limits.bytes {
            let Some((taken, next)) = waiting.pop() else { break };
            events += next.unit.events.len();
            bytes += taken;
            group.push(next);
        }
        Some(group)
    }

    fn commit(&self, group: Vec<Append>) {
        let started_ns = self.clock.monotonic_ns();
        let mut units = Vec::with_capacity(group.len());
        let mut waiting = Vec::with_capacity(group.len());
        for Append { unit, permit, passage, reply } in group {
            units.push(unit);
            waiting.push(((permit, passage), reply));
        }
        match self.log.append(units) {
            Ok(answers) => {
                let fresh = answers.iter().flatten().filter_map(|answer| match answer {
                    Appended::New(event) => Some(Arc::clone(event)),
                    Appended::Duplicate(_) | Appended::Conflict(_) | Appended::Withheld => None,
                });
                self.tail.push(fresh);
                for ((permit, reply), answer) in waiting.into_iter().zip(answers) {
                    drop(permit);
                    // A caller that has gone away needs no receipt; the event is in the log all the same.
                    reply.send(Ok(answer)).ok();
                }
            }
            Err(error) => {
                if !matches!(error, StoreError::Unavailable) {
                    tracing::error!(%error, events = waiting.len(), "an append failed; nothing of its group is acknowledged");
                }
                for (permit, reply) in waiting {
                    drop(permit);
                    reply.send(Err(error.clone())).ok();
                }
            }
        }
        let took_ns = self.clock.monotonic_ns().saturating_sub(started_ns);
        self.metrics.commit_seconds.observe(took_ns as f64 / 1e9);
    }
}

fn enqueue(waiting: &mut FairQueue<Append>, append: Append) {
    let bytes = append.bytes();
    waiting.push(&Arc::clone(append.permit.tenant()), bytes, append);
}
