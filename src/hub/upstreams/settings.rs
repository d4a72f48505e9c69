//! Upstreams that are declared in the settings: read at the start, and again when the settings are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Making, Stored};
use crate::config::{Config, UpstreamTable};
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::hub::Hub;
use crate::upstream::record::{AuthWish, Declared, Ground, Origin, UpstreamRecord, read_new};
use crate::upstream::service::KeptAnswers;
use crate::webhook::guard::AddressPolicy;

impl Making<'_> {
    /// The upstreams of the settings.
    pub(super) fn declared(&self, tables: &[UpstreamTable]) -> Result<Vec<Stored>, Problem> {
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
    let breaker = crate::hub::webhooks::default_breaker(config);
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
    read_tables(&config.upstreams, config, &crate::hub::open::address_policy(config))
        .map(drop)
        .map_err(|problem| problem.detail)
}

impl Hub {
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
}
