//! Which events a feed has.

use crate::event::envelope::Event;
use crate::event::filter::{Decision, EventFilter, TypePattern};
use crate::ground::clock::UnixMs;
use crate::lookup::Wanted;

/// The clauses of a feed. One that is not given does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedFilter {
    /// Scopes and type.
    events: EventFilter,
    /// Received at or after.
    from: Option<UnixMs>,
    /// Received before.
    to: Option<UnixMs>,
}

/// The clauses by the names of their parameters, in the order in which cursors keep them.
pub const CLAUSES: [&str; 7] = ["org", "service", "channel", "facility", "type", "from", "to"];

impl FeedFilter {
    /// The events that `events` matches, received at or after `from` and before `to`.
    #[must_use]
    pub fn new(events: EventFilter, from: Option<UnixMs>, to: Option<UnixMs>) -> Self {
        Self { events, from, to }
    }

    /// Whether an event is in the feed.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.from.is_none_or(|from| event.received_at >= from)
            && self.to.is_none_or(|to| event.received_at < to)
            && self.events.decide(event) == Decision::Match
    }

    /// What the index is asked for.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted::from(&self.events).within(self.from, self.to)
    }

    /// Whether nothing that is received from now on can be in the feed.
    #[must_use]
    pub fn is_over(&self, now: UnixMs) -> bool {
        self.to.is_some_and(|to| now >= to)
    }

    /// A mark of each clause, in the order of [`CLAUSES`]; 0 for one that is not given.
    #[must_use]
    pub fn marks(&self) -> [u32; CLAUSES.len()] {
        let mark = |text: &str| crc32c::crc32c(text.as_bytes()).max(1);
        let text = |text: &Option<String>| text.as_deref().map_or(0, mark);
        let time = |time: Option<UnixMs>| time.map_or(0, |time| mark(&time.0.to_string()));
        let EventFilter { org, event_types, channel, facility, service, expression: _, requires: _ } = &self.events;
        let types: Vec<String> = event_types.iter().map(TypePattern::to_string).collect();
        let types = (!types.is_empty()).then(|| types.join(","));
        [text(org), text(service), text(channel), text(facility), text(&types), time(self.from), time(self.to)]
    }
}
