//! The one way to an upstream: validate, rate limit, breaker, timeout, retry, transform, inside one span (UPS-1).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::adapter::{Adapter, AdapterContext};
use super::call::{Answer, Attempts, Call, CallError, CallErrorKind};
use super::health::Seen;
use super::series::Series;
use super::told::{self, Line};
use crate::breaker::BreakerSettings;
use crate::breaker::actor::{Admit, Admitted, BreakerActor, Record};
use crate::breaker::state::{CallResult, Permit, Refusal};
use crate::ground::clock::SharedClock;
use crate::ground::ids::prefixed;
use crate::ground::random::SharedRandom;
use crate::ratelimit::{Bucket, RateLimit};
use crate::retry::{AttemptResult, RetryPolicy};
use crate::supervise::{Handle, panic_text};
use crate::trace::{Execution, Tracer};

/// Longest wait for a token of the bucket, in milliseconds; past it the call is told to come back.
pub const RATE_WAIT_MS_MAX: u64 = 10_000;
/// Longest wait between two attempts that a caller is kept for, in milliseconds.
pub const RETRY_WAIT_MS_MAX: u64 = 60_000;
/// Calls of one upstream that may wait for a place.
pub const WAITING_MAX: usize = 1_000;
/// When a breaker that was opened by hand, or whose probes are out, may be asked again, in milliseconds.
const ASK_AGAIN_MS: u64 = 1_000;

/// The rules of one upstream's calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// When a failed call is tried again.
    pub retry: RetryPolicy,
    /// The numbers of the breaker.
    pub breaker: BreakerSettings,
    /// How many calls go out in a row and a second; none for no bound.
    pub rate_limit: Option<RateLimit>,
    /// Time for one attempt, in milliseconds.
    pub attempt_ms: u64,
    /// Calls at once.
    pub concurrency: u64,
}

/// An upstream as it is called now; replaced as a whole when it changes.
pub struct Served {
    /// What calls it.
    pub adapter: Arc<dyn Adapter>,
    /// The tenant whose it is; none when it serves all of them.
    pub org: Option<String>,
    /// Its rules.
    pub rules: Rules,
    places: Arc<Semaphore>,
}

impl Served {
    /// An upstream with nothing under way.
    #[must_use]
    pub fn new(adapter: Arc<dyn Adapter>, org: Option<String>, rules: Rules) -> Self {
        let places = Arc::new(Semaphore::new(usize::try_from(rules.concurrency).unwrap_or(1)));
        Self { adapter, org, rules, places }
    }
}

/// What stays of an upstream over its changes and the lives of its actor.
pub struct Core {
    /// Its id.
    pub id: Arc<str>,
    /// As it is called now.
    pub served: ArcSwap<Served>,
    /// Its breaker.
    pub breaker: Handle<BreakerActor>,
    /// The numbers that its breaker reads.
    pub breaker_numbers: Arc<ArcSwap<BreakerSettings>>,
    /// Its series.
    pub series: Arc<Series>,
    /// What its last call came to.
    pub seen: Mutex<Seen>,
    /// Its bucket; who holds it is next.
    pub bucket: tokio::sync::Mutex<Bucket>,
    /// Calls that wait for a place.
    pub waiting: AtomicUsize,
    /// Spans.
    pub tracer: Tracer,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
}

/// Counts one who waits, while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Core {
    /// Makes a call.
    pub async fn perform(&self, call: Call, mut context: AdapterContext) -> Result<Answer, CallError> {
        let served = self.served.load_full();
        let began_ns = self.clock.monotonic_ns();
        if context.correlation_id.is_empty() {
            context.correlation_id = prefixed("cor", self.clock.now(), &*self.random);
        }
        let version = served.adapter.version().to_owned();
        let about = Execution {
            adapter: &self.id,
            version: &version,
            correlation_id: &context.correlation_id,
            tenant: context.tenant.as_deref(),
            operation: &call.operation,
        };
        let span = self.tracer.execute(context.traceparent.as_deref(), &about);
        if let Some(own) = span.traceparent() {
            context.traceparent = Some(own);
        }
        let mut result = self.attempts(&served, &call, context).await;
        let spent_ns = self.clock.monotonic_ns().saturating_sub(began_ns);
        if let Ok(answer) = &mut result {
            answer.latency_ms = spent_ns / 1_000_000;
        }
        self.series.ended(&result, spent_ns as f64 / 1e9);
        let outcome = match &result {
            Ok(answer) => AttemptResult::Delivered { status: answer.status },
            Err(error) => error.to_attempt(),
        };
        self.tracer.attempted(span, &outcome);
        result
    }

    async fn attempts(&self, served: &Served, call: &Call, mut context: AdapterContext) -> Result<Answer, CallError> {
        served.adapter.validate(call, &context)?;
        let _place = self.enter(served).await?;
        let place = served.adapter.place(call);
        let (mut made, mut last): (u32, Option<CallError>) = (0, None);
        loop {
            let permit = match self.admit(served).await {
                Ok(permit) => permit,
                // What was met is told before what kept it from being met again.
                Err(error) => return Err(last.unwrap_or(error)),
            };
            made += 1;
            let line = Line { app: &self.id, call, place: &place, attempt: context.retry_count + 1 };
            let mut error = match self.attempt(served, call, &context, permit).await {
                Ok(mut answer) => {
                    answer.attempts = made;
                    told::answered(line, answer.status, answer.latency_ms);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            error.attempts = made;
            told::attempt_failed(line, &error);
            if call.attempts == Attempts::Once || !error.kind.retryable() {
                return Err(error);
            }
            let wait = served.rules.retry.next_delay(made, self.random.fraction(), error.retry_after_ms);
            let Some(wait_ms) = wait else {
                if made > 1 {
                    told::used_up(line, &error);
                }
                return Err(error);
            };
            if wait_ms > RETRY_WAIT_MS_MAX {
                return Err(error.retry_after(wait_ms));
            }
            last = Some(error);
            self.clock.sleep(Duration::from_millis(wait_ms)).await;
            self.series.retried();
            context.retry_count = context.retry_count.saturating_add(1);
        }
    }

    /// A place among the calls that are made at once.
    async fn enter(&self, served: &Served) -> Result<OwnedSemaphorePermit, CallError> {
        if let Ok(place) = Arc::clone(&served.places).try_acquire_owned() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        let busy = |text: &str| CallError::new(CallErrorKind::Busy, text).retry_after(ASK_AGAIN_MS);
        if before >= WAITING_MAX {
            return Err(busy("too many calls wait for the upstream"));
        }
        // It is never closed.
        Arc::clone(&served.places).acquire_owned().await.map_err(|_| busy("the upstream takes no calls"))
    }

    /// A token of the bucket and a permit of the breaker.
    async fn admit(&self, served: &Served) -> Result<Permit, CallError> {
        if let Some(limit) = &served.rules.rate_limit {
            self.take_token(limit).await?;
        }
        let refused = |text: &str, ms: u64| Err(CallError::new(CallErrorKind::CircuitOpen, text).retry_after(ms));
        match self.breaker.ask(Admit).await {
            Ok(Admitted::Yes(permit)) => Ok(permit),
            Ok(Admitted::No { until, reason }) => {
                let wait_ms = until.map_or(ASK_AGAIN_MS, |until| until.since_ms(self.clock.now()));
                match reason {
                    Refusal::Open => refused("the breaker of the upstream is open", wait_ms),
                    Refusal::ForcedOpen => refused("the breaker of the upstream was opened by hand", wait_ms),
                    Refusal::ProbesInFlight => {
                        refused("the breaker of the upstream waits for a probe", wait_ms.min(ASK_AGAIN_MS))
                    }
                }
            }
            Err(_) => refused("the breaker of the upstream is being restarted", ASK_AGAIN_MS),
        }
    }

    /// Waits its turn for a token (BRK-5); first come, first served.
    async fn take_token(&self, limit: &RateLimit) -> Result<(), CallError> {
        let started = self.clock.now();
        let mut bucket = self.bucket.lock().await;
        let mut held_back = false;
        loop {
            let now = self.clock.now();
            let taken = bucket.take(limit, now, 1);
            if taken.allowed {
                return Ok(());
            }
            if !std::mem::replace(&mut held_back, true) {
                self.series.held_back();
            }
            let wait_ms = taken.next_at.since_ms(now).max(1);
            if now.since_ms(started).saturating_add(wait_ms) > RATE_WAIT_MS_MAX {
                let text = format!("the rate of the upstream is used up for more than {RATE_WAIT_MS_MAX} ms");
                return Err(CallError::new(CallErrorKind::RateLimited, text).retry_after(wait_ms));
            }
            self.clock.sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    /// One attempt within its time, its outcome told to the breaker.
    async fn attempt(
        &self,
        served: &Served,
        call: &Call,
        context: &AdapterContext,
        permit: Permit,
    ) -> Result<Answer, CallError> {
        let began_ns = self.clock.monotonic_ns();
        let mut open = Open { breaker: &self.breaker, permit, result: None, latency_ms: 0 };
        let limit_ms = served.rules.attempt_ms;
        let work = async {
            let reply = served.adapter.execute(call, context).await;
            // Whether it makes sense or not: it has answered.
            let up = reply.as_ref().map(|_| ()).map_err(Clone::clone);
            (up, reply.and_then(|reply| served.adapter.transform(call, reply, context)))
        };
        let (up, answer) = tokio::select! {
            done = AssertUnwindSafe(work).catch_unwind() => done.unwrap_or_else(|cause| {
                let error = CallError::new(CallErrorKind::Internal, format!("the adapter panicked: {}", panic_text(&*cause)));
                (Err(error.clone()), Err(error))
            }),
            () = self.clock.sleep(Duration::from_millis(limit_ms)) => {
                let error = CallError::new(CallErrorKind::Timeout, format!("no complete answer within {limit_ms} ms"));
                (Err(error.clone()), Err(error))
            }
        };
        open.latency_ms = self.clock.monotonic_ns().saturating_sub(began_ns) / 1_000_000;
        open.result = verdict(&up, served.org.is_some());
        self.seen.lock().note(self.clock.now(), open.latency_ms, up.as_ref().err());
        answer.map(|answer| Answer { latency_ms: open.latency_ms, ..answer })
    }
}

/// A permit that is given back whatever happens, with what was learnt.
struct Open<'a> {
    breaker: &'a Handle<BreakerActor>,
    permit: Permit,
    result: Option<CallResult>,
    latency_ms: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.breaker.hint(Record { permit: self.permit, result: self.result, latency_ms: self.latency_ms });
    }
}

/// What an attempt says about the upstream. Where several tenants share one, the credential of one that is refused says
/// nothing: it must not shut the others out.
fn verdict(up: &Result<(), CallError>, one_tenant: bool) -> Option<CallResult> {
    match up {
        Ok(()) => Some(CallResult::Success),
        Err(error) => match error.kind {
            CallErrorKind::Auth if !one_tenant => None,
            CallErrorKind::Malformed => Some(CallResult::Success),
            CallErrorKind::Unknown
            | CallErrorKind::Validation
            | CallErrorKind::RateLimited
            | CallErrorKind::CircuitOpen
            | CallErrorKind::Busy
            | CallErrorKind::Timeout
            | CallErrorKind::Transient
            | CallErrorKind::Auth
            | CallErrorKind::NotFound
            | CallErrorKind::Permanent
            | CallErrorKind::Internal => error.to_attempt().call_result(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_credential_shuts_out_one_tenant_and_not_those_who_share_the_upstream() {
        let of = |kind, one_tenant| verdict(&Err(CallError::new(kind, "x")), one_tenant);
        assert_eq!(of(CallErrorKind::Auth, true), Some(CallResult::Failure));
        assert_eq!(of(CallErrorKind::Auth, false), None);
        assert_eq!(of(CallErrorKind::Timeout, false), Some(CallResult::Failure));
        assert_eq!(of(CallErrorKind::Malformed, true), Some(CallResult::Success));
        assert_eq!(of(CallErrorKind::NotFound, true), Some(CallResult::Success));
        assert_eq!(of(CallErrorKind::Internal, true), None, "a panic of the hub's own says nothing of the upstream");
        assert_eq!(verdict(&Ok(()), true), Some(CallResult::Success));
    }
}
