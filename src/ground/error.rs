//! What a client is told when something is refused: RFC 9457 problem details, from one table.
//!
//! Outside text goes to the client, inside text to the log: a [`Problem`] holds only what the client may see.

use std::fmt;

use serde::Serialize;

macro_rules! problem_kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $slug:literal, $status:literal, $retryable:literal, $title:literal;)+) => {
        /// Every kind of refusal. The slug is stable: clients match on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $($(#[doc = $doc])+ $name,)+ }

        impl ProblemKind {
            /// Every kind, for the documentation and its tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            /// The last part of the problem's `type`.
            #[must_use]
            pub fn slug(self) -> &'static str { match self { $(Self::$name => $slug,)+ } }
            /// The HTTP status.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Self::$name => $status,)+ } }
            /// Whether the same request may work later.
            #[must_use]
            pub fn retryable(self) -> bool { match self { $(Self::$name => $retryable,)+ } }
            /// One sentence, the same for every problem of this kind.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)+ } }
        }
    };
}

problem_kinds! {
    /// The body is not JSON.
    NotJson = "not-json", 400, false, "The body is not valid JSON";
    /// A field is missing, of the wrong type, too long or unknown.
    InvalidField = "invalid-field", 400, false, "A field does not fit";
    /// A query parameter does not fit.
    InvalidParameter = "invalid-parameter", 400, false, "A parameter does not fit";
    /// No key, or one that is not known, has expired or was revoked.
    Unauthorized = "unauthorized", 401, false, "A valid key is needed";
    /// The key has not the scope, or belongs to another org.
    Forbidden = "forbidden", 403, false, "The key does not allow this";
    /// Nothing has this id, or the key may not see it.
    NotFound = "not-found", 404, false, "There is nothing here";
    /// The path exists, the method does not.
    MethodNotAllowed = "method-not-allowed", 405, false, "The method is not offered here";
    /// The body did not arrive in time.
    RequestTimeout = "request-timeout", 408, true, "The request took too long to arrive";
    /// The same id was used for another body.
    IdConflict = "id-conflict", 409, false, "The id belongs to another event";
    /// The thing was changed meanwhile, or is in a state that forbids this.
    Conflict = "conflict", 409, false, "The state does not allow this";
    /// The first request with the idempotency key is still being answered, or was never.
    IdempotencyBusy = "idempotency-busy", 409, true, "The first request with the key is still being answered";
    /// What the idempotency key is for was done; its answer was too large to be kept.
    IdempotencyDone = "idempotency-done", 409, false, "It was done before, and its answer was not kept";
    /// The idempotency key was used for another request.
    IdempotencyMismatch = "idempotency-mismatch", 422, false, "The key was used for another request";
    /// There is no room for another idempotency key.
    IdempotencyFull = "idempotency-full", 429, true, "Too many idempotency keys are kept";
    /// It was there and is no longer kept.
    Gone = "gone", 410, false, "It is no longer kept";
    /// The tokens of deliveries count no longer.
    StaleToken = "stale-token", 409, false, "The tokens count no longer";
    /// The body, or a part of it, is too large.
    TooLarge = "too-large", 413, false, "The body is too large";
    /// The content type is not one of those accepted.
    UnsupportedMediaType = "unsupported-media-type", 415, false, "The content type is not accepted";
    /// An event that the catalog's policy of its org refuses.
    SchemaViolation = "schema-violation", 422, false, "The event is not what the catalog says";
    /// A version of a schema that breaks an older one.
    IncompatibleSchema = "incompatible-schema", 409, false, "The version breaks an older one";
    /// The range that was asked for lies outside.
    RangeNotSatisfiable = "range-not-satisfiable", 416, false, "The range lies outside of what is there";
    /// The key has used up its rate.
    RateLimited = "rate-limited", 429, true, "The key's rate limit is reached";
    /// The hub has more work than it can take, or is not ready.
    Overloaded = "overloaded", 503, true, "The hub cannot take this now";
    /// The disk has too little space left.
    DiskFull = "disk-full", 503, true, "The data directory has too little free space";
    /// A system behind the hub answered with something that is no answer.
    UpstreamFailed = "upstream-failed", 502, false, "The upstream did not answer as it should";
    /// A system behind the hub cannot be had now.
    UpstreamUnavailable = "upstream-unavailable", 503, true, "The upstream cannot be had now";
    /// Something inside failed; the log has the cause.
    Internal = "internal", 500, true, "The hub failed to do this";
}

/// A refusal as the client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What kind of refusal.
    pub kind: ProblemKind,
    /// One sentence about this case.
    pub detail: String,
    /// The field or parameter it is about, as a path: `data.items[3]`.
    pub field: Option<String>,
    /// The bound that was crossed, as words: `at most 128 characters`.
    pub limit: Option<String>,
    /// What was sent, clipped.
    pub sent: Option<String>,
    /// Further members of the answer, such as `first_seq`.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Seconds for the `Retry-After` header.
    pub retry_after_s: Option<u64>,
}

/// Characters of the client's own input that an answer repeats.
const SENT_CHARS_MAX: usize = 120;

impl Problem {
    /// A problem of this kind with a sentence about the case.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            limit: None,
            sent: None,
            extra: serde_json::Map::new(),
            retry_after_s: if kind.status() == 503 { Some(1) } else { None },
        }
    }

    /// A field that does not fit: its path, the bound, and what was sent.
    pub fn field(field: impl Into<String>, limit: impl Into<String>, sent: impl fmt::Display) -> Self {
        let (field, limit) = (field.into(), limit.into());
        let mut problem = Self::new(ProblemKind::InvalidField, format!("{field}: {limit}"));
        problem.field = Some(field);
        problem.limit = Some(limit);
        problem.sent = Some(super::limits::clip(&sent.to_string(), SENT_CHARS_MAX).to_owned());
        problem
    }

    /// A field or parameter of a name that is not known here. What stands under it may be a credential in the wrong
    /// place: it is not repeated.
    pub fn unknown(field: impl Into<String>, limit: impl Into<String>) -> Self {
        Self::field(field, limit, "***")
    }

    /// The same problem where the object it is about stands within another: `path` goes before the field.
    #[must_use]
    pub fn under(mut self, path: &str) -> Self {
        if let Some(field) = self.field.take() {
            let whole = format!("{path}.{field}");
            if let Some(rest) = self.detail.strip_prefix(&field) {
                self.detail = format!("{whole}{rest}");
            }
            self.field = Some(whole);
        }
        self
    }

    /// The same problem as one of another kind.
    #[must_use]
    pub fn as_kind(mut self, kind: ProblemKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same problem with a further member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The same problem, telling the client when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Nothing of this sort has this id.
    pub fn not_found(what: &str, id: &str) -> Self {
        let mut problem = Self::new(ProblemKind::NotFound, format!("no {what} has this id"));
        problem.sent = Some(super::limits::clip(id, SENT_CHARS_MAX).to_owned());
        problem
    }

    /// The problem+json document.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            field: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            limit: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            sent: &'a Option<String>,
            retryable: bool,
            #[serde(flatten)]
            extra: &'a serde_json::Map<String, serde_json::Value>,
        }
        let body = Body {
            r#type: format!("urn:tidegate:problem:{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status(),
            detail: &self.detail,
            field: &self.field,
            limit: &self.limit,
            sent: &self.sent,
            retryable: self.kind.retryable(),
            extra: &self.extra,
        };
        serde_json::to_value(body).unwrap_or(serde_json::Value::Null)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.slug(), self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_unique_and_statuses_are_errors() {
        let mut slugs: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        assert!(ProblemKind::ALL.iter().all(|kind| (400..600).contains(&kind.status())));
    }

    #[test]
    fn a_field_problem_names_field_bound_and_what_was_sent() {
        let long = "x".repeat(10_000);
        let json = Problem::field("type", "at most 255 characters", &long).to_json();
        assert_eq!(json["field"], "type");
        assert_eq!(json["limit"], "at most 255 characters");
        assert_eq!(json["sent"].as_str().map(str::len), Some(SENT_CHARS_MAX));
        assert_eq!(json["status"], 400);
    }
}
