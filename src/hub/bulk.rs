//! Exports and imports put together with the rest: which job is whose, how lines come into the log, which files go.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::accept::{Accepted, BULK_TENANT, Lane};
use super::{Hub, Inner};
use crate::bulk::import::{Pressure, Taken, Taking};
use crate::bulk::{Bulk, EXPORT, IMPORT};
use crate::event::envelope::Draft;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::job::{JobRecord, JobWork, StepError, Workshop};
use crate::replay::ReplayParts;
use crate::store::{Appended, EventLog as _, StoreError};

/// How often it is looked for files that are to go.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// Share of the gate that live events may hold before imports give way.
const MUCH_SHARE: usize = 32;

/// The work of every kind of job.
pub(super) struct Works {
    pub(super) replays: ReplayParts,
    pub(super) bulk: Arc<Bulk>,
}

impl Workshop for Works {
    fn open(&self, job: &JobRecord) -> Result<Box<dyn JobWork>, StepError> {
        match job.kind.as_str() {
            EXPORT | IMPORT => self.bulk.open(job),
            _ => self.replays.open(job),
        }
    }
}

/// The way from imports into the log.
pub(super) struct Importer(pub(super) Weak<Inner>);

fn ending() -> StepError {
    StepError::Again("the hub ends".to_owned())
}

impl Taking for Importer {
    fn take(&self, drafts: Vec<Draft>, context: WriteContext) -> BoxFuture<'static, Result<Vec<Taken>, StepError>> {
        let hub = self.0.upgrade().map(|inner| Hub { inner });
        Box::pin(async move {
            let hub = hub.ok_or_else(ending)?;
            // Checks, records and look-ups cost more than the waiting: a thread of their own has them.
            let runtime = tokio::runtime::Handle::current();
            let taken = tokio::task::spawn_blocking(move || {
                let accepted = runtime.block_on(hub.check_in(drafts, false, Lane::Bulk, || context));
                let accepted = accepted.map_err(|problem| StepError::Again(problem.detail))?;
                accepted.into_iter().map(|one| hub.taken(one)).collect()
            });
            taken.await.map_err(|error| StepError::Again(format!("a batch of an import panicked: {error}")))?
        })
    }

    fn pressure(&self) -> Pressure {
        let Some(inner) = self.0.upgrade() else { return Pressure::Much };
        let bound = inner.gate.bound() / MUCH_SHARE;
        match inner.gate.held_beside(BULK_TENANT) {
            0 => Pressure::None,
            held if held <= bound => Pressure::Some,
            _ => Pressure::Much,
        }
    }
}

impl Hub {
    /// What became of an event of an import. Blocks.
    fn taken(&self, accepted: Accepted) -> Result<Taken, StepError> {
        Ok(match accepted {
            Accepted::Log(Appended::New(_)) => Taken::New,
            Accepted::Log(Appended::Duplicate(_)) => Taken::Duplicate,
            Accepted::Log(Appended::Conflict(seq)) => Taken::Conflict(self.stored_at(seq)?),
            Accepted::Log(Appended::Withheld) => {
                Taken::Refused(Problem::new(ProblemKind::Conflict, "another event of the batch was refused"))
            }
            Accepted::Scheduled { duplicate, .. } => Taken::Scheduled { duplicate },
            Accepted::Flagged(plain, _) => return self.taken(*plain),
            // With the schedule: another event that waits has its id.
            Accepted::Refused(problem) if problem.kind == ProblemKind::IdConflict => Taken::Conflict(None),
            Accepted::Refused(problem) if problem.kind.retryable() => return Err(StepError::Again(problem.detail)),
            Accepted::Refused(problem) => Taken::Refused(problem),
        })
    }

    fn stored_at(&self, seq: Seq) -> Result<Option<Arc<crate::event::envelope::Event>>, StepError> {
        self.inner.engine.get(seq).map_err(|error| match error {
            StoreError::Corrupt { .. } => StepError::Fatal(error.to_string()),
            other => StepError::Again(other.to_string()),
        })
    }

    /// Removes the files and documents that are to go. Blocks.
    fn tidy_bulk(&self) {
        let inner = &self.inner;
        let records = |kind| inner.jobs.of_kind(kind).into_iter().map(|(record, _)| record).collect::<Vec<_>>();
        if let Err(error) = inner.bulk.tidy_exports(&records(EXPORT)) {
            tracing::warn!(%error, "files of exports are not removed yet");
        }
        if let Err(error) = self.tidy_imports(&records(IMPORT)) {
            tracing::warn!(%error, "files of imports are not removed yet");
        }
    }
}

/// Removes files when there is reason to, and every now and then, until the hub ends.
pub(super) async fn tidy_bulk(hub: Weak<Inner>) {
    let Some((bulk, clock)) = hub.upgrade().map(|inner| (Arc::clone(&inner.bulk), Arc::clone(&inner.clock))) else {
        return;
    };
    loop {
        let Some(inner) = hub.upgrade() else { return };
        let hub = Hub { inner };
        if let Err(error) = tokio::task::spawn_blocking(move || hub.tidy_bulk()).await {
            tracing::error!(%error, "removing files panicked");
        }
        tokio::select! {
            () = clock.sleep(TIDY_EVERY) => {}
            () = bulk.tidying_wanted() => {}
        }
    }
}
