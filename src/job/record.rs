//! A job as it is kept.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// Its steps are taken.
    Running,
    /// It came to its end.
    Done,
    /// It cannot go on; `error` says why.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// How far a job has come. Counts of things: what they are depends on its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Looked at, or passed because an index says that nothing is there.
    pub looked_at: u64,
    /// Those that fit.
    pub matched: u64,
    /// Those handed on.
    pub handed_on: u64,
    /// Those that fit and needed nothing: already under way.
    pub skipped: u64,
    /// Those that fit and could not be handed on.
    pub failed: u64,
    /// How many there are to look at, as far as is known.
    pub total: Option<u64>,
}

impl AddAssign for Progress {
    /// Adds counts; a total that is given replaces the one before.
    fn add_assign(&mut self, gained: Self) {
        self.looked_at += gained.looked_at;
        self.matched += gained.matched;
        self.handed_on += gained.handed_on;
        self.skipped += gained.skipped;
        self.failed += gained.failed;
        self.total = gained.total.or(self.total);
    }
}

impl Progress {
    /// The counts as clients see them.
    #[must_use]
    pub fn to_json(self) -> Value {
        let Self { looked_at, matched, handed_on, skipped, failed, total } = self;
        json!({
            "looked_at": looked_at, "matched": matched, "handed_on": handed_on, "skipped": skipped, "failed": failed,
            "total": total,
        })
    }
}

/// A job that is to be made.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its kind.
    pub kind: &'static str,
    /// Whose it is; none means it is the operator's.
    pub org: Option<String>,
    /// What it does, as its kind reads it.
    pub spec: Value,
    /// Most events a second; none means as fast as they are taken.
    pub rate: Option<u32>,
    /// How much there is to look at.
    pub total: Option<u64>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id, `job_` and a `UUIDv7`: sorts by time.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Whose it is; none means it is the operator's.
    pub org: Option<String>,
    /// What it does.
    pub spec: Value,
    /// Where it stands.
    pub state: JobState,
    /// How far it has come.
    pub progress: Progress,
    /// Everything up to here is done; none before the first step.
    pub cursor: Option<String>,
    /// Most events a second.
    pub rate: Option<u32>,
    /// Who made it, when.
    pub created: WriteContext,
    /// Who changed it last, when: the hub, for its progress.
    pub updated: WriteContext,
    /// Why it failed.
    pub error: Option<String>,
}

impl JobRecord {
    /// A job that waits for its turn.
    #[must_use]
    pub fn new(id: String, new: NewJob, context: WriteContext) -> Self {
        let NewJob { kind, org, spec, rate, total } = new;
        Self {
            id,
            kind: kind.to_owned(),
            org,
            spec,
            state: JobState::Queued,
            progress: Progress { total, ..Progress::default() },
            cursor: None,
            rate,
            created: context.clone(),
            updated: context,
            error: None,
        }
    }

    /// The job as clients see it. `waits_for` is what holds its next step up, if anything does.
    #[must_use]
    pub fn to_json(&self, waits_for: Option<&str>) -> Value {
        let ended = self.state.has_ended().then(|| self.updated.at.to_rfc3339());
        json!({
            "id": self.id,
            "kind": self.kind,
            "org": self.org,
            "consumer": self.spec.get("consumer"),
            "state": self.state.as_str(),
            "progress": self.progress.to_json(),
            "rate": self.rate,
            "waits_for": waits_for,
            "error": self.error,
            "spec": self.spec,
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.by,
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.by,
            "finished_at": ended,
        })
    }

    /// When it was made.
    #[must_use]
    pub fn made_at(&self) -> UnixMs {
        self.created.at
    }
}
