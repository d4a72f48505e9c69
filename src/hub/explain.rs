//! Gathering the facts of an event and its consumers: what [`crate::explain`] answers from, for `GET /v1/events/{id}`
//! and its `explain` (OUT-2, WHK-9).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Consumer, Hub, Service, store_problem};
use crate::breaker::actor::{DOCUMENT_KIND, Inspect as InspectBreaker};
use crate::breaker::state::BreakerState;
use crate::breaker::{BreakerSettings, record};
use crate::event::envelope::Event;
use crate::event::filter::subject::Subject;
use crate::event::filter::{Clause, Decision};
use crate::event::redact::Audience;
use crate::event::render;
use crate::explain::{DELIVERED, Explanation, Facts, Stand, explain};
use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::messages::InboxView;
use crate::inbox::state::Standing;
use crate::router::messages::Inspect as InspectRouter;
use crate::store::records::RowState;
use crate::store::{AttemptRecord, ConsumerState as _, EventLog, Position, Registry};

/// Consumers that one event's answer lists.
const CONSUMERS_LISTED_MAX: usize = 1_000;
/// Said instead of the condition that an event does not meet: with it one could tell what was compared (EVT-4).
const REASON_WITHHELD: &str = "the condition does not hold; events of this type are redacted";

/// Which consumers of an event are asked about.
#[derive(Clone, Debug)]
pub struct ExplainQuery {
    /// This one alone.
    pub consumer: Option<String>,
    /// After this one.
    pub after: Option<String>,
    /// Most consumers.
    pub limit: usize,
}

/// A consumer with what its filter says of the event.
struct Judged {
    consumer: Arc<Consumer>,
    /// None for a match.
    refusal: Option<Facts>,
}

impl Judged {
    fn new(consumer: Arc<Consumer>, subject: &Subject<'_>, redacted: bool) -> Self {
        let spec = consumer.spec.load();
        let refusal = match spec.filter.decide_on(subject) {
            Decision::NoMatch(Clause::Expression) if redacted => {
                Some(Facts::NotMatched { clause: Clause::Expression, reason: REASON_WITHHELD.to_owned() })
            }
            Decision::NoMatch(clause) => {
                Some(Facts::NotMatched { clause, reason: spec.filter.reason(clause, subject) })
            }
            Decision::Match if subject.event.seq <= spec.from => Some(Facts::BeforeStart { from: spec.from }),
            Decision::Match => None,
        };
        drop(spec);
        Self { consumer, refusal }
    }
}

/// What the store knows of one event and consumer.
struct Stored {
    /// The newest attempt.
    last: Option<AttemptRecord>,
    /// What an exception row says, when there is one.
    row: Option<Standing>,
    dead_letter: Option<String>,
    waits_for: Option<String>,
}

impl Hub {
    /// An event with where it stands with each consumer it matches.
    ///
    /// # Errors
    /// As [`Hub::event`].
    pub async fn event_with_consumers(&self, id: &str, org: Option<&str>) -> Result<Vec<u8>, Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        let (event, lifecycle, matched) = self
            .blocking(move |hub| {
                let event = hub.event(&id, org.as_deref())?;
                let subject = Subject::new(&event);
                let judged = hub.consumers_of(&event).map(|one| Judged::new(one, &subject, false));
                let matched = judged.filter(|one| one.refusal.is_none()).map(|one| (one.consumer.id.clone(), one));
                let mut matched: Vec<_> = matched.take(CONSUMERS_LISTED_MAX).collect();
                matched.sort_by(|a, b| a.0.cmp(&b.0));
                drop(subject);
                let lifecycle = hub.lifecycle_of(&event)?;
                Ok((event, lifecycle, matched))
            })
            .await?;
        let mut consumers = Vec::new();
        for (_, judged) in matched {
            let stand = self.stand(&judged.consumer, &event).await?;
            consumers.push(delivery_json(&judged.consumer, &event, &stand));
        }
        let mut out = render::envelope_open(&self.inner.redactor.shown(&event, Audience::Console));
        out.extend_from_slice(b",\"consumers\":");
        out.extend_from_slice(Value::from(consumers).to_string().as_bytes());
        if !lifecycle.is_null() {
            out.extend_from_slice(b",\"lifecycle\":");
            out.extend_from_slice(lifecycle.to_string().as_bytes());
        }
        out.push(b'}');
        Ok(out)
    }

    /// For the consumers of the event's org, a page of them by id: whether it matched, what decided, where it stands.
    ///
    /// # Errors
    /// As [`Hub::event`]; [`ProblemKind::NotFound`](crate::ground::error::ProblemKind::NotFound) also for a consumer that
    /// is asked for by name and gets no events of this org.
    pub async fn explain(&self, id: &str, org: Option<&str>, query: ExplainQuery) -> Result<Value, Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        let limit = query.limit;
        let (event, lifecycle, mut judged) = self
            .blocking(move |hub| {
                let event = hub.event(&id, org.as_deref())?;
                let page = hub.page_of_consumers(&event, &query)?;
                let subject = Subject::new(&event);
                let (org, event_type) = (&event.meta.org, &event.meta.event_type);
                let redacted = hub.inner.redactor.touches(org, event_type, Audience::Console);
                let judged = page.into_iter().map(|consumer| Judged::new(consumer, &subject, redacted));
                let judged: Vec<_> = judged.collect();
                drop(subject);
                let lifecycle = hub.lifecycle_of(&event)?;
                Ok((event, lifecycle, judged))
            })
            .await?;
        let has_more = judged.len() > limit;
        judged.truncate(limit);
        let next = judged.last().map(|one| one.consumer.id.as_str().to_owned());
        let mut consumers = Vec::with_capacity(judged.len());
        for Judged { consumer, refusal } in judged {
            let facts = match refusal {
                Some(facts) => facts,
                None => Facts::Matched(Box::new(self.stand(&consumer, &event).await?)),
            };
            let kind = consumer.spec.load().kind.as_str();
            consumers.push(explain(&facts).to_json(consumer.id.as_str(), kind));
        }
        Ok(json!({
            "event": {
                "id": event.meta.id,
                "seq": event.seq.0,
                "org": event.meta.org,
                "type": event.meta.event_type,
                "received_at": event.received_at.to_rfc3339(),
            },
            "lifecycle": lifecycle,
            "consumers": consumers,
            "next_cursor": next.unwrap_or_default(),
            "has_more": has_more,
        }))
    }

    /// Everyone who gets events of this event's org.
    fn consumers_of(&self, event: &Event) -> impl Iterator<Item = Arc<Consumer>> {
        let org = event.meta.org.clone();
        let all = self.inner.directory.consumers().into_iter();
        all.filter(move |one| one.spec.load().filter.org.as_ref().is_none_or(|wanted| *wanted == org))
    }

    /// One more than the page has, which tells that there is another; no more than that is kept while looking.
    fn page_of_consumers(&self, event: &Event, query: &ExplainQuery) -> Result<Vec<Arc<Consumer>>, Problem> {
        let mut page = BTreeMap::new();
        for one in self.consumers_of(event) {
            let id = one.id.as_str();
            let wanted = query.consumer.as_deref().is_none_or(|wanted| wanted == id)
                && query.after.as_deref().is_none_or(|after| id > after);
            if wanted {
                page.insert(one.id.clone(), one);
            }
            if page.len() > query.limit + 1 {
                page.pop_last();
            }
        }
        match &query.consumer {
            Some(name) if page.is_empty() => Err(Problem::not_found("consumer of this event's org", name)),
            Some(_) | None => Ok(page.into_values().collect()),
        }
    }

    /// Where a matching event stands with a consumer.
    async fn stand(&self, consumer: &Arc<Consumer>, event: &Arc<Event>) -> Result<Stand, Problem> {
        let view = self.view(consumer, vec![event.seq]).await;
        let (mut standing, reached) = self.standing(consumer, view.as_ref(), event.seq).await;
        if standing != Standing::Ahead {
            self.publish_attempts(&consumer.id).await;
        }
        let (id, wanted, runs) = (consumer.id.clone(), Arc::clone(event), view.is_some());
        let stored = self.blocking(move |hub| hub.stored(&id, &wanted, standing, runs)).await?;
        if let Some(row) = stored.row {
            standing = row;
        }
        let waits = !matches!(standing, Standing::Settled | Standing::Processing { .. });
        let breaker = match consumer.service {
            Service::Webhook(_) if waits => self.breaker_state(&consumer.id).await,
            Service::Publish(ref publisher) if waits => self.upstream_breaker(publisher.upstream()).await,
            Service::Webhook(_) | Service::Handler | Service::Pull(_) | Service::Publish(_) => None,
        };
        let out = view.as_ref().and_then(|view| view.out.iter().find(|(claim, _)| claim.seq == event.seq));
        Ok(Stand {
            seq: event.seq,
            earliest: self.inner.engine.earliest(),
            paused: consumer.spec.load().paused,
            standing,
            reached,
            lease_until: out.map(|(_, lease_until)| *lease_until),
            waits_for: stored.waits_for,
            hold: view.and_then(|view| view.hold),
            breaker,
            last: stored.last,
            dead_letter: stored.dead_letter,
        })
    }

    /// Where an event stands by what the inbox says, or the router where no inbox runs; and how far the consumer is.
    async fn standing(&self, consumer: &Consumer, view: Option<&InboxView>, seq: Seq) -> (Standing, Seq) {
        let in_inbox = view.map(|view| view.standings.first().copied().unwrap_or(Standing::Pending));
        if let (Some(standing), Some(view)) = (in_inbox, view)
            && standing != Standing::Ahead
        {
            return (standing, view.position.cursor);
        }
        // An inbox that follows is not told of what does not match; how far it is, the router knows.
        let (cursor, position) = self.position(&consumer.id).await;
        let settled = position.as_ref().map_or(seq <= cursor, |position| position.covers(seq));
        let known = view.map_or(Seq::ZERO, |view| view.position.cursor);
        let reached = position.map_or(cursor, |position| position.cursor).max(known);
        (if settled { Standing::Settled } else { Standing::Ahead }, reached)
    }

    /// Where the router has a consumer; no position when it follows the cursor.
    pub(super) async fn position(&self, consumer: &ConsumerId) -> (Seq, Option<Position>) {
        let asked = self.inner.router.ask(InspectRouter { consumers: vec![consumer.clone()] }).await;
        match asked {
            Ok(view) => (view.cursor, view.consumers.into_iter().next().and_then(|(_, position)| position)),
            Err(_) => (Seq::ZERO, None),
        }
    }

    /// Blocks.
    fn stored(&self, consumer: &ConsumerId, event: &Event, standing: Standing, runs: bool) -> Result<Stored, Problem> {
        let engine = &self.inner.engine;
        let last = self.attempts_of(consumer, event)?.pop();
        // Without an inbox the position covers what has a row, too.
        let row = if runs || standing != Standing::Settled { None } else { self.row(consumer, event.seq)? };
        let given_up = last.as_ref().filter(|last| last.outcome != DELIVERED && last.next_try_at.is_none());
        let dead_letter = match given_up {
            Some(last) if row.is_none() => self.letter_left_by(consumer, last)?.map(|letter| letter.id),
            Some(_) | None => None,
        };
        let waits_for = match standing {
            Standing::BehindKey { head } => EventLog::get(&**engine, head).map_err(|error| store_problem(&error))?,
            Standing::Pending
            | Standing::Processing { .. }
            | Standing::Failed { .. }
            | Standing::Settled
            | Standing::Ahead => None,
        };
        Ok(Stored { last, row, dead_letter, waits_for: waits_for.map(|event| event.meta.id.clone()) })
    }

    fn row(&self, consumer: &ConsumerId, seq: Seq) -> Result<Option<Standing>, Problem> {
        let rows = self.inner.engine.rows_after(consumer, seq.prev(), 1).map_err(|error| store_problem(&error))?;
        let row = rows.into_iter().find(|(at, _)| *at == seq);
        Ok(row.map(|(_, row)| match row.state {
            RowState::Retry { due_at } => Standing::Failed { due_at, attempts: row.attempts },
            RowState::Held => Standing::Pending,
        }))
    }

    /// The state of a webhook's breaker, from its actor or as it is kept.
    async fn breaker_state(&self, consumer: &ConsumerId) -> Option<BreakerState> {
        if let Some(breaker) = self.inner.directory.running_breaker(consumer)
            && let Ok(view) = breaker.ask(InspectBreaker).await
        {
            return Some(view.state);
        }
        let key = consumer.clone();
        let kept = self.blocking(move |hub| {
            Registry::get(&*hub.inner.engine, DOCUMENT_KIND, key.as_str()).map_err(|error| store_problem(&error))
        });
        let document = kept.await.ok().flatten()?;
        record::decode(&document.bytes, BreakerSettings::default()).ok().map(|breaker| breaker.state().clone())
    }
}

/// The entry of a consumer in the answer to `GET /v1/events/{id}`.
fn delivery_json(consumer: &Consumer, event: &Event, stand: &Stand) -> Value {
    let last = stand.last.as_ref();
    let facts = Facts::Matched(Box::new(stand.clone()));
    let Explanation { status, attempts, next_try_at, .. } = explain(&facts);
    let processed_at = last.filter(|attempt| attempt.outcome == DELIVERED).map(|attempt| attempt.at.to_rfc3339());
    json!({
        "consumer": consumer.id.as_str(),
        "name": consumer.name(),
        "status": status.as_str(),
        "waits_behind_key": matches!(stand.standing, Standing::BehindKey { .. }),
        "attempts": attempts,
        "last_error": last.and_then(|attempt| attempt.error.clone()),
        "available_at": next_try_at.map(UnixMs::to_rfc3339),
        "processed_at": processed_at,
        "created_at": event.received_at.to_rfc3339(),
        "updated_at": last.map_or(event.received_at, |attempt| attempt.at).to_rfc3339(),
    })
}
