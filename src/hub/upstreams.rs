//! Upstreams as a service (UPS-2, UPS-9): declared in the settings or over the admin API, or registered by a program;
//! changed, checked, read. A change is durable before it is answered and holds from the next call on.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use serde_json::{Value, json};

use super::{Documents, Hub, store_problem};
use crate::breaker::actor::DOCUMENT_KIND as BREAKERS;
use crate::config::{Config, UpstreamTable};
use crate::ground::clock::SharedClock;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::ground::secret::Sealer;
use crate::ratelimit::RateLimit;
use crate::retry::RetryPolicy;
use crate::store::Registry;
use crate::upstream::call::{Answer, Call, CallError, CallErrorKind, CallPath as _};
use crate::upstream::credential::{Credential, SealedCredential, Source};
use crate::upstream::health::{Grade, Overall, Report};
use crate::upstream::http::{HttpAdapter, HttpParts};
use crate::upstream::perform::{Rules, Served};
use crate::upstream::read::Read;
use crate::upstream::reading::{Question, ReadError};
use crate::upstream::record::{
    AuthWish, CONCURRENCY_DEFAULT, CREDENTIALS_MAX, Declared, Ground, Origin, TOTAL_MS_DEFAULT, UpstreamRecord,
    UpstreamSettings, read_change, read_new,
};
use crate::upstream::service::{KeptAnswers, Registered, UPSTREAMS_MAX};
use crate::upstream::{Adapter, AdapterContext, Upstreams};
use crate::webhook::guard::AddressPolicy;
use crate::webhook::oauth::TOKEN_TIMEOUT_MS;
use crate::webhook::outbound::OutboundSettings;

/// Checks of health that are made at once.
const CHECKS_AT_ONCE: usize = 128;

/// A declared upstream in memory; one that is stored has a revision.
#[derive(Clone, Debug)]
struct Stored {
    record: Arc<UpstreamRecord>,
    /// Credentials that are in the settings: they say where their secrets are.
    given: Option<Credential>,
    reads: Arc<BTreeMap<String, Arc<Read>>>,
    origin: Origin,
    revision: Option<u64>,
}

impl Stored {
    fn new(record: UpstreamRecord, given: Option<Credential>, origin: Origin, revision: Option<u64>) -> Self {
        let reads = record.settings.reads.iter().map(|(name, read)| (name.clone(), Arc::new(read.clone()))).collect();
        Self { record: Arc::new(record), given, reads: Arc::new(reads), origin, revision }
    }
}

/// Every declared upstream, and what declared upstreams are made with.
#[derive(Debug)]
pub(super) struct DeclaredUpstreams {
    documents: Documents<UpstreamRecord>,
    by_id: DashMap<String, Stored>,
    outbound: OutboundSettings,
    /// Changes are made one at a time: they are rare, and each syncs. Held over awaits, so an async lock.
    changing: tokio::sync::Mutex<()>,
}

/// The rules of a program's own adapter.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// The tenant whose it is; none when it serves all of them.
    pub org: Option<String>,
    /// Its rules.
    pub rules: Rules,
}

impl AdapterOptions {
    /// The rules of the presets of this name: retry and breaker, and the rate where there is one.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let breaker = crate::breaker::BreakerSettings::preset(name)?;
        let attempt_ms = breaker.call_timeout_ms.unwrap_or(TOTAL_MS_DEFAULT);
        let (retry, rate_limit) = (RetryPolicy::preset(name)?, RateLimit::preset(name));
        Some(Self {
            org: None,
            rules: Rules { retry, breaker, rate_limit, attempt_ms, concurrency: CONCURRENCY_DEFAULT },
        })
    }

    /// The same for one tenant.
    #[must_use]
    pub fn for_org(mut self, org: &str) -> Self {
        self.org = Some(org.to_owned());
        self
    }
}

impl Default for AdapterOptions {
    fn default() -> Self {
        let breaker = crate::breaker::BreakerSettings::default();
        let retry = RetryPolicy::Fixed { attempts_max: 3, delays_ms: vec![1_000, 2_000, 4_000], jitter: 0.0 };
        let rules =
            Rules { retry, breaker, rate_limit: None, attempt_ms: TOTAL_MS_DEFAULT, concurrency: CONCURRENCY_DEFAULT };
        Self { org: None, rules }
    }
}

fn context_of(id: &str, tenant: &str) -> String {
    format!("upstream/{id}/credential/{tenant}")
}

/// What declared upstreams are read and made with.
struct Making<'a> {
    config: &'a Config,
    policy: &'a AddressPolicy,
    sealer: &'a Sealer,
    clock: &'a SharedClock,
    outbound: &'a OutboundSettings,
}

impl Making<'_> {
    fn credentials(&self, stored: &Stored) -> Result<BTreeMap<String, Credential>, Problem> {
        let record = &stored.record;
        let policy = record.settings.policy(self.policy);
        let mut credentials = BTreeMap::new();
        for (tenant, sealed) in &record.credentials {
            let bytes = hex::decode(&sealed.sealed).ok();
            let text = bytes.and_then(|bytes| self.sealer.open(&bytes, &context_of(&record.id, tenant)).ok());
            let credential = text.and_then(|text| Credential::from_sealed_text(&text, &policy));
            let Some(credential) = credential else {
                tracing::error!(upstream = %record.id, tenant, "a stored credential cannot be used");
                let detail = "a stored credential cannot be used; the log of the hub names it";
                return Err(Problem::new(ProblemKind::Internal, detail));
            };
            credentials.insert(tenant.clone(), credential);
        }
        if let Some(given) = &stored.given {
            credentials.insert(String::new(), given.clone());
        }
        Ok(credentials)
    }

    /// The upstream as it is called.
    fn served(&self, stored: &Stored) -> Result<Served, Problem> {
        let UpstreamRecord { id, settings, .. } = &*stored.record;
        let credentials = self.credentials(stored)?;
        let request_ms = settings.attempt_ms();
        let by_token = credentials.values().any(|credential| credential.shown()["kind"] == "oauth2");
        let rules = Rules {
            retry: settings.retry.clone(),
            breaker: settings.breaker.clone(),
            rate_limit: settings.rate_limit,
            // A token may be asked for twice, and then the call is made twice.
            attempt_ms: if by_token { 2 * (request_ms + TOKEN_TIMEOUT_MS) } else { request_ms },
            concurrency: settings.concurrency,
        };
        let adapter = HttpAdapter::new(HttpParts {
            id: id.clone(),
            version: settings.version.clone(),
            base_url: settings.base_url.clone(),
            health_path: settings.health_path.clone(),
            request_ms,
            policy: settings.policy(self.policy),
            outbound: OutboundSettings {
                connect_timeout_ms: settings.connect_timeout_ms,
                total_timeout_ms: request_ms,
                ..self.outbound.clone()
            },
            credentials,
            clock: Arc::clone(self.clock),
        });
        Ok(Served::new(Arc::new(adapter), settings.org.clone(), rules))
    }

    /// The upstreams of the settings.
    fn declared(&self, tables: &[UpstreamTable]) -> Result<Vec<Stored>, Problem> {
        let stored = |Declared { id, settings, auth }| {
            let given = match auth {
                AuthWish::Set(credential) => Some(credential),
                AuthWish::Keep | AuthWish::Remove => None,
            };
            let made = WriteContext { by: "settings".into(), at: self.clock.now(), ..WriteContext::default() };
            let record =
                UpstreamRecord { id, settings, credentials: BTreeMap::new(), created: made.clone(), updated: made };
            Stored::new(record, given, Origin::Config, None)
        };
        Ok(read_tables(tables, self.config, self.policy)?.into_iter().map(stored).collect())
    }
}

/// Reads the tables of the settings.
fn read_tables(tables: &[UpstreamTable], config: &Config, policy: &AddressPolicy) -> Result<Vec<Declared>, Problem> {
    let breaker = super::webhooks::default_breaker(config);
    let ground = Ground { policy, breaker: &breaker, origin: Origin::Config };
    let mut all: Vec<Declared> = Vec::new();
    for (at, UpstreamTable(table)) in tables.iter().enumerate() {
        let named = |mut problem: Problem| {
            problem.detail = format!("upstreams[{at}]: {}", problem.detail);
            problem
        };
        let fields = Fields::parse(Value::Object(table.clone()).to_string().as_bytes()).map_err(named)?;
        let declared = read_new(fields, ground).map_err(named)?;
        if all.iter().any(|one| one.id == declared.id) {
            return Err(named(Problem::field("id", "each once", declared.id)));
        }
        all.push(declared);
    }
    Ok(all)
}

/// Checks of settings what only those can who use them: upstreams, and addresses that must hold no credential. Nothing of
/// what does not fit is repeated.
///
/// # Errors
/// What is wrong, in words.
pub fn check_settings(config: &Config) -> Result<(), String> {
    config.delivery.proxy_url()?;
    if !config.trace.otlp_endpoint.is_empty() {
        crate::trace::endpoint(&config.trace.otlp_endpoint).map_err(|error| error.to_string())?;
    }
    read_tables(&config.upstreams, config, &super::open::address_policy(config))
        .map(drop)
        .map_err(|problem| problem.detail)
}

impl DeclaredUpstreams {
    pub(super) fn new(documents: Documents<UpstreamRecord>, outbound: OutboundSettings) -> Self {
        Self { documents, by_id: DashMap::new(), outbound, changing: tokio::sync::Mutex::default() }
    }

    /// Registers what the settings and the store declare. Blocks.
    pub(super) fn load(
        &self,
        upstreams: &Upstreams,
        config: &Config,
        policy: &AddressPolicy,
        sealer: &Sealer,
        clock: &SharedClock,
    ) -> Result<(), Problem> {
        let making = Making { config, policy, sealer, clock, outbound: &self.outbound };
        let mut all = making.declared(&config.upstreams)?;
        for (record, revision) in self.documents.list()? {
            if all.iter().any(|one| one.record.id == record.id) {
                tracing::warn!(upstream = %record.id, "the settings declare an upstream that is stored, too: that of the settings holds");
                continue;
            }
            all.push(Stored::new(record, None, Origin::Api, Some(revision)));
        }
        for stored in all {
            upstreams.register(making.served(&stored)?)?;
            self.by_id.insert(stored.record.id.clone(), stored);
        }
        Ok(())
    }

    /// The settings of every declared upstream, for the start.
    pub(super) fn settings(&self) -> Vec<(String, UpstreamSettings)> {
        self.by_id.iter().map(|one| (one.record.id.clone(), one.record.settings.clone())).collect()
    }

    fn get(&self, id: &str) -> Option<Stored> {
        self.by_id.get(id).map(|stored| stored.clone())
    }
}

fn of_settings(id: &str) -> Problem {
    let detail = "it is declared in the settings of the hub: change it there, and have them read again (SIGHUP)";
    let mut problem = Problem::new(ProblemKind::Conflict, detail);
    problem.sent = Some(id.to_owned());
    problem
}

/// What a caller is told of an upstream that gave no answer. What it said, and where it is, is for operators.
fn outside(upstream: &str, error: &CallError) -> Problem {
    let told = |kind: ProblemKind, detail: &str| {
        let mut problem = Problem::new(kind, detail).with("upstream", upstream).with("error_type", error.kind.as_str());
        if let Some(ms) = error.retry_after_ms.filter(|_| kind == ProblemKind::UpstreamUnavailable) {
            problem.retry_after_s = Some(ms.div_ceil(1_000).max(1));
        }
        problem
    };
    match error.kind {
        CallErrorKind::Unknown => Problem::not_found("upstream", upstream),
        CallErrorKind::Validation => told(ProblemKind::InvalidParameter, &error.message),
        CallErrorKind::Auth => told(ProblemKind::UpstreamFailed, "the upstream does not take the hub's credential"),
        CallErrorKind::NotFound | CallErrorKind::Permanent => {
            told(ProblemKind::UpstreamFailed, "the upstream does not take the call")
        }
        CallErrorKind::Malformed => told(ProblemKind::UpstreamFailed, "the upstream's answer makes no sense"),
        CallErrorKind::RateLimited | CallErrorKind::Busy => {
            told(ProblemKind::UpstreamUnavailable, "more is asked of the upstream than it may be asked")
        }
        CallErrorKind::CircuitOpen => {
            told(ProblemKind::UpstreamUnavailable, "the upstream has failed too often; it is left alone for a while")
        }
        CallErrorKind::Timeout | CallErrorKind::Transient | CallErrorKind::Internal => {
            told(ProblemKind::UpstreamUnavailable, "the upstream did not answer")
        }
    }
}

impl Hub {
    fn making(&self) -> Making<'_> {
        let inner = &self.inner;
        Making {
            config: &inner.config,
            policy: &inner.policy,
            sealer: &inner.sealer,
            clock: &inner.clock,
            outbound: &inner.declared_upstreams.outbound,
        }
    }

    /// The upstreams of the hub: the one way to call them.
    #[must_use]
    pub fn upstreams(&self) -> &Upstreams {
        &self.inner.upstreams
    }

    /// Registers a program's own adapter; it is called as every upstream is, and no restart of the hub knows it.
    ///
    /// ```no_run
    /// # use futures_util::future::{BoxFuture, FutureExt as _};
    /// # use tidegate::upstream::call::Reply;
    /// use tidegate::hub::{AdapterOptions, Hub};
    /// use tidegate::upstream::{Adapter, AdapterContext, Call, CallError};
    ///
    /// struct Stock;
    ///
    /// impl Adapter for Stock {
    ///     fn id(&self) -> &str {
    ///         "stock"
    ///     }
    ///     fn version(&self) -> &str {
    ///         "2.0.1"
    ///     }
    ///     fn validate(&self, _: &Call, _: &AdapterContext) -> Result<(), CallError> {
    ///         Ok(())
    ///     }
    ///     fn execute<'a>(&'a self, _: &'a Call, _: &'a AdapterContext) -> BoxFuture<'a, Result<Reply, CallError>> {
    ///         async { Ok(Reply::json(200, &serde_json::json!({ "pieces": 12 }))) }.boxed()
    ///     }
    ///     fn health_check<'a>(&'a self, _: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>> {
    ///         async { Ok(()) }.boxed()
    ///     }
    /// }
    ///
    /// # async fn example(hub: &Hub) -> anyhow::Result<()> {
    /// hub.register_adapter(Stock, AdapterOptions::preset("erp").unwrap_or_default())?;
    /// let context = AdapterContext::new(Some("acme"), hub.clock().now());
    /// let answer = hub.call_upstream("stock", Call { operation: "count".into(), ..Call::default() }, context).await?;
    /// println!("{} after {} attempts", answer.body["pieces"], answer.attempts);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When its id, version or rules do not fit, the id is taken, or there are [`UPSTREAMS_MAX`] upstreams.
    pub fn register_adapter(&self, adapter: impl Adapter, options: AdapterOptions) -> Result<(), Problem> {
        let AdapterOptions { org, rules } = options;
        self.inner.upstreams.register(Served::new(Arc::new(adapter), org, rules)).map(|_| ())
    }

    /// Takes a program's own adapter away.
    ///
    /// # Errors
    /// When there is none of this id, or it is declared.
    pub async fn remove_adapter(&self, id: &str) -> Result<(), Problem> {
        if self.inner.declared_upstreams.by_id.contains_key(id) {
            return Err(Problem::new(ProblemKind::Conflict, "the upstream is declared; delete its declaration"));
        }
        self.inner.upstreams.remove(id).await.map(|_| ()).ok_or_else(|| Problem::not_found("upstream", id))
    }

    /// Calls an upstream.
    ///
    /// # Errors
    /// Whatever went wrong; see [`CallErrorKind`].
    pub async fn call_upstream(&self, id: &str, call: Call, context: AdapterContext) -> Result<Answer, CallError> {
        self.inner.upstreams.call(id, call, context).await
    }

    fn registered(&self, id: &str) -> Result<Arc<Registered>, Problem> {
        self.inner.upstreams.get(id).ok_or_else(|| Problem::not_found("upstream", id))
    }

    fn upstream_json(&self, registered: &Registered) -> Value {
        let declared = self.inner.declared_upstreams.get(&registered.core.id);
        let mut out = match declared {
            Some(stored) => {
                let mut out = stored.record.to_json(stored.origin);
                if let Some(given) = &stored.given {
                    out["auth"] = given.shown();
                }
                out
            }
            None => {
                let served = registered.core.served.load();
                let Rules { retry, breaker, rate_limit, attempt_ms, concurrency } = &served.rules;
                json!({
                    "id": &*registered.core.id, "origin": "program", "org": served.org,
                    "version": served.adapter.version(), "base_url": null, "health_path": null,
                    "connect_timeout_ms": null, "total_timeout_ms": attempt_ms, "retry": retry, "breaker": breaker,
                    "rate_limit": rate_limit, "concurrency": concurrency, "reads": {}, "publishes": [], "description": null,
                    "allowed_networks": [], "auth": null, "tenant_auth": {}, "created_at": null, "created_by": null,
                    "updated_at": null, "updated_by": null,
                })
            }
        };
        out["circuit"] = registered.phase().as_str().into();
        out["status"] = registered.grade().as_str().into();
        out
    }

    /// Every upstream as operators see it, by id.
    #[must_use]
    pub fn upstream_list(&self) -> Vec<(String, Value)> {
        let all = self.inner.upstreams.all();
        all.iter().map(|one| (one.core.id.to_string(), self.upstream_json(one))).collect()
    }

    /// An upstream as operators see it.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn upstream(&self, id: &str) -> Result<Value, Problem> {
        Ok(self.upstream_json(&*self.registered(id)?))
    }

    /// Declares an upstream.
    ///
    /// # Errors
    /// When a field does not fit, the id is taken, or the store fails.
    pub async fn create_upstream(&self, fields: Fields, context: WriteContext) -> Result<Value, Problem> {
        let breaker = super::webhooks::default_breaker(&self.inner.config);
        let ground = Ground { policy: &self.inner.policy, breaker: &breaker, origin: Origin::Api };
        let Declared { id, settings, auth } = read_new(fields, ground)?;
        let _one_at_a_time = self.inner.declared_upstreams.changing.lock().await;
        if self.inner.upstreams.get(&id).is_some() {
            let mut problem = Problem::new(ProblemKind::Conflict, "an upstream of the hub has this id");
            (problem.field, problem.sent) = (Some("id".to_owned()), Some(id));
            return Err(problem);
        }
        if self.inner.upstreams.all().len() >= UPSTREAMS_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a hub has at most {UPSTREAMS_MAX} upstreams")));
        }
        let mut record =
            UpstreamRecord { id, settings, credentials: BTreeMap::new(), created: context.clone(), updated: context };
        let stored = self
            .blocking(move |hub| {
                hub.set_credential(&mut record, "", auth)?;
                hub.put_upstream(record, None)
            })
            .await?;
        let registered = self.inner.upstreams.register(self.making().served(&stored)?)?;
        let UpstreamRecord { id, settings, updated, .. } = &*stored.record;
        self.serve_publishes(id, Some(settings), updated).await?;
        Ok(self.upstream_json(&registered))
    }

    /// Puts a tenant's credential into the record, sealed, when it can be had. Blocks.
    fn set_credential(&self, record: &mut UpstreamRecord, tenant: &str, wish: AuthWish) -> Result<(), Problem> {
        let credential = match wish {
            AuthWish::Keep => return Ok(()),
            AuthWish::Remove => {
                record.credentials.remove(tenant);
                return Ok(());
            }
            AuthWish::Set(credential) => credential,
        };
        if record.credentials.len() >= CREDENTIALS_MAX && !record.credentials.contains_key(tenant) {
            let limit = format!("at most {CREDENTIALS_MAX} tenants with a credential of their own");
            return Err(Problem::field("org", limit, tenant));
        }
        if *credential.source() != Source::Store {
            let policy = record.settings.policy(&self.inner.policy);
            credential.resolve(&policy).map_err(|error| Problem::field("auth", error.to_string(), "***"))?;
        }
        let sealed = self.seal(&credential.to_sealed_text(), &context_of(&record.id, tenant));
        record.credentials.insert(tenant.to_owned(), SealedCredential { sealed, shown: credential.shown() });
        Ok(())
    }

    /// Stores a record durably. Blocks.
    fn put_upstream(&self, record: UpstreamRecord, before: Option<u64>) -> Result<Stored, Problem> {
        let declared = &self.inner.declared_upstreams;
        let revision = declared.documents.put(&record.id, &record, before)?;
        let stored = Stored::new(record, None, Origin::Api, Some(revision));
        declared.by_id.insert(stored.record.id.clone(), stored.clone());
        Ok(stored)
    }

    /// The declaration of an upstream that may be changed here.
    fn changeable(&self, id: &str) -> Result<Stored, Problem> {
        match self.inner.declared_upstreams.get(id) {
            Some(stored) if stored.origin == Origin::Api => Ok(stored),
            Some(_) => Err(of_settings(id)),
            None => match self.inner.upstreams.get(id) {
                Some(_) => Err(Problem::new(ProblemKind::Conflict, "it is code of the program that runs the hub")),
                None => Err(Problem::not_found("upstream", id)),
            },
        }
    }

    /// Changes an upstream.
    ///
    /// # Errors
    /// When it is not there, is declared in the settings, a field does not fit, or the store fails.
    pub async fn change_upstream(&self, id: &str, fields: Fields, context: WriteContext) -> Result<Value, Problem> {
        let _one_at_a_time = self.inner.declared_upstreams.changing.lock().await;
        let before = self.changeable(id)?;
        let breaker = super::webhooks::default_breaker(&self.inner.config);
        let ground = Ground { policy: &self.inner.policy, breaker: &breaker, origin: Origin::Api };
        let (settings, auth) = read_change(fields, &before.record.settings, ground)?;
        self.check_rules_leave(id, &settings.publishes).await?;
        let same_reads =
            settings.base_url == before.record.settings.base_url && settings.reads == before.record.settings.reads;
        let answers = if same_reads { KeptAnswers::Stay } else { KeptAnswers::Forgotten };
        self.store_change(before, context, answers, move |hub, record| {
            record.settings = settings;
            hub.set_credential(record, "", auth)
        })
        .await
    }

    async fn store_change(
        &self,
        before: Stored,
        context: WriteContext,
        answers: KeptAnswers,
        change: impl FnOnce(&Hub, &mut UpstreamRecord) -> Result<(), Problem> + Send + 'static,
    ) -> Result<Value, Problem> {
        let registered = self.registered(&before.record.id)?;
        let stored = self
            .blocking(move |hub| {
                let mut record = (*before.record).clone();
                change(hub, &mut record)?;
                record.updated = context;
                hub.put_upstream(record, before.revision)
            })
            .await?;
        self.inner.upstreams.replace(&registered, self.making().served(&stored)?, answers).await;
        let UpstreamRecord { id, settings, updated, .. } = &*stored.record;
        self.serve_publishes(id, Some(settings), updated).await?;
        Ok(self.upstream_json(&registered))
    }

    /// Takes a publish rule away with everything that waits for it, and says how much that was. Its dead letters stay.
    ///
    /// # Errors
    /// When there is no such rule, the settings of the hub declare it, or the store fails.
    pub async fn discard_publish(&self, id: &str, name: &str, context: WriteContext) -> Result<Value, Problem> {
        let _one_at_a_time = self.inner.declared_upstreams.changing.lock().await;
        let stored = self.inner.declared_upstreams.get(id);
        let of_rule = |stored: &Stored| stored.record.settings.publishes.iter().any(|rule| rule.name == name);
        let discarded = self.waits_for_publish(id, name).await?;
        let by = context.by.clone();
        if let Some(stored) = stored.filter(of_rule) {
            if stored.origin == Origin::Config {
                return Err(of_settings(id));
            }
            // First the document: after a crash in between the rule is one that is no longer declared.
            let gone = name.to_owned();
            self.store_change(stored, context, KeptAnswers::Stay, move |_, record| {
                record.settings.publishes.retain(|rule| rule.name != gone);
                Ok(())
            })
            .await?;
        }
        self.drop_publish(id, name).await?;
        tracing::warn!(app = id, rule = name, discarded, by, "a publish rule was taken away with what waited for it");
        Ok(json!({ "name": name, "discarded": discarded }))
    }

    /// Gives an upstream, or one tenant at it, another credential (`auth`), takes it away (`auth: null`), or, when it says
    /// neither, has those that lie elsewhere read again.
    ///
    /// # Errors
    /// As [`Hub::change_upstream`]; one of the settings can only be read again.
    pub async fn rotate_upstream_credential(
        &self,
        id: &str,
        mut fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let tenant = fields.text("org", SCOPE_CHARS_MAX)?.unwrap_or_default();
        let sent = fields.sent("auth");
        fields.finish()?;
        let _one_at_a_time = self.inner.declared_upstreams.changing.lock().await;
        let Some(sent) = sent else {
            let stored = self.inner.declared_upstreams.get(id);
            let stored = stored
                .ok_or_else(|| self.changeable(id).err().unwrap_or_else(|| Problem::not_found("upstream", id)))?;
            let registered = self.registered(id)?;
            self.inner.upstreams.replace(&registered, self.making().served(&stored)?, KeptAnswers::Stay).await;
            tracing::info!(upstream = id, "the credentials of an upstream are read again");
            return Ok(self.upstream_json(&registered));
        };
        let before = self.changeable(id)?;
        let settings = &before.record.settings;
        if settings.org.as_ref().is_some_and(|org| !tenant.is_empty() && *org != tenant) {
            return Err(Problem::field("org", "the tenant whose upstream it is", tenant));
        }
        let wish = match sent {
            Value::Null => AuthWish::Remove,
            sent => {
                let policy = settings.policy(&self.inner.policy);
                AuthWish::Set(Credential::from_json(sent, &policy, crate::upstream::credential::Inline::Sealed)?)
            }
        };
        let shown = tenant.clone();
        let out = self
            .store_change(before, context, KeptAnswers::Stay, move |hub, record| {
                hub.set_credential(record, &tenant, wish)
            })
            .await?;
        tracing::info!(upstream = id, tenant = shown, "the credential of an upstream was changed");
        Ok(out)
    }

    /// Deletes an upstream: it is called no more, and what was read of it is forgotten.
    ///
    /// # Errors
    /// When it is not there, is declared in the settings, or the store fails.
    pub async fn delete_upstream(&self, id: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.inner.declared_upstreams.changing.lock().await;
        self.changeable(id)?;
        self.check_rules_leave(id, &[]).await?;
        let key = id.to_owned();
        self.blocking(move |hub| {
            let declared = &hub.inner.declared_upstreams;
            declared.documents.delete(&key)?;
            declared.by_id.remove(&key);
            Ok(())
        })
        .await?;
        self.inner.upstreams.remove(id).await;
        // After its actor has ended, so that nothing writes it again.
        let key = id.to_owned();
        self.blocking(move |hub| {
            let registry: &dyn Registry = &*hub.inner.engine;
            registry.delete(BREAKERS, &key).map_err(|error| store_problem(&error)).map(|_| ())
        })
        .await?;
        self.serve_publishes(id, None, &WriteContext::default()).await
    }

    /// Takes the upstreams of the settings as they are now: new ones are registered, changed ones changed, those that are
    /// gone taken away. When one does not fit, nothing changes.
    ///
    /// # Errors
    /// What does not fit.
    pub async fn declare_upstreams(&self, tables: &[UpstreamTable]) -> Result<(), Problem> {
        let _one_at_a_time = self.inner.declared_upstreams.changing.lock().await;
        let (making, declared, upstreams) = (self.making(), &self.inner.declared_upstreams, &self.inner.upstreams);
        let wanted = making.declared(tables)?;
        for one in &wanted {
            let taken = match declared.get(&one.record.id) {
                Some(stored) => stored.origin == Origin::Api,
                None => upstreams.get(&one.record.id).is_some(),
            };
            if taken {
                return Err(Problem::field("upstreams", "an id that no other upstream has", &one.record.id));
            }
        }
        let before: Vec<Stored> = declared.by_id.iter().map(|one| one.clone()).collect();
        for gone in before.iter().filter(|one| one.origin == Origin::Config) {
            let id = &gone.record.id;
            if !wanted.iter().any(|one| one.record.id == *id) {
                declared.by_id.remove(id);
                upstreams.remove(id).await;
                self.serve_publishes(id, None, &gone.record.updated).await?;
            }
        }
        for one in wanted {
            let served = making.served(&one)?;
            match (upstreams.get(&one.record.id), declared.get(&one.record.id)) {
                (Some(registered), Some(old)) => {
                    let (new, old) = (&one.record.settings, &old.record.settings);
                    let same = new.base_url == old.base_url && new.reads == old.reads && new.org == old.org;
                    let answers = if same { KeptAnswers::Stay } else { KeptAnswers::Forgotten };
                    upstreams.replace(&registered, served, answers).await;
                }
                (_, _) => {
                    upstreams.register(served)?;
                }
            }
            let record = Arc::clone(&one.record);
            declared.by_id.insert(one.record.id.clone(), one);
            self.serve_publishes(&record.id, Some(&record.settings), &record.updated).await?;
        }
        Ok(())
    }

    /// Asks an upstream whether it is there and takes the credential, that of `tenant` when it is given.
    ///
    /// # Errors
    /// When there is none of this id, or its actor is being restarted.
    pub async fn test_upstream(&self, id: &str, tenant: Option<&str>) -> Result<Report, Problem> {
        let registered = self.registered(id)?;
        let mut context = AdapterContext::new(tenant, self.inner.clock.now());
        context.tenant = context.tenant.or_else(|| registered.core.served.load().org.clone());
        registered.check(context).await.map_err(|error| outside(id, &error))
    }

    /// Asks every upstream, and says how they fare together.
    pub async fn check_upstreams(&self) -> (Overall, Vec<Report>) {
        use futures_util::StreamExt as _;
        let checks = self.inner.upstreams.all().into_iter().map(|one| async move {
            let mut context = AdapterContext::new(None, self.inner.clock.now());
            context.tenant = one.core.served.load().org.clone();
            one.check(context).await.ok()
        });
        let reports = futures_util::stream::iter(checks).buffered(CHECKS_AT_ONCE);
        let reports: Vec<Report> = reports.filter_map(std::future::ready).collect().await;
        (Overall::of(reports.iter().map(|report| report.status)), reports)
    }

    /// How upstreams fare as far as is known without asking them.
    pub(super) fn upstreams_seen(&self) -> String {
        let grades: Vec<Grade> = self.inner.upstreams.all().iter().map(|one| one.grade()).collect();
        let count = |wanted: Grade| grades.iter().filter(|grade| **grade == wanted).count();
        let overall = Overall::of(grades.iter().copied());
        format!(
            "{}: {} pass, {} warn, {} fail",
            overall.as_str(),
            count(Grade::Pass),
            count(Grade::Warn),
            count(Grade::Fail)
        )
    }

    /// Forgets what was read of an upstream. Returns how many answers that were.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn clear_upstream_cache(&self, id: &str) -> Result<usize, Problem> {
        let registered = self.registered(id)?;
        Ok(self.inner.upstreams.clear(&registered).await)
    }

    /// Sets the bridge counters of an upstream back to zero.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn reset_upstream_counters(&self, id: &str) -> Result<(), Problem> {
        self.registered(id)?.core.series.reset();
        Ok(())
    }

    /// A declared read, when the tenant may ask the upstream.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]: also for an upstream of another tenant, so that ids cannot be probed.
    pub fn upstream_read(&self, id: &str, name: &str, tenant: Option<&str>) -> Result<Arc<Read>, Problem> {
        let found = self.inner.declared_upstreams.get(id);
        let visible = found.filter(|stored| match (&stored.record.settings.org, tenant) {
            (Some(org), Some(tenant)) => org == tenant,
            (Some(_) | None, _) => true,
        });
        let stored = visible.ok_or_else(|| Problem::not_found("upstream", id))?;
        stored.reads.get(name).cloned().ok_or_else(|| Problem::not_found("read of the upstream", name))
    }

    /// Answers a declared read for a tenant.
    ///
    /// # Errors
    /// When it is not there, the question does not fit, or the upstream gives no answer and there is no old one.
    pub async fn read_upstream(
        &self,
        id: &str,
        name: &str,
        question: &Question,
        context: AdapterContext,
    ) -> Result<Value, Problem> {
        let read = self.upstream_read(id, name, context.tenant.as_deref())?;
        let registered = self.registered(id)?;
        self.inner.upstreams.read(&registered, name, &read, question, context).await.map_err(|error| match error {
            ReadError::Question(problem) => problem.as_kind(ProblemKind::InvalidParameter),
            ReadError::Call(error) => outside(id, &error),
        })
    }
}
