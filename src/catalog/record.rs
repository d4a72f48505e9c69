//! What the catalog keeps of an event type: the type itself, and one document for each version of its schema. A row of
//! the store is small, so schemas are documents of their own.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::redact::Redaction;
use crate::ground::context::WriteContext;

/// Where an event type is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Being designed: events are taken, and flagged.
    Draft,
    /// In use.
    #[default]
    Active,
    /// Still taken, and flagged: producers should move on.
    Deprecated,
    /// Over: a strict org takes no more of them.
    Retired,
}

impl Lifecycle {
    /// Every stage.
    pub const ALL: [Self; 4] = [Self::Draft, Self::Active, Self::Deprecated, Self::Retired];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Deprecated => "deprecated",
            Self::Retired => "retired",
        }
    }
}

/// What a new version of a schema owes the versions before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    /// Nothing.
    #[default]
    None,
    /// Readers of the new version can read data of the old ones.
    Backward,
    /// Readers of the old versions can read data of the new one.
    Forward,
    /// Both.
    Full,
}

impl Compatibility {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::None, Self::Backward, Self::Forward, Self::Full];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Full => "full",
        }
    }
}

/// A worked example of a type's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Specimen {
    /// Its name, unique in the type.
    pub name: String,
    /// The version of the schema it is of; none for the newest active one.
    #[serde(default)]
    pub version: Option<String>,
    /// The data.
    pub data: Value,
}

/// An event type as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeRecord {
    /// Its name, as events carry it.
    pub name: String,
    /// The org whose type it is; none when it is for every org that has none of this name.
    #[serde(default)]
    pub org: Option<String>,
    /// The service that sends it.
    #[serde(default)]
    pub service: Option<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Whom to ask.
    #[serde(default)]
    pub owner: Option<String>,
    /// Where it is in its life.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// What a new version owes the older ones.
    #[serde(default)]
    pub compatibility: Compatibility,
    /// Whether it owes that to each of them, or to the newest alone.
    #[serde(default)]
    pub transitive: bool,
    /// Worked examples.
    #[serde(default)]
    pub specimens: Vec<Specimen>,
    /// What is hidden of its events, and from whom.
    #[serde(default)]
    pub redactions: Vec<Redaction>,
    /// A whole event as a `CloudEvent`; none to have one made of a specimen.
    #[serde(default)]
    pub sample: Option<Value>,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

/// Where a version of a schema is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Only events that name it are checked against it.
    Draft,
    /// In use.
    #[default]
    Active,
    /// A strict org takes no event that names it.
    Retired,
}

impl VersionState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Draft, Self::Active, Self::Retired];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// A version of a type's schema as it is kept. Its schema never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The type's org.
    #[serde(default)]
    pub org: Option<String>,
    /// The type's name.
    pub name: String,
    /// Counts the versions of the type, from 1.
    pub number: u32,
    /// What events call it in `schema_version`; the number when nothing else was given.
    pub version: String,
    /// Where it is in its life.
    #[serde(default)]
    pub state: VersionState,
    /// JSON Schema 2020-12, as text: key order and number text stay.
    pub schema: String,
    /// How it was registered.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

/// Between the org and the name in a document's key: no name or org holds a control character.
const BETWEEN: char = '\u{1f}';

/// The key of a type's document.
#[must_use]
pub fn type_key(org: Option<&str>, name: &str) -> String {
    format!("{}{BETWEEN}{name}", org.unwrap_or_default())
}

/// The key of a version's document. Sorts by number within the type.
#[must_use]
pub fn version_key(org: Option<&str>, name: &str, number: u32) -> String {
    format!("{}{BETWEEN}{number:010}", type_key(org, name))
}

impl TypeRecord {
    /// The type as clients see it, without its versions.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "org": self.org,
            "service": self.service,
            "description": self.description,
            "owner": self.owner,
            "lifecycle": self.lifecycle,
            "compatibility": self.compatibility,
            "transitive": self.transitive,
            "specimens": self.specimens,
            "redactions": self.redactions,
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

impl VersionRecord {
    /// The version as lists show it.
    #[must_use]
    pub fn summary(&self) -> Value {
        json!({
            "version": self.version,
            "number": self.number,
            "state": self.state,
            "created_at": self.created.at.to_rfc3339(),
        })
    }

    /// The version with its schema.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "type": self.name,
            "org": self.org,
            "version": self.version,
            "number": self.number,
            "state": self.state,
            // It was JSON when it was stored.
            "schema": serde_json::from_str::<Value>(&self.schema).unwrap_or(Value::Null),
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_orgs_and_names_apart_and_versions_sort_by_number() {
        assert_ne!(type_key(None, "a.b"), type_key(Some("a"), "b"));
        assert!(version_key(Some("acme"), "a", 9) < version_key(Some("acme"), "a", 10));
        assert!(version_key(Some("acme"), "a", 1).starts_with(&type_key(Some("acme"), "a")));
    }

    #[test]
    fn a_document_that_says_little_reads_with_the_defaults() {
        let context = serde_json::to_value(WriteContext::default()).expect("writes");
        let record: TypeRecord =
            serde_json::from_value(json!({"name": "a.b", "created": context, "updated": context})).expect("reads");
        assert_eq!((record.lifecycle, record.compatibility), (Lifecycle::Active, Compatibility::None));
        assert!(record.redactions.is_empty() && !record.transitive && record.org.is_none());
    }

    #[test]
    fn names_are_what_is_written() {
        let text = |value: Value| value.as_str().map(str::to_owned).expect("a text");
        assert!(Lifecycle::ALL.iter().all(|one| text(json!(one)) == one.as_str()));
        assert!(Compatibility::ALL.iter().all(|one| text(json!(one)) == one.as_str()));
        assert!(VersionState::ALL.iter().all(|one| text(json!(one)) == one.as_str()));
    }
}
