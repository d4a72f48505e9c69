//! In-process handlers as consumers: made at their first registration, known over a restart.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Hub, Service};
use crate::config::OutboxSettings;
use crate::event::filter::{EventFilter, TypePattern};
use crate::ground::error::Problem;
use crate::ground::ids::{ConsumerId, Seq};
use crate::handler::{EventHandler, HandlerActor, HandlerId, HandlerParts, Publisher, Receipt, check_consumer_name};
use crate::inbox::messages::Reconfigure;
use crate::inbox::spec::{ConsumerKind, ConsumerSpec};
use crate::inbox::state::{InboxRules, Ordering};
use crate::retry::RetryPolicy;
use crate::router::Inboxes as _;
use crate::router::messages::{Subscribe, Unsubscribe};
use crate::store::EventLog as _;
use crate::supervise::{ActorKind, supervise};

/// A consumer of in-process handlers as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandlerRecord {
    /// Its name.
    pub name: String,
    /// Everything its handlers have ever asked for: a program registers them one after the other, and what it has not
    /// come to yet must not be passed over meanwhile.
    pub event_types: Vec<TypePattern>,
    /// Where the log stood when it was made.
    pub from: Seq,
}

/// The settings of a consumer of in-process handlers.
pub(super) fn spec(record: &HandlerRecord, settings: &OutboxSettings, inbox: &crate::config::Inbox) -> ConsumerSpec {
    ConsumerSpec {
        kind: ConsumerKind::Handler,
        filter: Arc::new(EventFilter { event_types: record.event_types.clone(), ..EventFilter::default() }),
        rules: InboxRules {
            ordering: Ordering::None,
            concurrency: settings.batch_size.max(1) as usize,
            window_events: inbox.window_events,
            window_bytes: inbox.window_bytes,
            parked_max: inbox.parked_max,
            lease_ms: settings.processing_lease_ms,
        },
        retry: RetryPolicy::Exponential {
            attempts_max: settings.max_attempts,
            base_ms: settings.retry_base_delay_ms,
            multiplier: 2.0,
            cap_ms: RETRY_CAP_MS,
            jitter: 0.0,
        },
        rate_limit: None,
        health: None,
        overload_rest_ms: 0,
        paused: !settings.processor_enabled,
        dead_letters: settings.dead_letter_enabled,
        from: record.from,
    }
}

/// Longest wait between two attempts of a handler.
const RETRY_CAP_MS: u64 = 60 * 60 * 1_000;

/// Publishes follow-up events of handlers.
struct FollowUps(std::sync::Weak<super::Inner>);

impl Publisher for FollowUps {
    fn publish(&self, body: bytes::Bytes) -> BoxFuture<'static, Result<Receipt, Problem>> {
        let hub = self.0.upgrade().map(|inner| Hub { inner });
        Box::pin(async move {
            match hub {
                Some(hub) => hub.publish_json(body).await,
                None => Err(Problem::new(crate::ground::error::ProblemKind::Overloaded, "the hub has stopped")),
            }
        })
    }
}

impl Hub {
    /// Registers a handler of `consumer` for events of `pattern` (exact, `prefix.*` or `*`). Handlers of one consumer
    /// that match an event run in order of priority, lower first. A consumer that is new gets events from now on; one
    /// that was known before goes on where it was. Handlers that a consumer had in an earlier run are waited for as long
    /// as a lease; events that none of them takes are passed over after that.
    ///
    /// # Errors
    /// When pattern or name do not fit, or the store fails.
    pub async fn subscribe(
        &self,
        pattern: &str,
        consumer: &str,
        priority: i32,
        handler: impl EventHandler,
    ) -> Result<HandlerId, Problem> {
        check_consumer_name(consumer)?;
        let id = self.inner.handlers.register(pattern, consumer, priority, handler)?;
        if let Err(problem) = self.know_handler(consumer).await {
            self.inner.handlers.remove(id);
            return Err(problem);
        }
        Ok(id)
    }

    async fn know_handler(&self, consumer: &str) -> Result<(), Problem> {
        let name = consumer.to_owned();
        let record = self.blocking(move |hub| hub.store_handler(&name)).await?;
        let inner = &self.inner;
        let consumer_id = ConsumerId::handler(consumer);
        let spec = spec(&record, &inner.settings.get(), &inner.config.inbox);
        let known = inner.directory.add(consumer_id.clone(), spec.clone(), Service::Handler);
        known.spec.store(Arc::new(spec));
        let handle = known.handler_or_make(|| {
            let (arbiter, _) = inner.directory.lane(&consumer_id);
            let parts = HandlerParts {
                consumer: Arc::from(consumer),
                registry: Arc::clone(&inner.handlers),
                spec: Arc::clone(&known.spec),
                publisher: Arc::new(FollowUps(Arc::downgrade(inner))),
                redactor: inner.redactor.clone(),
                links: Arc::clone(&inner.links),
                tracer: inner.tracer.clone(),
                clock: Arc::clone(&inner.clock),
                since: inner.clock.now(),
            };
            supervise(arbiter, ActorKind::Handler, &inner.health, move || HandlerActor::new(parts.clone()))
        });
        inner.directory.set_deliverer(&known, Some(Arc::new(handle)));
        if let Some(inbox) = inner.directory.running(&consumer_id) {
            inbox.hint(Reconfigure);
        }
        inner.router.ask(Subscribe { consumer: consumer_id }).await.map_err(|_| super::webhooks::router_away())
    }

    /// Keeps what a consumer's handlers ask for. Blocks.
    fn store_handler(&self, name: &str) -> Result<HandlerRecord, Problem> {
        let documents = &self.inner.handler_documents;
        let mut event_types = self.inner.handlers.patterns_of(name);
        let stored = documents.get(name)?;
        if let Some((record, _)) = &stored {
            event_types.extend(record.event_types.iter().cloned());
            event_types.sort();
            event_types.dedup();
        }
        let (record, revision) = match stored {
            Some((record, _)) if record.event_types == event_types => return Ok(record),
            Some((record, revision)) => (HandlerRecord { event_types, ..record }, Some(revision)),
            None => (HandlerRecord { name: name.to_owned(), event_types, from: self.inner.engine.head() }, None),
        };
        documents.put(name, &record, revision)?;
        Ok(record)
    }

    /// Forgets a consumer of in-process handlers, its inbox and its handlers.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_handler(&self, consumer: &str) -> Result<bool, Problem> {
        for registered in self.inner.handlers.all_of(consumer) {
            self.inner.handlers.remove(registered);
        }
        let name = consumer.to_owned();
        let was = self.blocking(move |hub| hub.inner.handler_documents.delete(&name)).await?;
        let consumer = ConsumerId::handler(consumer);
        self.inner.directory.remove(&consumer).await;
        self.inner.router.hint(Unsubscribe { consumer });
        Ok(was)
    }

    /// Gives every in-process consumer the settings that hold now.
    pub(super) fn reconfigure_handlers(&self) {
        let settings = self.inner.settings.get();
        for consumer in self.inner.directory.consumers() {
            if !matches!(consumer.service, Service::Handler) {
                continue;
            }
            let before = consumer.spec.load_full();
            let record = HandlerRecord {
                name: String::new(),
                event_types: before.filter.event_types.clone(),
                from: before.from,
            };
            consumer.spec.store(Arc::new(spec(&record, &settings, &self.inner.config.inbox)));
            if let Some(inbox) = self.inner.directory.running(&consumer.id) {
                inbox.hint(Reconfigure);
            }
        }
    }
}
