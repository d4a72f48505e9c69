//! Pull consumers as a service: made, changed, paused, deleted, expired (INB-5). A change is durable before it is answered.
//!
//! A consumer that begins in the past is made in three steps: the router is told, its position is on disk, its document
//! is. A crash between the last two leaves a position without a consumer, which the next start forgets.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use dashmap::DashMap;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::webhooks::router_away;
use super::{Consumer, Documents, EventQuery, Hub, Service, store_problem};
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::{ConsumerId, Seq, prefixed};
use crate::inbox::messages::Reconfigure;
use crate::pull::record::{read_change, read_new};
use crate::pull::{PullRecord, PullService, PullStatus, Start, TokenKey};
use crate::router::Inboxes as _;
use crate::router::messages::{Begin, Subscribe, Unsubscribe};
use crate::store::EventLog as _;

/// Most pull consumers of a hub.
const CONSUMERS_MAX: usize = 10_000;

/// A consumer in memory, with the revision of its document.
#[derive(Clone, Debug)]
struct Stored {
    record: Arc<PullRecord>,
    revision: u64,
}

/// Every pull consumer.
#[derive(Debug)]
pub(super) struct Pulls {
    documents: Documents<PullRecord>,
    by_id: DashMap<String, Stored>,
    /// By org and name.
    by_name: DashMap<(String, String), String>,
    /// Consumers are made and changed one at a time: it is rare, and each syncs.
    changing: tokio::sync::Mutex<()>,
    /// Names claims towards clients.
    pub(super) tokens: TokenKey,
    /// Clients that wait, of every consumer.
    pub(super) clients: Arc<AtomicUsize>,
    /// Told when an ephemeral consumer was made or changed.
    pub(super) changed: Arc<Notify>,
    /// True from the stop on: nobody waits any more.
    pub(super) closing: watch::Sender<bool>,
}

impl Pulls {
    pub(super) fn load(documents: Documents<PullRecord>, tokens: TokenKey) -> Result<Self, Problem> {
        let pulls = Self {
            by_id: DashMap::new(),
            by_name: DashMap::new(),
            changing: tokio::sync::Mutex::new(()),
            tokens,
            clients: Arc::default(),
            changed: Arc::default(),
            closing: watch::Sender::new(false),
            documents,
        };
        for (record, revision) in pulls.documents.list()? {
            if let Some(mistake) = record.settings.filter.mistake() {
                tracing::warn!(consumer = %record.id, %mistake, "the consumer's filter does not compile any more; it matches nothing");
            }
            pulls.insert(Arc::new(record), revision);
        }
        Ok(pulls)
    }

    fn insert(&self, record: Arc<PullRecord>, revision: u64) {
        let name = (record.settings.org().to_owned(), record.settings.name.clone());
        self.by_name.insert(name, record.id.clone());
        self.by_id.insert(record.id.clone(), Stored { record, revision });
    }

    pub(super) fn all(&self) -> Vec<Arc<PullRecord>> {
        let mut all: Vec<_> = self.by_id.iter().map(|stored| Arc::clone(&stored.record)).collect();
        all.sort_by(|a, b| (a.settings.org(), &a.settings.name).cmp(&(b.settings.org(), &b.settings.name)));
        all
    }
}

fn missing(name: &str) -> Problem {
    Problem::not_found("consumer", name)
}

impl Hub {
    /// Where a consumer begins: it gets what lies after the position returned. Blocks.
    fn resolve(&self, start: Start, org: &str) -> Result<Seq, Problem> {
        let engine = &self.inner.engine;
        match start {
            Start::Earliest => Ok(engine.earliest().prev()),
            Start::Latest => Ok(engine.head()),
            Start::Seq(seq) => {
                let (earliest, next) = (engine.earliest(), engine.head().next());
                if (earliest..=next).contains(&seq) {
                    return Ok(seq.prev());
                }
                let limit = format!("a position that the log has, {earliest} to {next}");
                Err(Problem::field("start.seq", limit, seq))
            }
            Start::Time(time) => {
                // The head is read first: what comes meanwhile is later than what was looked for.
                let head = engine.head();
                let mut query =
                    EventQuery { org: Some(org.to_owned()), from: Some(time), limit: 1, ..EventQuery::default() };
                loop {
                    let page = self.events(&query)?;
                    if let Some(first) = page.items.first() {
                        return Ok(first.seq.prev());
                    }
                    let upto = page.next.parse().map_or(head, Seq);
                    if !page.has_more || upto >= head {
                        return Ok(head);
                    }
                    query.after = Some(upto);
                }
            }
        }
    }

    /// Makes a pull consumer.
    ///
    /// # Errors
    /// When a field does not fit, its org has one of this name, or the store fails.
    pub async fn create_consumer(
        &self,
        fields: Fields,
        org: Option<&str>,
        context: WriteContext,
    ) -> Result<Arc<PullRecord>, Problem> {
        let (settings, start) = read_new(fields, org)?;
        let pulls = &self.inner.pulls;
        let _one_at_a_time = pulls.changing.lock().await;
        if pulls.by_id.len() >= CONSUMERS_MAX {
            let text = format!("a hub has at most {CONSUMERS_MAX} pull consumers");
            return Err(Problem::new(ProblemKind::Conflict, text));
        }
        if pulls.by_name.contains_key(&(settings.org().to_owned(), settings.name.clone())) {
            let mut problem = Problem::new(ProblemKind::Conflict, "the org has a consumer of this name");
            problem.field = Some("name".to_owned());
            problem.sent = Some(settings.name);
            return Err(problem);
        }
        let of = settings.org().to_owned();
        let from = self.blocking(move |hub| hub.resolve(start, &of)).await?;
        let record = Arc::new(PullRecord {
            id: prefixed("con", context.at, &*self.inner.random),
            settings,
            status: PullStatus::Active,
            start,
            from,
            created: context.clone(),
            updated: context,
        });
        let id = ConsumerId::new(&record.id);
        let service = PullService::new(&record.settings.name, self.inner.clock.now());
        let spec = record.spec(&self.inner.config);
        self.inner.directory.add(id.clone(), spec, Service::Pull(service));
        match self.begin(&id, &record).await {
            Ok(revision) => {
                pulls.insert(Arc::clone(&record), revision);
                pulls.changed.notify_one();
                Ok(record)
            }
            Err(problem) => {
                self.forget(id).await;
                Err(problem)
            }
        }
    }

    /// Its position on disk, then its document.
    async fn begin(&self, id: &ConsumerId, record: &Arc<PullRecord>) -> Result<u64, Problem> {
        let begun = self.inner.router.ask(Begin { consumer: id.clone() }).await.map_err(|_| router_away())?;
        begun.map_err(|error| store_problem(&error))?;
        let record = Arc::clone(record);
        self.blocking(move |hub| hub.inner.pulls.documents.put(&record.id, &record, None)).await
    }

    async fn forget(&self, consumer: ConsumerId) {
        self.inner.directory.remove(&consumer).await;
        self.inner.router.hint(Unsubscribe { consumer });
    }

    /// The pull consumer of this name, when the key may see it. `org` narrows to one org.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org; [`ProblemKind::InvalidParameter`] when several orgs have
    /// the name and none was named.
    pub fn consumer(&self, name: &str, org: Option<&str>) -> Result<Arc<PullRecord>, Problem> {
        let pulls = &self.inner.pulls;
        let id = match org {
            Some(org) => pulls.by_name.get(&(org.to_owned(), name.to_owned())).map(|id| id.clone()),
            None => {
                let mut found = pulls.by_name.iter().filter(|entry| entry.key().1 == name);
                let first = found.next().map(|entry| entry.value().clone());
                if found.next().is_some() {
                    let text = "several orgs have a consumer of this name; name one";
                    let mut problem = Problem::new(ProblemKind::InvalidParameter, text);
                    problem.field = Some("org".to_owned());
                    return Err(problem);
                }
                first
            }
        };
        let stored = id.and_then(|id| pulls.by_id.get(&id).map(|stored| Arc::clone(&stored.record)));
        stored.ok_or_else(|| missing(name))
    }

    /// The pull consumers that the key may see, by org and name.
    #[must_use]
    pub fn pull_consumers(&self, org: Option<&str>) -> Vec<Arc<PullRecord>> {
        let mut all = self.inner.pulls.all();
        all.retain(|record| org.is_none_or(|org| record.settings.org() == org));
        all
    }

    /// A pull consumer with how it stands.
    pub async fn consumer_with_standing(&self, record: &PullRecord) -> Value {
        let mut out = record.to_json();
        let known = self.inner.directory.get(&ConsumerId::new(&record.id));
        let Some(consumer) = known else { return out };
        let standing = self.consumer_standing(&consumer).await;
        if let Value::Object(map) = &mut out {
            for name in STANDING {
                map.insert((*name).to_owned(), standing[*name].clone());
            }
        }
        out
    }

    /// Changes a pull consumer's settings.
    ///
    /// # Errors
    /// When it is not there, a field does not fit, or the store fails.
    pub async fn change_consumer(
        &self,
        name: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Arc<PullRecord>, Problem> {
        let before = self.consumer(name, org)?;
        self.update_consumer(&before, context, |record| {
            record.settings = read_change(fields, &record.settings)?;
            Ok(())
        })
        .await
    }

    /// Pauses or resumes a pull consumer.
    ///
    /// # Errors
    /// When it is not there, or the store fails.
    pub async fn set_consumer_status(
        &self,
        name: &str,
        org: Option<&str>,
        status: PullStatus,
        context: WriteContext,
    ) -> Result<Arc<PullRecord>, Problem> {
        let before = self.consumer(name, org)?;
        self.update_consumer(&before, context, |record| {
            record.status = status;
            Ok(())
        })
        .await
    }

    async fn update_consumer(
        &self,
        before: &PullRecord,
        context: WriteContext,
        change: impl FnOnce(&mut PullRecord) -> Result<(), Problem>,
    ) -> Result<Arc<PullRecord>, Problem> {
        let pulls = &self.inner.pulls;
        let _one_at_a_time = pulls.changing.lock().await;
        let stored = pulls.by_id.get(&before.id).map(|stored| stored.clone());
        let Stored { record, revision } = stored.ok_or_else(|| missing(&before.settings.name))?;
        let mut record = (*record).clone();
        change(&mut record)?;
        record.updated = context;
        let record = Arc::new(record);
        let written = Arc::clone(&record);
        let revision =
            self.blocking(move |hub| hub.inner.pulls.documents.put(&written.id, &written, Some(revision))).await?;
        pulls.insert(Arc::clone(&record), revision);
        let id = ConsumerId::new(&record.id);
        if let Some(consumer) = self.inner.directory.get(&id) {
            consumer.spec.store(Arc::new(record.spec(&self.inner.config)));
        }
        if let Some(inbox) = self.inner.directory.running(&id) {
            inbox.hint(Reconfigure);
        }
        pulls.changed.notify_one();
        self.inner.router.ask(Subscribe { consumer: id }).await.map_err(|_| router_away())?;
        Ok(record)
    }

    /// Deletes a pull consumer: its inbox is forgotten, its dead letters stay. Whoever waits for its deliveries is told.
    ///
    /// # Errors
    /// When it is not there, or the store fails.
    pub async fn delete_consumer(&self, name: &str, org: Option<&str>) -> Result<(), Problem> {
        let record = self.consumer(name, org)?;
        self.remove_consumer(&record).await
    }

    async fn remove_consumer(&self, record: &PullRecord) -> Result<(), Problem> {
        let pulls = &self.inner.pulls;
        let _one_at_a_time = pulls.changing.lock().await;
        if !pulls.by_id.contains_key(&record.id) {
            return Err(missing(&record.settings.name));
        }
        let id = record.id.clone();
        self.blocking(move |hub| hub.inner.pulls.documents.delete(&id)).await?;
        pulls.by_id.remove(&record.id);
        pulls.by_name.remove(&(record.settings.org().to_owned(), record.settings.name.clone()));
        self.forget(ConsumerId::new(&record.id)).await;
        Ok(())
    }

    /// The service of a pull consumer.
    pub(super) fn pull_service(&self, id: &ConsumerId) -> Option<(Arc<Consumer>, Arc<PullService>)> {
        let consumer = self.inner.directory.get(id)?;
        match &consumer.service {
            Service::Pull(service) => {
                let service = Arc::clone(service);
                Some((consumer, service))
            }
            Service::Webhook(_) | Service::Handler | Service::Publish(_) => None,
        }
    }

    /// Removes ephemeral consumers that nobody has been at for their time. Returns when to look again.
    pub(super) async fn expire_consumers(&self) -> Option<UnixMs> {
        let now = self.inner.clock.now();
        let mut next: Option<UnixMs> = None;
        for record in self.inner.pulls.all() {
            let Some(after_ms) = record.settings.expires_after_ms else { continue };
            let Some((_, service)) = self.pull_service(&ConsumerId::new(&record.id)) else { continue };
            let at = service.last_seen(now).plus_ms(after_ms);
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            match self.remove_consumer(&record).await {
                Ok(()) => {
                    tracing::info!(consumer = %record.id, name = record.settings.name, "nobody has been there; the ephemeral consumer is removed")
                }
                Err(problem) => {
                    tracing::warn!(consumer = %record.id, %problem, "an ephemeral consumer could not be removed yet");
                    next = Some(now.plus_ms(RETRY_MS));
                }
            }
        }
        next
    }
}

/// Pause before a removal that failed is tried again.
const RETRY_MS: u64 = 5_000;

/// What of a consumer's statistics its owner sees.
pub(crate) const STANDING: &[&str] = &[
    "cursor",
    "lag",
    "in_flight",
    "waiting_clients",
    "exception_rows",
    "waiting_for_retry",
    "processed",
    "failed_attempts",
    "given_up",
    "gaps",
];
