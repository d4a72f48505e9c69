//! Webhooks: consumers that are HTTP endpoints.

pub mod sign;
