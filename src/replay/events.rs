//! The job that replays events of the log into one consumer.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::ReplayParts;
use super::given::Given;
use super::hand_on::{Pending, again, hand_on, item_of_event};
use super::spec::{Matching, ReplaySpec};
use crate::event::envelope::Event;
use crate::event::filter::{Decision, EventFilter};
use crate::ground::ids::Seq;
use crate::inbox::messages::ReplayAnswer;
use crate::job::{JobWork, Next, Progress, StepError, StepOutcome};
use crate::store::blocking;

/// Listed events fetched at once.
const FETCH: usize = 64;
/// Readings of one preview; each looks at a thousand events or passes half a million positions by the index.
const PREVIEW_READINGS: usize = 100;
/// Ids that a preview shows.
const EXAMPLES: usize = 10;
/// What a full lane is told as.
pub(super) const FULL: &str = "the consumer has as many replayed events waiting as it may";

/// The work of one replay.
pub struct EventsWork {
    parts: ReplayParts,
    spec: Arc<ReplaySpec>,
    job: Option<String>,
    /// Events that fit, after the cursor, up to `read_upto`.
    pending: Pending,
    read_upto: Seq,
    given: Option<Arc<Given>>,
    gathering: Option<Given>,
    /// Listed events that the log no longer has, not told of yet.
    lost: u64,
}

/// What a replay would give out.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Events that fit, of those looked at.
    pub would_match: u64,
    /// Positions or listed events looked at.
    pub looked_at: u64,
    /// The ids of the first that fit.
    pub examples: Vec<String>,
    /// Whether all of it was looked at.
    pub complete: bool,
    /// The last position looked at.
    pub looked_upto: Seq,
}

impl Preview {
    /// The preview as clients see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "dry_run": true,
            "would_match": self.would_match,
            "looked_at": self.looked_at,
            "complete": self.complete,
            "looked_upto": self.looked_upto.0,
            "examples": self.examples,
        })
    }
}

impl EventsWork {
    /// The work of a replay, from its beginning.
    #[must_use]
    pub fn new(parts: ReplayParts, spec: ReplaySpec, job: Option<String>) -> Self {
        Self {
            parts,
            spec: Arc::new(spec),
            job,
            pending: Pending::new(),
            read_upto: Seq::ZERO,
            given: None,
            gathering: None,
            lost: 0,
        }
    }

    /// Looks through what would be replayed, as far as it is worth.
    ///
    /// # Errors
    /// When the store fails or the consumer is gone.
    pub async fn preview(mut self) -> Result<Preview, StepError> {
        let mut at = self.spec.from.prev();
        let mut preview =
            Preview { would_match: 0, looked_at: 0, examples: Vec::new(), complete: false, looked_upto: at };
        for _ in 0..PREVIEW_READINGS {
            if !self.knows_what_was_given().await? {
                continue;
            }
            if at >= self.spec.to {
                preview.complete = true;
                break;
            }
            self.read(at).await?;
            preview.would_match += self.pending.len() as u64;
            preview.looked_at += self.spec.between(at, self.read_upto);
            let room = EXAMPLES.saturating_sub(preview.examples.len());
            preview.examples.extend(self.pending.drain(..).take(room).map(|event| event.meta.id.clone()));
            at = self.read_upto;
            preview.looked_upto = at;
        }
        preview.complete |= at >= self.spec.to;
        Ok(preview)
    }

    /// With `match: delivered`: finds out what the consumer was given, a few pages a call. True when it is known.
    async fn knows_what_was_given(&mut self) -> Result<bool, StepError> {
        if self.spec.matching != Matching::Delivered || self.given.is_some() {
            return Ok(true);
        }
        let (log, state, spec) = (Arc::clone(&self.parts.log), Arc::clone(&self.parts.state), Arc::clone(&self.spec));
        let gathering = self.gathering.take();
        let looked = blocking(move || {
            let mut given = match gathering {
                Some(given) => given,
                None => {
                    let first = log.get(spec.from.max(log.earliest()))?;
                    Given::new(spec.from, spec.to, first.map(|event| event.received_at).unwrap_or_default())
                }
            };
            given.look(&*state, &spec.consumer)?;
            Ok(given)
        });
        let given = looked.await.map_err(|error| again(&error))?;
        if given.is_complete() {
            self.given = Some(Arc::new(given));
            return Ok(true);
        }
        self.gathering = Some(given);
        Ok(false)
    }

    /// The consumer's filter as it is now, where it counts.
    fn filter(&self) -> Result<Option<Arc<EventFilter>>, StepError> {
        let gone = || StepError::Fatal(format!("the consumer {} is no longer there", self.spec.consumer));
        let consumer = self.parts.inboxes.spec(&self.spec.consumer).ok_or_else(gone)?;
        Ok((self.spec.matching == Matching::Current).then(|| Arc::clone(&consumer.filter)))
    }

    /// Decides on one event.
    fn test(&self, filter: Option<Arc<EventFilter>>) -> impl Fn(&Event) -> bool + Send + use<> {
        let (spec, given) = (Arc::clone(&self.spec), self.given.clone());
        move |event| {
            spec.fits(event)
                && filter.as_ref().is_none_or(|filter| filter.decide(event) == Decision::Match)
                && given.as_ref().is_none_or(|given| given.contains(event.seq))
        }
    }

    /// Reads on after `at`; what fits is pending then, and `read_upto` is where the reading ended.
    async fn read(&mut self, at: Seq) -> Result<(), StepError> {
        let filter = self.filter()?;
        let test = self.test(filter.clone());
        let reader = &self.parts.reader;
        if self.spec.seqs.is_empty() {
            let (from, to) = (at.next(), self.spec.to);
            let wanted = self.spec.wanted(filter.as_deref());
            let chunk = reader.search(wanted, test, from, to).await.map_err(|error| again(&error))?;
            if let Some(gap_to) = chunk.gap_to {
                tracing::warn!(consumer = %self.spec.consumer, job = self.job, from = from.0, to = gap_to.prev().0, "retention has dropped events before they were replayed");
            }
            // At the head there is nothing to read; the range ends there.
            self.read_upto = if chunk.upto < from { to } else { chunk.upto.min(to) };
            self.pending = chunk.events.into();
            return Ok(());
        }
        let first = self.spec.seqs.partition_point(|seq| *seq <= at);
        let seqs: Vec<Seq> = self.spec.seqs[first..].iter().copied().take(FETCH).collect();
        let upto = if first + seqs.len() >= self.spec.seqs.len() { self.spec.to } else { seqs[seqs.len() - 1] };
        let asked = seqs.len();
        let events = reader.fetch(seqs).await.map_err(|error| again(&error))?;
        self.lost = (asked - events.len()) as u64;
        self.read_upto = upto;
        self.pending = events.into_iter().filter(|event| test(event)).collect();
        Ok(())
    }

    async fn take_step(&mut self, cursor: Option<&str>, room: usize) -> Result<StepOutcome, StepError> {
        let unreadable = || StepError::Fatal(format!("the cursor {cursor:?} is none of a replay"));
        let at = match cursor {
            Some(text) => Seq(text.parse().map_err(|_| unreadable())?),
            None => self.spec.from.prev(),
        };
        let told = |at: Seq, gained, next| Ok(StepOutcome { cursor: Some(at.to_string()), gained, next });
        if !self.knows_what_was_given().await? {
            return Ok(StepOutcome {
                cursor: cursor.map(str::to_owned),
                gained: Progress::default(),
                next: Next::GoOn,
            });
        }
        if at >= self.spec.to {
            return told(at, Progress::default(), Next::Done);
        }
        self.pending.retain(|event| event.seq > at);
        if self.pending.is_empty() {
            self.read(at).await?;
        }
        let items = self.pending.iter().take(room).map(|event| item_of_event(event, self.job.as_deref())).collect();
        let answers = if self.pending.is_empty() {
            Vec::new()
        } else {
            hand_on(&*self.parts.inboxes, &self.spec.consumer, items).await?
        };
        let settled = answers.iter().take_while(|answer| **answer != ReplayAnswer::Full).count();
        let taken = answers.iter().filter(|answer| **answer == ReplayAnswer::Taken).count();
        let last = self.pending.drain(..settled).next_back().map_or(at, |event| event.seq);
        let upto = if self.pending.is_empty() { self.read_upto } else { last };
        let gained = Progress {
            looked_at: self.spec.between(at, upto),
            matched: settled as u64,
            handed_on: taken as u64,
            skipped: (settled - taken) as u64,
            failed: std::mem::take(&mut self.lost),
            total: None,
        };
        let next = if settled < answers.len() {
            Next::Wait { reason: FULL }
        } else if upto >= self.spec.to {
            Next::Done
        } else {
            Next::GoOn
        };
        told(upto, gained, next)
    }
}

impl JobWork for EventsWork {
    fn step<'a>(&'a mut self, cursor: Option<&'a str>, room: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>> {
        Box::pin(self.take_step(cursor, room))
    }
}
