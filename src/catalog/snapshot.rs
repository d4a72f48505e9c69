//! The catalog as hot paths read it: one shared picture that a change replaces as a whole.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};

use super::policy::OrgPolicy;
use super::record::{Lifecycle, TypeRecord, VersionRecord, VersionState};
use super::schema::Compiled;
use crate::event::redact::{Audience, RedactAction, Redaction, RedactionKey, RedactionSource, Redactions};

/// A version with its schema ready to check, from the first use on.
#[derive(Debug)]
pub struct Version {
    /// The version.
    pub record: VersionRecord,
    compiled: OnceLock<Option<Compiled>>,
}

impl Version {
    /// A version whose schema is compiled when it is first used.
    #[must_use]
    pub fn new(record: VersionRecord) -> Self {
        Self { record, compiled: OnceLock::new() }
    }

    /// A version whose schema was compiled when it was registered.
    #[must_use]
    pub fn ready(record: VersionRecord, compiled: Compiled) -> Self {
        Self { record, compiled: OnceLock::from(Some(compiled)) }
    }

    /// The same with another record, such as another state; the schema stays as it is.
    #[must_use]
    pub fn with(&self, record: VersionRecord) -> Self {
        Self { record, compiled: self.compiled.clone() }
    }

    /// The schema, ready to check; none when what is stored no longer compiles, which is logged once.
    #[must_use]
    pub fn compiled(&self) -> Option<&Compiled> {
        let compile = || {
            let schema = serde_json::from_str(&self.record.schema).ok()?;
            Compiled::new(schema)
                .inspect_err(|problem| {
                    let VersionRecord { name, version, .. } = &self.record;
                    tracing::error!(event_type = name, version, %problem, "a stored schema does not compile");
                })
                .ok()
        };
        self.compiled.get_or_init(compile).as_ref()
    }
}

/// A type with everything that is known of it. Never changed once it is in a snapshot.
#[derive(Clone, Debug)]
pub struct TypeEntry {
    /// The type.
    pub record: Arc<TypeRecord>,
    /// The revision of its document.
    pub revision: u64,
    /// Its versions, oldest first.
    pub versions: Vec<Arc<Version>>,
    /// What is hidden of its events; none when nothing is.
    pub redactions: Option<Arc<Redactions>>,
}

impl TypeEntry {
    /// A type with its versions, oldest first.
    #[must_use]
    pub fn new(record: TypeRecord, revision: u64, versions: Vec<Arc<Version>>, key: &RedactionKey) -> Self {
        let redactions = (!record.redactions.is_empty()).then(|| Arc::new(redactions(&record, key)));
        Self { record: Arc::new(record), revision, versions, redactions }
    }

    /// The version that events mean which name none: the newest active one.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Version>> {
        self.versions.iter().rev().find(|version| version.record.state == VersionState::Active)
    }

    /// The version of this name.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.record.version == name)
    }

    /// Where the type is in its life.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        self.record.lifecycle
    }
}

/// What is hidden of a type's events. What was stored and can no longer be read hides all data: never less than was meant.
fn redactions(record: &TypeRecord, key: &RedactionKey) -> Redactions {
    let all_data =
        Redaction { path: "/data".to_owned(), action: RedactAction::Drop, audiences: Audience::ALL.to_vec() };
    let compiled = Redactions::compile("redactions", &record.redactions, key).or_else(|problem| {
        tracing::error!(event_type = record.name, %problem, "stored redactions cannot be used: all data is hidden");
        Redactions::compile("redactions", &[all_data], key)
    });
    #[expect(clippy::expect_used, reason = "one redaction of the whole of the data always compiles; a test has it")]
    compiled.expect("the redaction of all data")
}

/// The types of one org, or those for every org, by name.
type Names = HashMap<String, Arc<TypeEntry>>;

/// Every type at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    common: Names,
    of_orgs: HashMap<String, Names>,
    /// How events are checked, by org.
    policies: HashMap<String, Arc<OrgPolicy>>,
    /// How those of orgs are checked that have no policy of their own.
    common_policy: Option<Arc<OrgPolicy>>,
    /// Whether any org's events are checked at all.
    checks: bool,
}

impl Snapshot {
    /// The type that events of this org and type are of: the org's own, else the one for every org.
    #[must_use]
    pub fn get(&self, org: &str, name: &str) -> Option<&Arc<TypeEntry>> {
        let own = if self.of_orgs.is_empty() { None } else { self.of_orgs.get(org) };
        own.and_then(|names| names.get(name)).or_else(|| self.common.get(name))
    }

    /// The type declared by exactly this org (none: for every org).
    #[must_use]
    pub fn declared(&self, org: Option<&str>, name: &str) -> Option<&Arc<TypeEntry>> {
        match org {
            Some(org) => self.of_orgs.get(org)?.get(name),
            None => self.common.get(name),
        }
    }

    /// Whether events of any org are checked.
    #[must_use]
    pub fn checks(&self) -> bool {
        self.checks
    }

    /// How events of this org are checked; none when that was never said.
    #[must_use]
    pub fn policy(&self, org: &str) -> Option<&Arc<OrgPolicy>> {
        self.policies.get(org).or(self.common_policy.as_ref())
    }

    /// What was said for exactly this org (none: for every org).
    #[must_use]
    pub fn declared_policy(&self, org: Option<&str>) -> Option<&Arc<OrgPolicy>> {
        match org {
            Some(org) => self.policies.get(org),
            None => self.common_policy.as_ref(),
        }
    }

    /// Every policy.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<OrgPolicy>> {
        self.policies.values().chain(&self.common_policy)
    }

    /// Puts a policy in.
    pub fn put_policy(&mut self, policy: OrgPolicy) {
        let policy = Arc::new(policy);
        match &policy.org {
            Some(org) => {
                self.policies.insert(org.clone(), policy);
            }
            None => self.common_policy = Some(policy),
        }
        let checks = self.policies().any(|policy| policy.mode.checks());
        self.checks = checks;
    }

    /// Every type, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TypeEntry>> {
        self.common.values().chain(self.of_orgs.values().flat_map(HashMap::values))
    }

    /// Types declared by this org (none: for every org).
    #[must_use]
    pub fn count(&self, org: Option<&str>) -> usize {
        match org {
            Some(org) => self.of_orgs.get(org).map_or(0, HashMap::len),
            None => self.common.len(),
        }
    }

    /// Types in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.common.len() + self.of_orgs.values().map(HashMap::len).sum::<usize>()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.common.is_empty() && self.of_orgs.is_empty()
    }

    /// Puts a type in, or in place of the one of its org and name.
    pub fn put(&mut self, entry: TypeEntry) {
        let names = match &entry.record.org {
            Some(org) => self.of_orgs.entry(org.clone()).or_default(),
            None => &mut self.common,
        };
        names.insert(entry.record.name.clone(), Arc::new(entry));
    }

    /// Takes a type out.
    pub fn remove(&mut self, org: Option<&str>, name: &str) {
        let Some(org) = org else {
            self.common.remove(name);
            return;
        };
        if let Some(names) = self.of_orgs.get_mut(org) {
            names.remove(name);
            if names.is_empty() {
                self.of_orgs.remove(org);
            }
        }
    }
}

/// The catalog in memory. Reading takes no lock.
#[derive(Debug, Default)]
pub struct Catalog {
    current: ArcSwap<Snapshot>,
}

impl Catalog {
    /// The catalog as it is now.
    #[must_use]
    pub fn look(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// What is hidden of events of this org and type; none when nothing is.
    #[must_use]
    pub fn redactions(&self, org: &str, event_type: &str) -> Option<Arc<Redactions>> {
        let snapshot = self.current.load();
        if snapshot.is_empty() {
            return None;
        }
        snapshot.get(org, event_type)?.redactions.clone()
    }

    /// Replaces the picture. Whoever changes the catalog does so one at a time.
    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = (**self.current.load()).clone();
        change(&mut next);
        self.current.store(Arc::new(next));
    }
}

impl RedactionSource for Catalog {
    fn redactions(&self, org: &str, event_type: &str) -> Option<Arc<Redactions>> {
        self.redactions(org, event_type)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ground::secret::Sealer;

    fn entry(org: Option<&str>, name: &str, redactions: &Value) -> TypeEntry {
        let context = json!({"by": "admin", "at": 0});
        let record: TypeRecord = serde_json::from_value(
            json!({"name": name, "org": org, "redactions": redactions, "created": context, "updated": context}),
        )
        .expect("a record");
        TypeEntry::new(record, 1, Vec::new(), &RedactionKey::of(&Sealer::new(&[7; 32])))
    }

    fn whose(catalog: &Catalog, org: &str, name: &str) -> Option<String> {
        let snapshot = catalog.look();
        snapshot.get(org, name).map(|entry| entry.record.org.clone().unwrap_or_else(|| "every org".to_owned()))
    }

    #[test]
    fn an_orgs_own_type_goes_before_the_one_for_every_org() {
        let catalog = Catalog::default();
        assert!(catalog.look().is_empty());
        catalog.change(|snapshot| snapshot.put(entry(None, "a.b", &json!([]))));
        catalog.change(|snapshot| snapshot.put(entry(Some("acme"), "a.b", &json!([]))));
        assert_eq!(whose(&catalog, "acme", "a.b").as_deref(), Some("acme"));
        assert_eq!(whose(&catalog, "globex", "a.b").as_deref(), Some("every org"));
        assert_eq!(whose(&catalog, "acme", "a.c"), None);
        assert_eq!((catalog.look().len(), catalog.look().count(Some("acme"))), (2, 1));
        catalog.change(|snapshot| snapshot.remove(Some("acme"), "a.b"));
        assert_eq!(whose(&catalog, "acme", "a.b").as_deref(), Some("every org"));
        catalog.change(|snapshot| snapshot.remove(None, "a.b"));
        assert!(catalog.look().is_empty());
    }

    #[test]
    fn redactions_are_those_of_the_type_that_counts() {
        let catalog = Catalog::default();
        assert!(catalog.redactions("acme", "a.b").is_none());
        let cdc = json!([{"path": "/data/x", "action": "mask", "audiences": ["cdc"]}]);
        catalog.change(|snapshot| snapshot.put(entry(None, "a.b", &cdc)));
        let redactions = catalog.redactions("acme", "a.b").expect("some");
        assert!(redactions.touch(Audience::Cdc) && !redactions.touch(Audience::Export));
        catalog.change(|snapshot| snapshot.put(entry(Some("acme"), "a.b", &json!([]))));
        assert!(catalog.redactions("acme", "a.b").is_none());
        assert!(catalog.redactions("globex", "a.b").is_some());
    }

    #[test]
    fn redactions_that_cannot_be_used_hide_all_data_from_everyone() {
        let broken = entry(None, "a.b", &json!([{"path": "nowhere", "action": "mask", "audiences": ["cdc"]}]));
        let redactions = broken.redactions.expect("some");
        let envelope = br#"{"type":"a.b","data":{"x":1}}"#;
        for audience in Audience::ALL {
            assert!(!String::from_utf8_lossy(&redactions.apply("acme", envelope, audience)).contains("\"x\""));
        }
    }
}
