//! Claims, waits, records: the machine and the table, with clock, store and those who wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::shelf::Bounds;
use super::state::{Fingerprint, KeyId, Stale, Times};
use super::table::{Asked, Table};
use super::writer::Writer;
use crate::config::Idempotency as Settings;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::codec;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::random::SharedRandom;
use crate::ground::secret::Sealer;
use crate::metrics::Metrics;
use crate::store::{Durability, IdempotencyStore, KeptAnswer, KeyOp, KeyPlace, StoreError, blocking};

/// Version of the answer as it is sealed.
const ANSWER_VERSION: u8 = 1;
/// Keys forgotten under one lock.
const SWEEP_MAX: usize = 1_024;

/// A request under a key.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which key, of whom, for what.
    pub id: KeyId,
    /// Which request.
    pub fingerprint: Fingerprint,
    /// On whose account it is kept; empty for nobody's.
    pub org: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A number of whoever records it: a status.
    pub status: u16,
    /// A note of whoever records it, shown with the answer: what one must be allowed to do to see it.
    pub note: String,
    /// What sort of body it is.
    pub content_type: String,
    /// The body; none when it is not there to be kept.
    pub body: Option<Bytes>,
}

#[derive(Serialize, Deserialize)]
struct SealedAnswer {
    content_type: String,
    body: Vec<u8>,
}

/// What became of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The key is yours: do it, then record the answer or give the key back.
    Run(Permit),
    /// It was done before. An answer without a body was not kept.
    Done(Answer),
}

/// What became of a recording.
#[derive(Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The answer is on disk.
    Kept,
    /// The lock was taken over meanwhile: another answer counts, now or soon.
    TakenOver,
}

/// The right to do what a key is for. Dropped without an end, the lock lasts: what was done is unknown.
#[derive(Debug)]
pub struct Permit {
    keys: Arc<Idempotency>,
    id: KeyId,
    epoch: u64,
    first: UnixMs,
    stage: Stage,
}

/// How far a holder has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing has been done, or nothing that counts.
    Claimed,
    /// It may have done something.
    Running,
    /// There is nothing left to do.
    Ended,
}

/// Why a key was not claimed, or an answer not recorded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The request is refused.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All idempotency keys of a hub.
pub struct Idempotency {
    table: Mutex<Table>,
    writer: Writer,
    store: Arc<dyn IdempotencyStore>,
    sealer: Sealer,
    random: SharedRandom,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// A planned fault: answers are not recorded while it is set.
    hold: watch::Sender<bool>,
}

impl std::fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idempotency").field("size", &self.size()).finish_non_exhaustive()
    }
}

fn mismatch() -> Problem {
    let mut problem = Problem::new(ProblemKind::IdempotencyMismatch, "the key was used for another request");
    problem.field = Some("Idempotency-Key".to_owned());
    problem
}

fn context_of(id: KeyId) -> String {
    format!("idempotency/{}", hex::encode(id.0))
}

impl Idempotency {
    /// What is known of keys. Blocks while it is read.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub fn load(
        store: Arc<dyn IdempotencyStore>,
        settings: Settings,
        sealer: Sealer,
        random: SharedRandom,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        let times = Times { keep_ms: settings.keep_ms, lock_ms: settings.lock_ms };
        let bounds = Bounds {
            keys_max: settings.keys_max,
            org_keys_max: settings.org_keys_max,
            org_bytes_max: settings.org_bytes_max,
            keep_at_least_ms: settings.keep_at_least_ms,
        };
        let mut table = Table::new(times, bounds);
        let now = clock.now();
        store.keys(&mut |record| table.load(record, now))?;
        Ok(Arc::new(Self {
            table: Mutex::new(table),
            writer: Writer::new(Arc::clone(&store)),
            store,
            sealer,
            random,
            clock,
            metrics,
            settings,
            hold: watch::Sender::new(false),
        }))
    }

    /// Keys that are kept, and bytes of their answers.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        self.table.lock().size()
    }

    fn count(&self, outcome: &str) {
        self.metrics.idempotency_requests.with_label_values(&[outcome]).inc();
    }

    /// Claims a key: for the first request under it, or once the lock of the holder before is over. The same request again
    /// waits for the answer, up to `idempotency.wait_ms`. Dropping this while it waits gives nothing away.
    ///
    /// # Errors
    /// [`ProblemKind::IdempotencyMismatch`] when the key was used for another request,
    /// [`ProblemKind::IdempotencyBusy`] when its holder takes longer than the wait,
    /// [`ProblemKind::IdempotencyFull`] when there is no room for a key; else when the store fails.
    pub async fn claim(self: &Arc<Self>, ask: &Ask) -> Result<Claim, KeyError> {
        let deadline = self.clock.now().plus_ms(self.settings.wait_ms);
        let mut waited = false;
        loop {
            let now = self.clock.now();
            let (asked, committed) = self.ask(ask, now);
            match asked {
                Asked::Run { claim, taken_over, evicted, ops: _ } => {
                    self.metrics.idempotency_evicted.inc_by(evicted as u64);
                    self.count(if taken_over { "taken_over" } else { "run" });
                    let mut permit = Permit {
                        keys: Arc::clone(self),
                        id: ask.id,
                        epoch: claim.epoch,
                        first: claim.first,
                        stage: Stage::Claimed,
                    };
                    let Some(committed) = committed else { return Err(StoreError::Unavailable.into()) };
                    // Dropped here, or when it fails: nothing has been done, and the permit gives the key back.
                    committed.await.unwrap_or(Err(StoreError::Unavailable))?;
                    permit.stage = Stage::Running;
                    return Ok(Claim::Run(permit));
                }
                Asked::Wait { until, here, mut changed } => {
                    if now >= deadline {
                        self.count("busy");
                        return Err(busy(now, until, here).into());
                    }
                    waited = true;
                    // Past its end only the recording of its answer keeps a lock.
                    let upto = if until > now { deadline.min(until) } else { deadline };
                    let pause = Duration::from_millis(upto.since_ms(now));
                    let _waiting = Waiting::begin(&self.metrics);
                    tokio::select! {
                        // An error is the end of the claim that was waited for, too.
                        _changed = changed.changed() => {}
                        () = self.clock.sleep(pause) => {}
                    }
                }
                Asked::Replay { place, kept } => {
                    self.count(if waited { "waited" } else { "replayed" });
                    return self.answer(ask.id, place, kept).await.map(Claim::Done);
                }
                Asked::Mismatch => {
                    self.count("mismatch");
                    return Err(mismatch().into());
                }
                Asked::Full(full) => {
                    self.count("full");
                    let wait_s = full.until.since_ms(now).div_ceil(1_000).max(1);
                    let text = "so many idempotency keys are kept that there is no room for another one";
                    return Err(Problem::new(ProblemKind::IdempotencyFull, text).retry_after(wait_s).into());
                }
            }
        }
    }

    /// What a request meets; when it runs, the end of the commit of that.
    fn ask(&self, ask: &Ask, now: UnixMs) -> (Asked, Option<oneshot::Receiver<Result<(), StoreError>>>) {
        // Handed in under the lock, so that what is committed has the order of what was decided.
        let mut table = self.table.lock();
        let mut asked = table.ask(ask.id, &ask.org, ask.fingerprint, now);
        let Asked::Run { ops, .. } = &mut asked else { return (asked, None) };
        let ops = std::mem::take(ops);
        let (done, committed) = oneshot::channel();
        let done = Box::new(move |result| {
            // Who waits may have gone.
            done.send(result).ok();
        });
        let handed_in = self.writer.hand_in(ops, Durability::Ordered, done);
        (asked, handed_in.is_ok().then_some(committed))
    }

    /// The answer that was kept.
    async fn answer(&self, id: KeyId, place: KeyPlace, kept: KeptAnswer) -> Result<Answer, KeyError> {
        let KeptAnswer { status, note, bytes } = kept;
        if bytes.is_none() {
            return Ok(Answer { status, note, content_type: String::new(), body: None });
        }
        let store = Arc::clone(&self.store);
        let sealed = blocking(move || store.key_answer(place)).await?;
        // Pushed out between the look and the read: it is as if it had been asked for a moment later.
        let Some(sealed) = sealed else {
            return Err(Problem::new(ProblemKind::Overloaded, "the key is being forgotten; send it again").into());
        };
        let damaged = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "the answer of an idempotency key cannot be read");
            Problem::new(ProblemKind::Internal, "a stored answer is damaged; the log of the hub has the cause")
        };
        let opened = self.sealer.open_bytes(&sealed, &context_of(id)).map_err(|error| damaged(&error))?;
        let SealedAnswer { content_type, body } =
            codec::decode(ANSWER_VERSION, &opened).map_err(|error| damaged(&error))?;
        Ok(Answer { status, note, content_type, body: Some(Bytes::from(body)) })
    }

    /// Forgets keys whose time is over: in memory now, on disk in whole stretches.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        loop {
            let swept = self.table.lock().sweep(now, SWEEP_MAX);
            if swept < SWEEP_MAX {
                break;
            }
            tokio::task::yield_now().await;
        }
        let (store, before) = (Arc::clone(&self.store), UnixMs(now.0.saturating_sub(self.settings.keep_ms)));
        blocking(move || store.sweep_keys(before)).await
    }

    /// Plans a fault, for tests: while it is set, answers are not recorded.
    pub(crate) fn hold_recordings(&self, hold: bool) {
        self.hold.send_replace(hold);
    }
}

/// The holder takes longer than the request waits.
fn busy(now: UnixMs, until: UnixMs, here: bool) -> Problem {
    let detail = if here {
        "the first request with this key is still being answered"
    } else {
        "the first request with this key was not answered; it may run again when its lock is over"
    };
    let wait_s = if here { 1 } else { until.since_ms(now).div_ceil(1_000).max(1) };
    Problem::new(ProblemKind::IdempotencyBusy, detail).retry_after(wait_s)
}

impl Permit {
    /// When the key was first asked for: the same however often its lock is taken over.
    #[must_use]
    pub fn first(&self) -> UnixMs {
        self.first
    }

    /// The key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Gives the key back without an answer: the next request under it runs.
    pub fn give_back(mut self) {
        self.stage = Stage::Claimed;
    }

    fn end(&mut self) {
        let keys = &self.keys;
        let mut table = keys.table.lock();
        match self.stage {
            Stage::Ended => {}
            Stage::Running => table.holder_is_gone(self.id, self.epoch),
            Stage::Claimed => {
                let op = table.release(self.id, self.epoch, keys.clock.now());
                if let Some(op) = op {
                    // Should it be lost, the lock lasts until its end after a crash.
                    keys.writer.hand_in(vec![op], Durability::Ordered, Box::new(|_| {})).ok();
                }
            }
        }
        self.stage = Stage::Ended;
    }

    /// Records the answer. What is over `idempotency.answer_bytes_max`, or has no room, is recorded as done without its body.
    ///
    /// # Errors
    /// When the store fails: whether it was recorded is unknown, and the key is given back.
    pub async fn record(mut self, answer: &Answer) -> Result<Recorded, KeyError> {
        let keys = Arc::clone(&self.keys);
        let mut held = keys.hold.subscribe();
        // The sender lives as long as the keys.
        held.wait_for(|hold| !*hold).await.ok();
        let body = answer.body.as_ref().filter(|body| body.len() <= keys.settings.answer_bytes_max);
        let sealed = body.map(|body| {
            let plain = SealedAnswer { content_type: answer.content_type.clone(), body: body.to_vec() };
            codec::encode(ANSWER_VERSION, &plain)
                .map(|plain| Bytes::from(keys.sealer.seal_bytes(&plain, &context_of(self.id), &*keys.random)))
        });
        let sealed = sealed
            .transpose()
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("the answer does not encode: {error}")))?;
        let kept = KeptAnswer {
            status: answer.status,
            note: answer.note.clone(),
            bytes: sealed.as_ref().and_then(|sealed| u32::try_from(sealed.len()).ok()),
        };
        let (done, told) = oneshot::channel();
        let (id, epoch) = (self.id, self.epoch);
        let refused = {
            // Handed in under the lock, so that what is committed has the order of what was decided.
            let mut table = keys.table.lock();
            let recording = match table.begin_recording(id, epoch, kept, keys.clock.now()) {
                Ok(recording) => recording,
                Err(Stale) => {
                    drop(table);
                    self.stage = Stage::Ended;
                    keys.count("fenced");
                    return Ok(Recorded::TakenOver);
                }
            };
            self.stage = Stage::Ended;
            keys.metrics.idempotency_evicted.inc_by(recording.room.len() as u64);
            let mut ops = recording.room;
            let record = recording.record;
            let kept = recording.kept;
            ops.push(KeyOp::Done(record, sealed.filter(|_| kept.bytes.is_some())));
            let after = Arc::clone(&keys);
            // On the writer's thread: it happens also when nobody waits for the answer any more.
            let finish = move |committed: Result<(), StoreError>| {
                let mut table = after.table.lock();
                match &committed {
                    Ok(()) => table.recorded(id, epoch, kept),
                    Err(_) => drop(table.release(id, epoch, after.clock.now())),
                }
                drop(table);
                done.send(committed).ok();
            };
            keys.writer.hand_in(ops, Durability::Synced, Box::new(finish)).err()
        };
        if let Some((finish, error)) = refused {
            finish(Err(error));
        }
        match told.await.unwrap_or(Err(StoreError::Unavailable)) {
            Ok(()) => Ok(Recorded::Kept),
            Err(error) => {
                tracing::warn!(%error, "the answer to a request with an idempotency key is not recorded");
                let text = "it was done, but that is not recorded; send it again with the same key";
                Err(Problem::new(ProblemKind::Overloaded, text).into())
            }
        }
    }
}

/// A request that waits; counts as long as it lives.
struct Waiting(IntGauge);

impl Waiting {
    fn begin(metrics: &Metrics) -> Self {
        metrics.idempotency_waiting.inc();
        Self(metrics.idempotency_waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end();
    }
}
