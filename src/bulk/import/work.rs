//! The job that imports: reads lines, appends them in batches below live traffic, and tells what it did not take.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use futures_util::future::{BoxFuture, join};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::line::{ADDED_BYTES_MAX, BadHeader, is_header, read_event, read_header, says_the_same};
use super::lines::{Lines, LinesError};
use super::report::{REPORT_LINES_MAX, add_rows, row};
use super::upload::content_path;
use crate::bulk::{Bulk, Compression, again};
use crate::event::envelope::{Draft, Event};
use crate::event::parse::ParseRules;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::job::{JobWork, Next, Progress, StepError, StepOutcome};

/// Lines appended together while nothing else waits for the log.
const BATCH_LINES: usize = 256;
/// Lines appended together beside live traffic.
const BATCH_LINES_BESIDE: usize = 64;
/// Bytes of lines appended together, besides at least one.
const BATCH_BYTES: u64 = 512 << 10;
/// Lines of one step: its place is saved with a sync.
const STEP_EVENTS: usize = 4_096;
/// Bytes hashed in one step.
const HASH_BYTES: usize = 64 << 20;
/// Steps that give way to live traffic before one batch is taken all the same.
const WAITS_MAX: u32 = 20;
/// What it waits for then.
const LIVE_FIRST: &str = "live events go first";

/// An import as its job keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSpec {
    /// The upload.
    pub import: String,
    /// How its content is packed.
    pub compression: Compression,
    /// Bytes of the content.
    pub bytes: u64,
    /// What its hash must be.
    pub sha256: Option<String>,
    /// The org of lines that name none.
    pub org: Option<String>,
    /// The only org whose lines are taken.
    pub confined_to: Option<String>,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines read, blank ones and headers among them.
    pub lines: u64,
    /// Header lines.
    pub headers: u64,
    /// Events that are new in the log.
    pub accepted: u64,
    /// Events that wait for their time.
    pub scheduled: u64,
    /// Events that were known.
    pub duplicates: u64,
    /// Events whose id belongs to another event.
    pub conflicts: u64,
    /// Lines that are no event, or none that is taken.
    pub rejected: u64,
}

/// How far an import has come: everything before `at` is dealt with (BK-3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportPlace {
    /// Where the next line begins, in bytes of the content.
    pub at: u64,
    /// What became of the lines.
    pub counts: Counts,
    /// Bytes of the report that count.
    pub report_bytes: u64,
    /// Lines of the report.
    pub report_lines: u64,
}

/// What became of an event that was to be appended.
#[derive(Clone, Debug)]
pub enum Taken {
    /// It is in the log.
    New,
    /// It was known.
    Duplicate,
    /// It waits for its time; a duplicate did before.
    Scheduled {
        /// Whether it was there already.
        duplicate: bool,
    },
    /// Another event has its id: in the log there, or none when it waits for its time.
    Conflict(Option<Arc<Event>>),
    /// It is not taken.
    Refused(Problem),
}

/// How much waits for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Nothing.
    None,
    /// Something: an import goes beside it.
    Some,
    /// So much that an import gives way.
    Much,
}

/// Appends what imports read.
pub trait Taking: Send + Sync {
    /// Appends events; one answer each, and durable when it answers.
    fn take(&self, drafts: Vec<Draft>, context: WriteContext) -> BoxFuture<'static, Result<Vec<Taken>, StepError>>;

    /// How much waits for the log.
    fn pressure(&self) -> Pressure;
}

/// The work of one import.
pub struct ImportWork {
    bulk: Arc<Bulk>,
    taking: Arc<dyn Taking>,
    spec: Arc<ImportSpec>,
    context: WriteContext,
    /// Its place is that of the next line to be read.
    lines: Option<Lines>,
    /// What was hashed so far; none when that is done.
    hashing: Option<(Sha256, u64)>,
    waits: u32,
}

/// Lines that were read together.
struct Batch {
    /// One for each line, in order; the number of the event among `drafts`, or why there is none.
    lines: Vec<LineRead>,
    drafts: Vec<Draft>,
    /// Bodies of the events, for those whose id is in use.
    bodies: Vec<bytes::Bytes>,
    /// Where the next line begins.
    end: u64,
    /// The number of the first line.
    first: u64,
    then: Then,
}

enum LineRead {
    Blank,
    Header,
    Event,
    Rejected(Problem),
}

/// What follows a batch.
enum Then {
    More,
    End,
    Fault(StepError),
}

impl ImportWork {
    /// The work of an import.
    #[must_use]
    pub fn new(bulk: Arc<Bulk>, taking: Arc<dyn Taking>, spec: ImportSpec, context: WriteContext) -> Self {
        let hashing = spec.sha256.is_some().then(|| (Sha256::new(), 0));
        Self { bulk, taking, spec: Arc::new(spec), context, lines: None, hashing, waits: 0 }
    }

    async fn take_step(&mut self, cursor: Option<&str>, room: usize) -> Result<StepOutcome, StepError> {
        let mut place: ImportPlace = match cursor {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| StepError::Fatal(format!("the cursor is none of an import: {error}")))?,
            None => ImportPlace::default(),
        };
        if self.spec.bytes == 0 {
            return Ok(StepOutcome { cursor: None, gained: Progress::default(), next: Next::Done });
        }
        // What was begun was found to be whole before.
        if cursor.is_none() && self.hashing.is_some() {
            self.hash().await?;
            return Ok(StepOutcome { cursor: None, gained: Progress::default(), next: Next::GoOn });
        }
        let pressure = self.taking.pressure();
        if pressure == Pressure::Much && self.waits < WAITS_MAX {
            self.waits += 1;
            let next = Next::Wait { reason: LIVE_FIRST };
            return Ok(StepOutcome { cursor: cursor.map(str::to_owned), gained: Progress::default(), next });
        }
        self.waits = 0;
        let mut gained = Progress::default();
        let mut rows = Vec::new();
        let next = match self.take_batches(&mut place, &mut gained, &mut rows, pressure, room).await {
            Ok(next) => next,
            // What went before it in this step counts; the rest is read again.
            Err(StepError::Again(reason)) if gained.looked_at > 0 => {
                tracing::debug!(import = self.spec.import, reason, "a batch of an import is taken again");
                Next::GoOn
            }
            Err(error) if gained.looked_at > 0 => {
                tracing::debug!(import = self.spec.import, %error, "an import ends after the lines before");
                Next::GoOn
            }
            Err(error) => return Err(error),
        };
        if !rows.is_empty() {
            let (dir, bytes) = (self.bulk.import_dir(&self.spec.import), place.report_bytes);
            place.report_bytes = blocking(move || add_rows(&dir, bytes, &rows).map_err(again("the report")))
                .await
                .inspect_err(|_| {
                    // The lines of the step are read again.
                    self.lines = None;
                })?;
        }
        let cursor = serde_json::to_string(&place).map_err(|error| StepError::Fatal(error.to_string()))?;
        Ok(StepOutcome { cursor: Some(cursor), gained, next })
    }

    /// Hashes some of the content; at its end compares.
    async fn hash(&mut self) -> Result<(), StepError> {
        let Some((sha, at)) = self.hashing.take() else { return Ok(()) };
        let path = content_path(&self.bulk.import_dir(&self.spec.import));
        let upto = self.spec.bytes;
        let hashed = blocking(move || hash_some(&path, sha, at, upto).map_err(again("the content"))).await;
        let (sha, at, ended) = match hashed {
            Ok(hashed) => hashed,
            Err(error) => {
                self.hashing = Some((Sha256::new(), 0));
                return Err(error);
            }
        };
        if !ended {
            self.hashing = Some((sha, at));
            return Ok(());
        }
        let found = hex::encode(sha.finalize());
        match self.spec.sha256.as_deref() {
            Some(wanted) if wanted != found => {
                Err(StepError::Fatal(format!("the content's SHA-256 is {found}, not {wanted}; nothing was taken")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Reads and appends batches: while one is on its way to the log the next is read.
    async fn take_batches(
        &mut self,
        place: &mut ImportPlace,
        gained: &mut Progress,
        rows: &mut Vec<u8>,
        pressure: Pressure,
        room: usize,
    ) -> Result<Next, StepError> {
        let lines_max = if pressure == Pressure::None { BATCH_LINES } else { BATCH_LINES_BESIDE };
        let mut left = room.max(1);
        let mut batch = self.read(place.at, place.counts.lines, lines_max.min(left)).await?;
        loop {
            left = left.saturating_sub(batch.lines.len().max(1));
            let drafts = std::mem::take(&mut batch.drafts);
            let (taker, context) = (Arc::clone(&self.taking), self.context.clone());
            let taking =
                async move { if drafts.is_empty() { Ok(Vec::new()) } else { taker.take(drafts, context).await } };
            let goes_on = matches!(batch.then, Then::More) && left > 0;
            let (end, number) = (batch.end, batch.first + batch.lines.len() as u64 - 1);
            let (answers, next) = if goes_on {
                let lines = self.lines.take();
                let reading = read_batch(&self.bulk, &self.spec, lines, end, number, lines_max.min(left));
                let (answers, read) = join(taking, reading).await;
                (answers, Some(read))
            } else {
                (taking.await, None)
            };
            let answers = match answers {
                Ok(answers) if answers.len() == batch.events() => answers,
                // Lines after this batch may have been read: the next step opens the content anew.
                Ok(_) => return self.read_again(StepError::Again("an answer for an event is missing".to_owned())),
                Err(error) => return self.read_again(error),
            };
            let then = settle(batch, answers, place, gained, rows);
            match (then, next) {
                (Then::More, Some(read)) => {
                    let (lines, read) = read?;
                    self.lines = Some(lines);
                    batch = read;
                }
                (Then::More, None) => return Ok(Next::GoOn),
                (Then::End, _) => return Ok(Next::Done),
                (Then::Fault(error), _) => return Err(error),
            }
        }
    }

    fn read_again(&mut self, error: StepError) -> Result<Next, StepError> {
        self.lines = None;
        Err(error)
    }

    async fn read(&mut self, at: u64, number: u64, lines_max: usize) -> Result<Batch, StepError> {
        let lines = self.lines.take();
        let (lines, batch) = read_batch(&self.bulk, &self.spec, lines, at, number, lines_max).await?;
        self.lines = Some(lines);
        Ok(batch)
    }
}

impl Batch {
    fn events(&self) -> usize {
        self.bodies.len()
    }
}

/// Counts what became of a batch, and writes rows about what was not taken.
fn settle(
    batch: Batch,
    answers: Vec<Taken>,
    place: &mut ImportPlace,
    gained: &mut Progress,
    rows: &mut Vec<u8>,
) -> Then {
    let Batch { lines, bodies, end, first, then, drafts: _ } = batch;
    let mut events = answers.into_iter().zip(bodies);
    let counts = &mut place.counts;
    for (line, number) in lines.into_iter().zip(first..) {
        counts.lines += 1;
        gained.looked_at += 1;
        let refused = match line {
            LineRead::Blank => None,
            LineRead::Header => {
                counts.headers += 1;
                None
            }
            LineRead::Rejected(problem) => {
                counts.rejected += 1;
                Some(problem)
            }
            LineRead::Event => {
                gained.matched += 1;
                events.next().and_then(|(answer, body)| count(answer, &body, counts, gained))
            }
        };
        let Some(problem) = refused else { continue };
        gained.failed += 1;
        if place.report_lines < REPORT_LINES_MAX {
            place.report_lines += 1;
            rows.extend_from_slice(&row(number, &problem));
        }
    }
    place.at = end;
    then
}

/// Counts what became of an event. The problem, when it was not taken.
fn count(answer: Taken, body: &[u8], counts: &mut Counts, gained: &mut Progress) -> Option<Problem> {
    match answer {
        Taken::New => {
            counts.accepted += 1;
            gained.handed_on += 1;
        }
        Taken::Scheduled { duplicate: false } => {
            counts.scheduled += 1;
            gained.handed_on += 1;
        }
        Taken::Duplicate | Taken::Scheduled { duplicate: true } => {
            counts.duplicates += 1;
            gained.skipped += 1;
        }
        // The log has it as its producer sent it, the line as an export wrote it.
        Taken::Conflict(Some(stored)) if says_the_same(&stored, body) => {
            counts.duplicates += 1;
            gained.skipped += 1;
        }
        Taken::Conflict(stored) => {
            counts.conflicts += 1;
            let first = stored.as_ref().map_or(Seq::ZERO, |event| event.seq);
            let mut problem = Problem::new(ProblemKind::IdConflict, "the same id was used for another body");
            problem.field = Some("id".to_owned());
            problem.sent = stored.map(|event| event.meta.id.clone());
            return Some(if first == Seq::ZERO { problem } else { problem.with("first_seq", first.0) });
        }
        Taken::Refused(problem) => {
            counts.rejected += 1;
            return Some(problem);
        }
    }
    None
}

/// Reads lines from `at` on, the first of which follows the line `number`.
async fn read_batch(
    bulk: &Arc<Bulk>,
    spec: &Arc<ImportSpec>,
    lines: Option<Lines>,
    at: u64,
    number: u64,
    lines_max: usize,
) -> Result<(Lines, Batch), StepError> {
    let (bulk, spec) = (Arc::clone(bulk), Arc::clone(spec));
    blocking(move || {
        let mut lines = match lines.filter(|lines| lines.at() == at) {
            Some(lines) => lines,
            None => {
                let path = content_path(&bulk.import_dir(&spec.import));
                let line_bytes_max = bulk.event_bytes_max.saturating_add(ADDED_BYTES_MAX);
                Lines::open(&path, spec.bytes, spec.compression, at, line_bytes_max)
                    .map_err(|error| fault(error, number))?
            }
        };
        let batch = read_lines(&bulk, &spec, &mut lines, number, lines_max);
        Ok((lines, batch))
    })
    .await
}

fn fault(error: LinesError, number: u64) -> StepError {
    match error {
        LinesError::Damaged(text) => StepError::Fatal(format!("{text}, after line {number}")),
        LinesError::Io(text) => StepError::Again(text),
    }
}

fn read_lines(bulk: &Bulk, spec: &ImportSpec, lines: &mut Lines, number: u64, lines_max: usize) -> Batch {
    let (begin, first) = (lines.at(), number + 1);
    let mut batch = Batch {
        lines: Vec::with_capacity(lines_max),
        drafts: Vec::with_capacity(lines_max),
        bodies: Vec::with_capacity(lines_max),
        end: begin,
        first,
        then: Then::More,
    };
    let rules = ParseRules {
        default_org: spec.org.as_deref(),
        confined_to: spec.confined_to.as_deref(),
        event_bytes_max: bulk.event_bytes_max,
        now: bulk.clock.now(),
        random: &*bulk.random,
    };
    while batch.lines.len() < lines_max && batch.end - begin < BATCH_BYTES {
        let number = first + batch.lines.len() as u64;
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => {
                batch.then = Then::End;
                break;
            }
            Err(error) => {
                batch.then = Then::Fault(fault(error, number - 1));
                break;
            }
        };
        let read = match &line.text {
            None => {
                let limit = format!("at most {} bytes", bulk.event_bytes_max);
                LineRead::Rejected(Problem::field("body", limit, "a longer line").as_kind(ProblemKind::TooLarge))
            }
            Some(text) if text.trim_ascii().is_empty() => LineRead::Blank,
            Some(text) if is_header(text) => match read_header(text) {
                Ok(()) => LineRead::Header,
                Err(error) => {
                    batch.then = Then::Fault(header_fault(&error, number));
                    break;
                }
            },
            Some(text) => match read_event(text, &rules, || format!("{}-{number}", spec.import)) {
                Ok(draft) => {
                    batch.bodies.push(draft.body.clone());
                    batch.drafts.push(draft);
                    LineRead::Event
                }
                Err(problem) => LineRead::Rejected(problem),
            },
        };
        batch.lines.push(read);
        batch.end = line.end;
    }
    batch
}

fn header_fault(error: &BadHeader, number: u64) -> StepError {
    StepError::Fatal(format!("line {number}: {error}"))
}

/// Hashes on from `at`, at most to `upto`; true at the end.
fn hash_some(path: &std::path::Path, mut sha: Sha256, mut at: u64, upto: u64) -> io::Result<(Sha256, u64, bool)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut file = file.take(upto.saturating_sub(at));
    let mut buffer = vec![0; 1 << 20];
    let mut left = HASH_BYTES;
    while left > 0 {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((sha, at, true));
        }
        sha.update(&buffer[..read]);
        at += read as u64;
        left = left.saturating_sub(read);
    }
    Ok((sha, at, false))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StepError::Again(format!("a step of an import panicked: {error}"))),
    }
}

impl JobWork for ImportWork {
    fn step<'a>(&'a mut self, cursor: Option<&'a str>, room: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>> {
        Box::pin(self.take_step(cursor, room))
    }

    fn step_events_max(&self) -> usize {
        STEP_EVENTS
    }
}
