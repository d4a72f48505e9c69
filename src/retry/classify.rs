//! What one attempt came to, and what follows: another attempt, the dead letters, or the end of the endpoint (RTY-2).
//!
//! Statuses are judged after RFC 9110; 425 is RFC 8470, 429 RFC 6585. The names of [`FailureKind::as_str`] are stable:
//! attempts are stored under them and metrics carry them as labels, so there are few and no input can add one.

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use crate::breaker::state::CallResult;
use crate::event::envelope::Event;
use crate::event::redact::Redactor;
use crate::ground::clock::UnixMs;

/// What kind of failure an attempt met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection, or it broke before the answer was complete.
    Connect,
    /// The host's name has no address.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// No complete answer in time.
    Timeout,
    /// The address policy forbids the address.
    Refused,
    /// An answer whose status is no success and none of the kinds below.
    Status,
    /// A redirect, which is never followed.
    Redirect,
    /// 401 or 403: the credentials are wrong, and trying them again helps nobody.
    Auth,
    /// 410: the endpoint says it is gone for good.
    Gone,
    /// The handler returned an error.
    Handler,
    /// The handler or consumer said that no retry will help.
    Rejected,
    /// The consumer asked for another attempt.
    Nak,
    /// The handler panicked.
    Panic,
    /// The holder neither finished nor renewed its lease in time.
    LeaseExpired,
    /// The hub itself failed to make the attempt.
    Internal,
    /// The webhook's template cannot write this event.
    Template,
}

impl FailureKind {
    /// Every kind, for metrics and documentation.
    pub const ALL: &'static [Self] = &[
        Self::Connect,
        Self::Dns,
        Self::Tls,
        Self::Timeout,
        Self::Refused,
        Self::Status,
        Self::Redirect,
        Self::Auth,
        Self::Gone,
        Self::Handler,
        Self::Rejected,
        Self::Nak,
        Self::Panic,
        Self::LeaseExpired,
        Self::Internal,
        Self::Template,
    ];

    /// The stable name in logs, metrics and stored attempts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Auth => "auth",
            Self::Gone => "gone",
            Self::Handler => "handler",
            Self::Rejected => "rejected",
            Self::Nak => "nak",
            Self::Panic => "panic",
            Self::LeaseExpired => "lease_expired",
            Self::Internal => "internal",
            Self::Template => "template",
        }
    }

    /// Whether another attempt may do better. `status` decides for [`FailureKind::Status`] only.
    #[must_use]
    pub fn retryable(self, status: Option<u16>) -> bool {
        match self {
            Self::Connect
            | Self::Dns
            | Self::Tls
            | Self::Timeout
            | Self::Handler
            | Self::Nak
            | Self::Panic
            | Self::LeaseExpired
            | Self::Internal => true,
            Self::Status => status.is_some_and(status_retryable),
            Self::Refused | Self::Redirect | Self::Auth | Self::Gone | Self::Rejected | Self::Template => false,
        }
    }
}

/// Whether an endpoint that answered this status may answer another one later.
#[must_use]
pub fn status_retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptResult {
    /// The consumer has it.
    Delivered {
        /// The HTTP status, 200 to 299; 200 where there is no HTTP.
        status: u16,
    },
    /// The consumer has it not, or did not say so.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The HTTP status, when there was an answer.
        status: Option<u16>,
        /// One sentence, fit to show to the endpoint's owner: no secret, no query.
        message: String,
        /// How long the endpoint asked to be left alone, as it said; the policy bounds it.
        retry_after_ms: Option<u64>,
    },
}

/// What follows from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is delivered.
    Settle,
    /// Another attempt, when the policy has one left.
    Retry,
    /// A dead letter at once.
    GiveUp,
    /// A dead letter at once, and no more deliveries to this endpoint.
    GiveUpAndDisable,
}

impl AttemptResult {
    /// A failure without an HTTP answer.
    pub fn failed(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed { kind, status: None, message: message.into(), retry_after_ms: None }
    }

    /// The same with its message, and the answer that came with it, cleared of what is redacted of the event.
    #[must_use]
    pub fn cleared(self, redactor: &Redactor, event: Option<&Event>, answer: String) -> (Self, String) {
        match self {
            Self::Delivered { status } => {
                let (_, answer) = redactor.cleared(event, None, answer);
                (Self::Delivered { status }, answer)
            }
            Self::Failed { kind, status, message, retry_after_ms } => {
                let (message, answer) = redactor.cleared(event, Some(message), answer);
                (Self::Failed { kind, status, message: message.unwrap_or_default(), retry_after_ms }, answer)
            }
        }
    }

    /// What follows from this attempt.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Delivered { .. } => Verdict::Settle,
            Self::Failed { kind: FailureKind::Gone, .. } => Verdict::GiveUpAndDisable,
            Self::Failed { kind, status, .. } if kind.retryable(*status) => Verdict::Retry,
            Self::Failed { .. } => Verdict::GiveUp,
        }
    }

    /// What a breaker learns about the upstream; `None` when the attempt says nothing about it.
    ///
    /// An endpoint that judges one event (400, 422, …) is up. One that turns every event away (credentials, redirect,
    /// gone) counts as down, so that a breaker stops it from turning a whole backlog into dead letters.
    #[must_use]
    pub fn call_result(&self) -> Option<CallResult> {
        match self {
            Self::Delivered { .. } => Some(CallResult::Success),
            Self::Failed { kind, status, .. } => match kind {
                FailureKind::Connect
                | FailureKind::Dns
                | FailureKind::Tls
                | FailureKind::Timeout
                | FailureKind::Redirect
                | FailureKind::Auth
                | FailureKind::Gone
                | FailureKind::Handler
                | FailureKind::Nak
                | FailureKind::Panic
                | FailureKind::LeaseExpired => Some(CallResult::Failure),
                FailureKind::Status if status.is_some_and(status_retryable) => Some(CallResult::Failure),
                FailureKind::Status | FailureKind::Rejected => Some(CallResult::Success),
                FailureKind::Refused | FailureKind::Internal | FailureKind::Template => None,
            },
        }
    }

    /// The label of the outcome: `delivered`, or the failure's name.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Failed { kind, .. } => kind.as_str(),
        }
    }
}

/// What an HTTP answer of this status means. `retry_after` is the header as it came, `now` serves its date form.
#[must_use]
pub fn classify_status(status: u16, retry_after: Option<&str>, now: UnixMs) -> AttemptResult {
    let (kind, note) = match status {
        200..=299 => return AttemptResult::Delivered { status },
        300..=399 => (FailureKind::Redirect, "; redirects are not followed"),
        401 | 403 => (FailureKind::Auth, "; it does not accept the credentials"),
        410 => (FailureKind::Gone, "; it is gone for good"),
        _ => (FailureKind::Status, ""),
    };
    let retry_after_ms = match retry_after {
        Some(text) if kind.retryable(Some(status)) => parse_retry_after(text, now),
        Some(_) | None => None,
    };
    let message = format!("the endpoint answered {status}{note}");
    AttemptResult::Failed { kind, status: Some(status), message, retry_after_ms }
}

/// Milliseconds from `now` that a `Retry-After` header asks for: seconds, or one of the three HTTP dates of RFC 9110.
/// A date gone by asks for none; what is neither is `None`.
#[must_use]
pub fn parse_retry_after(text: &str, now: UnixMs) -> Option<u64> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1_000));
    }
    parse_http_date(text).map(|then| then.since_ms(now))
}

fn parse_http_date(text: &str) -> Option<UnixMs> {
    const FORMS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let civil = FORMS.iter().find_map(|form| DateTime::strptime(form, text).ok())?;
    let stamp = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    // A date before 1970 has gone by like any other.
    Some(UnixMs(u64::try_from(stamp.as_millisecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::codec;

    const NOW: UnixMs = UnixMs(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

    fn verdict(status: u16) -> Verdict {
        classify_status(status, None, NOW).verdict()
    }

    #[test]
    fn every_status_has_one_verdict() {
        for status in 0..=u16::MAX {
            let expected = match status {
                200..=299 => Verdict::Settle,
                408 | 425 | 429 | 500..=599 => Verdict::Retry,
                410 => Verdict::GiveUpAndDisable,
                _ => Verdict::GiveUp,
            };
            assert_eq!(verdict(status), expected, "{status}");
        }
    }

    #[test]
    fn wrong_credentials_are_permanent_and_called_auth() {
        for status in [401, 403] {
            let result = classify_status(status, Some("5"), NOW);
            assert_eq!((result.as_str(), result.verdict()), ("auth", Verdict::GiveUp));
            assert!(matches!(result, AttemptResult::Failed { retry_after_ms: None, .. }));
        }
    }

    #[test]
    fn faults_of_the_network_are_retried_and_forbidden_addresses_are_not() {
        for kind in [FailureKind::Connect, FailureKind::Dns, FailureKind::Tls, FailureKind::Timeout] {
            assert_eq!(AttemptResult::failed(kind, "").verdict(), Verdict::Retry);
        }
        for kind in [FailureKind::Refused, FailureKind::Rejected, FailureKind::Template] {
            assert_eq!(AttemptResult::failed(kind, "").verdict(), Verdict::GiveUp);
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_each_http_date() {
        let cases = [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60_000)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60_000)),
            ("Sun Nov  6 08:50:37 1994", Some(60_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Thu, 01 Jan 1959 00:00:00 GMT", Some(0)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_retry_after(text, NOW), expected, "{text:?}");
        }
    }

    #[test]
    fn a_throttled_answer_carries_how_long_to_wait() {
        let AttemptResult::Failed { retry_after_ms, .. } = classify_status(429, Some("7"), NOW) else {
            panic!("429 is a failure");
        };
        assert_eq!(retry_after_ms, Some(7_000));
    }

    #[test]
    fn an_endpoint_that_judges_one_event_is_up_and_one_that_turns_all_away_is_down() {
        let told = |status| classify_status(status, None, NOW).call_result();
        assert_eq!(told(204), Some(CallResult::Success));
        assert_eq!(told(422), Some(CallResult::Success));
        assert_eq!(told(429), Some(CallResult::Failure));
        assert_eq!(told(503), Some(CallResult::Failure));
        assert_eq!(told(401), Some(CallResult::Failure));
        assert_eq!(AttemptResult::failed(FailureKind::Refused, "").call_result(), None);
        assert_eq!(AttemptResult::failed(FailureKind::Internal, "").call_result(), None);
    }

    #[test]
    fn names_are_unique_and_the_same_in_json() {
        let mut names: Vec<_> = FailureKind::ALL.iter().map(|kind| kind.as_str()).collect();
        for kind in FailureKind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("json"), kind.as_str());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FailureKind::ALL.len());
    }

    #[test]
    fn a_result_survives_a_record() {
        let result = classify_status(503, Some("3"), NOW);
        let bytes = codec::encode(1, &result).expect("encodes");
        assert_eq!(codec::decode::<AttemptResult>(1, &bytes), Ok(result));
    }
}
