//! The words of a call: what is asked, what is answered, what goes wrong.
//!
//! The kinds of errors follow [`crate::retry::classify`]: what that calls retryable is transient here, its `auth` is
//! auth. The names of [`CallErrorKind::as_str`] are stable: series carry them as labels.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::adapter::AdapterContext;
use crate::ground::limits::{ERROR_CHARS_MAX, clip};
use crate::ground::secret::Secret;
use crate::retry::{AttemptResult, FailureKind};
use crate::webhook::outbound::visible;

/// The one way to an upstream.
pub trait CallPath: Send + Sync + 'static {
    /// Calls the upstream `upstream`: validate, rate limit, breaker, timeout, retry, transform. Dropping the future gives
    /// up waiting for the answer; the call may be made all the same.
    fn call(
        &self,
        upstream: &str,
        call: Call,
        context: AdapterContext,
    ) -> BoxFuture<'static, Result<Answer, CallError>>;
}

/// The methods of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Asks.
    #[default]
    Get,
    /// Makes.
    Post,
    /// Puts in place.
    Put,
    /// Changes.
    Patch,
    /// Takes away.
    Delete,
}

impl Method {
    /// The words, for refusals.
    pub const WORDS: &'static [&'static str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];

    /// As HTTP has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What is sent along.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Payload {
    /// Nothing.
    #[default]
    Nothing,
    /// A JSON value.
    Json(Value),
    /// A text of some other type.
    Text {
        /// Its media type.
        content_type: String,
        /// Its bytes.
        body: Bytes,
    },
}

/// Whether the call path tries again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attempts {
    /// As the upstream's retry policy says: for who waits for the answer.
    #[default]
    Policy,
    /// One attempt: for who has a durable queue of its own.
    Once,
}

/// What the answer's body has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expects {
    /// JSON; anything else is malformed.
    #[default]
    Json,
    /// Whatever it likes: JSON is read, anything else is none.
    Anything,
}

/// What the log may say of what a call is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The type of the event behind it.
    pub event_type: Option<String>,
    /// The id of the thing in the upstream's own terms.
    pub external_id: Option<String>,
    /// The contact it is about.
    pub contact_id: Option<String>,
    /// Something of the event is redacted for people: the path, and what the upstream says, may repeat it and are not told.
    pub withheld: bool,
}

/// One call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// What is done, as the upstream's declaration names it: `contact`, `timeline`.
    pub operation: String,
    /// By which method.
    pub method: Method,
    /// Path and query below the upstream's base URL, percent-encoded, `/` first.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// What is sent along.
    pub payload: Payload,
    /// The same on every attempt, so that a repeated write is recognised; sent as `X-Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// What the answer has to be.
    pub expects: Expects,
    /// Whether it is tried again.
    pub attempts: Attempts,
    /// For the log.
    pub about: About,
}

impl Call {
    /// A GET of this path.
    pub fn get(operation: impl Into<String>, path: impl Into<String>) -> Self {
        Self { operation: operation.into(), path: path.into(), ..Self::default() }
    }
}

/// What came back of one attempt, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status, 200 to 299.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// What must not be shown of it: the credential the call was made with.
    pub hide: Vec<Secret>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("bytes", &self.body.len()).finish()
    }
}

impl Reply {
    /// A reply with this JSON.
    #[must_use]
    pub fn json(status: u16, value: &Value) -> Self {
        Self { status, body: Bytes::from(value.to_string()), hide: Vec::new() }
    }

    /// Reads the body as the call expects it.
    ///
    /// # Errors
    /// [`CallErrorKind::Malformed`] when it is no JSON and has to be.
    pub fn read(&self, call: &Call) -> Result<Answer, CallError> {
        let body = match (serde_json::from_slice(&self.body), call.expects) {
            (Ok(value), _) => value,
            (Err(_), Expects::Anything) => Value::Null,
            (Err(error), Expects::Json) => {
                // The parser's own text may repeat what it met.
                let place = format!("line {}, column {}", error.line(), error.column());
                let error = CallError::malformed(format!("the answer is no JSON ({place})")).with_status(self.status);
                return Err(CallError { snippet: visible(&self.body, &self.hide), ..error });
            }
        };
        Ok(Answer { status: self.status, body, attempts: 1, latency_ms: 0 })
    }
}

/// What an upstream answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status, 200 to 299.
    pub status: u16,
    /// What it said; null when that was nothing to read.
    pub body: Value,
    /// Attempts that were made.
    pub attempts: u32,
    /// From the call to the answer, all attempts and waits included, in milliseconds.
    pub latency_ms: u64,
}

/// The kinds of what can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallErrorKind {
    /// There is no such upstream.
    Unknown,
    /// The adapter does not take this call.
    Validation,
    /// The upstream's bucket is empty for longer than may be waited.
    RateLimited,
    /// The breaker lets nothing through.
    CircuitOpen,
    /// More calls wait than may.
    Busy,
    /// No complete answer in time.
    Timeout,
    /// It may do better the next time: no connection, 408, 425, 429, 5xx.
    Transient,
    /// 401 or 403, or no credential for this tenant.
    Auth,
    /// 404.
    NotFound,
    /// It will not do better: other 4xx, a redirect, an address that is not allowed.
    Permanent,
    /// It answered, and the answer is not what it has to be.
    Malformed,
    /// The hub itself failed: the adapter panicked, or its actor is being restarted.
    Internal,
}

impl CallErrorKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Unknown,
        Self::Validation,
        Self::RateLimited,
        Self::CircuitOpen,
        Self::Busy,
        Self::Timeout,
        Self::Transient,
        Self::Auth,
        Self::NotFound,
        Self::Permanent,
        Self::Malformed,
        Self::Internal,
    ];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_upstream",
            Self::Validation => "validation",
            Self::RateLimited => "rate_limited",
            Self::CircuitOpen => "circuit_open",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Transient => "transient",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::Permanent => "permanent",
            Self::Malformed => "malformed",
            Self::Internal => "internal",
        }
    }

    /// Whether another attempt may do better (RTY-2).
    #[must_use]
    pub fn retryable(self) -> bool {
        match self {
            Self::RateLimited | Self::CircuitOpen | Self::Busy | Self::Timeout | Self::Transient | Self::Internal => {
                true
            }
            Self::Unknown | Self::Validation | Self::Auth | Self::NotFound | Self::Permanent | Self::Malformed => false,
        }
    }

    /// Whether the upstream was not asked at all, so that no attempt is used up (UP-2).
    #[must_use]
    pub fn unasked(self) -> bool {
        match self {
            Self::Unknown | Self::Validation | Self::RateLimited | Self::CircuitOpen | Self::Busy => true,
            Self::Timeout
            | Self::Transient
            | Self::Auth
            | Self::NotFound
            | Self::Permanent
            | Self::Malformed
            | Self::Internal => false,
        }
    }

    /// Whether it means that the upstream cannot be had now, so that an old answer is better than none.
    #[must_use]
    pub fn is_down(self) -> bool {
        self.retryable()
    }
}

/// What went wrong with a call. Its message is fit to be shown: no secret, no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .kind.as_str())]
pub struct CallError {
    /// What kind of error.
    pub kind: CallErrorKind,
    /// The HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// One sentence, bounded.
    pub message: String,
    /// When to ask again, as upstream, bucket or breaker say.
    pub retry_after_ms: Option<u64>,
    /// The kind an attempt of a delivery would have.
    pub failure: FailureKind,
    /// Attempts that were made.
    pub attempts: u32,
    /// The beginning of what the upstream said, at most 500 characters, all of them visible, without secrets. For the log
    /// and for operators alone.
    pub snippet: String,
}

impl CallError {
    /// An error of this kind.
    pub fn new(kind: CallErrorKind, message: impl AsRef<str>) -> Self {
        let failure = match kind {
            CallErrorKind::Validation | CallErrorKind::Unknown => FailureKind::Rejected,
            CallErrorKind::RateLimited | CallErrorKind::CircuitOpen | CallErrorKind::Busy | CallErrorKind::Internal => {
                FailureKind::Internal
            }
            CallErrorKind::Timeout => FailureKind::Timeout,
            CallErrorKind::Transient => FailureKind::Connect,
            CallErrorKind::Auth => FailureKind::Auth,
            CallErrorKind::NotFound | CallErrorKind::Permanent | CallErrorKind::Malformed => FailureKind::Status,
        };
        let message = clip(message.as_ref(), ERROR_CHARS_MAX).to_owned();
        Self { kind, status: None, message, retry_after_ms: None, failure, attempts: 0, snippet: String::new() }
    }

    /// The adapter does not take this call.
    pub fn validation(message: impl AsRef<str>) -> Self {
        Self::new(CallErrorKind::Validation, message)
    }

    /// The answer is not what it has to be.
    pub fn malformed(message: impl AsRef<str>) -> Self {
        Self::new(CallErrorKind::Malformed, message)
    }

    /// The same with the status of the answer.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The same with the time to ask again.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The error of an attempt that failed; none when it did not.
    #[must_use]
    pub fn of_attempt(result: AttemptResult) -> Option<Self> {
        let AttemptResult::Failed { kind: failure, status, message, retry_after_ms } = result else { return None };
        let kind = match failure {
            FailureKind::Timeout => CallErrorKind::Timeout,
            FailureKind::Auth => CallErrorKind::Auth,
            FailureKind::Status if status == Some(404) => CallErrorKind::NotFound,
            FailureKind::Internal => CallErrorKind::Internal,
            FailureKind::Connect
            | FailureKind::Dns
            | FailureKind::Tls
            | FailureKind::Refused
            | FailureKind::Status
            | FailureKind::Redirect
            | FailureKind::Gone
            | FailureKind::Handler
            | FailureKind::Rejected
            | FailureKind::Nak
            | FailureKind::Panic
            | FailureKind::LeaseExpired
            | FailureKind::Template => {
                if failure.retryable(status) {
                    CallErrorKind::Transient
                } else {
                    CallErrorKind::Permanent
                }
            }
        };
        Some(Self { status, retry_after_ms, failure, ..Self::new(kind, message) })
    }

    /// The same as the outcome of an attempt, for who keeps attempts.
    #[must_use]
    pub fn to_attempt(&self) -> AttemptResult {
        AttemptResult::Failed {
            kind: self.failure,
            status: self.status,
            message: self.message.clone(),
            retry_after_ms: self.retry_after_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kinds_of_errors_follow_those_of_attempts() {
        for failure in FailureKind::ALL {
            for status in [None, Some(400), Some(401), Some(404), Some(408), Some(429), Some(503)] {
                let result =
                    AttemptResult::Failed { kind: *failure, status, message: "x".into(), retry_after_ms: Some(5) };
                let error = CallError::of_attempt(result.clone()).expect("it failed");
                assert_eq!(error.kind.retryable(), failure.retryable(status), "{failure:?} {status:?}");
                assert_eq!(error.to_attempt(), result);
            }
        }
        assert_eq!(CallError::of_attempt(AttemptResult::Delivered { status: 200 }), None);
        let mut names: Vec<_> = CallErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CallErrorKind::ALL.len());
    }

    #[test]
    fn an_answer_is_read_as_the_call_expects_it_and_nothing_of_it_is_repeated() {
        let call = Call::get("contact", "/x");
        let reply = |text: &str| Reply { status: 200, body: Bytes::copy_from_slice(text.as_bytes()), hide: vec![] };
        assert_eq!(reply("{\"a\":1}").read(&call).expect("JSON").body, json!({"a": 1}));
        for bad in ["", "hunter2", "{\"a\":hunter2", "[1,2"] {
            let error = reply(bad).read(&call).expect_err("no JSON");
            assert_eq!(error.kind, CallErrorKind::Malformed);
            assert!(!error.to_string().contains("hunter2"), "{error}");
            let any = Call { expects: Expects::Anything, ..call.clone() };
            assert_eq!(reply(bad).read(&any).expect("whatever").body, Value::Null);
        }
    }
}
