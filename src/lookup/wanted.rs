//! What a look-up asks for, as the index sees it: columns and the keys of the texts wanted in them.

use serde::{Deserialize, Serialize};

use crate::event::envelope::EventMeta;
use crate::event::filter::{EventFilter, TypePattern};
use crate::ground::clock::UnixMs;

/// A field of an event that look-ups go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The org.
    Org,
    /// The whole type.
    Type,
    /// The first part of the type: `invoice` of `invoice.paid`.
    TypeRoot,
    /// The source.
    Source,
    /// The aggregate's type.
    AggregateType,
    /// The aggregate's id.
    AggregateId,
}

/// How many columns there are.
pub(super) const COLUMNS: usize = 6;

impl Column {
    /// Every column, in the order in which rows hold them.
    pub const ALL: [Self; COLUMNS] =
        [Self::Org, Self::Type, Self::TypeRoot, Self::Source, Self::AggregateType, Self::AggregateId];

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Stands for a text in the index: its CRC-32C, which is the same in every run. Different texts may have one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub(super) u32);

impl Key {
    /// The event has nothing there. No text has this key.
    pub const NONE: Self = Self(0);

    /// The key of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(crc32c::crc32c(text.as_bytes()).max(1))
    }
}

fn root(event_type: &str) -> &str {
    event_type.split_once('.').map_or(event_type, |(root, _)| root)
}

/// The keys of an event, one a column.
pub(super) fn keys_of(meta: &EventMeta) -> [Key; COLUMNS] {
    let optional = |text: &Option<String>| text.as_deref().map_or(Key::NONE, Key::of);
    [
        Key::of(&meta.org),
        Key::of(&meta.event_type),
        Key::of(root(&meta.event_type)),
        optional(&meta.source),
        optional(&meta.aggregate_type),
        optional(&meta.aggregate_id),
    ]
}

/// What is wanted: each clause must hold, and one holds when any of its keys is in the column named with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub(super) clauses: Vec<Vec<(Column, Key)>>,
    from: Option<UnixMs>,
    to: Option<UnixMs>,
}

impl Wanted {
    /// Events that have this text in the column, when one is given.
    #[must_use]
    pub fn with(mut self, column: Column, text: Option<&str>) -> Self {
        self.clauses.extend(text.map(|text| vec![(column, Key::of(text))]));
        self
    }

    /// Events of any of these types; of every type when there is none.
    #[must_use]
    pub fn with_types(mut self, patterns: &[TypePattern]) -> Self {
        let term = |pattern: &TypePattern| match pattern {
            TypePattern::All => None,
            TypePattern::Prefix(prefix) => Some((Column::TypeRoot, Key::of(root(prefix)))),
            TypePattern::Exact(exact) => Some((Column::Type, Key::of(exact))),
        };
        let terms: Option<Vec<_>> = patterns.iter().map(term).collect();
        self.clauses.extend(terms.filter(|terms| !terms.is_empty()));
        self
    }

    /// Events received at or after `from` and before `to`.
    #[must_use]
    pub fn within(self, from: Option<UnixMs>, to: Option<UnixMs>) -> Self {
        Self { from, to, ..self }
    }

    /// Whether every event is wanted, so that there is nothing to skip.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.clauses.is_empty() && self.from.is_none() && self.to.is_none()
    }

    /// Whether a stretch whose events were received from `oldest` to `newest` may hold one.
    pub(super) fn overlaps(&self, oldest: UnixMs, newest: UnixMs) -> bool {
        self.from.is_none_or(|from| newest >= from) && self.to.is_none_or(|to| oldest < to)
    }
}

impl From<&EventFilter> for Wanted {
    /// The clauses that the index knows; channel and facility do not narrow.
    fn from(filter: &EventFilter) -> Self {
        Self::default()
            .with(Column::Org, filter.org.as_deref())
            .with_types(&filter.event_types)
            .with(Column::Source, filter.service.as_deref())
    }
}
