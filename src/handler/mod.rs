//! In-process handlers: code of the embedding program that takes events (INB-3, INB-4, OUT-6).
//!
//! Handlers stand in a [`HandlerRegistry`] under a consumer's name and a pattern of event types. A consumer has one inbox
//! however many handlers it has, so a claim is one attempt of all its handlers that match: they run one after the other,
//! lowest priority number first, then in order of registration. The [`HandlerActor`] runs each claim as a task of its own.
//!
//! - `HA-1` A handler that fails or panics makes the attempt a failed one; the handlers after it still run.
//! - `HA-2` An attempt runs only as long as its lease. When the lease runs out unrenewed, the running handler's future is
//!   dropped at its next await, nothing is answered, and the inbox counts an attempt with `lease_expired`.
//! - `HA-3` Another attempt may do better as long as one of the failures may pass; only when every failure is a
//!   [`HandlerError::Rejected`] is the event given up at once.
//! - `HA-4` A claim for which no handler is registered is given back untried while the consumer's filter asks for it and
//!   its handlers are still being registered (for as long as a lease); else it is settled: the handler was removed.
//!
//! Nothing here is on disk. After a crash, and after a failed attempt of a consumer with several handlers, events come
//! again to handlers that have had them: a handler is called at least once. Its effects should be tied to the event's id;
//! for follow-up events, [`NewEvent::id`] does it.
//!
//! Handlers share the thread of their actor: what blocks belongs on a thread of its own (`tokio::task::spawn_blocking`).

pub mod actor;
pub mod context;
pub mod outcome;
pub mod publish;
pub mod registry;

pub use actor::{HandlerActor, HandlerParts};
pub use context::HandlerContext;
pub use outcome::HandlerError;
pub use publish::{NewEvent, Publisher, Receipt};
pub use registry::{EventHandler, HandlerId, HandlerRegistry, Registered, check_consumer_name, handler_fn};

#[cfg(test)]
mod tests;
