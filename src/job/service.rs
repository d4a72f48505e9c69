//! Every job: made, listed, cancelled, saved.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use actix::ArbiterHandle;
use parking_lot::Mutex;
use serde_json::Value;

use super::actor::{JobActor, Rest};
use super::board::{self, Bounds, Crowded, OPEN_MAX, OPEN_OF_ORG_MAX};
use super::record::{JobRecord, JobState, NewJob, Progress};
use super::state::{Input, next_state};
use super::work::Workshop;
use crate::ground::clock::SharedClock;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::prefixed;
use crate::ground::random::SharedRandom;
use crate::metrics::Metrics;
use crate::store::{Registry, StoreError};
use crate::supervise::{ActorKind, Handle, Health, PanicNow, Stop, supervise};

/// The kind of the documents.
pub const DOCUMENT_KIND: &str = "job";

/// Jobs forgotten at a time: each costs a sync.
const FORGOTTEN_AT_ONCE: usize = 16;

/// What jobs work with.
pub struct JobsParts {
    /// Where they are kept.
    pub registry: Arc<dyn Registry>,
    /// Where their actors run, in turn.
    pub arbiters: Vec<ArbiterHandle>,
    /// What supervision has seen.
    pub health: Arc<Health>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
    /// Jobs that run at once.
    pub running_max: usize,
    /// Jobs kept that have ended.
    pub finished_max: usize,
    /// How long they are kept.
    pub finished_ms: u64,
}

/// A job in memory.
struct Entry {
    record: Arc<JobRecord>,
    revision: u64,
    waits_for: Option<String>,
    actor: Option<Handle<JobActor>>,
}

/// Which jobs a list shows.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of this org.
    pub org: Option<String>,
    /// In this state.
    pub state: Option<JobState>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Older than this one.
    pub before: Option<String>,
    /// Most jobs.
    pub limit: usize,
}

/// Every job of a hub.
pub struct Jobs {
    parts: JobsParts,
    bounds: Bounds,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Documents are changed one at a time: each change syncs.
    changing: Mutex<()>,
    workshop: OnceLock<Arc<dyn Workshop>>,
    resting: AtomicBool,
    next_arbiter: AtomicUsize,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("jobs", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

/// Why a document was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The job has ended, or is no longer there.
    #[error("the job has ended")]
    Ended,
}

impl From<SaveError> for Problem {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Store(StoreError::DiskFull { free, floor }) => {
                Self::new(ProblemKind::DiskFull, format!("{free} bytes are free, the floor is {floor}")).retry_after(30)
            }
            SaveError::Store(error) => {
                tracing::warn!(%error, "a job was not written");
                Self::new(ProblemKind::Overloaded, "the store cannot take this now")
            }
            SaveError::Ended => Self::new(ProblemKind::Conflict, "the job has ended"),
        }
    }
}

fn encoded(record: &JobRecord) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Engine(format!("a job does not encode: {error}")))
}

impl Jobs {
    /// Reads the jobs that are kept. Those that ran when the process ended wait again. Blocks.
    ///
    /// # Errors
    /// When the store fails. A document that does not decode is logged and left alone.
    pub fn load(parts: JobsParts) -> Result<Arc<Self>, StoreError> {
        let mut entries = BTreeMap::new();
        for document in parts.registry.list(DOCUMENT_KIND)? {
            match serde_json::from_slice::<JobRecord>(&document.bytes) {
                Ok(mut record) => {
                    if let Ok(waits) = next_state(record.state, Input::PutBack) {
                        record.state = waits;
                    }
                    let entry =
                        Entry { record: Arc::new(record), revision: document.revision, waits_for: None, actor: None };
                    entries.insert(document.key, entry);
                }
                Err(error) => tracing::error!(job = document.key, %error, "a stored job does not decode"),
            }
        }
        let bounds = Bounds {
            running_max: parts.running_max.max(1),
            finished_max: parts.finished_max,
            finished_ms: parts.finished_ms,
        };
        Ok(Arc::new(Self {
            parts,
            bounds,
            entries: Mutex::new(entries),
            changing: Mutex::new(()),
            workshop: OnceLock::new(),
            resting: AtomicBool::new(false),
            next_arbiter: AtomicUsize::new(0),
        }))
    }

    /// Begins to run jobs.
    pub fn begin(self: &Arc<Self>, workshop: Arc<dyn Workshop>) {
        self.workshop.get_or_init(|| workshop);
        self.start_next();
    }

    pub(super) fn workshop(&self) -> Option<&Arc<dyn Workshop>> {
        self.workshop.get()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.parts.clock
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Makes a job; it is durable when this returns. Blocks.
    ///
    /// # Errors
    /// When there are as many as there may be, or the store fails.
    pub fn create(self: &Arc<Self>, new: NewJob, context: WriteContext) -> Result<Arc<JobRecord>, Problem> {
        let changing = self.changing.lock();
        board::admit(self.entries.lock().values().map(|entry| &*entry.record), new.org.as_deref()).map_err(
            |crowded| {
                let detail = match crowded {
                    Crowded::Org => format!("an org has at most {OPEN_OF_ORG_MAX} jobs that wait or run"),
                    Crowded::Hub => format!("a hub has at most {OPEN_MAX} jobs that wait or run"),
                };
                Problem::new(ProblemKind::Conflict, detail)
            },
        )?;
        let id = prefixed("job", context.at, &*self.parts.random);
        let record = Arc::new(JobRecord::new(id, new, context));
        let revision = self.put(&record, None)?;
        let entry = Entry { record: Arc::clone(&record), revision, waits_for: None, actor: None };
        self.entries.lock().insert(record.id.clone(), entry);
        self.forget_old();
        drop(changing);
        tracing::info!(job = record.id, kind = record.kind, org = record.org, by = record.created.by, "a job is made");
        self.start_next();
        Ok(record)
    }

    fn put(&self, record: &JobRecord, expected: Option<u64>) -> Result<u64, SaveError> {
        let bytes = encoded(record)?;
        Ok(self.parts.registry.put(DOCUMENT_KIND, &record.id, &bytes, expected)?)
    }

    /// Changes a job that has not ended, and writes it. Blocks.
    fn change(&self, id: &str, change: impl FnOnce(&mut JobRecord)) -> Result<Arc<JobRecord>, SaveError> {
        let _one_at_a_time = self.changing.lock();
        let (mut record, revision) = match self.entries.lock().get(id) {
            Some(entry) if !entry.record.state.has_ended() => ((*entry.record).clone(), entry.revision),
            Some(_) | None => return Err(SaveError::Ended),
        };
        change(&mut record);
        let revision = match self.put(&record, Some(revision)) {
            // An earlier write was carried out and reported as failed: nobody else writes this document.
            Err(SaveError::Store(StoreError::Revision { found: Some(found), .. })) => self.put(&record, Some(found))?,
            other => other?,
        };
        let record = Arc::new(record);
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.record = Arc::clone(&record);
            entry.revision = revision;
        }
        Ok(record)
    }

    /// Saves how far a running job has come. Blocks.
    pub(super) fn save(&self, id: &str, cursor: Option<&str>, progress: Progress) -> Result<(), SaveError> {
        let at = self.parts.clock.now();
        self.change(id, |record| {
            record.cursor = cursor.map(str::to_owned);
            record.progress = progress;
            record.updated = WriteContext { by: "hub".into(), at, ..WriteContext::default() };
        })?;
        Ok(())
    }

    /// Ends a running job by itself. Blocks.
    pub(super) fn finish(
        self: &Arc<Self>,
        id: &str,
        cursor: Option<&str>,
        progress: Progress,
        error: Option<String>,
    ) -> Result<(), SaveError> {
        let at = self.parts.clock.now();
        let input = if error.is_some() { Input::Fail } else { Input::Finish };
        let record = self.change(id, |record| {
            record.cursor = cursor.map(str::to_owned);
            record.progress = progress;
            record.updated = WriteContext { by: "hub".into(), at, ..WriteContext::default() };
            record.state = next_state(record.state, input).unwrap_or(record.state);
            record.error = error;
        })?;
        self.ended(&record);
        Ok(())
    }

    fn ended(self: &Arc<Self>, record: &JobRecord) {
        let (id, kind, state) = (&record.id, &record.kind, record.state.as_str());
        self.parts.metrics.jobs_finished.with_label_values(&[kind.as_str(), state]).inc();
        let (handed_on, error) = (record.progress.handed_on, record.error.as_deref());
        tracing::info!(job = id, kind, state, handed_on, error, "a job has ended");
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.waits_for = None;
            // It stops by itself when it has its answer; a cancelled one is told.
            if let Some(actor) = entry.actor.take() {
                actor.hint(Stop);
            }
        }
        let changing = self.changing.lock();
        self.forget_old();
        drop(changing);
        self.start_next();
    }

    /// Ends a job that waits or runs. What it has handed on stays so. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org; [`ProblemKind::Conflict`] when it has ended; else when
    /// the store fails.
    pub fn cancel(
        self: &Arc<Self>,
        id: &str,
        org: Option<&str>,
        context: WriteContext,
    ) -> Result<Arc<JobRecord>, Problem> {
        self.get(id, org)?;
        let by = context.by.clone();
        let cancelled = self.change(id, |record| {
            record.state = next_state(record.state, Input::Cancel).unwrap_or(record.state);
            record.updated = context;
        });
        let record = match cancelled {
            Err(SaveError::Ended) => {
                let state = self.get(id, org)?.0.state.as_str();
                let detail = format!("the job has ended: it is {state}");
                return Err(Problem::new(ProblemKind::Conflict, detail).with("state", state));
            }
            other => other?,
        };
        tracing::info!(job = id, by, "a job is cancelled");
        self.ended(&record);
        Ok(record)
    }

    /// A job that this org may see, and what it waits for.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org.
    pub fn get(&self, id: &str, org: Option<&str>) -> Result<(Arc<JobRecord>, Option<String>), Problem> {
        let entries = self.entries.lock();
        let entry = entries.get(id).filter(|entry| org.is_none() || entry.record.org.as_deref() == org);
        let entry = entry.ok_or_else(|| Problem::not_found("job", id))?;
        Ok((Arc::clone(&entry.record), entry.waits_for.clone()))
    }

    /// Jobs newest first, and whether there are more.
    #[must_use]
    pub fn list(&self, filter: &JobFilter) -> (Vec<Value>, bool) {
        let entries = self.entries.lock();
        let fits = |record: &JobRecord| {
            (filter.org.is_none() || record.org == filter.org)
                && filter.state.is_none_or(|state| record.state == state)
                && filter.kind.as_ref().is_none_or(|kind| record.kind == *kind)
                && filter.before.as_ref().is_none_or(|before| record.id < *before)
        };
        let mut fitting = entries.values().rev().filter(|entry| fits(&entry.record));
        let shown = fitting.by_ref().take(filter.limit);
        let shown = shown.map(|entry| entry.record.to_json(entry.waits_for.as_deref())).collect();
        (shown, fitting.next().is_some())
    }

    /// Every job of a kind, oldest first, and what it waits for.
    #[must_use]
    pub fn of_kind(&self, kind: &str) -> Vec<(Arc<JobRecord>, Option<String>)> {
        let entries = self.entries.lock();
        let own = entries.values().filter(|entry| entry.record.kind == kind);
        own.map(|entry| (Arc::clone(&entry.record), entry.waits_for.clone())).collect()
    }

    /// Forgets a job that has ended; one that is not there is as good as forgotten. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::Conflict`] when it has not ended; else when the store fails.
    pub fn forget(&self, id: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock();
        match self.entries.lock().get(id).map(|entry| entry.record.state) {
            None => return Ok(()),
            Some(state) if state.has_ended() => {}
            Some(state) => {
                let detail = format!("the job has not ended: it is {}", state.as_str());
                return Err(Problem::new(ProblemKind::Conflict, detail).with("state", state.as_str()));
            }
        }
        self.parts.registry.delete(DOCUMENT_KIND, id).map_err(SaveError::Store)?;
        self.entries.lock().remove(id);
        Ok(())
    }

    /// The record of a job whose steps are to be taken; none when it is not to run.
    pub(super) fn running(&self, id: &str) -> Option<Arc<JobRecord>> {
        let entries = self.entries.lock();
        entries.get(id).filter(|entry| entry.record.state == JobState::Running).map(|entry| Arc::clone(&entry.record))
    }

    /// Notes what the next step of a job waits for.
    pub(super) fn note(&self, id: &str, waits_for: Option<String>) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.waits_for = waits_for;
        }
    }

    /// How many jobs wait and run.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let count = |state| entries.values().filter(|entry| entry.record.state == state).count();
        (count(JobState::Queued), count(JobState::Running))
    }

    /// Starts the jobs whose turn it is.
    fn start_next(self: &Arc<Self>) {
        if self.workshop.get().is_none() || self.resting.load(Ordering::Acquire) {
            return;
        }
        let mut entries = self.entries.lock();
        let start = board::to_start(entries.values().map(|entry| &*entry.record), self.bounds);
        for id in start {
            let Some(entry) = entries.get_mut(&id) else { continue };
            let mut record = (*entry.record).clone();
            record.state = next_state(record.state, Input::Start).unwrap_or(record.state);
            // Written with the first progress: after a crash it waits for its turn again either way.
            entry.record = Arc::new(record);
            let at = self.next_arbiter.fetch_add(1, Ordering::Relaxed);
            let Some(arbiter) = self.parts.arbiters.get(at % self.parts.arbiters.len().max(1)) else { continue };
            let jobs = Arc::clone(self);
            let make = move || JobActor::new(Arc::clone(&jobs), id.clone());
            entry.actor = Some(supervise(arbiter, ActorKind::Job, &self.parts.health, make));
        }
    }

    /// Forgets jobs that have ended long ago, or when there are many.
    fn forget_old(&self) {
        let mut entries = self.entries.lock();
        let now = self.parts.clock.now();
        let old = board::to_forget(entries.values().map(|entry| &*entry.record), self.bounds, now);
        for id in old.into_iter().take(FORGOTTEN_AT_ONCE) {
            match self.parts.registry.delete(DOCUMENT_KIND, &id) {
                Ok(_) => {
                    entries.remove(&id);
                }
                Err(error) => tracing::warn!(job = id, %error, "a job that has ended is not forgotten yet"),
            }
        }
    }

    /// Takes no step any more, and waits for those under way to be saved: for the stop of the hub.
    pub async fn rest(&self) {
        self.resting.store(true, Ordering::Release);
        let actors: Vec<_> = self.entries.lock().values().filter_map(|entry| entry.actor.clone()).collect();
        for actor in actors {
            // One that is being restarted has nothing under way.
            if actor.ask(Rest).await.is_err() {
                tracing::debug!("a job did not rest at the stop");
            }
        }
    }

    /// Makes every actor of a job panic, for tests of what happens then. Returns how many.
    pub fn panic_all(&self) -> usize {
        let entries = self.entries.lock();
        let running = entries.values().filter_map(|entry| entry.actor.as_ref());
        running.map(|actor| actor.hint(PanicNow)).count()
    }
}
