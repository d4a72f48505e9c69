//! Following the log: one block a step, from where the newest row ends.

use std::sync::Arc;

use super::block::{self, Block};
use super::summary::Summary;
use crate::event::envelope::Event;
use crate::ground::ids::Seq;
use crate::outbox::Tail;
use crate::store::{EventLog, IndexLevel, IndexRow, LogIndex, ReadLimits, StoreError};

/// Bytes of bodies read at once, when the tail has moved past a block.
const READ_BYTES: usize = 4 << 20;

/// Where the events of a block came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// They were still in memory.
    Tail,
    /// They were read from the store.
    Log,
}

/// What one step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// A block was written.
    Wrote { upto: Seq, from: Source },
    /// A block holds a damaged record; it is left without a row (LK-3).
    PassedOver { upto: Seq },
    /// Every complete block has been written.
    UpToDate { upto: Seq },
}

/// Writes the index. Its place is read from the store at the first step, and again after a failure.
pub(super) struct Follower {
    log: Arc<dyn EventLog>,
    index: Arc<dyn LogIndex>,
    tail: Arc<Tail>,
    next: Option<IndexRow>,
    dropped_before: Seq,
}

impl Follower {
    pub(super) fn new(log: Arc<dyn EventLog>, index: Arc<dyn LogIndex>, tail: Arc<Tail>) -> Self {
        Self { log, index, tail, next: None, dropped_before: Seq::ZERO }
    }

    /// Drops rows of what retention has dropped, and writes the next block if it is complete. Blocks.
    ///
    /// # Errors
    /// When the store fails; the next step begins from what is stored.
    pub(super) fn step(&mut self) -> Result<Done, StoreError> {
        let done = self.try_step();
        if done.is_err() {
            self.next = None;
        }
        done
    }

    fn try_step(&mut self) -> Result<Done, StoreError> {
        let earliest = self.log.earliest();
        if earliest > self.dropped_before {
            for level in IndexLevel::ALL {
                self.index.drop_rows(level, earliest)?;
            }
            self.dropped_before = earliest;
        }
        let next = match self.next {
            Some(next) => next,
            None => self.resume()?,
        };
        let next = next.max(IndexRow::holding(IndexLevel::Block, earliest));
        self.next = Some(next);
        if next.last() > self.log.head() {
            return Ok(Done::UpToDate { upto: next.first().prev() });
        }
        let done = match self.events(next, earliest) {
            Ok((events, from)) => {
                self.index.put_row(next, &block::build(next, &events))?;
                self.summarise(next, earliest)?;
                Done::Wrote { upto: next.last(), from }
            }
            Err(StoreError::Corrupt { what, source }) => {
                tracing::error!(what, %source, first = next.first().0, last = next.last().0, "a block of the log stays without its index row");
                Done::PassedOver { upto: next.last() }
            }
            Err(error) => return Err(error),
        };
        self.next = Some(next.next());
        Ok(done)
    }

    /// The row after the newest one. The end may have come between the last block of a group and its summary.
    fn resume(&self) -> Result<IndexRow, StoreError> {
        let Some(newest) = self.index.newest_row(IndexLevel::Block)? else {
            return Ok(IndexRow { level: IndexLevel::Block, number: 0 });
        };
        let group = IndexRow::holding(IndexLevel::Group, newest.last());
        if self.index.row(group)?.is_none() {
            self.summarise(newest, self.log.earliest())?;
        }
        Ok(newest.next())
    }

    /// The events of a block, from `earliest` on.
    fn events(&self, row: IndexRow, earliest: Seq) -> Result<(Vec<Arc<Event>>, Source), StoreError> {
        let from = row.first().max(earliest).max(Seq(1));
        let count = (row.last().0 - from.0 + 1) as usize;
        if let Some(events) = self.tail.read(from, count).filter(|events| events.len() == count) {
            return Ok((events, Source::Tail));
        }
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(count);
        let mut at = from;
        while at <= row.last() {
            let limits = ReadLimits { events: count, bytes: READ_BYTES, upto: row.last() };
            let read = self.log.read(at, limits)?;
            // Retention has gone on meanwhile: what it dropped does not come back.
            let Some(last) = read.last() else { break };
            at = last.seq.next();
            events.extend(read);
        }
        Ok((events, Source::Log))
    }

    /// Writes the summary of a group, when `last` is its last block and all its other blocks have their rows.
    fn summarise(&self, last: IndexRow, earliest: Seq) -> Result<(), StoreError> {
        let group = IndexRow::holding(IndexLevel::Group, last.last());
        if last.last() != group.last() {
            return Ok(());
        }
        let mut summary = Summary::default();
        let mut row = IndexRow::holding(IndexLevel::Block, group.first().max(earliest));
        while row <= last {
            let Some(record) = self.index.row(row)? else { return Ok(()) };
            match Block::read(&record) {
                Ok(block) => summary.add(&block),
                // The search says so whenever it comes across it.
                Err(_) => return Ok(()),
            }
            row = row.next();
        }
        let record = summary
            .encode()
            .map_err(|source| StoreError::Corrupt { what: "a new summary of the log's index".to_owned(), source })?;
        self.index.put_row(group, &record)
    }
}
