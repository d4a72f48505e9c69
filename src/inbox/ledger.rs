//! The ledger: one thread that commits consumer state in the order in which it was handed in.
//!
//! Rows, attempt pages and checkpoints are committed in groups and not synced one by one: the log's own syncs carry
//! them, and what a crash takes is a suffix (`ST-2`). What was handed in before the store failed is thrown away when
//! the store is open again: actors are then built anew from what is on disk, and their old changes must not pass.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::store::{ConsumerState, Durability, StateOp, StoreError};

/// Operations of one commit at most.
const GROUP_OPS_MAX: usize = 512;
/// Operations that may wait before inboxes stop claiming.
const BACKLOG_MAX: usize = 50_000;
/// Pause before the store, which is being reopened, is tried again.
const STORE_PAUSE: Duration = Duration::from_millis(20);

struct Entry {
    generation: u64,
    ops: Vec<StateOp>,
    waiting: Option<Waiting>,
}

/// Somebody waits for the commit of an entry.
struct Waiting {
    durability: Durability,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A handle on the ledger's thread.
#[derive(Clone)]
pub struct Ledger {
    queue: mpsc::UnboundedSender<Entry>,
    shared: Arc<Shared>,
}

/// What one life of one actor hands in through. It is void once the ledger has told everyone to start over.
#[derive(Clone, Debug)]
pub struct Session {
    ledger: Ledger,
    generation: u64,
}

struct Shared {
    waiting: AtomicUsize,
    generation: AtomicU64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Starts the thread. `store_generation` counts how often the store was reopened; `reset` is called, on the
    /// ledger's thread, when that has changed: whoever holds state in memory must be built anew.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        state: Arc<dyn ConsumerState>,
        store_generation: impl Fn() -> u64 + Send + 'static,
        reset: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, entries) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { waiting: AtomicUsize::new(0), generation: AtomicU64::new(0) });
        let keeper = Keeper {
            state,
            shared: Arc::clone(&shared),
            store_seen: Cell::new(store_generation()),
            store_generation: Box::new(store_generation),
            reset: Box::new(reset),
        };
        std::thread::Builder::new().name("state-ledger".into()).spawn(move || keeper.run(entries))?;
        Ok(Self { queue, shared })
    }

    /// A session for an actor that reads its state from the store after this.
    #[must_use]
    pub fn session(&self) -> Session {
        Session { ledger: self.clone(), generation: self.shared.generation.load(Ordering::Acquire) }
    }

    /// Entries that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Acquire)
    }
}

impl Session {
    /// Hands operations in. They are committed after everything handed in before, together or not at all.
    pub fn commit(&self, ops: Vec<StateOp>) {
        if !ops.is_empty() {
            self.enqueue(ops, None);
        }
    }

    /// Hands operations in and waits until they are on disk.
    ///
    /// # Errors
    /// When the store failed; whether they were committed is then unknown.
    pub async fn commit_synced(&self, ops: Vec<StateOp>) -> Result<(), StoreError> {
        self.enqueue_and_wait(ops, Durability::Synced).await
    }

    /// Hands operations in at once, before anything that is handed in after this call; what is returned waits until they
    /// are on disk.
    pub fn hand_in_synced(&self, ops: Vec<StateOp>) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        self.enqueue(ops, Some(Waiting { durability: Durability::Synced, done }));
        async move { answer.await.unwrap_or(Err(StoreError::Unavailable)) }
    }

    /// Waits until everything that was handed in before, by whomever, can be read from the store. A new life of an actor
    /// does this before it reads its state: what its last life has handed in may still be on its way.
    ///
    /// # Errors
    /// When the store failed or the session is void.
    pub async fn drained(&self) -> Result<(), StoreError> {
        self.enqueue_and_wait(Vec::new(), Durability::Ordered).await
    }

    async fn enqueue_and_wait(&self, ops: Vec<StateOp>, durability: Durability) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.enqueue(ops, Some(Waiting { durability, done }));
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// Tells the sessions before a failure of the store from those after it: what an actor of one has in memory says
    /// nothing to an actor of the other.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nothing handed in through this session is committed any more.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.generation != self.ledger.shared.generation.load(Ordering::Acquire)
    }

    fn enqueue(&self, ops: Vec<StateOp>, waiting: Option<Waiting>) {
        self.ledger.shared.waiting.fetch_add(1, Ordering::AcqRel);
        if self.ledger.queue.send(Entry { generation: self.generation, ops, waiting }).is_err() {
            tracing::error!("the ledger's thread has ended; consumer state is not written");
        }
    }

    /// Whether so much waits that no new work should be begun.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.ledger.waiting() > BACKLOG_MAX
    }
}

struct Keeper {
    state: Arc<dyn ConsumerState>,
    shared: Arc<Shared>,
    store_generation: Box<dyn Fn() -> u64 + Send>,
    store_seen: Cell<u64>,
    reset: Box<dyn Fn() + Send>,
}

impl Keeper {
    fn run(self, mut entries: mpsc::UnboundedReceiver<Entry>) {
        while let Some(first) = entries.blocking_recv() {
            let mut ops = first.ops.len();
            let mut group = vec![first];
            while ops < GROUP_OPS_MAX {
                let Ok(next) = entries.try_recv() else { break };
                ops += next.ops.len();
                group.push(next);
            }
            let count = group.len();
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit(group)));
            self.shared.waiting.fetch_sub(count, Ordering::AcqRel);
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "consumer state was not committed; consumers are built anew from the store");
                    self.renew();
                }
                Err(cause) => {
                    let panic = crate::supervise::panic_text(&*cause);
                    tracing::error!(panic, "the ledger panicked; consumers are built anew from the store");
                    self.renew();
                }
            }
        }
    }

    /// Commits a group, waiting for the store when it is being reopened. Entries of void sessions are left out.
    fn commit(&self, group: Vec<Entry>) -> Result<(), StoreError> {
        loop {
            let store = (self.store_generation)();
            if store != self.store_seen.get() {
                self.renew();
            }
            let current = self.shared.generation.load(Ordering::Acquire);
            let live = || group.iter().filter(|entry| entry.generation == current);
            let ops = live().flat_map(|entry| entry.ops.iter().cloned()).collect();
            let synced =
                live().filter_map(|entry| entry.waiting.as_ref()).any(|one| one.durability == Durability::Synced);
            let durability = if synced { Durability::Synced } else { Durability::Ordered };
            match self.state.commit(ops, durability) {
                // Reopened in between: on which side the commit fell is unknown, so the sessions are void.
                Ok(()) if (self.store_generation)() != store => {}
                Ok(()) => {
                    for entry in group {
                        let Some(waiting) = entry.waiting else { continue };
                        let live = entry.generation == current;
                        // Whoever asked may have gone; the commit stands all the same.
                        waiting.done.send(if live { Ok(()) } else { Err(StoreError::Unavailable) }).ok();
                    }
                    return Ok(());
                }
                Err(StoreError::Unavailable | StoreError::Engine(_)) => std::thread::sleep(STORE_PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    /// Voids every session; their owners start over from the store.
    fn renew(&self) {
        self.store_seen.set((self.store_generation)());
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        (self.reset)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::{ConsumerId, Seq};
    use crate::store::fake::{Call, FakeStore, Fault};
    use crate::store::records::{RowRecord, RowState};

    fn row(seq: u64) -> Vec<StateOp> {
        let row = RowRecord {
            state: RowState::Retry { due_at: UnixMs(1) },
            attempts: 1,
            key: 0,
            epoch: 1,
            first_attempt: None,
            last_attempt: None,
            last_error: None,
            replay: None,
        };
        vec![StateOp::PutRow(consumer(), Seq(seq), row)]
    }

    fn consumer() -> ConsumerId {
        ConsumerId::new("whk_a")
    }

    fn seqs(store: &FakeStore) -> Vec<u64> {
        store.rows(&consumer()).expect("reads").into_iter().map(|(seq, _)| seq.0).collect()
    }

    fn start(store: &Arc<FakeStore>) -> (Ledger, Arc<AtomicUsize>) {
        let resets = Arc::new(AtomicUsize::new(0));
        let (generation, told) = (Arc::clone(store), Arc::clone(&resets));
        let reset = move || {
            told.fetch_add(1, Ordering::SeqCst);
        };
        let ledger = Ledger::start(Arc::clone(store) as Arc<dyn ConsumerState>, move || generation.reopened(), reset);
        (ledger.expect("starts"), resets)
    }

    #[tokio::test]
    async fn what_was_handed_in_before_can_be_read_once_the_session_is_drained() {
        let store = FakeStore::new(10);
        store.plan(Call::Commit, 1, Fault::Stall);
        let (ledger, _) = start(&store);
        let session = ledger.session();
        session.commit(row(1));
        while !store.is_stalled() {
            tokio::task::yield_now().await;
        }
        session.commit(row(2));
        let next_life = ledger.session();
        let drained = tokio::spawn(async move { next_life.drained().await });
        tokio::task::yield_now().await;
        assert!(!drained.is_finished(), "the rows are still on their way");
        store.release();
        assert!(drained.await.expect("ends").is_ok());
        assert_eq!(seqs(&store), [1, 2]);
    }

    #[tokio::test]
    async fn a_session_from_before_a_failure_writes_nothing_after_it() {
        for fault in [Fault::Error, Fault::Torn] {
            let store = FakeStore::new(10);
            let (ledger, resets) = start(&store);
            let old = ledger.session();
            old.commit_synced(row(1)).await.expect("commits");
            store.plan(Call::Commit, 1, fault);
            old.commit(row(2));
            while !store.has_failed() {
                tokio::task::yield_now().await;
            }
            old.commit(row(3));
            store.reopen();
            old.drained().await.expect_err("the session is void");
            assert!(old.is_void());
            assert_eq!(resets.load(Ordering::SeqCst), 1, "everybody is told once");
            let fresh = ledger.session();
            assert_ne!(fresh.generation(), old.generation());
            old.commit(row(4));
            fresh.commit(row(5));
            fresh.drained().await.expect("commits");
            let kept: Vec<u64> = if fault == Fault::Torn { vec![1, 2, 5] } else { vec![1, 5] };
            assert_eq!(seqs(&store), kept, "{fault:?}");
        }
    }
}
