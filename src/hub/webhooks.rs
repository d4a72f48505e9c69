//! Webhooks as a service: made, changed, paused, tested, deleted (WHK-1). A change is durable before it is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use serde_json::Value;
use url::Url;

use super::{Documents, Hub, Service};
use crate::breaker::BreakerSettings;
use crate::breaker::actor::Configure;
use crate::config::{self, Config};
use crate::event::envelope::Event;
use crate::event::parse::parse_event;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::{ConsumerId, Seq, prefixed};
use crate::ground::secret::{Sealer, Secret};
use crate::inbox::messages::Reconfigure;
use crate::inbox::spec::{ConsumerKind, ConsumerSpec};
use crate::inbox::state::InboxRules;
use crate::retry::RetryPolicy;
use crate::router::Inboxes as _;
use crate::router::messages::{Subscribe, Unsubscribe};
use crate::store::EventLog as _;
use crate::webhook::access::Access;
use crate::webhook::auth::{Auth, Credentials};
use crate::webhook::delivery::{Caller, Target};
use crate::webhook::format::Form;
use crate::webhook::health::HealthRules;
use crate::webhook::oauth::TOKEN_TIMEOUT_MS;
use crate::webhook::outbound::{Answer, OwnWay};
use crate::webhook::record::{
    Ground, WebhookRecord, WebhookSettings, WebhookStatus, header_map, read_change, read_new,
};
use crate::webhook::signer::{Made, Signer, Signers};

/// Most webhooks of a hub.
const WEBHOOKS_MAX: usize = 100_000;
/// Added to the delivery timeout to make the lease of a claim: an answer always comes first.
const LEASE_SLACK_MS: u64 = 15_000;

/// A webhook in memory, with the revision of its document.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) record: Arc<WebhookRecord>,
    revision: u64,
}

/// Every webhook.
#[derive(Debug)]
pub(super) struct Webhooks {
    documents: Documents<WebhookRecord>,
    by_id: DashMap<String, Stored>,
    /// Changes of webhooks are made one at a time: they are rare, and each syncs.
    changing: parking_lot::Mutex<()>,
}

impl Webhooks {
    pub(super) fn load(documents: Documents<WebhookRecord>) -> Result<Self, Problem> {
        let by_id = DashMap::new();
        for (record, revision) in documents.list()? {
            if let Some(mistake) = record.settings.filter.mistake() {
                tracing::warn!(webhook = %record.id, %mistake, "the webhook's filter does not compile any more; it matches nothing");
            }
            by_id.insert(record.id.clone(), Stored { record: Arc::new(record), revision });
        }
        Ok(Self { documents, by_id, changing: parking_lot::Mutex::new(()) })
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<WebhookRecord>> {
        self.by_id.get(id).map(|stored| Arc::clone(&stored.record))
    }

    pub(super) fn all(&self) -> Vec<Arc<WebhookRecord>> {
        let mut all: Vec<_> = self.by_id.iter().map(|stored| Arc::clone(&stored.record)).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// The router is being restarted.
pub(super) fn router_away() -> Problem {
    Problem::new(ProblemKind::Overloaded, "the router is being restarted; the change holds when it is back")
}

/// The breaker of a webhook that names no numbers of its own.
pub(super) fn default_breaker(config: &Config) -> BreakerSettings {
    BreakerSettings {
        failure_threshold: config.breaker.failure_threshold,
        success_threshold: config.breaker.success_threshold,
        cooldown_ms: config.breaker.cooldown_ms,
        cooldown_cap_ms: config.breaker.cooldown_cap_ms,
        probes_max: config.breaker.probes_max,
        ..BreakerSettings::default()
    }
}

/// The rules of a webhook that has none of its own.
fn default_health(config: &Config) -> HealthRules {
    let config::Health { failing_after, pause_after_ms, pause_after_failures } = config.health;
    HealthRules { failing_after, pause_after_ms, pause_after_failures }
}

/// A consumer's settings from its webhook.
pub(super) fn webhook_spec(config: &Config, record: &WebhookRecord) -> ConsumerSpec {
    let settings = &record.settings;
    let schedule = &config.delivery.retry;
    let call_ms = settings.breaker.as_ref().and_then(|breaker| breaker.call_timeout_ms);
    let call_ms = call_ms.unwrap_or(config.delivery.total_timeout_ms);
    // A token may be asked for twice, and then the call is made twice.
    let by_token = settings.auth.as_ref().is_some_and(|auth| auth["kind"] == "oauth2");
    let attempt_ms = if by_token { 2 * (call_ms + TOKEN_TIMEOUT_MS) } else { call_ms };
    ConsumerSpec {
        kind: ConsumerKind::Webhook,
        filter: Arc::new(settings.filter.clone()),
        rules: InboxRules {
            ordering: settings.ordering,
            concurrency: settings.concurrency.unwrap_or(config.delivery.concurrency),
            window_events: config.inbox.window_events,
            window_bytes: config.inbox.window_bytes,
            parked_max: config.inbox.parked_max,
            lease_ms: attempt_ms + LEASE_SLACK_MS,
        },
        retry: settings.retry.clone().unwrap_or_else(|| RetryPolicy::Fixed {
            attempts_max: u32::try_from(schedule.delays_ms.len() + 1).unwrap_or(u32::MAX),
            delays_ms: schedule.delays_ms.clone(),
            jitter: schedule.jitter,
        }),
        rate_limit: settings.rate_limit,
        health: Some(settings.health.unwrap_or_default().over(default_health(config))),
        overload_rest_ms: config.delivery.overload_rest_ms,
        paused: record.status != WebhookStatus::Active,
        dead_letters: true,
        from: record.from,
    }
}

fn damaged(record: &WebhookRecord, what: &str) -> Problem {
    tracing::error!(webhook = %record.id, what, "a stored webhook cannot be used");
    Problem::new(ProblemKind::Internal, "the stored webhook cannot be used; the log of the hub has the cause")
}

fn open(sealer: &Sealer, sealed: &str, context: &str) -> Option<Secret> {
    sealer.open(&hex::decode(sealed).ok()?, context).ok()
}

/// What of a webhook's settings is sealed: its headers and credentials.
fn open_settings(sealer: &Sealer, record: &WebhookRecord) -> Result<(BTreeMap<String, String>, Credentials), Problem> {
    let headers = match &record.sealed_headers {
        Some(sealed) => open(sealer, sealed, &headers_context(&record.id))
            .and_then(|text| serde_json::from_str(text.expose()).ok())
            .ok_or_else(|| damaged(record, "headers"))?,
        None => BTreeMap::new(),
    };
    let credentials = match &record.sealed_credentials {
        Some(sealed) => open(sealer, sealed, &credentials_context(&record.id))
            .and_then(|text| Credentials::from_sealed_text(&text))
            .ok_or_else(|| damaged(record, "credentials"))?,
        None => Credentials::default(),
    };
    Ok((headers, credentials))
}

/// Where and how a webhook is called: its secrets opened.
pub(super) fn webhook_target(config: &Config, sealer: &Sealer, record: &WebhookRecord) -> Result<Target, Problem> {
    let damaged = |what: &str| damaged(record, what);
    let signer = |sealed: &str| {
        let secret = open(sealer, sealed, &record.id).ok_or_else(|| damaged("secret"))?;
        Signer::from_secret(record.settings.signing, &secret).map_err(|_| damaged("signing key"))
    };
    let previous = match &record.previous {
        Some(previous) => Some((signer(&previous.sealed_secret)?, previous.until)),
        None => None,
    };
    let breaker = record.settings.breaker.clone().unwrap_or_else(|| default_breaker(config));
    let (headers, credentials) = open_settings(sealer, record)?;
    let access = Access::of(credentials.auth.as_ref()).ok_or_else(|| damaged("token_url"))?;
    let own = OwnWay {
        identity: match &credentials.auth {
            Some(Auth::Mtls { certificate, key }) => Some((certificate.clone(), key.clone())),
            Some(Auth::Bearer { .. } | Auth::Basic { .. } | Auth::Oauth2(_) | Auth::Header { .. }) | None => None,
        },
        proxy: credentials.proxy.clone(),
    };
    let mut hide = credentials.secrets();
    // A header's value may be a credential, alone or after its scheme.
    hide.extend(headers.values().filter_map(|value| value.rsplit(' ').next()).map(Secret::new));
    Ok(Target {
        url: Url::parse(&record.settings.url).map_err(|_| damaged("url"))?,
        signers: Signers { current: signer(&record.sealed_secret)?, previous },
        form: Form::of(record.settings.format, record.settings.template.as_ref()).map_err(|_| damaged("template"))?,
        headers: header_map(&headers),
        timeout_ms: breaker.call_timeout_ms,
        breaker,
        access,
        own: (own != OwnWay::default()).then(|| (own, OnceLock::new())),
        hide,
    })
}

fn headers_context(id: &str) -> String {
    format!("{id}/headers")
}

fn credentials_context(id: &str) -> String {
    format!("{id}/credentials")
}

impl Hub {
    pub(super) fn seal(&self, secret: &Secret, context: &str) -> String {
        hex::encode(self.inner.sealer.seal(secret, context, &*self.inner.random))
    }

    fn seal_headers(&self, settings: &WebhookSettings, id: &str) -> Option<String> {
        if settings.headers.is_empty() {
            return None;
        }
        let text = serde_json::to_string(&settings.headers).unwrap_or_default();
        Some(self.seal(&Secret::new(text), &headers_context(id)))
    }

    fn seal_credentials(&self, settings: &WebhookSettings, id: &str) -> Option<String> {
        settings.credentials.to_sealed_text().map(|text| self.seal(&text, &credentials_context(id)))
    }

    /// Makes a webhook. The secret is returned this once.
    ///
    /// # Errors
    /// When a field does not fit, or the store fails.
    pub async fn create_webhook(
        &self,
        fields: Fields,
        org: Option<&str>,
        context: WriteContext,
    ) -> Result<(Arc<WebhookRecord>, Made), Problem> {
        let breaker = default_breaker(&self.inner.config);
        let settings = read_new(fields, org, Ground { policy: &self.inner.policy, breaker: &breaker })?;
        let (record, made) = self.blocking(move |hub| hub.store_new_webhook(settings, context)).await?;
        self.serve_webhook(&record)?;
        let consumer = ConsumerId::new(&record.id);
        self.inner.router.ask(Subscribe { consumer }).await.map_err(|_| router_away())?;
        Ok((record, made))
    }

    fn store_new_webhook(
        &self,
        settings: WebhookSettings,
        context: WriteContext,
    ) -> Result<(Arc<WebhookRecord>, Made), Problem> {
        let webhooks = &self.inner.webhooks;
        let _one_at_a_time = webhooks.changing.lock();
        if webhooks.by_id.len() >= WEBHOOKS_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a hub has at most {WEBHOOKS_MAX} webhooks")));
        }
        let id = prefixed("whk", context.at, &*self.inner.random);
        let made = Signer::generate(settings.signing, &*self.inner.random);
        let record = WebhookRecord {
            sealed_secret: self.seal(&made.secret, &id),
            sealed_headers: self.seal_headers(&settings, &id),
            sealed_credentials: self.seal_credentials(&settings, &id),
            secret_last4: made.last4(),
            public_key: made.public_key.clone(),
            previous: None,
            status: WebhookStatus::Active,
            status_reason: None,
            from: self.inner.engine.head(),
            created: context.clone(),
            updated: context,
            settings,
            id,
        };
        let revision = webhooks.documents.put(&record.id, &record, None)?;
        let record = Arc::new(record);
        webhooks.by_id.insert(record.id.clone(), Stored { record: Arc::clone(&record), revision });
        Ok((record, made))
    }

    /// Puts a webhook into the directory, or gives the one that is there its new settings.
    fn serve_webhook(&self, record: &WebhookRecord) -> Result<(), Problem> {
        let spec = webhook_spec(&self.inner.config, record);
        let target = webhook_target(&self.inner.config, &self.inner.sealer, record)?;
        let id = ConsumerId::new(&record.id);
        let directory = &self.inner.directory;
        match directory.get(&id) {
            Some(consumer) => {
                consumer.spec.store(Arc::new(spec));
                if let Service::Webhook(held) = &consumer.service {
                    held.store(Arc::new(target));
                }
                if let Some(inbox) = directory.running(&id) {
                    inbox.hint(Reconfigure);
                }
                if let Some(breaker) = directory.running_breaker(&id) {
                    breaker.hint(Configure);
                }
            }
            None => {
                directory.add(id, spec, Service::Webhook(Arc::new(ArcSwap::from_pointee(target))));
            }
        }
        Ok(())
    }

    /// A webhook, when the key may see it.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]: also for one of another org, so that ids cannot be probed.
    pub fn webhook(&self, id: &str, org: Option<&str>) -> Result<Arc<WebhookRecord>, Problem> {
        let found = self.inner.webhooks.get(id);
        let visible = found.filter(|record| org.is_none() || record.settings.filter.org.as_deref() == org);
        visible.ok_or_else(|| Problem::not_found("webhook", id))
    }

    /// The webhooks that the key may see, by id.
    #[must_use]
    pub fn webhooks(&self, org: Option<&str>) -> Vec<Arc<WebhookRecord>> {
        let mut all = self.inner.webhooks.all();
        all.retain(|record| org.is_none() || record.settings.filter.org.as_deref() == org);
        all
    }

    /// Changes a webhook's settings.
    ///
    /// # Errors
    /// When it is not there, a field does not fit, or the store fails.
    pub async fn change_webhook(
        &self,
        id: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Arc<WebhookRecord>, Problem> {
        let before = self.webhook(id, org)?;
        let mut known = before.settings.clone();
        (known.headers, known.credentials) = open_settings(&self.inner.sealer, &before)?;
        let breaker = default_breaker(&self.inner.config);
        let ground = Ground { policy: &self.inner.policy, breaker: &breaker };
        let settings = read_change(fields, &known, ground)?;
        self.update_webhook(id, context, move |hub, record| {
            record.sealed_headers = hub.seal_headers(&settings, &record.id);
            record.sealed_credentials = hub.seal_credentials(&settings, &record.id);
            record.settings = settings;
        })
        .await
    }

    /// Pauses or resumes a webhook, or disables it, with the reason.
    ///
    /// # Errors
    /// When it is not there, or the store fails.
    pub async fn set_webhook_status(
        &self,
        id: &str,
        org: Option<&str>,
        status: WebhookStatus,
        reason: Option<String>,
        context: WriteContext,
    ) -> Result<Arc<WebhookRecord>, Problem> {
        self.webhook(id, org)?;
        if status == WebhookStatus::Active {
            self.begin_health_anew(id).await?;
        }
        self.update_webhook(id, context, move |_, record| {
            record.status = status;
            record.status_reason = reason;
        })
        .await
    }

    pub(super) async fn update_webhook(
        &self,
        id: &str,
        context: WriteContext,
        change: impl FnOnce(&Hub, &mut WebhookRecord) + Send + 'static,
    ) -> Result<Arc<WebhookRecord>, Problem> {
        let id = id.to_owned();
        let record = self
            .blocking(move |hub| {
                let webhooks = &hub.inner.webhooks;
                let _one_at_a_time = webhooks.changing.lock();
                let stored = webhooks.by_id.get(&id).map(|stored| stored.clone());
                let stored = stored.ok_or_else(|| Problem::not_found("webhook", &id))?;
                let mut record = (*stored.record).clone();
                change(hub, &mut record);
                record.updated = context;
                let revision = webhooks.documents.put(&id, &record, Some(stored.revision))?;
                let record = Arc::new(record);
                webhooks.by_id.insert(id, Stored { record: Arc::clone(&record), revision });
                Ok(record)
            })
            .await?;
        self.serve_webhook(&record)?;
        let consumer = ConsumerId::new(&record.id);
        self.inner.router.ask(Subscribe { consumer }).await.map_err(|_| router_away())?;
        Ok(record)
    }

    /// Deletes a webhook: its inbox is forgotten, its dead letters stay.
    ///
    /// # Errors
    /// When it is not there, or the store fails.
    pub async fn delete_webhook(&self, id: &str, org: Option<&str>) -> Result<(), Problem> {
        self.webhook(id, org)?;
        let key = id.to_owned();
        self.blocking(move |hub| {
            let webhooks = &hub.inner.webhooks;
            let _one_at_a_time = webhooks.changing.lock();
            webhooks.documents.delete(&key)?;
            webhooks.by_id.remove(&key);
            hub.inner.owners.forget(&key)?;
            let breaker = crate::breaker::actor::DOCUMENT_KIND;
            let registry: &dyn crate::store::Registry = &*hub.inner.engine;
            registry.delete(breaker, &key).map_err(|error| super::store_problem(&error))?;
            Ok(())
        })
        .await?;
        let consumer = ConsumerId::new(id);
        self.inner.directory.remove(&consumer).await;
        self.inner.router.hint(Unsubscribe { consumer });
        Ok(())
    }

    /// Sends a test event to a webhook, past its inbox and breaker, and answers with what came of it.
    ///
    /// # Errors
    /// When it is not there, or the hub is stopping.
    pub async fn test_webhook(&self, id: &str, org: Option<&str>) -> Result<Value, Problem> {
        let record = self.webhook(id, org)?;
        let target = webhook_target(&self.inner.config, &self.inner.sealer, &record)?;
        let now = self.inner.clock.now();
        let event_id = prefixed("test", now, &*self.inner.random);
        let body = serde_json::json!({
            "id": event_id,
            "type": "tidegate.test",
            "org": record.settings.filter.org,
            "data": {"webhook": record.id, "message": "a test of this webhook"},
        });
        let draft = parse_event(&Bytes::from(body.to_string()), &self.parse_rules(None, None))?;
        let event = Event::new(Seq::ZERO, now, draft.meta, draft.body);
        let (arbiter, outbound) = self.inner.directory.lane(&ConsumerId::new(id));
        let caller = Caller {
            target: Arc::new(ArcSwap::from_pointee(target)),
            outbound: outbound.clone(),
            redactor: self.inner.redactor.clone(),
            clock: Arc::clone(&self.inner.clock),
        };
        let (sender, answer) = tokio::sync::oneshot::channel::<Answer>();
        arbiter.spawn(async move {
            let answer = caller.call(&event, event.meta.traceparent.as_deref()).await;
            // Who asked may have gone away.
            sender.send(answer).ok();
        });
        let answer = answer.await.map_err(|_| Problem::new(ProblemKind::Overloaded, "the hub is stopping"))?;
        let error = match &answer.result {
            crate::retry::AttemptResult::Delivered { .. } => None,
            crate::retry::AttemptResult::Failed { message, .. } => Some(message.clone()),
        };
        Ok(serde_json::json!({
            "event_id": event_id,
            "delivered": error.is_none(),
            "outcome": answer.result.as_str(),
            "status": answer.status,
            "latency_ms": answer.latency_ms,
            "error": error,
            "response_snippet": answer.snippet,
        }))
    }
}
