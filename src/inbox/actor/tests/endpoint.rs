//! A deliverer that does as it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Atomic};

use parking_lot::Mutex;

use crate::ground::ids::Seq;
use crate::inbox::messages::{Deliver, Deliverer, Ticket};
use crate::retry::{AttemptResult, FailureKind};

/// Answers claims as the test has laid down, after a few turns of the other actors.
#[derive(Default)]
pub(super) struct Endpoint {
    /// Attempts of each event, in the order in which they came.
    pub(super) attempts: Mutex<Vec<(Seq, u32)>>,
    pub(super) accepted: Mutex<BTreeMap<Seq, u32>>,
    pub(super) order: Mutex<Vec<Seq>>,
    /// Tickets are kept instead of answered.
    pub(super) holds: AtomicBool,
    pub(super) held: Mutex<Vec<(Ticket, Seq)>>,
    /// Events whose position divides by this fail at their first two attempts; zero for none.
    pub(super) fails_every: AtomicU64,
    /// The next answers are 429 with this `Retry-After`, in milliseconds.
    pub(super) busy_ms: AtomicU64,
}

impl Endpoint {
    fn take(&self, ticket: Ticket, seq: Seq) {
        let attempt = ticket.attempt();
        self.attempts.lock().push((seq, attempt));
        if self.holds.load(Atomic::Relaxed) {
            self.held.lock().push((ticket, seq));
            return;
        }
        let busy_ms = self.busy_ms.swap(0, Atomic::Relaxed);
        let every = self.fails_every.load(Atomic::Relaxed);
        if busy_ms > 0 {
            let result = AttemptResult::Failed {
                kind: FailureKind::Status,
                status: Some(429),
                message: "status 429".to_owned(),
                retry_after_ms: Some(busy_ms),
            };
            ticket.settle(result, 1, String::new());
        } else if every > 0 && seq.0.is_multiple_of(every) && attempt <= 2 {
            ticket.settle(AttemptResult::failed(FailureKind::Connect, "reset"), 1, String::new());
        } else {
            self.accept(ticket, seq);
        }
    }

    pub(super) fn accept(&self, ticket: Ticket, seq: Seq) {
        *self.accepted.lock().entry(seq).or_default() += 1;
        self.order.lock().push(seq);
        ticket.settle(AttemptResult::Delivered { status: 200 }, 1, String::new());
    }

    pub(super) fn release(&self) {
        self.holds.store(false, Atomic::Relaxed);
        let held = std::mem::take(&mut *self.held.lock());
        for (ticket, seq) in held {
            self.accept(ticket, seq);
        }
    }

    pub(super) fn doubled(&self) -> Vec<Seq> {
        self.accepted.lock().iter().filter(|(_, times)| **times > 1).map(|(seq, _)| *seq).collect()
    }
}

pub(super) struct Scripted(pub(super) Arc<Endpoint>);

impl Deliverer for Scripted {
    fn deliver(&self, Deliver { work }: Deliver) {
        for (ticket, event) in work {
            let endpoint = Arc::clone(&self.0);
            actix::spawn(async move {
                for _ in 0..event.seq.0 % 4 {
                    tokio::task::yield_now().await;
                }
                endpoint.take(ticket, event.seq);
            });
        }
    }
}
