//! Publish rules as a service: served as consumers, changed, taken away, previewed (UPS-5).
//!
//! What a rule has been asked for stands in its upstream's document; where it began stands in a document of its own, its
//! place. A rule that is changed goes on where it was: what waits is sent as the rule now says. A rule that is no longer
//! declared is forgotten when nothing waits for it; else it is kept as a paused consumer (`PL-1`), until it is declared
//! again or an operator discards what waits.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::webhooks::router_away;
use super::{Consumer, Documents, Hub, Service, store_problem};
use crate::breaker::BreakerState;
use crate::breaker::actor::Inspect as InspectBreaker;
use crate::config::Config;
use crate::event::envelope::Event;
use crate::event::filter::Decision;
use crate::event::filter::subject::Subject;
use crate::event::parse::parse_event;
use crate::event::redact::{Audience, WITHHELD};
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::{ConsumerId, Seq};
use crate::ground::limits::EVENT_ID_CHARS_MAX;
use crate::inbox::messages::{Reconfigure, Wake};
use crate::inbox::spec::{ConsumerKind, ConsumerSpec};
use crate::inbox::state::InboxRules;
use crate::router::Inboxes as _;
use crate::router::messages::{Subscribe, Unsubscribe};
use crate::store::{ConsumerState as _, Engine, EventLog as _};
use crate::upstream::call::Payload;
use crate::upstream::publish::publisher::{Depths, PublisherParts};
use crate::upstream::publish::rule::{CONCURRENCY_DEFAULT, PublishRule};
use crate::upstream::publish::{Publisher, Write, Writer};
use crate::upstream::record::UpstreamSettings;
use crate::webhook::oauth::TOKEN_TIMEOUT_MS;

/// Kind of the places in the registry.
pub(super) const DOCUMENT_KIND: &str = "publish";
/// Added to the time of a call to make the lease of a claim: the call may wait for its turn and for the upstream's rate.
const LEASE_SLACK_MS: u64 = 120_000;
/// Rows of a rule that are counted.
const ROWS_COUNTED: usize = 1_000;
/// Names of rules that a refusal lists.
const NAMES_SHOWN: usize = 5;

/// Where a rule began, and the rule as it was last declared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// The upstream.
    pub(super) upstream: String,
    /// The rule.
    pub(super) rule: PublishRule,
    /// Where the log stood when it was made.
    pub(super) from: Seq,
    /// How it was made.
    pub(super) created: WriteContext,
    /// How it was changed last.
    pub(super) updated: WriteContext,
}

impl Place {
    fn consumer(&self) -> ConsumerId {
        ConsumerId::publish(&self.upstream, &self.rule.name)
    }
}

/// The places of all rules, with the revisions of their documents.
#[derive(Debug)]
pub(super) struct Publishes {
    documents: Documents<Place>,
    places: DashMap<ConsumerId, (Place, u64)>,
    /// How many events wait for each upstream.
    pub(super) depths: Arc<Depths>,
    /// Rules are changed one after the other.
    changing: tokio::sync::Mutex<()>,
}

impl Publishes {
    pub(super) fn load(documents: Documents<Place>) -> Result<Self, Problem> {
        let places = DashMap::new();
        for (place, revision) in documents.list()? {
            places.insert(place.consumer(), (place, revision));
        }
        Ok(Self { documents, places, depths: Arc::default(), changing: tokio::sync::Mutex::new(()) })
    }

    fn of(&self, upstream: &str) -> Vec<Place> {
        let of = self.places.iter().filter(|entry| entry.value().0.upstream == upstream);
        let mut places: Vec<Place> = of.map(|entry| entry.value().0.clone()).collect();
        places.sort_by(|a, b| a.rule.name.cmp(&b.rule.name));
        places
    }

    /// The rules as consumers at the start of the hub: those that are declared, and those that no longer are and have
    /// something waiting (PL-1). The others are forgotten. Blocks.
    pub(super) fn begin(
        &self,
        config: &Config,
        declared: &[(String, UpstreamSettings)],
        engine: &Engine,
        parts: &PublisherParts,
    ) -> Result<Vec<(ConsumerId, ConsumerSpec, Arc<Publisher>)>, Problem> {
        let context = WriteContext { by: "start".to_owned(), at: parts.clock.now(), ..WriteContext::default() };
        let mut out = Vec::new();
        let mut known = HashSet::new();
        for (upstream, settings) in declared {
            for rule in &settings.publishes {
                let place = self.keep(upstream, rule, engine.head(), &context)?;
                let spec = publish_spec(config, Some(settings), &place, true);
                known.insert(place.consumer());
                out.push((
                    place.consumer(),
                    spec,
                    Publisher::new(upstream, Writer::new(upstream, rule)?, parts.clone()),
                ));
            }
        }
        let left: Vec<Place> = self.places.iter().map(|entry| entry.value().0.clone()).collect();
        let left: Vec<Place> = left.into_iter().filter(|place| !known.contains(&place.consumer())).collect();
        if left.is_empty() {
            return Ok(out);
        }
        let behind = engine.checkpoints().map_err(|error| store_problem(&error))?.consumers;
        for place in left {
            let id = place.consumer();
            let rows = engine.rows_after(&id, Seq::ZERO, ROWS_COUNTED).map_err(|error| store_problem(&error))?;
            if rows.is_empty() && behind.iter().all(|(one, _)| *one != id) {
                self.forget(&id)?;
                continue;
            }
            retired(&place, rows.len() as u64);
            let settings = declared.iter().find(|(upstream, _)| *upstream == place.upstream).map(|(_, one)| one);
            let spec = publish_spec(config, settings, &place, false);
            let writer = Writer::new(&place.upstream, &place.rule)?;
            out.push((id, spec, Publisher::new(&place.upstream, writer, parts.clone())));
        }
        Ok(out)
    }

    /// Keeps a rule as it is declared now; one that is new begins at `head`. Blocks.
    fn keep(&self, upstream: &str, rule: &PublishRule, head: Seq, context: &WriteContext) -> Result<Place, Problem> {
        let id = ConsumerId::publish(upstream, &rule.name);
        let known = self.places.get(&id).map(|entry| entry.value().clone());
        let (place, revision) = match known {
            Some((place, _)) if place.rule == *rule => return Ok(place),
            Some((place, revision)) => {
                (Place { rule: rule.clone(), updated: context.clone(), ..place }, Some(revision))
            }
            None => {
                let (upstream, rule, created) = (upstream.to_owned(), rule.clone(), context.clone());
                (Place { upstream, rule, from: head, updated: created.clone(), created }, None)
            }
        };
        let revision = self.documents.put(id.as_str(), &place, revision)?;
        self.places.insert(id, (place.clone(), revision));
        Ok(place)
    }

    /// Blocks.
    fn forget(&self, id: &ConsumerId) -> Result<(), Problem> {
        self.documents.delete(id.as_str())?;
        self.places.remove(id);
        Ok(())
    }
}

/// A rule's settings as a consumer. A rule that is no longer declared is paused.
pub(super) fn publish_spec(
    config: &Config,
    upstream: Option<&UpstreamSettings>,
    place: &Place,
    declared: bool,
) -> ConsumerSpec {
    let rule = &place.rule;
    let attempt_ms = upstream.map_or(0, UpstreamSettings::attempt_ms);
    let retry = rule.retry.clone().or_else(|| upstream.map(|settings| settings.retry.clone()));
    ConsumerSpec {
        kind: ConsumerKind::Publish,
        filter: Arc::new(rule.filter.clone()),
        rules: InboxRules {
            ordering: rule.ordering,
            concurrency: rule.concurrency.unwrap_or(CONCURRENCY_DEFAULT),
            window_events: config.inbox.window_events,
            window_bytes: config.inbox.window_bytes,
            parked_max: config.inbox.parked_max,
            // A token may be asked for twice, and then the call is made twice.
            lease_ms: 2 * (attempt_ms + TOKEN_TIMEOUT_MS) + LEASE_SLACK_MS,
        },
        retry: retry.unwrap_or_else(crate::retry::RetryPolicy::webhook),
        // The upstream's own bucket holds for reads and publishes together.
        rate_limit: None,
        health: None,
        overload_rest_ms: config.delivery.overload_rest_ms,
        paused: rule.paused || !declared,
        dead_letters: true,
        from: place.from,
    }
}

impl Hub {
    fn publisher_parts(&self) -> PublisherParts {
        let inner = &self.inner;
        PublisherParts {
            calls: Arc::clone(&inner.upstreams) as _,
            depths: Arc::clone(&inner.publishes.depths),
            redactor: inner.redactor.clone(),
            tracer: inner.tracer.clone(),
            metrics: Arc::clone(&inner.metrics),
            clock: Arc::clone(&inner.clock),
        }
    }

    /// Refuses a change that takes rules away for which something waits.
    ///
    /// # Errors
    /// [`ProblemKind::Conflict`] with the names and the number of events that wait.
    pub(super) async fn check_rules_leave(&self, upstream: &str, after: &[PublishRule]) -> Result<(), Problem> {
        let (mut names, mut waiting) = (Vec::new(), 0);
        for place in self.inner.publishes.of(upstream) {
            if after.iter().any(|rule| rule.name == place.rule.name) {
                continue;
            }
            let unsettled = self.unsettled_of(&place.consumer()).await?;
            if unsettled > 0 {
                waiting += unsettled;
                names.push(place.rule.name);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        names.truncate(NAMES_SHOWN);
        let detail = format!(
            "events wait for the publish rules {}: let them go out, or discard them with DELETE /v1/admin/upstreams/{upstream}/publishes/{{name}}",
            names.join(", ")
        );
        Err(Problem::new(ProblemKind::Conflict, detail).with("unsettled", waiting))
    }

    /// How much waits for a rule: what is in its inbox, or in the store where no inbox runs, and the positions of the log
    /// that it has not come to. Never less than there is, so that nothing is taken for settled.
    async fn unsettled_of(&self, id: &ConsumerId) -> Result<u64, Problem> {
        let Some(consumer) = self.inner.directory.get(id) else { return Ok(0) };
        // What the inbox has recorded can be read after this.
        self.publish_attempts(id).await;
        let view = self.view(&consumer, Vec::new()).await;
        let of = id.clone();
        let stored = self
            .blocking(move |hub| {
                let rows = hub.inner.engine.rows_after(&of, Seq::ZERO, ROWS_COUNTED);
                rows.map(|rows| rows.len()).map_err(|error| store_problem(&error))
            })
            .await?;
        let counts = view.as_ref().map(|view| view.counts).unwrap_or_default();
        // The router is told now and then; how far the inbox is, it knows itself.
        let reached = view.map_or(Seq::ZERO, |view| view.position.cursor);
        let inside = counts.window + stored.max(counts.rows + counts.replays);
        // One that follows has nothing before it that is for it.
        let (_, position) = self.position(id).await;
        let head = self.inner.engine.head();
        let behind = position.map_or(0, |position| head.0.saturating_sub(position.cursor.max(reached).0));
        Ok(inside as u64 + behind)
    }

    /// Serves the rules of an upstream as they are declared now; `settings` is none when the upstream is gone. A rule that is
    /// declared no longer is forgotten, or paused when something waits for it (PL-1).
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn serve_publishes(
        &self,
        upstream: &str,
        settings: Option<&UpstreamSettings>,
        context: &WriteContext,
    ) -> Result<(), Problem> {
        let publishes = &self.inner.publishes;
        let _one_at_a_time = publishes.changing.lock().await;
        let declared = settings.map(|settings| settings.publishes.clone()).unwrap_or_default();
        for place in publishes.of(upstream) {
            if declared.iter().any(|rule| rule.name == place.rule.name) {
                continue;
            }
            let id = place.consumer();
            let waiting = self.unsettled_of(&id).await?;
            if waiting == 0 {
                self.forget_publish(&id).await?;
                continue;
            }
            retired(&place, waiting);
            if let Some(consumer) = self.inner.directory.get(&id) {
                consumer.spec.store(Arc::new(publish_spec(&self.inner.config, settings, &place, false)));
                self.reconfigure(&id).await?;
            }
        }
        for rule in declared {
            let (of, context) = (upstream.to_owned(), context.clone());
            let kept = self
                .blocking(move |hub| hub.inner.publishes.keep(&of, &rule, hub.inner.engine.head(), &context))
                .await?;
            self.serve_publish(settings, &kept)?;
            self.reconfigure(&kept.consumer()).await?;
        }
        Ok(())
    }

    /// Has inbox and router look at a rule's settings again.
    async fn reconfigure(&self, id: &ConsumerId) -> Result<(), Problem> {
        if let Some(inbox) = self.inner.directory.running(id) {
            inbox.hint(Reconfigure);
        }
        self.inner.router.ask(Subscribe { consumer: id.clone() }).await.map_err(|_| router_away())
    }

    /// Puts a rule into the directory, or gives the one that is there its new settings.
    fn serve_publish(&self, settings: Option<&UpstreamSettings>, place: &Place) -> Result<(), Problem> {
        let id = place.consumer();
        let spec = publish_spec(&self.inner.config, settings, place, true);
        let writer = Writer::new(&place.upstream, &place.rule)?;
        let directory = &self.inner.directory;
        match directory.get(&id) {
            Some(consumer) => {
                consumer.spec.store(Arc::new(spec));
                if let Service::Publish(publisher) = &consumer.service {
                    publisher.change(writer);
                }
            }
            None => {
                let publisher = Publisher::new(&place.upstream, writer, self.publisher_parts());
                directory.add(id, spec, Service::Publish(publisher));
            }
        }
        Ok(())
    }

    /// Forgets a rule with everything that waits for it.
    async fn forget_publish(&self, id: &ConsumerId) -> Result<(), Problem> {
        let key = id.clone();
        self.blocking(move |hub| hub.inner.publishes.forget(&key)).await?;
        self.inner.directory.remove(id).await;
        self.inner.router.hint(Unsubscribe { consumer: id.clone() });
        Ok(())
    }

    /// The consumer of a rule.
    fn publish_consumer(&self, upstream: &str, name: &str) -> Result<Arc<Consumer>, Problem> {
        let found = self.inner.directory.get(&ConsumerId::publish(upstream, name));
        found.ok_or_else(|| Problem::not_found("publish rule of this upstream", name))
    }

    /// What a rule would make of an event: `{event_id}` names one of the log, `{event}` is one that nobody publishes.
    ///
    /// # Errors
    /// When there is no such rule or event, or a field does not fit.
    pub async fn preview_publish(&self, upstream: &str, name: &str, mut fields: Fields) -> Result<Value, Problem> {
        let consumer = self.publish_consumer(upstream, name)?;
        let Service::Publish(publisher) = &consumer.service else {
            return Err(Problem::not_found("publish rule of this upstream", name));
        };
        let (id, sent) = (fields.text("event_id", EVENT_ID_CHARS_MAX)?, fields.take("event"));
        let org = fields.text("org", crate::ground::limits::SCOPE_CHARS_MAX)?;
        fields.finish()?;
        let event = match (id, sent) {
            (Some(id), None) => {
                let of = org.or_else(|| consumer.spec.load().filter.org.clone());
                self.blocking(move |hub| hub.event(&id, of.as_deref())).await?
            }
            (None, Some(sent)) => self.sample_event(&sent, consumer.spec.load().filter.org.as_deref())?,
            (None, None) => return Err(Problem::field("event_id", "required, or `event`", "nothing")),
            (Some(_), Some(_)) => return Err(Problem::field("event", "not together with `event_id`", "both")),
        };
        let writer = publisher.writer();
        let (decided, reason) = {
            let subject = Subject::new(&event);
            let filter = &writer.rule().filter;
            let decided = filter.decide_on(&subject);
            let reason = match decided {
                Decision::Match => None,
                Decision::NoMatch(clause) => Some(filter.reason(clause, &subject)),
            };
            (decided, reason)
        };
        let (matched, decided_by) = match decided {
            Decision::Match => (true, None),
            // In a rule the expression goes by another name.
            Decision::NoMatch(crate::event::filter::Clause::Expression) => (false, Some("when")),
            Decision::NoMatch(clause) => (false, Some(clause.as_str())),
        };
        // Whether it matches is decided on the original; what is shown is what people may see of it.
        let seen = self.inner.redactor.shown(&event, Audience::Console);
        let reason = if Arc::ptr_eq(&seen, &event) { reason } else { reason.map(|_| WITHHELD.to_owned()) };
        let (call, fault) = match writer.write(&seen).await {
            Ok(write) => (Some(shown(&write)), None),
            Err(fault) => (None, Some(fault.to_string())),
        };
        Ok(json!({
            "event_id": event.meta.id,
            "type": event.meta.event_type,
            "org": event.meta.org,
            "matched": matched,
            "decided_by": decided_by,
            "detail": reason,
            "call": call,
            "fault": fault,
        }))
    }

    /// An event as it would be in the log; it is not put there.
    fn sample_event(&self, sent: &Value, org: Option<&str>) -> Result<Arc<Event>, Problem> {
        let draft = parse_event(&Bytes::from(sent.to_string()), &self.parse_rules(org, org))
            .map_err(|problem| problem.under("event"))?;
        Ok(Event::new(Seq::ZERO, self.inner.clock.now(), draft.meta, draft.body))
    }

    /// How much waits for a rule.
    ///
    /// # Errors
    /// When there is no such rule.
    pub(super) async fn waits_for_publish(&self, upstream: &str, name: &str) -> Result<u64, Problem> {
        let consumer = self.publish_consumer(upstream, name)?;
        self.unsettled_of(&consumer.id).await
    }

    /// Forgets a rule with everything that waits for it. One that is forgotten already stays so.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn drop_publish(&self, upstream: &str, name: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.inner.publishes.changing.lock().await;
        self.forget_publish(&ConsumerId::publish(upstream, name)).await
    }

    /// The state of an upstream's breaker.
    pub(super) async fn upstream_breaker(&self, upstream: &str) -> Option<BreakerState> {
        let registered = self.inner.upstreams.get(upstream)?;
        registered.core.breaker.ask(InspectBreaker).await.ok().map(|view| view.state)
    }

    /// Has the rules of an upstream look whether they may go on.
    pub(super) fn wake_publishes(&self, upstream: &str) {
        for place in self.inner.publishes.of(upstream) {
            if let Some(inbox) = self.inner.directory.running(&place.consumer()) {
                inbox.hint(Wake);
            }
        }
    }
}

/// Tells of a rule that is no longer declared and has something waiting.
fn retired(place: &Place, waiting: u64) {
    tracing::warn!(
        app = place.upstream,
        rule = place.rule.name,
        waiting,
        "a publish rule is no longer declared and events wait for it; it is paused until it is declared again or what waits is discarded"
    );
}

/// A call as operators see it before it is made. It carries no credential: that is added on the way.
fn shown(Write { call, correlation_id }: &Write) -> Value {
    let mut headers: serde_json::Map<String, Value> =
        call.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    headers.insert("x-correlation-id".into(), Value::from(correlation_id.as_str()));
    headers.insert("x-idempotency-key".into(), Value::from(call.idempotency_key.as_deref()));
    let body = match &call.payload {
        Payload::Nothing => Value::Null,
        Payload::Json(value) => value.clone(),
        Payload::Text { content_type, body } => {
            headers.insert("content-type".into(), Value::from(content_type.as_str()));
            serde_json::from_slice(body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(body).into_owned()))
        }
    };
    json!({ "method": call.method.as_str(), "path": call.path, "headers": headers, "body": body })
}
