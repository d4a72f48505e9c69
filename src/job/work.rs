//! What a kind of job brings along: one step.

use futures_util::future::BoxFuture;

use super::record::{JobRecord, Progress};

/// Most events that one step hands on, unless its work says otherwise.
pub const STEP_EVENTS_MAX: usize = 256;

/// The work of one running job. What it keeps between steps is a help only: the cursor says what is done.
pub trait JobWork: Send {
    /// Goes on after the cursor (none: from the beginning) and hands on at most `room` events, of which there is one at
    /// least. Answers when what was handed on is in order before whatever is synced next (`JB-1`). At its end it answers
    /// [`Next::Done`], as often as it is asked.
    fn step<'a>(&'a mut self, cursor: Option<&'a str>, room: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>>;

    /// Most events that one step of this work hands on.
    fn step_events_max(&self) -> usize {
        STEP_EVENTS_MAX
    }
}

/// What one step has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutcome {
    /// Everything up to here is done; none when there is no place yet.
    pub cursor: Option<String>,
    /// What it adds to the progress.
    pub gained: Progress,
    /// What follows.
    pub next: Next,
}

/// What follows a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another step.
    GoOn,
    /// Another step in a while.
    Wait {
        /// What it waits for, in words.
        reason: &'static str,
    },
    /// Nothing: this was the last.
    Done,
}

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It may work later: the store is being reopened, an actor restarted.
    #[error("{0}")]
    Again(String),
    /// It never will.
    #[error("{0}")]
    Fatal(String),
}

/// Opens the work of every kind of job.
pub trait Workshop: Send + Sync {
    /// The work of a job that begins or goes on.
    ///
    /// # Errors
    /// When its kind is not known, or what it does cannot be read.
    fn open(&self, job: &JobRecord) -> Result<Box<dyn JobWork>, StepError>;
}
