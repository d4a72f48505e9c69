//! How an org's events are checked (ING-6): a pure rule over the picture of the catalog and one event.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::{Lifecycle, VersionState};
use super::schema::{Violation, Violations};
use super::snapshot::{Snapshot, TypeEntry, Version};
use crate::event::envelope::{Draft, EventMeta};
use crate::event::filter::is_own;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};

/// What is done with an event that is not as the catalog says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is checked.
    #[default]
    Open,
    /// It is taken, counted, logged, and the answer says so.
    Warn,
    /// It is refused.
    Strict,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Open, Self::Warn, Self::Strict];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Warn => "warn",
            Self::Strict => "strict",
        }
    }

    /// Whether events are looked at.
    #[must_use]
    pub fn checks(self) -> bool {
        match self {
            Self::Open => false,
            Self::Warn | Self::Strict => true,
        }
    }
}

/// Which refused events are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineRules {
    /// Whether any are.
    pub enabled: bool,
    /// Most of one org; the newest is not kept when there are as many.
    pub events_max: u64,
    /// Most bytes of their envelopes.
    pub bytes_max: u64,
    /// They go at this age, in milliseconds.
    pub age_ms: u64,
}

/// What `events_max` may be at most, which is also the bound of the whole hub.
pub const QUARANTINE_EVENTS_MAX: u64 = 100_000;
/// What `bytes_max` may be at most, which is also the bound of the whole hub.
pub const QUARANTINE_BYTES_MAX: u64 = 1 << 30;
/// Longest age, in milliseconds: 90 days.
pub const QUARANTINE_AGE_MS_MAX: u64 = 90 * 24 * 3_600_000;
/// Shortest age, in milliseconds: a minute.
pub const QUARANTINE_AGE_MS_MIN: u64 = 60_000;

impl Default for QuarantineRules {
    fn default() -> Self {
        Self { enabled: false, events_max: 10_000, bytes_max: 64 << 20, age_ms: 14 * 24 * 3_600_000 }
    }
}

/// How the events of an org are checked, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrgPolicy {
    /// Whose; none for every org that has no policy of its own.
    #[serde(default)]
    pub org: Option<String>,
    /// What is done.
    pub mode: Mode,
    /// What is kept of what is refused.
    #[serde(default)]
    pub quarantine: QuarantineRules,
    /// How it was changed last.
    pub updated: WriteContext,
}

impl OrgPolicy {
    /// The policy as clients see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "org": self.org,
            "policy": self.mode,
            "quarantine": self.quarantine,
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

/// What is the matter with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The catalog has no such type.
    UnknownType,
    /// The type has no such version.
    UnknownVersion,
    /// The type is retired.
    RetiredType,
    /// The version is retired.
    RetiredVersion,
    /// The type is deprecated.
    DeprecatedType,
    /// The type is a draft.
    DraftType,
    /// The data does not fit the schema.
    Schema,
}

impl Finding {
    /// Every finding.
    pub const ALL: [Self; 7] = [
        Self::UnknownType,
        Self::UnknownVersion,
        Self::RetiredType,
        Self::RetiredVersion,
        Self::DeprecatedType,
        Self::DraftType,
        Self::Schema,
    ];

    /// Its name, bounded for labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownType => "unknown_type",
            Self::UnknownVersion => "unknown_version",
            Self::RetiredType => "retired_type",
            Self::RetiredVersion => "retired_version",
            Self::DeprecatedType => "deprecated_type",
            Self::DraftType => "draft_type",
            Self::Schema => "schema",
        }
    }

    /// Whether a strict org refuses for it.
    #[must_use]
    pub fn refuses(self) -> bool {
        match self {
            Self::DeprecatedType | Self::DraftType => false,
            Self::UnknownType | Self::UnknownVersion | Self::RetiredType | Self::RetiredVersion | Self::Schema => true,
        }
    }
}

/// What is told of an event that was taken all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What is the matter.
    pub code: Finding,
    /// In words.
    pub message: String,
    /// Where and how the data does not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_violations: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as the catalog says, or nobody looks.
    Fits,
    /// It is taken, and this is told of it.
    Flagged(Vec<Warning>),
    /// It is refused.
    Refused(Refusal),
}

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is the matter.
    pub finding: Finding,
    /// In words.
    pub message: String,
    /// Where and how it does not fit.
    pub violations: Violations,
}

impl Refusal {
    /// What the producer is told.
    #[must_use]
    pub fn to_problem(&self) -> Problem {
        let mut problem = Problem::new(ProblemKind::SchemaViolation, self.message.clone());
        problem.field =
            self.violations.listed.first().map(|first| first.pointer.trim_start_matches('/').replace('/', "."));
        problem
            .with("finding", self.finding.as_str())
            .with("violations", serde_json::to_value(&self.violations.listed).unwrap_or_default())
            .with("more_violations", self.violations.more)
    }
}

/// A finding on the way to becoming a warning or a refusal.
struct Found {
    finding: Finding,
    message: String,
    violations: Violations,
}

impl Found {
    fn new(finding: Finding, pointer: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { finding, violations: Violations::one(pointer, message.clone()), message }
    }
}

/// What becomes of an event under its org's policy. The catalog must have been asked whether anyone looks
/// ([`Snapshot::checks`]).
#[must_use]
pub fn judge(snapshot: &Snapshot, draft: &Draft) -> Verdict {
    let meta = &draft.meta;
    let mode = snapshot.policy(&meta.org).map_or(Mode::Open, |policy| policy.mode);
    // What the hub itself says is no producer's.
    if !mode.checks() || is_own(&meta.event_type) {
        return Verdict::Fits;
    }
    let mut found = findings(snapshot, draft);
    if found.is_empty() {
        return Verdict::Fits;
    }
    if mode == Mode::Strict
        && let Some(at) = found.iter().position(|one| one.finding.refuses())
    {
        let Found { finding, message, violations } = found.swap_remove(at);
        return Verdict::Refused(Refusal { finding, message, violations });
    }
    let warn = |Found { finding, message, violations }| {
        let (violations, more_violations) = match finding {
            Finding::Schema => (violations.listed, violations.more),
            _ => (Vec::new(), 0),
        };
        Warning { code: finding, message, violations, more_violations }
    };
    Verdict::Flagged(found.into_iter().map(warn).collect())
}

fn findings(snapshot: &Snapshot, draft: &Draft) -> Vec<Found> {
    let meta = &draft.meta;
    let Some(entry) = snapshot.get(&meta.org, &meta.event_type) else {
        let message = format!("the catalog has no type `{}`", meta.event_type);
        return vec![Found::new(Finding::UnknownType, "/type", message)];
    };
    let mut out = Vec::new();
    let name = &meta.event_type;
    match entry.lifecycle() {
        Lifecycle::Active => {}
        Lifecycle::Draft => out.push(Found::new(Finding::DraftType, "/type", format!("the type `{name}` is a draft"))),
        Lifecycle::Deprecated => {
            out.push(Found::new(Finding::DeprecatedType, "/type", format!("the type `{name}` is deprecated")));
        }
        Lifecycle::Retired => {
            out.push(Found::new(Finding::RetiredType, "/type", format!("the type `{name}` is retired")));
        }
    }
    match version_of(entry, meta) {
        Err(found) => out.push(found),
        Ok(None) => {}
        Ok(Some(version)) => {
            if let Err(violations) = check(version, draft) {
                let count = violations.count();
                let message =
                    format!("the data does not fit version {} of `{name}`: {count} found", version.record.version);
                out.push(Found { finding: Finding::Schema, message, violations });
            }
        }
    }
    out
}

/// The version an event is checked against; none when its type has none.
fn version_of<'a>(entry: &'a TypeEntry, meta: &EventMeta) -> Result<Option<&'a Version>, Found> {
    let Some(wanted) = meta.schema_version.as_deref().filter(|_| !entry.versions.is_empty()) else {
        return Ok(entry.newest().map(|version| &**version));
    };
    let pointer = "/schema_version";
    let Some(version) = entry.version(wanted) else {
        let known: Vec<&str> = entry.versions.iter().rev().take(10).map(|one| one.record.version.as_str()).collect();
        let message = format!("the type has no version `{wanted}`; the newest it has are {}", known.join(", "));
        return Err(Found::new(Finding::UnknownVersion, pointer, message));
    };
    match version.record.state {
        VersionState::Retired => {
            let message = format!("version `{wanted}` of the type is retired");
            Err(Found::new(Finding::RetiredVersion, pointer, message))
        }
        VersionState::Draft | VersionState::Active => Ok(Some(version)),
    }
}

fn check(version: &Version, draft: &Draft) -> Result<(), Violations> {
    let text = draft.meta.data.map(|span| draft.body.get(span.start as usize..span.end as usize).unwrap_or(b"null"));
    match version.compiled() {
        Some(compiled) => compiled.check(text),
        None => Err(Violations::one("/data", "the stored schema cannot be used; the log of the hub says why")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::catalog::record::{TypeRecord, VersionRecord};
    use crate::event::parse::{ParseRules, parse_event};
    use crate::event::redact::RedactionKey;
    use crate::ground::clock::UnixMs;
    use crate::ground::random::SeededRandom;
    use crate::ground::secret::Sealer;

    fn draft(value: &Value) -> Draft {
        let random = SeededRandom::shared(1);
        let rules = ParseRules {
            default_org: Some("acme"),
            confined_to: None,
            event_bytes_max: 1 << 20,
            now: UnixMs(1_795_248_000_000),
            random: &*random,
        };
        parse_event(&Bytes::from(value.to_string()), &rules).expect("an event")
    }

    fn version(number: u32, state: &str, schema: &Value) -> Arc<Version> {
        let context = json!({"by": "admin", "at": 0});
        let record: VersionRecord = serde_json::from_value(json!({
            "org": null, "name": "a.b", "number": number, "version": number.to_string(), "state": state,
            "schema": schema.to_string(), "created": context, "updated": context,
        }))
        .expect("a record");
        Arc::new(Version::new(record))
    }

    fn catalog(mode: Mode, lifecycle: &str, versions: Vec<Arc<Version>>) -> Snapshot {
        let context = json!({"by": "admin", "at": 0});
        let record: TypeRecord = serde_json::from_value(
            json!({"name": "a.b", "lifecycle": lifecycle, "created": context, "updated": context}),
        )
        .expect("a record");
        let mut snapshot = Snapshot::default();
        snapshot.put(TypeEntry::new(record, 1, versions, &RedactionKey::of(&Sealer::new(&[7; 32]))));
        let (quarantine, updated) = (QuarantineRules::default(), WriteContext::default());
        snapshot.put_policy(OrgPolicy { org: Some("acme".to_owned()), mode, quarantine, updated });
        snapshot
    }

    /// What becomes of an event, as its findings: those of a refusal with `!`.
    fn told(snapshot: &Snapshot, event: &Value) -> Vec<String> {
        match judge(snapshot, &draft(event)) {
            Verdict::Fits => Vec::new(),
            Verdict::Flagged(warnings) => warnings.iter().map(|one| one.code.as_str().to_owned()).collect(),
            Verdict::Refused(refusal) => vec![format!("!{}", refusal.finding.as_str())],
        }
    }

    #[test]
    fn each_policy_does_with_each_finding_what_it_says() {
        let number = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let versions = || {
            vec![version(1, "active", &number), version(2, "draft", &json!(false)), version(3, "retired", &json!(true))]
        };
        let fits = json!({"type": "a.b", "data": {"n": 1}});
        let not = json!({"type": "a.b", "data": {"n": "x"}});
        let named = |version: &str| json!({"type": "a.b", "schema_version": version, "data": {"n": 1}});
        let rows: Vec<(&str, Value, &[&str], &[&str])> = vec![
            ("active", fits.clone(), &[], &[]),
            ("active", not.clone(), &["schema"], &["!schema"]),
            ("active", json!({"type": "a.c"}), &["unknown_type"], &["!unknown_type"]),
            ("active", named("1"), &[], &[]),
            ("active", named("2"), &["schema"], &["!schema"]),
            ("active", named("3"), &["retired_version"], &["!retired_version"]),
            ("active", named("4"), &["unknown_version"], &["!unknown_version"]),
            ("draft", fits.clone(), &["draft_type"], &["draft_type"]),
            ("deprecated", fits.clone(), &["deprecated_type"], &["deprecated_type"]),
            ("deprecated", not.clone(), &["deprecated_type", "schema"], &["!schema"]),
            ("retired", fits, &["retired_type"], &["!retired_type"]),
            ("active", json!({"type": "tidegate.webhook.failing"}), &[], &[]),
        ];
        for (lifecycle, event, warned, strict) in rows {
            assert_eq!(told(&catalog(Mode::Open, lifecycle, versions()), &event), [""; 0], "open {event}");
            assert_eq!(told(&catalog(Mode::Warn, lifecycle, versions()), &event), warned, "warn {lifecycle} {event}");
            assert_eq!(
                told(&catalog(Mode::Strict, lifecycle, versions()), &event),
                strict,
                "strict {lifecycle} {event}"
            );
        }
    }

    #[test]
    fn a_type_without_a_schema_takes_any_data_and_any_version() {
        let strict = catalog(Mode::Strict, "active", Vec::new());
        assert_eq!(told(&strict, &json!({"type": "a.b", "schema_version": "7", "data": [1]})), [""; 0]);
        let drafts = catalog(Mode::Strict, "active", vec![version(1, "draft", &json!(false))]);
        assert_eq!(told(&drafts, &json!({"type": "a.b", "data": [1]})), [""; 0], "a draft counts for who names it");
    }

    #[test]
    fn the_policy_of_every_org_holds_where_an_org_has_none() {
        let mut snapshot = catalog(Mode::Open, "active", Vec::new());
        assert!(!snapshot.checks());
        let (quarantine, updated) = (QuarantineRules::default(), WriteContext::default());
        snapshot.put_policy(OrgPolicy { org: None, mode: Mode::Strict, quarantine, updated });
        assert!(snapshot.checks());
        let of = |org: &str| told(&snapshot, &json!({"type": "x.y", "org": org}));
        assert_eq!(of("acme"), [""; 0]);
        assert_eq!(of("globex"), ["!unknown_type"]);
    }

    #[test]
    fn a_refusal_tells_every_violation_and_its_place() {
        let schema = json!({"type": "object", "required": ["a", "b"]});
        let snapshot = catalog(Mode::Strict, "active", vec![version(1, "active", &schema)]);
        let Verdict::Refused(refusal) = judge(&snapshot, &draft(&json!({"type": "a.b", "data": {}}))) else {
            panic!("refused")
        };
        let problem = refusal.to_problem().to_json();
        assert_eq!(
            (&problem["status"], &problem["finding"], &problem["field"]),
            (&json!(422), &json!("schema"), &json!("data"))
        );
        let violations = problem["violations"].as_array().expect("a list");
        assert_eq!(violations.len(), 2, "{problem}");
        assert_eq!((&violations[0]["pointer"], &violations[0]["schema_path"]), (&json!("/data"), &json!("/required")));
    }
}
