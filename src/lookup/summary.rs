//! The row of a group: what occurs in 64 blocks at all, so that an org that is seldom seen costs a row per 65,536 events.

use serde::{Deserialize, Serialize};

use super::block::Block;
use super::wanted::{COLUMNS, Column, Key, Wanted};
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};

/// Version of the record.
const VERSION: u8 = 1;
/// Keys of one column that a summary holds; a column with more tells nothing. Six such columns fit into one row.
const KEYS_MAX: usize = 1_024;

/// What occurs in a group of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    oldest: UnixMs,
    newest: UnixMs,
    /// Ascending; none when there are too many.
    columns: [Option<Vec<Key>>; COLUMNS],
}

impl Default for Summary {
    fn default() -> Self {
        Self { oldest: UnixMs(u64::MAX), newest: UnixMs(0), columns: [const { Some(Vec::new()) }; COLUMNS] }
    }
}

impl Summary {
    /// Adds what occurs in a block.
    pub fn add(&mut self, block: &Block<'_>) {
        self.oldest = self.oldest.min(block.oldest);
        self.newest = self.newest.max(block.newest);
        for column in Column::ALL {
            let slot = &mut self.columns[column.index()];
            let Some(keys) = slot else { continue };
            keys.extend(block.keys(column));
            keys.sort_unstable();
            keys.dedup();
            if keys.len() > KEYS_MAX {
                *slot = None;
            }
        }
    }

    /// The record.
    ///
    /// # Errors
    /// None with the bounds it keeps.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(VERSION, self)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When the bytes are not such a record.
    pub fn decode(record: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, record)
    }

    /// Whether an event in the group may be wanted.
    #[must_use]
    pub fn may_hold(&self, wanted: &Wanted) -> bool {
        let occurs = |(column, key): &(Column, Key)| {
            self.columns[column.index()].as_ref().is_none_or(|keys| keys.binary_search(key).is_ok())
        };
        wanted.overlaps(self.oldest, self.newest) && wanted.clauses.iter().all(|clause| clause.iter().any(occurs))
    }
}
