//! What the catalog says is hidden of a type's events: where, how, and from whom. The log keeps the original.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ground::error::Problem;
use crate::ground::limits::clip;

/// Most redactions of a type.
pub const REDACTIONS_MAX: usize = 50;
/// Largest path, in characters.
pub const PATH_CHARS_MAX: usize = 255;
/// Where a path may begin: what producers fill with values of their own.
pub const ROOTS: [&str; 4] = ["data", "metadata", "source_refs", "request_context"];

/// What is put in place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedactionAction {
    /// A fixed text.
    Mask,
    /// A hash that is the same for the same value.
    Hash,
    /// Nothing: the member goes.
    Drop,
}

impl RedactionAction {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Mask, Self::Hash, Self::Drop];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Hash => "hash",
            Self::Drop => "drop",
        }
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Endpoints of webhooks.
    Webhook,
    /// Readers of the change feed.
    Cdc,
    /// Export files.
    Export,
    /// People and programs that look events up.
    Console,
}

impl Audience {
    /// Every audience.
    pub const ALL: [Self; 4] = [Self::Webhook, Self::Cdc, Self::Export, Self::Console];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Cdc => "cdc",
            Self::Export => "export",
            Self::Console => "console",
        }
    }
}

/// One redaction of a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RedactionRule {
    /// A JSON pointer into the envelope, such as `/data/customer/email`; `*` stands for each element or member.
    pub path: String,
    /// What is put there.
    pub action: RedactionAction,
    /// For whom, each once, in order.
    pub audiences: Vec<Audience>,
}

impl RedactionRule {
    /// The parts of the path, unescaped.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        parts(&self.path).collect()
    }
}

fn parts(path: &str) -> impl Iterator<Item = String> {
    path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~"))
}

fn words<T>(all: &[T], name: impl Fn(&T) -> &'static str) -> String {
    all.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Reads the redactions of a type as a client sends them.
///
/// # Errors
/// `InvalidField` naming the entry and what is wrong with it.
pub fn read_redactions(value: Value) -> Result<Vec<RedactionRule>, Problem> {
    let Value::Array(entries) = value else { return Err(Problem::field("redactions", "a list", value)) };
    if entries.len() > REDACTIONS_MAX {
        return Err(Problem::field("redactions", format!("at most {REDACTIONS_MAX} entries"), entries.len()));
    }
    let mut rules: Vec<RedactionRule> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let rule = read_rule(&format!("redactions[{at}]"), entry)?;
        let doubled = |other: &RedactionRule| {
            other.path == rule.path && other.audiences.iter().any(|one| rule.audiences.contains(one))
        };
        if rules.iter().any(doubled) {
            return Err(Problem::field(format!("redactions[{at}].path"), "one redaction for an audience", rule.path));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn read_rule(field: &str, value: Value) -> Result<RedactionRule, Problem> {
    let Value::Object(mut map) = value else { return Err(Problem::field(field, "an object", value)) };
    let path = match map.remove("path") {
        Some(Value::String(path)) => path,
        other => return Err(Problem::field(format!("{field}.path"), "required, a text", other.unwrap_or_default())),
    };
    check_path(&format!("{field}.path"), &path)?;
    let action = map.remove("action").unwrap_or_default();
    let action = serde_json::from_value(action.clone()).map_err(|_| {
        let limit = format!("one of {}", words(&RedactionAction::ALL, |one| one.as_str()));
        Problem::field(format!("{field}.action"), limit, action)
    })?;
    let audiences = match map.remove("audiences").filter(|value| !value.is_null()) {
        None => Audience::ALL.to_vec(),
        Some(value) => {
            let read: Option<Vec<Audience>> = serde_json::from_value(value.clone()).ok();
            let mut read = read.filter(|audiences| !audiences.is_empty()).ok_or_else(|| {
                let limit = format!("a list of {}", words(&Audience::ALL, |one| one.as_str()));
                Problem::field(format!("{field}.audiences"), limit, value)
            })?;
            read.sort_unstable();
            read.dedup();
            read
        }
    };
    match map.into_iter().next() {
        Some((name, value)) => {
            let name = format!("{field}.{}", clip(&name, 64));
            Err(Problem::field(name, "unknown; known are path, action, audiences", value))
        }
        None => Ok(RedactionRule { path, action, audiences }),
    }
}

fn check_path(field: &str, path: &str) -> Result<(), Problem> {
    if path.chars().count() > PATH_CHARS_MAX {
        return Err(Problem::field(field, format!("at most {PATH_CHARS_MAX} characters"), path));
    }
    if path.chars().any(char::is_control) {
        return Err(Problem::field(field, "no control characters", path.escape_debug()));
    }
    let mut tildes = path.split('~').skip(1);
    if !path.starts_with('/') || !tildes.all(|rest| rest.starts_with(['0', '1'])) {
        return Err(Problem::field(field, "a JSON pointer such as /data/customer/email (RFC 6901)", path));
    }
    let root = parts(path).next().unwrap_or_default();
    if !ROOTS.contains(&root.as_str()) {
        let roots: Vec<String> = ROOTS.iter().map(|root| format!("/{root}")).collect();
        return Err(Problem::field(field, format!("a path that begins with one of {}", roots.join(", ")), path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(value: Value) -> (String, String) {
        let problem = read_redactions(value).expect_err("refused");
        (problem.field.unwrap_or_default(), problem.limit.unwrap_or_default())
    }

    #[test]
    fn a_redaction_is_read_with_every_audience_unless_it_names_some() {
        let rules = read_redactions(json!([
            {"path": "/data/customer/email", "action": "mask"},
            {"path": "/data/items/*/a~1b", "action": "drop", "audiences": ["export", "cdc", "cdc"]},
        ]))
        .expect("fits");
        assert_eq!(rules[0].audiences, Audience::ALL);
        assert_eq!(rules[1].audiences, [Audience::Cdc, Audience::Export]);
        assert_eq!(rules[1].parts(), ["data", "items", "*", "a/b"]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(refused(json!({})).0, "redactions");
        assert_eq!(refused(json!([{"action": "mask"}])).0, "redactions[0].path");
        for path in ["data", "/data/~2", "", "/id", "/type/x"] {
            assert_eq!(refused(json!([{"path": path, "action": "mask"}])).0, "redactions[0].path", "{path}");
        }
        assert_eq!(refused(json!([{"path": "/data", "action": "blur"}])).1, "one of mask, hash, drop");
        let none = json!([{"path": "/data", "action": "mask", "audiences": []}]);
        assert_eq!(refused(none).0, "redactions[0].audiences");
        assert_eq!(refused(json!([{"path": "/data", "action": "mask", "why": 1}])).0, "redactions[0].why");
        let twice = json!([
            {"path": "/data/a", "action": "mask", "audiences": ["cdc"]},
            {"path": "/data/a", "action": "drop", "audiences": ["webhook"]},
            {"path": "/data/a", "action": "hash"},
        ]);
        assert_eq!(refused(twice).0, "redactions[2].path");
        let many: Vec<Value> = (0..=REDACTIONS_MAX).map(|n| json!({"path": format!("/data/{n}")})).collect();
        assert_eq!(refused(json!(many)).0, "redactions");
    }
}
