//! The event: its envelope, how it is read and written, what selects it. Values and pure rules.

pub mod cloudevents;
pub mod envelope;
pub mod filter;
pub mod json;
pub mod object;
pub mod parse;
pub mod redact;
pub mod render;
pub mod restore;
