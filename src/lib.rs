//! Tidegate: an event hub in one binary.
//!
//! The map, from the ground up; a room uses only what stands above it here.
//!
//! - [`ground`]: clock, chance, identifiers, limits, problems, secrets, record codec
//! - [`config`]: settings in four layers, checked, with the origin of each value
//! - [`logging`]: the hub's own log
//! - [`event`]: the envelope, how it is read, rendered and filtered
//! - [`retry`]: when a failed delivery is tried again, and whether at all
//! - [`ratelimit`]: token buckets, for producers and for endpoints
//! - [`store`]: the ports (log, consumer state, registry) and the embedded engine
//! - [`metrics`]: the series of `/metrics`
//! - [`trace`]: the trace of each event, in and out, and the export of its spans
//! - [`supervise`]: actors that are built anew after a panic, behind a stable handle
//! - [`outbox`]: the way into the log: gate, writer thread, tail, retention
//! - [`lookup`]: the index of the log, and the search along it
//! - [`cdc`]: the change feed
//! - [`inbox`]: what one consumer has received, is processing, has processed, has failed
//! - [`schedule`]: events that are held back until they are due
//! - [`link`]: links between entities of different modules
//! - [`idempotency`]: requests that name a key are done once
//! - [`router`]: the reader of the tail and its index of subscriptions
//! - [`breaker`]: who may call a sick upstream, and when it counts as well again
//! - [`pull`]: consumers that ask for their deliveries: leases, tokens, who waits
//! - [`explain`]: why an event did or did not reach a consumer
//! - [`job`]: long work in steps, which goes on after a restart where it was
//! - [`replay`]: events given out again: replays, redriven dead letters, recovery
//! - [`bulk`]: events out to files and in from files: exports and imports
//! - [`webhook`]: signing and calling the endpoints of customers
//! - [`upstream`]: systems that the hub calls: adapters, the one call path, reads and their cache
//! - [`source`]: third-party webhooks coming in: how they are verified, and what events they become
//! - [`catalog`]: what events mean: types, schemas, what is hidden of them
//! - [`handler`]: in-process handlers: registry, context, actor
//! - [`hub`]: puts it all together; the face of the library
//! - [`http`]: the front door: public and admin listener
//! - [`cli`]: the command line
//! - [`mod@bench`]: load generator, receiver and scenarios of `tidegate bench`

pub mod bench;
pub mod breaker;
pub mod bulk;
pub mod catalog;
pub mod cdc;
pub mod cli;
pub mod config;
pub mod event;
pub mod explain;
pub mod ground;
pub mod handler;
pub mod http;
pub mod hub;
pub mod idempotency;
pub mod inbox;
pub mod job;
pub mod link;
pub mod logging;
pub mod lookup;
pub mod metrics;
pub mod outbox;
pub mod pull;
pub mod ratelimit;
pub mod replay;
pub mod retry;
pub mod router;
pub mod schedule;
pub mod serve;
pub mod source;
pub mod store;
pub mod supervise;
pub mod trace;
pub mod upstream;
pub mod webhook;
