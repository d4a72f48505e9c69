//! The job that exports: reads the log below live traffic, one part at a time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::part::{PartWriter, list_part, settle};
use super::spec::{ExportPlace, ExportSpec, Gap, Stopped};
use crate::bulk::folder::make_dir;
use crate::bulk::{Bulk, again};
use crate::event::envelope::Event;
use crate::event::redact::Audience;
use crate::event::render;
use crate::ground::ids::Seq;
use crate::job::{JobWork, Next, Progress, StepError, StepOutcome};
use crate::lookup::WalkLimits;
use crate::store::StoreError;

/// What one reading of the log may do.
const LIMITS: WalkLimits = WalkLimits { found: usize::MAX, events: 1_024, bytes: 4 << 20, rows: 512 };
/// Readings of one step.
const READINGS: usize = 4;
/// Most parts of one export.
const PARTS_MAX: u32 = 100_000;
/// Waits for room among the exports on disk before an export ends with what it has.
const ROOM_WAITS_MAX: u32 = 60;
/// What it waits for then.
const NO_SPACE: &str = "the disk has less free space than its floor";
const NO_ROOM: &str = "the exports on disk have as many bytes as they may (bulk.exports_bytes_max)";

/// What a running export has done since its last part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Positions looked at.
    pub looked_at: u64,
    /// Events written.
    pub events: u64,
    /// Bytes written, before they are packed.
    pub plain_bytes: u64,
}

/// The work of one export.
pub struct ExportWork {
    bulk: Arc<Bulk>,
    job: String,
    spec: Arc<ExportSpec>,
    /// What follows the last part that counts.
    open: Option<Open>,
    /// What a crash left behind is removed.
    settled: bool,
    room_waits: u32,
}

/// A part under way, and what was read for it.
struct Open {
    writer: Option<PartWriter>,
    /// Everything up to here is in it.
    at: Seq,
    /// Events that fit after that, up to `read_upto`.
    pending: VecDeque<Arc<Event>>,
    read_upto: Seq,
    gaps: Vec<Gap>,
}

/// What came of one reading.
enum Pass {
    /// More is to be read.
    Open(Box<Open>),
    /// The part is full, or the range has ended. What was read after it begins the next.
    Ended(Box<Open>),
}

impl ExportWork {
    /// The work of an export.
    #[must_use]
    pub fn new(bulk: Arc<Bulk>, job: String, spec: ExportSpec) -> Self {
        Self { bulk, job, spec: Arc::new(spec), open: None, settled: false, room_waits: 0 }
    }

    async fn take_step(&mut self, cursor: Option<&str>) -> Result<StepOutcome, StepError> {
        let place = ExportPlace::read(cursor, &self.spec)
            .map_err(|error| StepError::Fatal(format!("the cursor is none of an export: {error}")))?;
        if place.stopped.is_some() || (place.at >= self.spec.to && place.parts > 0) {
            return outcome(place, Progress::default(), Next::Done);
        }
        if let Some(waits) = self.wait_for_room(&place).await? {
            return Ok(waits);
        }
        if self.room_waits > ROOM_WAITS_MAX || self.is_too_large(&place) {
            return outcome(ExportPlace { stopped: Some(Stopped::NoRoom), ..place }, Progress::default(), Next::Done);
        }
        if place.parts >= PARTS_MAX {
            return outcome(ExportPlace { stopped: Some(Stopped::PartsMax), ..place }, Progress::default(), Next::Done);
        }
        if !self.settled {
            self.settle(&place).await?;
        }
        let mut open = self.open.take().unwrap_or_else(|| Open::after(place.at));
        for _ in 0..READINGS {
            match self.pass(open, &place).await? {
                Pass::Open(more) => open = *more,
                Pass::Ended(ended) => return self.finish_part(place, *ended).await,
            }
        }
        self.tell(&place, &open);
        self.open = Some(open);
        let cursor = cursor.map(str::to_owned);
        Ok(StepOutcome { cursor, gained: Progress::default(), next: Next::GoOn })
    }

    /// A pause, when the disk is nearly full or the exports on it are too many.
    async fn wait_for_room(&mut self, place: &ExportPlace) -> Result<Option<StepOutcome>, StepError> {
        let waits = |reason| {
            let cursor = (place.parts > 0).then(|| text_of(place)).transpose()?;
            Ok(Some(StepOutcome { cursor, gained: Progress::default(), next: Next::Wait { reason } }))
        };
        let (bulk, part_bytes) = (Arc::clone(&self.bulk), self.spec.part_bytes);
        match blocking(move || Ok(bulk.check_space(part_bytes.min(64 << 20)))).await? {
            Ok(()) => {}
            Err(StoreError::DiskFull { .. }) => return waits(NO_SPACE),
            Err(error) => return Err(StepError::Again(error.to_string())),
        }
        if self.is_between_parts() && self.bulk.exports_are_full() && self.room_waits <= ROOM_WAITS_MAX {
            self.room_waits += 1;
            // Finished exports go first: whoever tidies up is told.
            self.bulk.tidy.notify_one();
            return waits(NO_ROOM);
        }
        Ok(None)
    }

    fn is_between_parts(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.writer.is_none())
    }

    /// One export may have half of what all of them may.
    fn is_too_large(&self, place: &ExportPlace) -> bool {
        self.is_between_parts() && place.bytes >= self.bulk.settings().exports_bytes_max / 2
    }

    /// Makes the folder, and removes what no cursor names.
    async fn settle(&mut self, place: &ExportPlace) -> Result<(), StepError> {
        let (dir, parts, compression) = (self.bulk.export_dir(&self.job), place.parts, self.spec.compression);
        blocking(move || {
            make_dir(&dir).map_err(again("the folder of the export"))?;
            settle(&dir, parts, compression).map_err(again("the folder of the export"))
        })
        .await?;
        self.settled = true;
        Ok(())
    }

    /// One reading of the log, in the lane of exports, and what fits written.
    async fn pass(&self, open: Open, place: &ExportPlace) -> Result<Pass, StepError> {
        let Ok(_turn) = self.bulk.lane.acquire().await else { return Err(StepError::Again("the hub ends".to_owned())) };
        let (bulk, spec, job) = (Arc::clone(&self.bulk), Arc::clone(&self.spec), self.job.clone());
        let (part, after) = (place.parts + 1, place.at);
        blocking(move || open.pass(&bulk, &spec, &job, part, after)).await
    }

    /// Ends a part and lists it; it counts when the cursor that this answers with is saved (BK-1).
    async fn finish_part(&mut self, mut place: ExportPlace, open: Open) -> Result<StepOutcome, StepError> {
        let Open { writer, at, pending, read_upto, gaps } = open;
        let Some(writer) = writer else { return Err(StepError::Again("no part was begun".to_owned())) };
        let (dir, list_bytes) = (self.bulk.export_dir(&self.job), place.list_bytes);
        let (record, list_bytes) = blocking(move || {
            let record = writer.finish().map_err(again("a part"))?;
            let list_bytes = list_part(&dir, list_bytes, &record).map_err(again("the list of parts"))?;
            Ok((record, list_bytes))
        })
        .await?;
        self.bulk.add_export_bytes(record.bytes);
        self.bulk.live.remove(&self.job);
        for gap in &gaps {
            tracing::warn!(
                job = self.job,
                from = gap.from.0,
                to = gap.to.0,
                "retention has dropped events before they were exported"
            );
            place.add_gap(*gap);
        }
        let gained = Progress {
            looked_at: at.0.saturating_sub(place.at.0),
            matched: record.events,
            handed_on: record.events,
            ..Progress::default()
        };
        place.at = at;
        place.parts = record.part;
        place.list_bytes = list_bytes;
        place.events += record.events;
        place.bytes += record.bytes;
        self.room_waits = 0;
        self.open = Some(Open { writer: None, at, pending, read_upto, gaps: Vec::new() });
        let next = if place.at >= self.spec.to { Next::Done } else { Next::GoOn };
        outcome(place, gained, next)
    }

    fn tell(&self, place: &ExportPlace, open: &Open) {
        let looked_at = open.at.0.saturating_sub(place.at.0);
        let (events, plain_bytes) =
            open.writer.as_ref().map_or((0, 0), |writer| (writer.events(), writer.plain_bytes()));
        self.bulk.live.insert(self.job.clone(), Live { looked_at, events, plain_bytes });
    }
}

impl Drop for ExportWork {
    fn drop(&mut self) {
        self.bulk.live.remove(&self.job);
    }
}

impl Open {
    fn after(at: Seq) -> Self {
        Self { writer: None, at, pending: VecDeque::new(), read_upto: at, gaps: Vec::new() }
    }

    fn pass(mut self, bulk: &Bulk, spec: &ExportSpec, job: &str, part: u32, after: Seq) -> Result<Pass, StepError> {
        if self.writer.is_none() {
            let header = spec.header(job, part, after, bulk.clock.now());
            let dir = bulk.export_dir(job);
            self.writer = Some(begin(&dir, part, spec, &header)?);
        }
        if self.pending.is_empty() && self.read_upto < spec.to {
            self.read(bulk, spec)?;
        }
        let Some(writer) = self.writer.as_mut() else { return Err(StepError::Again("no part was begun".to_owned())) };
        while let Some(event) = self.pending.front() {
            let line = line_of(&bulk.redactor.shown(event, Audience::Export));
            let full = writer.plain_bytes() + line.len() as u64 + 1 > spec.part_bytes;
            if full && writer.events() > 0 {
                return Ok(Pass::Ended(Box::new(self)));
            }
            writer.event(event.seq, &line).map_err(again("a part"))?;
            self.at = event.seq;
            self.pending.pop_front();
        }
        self.at = self.read_upto;
        if self.at >= spec.to { Ok(Pass::Ended(Box::new(self))) } else { Ok(Pass::Open(Box::new(self))) }
    }

    fn read(&mut self, bulk: &Bulk, spec: &ExportSpec) -> Result<(), StepError> {
        let from = self.read_upto.next();
        let walked = bulk.finder.walk(spec.wanted(), from, spec.to, LIMITS, |event| spec.fits(event));
        let walked = walked.map_err(|error| match error {
            StoreError::Corrupt { .. } => StepError::Fatal(error.to_string()),
            other => StepError::Again(other.to_string()),
        })?;
        if let Some(gap_to) = walked.gap_to {
            self.gaps.push(Gap { from, to: gap_to.prev() });
        }
        // Nothing is left to read when the walk has not moved.
        self.read_upto = if walked.upto < from { spec.to } else { walked.upto.min(spec.to) };
        self.pending = walked.events.into();
        Ok(())
    }
}

fn begin(dir: &Path, part: u32, spec: &ExportSpec, header: &[u8]) -> Result<PartWriter, StepError> {
    PartWriter::begin(dir, part, spec.compression, header).map_err(again("a part"))
}

/// The event as a line: its envelope as it was shown. Outside of texts a line break is white space, and within a text
/// JSON has none.
fn line_of(event: &Event) -> Vec<u8> {
    let mut line = render::envelope(event);
    line.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line
}

fn text_of(place: &ExportPlace) -> Result<String, StepError> {
    serde_json::to_string(place).map_err(|error| StepError::Fatal(error.to_string()))
}

fn outcome(place: ExportPlace, gained: Progress, next: Next) -> Result<StepOutcome, StepError> {
    Ok(StepOutcome { cursor: Some(text_of(&place)?), gained, next })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StepError::Again(format!("a step of an export panicked: {error}"))),
    }
}

impl JobWork for ExportWork {
    fn step<'a>(&'a mut self, cursor: Option<&'a str>, _: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>> {
        Box::pin(self.take_step(cursor))
    }
}
