//! The one thread that commits what becomes of keys, in the order in which it was handed in, many changes in one commit.
//!
//! It begins with the first change, so that a hub whose clients use no keys has no such thread, and ends with its owner.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;

use crate::store::{Durability, IdempotencyStore, KeyOp, StoreError};

/// Changes of one commit at most.
const GROUP_MAX: usize = 256;

/// What is done when a change was committed, or was not.
pub(super) type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Change {
    ops: Vec<KeyOp>,
    durability: Durability,
    done: Done,
}

/// A handle on the thread.
pub(super) struct Writer {
    store: Arc<dyn IdempotencyStore>,
    /// None before the first change. What waits here is bounded by the requests that are being answered.
    queue: Mutex<Option<Sender<Change>>>,
}

impl Writer {
    pub(super) fn new(store: Arc<dyn IdempotencyStore>) -> Self {
        Self { store, queue: Mutex::new(None) }
    }

    /// Hands a change in. `done` is called on the thread, also when nobody waits for it any more; when the change cannot be
    /// handed in it comes back, with the reason.
    pub(super) fn hand_in(
        &self,
        ops: Vec<KeyOp>,
        durability: Durability,
        done: Done,
    ) -> Result<(), (Done, StoreError)> {
        let mut queue = self.queue.lock();
        let sender = match &*queue {
            Some(sender) => sender,
            None => match self.begin() {
                Ok(sender) => queue.insert(sender),
                Err(error) => {
                    tracing::error!(%error, "the system gives no thread for idempotency keys");
                    return Err((done, StoreError::Unavailable));
                }
            },
        };
        let sent = sender.send(Change { ops, durability, done });
        sent.map_err(|unsent| {
            *queue = None;
            (unsent.0.done, StoreError::Unavailable)
        })
    }

    fn begin(&self) -> std::io::Result<Sender<Change>> {
        let (sender, changes) = channel();
        let store = Arc::clone(&self.store);
        std::thread::Builder::new().name("idempotency".into()).spawn(move || run(&*store, &changes))?;
        Ok(sender)
    }
}

fn run(store: &dyn IdempotencyStore, changes: &Receiver<Change>) {
    while let Ok(first) = changes.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX {
            let Ok(next) = changes.try_recv() else { break };
            group.push(next);
        }
        let synced = group.iter().any(|change| change.durability == Durability::Synced);
        let durability = if synced { Durability::Synced } else { Durability::Ordered };
        let mut ops = Vec::with_capacity(group.len());
        for change in &mut group {
            ops.append(&mut change.ops);
        }
        let committed = std::panic::catch_unwind(AssertUnwindSafe(|| store.commit_keys(&ops, durability)));
        let committed = committed.unwrap_or_else(|cause| {
            let panic = crate::supervise::panic_text(&*cause);
            tracing::error!(panic, "a commit of idempotency keys panicked");
            Err(StoreError::Engine(panic))
        });
        if let Err(error) = &committed {
            tracing::error!(%error, "what became of idempotency keys is not stored");
        }
        for change in group {
            (change.done)(committed.clone());
        }
    }
}
