//! Events given out again: replays of the log, redriven dead letters, recovery after an outage (WHK-8, RTY-4, CDC-4).
//!
//! - `request`: what a client asks for, checked
//! - `spec`: what a job does, as it is kept with the job
//! - `given`: which positions a consumer was given before, by its attempt records
//! - `events`: the job that replays events of the log
//! - `letters`: the job that redrives dead letters, and makes waiting retries due
//! - `hand_on`: the way into an inbox
//!
//! A job reads below live traffic, through the log's index and in a lane of its own, and hands what fits to the inbox of
//! the consumer, which gives it out below live traffic too (see [`crate::inbox::state`]). An event that is unsettled there
//! is not doubled. What the inbox has no room for waits in the log.
//!
//! A fresh consumer to replay into is a pull consumer that starts at the latest event.

mod events;
mod given;
mod hand_on;
mod letters;
mod request;
mod spec;

use std::sync::Arc;

use crate::ground::clock::SharedClock;
use crate::ground::random::SharedRandom;
use crate::inbox::catch_up::LogReader;
use crate::job::{JobRecord, JobWork, StepError, Workshop};
use crate::metrics::Metrics;
use crate::router::Inboxes;
use crate::store::{ConsumerState, EventLog};

pub use events::{EventsWork, Preview};
pub use given::RANGE_MAX as DELIVERED_RANGE_MAX;
pub use hand_on::{hand_on, item_of_letter};
pub use letters::{LettersPreview, LettersWork};
pub use request::{
    Bound, CONSUMER_CHARS_MAX, EVENT_IDS_MAX, RATE_MAX, ReplayRequest, rate, read_bound, read_recover, read_redrive,
    read_replay,
};
pub use spec::{LetterSpec, Matching, ReplaySpec, letter_id_at};

/// Kind of a job that replays events of the log.
pub const REPLAY: &str = "replay";
/// Kind of a job that redrives dead letters.
pub const REDRIVE: &str = "redrive";
/// Kind of a job that redrives dead letters and makes waiting retries due.
pub const RECOVER: &str = "recover";

/// What the jobs work with.
#[derive(Clone)]
pub struct ReplayParts {
    /// Reads the log, in a lane of its own.
    pub reader: LogReader,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Rows, attempts, dead letters.
    pub state: Arc<dyn ConsumerState>,
    /// The consumers.
    pub inboxes: Arc<dyn Inboxes>,
    /// Held by whoever closes dead letters, from reading them to having them written.
    pub closing: Arc<tokio::sync::Mutex<()>>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
}

/// Whether what a job does is readable.
///
/// # Errors
/// Why it is not.
pub(crate) fn check_spec(job: &JobRecord) -> Result<(), String> {
    let unreadable = |error: serde_json::Error| format!("what the job does is not readable: {error}");
    match job.kind.as_str() {
        REPLAY => serde_json::from_value::<ReplaySpec>(job.spec.clone()).map(drop).map_err(unreadable),
        REDRIVE | RECOVER => serde_json::from_value::<LetterSpec>(job.spec.clone()).map(drop).map_err(unreadable),
        other => Err(format!("this version knows no job of the kind {other}")),
    }
}

impl Workshop for ReplayParts {
    fn open(&self, job: &JobRecord) -> Result<Box<dyn JobWork>, StepError> {
        let unreadable =
            |error: serde_json::Error| StepError::Fatal(format!("what the job does is not readable: {error}"));
        match job.kind.as_str() {
            REPLAY => {
                let spec: ReplaySpec = serde_json::from_value(job.spec.clone()).map_err(unreadable)?;
                Ok(Box::new(EventsWork::new(self.clone(), spec, Some(job.id.clone()))))
            }
            REDRIVE | RECOVER => {
                let spec: LetterSpec = serde_json::from_value(job.spec.clone()).map_err(unreadable)?;
                Ok(Box::new(LettersWork::new(self.clone(), spec, job.id.clone(), job.created.clone())))
            }
            other => Err(StepError::Fatal(format!("this version knows no job of the kind {other}"))),
        }
    }
}
