//! The port of the log's index: rows of two sizes, each over a stretch of positions, written once and dropped from the
//! old end. What a row says is the business of whoever writes it; see [`crate::lookup`].

use super::StoreError;
use crate::ground::ids::Seq;

/// How many positions a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexLevel {
    /// 1,024 positions.
    Block,
    /// 64 blocks.
    Group,
}

impl IndexLevel {
    /// Every level.
    pub const ALL: [Self; 2] = [Self::Block, Self::Group];

    /// Positions of one row.
    #[must_use]
    pub const fn events(self) -> u64 {
        match self {
            Self::Block => 1_024,
            Self::Group => 64 * Self::Block.events(),
        }
    }
}

/// Which row of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexRow {
    /// Its level.
    pub level: IndexLevel,
    /// Its place among the rows of its level, from zero.
    pub number: u64,
}

impl IndexRow {
    /// The row that is about this position.
    #[must_use]
    pub const fn holding(level: IndexLevel, seq: Seq) -> Self {
        Self { level, number: seq.0 / level.events() }
    }

    /// The first position it is about. Position zero is in the first row, and no event has it.
    #[must_use]
    pub const fn first(self) -> Seq {
        Seq(self.number.saturating_mul(self.level.events()))
    }

    /// The last position it is about.
    #[must_use]
    pub const fn last(self) -> Seq {
        Seq(self.first().0.saturating_add(self.level.events() - 1))
    }

    /// The row after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { level: self.level, number: self.number.saturating_add(1) }
    }
}

/// The index rows. A row that is not there only means that its stretch of the log is read.
pub trait LogIndex: Send + Sync {
    /// Writes a row, of at most [`crate::ground::limits::ROW_BYTES_MAX`] bytes. A crash may lose it, together with the
    /// rows written after it.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]; else when the engine fails.
    fn put_row(&self, row: IndexRow, record: &[u8]) -> Result<(), StoreError>;

    /// A row as it was written.
    ///
    /// # Errors
    /// When the engine fails.
    fn row(&self, row: IndexRow) -> Result<Option<Vec<u8>>, StoreError>;

    /// The row that is furthest in the log. After an opening none is about positions that the log has not reached.
    ///
    /// # Errors
    /// When the engine fails.
    fn newest_row(&self, level: IndexLevel) -> Result<Option<IndexRow>, StoreError>;

    /// Drops the rows that are about positions before this one alone; returns how many.
    ///
    /// # Errors
    /// When the engine fails.
    fn drop_rows(&self, level: IndexLevel, before: Seq) -> Result<u64, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_level_cover_every_position_once() {
        for level in IndexLevel::ALL {
            let row = IndexRow { level, number: 7 };
            assert_eq!(row.last().next(), row.next().first());
            for seq in [row.first(), row.last()] {
                assert_eq!(IndexRow::holding(level, seq), row);
            }
        }
        assert_eq!(IndexRow::holding(IndexLevel::Group, Seq(u64::MAX)).last(), Seq(u64::MAX));
    }
}
