//! What an inbox keeps to: its order and its bounds.

use serde::{Deserialize, Serialize};

/// What order a consumer's events are given out in (INB-6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Any number at once, up to the concurrency.
    #[default]
    None,
    /// One at a time per ordering key; keys side by side. A failing key waits alone.
    Key,
    /// One at a time.
    Strict,
}

/// The bounds of one inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxRules {
    /// Order.
    pub ordering: Ordering,
    /// Most claims out at once; at least 1.
    pub concurrency: usize,
    /// Most events in the window.
    pub window_events: usize,
    /// Most bytes in the window, besides at least one event.
    pub window_bytes: usize,
    /// Most exception rows.
    pub parked_max: usize,
    /// How long a claim may stay unanswered.
    pub lease_ms: u64,
}
