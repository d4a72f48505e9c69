//! What is done with scheduled events, one thing at a time. The store is only touched from here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::book::{Book, Waiting};
use crate::config::LiveSettings;
use crate::event::envelope::{Draft, Event};
use crate::event::parse::same_json;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::metrics::Metrics;
use crate::outbox::{Append, AppendReply, Gate, Intake, Permit};
use crate::store::{
    AppendUnit, Appended, EventLog, Prepared, ScheduleKey, ScheduleStore, ScheduledRecord, StoreError, blocking,
    log_record,
};

/// Events released together.
const RELEASE_EVENTS: usize = 256;
/// Bytes released together, besides at least one event.
const RELEASE_BYTES: usize = 2 << 20;

/// Events that one caller asks about. The permit bounds what waits for the lane.
#[derive(Debug)]
pub struct Request {
    /// Each with its due time; without one it is an event for now whose id was found in the book.
    pub events: Vec<(Prepared, Option<UnixMs>)>,
    /// Who asks.
    pub context: WriteContext,
    /// A share of the gate.
    pub permit: Permit,
    /// Where the answers go, one an event.
    pub reply: oneshot::Sender<Result<Vec<Asked>, Problem>>,
}

/// What became of one event of a request.
#[derive(Debug)]
pub enum Asked {
    /// It waits; a duplicate did before.
    Scheduled {
        /// When it is due.
        deliver_at: UnixMs,
        /// Whether it was there already: nothing was written then.
        duplicate: bool,
    },
    /// Another event that waits has its id.
    Conflict,
    /// The log has it, or another one with its id.
    Logged(Appended),
    /// The schedule is full.
    Refused(Problem),
    /// It is not to be scheduled, and nothing of its id waits (any more): it is for the log.
    Free(Box<Prepared>),
}

/// What became of a cancelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is gone and will never come.
    Yes,
    /// Nothing waits under this key: it was released or cancelled before.
    Absent,
}

/// What the lane works with.
#[derive(Clone)]
pub struct LaneParts {
    /// Where scheduled events are kept.
    pub store: Arc<dyn ScheduleStore>,
    /// Where they go when they are due.
    pub log: Arc<dyn EventLog>,
    /// What waits.
    pub book: Arc<Book>,
    /// The way into the log.
    pub intake: Arc<Intake>,
    /// The gate before it.
    pub gate: Gate,
    /// Whether the log takes events at all.
    pub settings: LiveSettings,
    /// Time.
    pub clock: SharedClock,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Held while the store is changed: a new life of the actor reads only after the last change of the old one.
    pub turn: Arc<Mutex<()>>,
}

/// What a release came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// So many events went to the log.
    Some(usize),
    /// The log takes nothing now: try later.
    Later,
}

impl LaneParts {
    /// Reads the book from the store, once everything is in the log that an earlier life has sent there.
    pub(super) async fn reload(self) -> Result<(), StoreError> {
        match self.send(Vec::new()) {
            Ok(answer) => answer.await.map_err(|_| StoreError::Unavailable)??,
            Err(_) => return Err(StoreError::Unavailable),
        };
        blocking(move || {
            let _turn = self.turn.lock();
            self.book.reload(&*self.store)
        })
        .await
    }

    /// Answers requests in their order. After an error the book must be read again.
    pub(super) async fn schedule(self, requests: Vec<Request>) -> Result<(), StoreError> {
        let reading = self.book.readings();
        match self.reserve(&requests).await {
            Ok(()) => {}
            Err(problem) => {
                self.book.change(super::book::Entries::release_reservations);
                for request in requests {
                    // Whoever asked may be gone.
                    request.reply.send(Err(problem.clone())).ok();
                }
                return Ok(());
            }
        }
        blocking(move || {
            let _turn = self.turn.lock();
            let mut replies = Vec::with_capacity(requests.len());
            let mut plan = Plan { parts: &self, fresh: HashMap::new(), puts: Vec::new(), added: (0, 0) };
            let mut answers = Vec::with_capacity(requests.len());
            // A new life has read the book since, and forgotten what was reserved.
            let void = self.book.readings() != reading;
            let mut failed = void.then_some(StoreError::Unavailable);
            for Request { events, context, permit, reply } in requests {
                if failed.is_none() {
                    match plan.answer(events, &context) {
                        Ok(answer) => answers.push(answer),
                        Err(error) => failed = Some(error),
                    }
                }
                replies.push((reply, permit));
            }
            let done = match failed {
                Some(error) => Err(error),
                None => plan.write(),
            };
            match &done {
                Ok(()) => {
                    self.book.change(super::book::Entries::release_reservations);
                    for ((reply, _permit), answer) in replies.into_iter().zip(answers) {
                        reply.send(Ok(answer)).ok();
                    }
                }
                Err(error) => {
                    for (reply, _permit) in replies {
                        reply.send(Err(crate::hub::store_problem(error))).ok();
                    }
                }
            }
            done
        })
        .await
    }

    /// Reserves the ids that are to be scheduled, and waits until the log has everything that was sent to it before.
    async fn reserve(&self, requests: &[Request]) -> Result<(), Problem> {
        let given = |request: &Request| -> Vec<(String, String)> {
            let later = request.events.iter().filter(|(event, due)| due.is_some() && event.id_given);
            later.map(|(event, _)| (event.meta.org.clone(), event.meta.id.clone())).collect()
        };
        let ids: Vec<_> = requests.iter().flat_map(given).collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.book.change(|entries| ids.iter().for_each(|(org, id)| entries.reserve(org, id)));
        // Who looked before the reservation has sent its event on: the queue is in order.
        self.send(Vec::new())?.await.map_err(|_| unknown())?.map_err(|error| crate::hub::store_problem(&error))?;
        Ok(())
    }

    fn send(&self, events: Vec<Prepared>) -> Result<oneshot::Receiver<AppendReply>, Problem> {
        let bytes = events.iter().map(|event| event.record().len()).sum();
        let permit = self
            .gate
            .enter(bytes)
            .ok_or_else(|| Problem::new(ProblemKind::Overloaded, "more events wait than the log takes; come back"))?;
        let (reply, answer) = oneshot::channel();
        self.intake
            .append(Append { unit: AppendUnit { events, atomic: false }, permit, reply })
            .map_err(|error| Problem::new(ProblemKind::Overloaded, error.to_string()))?;
        Ok(answer)
    }

    /// Takes an event away for good. After an error the book must be read again.
    pub(super) async fn cancel(self, key: ScheduleKey) -> Result<Cancelled, StoreError> {
        blocking(move || {
            let _turn = self.turn.lock();
            let Some(one) = self.book.change(|entries| entries.waiting(key)) else { return Ok(Cancelled::Absent) };
            // A crash may have come after it was released and before it was taken away.
            let released = self.log.find(&one.org, &one.id)?.is_some();
            self.store.remove_scheduled(&[key])?;
            self.book.change(|entries| entries.remove(key));
            let (outcome, told) = if released { ("known", Cancelled::Absent) } else { ("cancelled", Cancelled::Yes) };
            self.metrics.schedule_ended.with_label_values(&[outcome]).inc();
            Ok(told)
        })
        .await
    }

    /// Appends what is due to the log, and takes it away after that (SC-3).
    pub(super) async fn release(self) -> Result<Released, StoreError> {
        let now = self.clock.now();
        if !self.settings.load().enabled {
            return Ok(Released::Later);
        }
        let parts = self.clone();
        let (keys, events) = blocking(move || {
            let _turn = parts.turn.lock();
            parts.due(now)
        })
        .await?;
        let answer = match self.send(events) {
            Ok(answer) => answer.await,
            Err(problem) => {
                tracing::debug!(%problem, "due events wait");
                return Ok(Released::Later);
            }
        };
        let Ok(answers) = answer else { return Ok(Released::Later) };
        let answers = answers?;
        let count = keys.len();
        for (key, answer) in keys.iter().zip(&answers) {
            let outcome = match answer {
                Appended::New(_) => {
                    self.metrics.events_appended.inc();
                    "released"
                }
                // It was appended before a crash, and could not be taken away.
                Appended::Duplicate(_) => "known",
                Appended::Conflict(seq) => {
                    tracing::error!(due_at = %key.due_at, %seq, "the log has another event with the id of a due one");
                    "conflict"
                }
                Appended::Withheld => "withheld",
            };
            self.metrics.schedule_ended.with_label_values(&[outcome]).inc();
        }
        blocking(move || {
            let _turn = self.turn.lock();
            self.store.remove_scheduled(&keys)?;
            self.book.change(|entries| keys.iter().for_each(|key| entries.remove(*key)));
            self.store.sweep_schedule(now)
        })
        .await?;
        Ok(Released::Some(count))
    }

    /// The events that are due, ready for the log.
    fn due(&self, now: UnixMs) -> Result<(Vec<ScheduleKey>, Vec<Prepared>), StoreError> {
        let (mut keys, mut events, mut bytes) = (Vec::new(), Vec::new(), 0);
        for one in self.book.due(now, RELEASE_EVENTS) {
            let Some(record) = self.store.scheduled(one.key)? else {
                tracing::error!(due_at = %one.key.due_at, "a scheduled event is not in the store any more");
                self.book.change(|entries| entries.remove(one.key));
                continue;
            };
            let event = decode(one.key, record)?;
            bytes += event.body.len();
            // Its id is known to the log from now on, also one that was made here: it may be released again.
            let draft = Draft {
                meta: event.meta.clone(),
                body: event.body.clone(),
                id_given: true,
                received_at: now,
                deliver_at: None,
            };
            let prepared = Prepared::new(draft)
                .map_err(|source| StoreError::Corrupt { what: "a due event".to_owned(), source })?;
            keys.push(one.key);
            events.push(prepared);
            if bytes >= RELEASE_BYTES {
                break;
            }
        }
        Ok((keys, events))
    }
}

fn unknown() -> Problem {
    Problem::new(ProblemKind::Overloaded, "the outcome is unknown; send it again with the same id")
}

/// The event of a record.
pub(crate) fn decode(key: ScheduleKey, record: ScheduledRecord) -> Result<Arc<Event>, StoreError> {
    log_record::decode(Seq::ZERO, record.event)
        .map_err(|source| StoreError::Corrupt { what: format!("scheduled event of {}", key.due_at), source })
}

/// A group of requests being decided.
struct Plan<'a> {
    parts: &'a LaneParts,
    /// Ids that the group itself schedules: due time and body.
    fresh: HashMap<(String, String), (UnixMs, bytes::Bytes)>,
    puts: Vec<(Waiting, ScheduledRecord)>,
    /// Events and bytes of `puts`.
    added: (usize, u64),
}

impl Plan<'_> {
    fn answer(
        &mut self,
        events: Vec<(Prepared, Option<UnixMs>)>,
        context: &WriteContext,
    ) -> Result<Vec<Asked>, StoreError> {
        events.into_iter().map(|(event, due_at)| self.decide(event, due_at, context)).collect()
    }

    fn decide(&mut self, event: Prepared, due_at: Option<UnixMs>, context: &WriteContext) -> Result<Asked, StoreError> {
        let parts = self.parts;
        let (org, id) = (event.meta.org.as_str(), event.meta.id.as_str());
        let told = |same: bool, deliver_at| {
            if same { Asked::Scheduled { deliver_at, duplicate: true } } else { Asked::Conflict }
        };
        if let Some((due_at, body)) = self.fresh.get(&(org.to_owned(), id.to_owned())) {
            return Ok(told(same_json(body, event.body()), *due_at));
        }
        if let Some(key) = parts.book.change(|entries| entries.kept(org, id))
            && let Some(record) = parts.store.scheduled(key)?
        {
            return Ok(told(same_json(&decode(key, record)?.body, event.body()), key.due_at));
        }
        let Some(due_at) = due_at else { return Ok(Asked::Free(Box::new(event))) };
        if event.id_given
            && let Some(seq) = parts.log.find(org, id)?
        {
            let same = parts.log.get(seq)?.is_some_and(|there| same_json(&there.body, event.body()));
            return Ok(Asked::Logged(if same { Appended::Duplicate(seq) } else { Appended::Conflict(seq) }));
        }
        let bytes = event.record().len() as u64;
        let key = match parts
            .book
            .change(|entries| entries.room(parts.book.bounds, self.added, bytes).map(|()| entries.next_number()))
        {
            Ok(number) => ScheduleKey { due_at, number },
            Err(problem) => return Ok(Asked::Refused(problem)),
        };
        self.added = (self.added.0 + 1, self.added.1 + bytes);
        let record = ScheduledRecord { created: context.clone(), event: bytes::Bytes::copy_from_slice(event.record()) };
        self.puts.push((Waiting { key, org: Arc::from(org), id: Arc::from(id), bytes }, record));
        let body = bytes::Bytes::copy_from_slice(event.body());
        self.fresh.insert((org.to_owned(), id.to_owned()), (due_at, body));
        Ok(Asked::Scheduled { deliver_at: due_at, duplicate: false })
    }

    /// Makes what was decided durable, and then known.
    fn write(self) -> Result<(), StoreError> {
        if self.puts.is_empty() {
            return Ok(());
        }
        let (waiting, records): (Vec<_>, Vec<_>) =
            self.puts.into_iter().map(|(waiting, record)| (waiting.clone(), (waiting.key, record))).unzip();
        self.parts.store.put_scheduled(&records)?;
        let count = waiting.len() as u64;
        self.parts.book.change(|entries| waiting.into_iter().for_each(|one| entries.add(one)));
        self.parts.metrics.schedule_taken.inc_by(count);
        Ok(())
    }
}
