//! Upstreams as they are asked: calls, declared reads (UPS-3, UPS-4), checks of health (UPS-7), and what a caller is told of one
//! that gave no answer.

use std::sync::Arc;

use serde_json::Value;

use crate::ground::error::{Problem, ProblemKind};
use crate::hub::Hub;
use crate::upstream::AdapterContext;
use crate::upstream::call::{Answer, Call, CallError, CallErrorKind, CallPath as _};
use crate::upstream::health::{Grade, Overall, Report};
use crate::upstream::read::Read;
use crate::upstream::reading::{Question, ReadError};

/// Checks of health that are made at once.
const CHECKS_AT_ONCE: usize = 128;

/// What a caller is told of an upstream that gave no answer. What it said, and where it is, is for operators.
fn outside(upstream: &str, error: &CallError) -> Problem {
    let told = |kind: ProblemKind, detail: &str| {
        let mut problem = Problem::new(kind, detail).with("upstream", upstream).with("error_type", error.kind.as_str());
        if let Some(ms) = error.retry_after_ms.filter(|_| kind == ProblemKind::UpstreamUnavailable) {
            problem.retry_after_s = Some(ms.div_ceil(1_000).max(1));
        }
        problem
    };
    match error.kind {
        CallErrorKind::Unknown => Problem::not_found("upstream", upstream),
        CallErrorKind::Validation => told(ProblemKind::InvalidParameter, &error.message),
        CallErrorKind::Auth => told(ProblemKind::UpstreamFailed, "the upstream does not take the hub's credential"),
        CallErrorKind::NotFound | CallErrorKind::Permanent => {
            told(ProblemKind::UpstreamFailed, "the upstream does not take the call")
        }
        CallErrorKind::Malformed => told(ProblemKind::UpstreamFailed, "the upstream's answer makes no sense"),
        CallErrorKind::RateLimited | CallErrorKind::Busy => {
            told(ProblemKind::UpstreamUnavailable, "more is asked of the upstream than it may be asked")
        }
        CallErrorKind::CircuitOpen => {
            told(ProblemKind::UpstreamUnavailable, "the upstream has failed too often; it is left alone for a while")
        }
        CallErrorKind::Timeout | CallErrorKind::Transient | CallErrorKind::Internal => {
            told(ProblemKind::UpstreamUnavailable, "the upstream did not answer")
        }
    }
}

impl Hub {
    /// Calls an upstream.
    ///
    /// # Errors
    /// Whatever went wrong; see [`CallErrorKind`].
    pub async fn call_upstream(&self, id: &str, call: Call, context: AdapterContext) -> Result<Answer, CallError> {
        self.inner.upstreams.call(id, call, context).await
    }

    /// Asks an upstream whether it is there and takes the credential, that of `tenant` when it is given.
    ///
    /// # Errors
    /// When there is none of this id, or its actor is being restarted.
    pub async fn test_upstream(&self, id: &str, tenant: Option<&str>) -> Result<Report, Problem> {
        let registered = self.registered(id)?;
        let mut context = AdapterContext::new(tenant, self.inner.clock.now());
        context.tenant = context.tenant.or_else(|| registered.core.served.load().org.clone());
        registered.check(context).await.map_err(|error| outside(id, &error))
    }

    /// Asks every upstream, and says how they fare together.
    pub async fn check_upstreams(&self) -> (Overall, Vec<Report>) {
        use futures_util::StreamExt as _;
        let checks = self.inner.upstreams.all().into_iter().map(|one| async move {
            let mut context = AdapterContext::new(None, self.inner.clock.now());
            context.tenant = one.core.served.load().org.clone();
            one.check(context).await.ok()
        });
        let reports = futures_util::stream::iter(checks).buffered(CHECKS_AT_ONCE);
        let reports: Vec<Report> = reports.filter_map(std::future::ready).collect().await;
        (Overall::of(reports.iter().map(|report| report.status)), reports)
    }

    /// How upstreams fare as far as is known without asking them.
    pub(in crate::hub) fn upstreams_seen(&self) -> String {
        let grades: Vec<Grade> = self.inner.upstreams.all().iter().map(|one| one.grade()).collect();
        let count = |wanted: Grade| grades.iter().filter(|grade| **grade == wanted).count();
        let overall = Overall::of(grades.iter().copied());
        format!(
            "{}: {} pass, {} warn, {} fail",
            overall.as_str(),
            count(Grade::Pass),
            count(Grade::Warn),
            count(Grade::Fail)
        )
    }

    /// Forgets what was read of an upstream. Returns how many answers that were.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn clear_upstream_cache(&self, id: &str) -> Result<usize, Problem> {
        let registered = self.registered(id)?;
        Ok(self.inner.upstreams.clear(&registered).await)
    }

    /// Sets the bridge counters of an upstream back to zero.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn reset_upstream_counters(&self, id: &str) -> Result<(), Problem> {
        self.registered(id)?.core.series.reset();
        Ok(())
    }

    /// A declared read, when the tenant may ask the upstream.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]: also for an upstream of another tenant, so that ids cannot be probed.
    pub fn upstream_read(&self, id: &str, name: &str, tenant: Option<&str>) -> Result<Arc<Read>, Problem> {
        let found = self.inner.declared_upstreams.get(id);
        let visible = found.filter(|stored| match (&stored.record.settings.org, tenant) {
            (Some(org), Some(tenant)) => org == tenant,
            (Some(_) | None, _) => true,
        });
        let stored = visible.ok_or_else(|| Problem::not_found("upstream", id))?;
        stored.reads.get(name).cloned().ok_or_else(|| Problem::not_found("read of the upstream", name))
    }

    /// Answers a declared read for a tenant.
    ///
    /// # Errors
    /// When it is not there, the question does not fit, or the upstream gives no answer and there is no old one.
    pub async fn read_upstream(
        &self,
        id: &str,
        name: &str,
        question: &Question,
        context: AdapterContext,
    ) -> Result<Value, Problem> {
        let read = self.upstream_read(id, name, context.tenant.as_deref())?;
        let registered = self.registered(id)?;
        self.inner.upstreams.read(&registered, name, &read, question, context).await.map_err(|error| match error {
            ReadError::Question(problem) => problem.as_kind(ProblemKind::InvalidParameter),
            ReadError::Call(error) => outside(id, &error),
        })
    }
}
