//! Upstreams as a service (UPS-2, UPS-9): what is kept of them, how a declaration becomes an upstream that is called, and how
//! operators see them. Where they come from is a room each; a change is durable before it is answered and holds from the
//! next call on.
//!
//! - [`settings`]: declared in the settings of the hub
//! - [`api`]: declared over the admin API
//! - [`program`]: in code, by the program that runs the hub
//! - [`asking`]: called, read, checked

mod api;
mod asking;
mod program;
mod settings;

pub use program::AdapterOptions;
pub use settings::check_settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use serde_json::{Value, json};

use super::{Documents, Hub};
use crate::config::Config;
use crate::ground::clock::SharedClock;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::secret::Sealer;
use crate::upstream::Upstreams;
use crate::upstream::credential::Credential;
use crate::upstream::http::{HttpAdapter, HttpParts};
use crate::upstream::perform::{Rules, Served};
use crate::upstream::read::Read;
use crate::upstream::record::{Origin, UpstreamRecord, UpstreamSettings};
use crate::upstream::service::Registered;
use crate::webhook::guard::AddressPolicy;
use crate::webhook::oauth::TOKEN_TIMEOUT_MS;
use crate::webhook::outbound::OutboundSettings;

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
}
