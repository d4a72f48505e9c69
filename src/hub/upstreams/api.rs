//! Upstreams that are declared over the admin API: made, changed, given other credentials, deleted (UPS-2, UPS-9).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Stored, context_of, of_settings};
use crate::breaker::actor::DOCUMENT_KIND as BREAKERS;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::{Hub, store_problem};
use crate::store::Registry;
use crate::upstream::credential::{Credential, SealedCredential, Source};
use crate::upstream::record::{
    AuthWish, CREDENTIALS_MAX, Declared, Ground, Origin, UpstreamRecord, read_change, read_new,
};
use crate::upstream::service::{KeptAnswers, UPSTREAMS_MAX};

impl Hub {
    /// Declares an upstream.
    ///
    /// # Errors
    /// When a field does not fit, the id is taken, or the store fails.
    pub async fn create_upstream(&self, fields: Fields, context: WriteContext) -> Result<Value, Problem> {
        let breaker = crate::hub::webhooks::default_breaker(&self.inner.config);
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
            let auth = credential.resolve(&policy);
            auth.map_err(|error| Problem::field("auth", error.to_string(), "***"))?.check_visible()?;
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
        let breaker = crate::hub::webhooks::default_breaker(&self.inner.config);
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
}
