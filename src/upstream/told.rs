//! What the log says of calls and reads (OBS-2): one function a happening, so that each has the same fields wherever it
//! happens. No secret is among them, and of what an upstream says at most 500 characters.

use super::call::{Call, CallError, CallErrorKind};
use crate::event::redact::ANSWER_WITHHELD;

/// What a line is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// The upstream.
    pub(super) app: &'a str,
    /// The call.
    pub(super) call: &'a Call,
    /// Host and path.
    pub(super) place: &'a str,
    /// Which attempt, those of a durable queue included.
    pub(super) attempt: u32,
}

macro_rules! line {
    ($level:ident, $line:expr, $text:literal, $($field:tt)*) => {{
        let Line { app, call, place, attempt } = $line;
        tracing::$level!(
            app,
            method = call.method.as_str(),
            host_path = place_of(place, call),
            attempt,
            operation = call.operation,
            "type" = call.about.event_type,
            external_id = call.about.external_id,
            contact_id = call.about.contact_id,
            $($field)*
            $text
        )
    }};
}

/// Host and path; the host alone where the path may repeat what is redacted.
fn place_of<'a>(place: &'a str, call: &Call) -> &'a str {
    if call.about.withheld { place.split('/').next().unwrap_or_default() } else { place }
}

/// A call has been answered.
pub(super) fn answered(line: Line<'_>, status: u16, latency_ms: u64) {
    line!(debug, line, "an upstream has answered", status, latency_ms,);
}

/// An attempt has failed.
pub(super) fn attempt_failed(line: Line<'_>, error: &CallError) {
    let CallError { kind, status, message: reason, snippet, .. } = error;
    let body = if line.call.about.withheld { ANSWER_WITHHELD } else { snippet.as_str() };
    match kind {
        CallErrorKind::Auth => {
            line!(error, line, "an upstream does not take the credential", status, transient = false, reason, body,);
        }
        CallErrorKind::Timeout | CallErrorKind::Transient | CallErrorKind::Internal => {
            line!(warn, line, "an attempt at an upstream has failed", status, transient = true, reason, body,);
        }
        CallErrorKind::Permanent | CallErrorKind::Validation => {
            line!(warn, line, "an upstream does not take the call", status, transient = false, reason, body,);
        }
        CallErrorKind::Malformed => malformed(line, *status, reason, body),
        CallErrorKind::NotFound => {
            line!(debug, line, "an upstream has no such thing", status, transient = false, reason,);
        }
        CallErrorKind::Unknown | CallErrorKind::RateLimited | CallErrorKind::CircuitOpen | CallErrorKind::Busy => {
            line!(debug, line, "an upstream was not asked", transient = true, reason,);
        }
    }
}

/// An answer makes no sense.
pub(super) fn malformed(line: Line<'_>, status: Option<u16>, reason: &str, body: &str) {
    line!(warn, line, "an upstream's answer is malformed", status, transient = false, reason, body,);
}

/// A call that could be tried again was tried as often as its policy has it.
pub(super) fn used_up(line: Line<'_>, error: &CallError) {
    let CallError { status, message: reason, .. } = error;
    line!(error, line, "the retries at an upstream are used up", status, transient = false, reason,);
}

/// The cache has answered a read.
pub(super) fn hit(line: Line<'_>, age_ms: u64) {
    line!(debug, line, "the cache has answered a read", age_ms,);
}

/// An old answer was given, because the upstream is down.
pub(super) fn served_stale(line: Line<'_>, age_ms: u64, error: &CallError) {
    let CallError { status, message: reason, .. } = error;
    line!(warn, line, "an old answer was served: the upstream is down", status, reason, age_ms,);
}
