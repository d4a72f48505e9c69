//! The catalog as a service: types, versions and policies made, changed, deleted, and told of.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Documents, Hub, Page};
use crate::catalog::compat::{CHANGES_LISTED_MAX, changes};
use crate::catalog::policy::OrgPolicy;
use crate::catalog::read::{TypeWish, VersionWish, blank, check_name, read_policy, read_state};
use crate::catalog::record::{Lifecycle, TypeRecord, VersionRecord, VersionState, type_key, version_key};
use crate::catalog::schema::{Compiled, Violations};
use crate::catalog::{Catalog, Snapshot, TypeEntry, Version, tell};
use crate::event::filter::TypePattern;
use crate::event::redact::RedactionKey;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::limits::ROW_BYTES_MAX;

/// Most types of a hub.
const TYPES_MAX: usize = 10_000;
/// Most types of one org, and most for every org.
const ORG_TYPES_MAX: usize = 2_000;
/// Most versions of a type.
pub const VERSIONS_MAX: usize = 50;
/// Most orgs with a policy of their own.
const POLICIES_MAX: usize = 10_000;
/// Largest document of a type, in bytes.
const TYPE_BYTES_MAX: usize = ROW_BYTES_MAX - 2_048;

/// Every type, in the store and in memory.
#[derive(Debug)]
pub(super) struct Types {
    types: Documents<TypeRecord>,
    versions: Documents<VersionRecord>,
    policies: Documents<OrgPolicy>,
    catalog: Arc<Catalog>,
    key: RedactionKey,
    /// Changes are made one at a time: they are rare, and each syncs.
    changing: parking_lot::Mutex<()>,
}

/// What a list of types asks for.
#[derive(Clone, Debug, Default)]
pub struct TypeQuery {
    /// The types that count for this org; none for those of every org.
    pub org: Option<String>,
    /// Of this service.
    pub service: Option<String>,
    /// At this stage of their life.
    pub lifecycle: Option<Lifecycle>,
    /// Whose names fit.
    pub name: Option<TypePattern>,
    /// After this place.
    pub after: Option<String>,
    /// Most types.
    pub limit: usize,
}

/// Whether an asking to write only wants to know what would come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is written.
    Really,
    /// Nothing is.
    Dry,
}

impl Types {
    /// Reads the catalog. A version whose type is gone (the end came between the two deletions) goes, too.
    pub(super) fn load(
        types: Documents<TypeRecord>,
        versions: Documents<VersionRecord>,
        policies: Documents<OrgPolicy>,
        key: RedactionKey,
    ) -> Result<Self, Problem> {
        let mut of_type: HashMap<String, Vec<Arc<Version>>> = HashMap::new();
        for (version, _) in versions.list()? {
            let key = type_key(version.org.as_deref(), &version.name);
            of_type.entry(key).or_default().push(Arc::new(Version::new(version)));
        }
        let mut entries = Vec::new();
        for (record, revision) in types.list()? {
            let mut own = of_type.remove(&type_key(record.org.as_deref(), &record.name)).unwrap_or_default();
            own.sort_by_key(|version| version.record.number);
            entries.push(TypeEntry::new(record, revision, own, &key));
        }
        for orphan in of_type.into_values().flatten() {
            let VersionRecord { org, name, number, .. } = &orphan.record;
            versions.delete(&version_key(org.as_deref(), name, *number))?;
        }
        let stored = policies.list()?;
        let catalog = Arc::new(Catalog::default());
        catalog.change(|snapshot| {
            entries.into_iter().for_each(|entry| snapshot.put(entry));
            stored.into_iter().for_each(|(policy, _)| snapshot.put_policy(policy));
        });
        Ok(Self { types, versions, policies, catalog, key, changing: parking_lot::Mutex::new(()) })
    }

    /// The catalog as hot paths read it.
    pub(super) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }
}

fn absent(name: &str) -> Problem {
    Problem::not_found("type of the catalog", name)
}

/// The type that a reader of this org sees.
fn seen<'a>(snapshot: &'a Snapshot, org: Option<&str>, name: &str) -> Result<&'a Arc<TypeEntry>, Problem> {
    let found = match org {
        Some(org) => snapshot.get(org, name),
        None => snapshot.declared(None, name),
    };
    found.ok_or_else(|| absent(name))
}

/// Refuses data that does not fit, naming the field that holds it.
fn refuse_misfit(field: String, what: &str, found: Option<Violations>) -> Result<(), Problem> {
    let Some(violations) = found else { return Ok(()) };
    let first = violations.listed.first().map_or("", |first| first.message.as_str()).to_owned();
    Err(Problem::field(field, format!("data that fits {what}"), first)
        .with("violations", serde_json::to_value(&violations.listed).unwrap_or_default())
        .with("more_violations", violations.more))
}

/// Checks the specimens and the sample of a type against its versions. A specimen that names no version is of the newest
/// from now on.
fn settle(record: &mut TypeRecord, versions: &[Arc<Version>], newest: Option<&Arc<Version>>) -> Result<(), Problem> {
    for (at, specimen) in record.specimens.iter_mut().enumerate() {
        let version = match &specimen.version {
            Some(name) => {
                let found = versions.iter().find(|version| version.record.version == *name);
                let field = || Problem::field(format!("specimens[{at}].version"), "a version of the type", name);
                Some(found.ok_or_else(field)?)
            }
            None => newest,
        };
        let Some(version) = version else { continue };
        specimen.version = Some(version.record.version.clone());
        let violations = version.compiled().and_then(|compiled| compiled.violations(&specimen.data, "/data"));
        let what = format!("version {} of the schema", version.record.version);
        refuse_misfit(format!("specimens[{at}].data"), &what, violations)?;
    }
    if let (Some(sample), Some(version)) = (&record.sample, newest) {
        let data = sample.get("data").unwrap_or(&Value::Null);
        let violations = version.compiled().and_then(|compiled| compiled.violations(data, "/data"));
        refuse_misfit("sample.data".to_owned(), "the newest version of the schema", violations)?;
    }
    let bytes = serde_json::to_vec(record).map_or(usize::MAX, |text| text.len());
    if bytes > TYPE_BYTES_MAX {
        let limit = format!("at most {TYPE_BYTES_MAX} bytes for all that is said of a type");
        return Err(Problem::field("body", limit, format!("{bytes} bytes")).as_kind(ProblemKind::TooLarge));
    }
    Ok(())
}

/// What a version of this schema breaks of the versions that count, with their names.
fn broken(entry: &TypeEntry, schema: &Value, besides: Option<&str>) -> Vec<Value> {
    let record = &entry.record;
    let active = |version: &&Arc<Version>| {
        version.record.state == VersionState::Active && besides != Some(version.record.version.as_str())
    };
    let before: Vec<&Arc<Version>> = entry.versions.iter().rev().filter(active).collect();
    let count = if record.transitive { before.len() } else { 1 };
    let mut out = Vec::new();
    for version in before.into_iter().take(count) {
        let Ok(old) = serde_json::from_str(&version.record.schema) else { continue };
        for change in changes(record.compatibility, &old, schema) {
            let mut told = serde_json::to_value(&change).unwrap_or_default();
            told["against"] = Value::from(version.record.version.as_str());
            out.push(told);
        }
    }
    out.truncate(CHANGES_LISTED_MAX);
    out
}

fn incompatible(entry: &TypeEntry, changes: &[Value]) -> Problem {
    let first = changes.first().map(|first| {
        let part = |name: &str| first[name].as_str().unwrap_or_default().to_owned();
        format!(": {} at `{}` against version {}", part("reason"), part("pointer"), part("against"))
    });
    let mode = entry.record.compatibility.as_str();
    let detail = format!("the schema is not compatible ({mode}){}", first.unwrap_or_default());
    let mut problem = Problem::new(ProblemKind::IncompatibleSchema, detail);
    problem.field = Some("schema".to_owned());
    problem.with("changes", changes.to_vec())
}

impl Hub {
    /// Says what a type is: one that was there is replaced, its versions stay. True when it is new. Blocks.
    ///
    /// # Errors
    /// When a field does not fit, there are too many types, or the store fails.
    pub fn put_type(
        &self,
        name: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<(Value, bool), Problem> {
        let wish = TypeWish::read(fields, name)?;
        let types = &self.inner.types;
        let _one_at_a_time = types.changing.lock();
        let before = types.catalog.look().declared(org, name).cloned();
        let mut record = wish.apply(blank(org, name, &context));
        if let Some(before) = &before {
            record.created = before.record.created.clone();
        } else {
            let snapshot = types.catalog.look();
            if snapshot.len() >= TYPES_MAX || snapshot.count(org) >= ORG_TYPES_MAX {
                let text = format!("a hub has at most {TYPES_MAX} types, an org {ORG_TYPES_MAX}");
                return Err(Problem::new(ProblemKind::Conflict, text));
            }
        }
        let json = self.store_type(record, before.as_deref())?;
        Ok((json, before.is_none()))
    }

    /// Changes what is said of a type; what is left out stays. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for a type of another org; when a field does not fit; when the store fails.
    pub fn change_type(
        &self,
        name: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let wish = TypeWish::read(fields, name)?;
        let types = &self.inner.types;
        let _one_at_a_time = types.changing.lock();
        let before = types.catalog.look().declared(org, name).cloned().ok_or_else(|| absent(name))?;
        let mut record = wish.apply((*before.record).clone());
        record.updated = context;
        self.store_type(record, Some(&before))
    }

    /// Under the lock.
    fn store_type(&self, mut record: TypeRecord, before: Option<&TypeEntry>) -> Result<Value, Problem> {
        let types = &self.inner.types;
        let versions = before.map(|before| before.versions.clone()).unwrap_or_default();
        settle(&mut record, &versions, before.and_then(TypeEntry::newest))?;
        let key = type_key(record.org.as_deref(), &record.name);
        let revision = types.types.put(&key, &record, before.map(|before| before.revision))?;
        let entry = TypeEntry::new(record, revision, versions, &types.key);
        let json = tell::of_type(&entry);
        types.catalog.change(|snapshot| snapshot.put(entry));
        Ok(json)
    }

    /// Forgets a type with its versions: its events stay. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for a type of another org; when the store fails.
    pub fn delete_type(&self, name: &str, org: Option<&str>) -> Result<(), Problem> {
        let types = &self.inner.types;
        let _one_at_a_time = types.changing.lock();
        let entry = types.catalog.look().declared(org, name).cloned().ok_or_else(|| absent(name))?;
        types.types.delete(&type_key(org, name))?;
        types.catalog.change(|snapshot| snapshot.remove(org, name));
        // What the end leaves behind of these is removed when the hub opens.
        for version in &entry.versions {
            types.versions.delete(&version_key(org, name, version.record.number))?;
        }
        Ok(())
    }

    /// A type with its versions.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for a type of another org.
    pub fn catalog_type(&self, name: &str, org: Option<&str>) -> Result<Value, Problem> {
        Ok(tell::of_type(seen(&self.inner.types.catalog.look(), org, name)?))
    }

    /// Types by name.
    #[must_use]
    pub fn catalog_types(&self, query: &TypeQuery) -> Page<Value> {
        let snapshot = self.inner.types.catalog.look();
        let place = |entry: &TypeEntry| format!("{}|{}", entry.record.name, entry.record.org.as_deref().unwrap_or(""));
        let fits = |entry: &&Arc<TypeEntry>| {
            let record = &entry.record;
            let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
            same(&query.service, &record.service)
                && query.lifecycle.is_none_or(|wanted| wanted == record.lifecycle)
                && query.name.as_ref().is_none_or(|pattern| pattern.matches(&record.name))
                && query.after.as_ref().is_none_or(|after| place(entry) > *after)
        };
        let mut found: Vec<&Arc<TypeEntry>> = tell::visible(&snapshot, query.org.as_deref()).filter(fits).collect();
        found.sort_by_cached_key(|entry| place(entry));
        let began = query.after.as_deref().unwrap_or_default();
        Page::first(found, query.limit, began, |last| place(last)).map(|entry| tell::of_type(entry))
    }

    /// Registers a version of a type's schema. True when it is new: the same schema under the same name again is not.
    /// `Dry` only tells what would come of it. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::IncompatibleSchema`] naming what breaks; [`ProblemKind::Conflict`] when the name is taken; when the
    /// schema or a field does not fit; when the store fails.
    pub fn register_version(
        &self,
        name: &str,
        org: Option<&str>,
        fields: Fields,
        write: Write,
        context: WriteContext,
    ) -> Result<(Value, bool), Problem> {
        check_name(name)?;
        let VersionWish { version, state, schema } = VersionWish::read(fields)?;
        let compiled = Compiled::new(schema)?;
        let types = &self.inner.types;
        let _one_at_a_time = types.changing.lock();
        let entry = types.catalog.look().declared(org, name).cloned().ok_or_else(|| absent(name))?;
        let same = |known: &Version| known.compiled().is_some_and(|known| known.schema() == compiled.schema());
        let known = match &version {
            Some(version) => entry.version(version),
            None => entry.versions.last().filter(|last| same(last)),
        };
        if let Some(known) = known {
            if same(known) {
                return Ok((known.record.to_json(), false));
            }
            let mut problem = Problem::new(ProblemKind::Conflict, "a version of this name has another schema");
            (problem.field, problem.sent) = (Some("version".to_owned()), version);
            return Err(problem);
        }
        if entry.versions.len() >= VERSIONS_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a type has at most {VERSIONS_MAX} versions")));
        }
        if state == VersionState::Active {
            self.check_version(&entry, &compiled, None)?;
        }
        let number = entry.versions.last().map_or(0, |last| last.record.number) + 1;
        let version = version.unwrap_or_else(|| number.to_string());
        if entry.version(&version).is_some() {
            let mut problem =
                Problem::new(ProblemKind::Conflict, "the next number is the name of a version; name this one");
            (problem.field, problem.sent) = (Some("version".to_owned()), Some(version));
            return Err(problem);
        }
        let record = VersionRecord {
            org: org.map(str::to_owned),
            name: name.to_owned(),
            number,
            version,
            state,
            schema: compiled.schema().to_string(),
            created: context.clone(),
            updated: context,
        };
        let json = record.to_json();
        if write == Write::Really {
            types.versions.put(&version_key(org, name, number), &record, None)?;
            let mut entry = (*entry).clone();
            entry.versions.push(Arc::new(Version::ready(record, compiled)));
            types.catalog.change(|snapshot| snapshot.put(entry));
        }
        Ok((json, true))
    }

    /// Whether a schema may be in use beside the versions that are.
    fn check_version(&self, entry: &TypeEntry, compiled: &Compiled, besides: Option<&str>) -> Result<(), Problem> {
        let breaking = broken(entry, compiled.schema(), besides);
        if !breaking.is_empty() {
            return Err(incompatible(entry, &breaking));
        }
        for specimen in entry.record.specimens.iter().filter(|specimen| specimen.version.is_none()) {
            let what = format!("the specimen `{}`, which names no version", specimen.name);
            refuse_misfit("schema".to_owned(), &what, compiled.violations(&specimen.data, "/data"))?;
        }
        Ok(())
    }

    /// Moves a version on in its life. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; [`ProblemKind::IncompatibleSchema`] when one that becomes active breaks another; when the
    /// store fails.
    pub fn change_version(
        &self,
        name: &str,
        org: Option<&str>,
        version: &str,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let state = read_state(fields)?;
        let types = &self.inner.types;
        let _one_at_a_time = types.changing.lock();
        let entry = types.catalog.look().declared(org, name).cloned().ok_or_else(|| absent(name))?;
        let at = entry.versions.iter().position(|known| known.record.version == version);
        let at = at.ok_or_else(|| Problem::not_found("version of the type", version))?;
        let known = &entry.versions[at];
        if state == VersionState::Active
            && known.record.state != VersionState::Active
            && let Some(compiled) = known.compiled()
        {
            self.check_version(&entry, compiled, Some(version))?;
        }
        let record = VersionRecord { state, updated: context, ..known.record.clone() };
        let key = version_key(org, name, record.number);
        let revision = types.versions.get(&key)?.map(|(_, revision)| revision);
        types.versions.put(&key, &record, revision)?;
        let json = record.to_json();
        let mut changed = (*entry).clone();
        changed.versions[at] = Arc::new(known.with(record));
        types.catalog.change(|snapshot| snapshot.put(changed));
        Ok(json)
    }

    /// The versions of a type, oldest first, without their schemas.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for a type of another org.
    pub fn catalog_versions(&self, name: &str, org: Option<&str>) -> Result<Vec<Value>, Problem> {
        let snapshot = self.inner.types.catalog.look();
        Ok(seen(&snapshot, org, name)?.versions.iter().map(|version| version.record.summary()).collect())
    }

    /// A version with its schema.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for a type of another org.
    pub fn catalog_version(&self, name: &str, org: Option<&str>, version: &str) -> Result<Value, Problem> {
        let snapshot = self.inner.types.catalog.look();
        let found = seen(&snapshot, org, name)?.version(version);
        found.map(|found| found.record.to_json()).ok_or_else(|| Problem::not_found("version of the type", version))
    }

    /// The specimens of a type: those given, and one made of each version that has none. Takes some work.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for a type of another org.
    pub fn catalog_specimens(&self, name: &str, org: Option<&str>) -> Result<Value, Problem> {
        let entry = Arc::clone(seen(&self.inner.types.catalog.look(), org, name)?);
        Ok(json!({ "type": name, "specimens": tell::specimens(&entry), "sample": tell::sample(&entry) }))
    }

    /// Everything a reader of this org sees, as one document.
    #[must_use]
    pub fn catalog_list(&self, org: Option<&str>) -> Value {
        let snapshot = self.inner.types.catalog.look();
        let mut entries: Vec<&Arc<TypeEntry>> = tell::visible(&snapshot, org).collect();
        entries.sort_by(|a, b| (&a.record.name, &a.record.org).cmp(&(&b.record.name, &b.record.org)));
        json!({ "types": entries.into_iter().map(|entry| tell::of_type(entry)).collect::<Vec<_>>() })
    }

    /// The same as a page for people.
    #[must_use]
    pub fn catalog_page(&self, org: Option<&str>) -> String {
        tell::page(&self.inner.types.catalog.look(), org)
    }

    /// What a service's events are, for whoever reads them in exports (BLK-4). None for every service together.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`] when the reader's org sees no type of this service.
    pub fn export_contract(&self, service: &str, org: Option<&str>) -> Result<Value, Problem> {
        let snapshot = self.inner.types.catalog.look();
        tell::contract(&snapshot, service, org).ok_or_else(|| Problem::not_found("service of the catalog", service))
    }

    /// The services that types name, with how many each has.
    #[must_use]
    pub fn catalog_services(&self, org: Option<&str>) -> Value {
        tell::services(&self.inner.types.catalog.look(), org)
    }

    /// How an org's events are checked: its own policy, or the one that holds for it.
    #[must_use]
    pub fn org_policy(&self, org: Option<&str>) -> Value {
        let snapshot = self.inner.types.catalog.look();
        let policy = match org {
            Some(org) => snapshot.policy(org),
            None => snapshot.declared_policy(None),
        };
        let default = || {
            let (mode, quarantine, updated) = Default::default();
            OrgPolicy { org: None, mode, quarantine, updated }.to_json()
        };
        policy.map_or_else(default, |policy| policy.to_json())
    }

    /// Changes how an org's events are checked (none: those of every org without a policy of its own). Holds at once and
    /// after a restart. Blocks.
    ///
    /// # Errors
    /// When a field does not fit, or the store fails; nothing has changed then.
    pub fn change_org_policy(
        &self,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let types = &self.inner.types;
        let _one_at_a_time = types.changing.lock();
        let key = org.unwrap_or_default();
        let (before, count) = {
            let snapshot = types.catalog.look();
            (snapshot.declared_policy(org).cloned(), snapshot.policies().count())
        };
        if before.is_none() && count >= POLICIES_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a hub has at most {POLICIES_MAX} policies")));
        }
        let policy = read_policy(fields, org, before.as_deref(), context)?;
        let revision = types.policies.get(key)?.map(|(_, revision)| revision);
        types.policies.put(key, &policy, revision)?;
        let json = policy.to_json();
        types.catalog.change(|snapshot| snapshot.put_policy(policy));
        Ok(json)
    }
}
