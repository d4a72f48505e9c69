//! The delivery actor: gives the claims of one webhook to its endpoint (WHK-2, WHK-5).
//!
//! Each delivery is a task of its own: it asks the breaker, signs, posts, and answers the claim. The actor holds
//! nothing that a restart would lose: a ticket that is dropped gives its claim back.

use std::sync::{Arc, OnceLock};

use actix::{Actor, Context, Handler};
use arc_swap::ArcSwap;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::access::Access;
use super::format::Form;
use super::outbound::{Answer, Method, Outbound, OwnWay, Request};
use super::signer::Signers;
use crate::breaker::BreakerSettings;
use crate::breaker::actor::{Admit, Admitted, BreakerActor, Record};
use crate::breaker::state::Refusal;
use crate::event::envelope::Event;
use crate::event::redact::{Audience, Redactor};
use crate::ground::clock::SharedClock;
use crate::ground::ids::ConsumerId;
use crate::ground::secret::Secret;
use crate::inbox::messages::{Deliver, Deliverer, Ticket};
use crate::metrics::Metrics;
use crate::retry::{AttemptResult, FailureKind};
use crate::supervise::Handle;
use crate::trace::{AttemptKind, Tracer};

/// Where and how one webhook is called; replaced as a whole when it changes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The endpoint.
    pub url: Url,
    /// Sign its deliveries.
    pub signers: Signers,
    /// The form of the body.
    pub form: Form,
    /// Further headers.
    pub headers: HeaderMap,
    /// How long one call may take; none for the hub's limit.
    pub timeout_ms: Option<u64>,
    /// The numbers of its breaker.
    pub breaker: BreakerSettings,
    /// How the endpoint is shown who calls.
    pub access: Access,
    /// What of its way is not that of the others, with the client that goes it, made at the first call.
    pub own: Option<(OwnWay, OnceLock<Result<Outbound, String>>)>,
    /// What must not be kept of an answer.
    pub hide: Vec<Secret>,
}

impl Target {
    /// The client that calls it.
    fn client<'a>(&'a self, common: &'a Outbound) -> Result<&'a Outbound, &'a str> {
        let Some((own, client)) = &self.own else { return Ok(common) };
        let made = client.get_or_init(|| common.with(own).map_err(|error| error.to_string()));
        made.as_ref().map_err(String::as_str)
    }
}

/// What a delivery actor works with.
#[derive(Clone)]
pub struct DeliveryParts {
    /// Whose deliveries.
    pub consumer: ConsumerId,
    /// Traces attempts.
    pub tracer: Tracer,
    /// Where to.
    pub target: Arc<ArcSwap<Target>>,
    /// The endpoint's breaker.
    pub breaker: Handle<BreakerActor>,
    /// The client of the arbiter the actor runs on: its connections belong to that thread.
    pub outbound: Outbound,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// What endpoints may see.
    pub redactor: Redactor,
    /// Time.
    pub clock: SharedClock,
}

/// Calls one webhook.
pub struct DeliveryActor {
    traced: Arc<(ConsumerId, Tracer)>,
    call: Caller,
    metrics: Arc<Metrics>,
    breaker: Handle<BreakerActor>,
}

/// What one call needs.
#[derive(Clone)]
pub struct Caller {
    /// Where to.
    pub target: Arc<ArcSwap<Target>>,
    /// Sends.
    pub outbound: Outbound,
    /// What the endpoint may see.
    pub redactor: Redactor,
    /// Time.
    pub clock: SharedClock,
}

static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

impl Caller {
    /// Writes, signs and posts an event. Its id is the same on every attempt, so that a receiver can tell a repeated
    /// delivery.
    pub async fn call(&self, event: &Arc<Event>, traceparent: Option<&str>) -> Answer {
        let target = self.target.load_full();
        let event = &self.redactor.shown(event, Audience::Webhook);
        let mut headers = target.headers.clone();
        let body = match target.form.write(event, &mut headers).await {
            Ok(body) => body,
            Err(fault) => return Answer::unsent(AttemptResult::failed(FailureKind::Template, fault.to_string())),
        };
        let now = self.clock.now();
        headers.insert(WEBHOOK_TIMESTAMP.clone(), HeaderValue::from(now.0 / 1_000));
        target.signers.sign(&mut headers, &event.meta.id, now, &body);
        let texts = [
            (&WEBHOOK_ID, Some(event.meta.id.as_str())),
            (&TRACEPARENT, traceparent),
            (&TRACESTATE, traceparent.and(event.meta.tracestate.as_deref())),
        ];
        for (name, text) in texts {
            // Ids and trace contexts were checked when the event came in: they have no control characters.
            if let Some(Ok(value)) = text.map(|text| HeaderValue::from_bytes(text.as_bytes())) {
                headers.insert(name.clone(), value);
            }
        }
        let outbound = match target.client(&self.outbound) {
            Ok(outbound) => outbound,
            Err(reason) => return Answer::unsent(AttemptResult::failed(FailureKind::Refused, reason)),
        };
        let post = |headers: HeaderMap, token: Option<Secret>| {
            let (target, clock, body) = (&target, &*self.clock, body.clone());
            async move {
                let Target { url, timeout_ms, .. } = &**target;
                let mut hide = target.hide.clone();
                hide.extend(token);
                let request =
                    Request { method: Method::POST, url, headers, body, timeout_ms: *timeout_ms, hide: &hide };
                outbound.post(request, clock).await
            }
        };
        let refused = |answer: &Answer| answer.status == Some(401);
        target.access.call(outbound, &*self.clock, headers, post, refused).await.unwrap_or_else(Answer::unsent)
    }
}

impl DeliveryActor {
    /// Nothing is sent before work comes.
    #[must_use]
    pub fn new(parts: DeliveryParts) -> Self {
        let DeliveryParts { consumer, tracer, target, breaker, outbound, metrics, redactor, clock } = parts;
        Self {
            traced: Arc::new((consumer, tracer)),
            call: Caller { target, outbound, redactor, clock },
            metrics,
            breaker,
        }
    }
}

impl Actor for DeliveryActor {
    type Context = Context<Self>;
}

impl Handler<Deliver> for DeliveryActor {
    type Result = ();

    fn handle(&mut self, Deliver { work }: Deliver, _: &mut Self::Context) {
        for (ticket, event) in work {
            let (call, breaker, metrics) = (self.call.clone(), self.breaker.clone(), Arc::clone(&self.metrics));
            let traced = Arc::clone(&self.traced);
            actix::spawn(attempt(traced, call, breaker, metrics, ticket, event));
        }
    }
}

async fn attempt(
    traced: Arc<(ConsumerId, Tracer)>,
    call: Caller,
    breaker: Handle<BreakerActor>,
    metrics: Arc<Metrics>,
    ticket: Ticket,
    event: Arc<Event>,
) {
    let permit = match breaker.ask(Admit).await {
        Ok(Admitted::Yes(permit)) => permit,
        Ok(Admitted::No { until, reason }) => {
            metrics.deliveries_deferred.with_label_values(&[reason.as_str()]).inc();
            let now = call.clock.now();
            let until = until.unwrap_or_else(|| now.plus_ms(FORCED_OPEN_REST_MS));
            let until = match reason {
                Refusal::ProbesInFlight => until.min(now.plus_ms(PROBING_REST_MS)),
                Refusal::Open | Refusal::ForcedOpen => until,
            };
            ticket.defer(Some(until));
            return;
        }
        Err(_) => {
            metrics.deliveries_deferred.with_label_values(&["breaker_restarting"]).inc();
            ticket.defer(None);
            return;
        }
    };
    let (consumer, tracer) = &*traced;
    let span = tracer.attempt(&event, consumer, ticket.attempt(), AttemptKind::Call);
    let traceparent = span.traceparent();
    let answer = call.call(&event, traceparent.as_deref()).await;
    let Answer { result, latency_ms, snippet, .. } = answer;
    let (result, snippet) = result.cleared(&call.redactor, Some(&event), snippet);
    tracer.attempted(span, &result);
    breaker.hint(Record { permit, result: result.call_result(), latency_ms });
    ticket.settle(result, u32::try_from(latency_ms).unwrap_or(u32::MAX), snippet);
}

/// A probe mostly ends long before its time: whether it did is looked at this often.
const PROBING_REST_MS: u64 = 1_000;
/// A breaker that was opened by hand is asked again this often; closing it by hand wakes the inbox at once.
const FORCED_OPEN_REST_MS: u64 = 60_000;

impl Deliverer for Handle<DeliveryActor> {
    fn deliver(&self, work: Deliver) {
        self.hint(work);
    }
}

crate::supervised!(DeliveryActor);
