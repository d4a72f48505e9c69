//! What is told of publishes: each happening is one line of the log and its series, so that the two cannot drift
//! (OBS-1, OBS-2). The lines of the single attempts, with method and host, are those of the call path.

use crate::event::envelope::Event;
use crate::ground::clock::UnixMs;
use crate::metrics::Metrics;
use crate::retry::FailureKind;
use crate::upstream::call::About;

/// Of which publish something is told.
pub struct Report<'a> {
    /// Series.
    pub metrics: &'a Metrics,
    /// The upstream.
    pub upstream: &'a str,
    /// The rule.
    pub rule: &'a str,
    /// The event.
    pub event: &'a Event,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// What the event is about.
    pub about: About,
}

/// Something that happened to a publish.
pub trait Happening {
    /// Writes the line and moves the series.
    fn tell(&self, of: &Report<'_>);
}

impl Report<'_> {
    /// Tells of it.
    pub fn emit(&self, happening: &impl Happening) {
        happening.tell(self);
    }

    fn external_id(&self) -> &str {
        self.about.external_id.as_deref().unwrap_or_default()
    }

    fn contact_id(&self) -> &str {
        self.about.contact_id.as_deref().unwrap_or_default()
    }
}

/// The upstream has taken the event.
pub struct Published {
    /// The status of its answer.
    pub status: Option<u16>,
}

impl Happening for Published {
    fn tell(&self, of: &Report<'_>) {
        of.metrics.bridge_publish_success.with_label_values(&[of.upstream]).inc();
        tracing::info!(app = of.upstream, rule = of.rule, event = %of.event.meta.id, attempt = of.attempt, status = self.status, r#type = %of.event.meta.event_type, external_id = of.external_id(), contact_id = of.contact_id(), "published to the upstream");
    }
}

/// The event waits in the durable queue.
pub struct Deferred {
    /// Why.
    pub reason: &'static str,
    /// Until when.
    pub until: UnixMs,
}

impl Happening for Deferred {
    fn tell(&self, of: &Report<'_>) {
        of.metrics.bridge_publish_deferred.with_label_values(&[of.upstream]).inc();
        tracing::warn!(app = of.upstream, rule = of.rule, event = %of.event.meta.id, attempt = of.attempt, r#type = %of.event.meta.event_type, external_id = of.external_id(), contact_id = of.contact_id(), reason = self.reason, until = %self.until, "publish deferred to the durable queue");
    }
}

/// An attempt after the first one was made.
pub struct Retried;

impl Happening for Retried {
    fn tell(&self, of: &Report<'_>) {
        of.metrics.bridge_retry_attempts.with_label_values(&[of.upstream]).inc();
    }
}

/// The event is given up: it is a dead letter.
pub struct Refused<'a> {
    /// How the last attempt failed.
    pub kind: FailureKind,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: &'a str,
}

impl Refused<'_> {
    /// `auth` where the credential was refused; `dead_letter` for everything else.
    fn reason(&self) -> &'static str {
        if self.kind == FailureKind::Auth { AUTH } else { DEAD_LETTER }
    }
}

/// The upstream refused the credential.
const AUTH: &str = "auth";
/// The retries are used up, or another attempt would do no better.
const DEAD_LETTER: &str = "dead_letter";

impl Happening for Refused<'_> {
    fn tell(&self, of: &Report<'_>) {
        let reason = self.reason();
        of.metrics.bridge_permanent_failure.with_label_values(&[of.upstream, reason]).inc();
        let kind = self.kind.as_str();
        let what = match (self.kind, self.kind.retryable(self.status)) {
            (FailureKind::Auth, _) => "publish refused: the upstream does not accept the credential",
            (_, true) => "publish given up: the retry budget is exhausted",
            (_, false) => "publish given up: another attempt would do no better",
        };
        tracing::error!(app = of.upstream, rule = of.rule, event = %of.event.meta.id, attempt = of.attempt, status = self.status, transient = false, r#type = %of.event.meta.event_type, external_id = of.external_id(), contact_id = of.contact_id(), kind, reason, error = self.error, "{what}");
    }
}
