//! The delivery actor: gives the claims of one webhook to its endpoint (WHK-2, WHK-5).
//!
//! Each delivery is a task of its own: it asks the breaker, signs, posts, and answers the claim. The actor holds
//! nothing that a restart would lose: a ticket that is dropped gives its claim back.

use std::sync::Arc;

use actix::{Actor, Context, Handler};
use arc_swap::ArcSwap;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::outbound::{Answer, Outbound, Post};
use super::signer::Signers;
use crate::breaker::BreakerSettings;
use crate::breaker::actor::{Admit, Admitted, BreakerActor, Record};
use crate::breaker::state::Refusal;
use crate::event::envelope::{BodyFormat, Event};
use crate::ground::clock::SharedClock;
use crate::inbox::messages::{Deliver, Deliverer, Ticket};
use crate::metrics::Metrics;
use crate::supervise::Handle;

/// Where and how one webhook is called; replaced as a whole when it changes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The endpoint.
    pub url: Url,
    /// Sign its deliveries.
    pub signers: Signers,
    /// The form of the body.
    pub format: BodyFormat,
    /// Further headers.
    pub headers: HeaderMap,
    /// How long one call may take; none for the hub's limit.
    pub timeout_ms: Option<u64>,
    /// The numbers of its breaker.
    pub breaker: BreakerSettings,
}

/// What a delivery actor works with.
#[derive(Clone)]
pub struct DeliveryParts {
    /// Where to.
    pub target: Arc<ArcSwap<Target>>,
    /// The endpoint's breaker.
    pub breaker: Handle<BreakerActor>,
    /// The client of the arbiter the actor runs on: its connections belong to that thread.
    pub outbound: Outbound,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
}

/// Calls one webhook.
pub struct DeliveryActor {
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
    /// Time.
    pub clock: SharedClock,
}

static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Caller {
    /// Signs and posts a body. `id` is the same on every attempt, so that a receiver can tell a repeated delivery.
    pub async fn call(&self, id: &str, traceparent: Option<&str>, body: impl FnOnce(BodyFormat) -> Bytes) -> Answer {
        let target = self.target.load_full();
        let body = body(target.format);
        let now = self.clock.now();
        let mut headers = target.headers.clone();
        headers.insert(CONTENT_TYPE, JSON.clone());
        headers.insert(WEBHOOK_TIMESTAMP.clone(), HeaderValue::from(now.0 / 1_000));
        target.signers.sign(&mut headers, id, now, &body);
        let texts = [(&WEBHOOK_ID, Some(id)), (&TRACEPARENT, traceparent)];
        for (name, text) in texts {
            // Ids and trace contexts were checked when the event came in: they have no control characters.
            if let Some(Ok(value)) = text.map(|text| HeaderValue::from_bytes(text.as_bytes())) {
                headers.insert(name.clone(), value);
            }
        }
        let timeout_ms = target.timeout_ms;
        self.outbound.post(Post { url: &target.url, headers, body, timeout_ms }, &*self.clock).await
    }
}

impl DeliveryActor {
    /// Nothing is sent before work comes.
    #[must_use]
    pub fn new(parts: DeliveryParts) -> Self {
        let DeliveryParts { target, breaker, outbound, metrics, clock } = parts;
        Self { call: Caller { target, outbound, clock }, metrics, breaker }
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
            actix::spawn(attempt(call, breaker, metrics, ticket, event));
        }
    }
}

async fn attempt(
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
    let answer = call.call(&event.meta.id, event.meta.traceparent.as_deref(), |format| event.rendered(format)).await;
    let Answer { result, latency_ms, snippet, .. } = answer;
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
