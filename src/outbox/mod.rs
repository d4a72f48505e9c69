//! The outbox: the way into the log.
//!
//! A front door puts [`Append`] into the actor's [`Intake`]; one writer thread takes what has queued while the last sync
//! ran, commits it as one group, and only then answers. After the sync the new events are put into the [`Tail`], where the router
//! finds them without reading the store.
//!
//! - `OB-1` A receipt is sent only after the sync of the group that holds the event.
//! - `OB-2` What waits is bounded in bytes by [`SharedGate`]; past it the caller is told to come back.
//! - `OB-3` The tail holds only synced events, in order; where it has a gap, the log is read.
//! - `OB-4` One thread writes at a time: after a restart of the actor the new one waits until the old one has ended.
//! - `OB-5` Orgs take turns, by bytes, when more waits than a group holds, and none can fill the gate: the flood of one
//!   makes no other wait behind it. A unit counts for the org of its first event.
//!
//! After a crash: every event with a receipt is in the log; others may be.

mod actor;
mod fair;
mod gate;
mod intake;
mod tail;
mod writer;

pub use actor::{OutboxActor, OutboxParts, Retain, RetentionRules};
pub use gate::{Full, Gate, Permit, SharedGate, TenantPermit};
pub use intake::{Append, AppendReply, Intake, Restarting};
pub use tail::Tail;
