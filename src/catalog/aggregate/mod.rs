//! The declared order of aggregates (CAT-3): which states there are, and which event leads from which to which. Events
//! that break the order are flagged, never refused.
//!
//! - `AL-1` A projection with a cursor of its own follows the log; where an aggregate stands, what broke the order and how
//!   far the projection has come are written together. So each event is judged once, whatever is killed when.
//! - `AL-2` A declaration is followed from the first event that the log has. A changed declaration is another one: it is
//!   followed anew from there, and what the old one said counts no longer.
//! - `AL-3` An aggregate that was not seen yet stands at the initial state. A type that is in no transition is no matter
//!   of the order. After an event that breaks it the aggregate stands where that event always leads, when that is one
//!   state; else it stays.
//! - `AL-4` Memory holds one step's events and their aggregates, however many aggregates there are.

mod actor;
mod follow;
mod record;
mod rule;

pub use actor::{LifecycleActor, LifecycleParts};
pub use record::{
    Declared, DeclaredLifecycles, LIFECYCLES_MAX, LifecycleRecord, STATE_CHARS_MAX, STATES_MAX, TRANSITIONS_MAX,
    lifecycle_key, read_lifecycle,
};
pub use rule::{Order, Step, Transition};
