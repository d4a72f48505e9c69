//! Provider sources (ING-4): third parties post their webhooks to `/v1/sources/{name}`; a source says how such a request is
//! verified, and which event it becomes.
//!
//! - [`verify`]: the verification of each provider (pure)
//! - [`mapping`]: from headers and body to an envelope (pure)
//! - [`record`]: a source as it is kept and as a client asks for it
//!
//! Invariants
//! - `SO-1` What does not verify is stored nowhere: the body is not looked at before its signature is.
//! - `SO-2` Signatures and secrets are compared in constant time.
//! - `SO-3` Secrets are sealed at rest and never come out; a second one can stand beside the first while it is rotated.
//! - `SO-4` The org of an event is the source's, whatever the request says, if the source has one.

pub mod mapping;
pub mod record;
pub mod verify;

#[cfg(test)]
mod tests;
