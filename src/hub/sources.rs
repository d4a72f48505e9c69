//! Sources as a service: made, changed, deleted, and what comes in by them (ING-4).

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;

use super::{Accepted, Documents, Hub};
use crate::event::parse::{not_reserved, parse_event};
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::prefixed;
use crate::ground::secret::{Sealer, Secret};
use crate::source::mapping::{Delivered, Mapping, challenge, envelope};
use crate::source::record::{SealedSecret, SourceRecord, SourceWish, read_change, read_new};
use crate::source::verify::Received;

/// Most sources of a hub.
const SOURCES_MAX: usize = 10_000;

/// A source in memory, its secrets opened.
#[derive(Clone, Debug)]
struct Stored {
    record: Arc<SourceRecord>,
    secrets: Arc<[Secret]>,
    revision: u64,
}

/// Every source.
#[derive(Debug)]
pub(super) struct Sources {
    documents: Documents<SourceRecord>,
    by_name: DashMap<String, Stored>,
    /// Changes are made one at a time: they are rare, and each syncs.
    changing: parking_lot::Mutex<()>,
}

/// What a request at a source came to.
#[derive(Debug)]
pub enum SourceAnswer {
    /// An event was taken in.
    Taken {
        /// Its id.
        id: String,
        /// What became of it.
        accepted: Accepted,
    },
    /// It asks for this text back.
    Challenge(String),
}

fn open(sealer: &Sealer, record: &SourceRecord) -> Result<Arc<[Secret]>, Problem> {
    let one = |sealed: &SealedSecret, which: &str| {
        let bytes = hex::decode(&sealed.sealed).unwrap_or_default();
        sealer.open(&bytes, &context_of(&record.name, which)).map_err(|error| {
            tracing::error!(source = %record.name, %error, "a secret of a source does not open");
            Problem::new(ProblemKind::Internal, "a stored secret does not open; the log of the hub names it")
        })
    };
    let first = record.secret.iter().map(|sealed| one(sealed, "first"));
    let second = record.second_secret.iter().map(|sealed| one(sealed, "second"));
    first.chain(second).collect()
}

fn context_of(name: &str, which: &str) -> String {
    format!("source/{name}/{which}")
}

impl Sources {
    pub(super) fn load(documents: Documents<SourceRecord>, sealer: &Sealer) -> Result<Self, Problem> {
        let by_name = DashMap::new();
        for (record, revision) in documents.list()? {
            let stored = Stored { secrets: open(sealer, &record)?, record: Arc::new(record), revision };
            by_name.insert(stored.record.name.clone(), stored);
        }
        Ok(Self { documents, by_name, changing: parking_lot::Mutex::new(()) })
    }

    fn get(&self, name: &str) -> Option<Stored> {
        self.by_name.get(name).map(|stored| stored.clone())
    }
}

impl Hub {
    fn sealed_secret(&self, name: &str, which: &str, secret: &Secret) -> SealedSecret {
        let sealed = self.inner.sealer.seal(secret, &context_of(name, which), &*self.inner.random);
        SealedSecret { sealed: hex::encode(sealed), last4: secret.last4() }
    }

    /// Makes a source. Blocks.
    ///
    /// # Errors
    /// When a field does not fit, the name is taken, or the store fails.
    pub fn create_source(
        &self,
        fields: Fields,
        org: Option<&str>,
        context: WriteContext,
    ) -> Result<Arc<SourceRecord>, Problem> {
        let wish = read_new(fields, org)?;
        let SourceWish { name, org, verification, mapping, description, secret, second_secret } = wish;
        let verification = verification.ok_or_else(|| Problem::field("verification", "required", "nothing"))?;
        let sources = &self.inner.sources;
        let _one_at_a_time = sources.changing.lock();
        if sources.by_name.len() >= SOURCES_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a hub has at most {SOURCES_MAX} sources")));
        }
        let name = name.unwrap_or_else(|| prefixed("src", context.at, &*self.inner.random));
        if sources.by_name.contains_key(&name) {
            let mut problem = Problem::new(ProblemKind::Conflict, "a source of the hub has this name");
            (problem.field, problem.sent) = (Some("name".to_owned()), Some(name));
            return Err(problem);
        }
        let record = SourceRecord {
            org,
            mapping: mapping.unwrap_or_else(|| Mapping::preset(&verification)),
            verification,
            description: description.flatten(),
            secret: secret.map(|secret| self.sealed_secret(&name, "first", &secret)),
            second_secret: second_secret.flatten().map(|secret| self.sealed_secret(&name, "second", &secret)),
            created: context.clone(),
            updated: context,
            name,
        };
        self.store_source(record, None)
    }

    /// Writes a source and has requests verified by it from now on.
    fn store_source(&self, record: SourceRecord, before: Option<u64>) -> Result<Arc<SourceRecord>, Problem> {
        let sources = &self.inner.sources;
        let secrets = open(&self.inner.sealer, &record)?;
        let revision = sources.documents.put(&record.name, &record, before)?;
        let record = Arc::new(record);
        sources.by_name.insert(record.name.clone(), Stored { record: Arc::clone(&record), secrets, revision });
        Ok(record)
    }

    /// A source, when the key may see it.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]: also for one of another org.
    pub fn source(&self, name: &str, org: Option<&str>) -> Result<Arc<SourceRecord>, Problem> {
        self.visible_source(name, org).map(|stored| stored.record)
    }

    fn visible_source(&self, name: &str, org: Option<&str>) -> Result<Stored, Problem> {
        let found = self.inner.sources.get(name);
        let visible = found.filter(|stored| org.is_none() || stored.record.org.as_deref() == org);
        visible.ok_or_else(|| Problem::not_found("source", name))
    }

    /// The sources that the key may see, by name.
    #[must_use]
    pub fn sources(&self, org: Option<&str>) -> Vec<Arc<SourceRecord>> {
        let all = self.inner.sources.by_name.iter().map(|stored| Arc::clone(&stored.record));
        let mut all: Vec<_> = all.filter(|record| org.is_none() || record.org.as_deref() == org).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Changes a source. Blocks.
    ///
    /// # Errors
    /// When it is not there, a field does not fit, or the store fails.
    pub fn change_source(
        &self,
        name: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Arc<SourceRecord>, Problem> {
        let _one_at_a_time = self.inner.sources.changing.lock();
        let stored = self.visible_source(name, org)?;
        let wish = read_change(fields, &stored.record)?;
        let mut record = (*stored.record).clone();
        if let Some(verification) = wish.verification {
            // The rules of another provider do not fit; rules of the client's own stay.
            if wish.mapping.is_none() && record.mapping == Mapping::preset(&record.verification) {
                record.mapping = Mapping::preset(&verification);
            }
            record.verification = verification;
        }
        if let Some(mapping) = wish.mapping {
            record.mapping = mapping;
        }
        if let Some(description) = wish.description {
            record.description = description;
        }
        if let Some(secret) = wish.secret {
            record.secret = Some(self.sealed_secret(name, "first", &secret));
        }
        if let Some(secret) = wish.second_secret {
            record.second_secret = secret.map(|secret| self.sealed_secret(name, "second", &secret));
        }
        record.updated = context;
        self.store_source(record, Some(stored.revision))
    }

    /// Deletes a source: its address is unknown from now on. Blocks.
    ///
    /// # Errors
    /// When it is not there, or the store fails.
    pub fn delete_source(&self, name: &str, org: Option<&str>) -> Result<(), Problem> {
        let sources = &self.inner.sources;
        let _one_at_a_time = sources.changing.lock();
        self.visible_source(name, org)?;
        sources.documents.delete(name)?;
        sources.by_name.remove(name);
        Ok(())
    }

    /// Takes a request of a third party in: verified first, then made an event (SO-1). `ip` is the sender's address.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`] for an unknown name, [`ProblemKind::Unauthorized`] when it does not verify, those of
    /// [`Hub::accept`].
    pub async fn receive(
        &self,
        name: &str,
        headers: &[(String, String)],
        body: &Bytes,
        ip: Option<String>,
    ) -> Result<SourceAnswer, Problem> {
        let Some(Stored { record, secrets, revision: _ }) = self.inner.sources.get(name) else {
            return Err(Problem::not_found("source", name));
        };
        let kind = record.verification.kind();
        let count = |outcome: &str| self.inner.metrics.source_requests.with_label_values(&[kind, outcome]).inc();
        let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str());
        let now = self.inner.clock.now();
        let draft = {
            let received = Received { header: &header, body, now };
            if let Err(refusal) = record.verification.check(&secrets, &received) {
                count("unverified");
                tracing::debug!(source = name, %refusal, "a request does not verify");
                return Err(Problem::new(ProblemKind::Unauthorized, refusal.to_string()));
            }
            if let Some(challenge) = challenge(&record.verification, body) {
                count("challenge");
                return Ok(SourceAnswer::Challenge(challenge));
            }
            let delivered = Delivered { header: &header, content_type: header("content-type"), body };
            let text = envelope(name, kind, record.org.as_deref(), &record.mapping, &delivered);
            // The org is the source's own; without one its mapping says.
            let rules = self.parse_rules(record.org.as_deref(), record.org.as_deref());
            let draft = parse_event(&Bytes::from(text), &rules);
            let draft = draft.and_then(|draft| not_reserved(&draft.meta).map(|()| draft));
            draft.inspect_err(|_| count("refused"))?
        };
        let id = draft.meta.id.clone();
        let by = format!("source:{name}");
        let context = || WriteContext { by, at: now, correlation_id: None, ip };
        let accepted = self.accept(vec![draft], false, context).await.inspect_err(|_| count("failed"))?.pop();
        let accepted = accepted.ok_or_else(|| Problem::new(ProblemKind::Internal, "no receipt for the event"))?;
        count("verified");
        Ok(SourceAnswer::Taken { id, accepted })
    }
}
