//! Where a consumer stands in the log: a cursor, and the ranges settled ahead of it.

use serde::{Deserialize, Serialize};

use crate::ground::ids::Seq;

/// Everything at or before `cursor` is settled or has an exception row; so has everything in `ahead`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The lowest unsettled position lies after this one.
    pub cursor: Seq,
    /// Inclusive ranges after the cursor, ascending, not touching.
    pub ahead: Vec<(Seq, Seq)>,
}

impl Position {
    /// Nothing settled ahead of `cursor`.
    #[must_use]
    pub fn at(cursor: Seq) -> Self {
        Self { cursor, ahead: Vec::new() }
    }

    /// Whether this position is settled.
    #[must_use]
    pub fn covers(&self, seq: Seq) -> bool {
        seq <= self.cursor
            || match self.ahead.binary_search_by(|(first, _)| first.cmp(&seq)) {
                Ok(_) => true,
                Err(0) => false,
                Err(at) => self.ahead[at - 1].1 >= seq,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_covers_its_cursor_and_its_ranges_and_nothing_else() {
        let position = Position { cursor: Seq(10), ahead: vec![(Seq(12), Seq(14)), (Seq(20), Seq(20))] };
        let covered: Vec<u64> = (9..=22).filter(|seq| position.covers(Seq(*seq))).collect();
        assert_eq!(covered, [9, 10, 12, 13, 14, 20]);
    }
}
