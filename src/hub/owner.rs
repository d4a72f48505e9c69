//! What owners are told of their webhooks, as events on the log: `tidegate.webhook.failing`, `paused`, `recovered`,
//! `exhausted`; and `tidegate.dead_letter.created` of consumers that are no webhooks (WHK-7, RTY-4).
//!
//! - `OE-1` A change is stored, with the event that tells of it, before anything is done about it; the event's id is made
//!   of the change's number. So a crash at any moment neither loses it nor tells it twice.
//! - `OE-2` The hub's own events never cause further ones: neither their failures nor their dead letters are counted.
//! - `OE-3` A flood of failures is not a flood of events: see [`crate::webhook::health`] and [`super::alerts`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use url::Url;

use super::alerts::{Alert, Alerts};
use super::{Documents, Hub, Inner};
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::ids::ConsumerId;
use crate::inbox::spec::{ConsumerKind, Notice};
use crate::webhook::health::{Change, ChangeKind, EndpointHealth, PauseReason, Tracked};
use crate::webhook::record::{WebhookRecord, WebhookStatus};

/// Kind of the documents below.
pub(super) const DOCUMENT_KIND: &str = "webhook-health";
/// How often counts are written and what could not be told is tried again, at most.
const TIDY_EVERY_MS: u64 = 60_000;
/// Events of one webhook that wait to be told at most; the oldest go first.
const PENDING_MAX: usize = 16;

/// An event that is to be on the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Announcement {
    event_type: String,
    body: Value,
}

/// What of an endpoint is kept over a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HealthRecord {
    pub(super) webhook: String,
    pub(super) health: EndpointHealth,
    #[serde(default)]
    pub(super) pending: Vec<Announcement>,
}

/// What inboxes have told and owners were not told of yet.
#[derive(Debug)]
pub(super) struct Owners {
    documents: Documents<HealthRecord>,
    pending: Mutex<HashMap<String, Vec<Announcement>>>,
    alerts: Arc<Mutex<Alerts>>,
    noted: Arc<Notify>,
}

/// The way in for what inboxes tell.
pub(super) struct Notices {
    pub(super) alerts: Arc<Mutex<Alerts>>,
    pub(super) noted: Arc<Notify>,
    pub(super) sender: mpsc::UnboundedSender<Noticed>,
}

impl Notices {
    /// Takes a notice. Dead letters are counted here, so that a flood of them is a number and not a queue.
    pub(super) fn take(&self, consumer: &ConsumerId, notice: Notice) {
        if let Notice::DeadLetter(note) = notice {
            let first = self.alerts.lock().note(consumer, note);
            if !first {
                tracing::warn!(%consumer, "too many consumers have dead letters to tell of each");
            }
            self.noted.notify_one();
            return;
        }
        // The receiver lives as long as the hub.
        self.sender.send((consumer.clone(), notice)).ok();
    }
}

/// What an inbox has told.
pub(super) type Noticed = (ConsumerId, Notice);

/// Times a notice is begun at most: what makes housekeeping panic twice is passed over.
const NOTICE_TRIES: u32 = 2;

/// What inboxes have told, outlasting the lives of who heeds it: what a panic interrupts is begun again. Whoever is told
/// twice knows it by the number of the change (OE-1).
pub(super) struct NoticeQueue(tokio::sync::Mutex<Told>);

struct Told {
    noticed: mpsc::UnboundedReceiver<Noticed>,
    begun: Option<(Noticed, u32)>,
}

impl NoticeQueue {
    pub(super) fn new(noticed: mpsc::UnboundedReceiver<Noticed>) -> Self {
        Self(tokio::sync::Mutex::new(Told { noticed, begun: None }))
    }

    /// The next notice, which stays the next one until [`NoticeQueue::heeded`]; none when the hub has ended. Dropping the
    /// wait loses nothing.
    async fn next(&self) -> Option<Noticed> {
        let mut told = self.0.lock().await;
        let Told { noticed, begun } = &mut *told;
        match begun {
            Some((notice, tries)) if *tries < NOTICE_TRIES => {
                *tries += 1;
                return Some(notice.clone());
            }
            Some((notice, _)) => {
                tracing::error!(consumer = %notice.0, "a notice that made housekeeping panic is passed over")
            }
            None => {}
        }
        *begun = None;
        let notice = noticed.recv().await?;
        *begun = Some((notice.clone(), 1));
        Some(notice)
    }

    async fn heeded(&self) {
        self.0.lock().await.begun = None;
    }
}

/// Alerts whose time has come. Those that are not on the log when this is dropped, by a panic too, wait again.
struct DueAlerts<'a> {
    alerts: &'a Mutex<Alerts>,
    rest: Vec<Alert>,
}

impl Drop for DueAlerts<'_> {
    fn drop(&mut self) {
        let mut alerts = self.alerts.lock();
        self.rest.drain(..).for_each(|alert| alerts.put_back(alert));
    }
}

impl Owners {
    pub(super) fn new(documents: Documents<HealthRecord>, alerts: Arc<Mutex<Alerts>>, noted: Arc<Notify>) -> Self {
        Self { documents, pending: Mutex::default(), alerts, noted }
    }

    /// What was kept, by webhook. Blocks. What waits to be told waits again.
    pub(super) fn load(&self) -> Result<HashMap<String, EndpointHealth>, Problem> {
        let mut all = HashMap::new();
        for (HealthRecord { webhook, health, pending }, _) in self.documents.list()? {
            if !pending.is_empty() {
                self.pending.lock().insert(webhook.clone(), pending);
            }
            all.insert(webhook, health);
        }
        Ok(all)
    }

    /// Forgets a webhook. Blocks.
    pub(super) fn forget(&self, webhook: &str) -> Result<(), Problem> {
        self.pending.lock().remove(webhook);
        self.documents.delete(webhook).map(|_| ())
    }
}

fn hub_context(at: UnixMs) -> WriteContext {
    WriteContext { by: "hub".into(), at, ..WriteContext::default() }
}

/// The host of an endpoint; the rest of its URL may be secret.
fn host_of(url: &str) -> Option<String> {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned))
}

/// Why a webhook is paused, in words.
fn reason_in_words(reason: PauseReason, change: &Change) -> String {
    let since = change.since.map_or_else(String::new, |since| format!(" since {since}"));
    match reason {
        PauseReason::FailingForLong => format!("nothing but failures{since}"),
        PauseReason::ManyFailures => format!("{} failures in a row{since}", change.failures),
        PauseReason::Gone => "the endpoint answered 410 Gone".to_owned(),
    }
}

fn paused_status(reason: PauseReason) -> WebhookStatus {
    match reason {
        PauseReason::FailingForLong | PauseReason::ManyFailures => WebhookStatus::Paused,
        PauseReason::Gone => WebhookStatus::Disabled,
    }
}

/// The event that tells of a change.
fn announcement(record: &WebhookRecord, change: &Change) -> Announcement {
    let event_type = format!("tidegate.webhook.{}", change.kind.as_str());
    let (severity, reason, status) = match change.kind {
        ChangeKind::Failing => ("medium", None, record.status),
        ChangeKind::Paused(reason) => ("high", Some(reason_in_words(reason, change)), paused_status(reason)),
        ChangeKind::Recovered => ("info", None, record.status),
    };
    let body = json!({
        "id": format!("{}-{}-{}", record.id, change.kind.as_str(), change.number),
        "type": event_type,
        "source": "tidegate",
        "org": record.settings.filter.org,
        "aggregate_type": "webhook",
        "aggregate_id": record.id,
        "occurred_at": change.at.to_rfc3339(),
        "data": {
            "webhook": record.id,
            "url_host": host_of(&record.settings.url),
            "severity": severity,
            "status": status,
            "reason": reason,
            "failures": change.failures,
            "failing_since": change.since.map(UnixMs::to_rfc3339),
        },
    });
    Announcement { event_type, body }
}

impl Hub {
    fn tracked(&self, webhook: &str) -> Option<Arc<Mutex<Tracked>>> {
        self.inner.directory.get(&ConsumerId::new(webhook)).map(|consumer| Arc::clone(&consumer.tracked))
    }

    /// Writes how these endpoints fare, with what is to be told of them.
    async fn save_health(&self, webhooks: Vec<String>) -> Result<(), Problem> {
        if webhooks.is_empty() {
            return Ok(());
        }
        self.blocking(move |hub| {
            let owners = &hub.inner.owners;
            let mut documents = Vec::with_capacity(webhooks.len());
            for webhook in &webhooks {
                let Some(tracked) = hub.tracked(webhook) else { continue };
                let health = {
                    let mut tracked = tracked.lock();
                    tracked.unsaved = false;
                    tracked.health.clone()
                };
                let pending = owners.pending.lock().get(webhook).cloned().unwrap_or_default();
                documents.push((webhook.clone(), HealthRecord { webhook: webhook.clone(), health, pending }));
            }
            let saved = owners.documents.put_all(&documents);
            if saved.is_err() {
                webhooks.iter().filter_map(|webhook| hub.tracked(webhook)).for_each(|one| one.lock().unsaved = true);
            }
            saved
        })
        .await
    }

    /// Counts begin anew, durably, before a webhook is resumed.
    pub(super) async fn begin_health_anew(&self, webhook: &str) -> Result<(), Problem> {
        let Some(tracked) = self.tracked(webhook) else { return Ok(()) };
        {
            let mut tracked = tracked.lock();
            if tracked.health == EndpointHealth::default() {
                return Ok(());
            }
            tracked.health.resumed();
        }
        self.save_health(vec![webhook.to_owned()]).await
    }

    /// Stores a change with the event that tells of it (OE-1), does what it asks for, and tells of it.
    async fn heed(&self, webhook: &str, change: Change) {
        let Ok(record) = self.webhook(webhook, None) else { return };
        tracing::warn!(
            webhook,
            change = change.kind.as_str(),
            failures = change.failures,
            "an endpoint's health changed"
        );
        {
            let mut pending = self.inner.owners.pending.lock();
            let waiting = pending.entry(webhook.to_owned()).or_default();
            waiting.push(announcement(&record, &change));
            let excess = waiting.len().saturating_sub(PENDING_MAX);
            waiting.drain(..excess);
        }
        if let Err(problem) = self.save_health(vec![webhook.to_owned()]).await {
            tracing::warn!(webhook, %problem, "an endpoint's health is not stored yet");
        }
        if let ChangeKind::Paused(reason) = change.kind {
            self.pause_for(&record, reason, &change).await;
        }
        self.tell(webhook).await;
    }

    async fn pause_for(&self, record: &WebhookRecord, reason: PauseReason, change: &Change) {
        let status = paused_status(reason);
        let words = Some(reason_in_words(reason, change));
        let context = hub_context(self.inner.clock.now());
        match self.set_webhook_status(&record.id, None, status, words, context).await {
            Ok(_) => tracing::warn!(webhook = %record.id, status = status.as_str(), "a webhook was stopped"),
            Err(problem) => tracing::error!(webhook = %record.id, %problem, "a webhook could not be stopped"),
        }
    }

    /// Puts what is to be told of a webhook on the log. What cannot be put there now is tried again.
    async fn tell(&self, webhook: &str) {
        let waiting = self.inner.owners.pending.lock().get(webhook).cloned().unwrap_or_default();
        let mut told = 0;
        for one in &waiting {
            if !self.publish_own(&one.event_type, &one.body).await {
                break;
            }
            told += 1;
        }
        if told == 0 {
            return;
        }
        {
            let mut pending = self.inner.owners.pending.lock();
            if let Some(left) = pending.get_mut(webhook) {
                left.drain(..told.min(left.len()));
                if left.is_empty() {
                    pending.remove(webhook);
                }
            }
        }
        if let Err(problem) = self.save_health(vec![webhook.to_owned()]).await {
            tracing::warn!(webhook, %problem, "it is not stored yet that an owner was told");
        }
    }

    /// Publishes an event of the hub's own. False when it must be tried again.
    async fn publish_own(&self, event_type: &str, body: &Value) -> bool {
        match self.publish_own_json(Bytes::from(body.to_string())).await {
            Ok(receipt) => {
                if !receipt.duplicate {
                    self.inner.metrics.owner_events.with_label_values(&[event_type]).inc();
                }
                true
            }
            Err(problem) if problem.kind.retryable() => {
                tracing::warn!(event_type, %problem, "an event for an owner waits");
                false
            }
            Err(problem) => {
                tracing::error!(event_type, %problem, "an event for an owner cannot be published");
                true
            }
        }
    }

    /// Puts the alerts whose time has come on the log.
    async fn raise_alerts(&self) {
        let alerts = &self.inner.owners.alerts;
        let mut due = DueAlerts { alerts, rest: alerts.lock().take_due(self.inner.clock.now()) };
        let mut at = 0;
        while let Some(alert) = due.rest.get(at) {
            let (event_type, body) = self.alert_event(alert);
            if self.publish_own(event_type, &body).await {
                due.rest.remove(at);
            } else {
                at += 1;
            }
        }
    }

    fn alert_event(&self, alert: &Alert) -> (&'static str, Value) {
        let Alert { consumer, org, count, first, last } = alert;
        let kind = self.inner.directory.get(consumer).map(|consumer| consumer.spec.load().kind);
        let webhook = self.inner.webhooks.get(consumer.as_str());
        let (event_type, aggregate) = match kind {
            Some(ConsumerKind::Webhook) => ("tidegate.webhook.exhausted", "webhook"),
            Some(_) | None => ("tidegate.dead_letter.created", "consumer"),
        };
        let body = json!({
            "id": format!("alert-{}", first.id),
            "type": event_type,
            "source": "tidegate",
            "org": Some(org).filter(|org| !org.is_empty()),
            "aggregate_type": aggregate,
            "aggregate_id": consumer.as_str(),
            "occurred_at": last.at.to_rfc3339(),
            "data": {
                "consumer": consumer.as_str(),
                "webhook": webhook.as_ref().map(|record| &record.id),
                "url_host": webhook.as_ref().and_then(|record| host_of(&record.settings.url)),
                "severity": "high",
                "count": count,
                "first_dead_letter": first.id,
                "last_dead_letter": last.id,
                "since": first.at.to_rfc3339(),
                "kind": last.kind,
            },
        });
        (event_type, body)
    }

    /// After the start: what a crash came between is done and told.
    async fn catch_up_with_owners(&self) {
        for record in self.inner.webhooks.all() {
            let Some(tracked) = self.tracked(&record.id) else { continue };
            let health = tracked.lock().health.clone();
            if let (Some(reason), WebhookStatus::Active) = (health.paused, record.status) {
                let EndpointHealth { failures, since, changes, .. } = health;
                let at = self.inner.clock.now();
                let change = Change { kind: ChangeKind::Paused(reason), number: changes, at, failures, since };
                self.pause_for(&record, reason, &change).await;
            }
        }
        self.tell_all().await;
    }

    async fn tell_all(&self) {
        let waiting: Vec<String> = self.inner.owners.pending.lock().keys().cloned().collect();
        for webhook in waiting {
            self.tell(&webhook).await;
        }
    }

    /// Writes the counts that have changed, and tells what could not be told.
    async fn tidy_health(&self) {
        let unsaved = |consumer: &Arc<super::Consumer>| consumer.tracked.lock().unsaved;
        let consumers = self.inner.directory.consumers();
        let changed = consumers.iter().filter(|one| unsaved(one)).map(|one| one.id.as_str().to_owned()).collect();
        if let Err(problem) = self.save_health(changed).await {
            tracing::warn!(%problem, "the health of endpoints is not stored yet");
        }
        self.tell_all().await;
    }

    async fn take_notice(&self, consumer: &ConsumerId, notice: Notice) {
        match notice {
            Notice::Health(change) => self.heed(consumer.as_str(), change).await,
            Notice::Gone => {
                let now = self.inner.clock.now();
                let change = self.tracked(consumer.as_str()).and_then(|tracked| tracked.lock().health.gone(now));
                if let Some(change) = change {
                    self.heed(consumer.as_str(), change).await;
                }
            }
            // Counted where it was told; see `Notices::take`.
            Notice::DeadLetter(_) => {}
        }
    }
}

/// Does what inboxes ask of the hub and tells owners, until the hub ends.
pub(super) async fn keep_house(hub: Weak<Inner>, notices: Arc<NoticeQueue>, clock: SharedClock) {
    let Some(inner) = hub.upgrade() else { return };
    let (noted, alerts) = (Arc::clone(&inner.owners.noted), Arc::clone(&inner.owners.alerts));
    Hub { inner }.catch_up_with_owners().await;
    let mut tidy_at = clock.now().plus_ms(TIDY_EVERY_MS);
    loop {
        let next_alert = alerts.lock().next_at();
        let until = next_alert.map_or(tidy_at, |at| at.min(tidy_at));
        let sleep = clock.sleep(Duration::from_millis(until.since_ms(clock.now())));
        let notice = tokio::select! {
            notice = notices.next() => match notice {
                Some(notice) => Some(notice),
                None => return,
            },
            () = noted.notified() => None,
            () = sleep => None,
        };
        let Some(inner) = hub.upgrade() else { return };
        let hub = Hub { inner };
        if let Some((consumer, notice)) = notice {
            hub.take_notice(&consumer, notice).await;
            notices.heeded().await;
        }
        hub.raise_alerts().await;
        if clock.now() >= tidy_at {
            tidy_at = clock.now().plus_ms(TIDY_EVERY_MS);
            hub.tidy_health().await;
        }
    }
}
