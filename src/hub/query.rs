//! Look-ups: events, where they stand with their consumers, attempts, dead letters, statistics (OUT-2, OUT-3, OUT-8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Consumer, Hub, Service, store_problem};
use crate::event::envelope::Event;
use crate::event::filter::TypePattern;
use crate::explain::DELIVERED;
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::messages::{InboxView, Inspect, Publish};
use crate::inbox::spec::ConsumerKind;
use crate::inbox::state::Hold;
use crate::lookup::{Column, WalkLimits, Wanted};
use crate::router::Inboxes as _;
use crate::router::messages::Inspect as InspectRouter;
use crate::store::records::PageKey;
use crate::store::{AttemptPage, AttemptRecord, ConsumerState as _, EventLog as _, Position};

/// Events read for one page; a page may end early, with a cursor, when few match.
const SCAN_EVENTS_MAX: usize = 50_000;
/// Rows of the log's index looked at for one page.
const SCAN_ROWS_MAX: usize = 8_192;
/// Pages of attempts looked through for one event and consumer.
const ATTEMPT_PAGES_MAX: usize = 256;
/// Pages looked through from the time an event was received on, before the newest ones.
const ATTEMPT_PAGES_NEAR: usize = 64;
/// Pages read at once.
const PAGES_READ: usize = 2;

/// What a look-up of events asks for. A clause that is not given does not narrow.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// The tenant.
    pub org: Option<String>,
    /// The type, exact or `prefix.*`.
    pub event_type: Option<TypePattern>,
    /// The source.
    pub source: Option<String>,
    /// The aggregate's type.
    pub aggregate_type: Option<String>,
    /// The aggregate's id.
    pub aggregate_id: Option<String>,
    /// Received at or after.
    pub from: Option<UnixMs>,
    /// Received before.
    pub to: Option<UnixMs>,
    /// After this position.
    pub after: Option<Seq>,
    /// Most events.
    pub limit: usize,
}

impl EventQuery {
    fn wanted(&self) -> Wanted {
        Wanted::default()
            .with(Column::Org, self.org.as_deref())
            .with_types(self.event_type.as_slice())
            .with(Column::Source, self.source.as_deref())
            .with(Column::AggregateType, self.aggregate_type.as_deref())
            .with(Column::AggregateId, self.aggregate_id.as_deref())
            .within(self.from, self.to)
    }

    fn matches(&self, event: &Event) -> bool {
        let meta = &event.meta;
        let same = |wanted: &Option<String>, found: Option<&String>| wanted.is_none() || wanted.as_ref() == found;
        same(&self.org, Some(&meta.org))
            && self.event_type.as_ref().is_none_or(|pattern| pattern.matches(&meta.event_type))
            && same(&self.source, meta.source.as_ref())
            && same(&self.aggregate_type, meta.aggregate_type.as_ref())
            && same(&self.aggregate_id, meta.aggregate_id.as_ref())
            && self.from.is_none_or(|from| event.received_at >= from)
            && self.to.is_none_or(|to| event.received_at < to)
    }
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins.
    pub next: String,
    /// Whether there may be more.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// The first `limit` of what was found; where more was found, there is more. The next page begins at the place of the
    /// last, or where this one did.
    #[must_use]
    pub fn first(mut found: Vec<T>, limit: usize, began: &str, place: impl FnOnce(&T) -> String) -> Self {
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map_or_else(|| began.to_owned(), place);
        Self { items: found, next, has_more }
    }

    /// The page with its items in another form.
    #[must_use]
    pub fn map<U>(self, form: impl FnMut(T) -> U) -> Page<U> {
        let Self { items, next, has_more } = self;
        Page { items: items.into_iter().map(form).collect(), next, has_more }
    }
}

/// Attempts of one event by where they are written, which tells them apart and gives their order: two may have ended in one
/// millisecond, and counts begin anew when an event is given out again.
struct OfOneEvent {
    seq: Seq,
    attempts: BTreeMap<(PageKey, usize), AttemptRecord>,
}

impl OfOneEvent {
    fn add(&mut self, key: PageKey, page: AttemptPage) {
        let placed = page.attempts.into_iter().enumerate().filter(|(_, attempt)| attempt.seq == self.seq);
        self.attempts.extend(placed.map(|(at, attempt)| ((key, at), attempt)));
    }
}

impl Hub {
    /// The event with this id. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; [`ProblemKind::InvalidParameter`] when several orgs have the id and none was named.
    pub fn event(&self, id: &str, org: Option<&str>) -> Result<Arc<Event>, Problem> {
        let engine = &self.inner.engine;
        let found = match org {
            Some(org) => engine.find(org, id).map(|seq| seq.into_iter().collect()),
            None => engine.find_all(id, 2),
        };
        let found: Vec<Seq> = found.map_err(|error| store_problem(&error))?;
        let seq = match found.as_slice() {
            [] => return Err(Problem::not_found("event", id)),
            [seq] => *seq,
            _ => {
                let mut problem =
                    Problem::new(ProblemKind::InvalidParameter, "several orgs have an event with this id; name one");
                problem.field = Some("org".to_owned());
                return Err(problem);
            }
        };
        let event = engine.get(seq).map_err(|error| store_problem(&error))?;
        event.ok_or_else(|| Problem::not_found("event", id))
    }

    /// Events in order of position. Blocks. Reads only what may match, by the index of the log; a page ends early, with
    /// `has_more`, when that much was read in vain.
    ///
    /// # Errors
    /// When the store fails.
    pub fn events(&self, query: &EventQuery) -> Result<Page<Arc<Event>>, Problem> {
        let engine = &self.inner.engine;
        let head = engine.head();
        let at = query.after.unwrap_or_default().next().max(engine.earliest());
        let limits = WalkLimits { found: query.limit, events: SCAN_EVENTS_MAX, bytes: usize::MAX, rows: SCAN_ROWS_MAX };
        let walked = self.inner.finder.walk(query.wanted(), at, head, limits, |event| query.matches(event));
        let walked = walked.map_err(|error| store_problem(&error))?;
        Ok(Page { items: walked.events, next: walked.upto.to_string(), has_more: walked.upto < head })
    }

    pub(super) async fn view(&self, consumer: &Consumer, seqs: Vec<Seq>) -> Option<InboxView> {
        self.inner.directory.running(&consumer.id)?.ask(Inspect { seqs }).await.ok()
    }

    /// Makes what a consumer's inbox has recorded so far readable. An inbox that is being restarted has lost what it had
    /// not written; what is in the store is then all there is.
    pub async fn publish_attempts(&self, consumer: &ConsumerId) {
        if let Some(inbox) = self.inner.directory.running(consumer) {
            match inbox.ask(Publish).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%consumer, %error, "attempts are not readable yet"),
                Err(error) => tracing::debug!(%consumer, %error, "attempts are not readable yet"),
            }
        }
    }

    /// The attempts of one event, of those still kept, in the order in which they ended. Blocks.
    ///
    /// Most events are tried when they come in, so the search begins there; one that was tried long after (a backlog, a
    /// late retry) is looked for from the newest attempts back. So is one that was given up: it may have been given out
    /// again since.
    pub(super) fn attempts_of(&self, consumer: &ConsumerId, event: &Event) -> Result<Vec<AttemptRecord>, Problem> {
        let engine = &self.inner.engine;
        let mut from = PageKey { at_ms: event.received_at.0, part: 0 };
        let mut found = OfOneEvent { seq: event.seq, attempts: BTreeMap::new() };
        for _ in 0..ATTEMPT_PAGES_NEAR / PAGES_READ {
            let pages = engine.attempts_since(consumer, from, PAGES_READ).map_err(|error| store_problem(&error))?;
            let newest = pages.last().filter(|_| pages.len() == PAGES_READ).map(|(key, _)| *key);
            pages.into_iter().for_each(|(key, page)| found.add(key, page));
            let settled = found.attempts.values().any(|attempt| attempt.next_try_at.is_none());
            match newest {
                Some(newest) if !settled => from = newest.next(),
                Some(_) | None => break,
            }
        }
        if !found.attempts.values().any(|attempt| attempt.outcome == DELIVERED) {
            let pages =
                engine.attempts(consumer, PageKey::MAX, ATTEMPT_PAGES_MAX).map_err(|error| store_problem(&error))?;
            let since = pages.into_iter().take_while(|(key, _)| key.at_ms >= event.received_at.0);
            since.for_each(|(key, page)| found.add(key, page));
        }
        Ok(found.attempts.into_values().collect())
    }

    /// Attempts of a consumer, newest first, from before the cursor (`at.part.index`) back. Blocks.
    ///
    /// # Errors
    /// When the cursor is none of ours or the store fails.
    pub fn attempts(&self, consumer: &ConsumerId, cursor: Option<&str>, limit: usize) -> Result<Page<Value>, Problem> {
        let (mut before, mut skip) = match cursor {
            Some(text) => attempts_cursor(text).ok_or_else(|| bad_cursor(text))?,
            None => (PageKey::MAX, 0),
        };
        let mut items = Vec::new();
        loop {
            let pages = self.inner.engine.attempts(consumer, before, 4).map_err(|error| store_problem(&error))?;
            let Some((last, _)) = pages.last() else {
                return Ok(Page { items, next: cursor_text(before, skip), has_more: false });
            };
            let last = *last;
            for (key, page) in pages {
                for attempt in page.attempts.iter().rev().skip(skip) {
                    if items.len() >= limit {
                        // The page itself is read again: the bound is exclusive.
                        return Ok(Page { items, next: cursor_text(key.next(), skip), has_more: true });
                    }
                    items.push(attempt_json(attempt));
                    skip += 1;
                }
                skip = 0;
            }
            before = last;
        }
    }

    /// Every consumer with its lag and sizes.
    pub async fn consumers(&self) -> Vec<Value> {
        let asked = self.inner.router.ask(InspectRouter { consumers: Vec::new() }).await;
        let (cursor, positions) = match asked {
            Ok(view) => (view.cursor, view.consumers.into_iter().collect()),
            Err(_) => (Seq::ZERO, std::collections::HashMap::new()),
        };
        let mut out = Vec::new();
        for consumer in self.inner.directory.consumers() {
            let view = self.view(&consumer, Vec::new()).await;
            let kept = positions.get(&consumer.id).cloned().flatten();
            out.push(self.consumer_json(&consumer, view.as_ref(), place(view.as_ref(), kept, cursor)));
        }
        out.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
        out
    }

    /// One consumer with its lag and sizes.
    pub(super) async fn consumer_standing(&self, consumer: &Consumer) -> Value {
        let view = self.view(consumer, Vec::new()).await;
        let (cursor, position) = self.position(&consumer.id).await;
        self.consumer_json(consumer, view.as_ref(), place(view.as_ref(), position, cursor))
    }

    fn consumer_json(&self, consumer: &Consumer, view: Option<&InboxView>, at: Seq) -> Value {
        let spec = consumer.spec.load();
        let totals = &consumer.totals;
        let counts = view.map(|view| view.counts).unwrap_or_default();
        // A consumer that is not in memory is held by a pause of the hub all the same.
        let hub_paused = self.is_paused().then_some(Hold::HubPaused);
        let hold = hub_paused.or_else(|| view.and_then(|view| view.hold)).map(|hold| match hold {
            Hold::HubPaused | Hold::Paused => json!({"reason": hold.as_str()}),
            Hold::Suspended { until } | Hold::RateLimited { until } => {
                json!({"reason": hold.as_str(), "until": until.to_rfc3339()})
            }
        });
        json!({
            "id": consumer.id.as_str(),
            "name": consumer.name(),
            "kind": spec.kind.as_str(),
            "org": spec.filter.org,
            "event_types": spec.filter.event_types,
            "paused": spec.paused,
            "in_memory": view.is_some(),
            "cursor": at.0,
            "lag": self.inner.engine.head().0.saturating_sub(at.0),
            "window": counts.window,
            "in_flight": counts.in_flight,
            "exception_rows": counts.rows,
            "replay_rows": counts.replays,
            "waiting_for_retry": counts.due,
            "hold": hold,
            "waiting_clients": match &consumer.service {
                Service::Pull(service) => Some(service.clients()),
                Service::Webhook(_) | Service::Handler | Service::Publish(_) => None,
            },
            "processed": totals.processed.load(Ordering::Relaxed),
            "failed_attempts": totals.failed.load(Ordering::Relaxed),
            "given_up": totals.given_up.load(Ordering::Relaxed),
            "gaps": totals.gaps.load(Ordering::Relaxed),
        })
    }

    /// The statistics of the hub (OUT-8).
    pub async fn stats(&self) -> Value {
        let consumers = self.consumers().await;
        let sum = |name: &str| consumers.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
        let lag_max = consumers.iter().filter_map(|one| one["lag"].as_u64()).max().unwrap_or(0);
        let oldest = consumers.iter().filter(|one| one["lag"].as_u64() > Some(0));
        let oldest = oldest.filter_map(|one| one["cursor"].as_u64()).min();
        let now = self.inner.clock.now();
        let oldest_ms = match oldest {
            Some(cursor) => {
                let read = self.blocking(move |hub| {
                    hub.inner.engine.get(Seq(cursor).next()).map_err(|error| store_problem(&error))
                });
                read.await.ok().flatten().map(|event| now.since_ms(event.received_at))
            }
            None => None,
        };
        let engine = &self.inner.engine;
        json!({
            "log": {
                "head": engine.head().0,
                "earliest": engine.earliest().0,
                "segments": engine.segments().len(),
                "store_bytes": engine.size_on_disk(),
            },
            "paused": self.is_paused(),
            "pending": sum("window").saturating_sub(sum("in_flight")),
            "processing": sum("in_flight"),
            "processed": sum("processed"),
            "failed": sum("waiting_for_retry"),
            "dead_letter": self.inner.metrics.dead_letters.get(),
            "oldest_pending_age_ms": oldest_ms,
            "lag_max": lag_max,
            "events_appended": self.inner.metrics.events_appended.get(),
            "events_duplicate": self.inner.metrics.events_duplicate.get(),
            "consumers": consumers.len(),
            "ingest_queue_bytes": self.inner.gate.held(),
            "state_queue": self.inner.ledger.waiting(),
        })
    }

    /// How many consumers there are of each kind.
    pub(super) fn consumer_counts(&self) -> [(ConsumerKind, u64); 4] {
        let mut counts = ConsumerKind::ALL.map(|kind| (kind, 0));
        for consumer in self.inner.directory.consumers() {
            let kind = consumer.spec.load().kind;
            counts.iter_mut().filter(|(of, _)| *of == kind).for_each(|(_, count)| *count += 1);
        }
        counts
    }
}

fn attempt_json(attempt: &AttemptRecord) -> Value {
    json!({
        "event_id": attempt.event_id,
        "seq": attempt.seq.0,
        "attempt": attempt.attempt,
        "at": attempt.at.to_rfc3339(),
        "latency_ms": attempt.latency_ms,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "error": attempt.error,
        "response_snippet": attempt.snippet,
        "next_try_at": attempt.next_try_at.map(UnixMs::to_rfc3339),
    })
}

fn cursor_text(page: PageKey, skip: usize) -> String {
    format!("{}.{}.{skip}", page.at_ms, page.part)
}

fn attempts_cursor(text: &str) -> Option<(PageKey, usize)> {
    let mut parts = text.split('.');
    let page = PageKey { at_ms: parts.next()?.parse().ok()?, part: parts.next()?.parse().ok()? };
    let skip = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((page, skip))
}

/// The cursor was not given out by this hub.
#[must_use]
pub fn bad_cursor(text: &str) -> Problem {
    Problem::field("cursor", "one that this list has given out", text).as_kind(ProblemKind::InvalidParameter)
}

/// Where a consumer stands: who follows, and has nothing out or waiting, has settled all that the router has read, though
/// its own cursor stays at its last match.
fn place(view: Option<&InboxView>, kept: Option<Position>, router: Seq) -> Seq {
    match (view, kept) {
        (Some(view), None) if view.counts.window == 0 && view.counts.in_flight == 0 => router,
        (Some(view), _) if view.position != Position::default() => view.position.cursor,
        (Some(_) | None, Some(kept)) => kept.cursor,
        (Some(_) | None, None) => router,
    }
}
