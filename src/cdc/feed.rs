//! Reading a feed: from the tail where it still holds the place, else along the index of the log, few at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::cursor::Cursor;
use super::filter::FeedFilter;
use super::start::Start;
use crate::config::Cdc;
use crate::event::envelope::Event;
use crate::event::redact::{Audience, Redactor};
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::lookup::{Finder, WalkLimits, Wanted};
use crate::outbox::Tail;
use crate::store::{StoreError, blocking};

/// Events read for one reading; it may end early when few fit.
const READ_EVENTS_MAX: usize = 20_000;
/// Bytes of bodies in one page, besides at least one event.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Events and bytes of one piece of a stream: what a reader that has stopped reading holds.
const PIECE: (usize, usize) = (128, 256 << 10);
/// Events of the tail looked at in one reading.
const TAIL_EVENTS: usize = 1_024;
/// Rows of the index looked at in one reading.
const ROWS_MAX: usize = 4_096;

/// What one reading has found.
#[derive(Debug)]
pub struct Chunk {
    /// The events, in order.
    pub events: Vec<Arc<Event>>,
    /// Where the next reading begins.
    pub next: Seq,
    /// Whether the log goes on after that.
    pub has_more: bool,
    /// Positions that retention has dropped: from where the reading began up to this one, exclusive.
    pub gap_to: Option<Seq>,
}

impl Chunk {
    /// The same as the readers of the feed may see it (EVT-4). What they asked for was decided on the originals.
    #[must_use]
    pub fn redacted(mut self, redactor: &Redactor) -> Self {
        for event in &mut self.events {
            *event = redactor.shown(event, Audience::Cdc);
        }
        self
    }
}

/// How much is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A page of at most so many events.
    Page(usize),
    /// A piece of a stream.
    Piece,
}

impl Reading {
    fn limits(self) -> WalkLimits {
        let (found, bytes) = match self {
            Self::Page(limit) => (limit, PAGE_BYTES_MAX),
            Self::Piece => PIECE,
        };
        WalkLimits { found, events: READ_EVENTS_MAX, bytes, rows: ROWS_MAX }
    }
}

/// Everything a feed is read from. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    finder: Finder,
    tail: Arc<Tail>,
    lane: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    streams_max: usize,
    heartbeat: Duration,
}

/// A stream that is counted as long as this lives.
#[derive(Debug)]
pub struct StreamPlace(#[expect(dead_code, reason = "it is held, not looked at")] OwnedSemaphorePermit);

impl Feed {
    /// A feed over the log.
    #[must_use]
    pub fn new(finder: Finder, tail: Arc<Tail>, settings: &Cdc) -> Self {
        Self {
            finder,
            tail,
            lane: Arc::new(Semaphore::new(settings.readers)),
            streams: Arc::new(Semaphore::new(settings.streams_max)),
            streams_max: settings.streams_max,
            heartbeat: Duration::from_millis(settings.heartbeat_ms),
        }
    }

    /// How long a stream is silent at most.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Streams that are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams_max - self.streams.available_permits()
    }

    /// A place for one more stream.
    ///
    /// # Errors
    /// [`ProblemKind::Overloaded`] when as many are open as may be.
    pub fn open_stream(&self) -> Result<StreamPlace, Problem> {
        match Arc::clone(&self.streams).try_acquire_owned() {
            Ok(permit) => Ok(StreamPlace(permit)),
            Err(_) => {
                let text = format!("{} streams are open, which is the most (cdc.streams_max)", self.streams_max);
                Err(Problem::new(ProblemKind::Overloaded, text).retry_after(5))
            }
        }
    }

    /// Tells of each growth of the log.
    #[must_use]
    pub fn growth(&self) -> watch::Receiver<Seq> {
        self.tail.growth()
    }

    /// Where a feed begins. Blocks for [`Start::Time`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn place(&self, start: Start) -> Result<Seq, StoreError> {
        let log = self.finder.log();
        match start {
            Start::Earliest => Ok(log.earliest()),
            Start::Latest => Ok(log.head().next()),
            Start::Seq(seq) => Ok(seq),
            Start::Time(time) => self.first_since(time).await,
        }
    }

    async fn first_since(&self, time: UnixMs) -> Result<Seq, StoreError> {
        let mut at = self.finder.log().earliest();
        let limits = WalkLimits { found: 1, events: READ_EVENTS_MAX, bytes: PAGE_BYTES_MAX, rows: ROWS_MAX };
        loop {
            let Ok(_place) = self.lane.acquire().await else { return Err(StoreError::Unavailable) };
            let finder = self.finder.clone();
            let walked = blocking(move || {
                let wanted = Wanted::default().within(Some(time), None);
                finder.walk(wanted, at, Seq(u64::MAX), limits, |event| event.received_at >= time)
            });
            let walked = walked.await?;
            if let Some(first) = walked.events.first() {
                return Ok(first.seq);
            }
            at = walked.upto.next();
            if at > self.finder.log().head() {
                return Ok(at);
            }
        }
    }

    /// Looks at the log from `from` on.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub async fn read(&self, filter: &Arc<FeedFilter>, from: Seq, reading: Reading) -> Result<Chunk, StoreError> {
        let log = self.finder.log();
        if let Some(events) = self.tail.read(from, TAIL_EVENTS) {
            return Ok(of_tail(filter, events, from, reading, log.head()));
        }
        if from > log.head() {
            return Ok(Chunk { events: Vec::new(), next: from, has_more: false, gap_to: None });
        }
        let Ok(_place) = self.lane.acquire().await else { return Err(StoreError::Unavailable) };
        let (finder, wanted) = (self.finder.clone(), Arc::clone(filter));
        let walked = blocking(move || {
            finder.walk(wanted.wanted(), from, Seq(u64::MAX), reading.limits(), |event| wanted.matches(event))
        });
        let walked = walked.await?;
        let next = walked.upto.next();
        Ok(Chunk { events: walked.events, next, has_more: next <= log.head(), gap_to: walked.gap_to })
    }
}

/// What a run of the tail has of a feed.
fn of_tail(filter: &FeedFilter, events: Vec<Arc<Event>>, from: Seq, reading: Reading, head: Seq) -> Chunk {
    let WalkLimits { found, bytes, .. } = reading.limits();
    let mut chunk = Chunk { events: Vec::new(), next: from, has_more: false, gap_to: None };
    let mut taken = 0;
    for event in events {
        if chunk.events.len() >= found || taken >= bytes {
            break;
        }
        chunk.next = event.seq.next();
        if filter.matches(&event) {
            taken += event.body.len();
            chunk.events.push(event);
        }
    }
    chunk.has_more = chunk.next <= head;
    chunk
}

/// The position that was asked for is gone: a page of a feed that would leave something out is not given (CDC-2).
#[must_use]
pub fn gone(from: Seq, gap_to: Seq, filter: &FeedFilter) -> Problem {
    let text = format!("the positions {from} to {} are no longer in the log; go on from the earliest", gap_to.prev());
    Problem::new(ProblemKind::Gone, text)
        .with("earliest_cursor", Cursor { next: gap_to }.to_text(filter))
        .with("earliest_seq", gap_to.0)
        .with("asked_seq", from.0)
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
