//! The index of the log in memory.

use super::{Call, FakeStore};
use crate::ground::ids::Seq;
use crate::store::{IndexLevel, IndexRow, LogIndex, StoreError};

impl LogIndex for FakeStore {
    fn put_row(&self, row: IndexRow, record: &[u8]) -> Result<(), StoreError> {
        self.write(Call::PutRow, |content| {
            content.index.insert(row, record.to_vec());
            Ok(())
        })
    }

    fn row(&self, row: IndexRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(|content| content.index.get(&row).cloned())
    }

    fn newest_row(&self, level: IndexLevel) -> Result<Option<IndexRow>, StoreError> {
        self.look(|content| content.index.keys().rfind(|row| row.level == level).copied())
    }

    fn drop_rows(&self, level: IndexLevel, before: Seq) -> Result<u64, StoreError> {
        self.write(Call::Commit, |content| {
            let rows = content.index.len();
            content.index.retain(|row, _| row.level != level || row.last() >= before);
            Ok((rows - content.index.len()) as u64)
        })
    }
}
