//! Jobs: work that is too long for one request, done in steps, which goes on after a restart where it was.
//!
//! - `record`: a job as it is kept, its state and its progress
//! - `state`: which state follows which, a pure machine
//! - [`pace`]: the rate cap
//! - `board`: which jobs run, which wait, which are forgotten; pure
//! - `work`: what a kind of job brings along: one step
//! - `actor`: takes the steps of one job
//! - `service`: every job: made, listed, cancelled, saved
//!
//! A job is a document of the registry, durable before it is answered for. At most `jobs.running_max` run at once, at most
//! half of them for one org; the others wait in the order in which they were made.
//!
//! - `JB-1` What a step has handed on is durable no later than the cursor that passes it: the step answers when what it
//!   handed on is in order before whatever is synced next, and the cursor is saved with a sync.
//! - `JB-2` After a crash a job goes on at its saved cursor. Only the steps after it are taken again: it is saved after
//!   each step that handed something on.
//! - `JB-3` A job that was cancelled stays so: a step that was under way saves nothing.
//! - `JB-4` Jobs that wait or run are bounded, all together and of one org; those that have ended are kept for a while,
//!   and no more than `jobs.finished_max` of them.

mod actor;
mod board;
pub mod pace;
mod record;
mod service;
mod state;
mod work;

pub use record::{JobRecord, JobState, NewJob, Progress};
pub use service::{DOCUMENT_KIND, JobFilter, Jobs, JobsParts};
pub use state::{Illegal, Input, next_state};
pub use work::{JobWork, Next, STEP_EVENTS_MAX, StepError, StepOutcome, Workshop};

#[cfg(test)]
mod tests;
