//! How a command ends: exit codes, and errors as words.

use std::process::ExitCode;

use serde_json::Value;

use crate::config::ConfigError;

/// Codes a script can rely on; they stand in `tidegate --help` too.
pub mod code {
    /// Done.
    pub const OK: u8 = 0;
    /// Something failed on this side: a file, the terminal, a damaged store.
    pub const FAILURE: u8 = 1;
    /// Bad arguments or settings.
    pub const USAGE: u8 = 2;
    /// The hub knows nothing of this name.
    pub const NOT_FOUND: u8 = 3;
    /// The hub refused.
    pub const REFUSED: u8 = 4;
    /// No hub answers.
    pub const UNREACHABLE: u8 = 5;
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Bad arguments or settings.
    #[error("{0}")]
    Usage(String),
    /// The hub answered with a problem.
    #[error("{}", problem_words(.status, .problem))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem+json document, or what there was instead.
        problem: Value,
    },
    /// Some of what was sent was refused; which was told already.
    #[error("{refused} of {sent} were refused")]
    PartlyRefused {
        /// How many.
        refused: u64,
        /// Out of how many.
        sent: u64,
    },
    /// No hub answers there.
    #[error("no hub answers at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The reader of our output is gone. Not an error of ours.
    #[error("the output was closed")]
    OutputClosed,
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => code::USAGE,
            Self::Refused { status: 404, .. } => code::NOT_FOUND,
            Self::Refused { .. } | Self::PartlyRefused { .. } => code::REFUSED,
            Self::Unreachable { .. } => code::UNREACHABLE,
            Self::OutputClosed => code::OK,
            Self::Other(_) => code::FAILURE,
        }
    }

    /// The error as a JSON document, for `--json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Refused { problem, .. } => problem.clone(),
            other => serde_json::json!({ "title": other.to_string(), "exit_code": other.code() }),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Other(error.into()),
        }
    }
}

/// Title and status, then detail, field and bound, each on its own line.
fn problem_words(status: &u16, problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str();
    let mut words = format!("{} ({status})", text("title").unwrap_or("the hub refused"));
    for name in ["detail", "field", "limit", "sent"] {
        if let Some(text) = text(name) {
            words.push_str(&format!("\n  {name}: {}", super::output::printable(text)));
        }
    }
    words
}

/// Ends the process's work with the code of its outcome.
#[must_use]
pub fn exit_code(outcome: &Result<(), Failure>) -> ExitCode {
    ExitCode::from(outcome.as_ref().err().map_or(code::OK, Failure::code))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_prints_title_status_detail_field_and_bound() {
        let problem = json!({"title": "A field does not fit", "detail": "type: too long", "field": "type", "limit": "at most 255"});
        let failure = Failure::Refused { status: 400, problem };
        assert_eq!(
            failure.to_string(),
            "A field does not fit (400)\n  detail: type: too long\n  field: type\n  limit: at most 255"
        );
        assert_eq!(failure.code(), code::REFUSED);
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        let refused = |status| Failure::Refused { status, problem: Value::Null }.code();
        assert_eq!((refused(404), refused(403), refused(500)), (3, 4, 4));
        assert_eq!(Failure::Usage(String::new()).code(), 2);
        assert_eq!(Failure::Unreachable { url: String::new(), reason: String::new() }.code(), 5);
        assert_eq!(Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).code(), 0);
        assert_eq!(Failure::from(std::io::Error::from(std::io::ErrorKind::NotFound)).code(), 1);
    }
}
