//! The job that redrives dead letters, in the order in which they were given up, and makes waiting retries due.
//!
//! A dead letter is closed together with the row of its event, so that one that was redriven is not redriven again,
//! whatever the cursor says.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::ReplayParts;
use super::events::FULL;
use super::hand_on::{again, hand_on, item_of_letter};
use super::spec::{LetterSpec, letter_id_at};
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::messages::{Hasten, HastenAnswer, ReplayAnswer, ReplayItem};
use crate::job::{JobWork, Next, Progress, STEP_EVENTS_MAX, StepError, StepOutcome};
use crate::store::records::RowState;
use crate::store::{DeadLetterRecord, RowRecord, blocking};

/// Bytes of dead letters read at once.
const READ_BYTES: usize = 4 << 20;
/// Readings of one preview.
const PREVIEW_READINGS: usize = 50;
/// Ids that a preview shows.
const EXAMPLES: usize = 10;

/// How far the work has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Dead letters up to this id.
    Letters(String),
    /// All dead letters, and rows up to this position.
    Rows(Seq),
    /// Everything.
    End,
}

impl Place {
    fn read(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("letters", id)) => Some(Self::Letters(id.to_owned())),
            Some(("rows", seq)) => Some(Self::Rows(Seq(seq.parse().ok()?))),
            Some(("end", _)) => Some(Self::End),
            Some(_) | None => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Letters(id) => format!("letters:{id}"),
            Self::Rows(seq) => format!("rows:{seq}"),
            Self::End => "end:".to_owned(),
        }
    }
}

/// The work of one redrive or recovery.
pub struct LettersWork {
    parts: ReplayParts,
    spec: Arc<LetterSpec>,
    job: String,
    made: WriteContext,
}

/// What a redrive would give out.
#[derive(Clone, Debug)]
pub struct LettersPreview {
    would_match: u64,
    looked_at: u64,
    examples: Vec<String>,
    complete: bool,
}

impl LettersPreview {
    /// The preview as clients see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { would_match, looked_at, examples, complete } = self;
        json!({
            "dry_run": true, "would_match": would_match, "looked_at": looked_at, "complete": complete,
            "examples": examples,
        })
    }
}

/// Dead letters that were read, and whether there are none after them.
struct Read {
    letters: Vec<DeadLetterRecord>,
    was_last: bool,
}

/// What became of letters that were handed on, by their ids where the cursor decides whether they count.
#[derive(Default)]
struct Outcome {
    handed_on: u64,
    skipped: u64,
    failed: Vec<String>,
    full: Vec<String>,
}

impl LettersWork {
    /// The work of a redrive, from its beginning. `made` is who made the job: by them the dead letters are closed.
    #[must_use]
    pub fn new(parts: ReplayParts, spec: LetterSpec, job: String, made: WriteContext) -> Self {
        Self { parts, spec: Arc::new(spec), job, made }
    }

    fn first(&self) -> String {
        letter_id_at(self.spec.from.unwrap_or_default())
    }

    async fn read(&self, after: &str) -> Result<Read, StepError> {
        let (state, after, end) = (Arc::clone(&self.parts.state), after.to_owned(), self.spec.to);
        let read = blocking(move || state.dead_letters_after(&after, STEP_EVENTS_MAX, READ_BYTES));
        let mut letters = read.await.map_err(|error| again(&error))?;
        let was_last = letters.last().is_none_or(|last| last.at >= end);
        letters.retain(|letter| letter.at < end);
        Ok(Read { letters, was_last })
    }

    /// Looks through what would be redriven, as far as it is worth.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn preview(self) -> Result<LettersPreview, StepError> {
        let mut preview = LettersPreview { would_match: 0, looked_at: 0, examples: Vec::new(), complete: false };
        let mut after = self.first();
        for _ in 0..PREVIEW_READINGS {
            let Read { letters, was_last } = self.read(&after).await?;
            for letter in &letters {
                preview.looked_at += 1;
                if self.spec.fits(letter) {
                    preview.would_match += 1;
                    if preview.examples.len() < EXAMPLES {
                        preview.examples.push(letter.id.clone());
                    }
                }
            }
            if was_last {
                preview.complete = true;
                break;
            }
            if let Some(last) = letters.last() {
                after.clone_from(&last.id);
            }
        }
        Ok(preview)
    }

    async fn redrive(&self, after: String, room: usize) -> Result<StepOutcome, StepError> {
        // From reading them open to having them written closed nobody else closes any.
        let _closing = self.parts.closing.lock().await;
        let Read { letters, was_last } = self.read(&after).await?;
        let (mut looked_at, mut last, mut chosen) = (0, after, Vec::new());
        let mut ended_early = false;
        for letter in letters {
            let fits = self.spec.fits(&letter);
            if fits && chosen.len() >= room {
                ended_early = true;
                break;
            }
            looked_at += 1;
            last.clone_from(&letter.id);
            if fits {
                chosen.push(letter);
            }
        }
        let Outcome { handed_on, skipped, failed, full } = self.hand_on_letters(chosen).await?;
        // The cursor stays before the first that found no room. Those after it that did are closed and come no more;
        // those that could not be handed on come again, and count then.
        let first_full = full.iter().min();
        let failed = failed.iter().filter(|id| first_full.is_none_or(|first| *id < first)).count() as u64;
        let matched = handed_on + skipped + failed;
        let mut gained = Progress { looked_at: 0, matched, handed_on, skipped, failed, total: None };
        if let Some(first) = first_full {
            let place = Place::Letters(before(first));
            return Ok(StepOutcome { cursor: Some(place.text()), gained, next: Next::Wait { reason: FULL } });
        }
        gained.looked_at = looked_at;
        let place = match (was_last && !ended_early, self.spec.retries_since) {
            (false, _) => Place::Letters(last),
            (true, Some(_)) => Place::Rows(Seq::ZERO),
            (true, None) => Place::End,
        };
        let next = if place == Place::End { Next::Done } else { Next::GoOn };
        Ok(StepOutcome { cursor: Some(place.text()), gained, next })
    }

    /// Gives letters to the inboxes of their consumers.
    async fn hand_on_letters(&self, letters: Vec<DeadLetterRecord>) -> Result<Outcome, StepError> {
        let mut outcome = Outcome::default();
        let context = WriteContext { at: self.parts.clock.now(), ..self.made.clone() };
        let mut by_consumer: BTreeMap<ConsumerId, Vec<ReplayItem>> = BTreeMap::new();
        for letter in letters {
            let (consumer, id) = (letter.consumer.clone(), letter.id.clone());
            match item_of_letter(letter, Some(&self.job), &context, &*self.parts.random) {
                Some(item) => by_consumer.entry(consumer).or_default().push(item),
                None => outcome.failed.push(id),
            }
        }
        for (consumer, items) in by_consumer {
            let ids: Vec<String> = items.iter().filter_map(|item| item.mark.dead_letter.clone()).collect();
            if self.parts.inboxes.spec(&consumer).is_none() {
                tracing::warn!(%consumer, job = self.job, letters = ids.len(), "the consumer of dead letters is no longer there");
                outcome.failed.extend(ids);
                continue;
            }
            let answers = hand_on(&*self.parts.inboxes, &consumer, items).await?;
            for (answer, id) in answers.into_iter().zip(ids) {
                match answer {
                    ReplayAnswer::Taken => outcome.handed_on += 1,
                    ReplayAnswer::UnderWay => outcome.skipped += 1,
                    ReplayAnswer::Full => outcome.full.push(id),
                }
                if answer != ReplayAnswer::Full {
                    self.parts.metrics.dead_letter_closed(&consumer);
                }
            }
        }
        Ok(outcome)
    }

    /// Makes the next rows due that wait for a retry.
    async fn hasten(&self, after: Seq, since: UnixMs, room: usize) -> Result<StepOutcome, StepError> {
        let end = StepOutcome { cursor: Some(Place::End.text()), gained: Progress::default(), next: Next::Done };
        let Some(consumer) = self.spec.consumer.clone() else { return Ok(end) };
        let (state, of, now) = (Arc::clone(&self.parts.state), consumer.clone(), self.parts.clock.now());
        let rows = blocking(move || state.rows_after(&of, after, room)).await.map_err(|error| again(&error))?;
        let Some((last, _)) = rows.last() else { return Ok(end) };
        let (last, looked_at) = (*last, rows.len() as u64);
        let waits = |row: &RowRecord| match row.state {
            RowState::Retry { due_at } => due_at > now && row.last_attempt.is_some_and(|at| at >= since),
            RowState::Held => false,
        };
        let rows: Vec<(Seq, RowRecord)> = rows.into_iter().filter(|(_, row)| waits(row)).collect();
        let mut gained = Progress { looked_at, matched: rows.len() as u64, ..Progress::default() };
        if !rows.is_empty() {
            let Some(inbox) = self.parts.inboxes.start(&consumer) else { return Ok(end) };
            let away = |error: crate::supervise::Gone| StepError::Again(format!("the inbox of {consumer}: {error}"));
            let answers = inbox.ask(Hasten { rows }).await.map_err(away)?.map_err(|error| again(&error))?;
            gained.handed_on = answers.iter().filter(|answer| **answer == HastenAnswer::Due).count() as u64;
            gained.skipped = gained.matched - gained.handed_on;
        }
        Ok(StepOutcome { cursor: Some(Place::Rows(last).text()), gained, next: Next::GoOn })
    }

    async fn take_step(&self, cursor: Option<&str>, room: usize) -> Result<StepOutcome, StepError> {
        let unreadable = || StepError::Fatal(format!("the cursor {cursor:?} is none of a redrive"));
        let place = match cursor {
            Some(text) => Place::read(text).ok_or_else(unreadable)?,
            None => Place::Letters(self.first()),
        };
        match (place, self.spec.retries_since) {
            (Place::Letters(after), _) => self.redrive(after, room).await,
            (Place::Rows(after), Some(since)) => self.hasten(after, since, room).await,
            (Place::Rows(_) | Place::End, _) => {
                Ok(StepOutcome { cursor: Some(Place::End.text()), gained: Progress::default(), next: Next::Done })
            }
        }
    }
}

/// An id right before this one, so that a reading after it begins with this one. Ids are ASCII and have no space.
fn before(id: &str) -> String {
    let mut text = id.to_owned();
    if let Some(last) = text.pop() {
        let lower = char::from_u32((last as u32).saturating_sub(1)).unwrap_or(' ');
        text.push(lower);
        text.push('~');
    }
    text
}

impl JobWork for LettersWork {
    fn step<'a>(&'a mut self, cursor: Option<&'a str>, room: usize) -> BoxFuture<'a, Result<StepOutcome, StepError>> {
        Box::pin(self.take_step(cursor, room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_way_to_text_and_back() {
        for place in [Place::Letters("dlq_1".to_owned()), Place::Rows(Seq(7)), Place::End] {
            assert_eq!(Place::read(&place.text()), Some(place));
        }
        for text in ["", "dlq_1", "rows:x", "other:1"] {
            assert_eq!(Place::read(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_lies_between_an_id_and_the_one_right_before_it() {
        for (id, lower) in [("dlq_0a", "dlq_09"), ("dlq_00", "dlq_0"), ("dlq_0b", "dlq_0afff")] {
            let bound = before(id);
            assert!(bound.as_str() < id && lower < bound.as_str(), "{lower} < {bound} < {id}");
        }
    }
}
