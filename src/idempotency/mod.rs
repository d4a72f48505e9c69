//! Idempotency keys (IDM-1): whoever asks twice under one key is answered once.
//!
//! A request that names a key claims it before it runs: the first one holds it, the same request again waits for its answer
//! and gets that, another request under the key is refused. The HTTP listeners do this for `Idempotency-Key`, a program
//! for any operation of its own through [`crate::hub::Hub::idempotent`].
//!
//! - `ID-1` One holder at a time. Each claim has a fencing token (epoch), larger than every one before; only the newest
//!   claim records an answer, so a holder whose lock was taken over cannot replace what came after it.
//! - `ID-2` An answer goes out after it is on disk: who has seen it once gets no other one, whatever crashes.
//! - `ID-3` That a key is held is committed before its operation begins, without a sync of its own: commits keep their
//!   order, so wherever the effect of the operation survives a crash, the claim does.
//! - `ID-4` A lock ends `idempotency.lock_ms` after it was taken, also when its holder is gone: it was killed, or dropped.
//!   Then the next request under the key runs.
//! - `ID-5` What is kept is bounded, in all and per org; the oldest of an org go first, but none younger than
//!   `idempotency.keep_at_least_ms`. When there is no older one a new key is refused.
//!
//! What follows from it when the process is killed: before the claim was committed, nothing has happened; the retry runs.
//! After the answer was recorded the retry gets it. In between, the effect may be there without an answer, and the retry
//! runs again when the lock is over: at most one answer is recorded, the effect may come twice. Publishing events is
//! different: an event without an id gets one that is made of the key, so the log knows it again and there is one of it.
//!
//! On disk: a small record per key and, sealed, its answer, both in trees per ten minutes in which they were first asked for.
//! They are dropped as wholes when their time is over. After a start all records are in memory again, the answers are not.
//!
//! - `state`: what a request under a key meets; pure
//! - `shelf`: how much is kept, and what goes when it is too much; pure
//! - `table`: both together, in memory
//! - `writer`: the thread that commits
//! - `service`: claims, waits, records

mod service;
mod shelf;
mod state;
mod table;
mod writer;

#[cfg(test)]
mod tests;

pub use service::{Answer, Ask, Claim, Idempotency, KeyError, Permit, Recorded};
pub use state::{Fingerprint, KEY_CHARS_MAX, KeyId, check_key};
