//! Walking along the index: which positions may hold what is wanted.

use std::sync::Arc;

use super::block::Block;
use super::summary::Summary;
use super::wanted::Wanted;
use crate::ground::codec::CodecError;
use crate::ground::ids::Seq;
use crate::store::{EventLog, IndexLevel, IndexRow, LogIndex, StoreError};

/// Positions between two candidates that are read with them: looking a place up costs about as much as reading this many.
const JOIN_GAP: u64 = 4;

/// A run of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub from: Seq,
    /// The last.
    pub upto: Seq,
}

/// What one step of a search tells: between the last stretch and `upto`, only these positions may hold what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where to look, ascending.
    pub spans: Vec<Span>,
    /// The last position it is about.
    pub upto: Seq,
}

/// The log with its index. Cheap to clone.
#[derive(Clone)]
pub struct Finder {
    log: Arc<dyn EventLog>,
    index: Arc<dyn LogIndex>,
}

impl Finder {
    /// Over a log and its index.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, index: Arc<dyn LogIndex>) -> Self {
        Self { log, index }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// A search of the positions from `from` to `upto`, or to the head. Its steps block.
    #[must_use]
    pub fn search(&self, wanted: Wanted, from: Seq, upto: Seq) -> Search<'_> {
        let upto = upto.min(self.log.head());
        Search { index: &*self.index, wanted, at: from, upto, group: None, probes: 0 }
    }
}

/// A search under way.
pub struct Search<'a> {
    index: &'a dyn LogIndex,
    wanted: Wanted,
    at: Seq,
    upto: Seq,
    /// The group that was looked at last, and may hold what is wanted.
    group: Option<IndexRow>,
    probes: usize,
}

impl Search<'_> {
    /// Index rows looked at so far.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.probes
    }

    /// The next stretch; none when everything was looked at. One step looks at no more than two rows.
    ///
    /// # Errors
    /// When the store fails.
    pub fn next_stretch(&mut self) -> Result<Option<Stretch>, StoreError> {
        if self.at > self.upto {
            return Ok(None);
        }
        if self.wanted.is_everything() {
            return Ok(Some(self.told(self.upto, vec![Span { from: self.at, upto: self.upto }])));
        }
        let group = IndexRow::holding(IndexLevel::Group, self.at);
        if self.group != Some(group) {
            self.probes += 1;
            let summary = read(self.index, group, Summary::decode)?;
            if summary.is_some_and(|summary| !summary.may_hold(&self.wanted)) {
                return Ok(Some(self.told(group.last(), Vec::new())));
            }
            self.group = Some(group);
        }
        let row = IndexRow::holding(IndexLevel::Block, self.at);
        self.probes += 1;
        let places = read(self.index, row, |record| Ok(Block::read(record)?.candidates(&self.wanted)))?;
        let (from, upto) = (self.at, row.last().min(self.upto));
        let spans = match places {
            Some(places) => {
                let seqs = places.iter().map(|place| Seq(row.first().0 + place));
                joined(seqs.filter(|seq| *seq >= from && *seq <= upto))
            }
            None => vec![Span { from, upto }],
        };
        Ok(Some(self.told(upto, spans)))
    }

    fn told(&mut self, upto: Seq, spans: Vec<Span>) -> Stretch {
        let upto = upto.min(self.upto);
        self.at = upto.next();
        Stretch { spans, upto }
    }
}

/// What a row says; none when it is missing, or damaged, which is as good as missing (LK-3).
fn read<T>(
    index: &dyn LogIndex,
    row: IndexRow,
    decode: impl FnOnce(&[u8]) -> Result<T, CodecError>,
) -> Result<Option<T>, StoreError> {
    let Some(record) = index.row(row)? else { return Ok(None) };
    match decode(&record) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::warn!(%error, first = row.first().0, last = row.last().0, "a row of the log's index is damaged; reading the log instead");
            Ok(None)
        }
    }
}

/// The positions as spans, those close together in one.
fn joined(seqs: impl Iterator<Item = Seq>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for seq in seqs {
        match spans.last_mut() {
            Some(span) if seq.0 - span.upto.0 <= JOIN_GAP => span.upto = seq,
            Some(_) | None => spans.push(Span { from: seq, upto: seq }),
        }
    }
    spans
}
