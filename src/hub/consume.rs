//! Taking deliveries of a pull consumer and answering them: what long polls, server-sent events and WebSockets share.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Hub, store_problem};
use crate::event::envelope::BodyFormat;
use crate::event::redact::Audience;
use crate::event::render;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::ConsumerId;
use crate::inbox::messages::{ClaimName, Judge, Judged, Verdict, Wake};
use crate::pull::actor::{Drained, Enter, Grant, Held, Leave, Outlet};
use crate::pull::state::{TakerId, Taking};
use crate::pull::{Client, ClientKind, Handed, PullActor, PullRecord, PullService, Token};
use crate::router::Inboxes as _;
use crate::supervise::{ActorKind, Handle, supervise};

/// Most deliveries of one pull, and unanswered ones of one stream.
pub const PULL_MAX: usize = 256;
/// Most tokens of one request.
pub const TOKENS_MAX: usize = 256;

/// How deliveries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliveryForm {
    /// With the envelope as it stands in the log.
    #[default]
    Envelope,
    /// With the body that a webhook would get.
    Standard,
}

/// A client of one pull consumer, there as long as this lives.
#[derive(Debug)]
pub struct Consuming {
    hub: Hub,
    id: ConsumerId,
    service: Arc<PullService>,
    _client: Client,
}

/// A wait or stream; gone from the actor when it is dropped.
#[derive(Debug)]
struct Place {
    actor: Handle<PullActor>,
    id: TakerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.actor.hint(Leave(self.id));
    }
}

/// Deliveries as they come.
#[derive(Debug)]
pub struct Deliveries {
    place: Place,
    held: Arc<Held>,
    coming: mpsc::UnboundedReceiver<Handed>,
}

impl Deliveries {
    /// The next delivery; none when the consumer is gone or its actor is being restarted. Cancel-safe.
    pub async fn next(&mut self) -> Option<Handed> {
        let handed = self.coming.recv().await?;
        if self.held.take(handed.event.weight()) {
            self.place.actor.hint(Drained(self.place.id));
        }
        Some(handed)
    }

    /// Asks for so many more.
    pub fn grant(&self, more: usize) {
        self.place.actor.hint(Grant { id: self.place.id, more });
    }
}

impl Hub {
    /// Nobody waits any more, and streams end: the hub is about to stop.
    pub fn close_feeds(&self) {
        self.inner.pulls.closing.send_replace(true);
    }

    /// Whether waits and streams end now.
    #[must_use]
    pub fn feeds_are_closing(&self) -> bool {
        *self.inner.pulls.closing.borrow()
    }

    /// Ends when [`Hub::close_feeds`] was called.
    pub async fn feeds_closed(&self) {
        let mut closing = self.inner.pulls.closing.subscribe();
        // The sender lives as long as the hub.
        closing.wait_for(|closing| *closing).await.ok();
    }

    /// Lets a client in to a consumer.
    ///
    /// # Errors
    /// When too many are there, or the hub is stopping.
    pub fn consume(&self, record: &PullRecord, kind: ClientKind) -> Result<Consuming, Problem> {
        if self.feeds_are_closing() {
            return Err(Problem::new(ProblemKind::Overloaded, "the hub is stopping").retry_after(5));
        }
        let id = ConsumerId::new(&record.id);
        let found = self.pull_service(&id);
        let (_, service) = found.ok_or_else(|| Problem::not_found("consumer", &record.settings.name))?;
        let bounds = &self.inner.config.pull;
        let gauge = self.inner.metrics.pull_clients.with_label_values(&[kind.as_str()]);
        let most = (bounds.consumer_clients_max, bounds.clients_max);
        let client = Client::enter(&service, kind, &self.inner.pulls.clients, most, gauge)
            .map_err(|bound| Problem::new(ProblemKind::Overloaded, bound))?;
        service.touch(self.inner.clock.now());
        Ok(Consuming { hub: self.clone(), id, service, _client: client })
    }

    fn pull_actor(&self, id: &ConsumerId, service: &Arc<PullService>) -> Handle<PullActor> {
        service.actor_or_make(|| {
            let inner = &self.inner;
            let (arbiter, _) = inner.directory.lane(id);
            let (directory, of, demand) = (Arc::downgrade(&inner.directory), id.clone(), service.demand());
            let nudge = Arc::new(move || {
                let inbox = directory.upgrade().and_then(|directory| directory.running(&of));
                if let Some(inbox) = inbox {
                    inbox.hint(Wake);
                }
            });
            let idle_after = std::time::Duration::from_millis(inner.config.inbox.idle_ms);
            supervise(arbiter, ActorKind::Pull, &inner.health, move || {
                PullActor::new(Arc::clone(&demand), Arc::clone(&nudge) as _, idle_after)
            })
        })
    }

    /// Answers deliveries of a consumer; one result a token, in their order. An answer is on disk when this returns, so
    /// that not even a crash gives the event out again.
    ///
    /// # Errors
    /// When a text is no token; [`ProblemKind::StaleToken`] when none of them counts; else when the store fails, and then
    /// it is unknown what counted.
    pub async fn answer_deliveries(
        &self,
        record: &PullRecord,
        tokens: &[String],
        verdict: Verdict,
    ) -> Result<Vec<Judged>, Problem> {
        let id = ConsumerId::new(&record.id);
        if let Some((_, service)) = self.pull_service(&id) {
            service.touch(self.inner.clock.now());
        }
        let mut claims: Vec<Option<ClaimName>> = Vec::with_capacity(tokens.len());
        for (at, text) in tokens.iter().enumerate() {
            match self.inner.pulls.tokens.read(&id, text) {
                Some(Token::Claim(claim)) => claims.push(Some(claim)),
                Some(Token::Foreign) => claims.push(None),
                None => {
                    let field = format!("tokens[{at}]");
                    return Err(Problem::field(field, "a token as deliveries have it", "another text"));
                }
            }
        }
        let known: Vec<ClaimName> = claims.iter().flatten().copied().collect();
        let mut judged = match self.inner.directory.running(&id).filter(|_| !known.is_empty()) {
            Some(inbox) => {
                let unknown = || {
                    let text = "it is unknown what counted; send it again, and take stale tokens for answered";
                    Problem::new(ProblemKind::Overloaded, text)
                };
                let answer = inbox.ask(Judge { claims: known, verdict }).await.map_err(|_| unknown())?;
                answer.map_err(|error| store_problem(&error))?.into_iter()
            }
            None => Vec::new().into_iter(),
        };
        let of_each = |claim: Option<ClaimName>| claim.and_then(|_| judged.next()).unwrap_or(Judged::Stale);
        let results: Vec<Judged> = claims.into_iter().map(of_each).collect();
        if results.iter().all(|one| *one == Judged::Stale) {
            let text = "every delivery was answered before, ran out of its lease, or was given out before a restart";
            return Err(Problem::new(ProblemKind::StaleToken, text));
        }
        Ok(results)
    }
}

impl Consuming {
    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Waits for up to `most` deliveries, until `timeout` ends. Dropping the future withdraws the wait; what was on its
    /// way is given back.
    pub async fn poll(&self, most: usize, timeout: impl Future<Output = ()>) -> Vec<Handed> {
        let mut timeout = std::pin::pin!(timeout);
        loop {
            let actor = self.hub.pull_actor(&self.id, &self.service);
            let (reply, mut answer) = oneshot::channel();
            let id = self.service.taker();
            actor.hint(Enter { id, taking: Taking::Once, wants: most, outlet: Outlet::Poll(reply) });
            let _place = Place { actor, id };
            let came = tokio::select! {
                biased;
                came = &mut answer => came.ok(),
                () = &mut timeout => return answer.try_recv().unwrap_or_default(),
                () = self.hub.feeds_closed() => return answer.try_recv().unwrap_or_default(),
            };
            match came {
                Some(handed) => return handed,
                // The consumer was deleted, or its actor is being restarted or has just ended.
                None if self.hub.pull_service(&self.id).is_none() => return Vec::new(),
                None => {
                    tokio::select! {
                        () = self.hub.clock().sleep(RESTART_PAUSE) => {}
                        () = &mut timeout => return Vec::new(),
                    }
                }
            }
        }
    }

    /// Deliveries as they come: `wants` at first.
    #[must_use]
    pub fn stream(&self, taking: Taking, wants: usize) -> Deliveries {
        let actor = self.hub.pull_actor(&self.id, &self.service);
        let (out, coming) = mpsc::unbounded_channel();
        let held = Arc::new(Held::default());
        let id = self.service.taker();
        actor.hint(Enter { id, taking, wants, outlet: Outlet::Stream(out, Arc::clone(&held)) });
        Deliveries { place: Place { actor, id }, held, coming }
    }

    /// A delivery as its client sees it, as JSON text.
    #[must_use]
    pub fn render(&self, handed: &Handed, form: DeliveryForm) -> Vec<u8> {
        let Handed { ticket, event } = handed;
        let event = &self.hub.inner.redactor.shown(event, Audience::Webhook);
        let (claim, lease_until) = (ticket.claim(), ticket.lease_until());
        let now = self.hub.clock().now();
        let name = ClaimName { seq: claim.seq, epoch: claim.epoch, claimed_at: now };
        let token = self.hub.inner.pulls.tokens.token(&self.id, name);
        let mut out = Vec::with_capacity(event.body.len() + 512);
        out.extend_from_slice(b"{\"event\":");
        match form {
            DeliveryForm::Envelope => out.extend_from_slice(&render::envelope(event)),
            DeliveryForm::Standard => out.extend_from_slice(&event.rendered(BodyFormat::Standard)),
        }
        // A trace context was checked when the event came in: it has no character that JSON escapes.
        if let (DeliveryForm::Standard, Some(traceparent)) = (form, &event.meta.traceparent) {
            out.extend_from_slice(format!(",\"traceparent\":\"{traceparent}\"").as_bytes());
            if let Some(tracestate) = &event.meta.tracestate {
                out.extend_from_slice(
                    format!(",\"tracestate\":{}", serde_json::Value::from(tracestate.as_str())).as_bytes(),
                );
            }
        }
        let rest = format!(
            ",\"token\":\"{token}\",\"attempt\":{},\"lease_until\":\"{}\"}}",
            claim.attempt,
            lease_until.to_rfc3339()
        );
        out.extend_from_slice(rest.as_bytes());
        out
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.service.touch(self.hub.clock().now());
    }
}

/// Pause before a wait at an actor that has just ended begins again.
const RESTART_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
