//! [`LogIndex`] on the embedded engine: a tree per level, written at its new end and dropped from its old one.

use super::{Engine, Inner};
use crate::ground::ids::Seq;
use crate::store::{IndexLevel, IndexRow, LogIndex, StoreError};

/// The trees of the index.
pub(super) struct IndexTrees {
    blocks: sled::Tree,
    groups: sled::Tree,
}

impl IndexTrees {
    /// Opens the trees. Rows past the head go: a power cut may have taken events that were written and never
    /// acknowledged, and other events will have their places.
    pub(super) fn open(db: &sled::Db, head: Seq) -> Result<Self, StoreError> {
        let trees = Self { blocks: db.open_tree("index-blocks")?, groups: db.open_tree("index-groups")? };
        for level in IndexLevel::ALL {
            while let Some(row) = trees.newest(level)?.filter(|row| row.last() > head) {
                trees.of(level).remove(row.number.to_be_bytes())?;
            }
        }
        Ok(trees)
    }

    fn of(&self, level: IndexLevel) -> &sled::Tree {
        match level {
            IndexLevel::Block => &self.blocks,
            IndexLevel::Group => &self.groups,
        }
    }

    fn newest(&self, level: IndexLevel) -> Result<Option<IndexRow>, StoreError> {
        let newest = self.of(level).last()?;
        let number = newest.and_then(|(key, _)| Some(u64::from_be_bytes((*key).try_into().ok()?)));
        Ok(number.map(|number| IndexRow { level, number }))
    }
}

fn drop_rows(inner: &Inner, level: IndexLevel, before: Seq) -> Result<u64, StoreError> {
    let tree = inner.index.of(level);
    let keep = IndexRow::holding(level, before).number.to_be_bytes();
    let mut dropped = 0;
    for key in tree.range(..keep).keys() {
        tree.remove(key?)?;
        dropped += 1;
    }
    Ok(dropped)
}

impl LogIndex for Engine {
    fn put_row(&self, row: IndexRow, record: &[u8]) -> Result<(), StoreError> {
        self.check_space()?;
        self.with(|inner| {
            inner.index.of(row.level).insert(row.number.to_be_bytes(), record)?;
            super::collect_garbage(1);
            Ok(())
        })
    }

    fn row(&self, row: IndexRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|inner| Ok(inner.index.of(row.level).get(row.number.to_be_bytes())?.map(|value| value.to_vec())))
    }

    fn newest_row(&self, level: IndexLevel) -> Result<Option<IndexRow>, StoreError> {
        self.with(|inner| inner.index.newest(level))
    }

    fn drop_rows(&self, level: IndexLevel, before: Seq) -> Result<u64, StoreError> {
        self.with(|inner| drop_rows(inner, level, before))
    }
}
