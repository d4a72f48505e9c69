//! Scheduled events (ING-7): held back from every consumer until they are due, cancellable until then.
//!
//! A scheduled event is kept aside from the log, durable before its producer is answered, and appended to the log when it
//! is due. From then on it is an event like every other, received when it was released.
//!
//! - `book`: which events wait, in memory: ids, due times, bounds (pure)
//! - `lane`: scheduling, cancelling, releasing: one at a time, against the store
//! - [`ScheduleActor`]: runs the lane, and wakes when the next event is due
//!
//! Invariants
//! - `SC-1` An event is acknowledged after it is on disk, and never appended to the log before its time.
//! - `SC-2` (org, id) is unique among the log and what waits. An event that is to be scheduled reserves its id first and
//!   then waits until what was on its way to the log has arrived, which it learns from the [`Passage`] each of them
//!   carries; an event for the log looks for its id in the book in the same step that sends it on its way.
//! - `SC-3` A released event is taken away after it is in the log. A crash between the two releases it again, and the
//!   log knows it by its id: it is there once.
//! - `SC-4` A cancelled event was taken away, durably, before its cancelling was answered; releasing and cancelling take
//!   turns, so that it is one or the other.
//!
//! After a crash the book is read from the store again; what was reserved and not stored is forgotten.

mod actor;
mod book;
mod lane;

pub use actor::{Cancel, Schedule, ScheduleActor, ScheduleParts};
pub use book::{Book, Bounds, Passage, Waiting};
pub(crate) use lane::decode;
pub use lane::{Asked, Cancelled, Request};

#[cfg(test)]
mod tests;
