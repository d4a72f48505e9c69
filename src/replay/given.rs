//! Which positions of a range a consumer was given before, by its attempt records: one bit each.

use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Seq};
use crate::store::records::PageKey;
use crate::store::{ConsumerState, StoreError};

/// Most positions of a range: 8 MiB of bits.
pub const RANGE_MAX: u64 = 1 << 26;
/// Pages of attempts read at once.
const PAGES: usize = 32;

/// The positions found so far, and where the search goes on: from the newest attempts back.
#[derive(Debug)]
pub(super) struct Given {
    first: Seq,
    bits: Vec<u64>,
    before: Option<PageKey>,
    /// Attempts before this are not of the range.
    since: UnixMs,
}

impl Given {
    /// Nothing found yet of the positions from `first` to `last`, the first of which was received at `since`.
    pub(super) fn new(first: Seq, last: Seq, since: UnixMs) -> Self {
        let positions = last.0.saturating_sub(first.0).min(RANGE_MAX) + 1;
        let words = usize::try_from(positions.div_ceil(64)).unwrap_or(0);
        Self { first, bits: vec![0; words], before: Some(PageKey::MAX), since }
    }

    fn place(&self, seq: Seq) -> Option<(usize, u64)> {
        let at = seq.0.checked_sub(self.first.0)?;
        let word = usize::try_from(at / 64).ok().filter(|word| *word < self.bits.len())?;
        Some((word, 1 << (at % 64)))
    }

    fn add(&mut self, seq: Seq) {
        if let Some((word, bit)) = self.place(seq) {
            self.bits[word] |= bit;
        }
    }

    /// Whether everything was found.
    pub(super) fn is_complete(&self) -> bool {
        self.before.is_none()
    }

    /// Whether the consumer was given this.
    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.place(seq).is_some_and(|(word, bit)| self.bits[word] & bit != 0)
    }

    /// Reads a few pages of attempts. Blocks.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) fn look(&mut self, state: &dyn ConsumerState, consumer: &ConsumerId) -> Result<(), StoreError> {
        let Some(before) = self.before else { return Ok(()) };
        let pages = state.attempts(consumer, before, PAGES)?;
        let oldest = pages.last().map(|(key, _)| *key);
        for (_, page) in pages {
            page.attempts.iter().for_each(|attempt| self.add(attempt.seq));
        }
        self.before = oldest.filter(|key| key.at_ms >= self.since.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fake::FakeStore;
    use crate::store::{AttemptPage, AttemptRecord, Durability, StateOp};

    fn page(at_ms: u64, seqs: &[u64]) -> AttemptPage {
        let attempt = |seq: &u64| AttemptRecord {
            seq: Seq(*seq),
            event_id: String::new(),
            attempt: 1,
            at: UnixMs(at_ms),
            latency_ms: 1,
            outcome: "delivered".to_owned(),
            status: None,
            error: None,
            snippet: String::new(),
            next_try_at: None,
        };
        AttemptPage { attempts: seqs.iter().map(attempt).collect() }
    }

    #[test]
    fn positions_of_every_page_within_the_range_are_found_and_no_others() {
        let (store, consumer) = (FakeStore::new(100), ConsumerId::new("whk_a"));
        let mut truth = Vec::new();
        for n in 0..200_u64 {
            let seqs = [n * 3 + 1, n * 3 + 1, 100_000 + n];
            truth.push(n * 3 + 1);
            let ops = vec![
                StateOp::Attempts(consumer.clone(), page(1_000 + n, &seqs)),
                StateOp::Attempts(ConsumerId::new("whk_b"), page(1_000 + n, &[n * 3 + 2])),
            ];
            store.commit(ops, Durability::Synced).expect("commits");
        }
        let mut given = Given::new(Seq(31), Seq(500), UnixMs(1_010));
        let mut looks = 0;
        while !given.is_complete() {
            given.look(&*store, &consumer).expect("reads");
            looks += 1;
            assert!(looks < 20, "the search comes to its end");
        }
        for seq in 1..700 {
            let wanted = (31..=500).contains(&seq) && truth.contains(&seq);
            // The last word of the bits reaches a little further; the range ends before.
            assert!(given.contains(Seq(seq)) == wanted || seq > 500, "{seq}");
        }
    }
}
