//! Webhooks: where deliveries may go, and how they get there.

pub mod guard;
pub mod outbound;
