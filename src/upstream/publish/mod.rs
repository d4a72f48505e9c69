//! Publishes: events that become calls to an upstream, by rules (UPS-5, UPS-6).
//!
//! Each rule is a consumer of its own, `publish:UPSTREAM:RULE`, with an inbox as a webhook has one. So the durable queue of what
//! an upstream does not take at once is the rule's inbox, its retries are the inbox's, and what is given up is a dead
//! letter like any other; ordering, pause, replay, `explain` and the status per event are those of every consumer. A rule
//! and not the whole upstream is the consumer, because a rule that waits or fails must not hold up the others, and because
//! a rule can be paused, changed or taken away alone. Events whose order matters to each other belong into one rule.
//!
//! - [`pattern`]: paths and headers with places that an event fills
//! - [`rule`]: a rule as it is kept, and as an operator asks for it
//! - [`mod@write`]: the call that an event becomes
//! - [`publisher`]: makes the calls of one rule
//! - [`report`]: what is told of them, in the log and in series
//!
//! Invariants:
//! - `PB-1` A publish never touches the producer: it begins when the event is durable, and reads it from the log.
//! - `PB-2` An event is published at least once, or is skipped by the rule's filter, or becomes a dead letter. What
//!   comes twice has the same idempotency key.
//! - `PB-3` A call that the upstream was not asked for (breaker, rate) uses up no attempt: the claim goes back.
//! - `PB-4` 401 and 403 are not tried again; nor is an event that makes no call.

pub mod pattern;
pub mod publisher;
pub mod report;
pub mod rule;
#[cfg(test)]
pub(crate) mod samples;
pub mod write;

pub use publisher::{Publisher, PublisherParts};
pub use rule::{PublishRule, read_rules};
pub use write::{Write, Writer};
