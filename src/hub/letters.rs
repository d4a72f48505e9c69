//! Dead letters: listed, shown, redriven, discarded (RTY-3, RTY-4).
//!
//! A dead letter is open until it is redriven or discarded; closed ones are kept as long as open ones, with who closed
//! them and why. Whoever closes one holds the hub's lock for it from reading it open to having it written closed.

use serde_json::{Value, json};

use super::replays::{Asked, lane_full, spec_json, step_problem};
use super::{Hub, Page, store_problem};
use crate::event::envelope::Event;
use crate::event::filter::TypePattern;
use crate::event::redact::{Audience, Redactor};
use crate::ground::clock::UnixMs;
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::ConsumerId;
use crate::inbox::messages::ReplayAnswer;
use crate::job::NewJob;
use crate::replay::{LetterSpec, LettersWork, REDRIVE, hand_on, item_of_letter, letter_id_at, read_redrive};
use crate::router::Inboxes as _;
use crate::store::records::{Closed, Closing};
use crate::store::{AttemptRecord, ConsumerState as _, DeadLetterRecord, StateOp};

/// Dead letters looked at for one page.
const SCAN_MAX: usize = 20_000;
/// Bytes of dead letters looked at for one page.
const SCAN_BYTES_MAX: usize = 256 << 20;
/// Dead letters read at once: each holds its event.
const READ: usize = 16;
/// Dead letters of one millisecond that are looked through for one event.
const OF_ONE_TIME_MAX: usize = 1_000;
/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// Which dead letters a list shows.
#[derive(Clone, Debug, Default)]
pub struct LetterQuery {
    /// Of this org.
    pub org: Option<String>,
    /// Of this consumer.
    pub consumer: Option<String>,
    /// Of events of this type.
    pub event_type: Option<TypePattern>,
    /// Open ones, redriven ones, discarded ones; none means all.
    pub state: Option<LetterState>,
    /// Given up at or after.
    pub from: Option<UnixMs>,
    /// Given up before.
    pub to: Option<UnixMs>,
    /// Older than this one.
    pub before: Option<String>,
    /// Most dead letters.
    pub limit: usize,
}

/// Where a dead letter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// Nobody has done anything about it.
    Open,
    /// Its event was given out again.
    Redriven,
    /// Somebody said that nobody wants it.
    Discarded,
}

impl LetterState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Redriven, Self::Discarded];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }

    /// Where a dead letter stands.
    #[must_use]
    pub fn of(letter: &DeadLetterRecord) -> Self {
        match letter.closed.as_ref().map(|closed| &closed.how) {
            None => Self::Open,
            Some(Closing::Redriven { .. }) => Self::Redriven,
            Some(Closing::Discarded { .. }) => Self::Discarded,
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Problem::field("state", format!("one of {names}"), text).as_kind(ProblemKind::InvalidParameter)
        })
    }
}

impl LetterQuery {
    fn fits(&self, letter: &DeadLetterRecord) -> bool {
        self.org.as_ref().is_none_or(|org| *org == letter.org)
            && self.consumer.as_ref().is_none_or(|consumer| consumer == letter.consumer.as_str())
            && self.event_type.as_ref().is_none_or(|pattern| pattern.matches(&letter.event_type))
            && self.state.is_none_or(|state| state == LetterState::of(letter))
            && self.from.is_none_or(|from| letter.at >= from)
            && self.to.is_none_or(|to| letter.at < to)
    }

    /// Where the reading begins: ids begin with their time.
    fn start(&self) -> Option<String> {
        let end = self.to.map(letter_id_at);
        match (&self.before, end) {
            (Some(before), Some(end)) => Some(before.clone().min(end)),
            (Some(one), None) => Some(one.clone()),
            (None, end) => end,
        }
    }
}

fn closed_already(letter: &DeadLetterRecord) -> Problem {
    let state = LetterState::of(letter).as_str();
    Problem::new(ProblemKind::Conflict, format!("the dead letter is {state} already")).with("state", state)
}

impl Hub {
    /// Dead letters, newest first. Blocks. A page ends early, with `has_more`, when much was read in vain.
    ///
    /// # Errors
    /// When the store fails.
    pub fn dead_letters(&self, query: &LetterQuery) -> Result<Page<Value>, Problem> {
        let mut items = Vec::new();
        let mut before = query.start();
        let (mut scanned, mut bytes) = (0, 0);
        loop {
            let records = self.inner.engine.dead_letters(before.as_deref(), READ);
            let records = records.map_err(|error| store_problem(&error))?;
            let past = |record: &DeadLetterRecord| query.from.is_some_and(|from| record.at < from);
            if records.first().is_none_or(past) {
                return Ok(Page { items, next: before.unwrap_or_default(), has_more: false });
            }
            for record in records {
                scanned += 1;
                bytes += record.weight();
                before = Some(record.id.clone());
                if query.fits(&record) {
                    items.push(letter_json(&self.inner.redactor, &record));
                }
                if items.len() >= query.limit || scanned >= SCAN_MAX || bytes >= SCAN_BYTES_MAX {
                    return Ok(Page { items, next: before.unwrap_or_default(), has_more: true });
                }
            }
        }
    }

    fn letter(&self, id: &str, org: Option<&str>) -> Result<DeadLetterRecord, Problem> {
        let found = self.inner.engine.dead_letter(id).map_err(|error| store_problem(&error))?;
        let visible = found.filter(|record| org.is_none_or(|org| org == record.org));
        visible.ok_or_else(|| Problem::not_found("dead letter", id))
    }

    /// A dead letter, when the org may see it. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org.
    pub fn dead_letter(&self, id: &str, org: Option<&str>) -> Result<Value, Problem> {
        self.letter(id, org).map(|record| letter_json(&self.inner.redactor, &record))
    }

    async fn open_letter(&self, id: &str, org: Option<&str>) -> Result<DeadLetterRecord, Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        let letter = self.blocking(move |hub| hub.letter(&id, org.as_deref())).await?;
        if letter.closed.is_some() { Err(closed_already(&letter)) } else { Ok(letter) }
    }

    /// Gives the event of a dead letter out again, though the log has dropped it.
    ///
    /// # Errors
    /// When it is not there, is closed, its consumer is gone or has no room, or the store fails.
    pub async fn redrive_letter(&self, id: &str, org: Option<&str>, context: WriteContext) -> Result<Value, Problem> {
        let _closing = self.inner.replays.closing.lock().await;
        let letter = self.open_letter(id, org).await?;
        let consumer = letter.consumer.clone();
        if self.inner.directory.spec(&consumer).is_none() {
            let detail = format!("the consumer {consumer} is no longer there");
            return Err(Problem::new(ProblemKind::Conflict, detail));
        }
        let item = item_of_letter(letter, None, &context, &*self.inner.random).ok_or_else(|| {
            Problem::new(
                ProblemKind::Internal,
                "the event of the dead letter does not read; the log of the hub has the cause",
            )
        })?;
        let answers = hand_on(&*self.inner.directory, &consumer, vec![item]).await.map_err(step_problem)?;
        if answers.first().is_none_or(|answer| *answer == ReplayAnswer::Full) {
            return Err(lane_full());
        }
        self.inner.metrics.dead_letter_closed(&consumer);
        self.sync_state().await?;
        tracing::info!(letter = id, %consumer, by = context.by, "a dead letter is redriven");
        let id = id.to_owned();
        self.blocking(move |hub| hub.dead_letter(&id, None)).await
    }

    /// Closes a dead letter that nobody wants.
    ///
    /// # Errors
    /// When there is no reason, it is not there, is closed, or the store fails.
    pub async fn discard_letter(
        &self,
        id: &str,
        org: Option<&str>,
        mut fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let reason = fields.required_text("reason", REASON_CHARS_MAX)?;
        fields.finish()?;
        let _closing = self.inner.replays.closing.lock().await;
        let mut letter = self.open_letter(id, org).await?;
        tracing::info!(letter = id, reason, by = context.by, "a dead letter is discarded");
        letter.closed = Some(Closed { how: Closing::Discarded { reason }, context });
        let (shown, consumer) = (letter_json(&self.inner.redactor, &letter), letter.consumer.clone());
        let session = self.inner.ledger.session();
        let written = session.commit_synced(vec![StateOp::PutDeadLetter(Box::new(letter))]).await;
        written.map_err(|error| store_problem(&error))?;
        self.inner.metrics.dead_letter_closed(&consumer);
        Ok(shown)
    }

    /// Redrives the open dead letters that fit: a job, or with `dry_run` what it would do.
    ///
    /// # Errors
    /// When a field does not fit, a key names another org, there are too many jobs, or the store fails.
    pub async fn redrive_letters(
        &self,
        fields: Fields,
        confined_to: Option<&str>,
        context: WriteContext,
    ) -> Result<Asked, Problem> {
        let request = read_redrive(fields)?;
        let spec = LetterSpec {
            consumer: request.consumer.as_deref().map(ConsumerId::new),
            org: scoped_org(request.org, confined_to)?,
            event_type: request.event_type,
            error_kind: request.error_kind,
            from: request.from,
            to: request.to.map_or(context.at, |to| to.min(context.at)),
            retries_since: None,
        };
        if request.dry_run {
            let work = LettersWork::new(self.inner.replays.clone(), spec, String::new(), context);
            return Ok(Asked::Preview(work.preview().await.map_err(step_problem)?.to_json()));
        }
        let new =
            NewJob { kind: REDRIVE, org: spec.org.clone(), spec: spec_json(&spec)?, rate: request.rate, total: None };
        self.make_job(new, context).await
    }

    /// The open dead letter that an event has left with a consumer at its last attempt. Blocks.
    pub(super) fn open_letter_of(
        &self,
        consumer: &ConsumerId,
        event: &Event,
    ) -> Result<Option<DeadLetterRecord>, Problem> {
        let Some(last) = self.attempts_of(consumer, event)?.pop() else { return Ok(None) };
        Ok(self.letter_left_by(consumer, &last)?.filter(|letter| letter.closed.is_none()))
    }

    /// The dead letter that an attempt has left; none when it left none, or too many others were made in its millisecond.
    /// Blocks.
    pub(super) fn letter_left_by(
        &self,
        consumer: &ConsumerId,
        attempt: &AttemptRecord,
    ) -> Result<Option<DeadLetterRecord>, Problem> {
        // A dead letter has the time of the attempt that left it, and its id begins with that.
        let mut before = letter_id_at(attempt.at.plus_ms(1));
        let mut left = Vec::new();
        for _ in 0..OF_ONE_TIME_MAX / READ {
            let letters = self.inner.engine.dead_letters(Some(&before), READ).map_err(|error| store_problem(&error))?;
            let Some(oldest) = letters.last() else { break };
            let ended = oldest.at < attempt.at;
            before.clone_from(&oldest.id);
            left.extend(letters.into_iter().filter(|letter| {
                let same = (letter.at, letter.seq, letter.attempts) == (attempt.at, attempt.seq, attempt.attempt);
                same && letter.consumer == *consumer
            }));
            if ended {
                break;
            }
        }
        Ok(newest_of(left))
    }
}

/// The newest of the dead letters that one event has left in one millisecond, by attempts of one count. Their ids do not tell:
/// it is the one that no other came out of, and an open one before one that is closed.
fn newest_of(letters: Vec<DeadLetterRecord>) -> Option<DeadLetterRecord> {
    let earlier: Vec<String> = letters.iter().filter_map(|letter| letter.earlier.clone()).collect();
    letters.into_iter().filter(|letter| !earlier.contains(&letter.id)).max_by_key(|letter| letter.closed.is_none())
}

fn letter_json(redactor: &Redactor, record: &DeadLetterRecord) -> Value {
    let envelope = redactor.envelope(&record.org, &record.event_type, &record.event, Audience::Console);
    // The event was JSON when it came in.
    let event = serde_json::from_slice(&envelope).unwrap_or(Value::Null);
    let closed = record.closed.as_ref();
    let (job, reason) = match closed.map(|closed| &closed.how) {
        Some(Closing::Redriven { job }) => (job.clone(), None),
        Some(Closing::Discarded { reason }) => (None, Some(reason.clone())),
        None => (None, None),
    };
    let at = |state: LetterState| {
        closed.filter(|_| LetterState::of(record) == state).map(|closed| closed.context.at.to_rfc3339())
    };
    json!({
        "id": record.id,
        "at": record.at.to_rfc3339(),
        "consumer": record.consumer.as_str(),
        "seq": record.seq.0,
        "event_id": record.event_id,
        "type": record.event_type,
        "org": record.org,
        "state": LetterState::of(record).as_str(),
        "error": {
            "message": record.error_message,
            "code": record.error_code,
            "kind": record.error_kind,
            "detail": record.error_detail,
        },
        "attempts": record.attempts,
        "first_attempt": record.first_attempt.map(UnixMs::to_rfc3339),
        "last_attempt": record.last_attempt.map(UnixMs::to_rfc3339),
        "correlation_id": record.correlation_id,
        "redriven_at": at(LetterState::Redriven),
        "discarded_at": at(LetterState::Discarded),
        "closed_by": closed.map(|closed| &closed.context.by),
        "job": job,
        "reason": reason,
        "earlier": record.earlier,
        "event": event,
    })
}
