//! What is done with scheduled events, one thing at a time. The store is only touched from here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::book::{Book, Waiting};
use crate::config::LiveSettings;
use crate::event::envelope::{Draft, Event};
use crate::event::parse::same_json;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::ids::Seq;
use crate::metrics::Metrics;
use crate::outbox::{Append, AppendReply, Intake, SharedGate, TenantPermit};
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
    pub permit: TenantPermit,
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
    pub gate: Arc<SharedGate>,
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
    /// What was due went to the log, as much as goes at once.
    All,
    /// The log takes nothing now, or nothing of some org: try later.
    Later,
}

impl LaneParts {
    /// Reads the book from the store, once everything is in the log that an earlier life has sent there.
    pub(super) async fn reload(self) -> Result<(), StoreError> {
        self.book.change_after(|_| ()).ended().await;
        blocking(move || {
            let _turn = self.turn.lock();
            self.book.reload(&*self.store)
        })
        .await
    }

    /// Answers requests in their order. After an error the book must be read again.
    pub(super) async fn schedule(self, requests: Vec<Request>) -> Result<(), StoreError> {
        let reading = self.book.readings();
        self.reserve(&requests).await;
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
    async fn reserve(&self, requests: &[Request]) {
        let events = requests.iter().flat_map(|request| &request.events);
        let ids: Vec<_> = events
            .filter(|(event, due_at)| due_at.is_some() && event.id_given)
            .map(|(event, _)| (event.meta.org.as_str(), event.meta.id.as_str()))
            .collect();
        if !ids.is_empty() {
            let before = self.book.change_after(|entries| ids.iter().for_each(|(org, id)| entries.reserve(org, id)));
            before.ended().await;
        }
    }

    /// Puts due events of an org into the queue of the log.
    fn send(&self, org: &str, events: Vec<Prepared>) -> Result<oneshot::Receiver<AppendReply>, String> {
        let bytes = events.iter().map(|event| event.record().len()).sum();
        let permit = self.gate.enter(org, bytes).map_err(|full| full.to_string())?;
        let passage = Some(self.book.look().passage());
        let (reply, answer) = oneshot::channel();
        let unit = AppendUnit { events, atomic: false };
        self.intake.append(Append { unit, permit, passage, reply }).map_err(|error| error.to_string())?;
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

    /// Appends what is due to the log, and takes it away after that (SC-3). The log may take nothing of an org that floods
    /// it: that waits, and what other orgs have goes on.
    pub(super) async fn release(self) -> Result<Released, StoreError> {
        if !self.settings.load().enabled {
            return Ok(Released::Later);
        }
        let mut waits = HashSet::new();
        loop {
            let now = self.clock.now();
            let parts = self.clone();
            let but = waits.clone();
            let (due, but) = blocking(move || {
                let _turn = parts.turn.lock();
                parts.due(now, &but).map(|due| (due, but))
            })
            .await?;
            waits = but;
            let mut sent = Vec::with_capacity(due.len());
            let mut refused = false;
            for Due { org, keys, events } in due {
                match self.send(&org, events) {
                    Ok(answer) => sent.push((keys, answer)),
                    Err(reason) => {
                        tracing::debug!(%org, reason, "due events wait");
                        waits.insert(org);
                        refused = true;
                    }
                }
            }
            for (keys, answer) in sent {
                // Without an answer it is not known: what is in the log is known there the next time.
                let answers = answer.await.map_err(|_| StoreError::Unavailable)??;
                self.clone().take_away(keys, answers, now).await?;
            }
            match (refused, waits.is_empty()) {
                (true, _) => {}
                (false, true) => return Ok(Released::All),
                (false, false) => return Ok(Released::Later),
            }
        }
    }

    /// Takes away what the log has.
    async fn take_away(self, keys: Vec<ScheduleKey>, answers: Vec<Appended>, now: UnixMs) -> Result<(), StoreError> {
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
        .await
    }

    /// The events that are due, ready for the log, by org.
    fn due(&self, now: UnixMs, but: &HashSet<Arc<str>>) -> Result<Vec<Due>, StoreError> {
        let mut due: Vec<Due> = Vec::new();
        let mut bytes = 0;
        for one in self.book.due(now, but, RELEASE_EVENTS) {
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
            let at = due.iter().position(|known| known.org == one.org).unwrap_or_else(|| {
                due.push(Due { org: Arc::clone(&one.org), keys: Vec::new(), events: Vec::new() });
                due.len() - 1
            });
            due[at].keys.push(one.key);
            due[at].events.push(prepared);
            if bytes >= RELEASE_BYTES {
                break;
            }
        }
        Ok(due)
    }
}

/// Due events of an org.
struct Due {
    org: Arc<str>,
    keys: Vec<ScheduleKey>,
    events: Vec<Prepared>,
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
