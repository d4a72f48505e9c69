//! Whether a new version of a schema breaks an older one (CAT-2). A pure rule over two schemas.
//!
//! Backward: whoever reads with the new schema can read what was written under the old one, so everything the old one
//! allows the new one must allow. Forward is the same with the two changed over, full is both. The rule walks the two
//! schemas side by side and names each place where the reader allows less than the writer.
//!
//! - `CM-1` What is found compatible is so: every value the writer allows is one the reader allows. Of properties that a
//!   writer does not declare it is taken that it does not write them, also where its schema is open: else no property
//!   could ever be added.
//! - `CM-2` What cannot be judged (patterns that differ, `not`, `if`, conditions of `oneOf`…) counts as a breaking
//!   change and is told apart from one. The same word with the same value on both sides needs no judging.
//! - `CM-3` The work is bounded; past the bound the rest counts as not judged.

mod bounds;
mod node;
mod subset;

use serde::Serialize;
use serde_json::Value;

use super::record::Compatibility;

/// Breaking changes that one answer lists.
pub const CHANGES_LISTED_MAX: usize = 50;

/// Who can no longer read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaks {
    /// Readers of the new version, data of the old one.
    Backward,
    /// Readers of the old version, data of the new one.
    Forward,
}

/// One place where a version breaks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who can no longer read.
    pub breaks: Breaks,
    /// Where in the new schema, as a JSON pointer: where the word stands, or would stand if it were still there.
    pub pointer: String,
    /// What has changed.
    pub reason: String,
    /// False when it may be harmless and cannot be told.
    pub certain: bool,
}

/// What the registering of `new` after `old` breaks under this mode; nothing when it is compatible.
#[must_use]
pub fn changes(mode: Compatibility, old: &Value, new: &Value) -> Vec<Change> {
    let backward = || subset::lacks(Breaks::Backward, new, old);
    let forward = || subset::lacks(Breaks::Forward, old, new);
    let mut changes: Vec<Change> = match mode {
        Compatibility::None => Vec::new(),
        Compatibility::Backward => backward(),
        Compatibility::Forward => forward(),
        Compatibility::Full => [backward(), forward()].concat(),
    };
    changes.truncate(CHANGES_LISTED_MAX);
    changes
}

#[cfg(test)]
mod tests;
