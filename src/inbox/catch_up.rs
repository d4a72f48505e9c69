//! Reading the log for a consumer that is behind: from the tail where it still holds the place, else from the store, in
//! a lane that few can be in at a time, so that live traffic goes first.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::event::envelope::Event;
use crate::event::filter::{Decision, EventFilter};
use crate::ground::ids::Seq;
use crate::outbox::Tail;
use crate::store::{EventLog, ReadLimits, StoreError};

/// Events looked at in one reading.
const SCAN_EVENTS: usize = 1_024;
/// Bytes looked at in one reading.
const SCAN_BYTES: usize = 4 << 20;

/// Reads for those who are behind. Shared.
#[derive(Clone)]
pub struct LogReader {
    log: Arc<dyn EventLog>,
    tail: Arc<Tail>,
    lane: Arc<Semaphore>,
}

/// What one reading found.
#[derive(Debug)]
pub struct Chunk {
    /// The events that match, in order.
    pub events: Vec<Arc<Event>>,
    /// Everything up to here was looked at.
    pub upto: Seq,
    /// Positions that retention has dropped: `from` up to this one, exclusive. None when there is no gap.
    pub gap_to: Option<Seq>,
}

impl LogReader {
    /// A reader with this many places in its lane.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, tail: Arc<Tail>, readers: usize) -> Self {
        Self { log, tail, lane: Arc::new(Semaphore::new(readers.max(1))) }
    }

    /// The last position of the log.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.log.head()
    }

    /// Looks at the events from `from` to at most `upto`.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub async fn read(&self, filter: Arc<EventFilter>, from: Seq, upto: Seq) -> Result<Chunk, StoreError> {
        if let Some(events) = self.tail.read(from, SCAN_EVENTS) {
            return Ok(chunk(&filter, events, from, upto, upto));
        }
        let Ok(_place) = self.lane.acquire().await else { return Err(StoreError::Unavailable) };
        let log = Arc::clone(&self.log);
        blocking(move || {
            let upto = upto.min(log.head());
            let earliest = log.earliest();
            let start = from.max(earliest);
            let events = log.read(start, ReadLimits { events: SCAN_EVENTS, bytes: SCAN_BYTES, upto })?;
            // Retention may have gone on since `earliest` was read: the first event tells.
            let first = events.first().map_or(start, |event| event.seq);
            let mut found = chunk(&filter, events, start, upto, upto);
            found.gap_to = (first > from).then_some(first);
            Ok(found)
        })
        .await
    }

    /// The events at these positions; those that retention has dropped are left out.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub async fn fetch(&self, seqs: Vec<Seq>) -> Result<Vec<Arc<Event>>, StoreError> {
        let log = Arc::clone(&self.log);
        blocking(move || {
            let mut events = Vec::with_capacity(seqs.len());
            for seq in seqs {
                events.extend(log.get(seq)?);
            }
            Ok(events)
        })
        .await
    }
}

/// Runs store work off the async threads: a flush beside it can take hundreds of milliseconds.
///
/// # Errors
/// Those of the work; [`StoreError::Engine`] when it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Corrupt {
            what: "store work".to_owned(),
            source: crate::ground::codec::CodecError::Payload(error.to_string()),
        }),
    }
}

fn chunk(filter: &EventFilter, mut events: Vec<Arc<Event>>, from: Seq, upto: Seq, none_upto: Seq) -> Chunk {
    events.retain(|event| event.seq <= upto);
    let read_to = events.last().map_or(none_upto.max(from.prev()), |event| event.seq);
    events.retain(|event| filter.decide(&event.meta) == Decision::Match);
    Chunk { events, upto: read_to, gap_to: None }
}
