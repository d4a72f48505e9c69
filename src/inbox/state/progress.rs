//! How far an inbox has come: what it has seen, the window of what is open, and the settled ranges ahead (IN-1, IN-4).
//!
//! Every position up to `seen` is open (in the window) or closed: settled, kept as an exception row, or not for this
//! consumer. The cursor stands before the lowest open one. What is closed behind it is listed as ranges; a range may
//! run over positions that do not match, never over an open one.

use std::collections::{BTreeMap, BTreeSet};

use crate::ground::ids::Seq;
use crate::store::Position;

/// Settled ranges ahead of the cursor that are kept at most.
pub(super) const RANGES_MAX: usize = 1_024;

/// The window of one inbox and the positions around it.
#[derive(Debug)]
pub(super) struct Progress {
    seen: Seq,
    open: BTreeSet<Seq>,
    open_bytes: usize,
    /// Closed ranges after the lowest open position, by their first.
    ahead: BTreeMap<Seq, Seq>,
    /// Where an earlier life stood: what it had settled ahead is not read up to yet.
    restored: Position,
}

impl Progress {
    /// Everything that `position` covers is closed; reading begins after its cursor.
    pub(super) fn at(position: Position) -> Self {
        Self { seen: position.cursor, open: BTreeSet::new(), open_bytes: 0, ahead: BTreeMap::new(), restored: position }
    }

    pub(super) fn seen(&self) -> Seq {
        self.seen
    }

    /// Whether an earlier life had settled this.
    pub(super) fn was_settled(&self, seq: Seq) -> bool {
        self.restored.covers(seq)
    }

    /// Positions in the window, ascending.
    pub(super) fn window(&self) -> impl Iterator<Item = Seq> + '_ {
        self.open.iter().copied()
    }

    pub(super) fn window_events(&self) -> usize {
        self.open.len()
    }

    pub(super) fn window_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Whether [`Progress::position`] may list more ranges.
    pub(super) fn has_ranges_left(&self) -> bool {
        let read = self.restored.ahead.partition_point(|(_, end)| *end <= self.seen);
        self.ahead.len() + (self.restored.ahead.len() - read) < RANGES_MAX
    }

    /// Takes the next position into the window.
    pub(super) fn open(&mut self, seq: Seq, bytes: usize) {
        self.seen = seq;
        self.open.insert(seq);
        self.open_bytes += bytes;
    }

    /// Passes the next position, which is settled or has a row already.
    pub(super) fn pass_known(&mut self, seq: Seq) {
        self.seen = seq;
        self.mark_ahead(seq);
    }

    /// Passes everything up to `upto`: nothing of it matches beyond what was opened.
    pub(super) fn pass(&mut self, upto: Seq) {
        self.seen = self.seen.max(upto);
        if self.open.is_empty() {
            self.ahead.clear();
        }
    }

    /// Takes a position out of the window: it is settled or has a row now.
    pub(super) fn close(&mut self, seq: Seq, bytes: usize) {
        self.open.remove(&seq);
        self.open_bytes -= bytes;
        self.mark_ahead(seq);
    }

    /// Goes back to the cursor, to read again from there. Returns what was open.
    pub(super) fn rewind(&mut self) -> BTreeSet<Seq> {
        self.restored = self.position();
        self.seen = self.restored.cursor;
        self.ahead.clear();
        self.open_bytes = 0;
        std::mem::take(&mut self.open)
    }

    /// The position to keep: the cursor, and what is settled ahead of it.
    pub(super) fn position(&self) -> Position {
        let cursor = self.open.first().map_or(self.seen, |lowest| lowest.prev());
        let mut ahead: Vec<(Seq, Seq)> = self.ahead.iter().map(|(start, end)| (*start, *end)).collect();
        // What an earlier life had settled ahead and this one has not read up to yet.
        for (start, end) in &self.restored.ahead {
            if *end > self.seen {
                ahead.push(((*start).max(self.seen.next()), *end));
            }
        }
        Position { cursor, ahead }
    }

    /// Notes a position outside the window as closed. Ranges with nothing open between them become one.
    fn mark_ahead(&mut self, seq: Seq) {
        let Some(&lowest) = self.open.first() else {
            self.ahead.clear();
            return;
        };
        if lowest > seq {
            // The cursor has moved up to `lowest`: ranges before it say nothing any more.
            self.ahead = self.ahead.split_off(&lowest);
            return;
        }
        let (mut start, mut end) = (seq, seq);
        if let Some((&before_start, &before_end)) = self.ahead.range(..=seq).next_back()
            && self.open.range(before_end.min(seq)..seq).next().is_none()
        {
            start = before_start;
            end = end.max(before_end);
        }
        if let Some((&after_start, &after_end)) = self.ahead.range(seq.next()..).next()
            && self.open.range(seq..after_start).next().is_none()
        {
            end = end.max(after_end);
            self.ahead.remove(&after_start);
        }
        self.ahead.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ahead(progress: &Progress) -> Vec<(u64, u64)> {
        progress.position().ahead.into_iter().map(|(start, end)| (start.0, end.0)).collect()
    }

    fn opened(seqs: impl IntoIterator<Item = u64>) -> Progress {
        let mut progress = Progress::at(Position::at(Seq::ZERO));
        seqs.into_iter().for_each(|seq| progress.open(Seq(seq), 1));
        progress
    }

    #[test]
    fn ranges_with_nothing_open_between_them_become_one() {
        let mut progress = opened([1, 2, 5, 9]);
        progress.close(Seq(2), 1);
        progress.close(Seq(9), 1);
        assert_eq!(ahead(&progress), [(2, 2), (9, 9)], "5 is open");
        progress.close(Seq(5), 1);
        assert_eq!(ahead(&progress), [(2, 9)], "3, 4 and 6 to 8 do not match");
        progress.close(Seq(1), 1);
        assert_eq!(progress.position(), Position::at(Seq(9)));
    }

    #[test]
    fn the_cursor_leaves_the_ranges_before_it_behind() {
        let mut progress = opened([1, 2, 3, 4]);
        progress.close(Seq(2), 1);
        progress.close(Seq(4), 1);
        progress.close(Seq(1), 1);
        assert_eq!(progress.position(), Position { cursor: Seq(2), ahead: vec![(Seq(4), Seq(4))] });
    }

    #[test]
    fn what_an_earlier_life_settled_ahead_is_told_until_it_is_read_over() {
        let earlier = Position { cursor: Seq(3), ahead: vec![(Seq(5), Seq(8))] };
        let mut progress = Progress::at(earlier.clone());
        assert_eq!(progress.position(), earlier);
        progress.open(Seq(4), 1);
        progress.pass_known(Seq(6));
        assert_eq!(ahead(&progress), [(6, 6), (7, 8)]);
        progress.pass(Seq(8));
        progress.close(Seq(4), 1);
        assert_eq!(progress.position(), Position::at(Seq(8)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A position comes, after a gap of some that do not match.
        Open {
            gap: u64,
        },
        Close(prop::sample::Index),
        Pass {
            gap: u64,
        },
        /// Back to the cursor; everything is offered again.
        Rewind,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0_u64..3).prop_map(|gap| Step::Open { gap }),
            5 => any::<prop::sample::Index>().prop_map(Step::Close),
            1 => (1_u64..3).prop_map(|gap| Step::Pass { gap }),
            1 => Just(Step::Rewind),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_position_covers_what_is_closed_and_nothing_that_is_open(steps in prop::collection::vec(step(), 1..80)) {
            let mut progress = Progress::at(Position::at(Seq::ZERO));
            // Which positions match, and which of those are closed; the first is 1.
            let (mut matching, mut closed, mut head) = (Vec::new(), BTreeSet::new(), 0);
            for step in steps {
                match step {
                    Step::Open { gap } => {
                        head += gap + 1;
                        matching.push(head);
                        progress.open(Seq(head), 10);
                    }
                    Step::Close(at) => {
                        let open: Vec<Seq> = progress.window().collect();
                        if !open.is_empty() {
                            let seq = *at.get(&open);
                            progress.close(seq, 10);
                            closed.insert(seq.0);
                        }
                    }
                    Step::Pass { gap } => {
                        head += gap;
                        progress.pass(Seq(head));
                    }
                    Step::Rewind => {
                        progress.rewind();
                        let from = progress.seen();
                        for seq in matching.iter().copied().filter(|seq| *seq > from.0) {
                            if progress.was_settled(Seq(seq)) {
                                progress.pass_known(Seq(seq));
                            } else {
                                progress.open(Seq(seq), 10);
                            }
                        }
                        progress.pass(Seq(head));
                    }
                }
                let position = progress.position();
                for seq in &matching {
                    prop_assert_eq!(position.covers(Seq(*seq)), closed.contains(seq), "{} in {:?}", seq, position);
                }
                let mut after = position.cursor;
                for (start, end) in &position.ahead {
                    prop_assert!(*start > after && end >= start, "{:?} is not ascending", position);
                    after = *end;
                }
                prop_assert_eq!(progress.window_events(), matching.len() - closed.len());
                prop_assert_eq!(progress.window_bytes(), progress.window_events() * 10);
            }
        }
    }
}
