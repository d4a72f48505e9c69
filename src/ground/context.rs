//! Who asked, when, and from where: kept with everything lasting (EVT-5).

use serde::{Deserialize, Serialize};

use super::clock::UnixMs;
use super::error::{Problem, ProblemKind};

/// The context a write was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteContext {
    /// `admin`, or `key:ID`.
    pub by: String,
    /// When.
    pub at: UnixMs,
    /// The caller's `X-Correlation-ID`, at most 128 characters.
    #[serde(default)]
    pub correlation_id: Option<String>,
    /// The caller's address.
    #[serde(default)]
    pub ip: Option<String>,
}

impl WriteContext {
    /// The context as clients see it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "by": self.by, "at": self.at.to_rfc3339(), "correlation_id": self.correlation_id, "ip": self.ip,
        })
    }
}

/// The org a request is about: the one it names, which must be the key's when the key is confined to one.
///
/// # Errors
/// When a confined key names another org.
pub fn scoped_org(given: Option<String>, confined_to: Option<&str>) -> Result<Option<String>, Problem> {
    match (given, confined_to) {
        (Some(given), Some(own)) if given != own => {
            let mut problem = Problem::field("org", "the key is confined to another org", given);
            problem.kind = ProblemKind::Forbidden;
            Err(problem)
        }
        (Some(given), _) => Ok(Some(given)),
        (None, own) => Ok(own.map(str::to_owned)),
    }
}
