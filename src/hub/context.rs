//! Who asked, when, and from where: kept with everything lasting (EVT-5).

use serde::{Deserialize, Serialize};

use crate::ground::clock::UnixMs;

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
