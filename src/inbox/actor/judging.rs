//! What clients of a pull consumer say of their claims: durable before it is answered.

use actix::{Context, Handler, ResponseFuture};
use tokio::sync::oneshot;

use super::InboxActor;
use crate::ground::clock::UnixMs;
use crate::inbox::messages::{ClaimName, Judge, Judged, Settled, Verdict};
use crate::retry::{AttemptResult, FailureKind};
use crate::router::messages::Keep;
use crate::store::StoreError;

/// Nobody asked for so long: the events in memory are given back to the log.
const UNASKED_REST_MS: u64 = 5_000;

impl InboxActor {
    /// Notes since when nobody has asked for anything, of a consumer that is given only what it asks for.
    pub(super) fn note_demand(&mut self) {
        let asked = self.parts.deliver.load().as_ref().as_ref().is_none_or(|deliver| deliver.room() > 0);
        let out = self.state.as_ref().is_some_and(|state| state.counts().in_flight > 0);
        if asked || out {
            self.unasked_since = None;
        } else {
            self.unasked_since.get_or_insert(self.parts.clock.now());
        }
    }

    /// Whether nobody has asked for long.
    pub(super) fn is_unasked(&self) -> bool {
        self.unasked_since.is_some_and(|since| self.now().since_ms(since) >= UNASKED_REST_MS)
    }

    /// When what is in memory is given back to the log unless somebody asks before.
    pub(super) fn rest_at(&self) -> Option<UnixMs> {
        let holds = !self.pending.is_empty() || self.state.as_ref().is_some_and(|state| !state.window_is_empty());
        let at = self.unasked_since.filter(|_| holds)?.plus_ms(UNASKED_REST_MS);
        Some(at).filter(|at| *at > self.now())
    }

    fn judge(&mut self, claim: ClaimName, verdict: &Verdict) -> Judged {
        let ClaimName { seq, epoch, claimed_at } = claim;
        let now = self.now();
        let failed = |kind, reason: &Option<String>, otherwise: &str| {
            AttemptResult::failed(kind, reason.as_deref().unwrap_or(otherwise))
        };
        let (result, delay_ms) = match verdict {
            Verdict::Extend { lease_ms } => {
                let leased = self.state.as_mut().map(|state| state.lease_for(seq, epoch, now, *lease_ms));
                return match leased {
                    Some(Ok(lease_until)) => Judged::Extended { lease_until },
                    Some(Err(_)) | None => Judged::Stale,
                };
            }
            Verdict::Ack => (AttemptResult::Delivered { status: 200 }, None),
            Verdict::Nak { delay_ms, reason } => {
                (failed(FailureKind::Nak, reason, "the consumer could not process it now"), *delay_ms)
            }
            Verdict::Term { reason } => (failed(FailureKind::Rejected, reason, "the consumer has given it up"), None),
        };
        let latency_ms = u32::try_from(now.since_ms(claimed_at)).unwrap_or(u32::MAX);
        self.settle_with(Settled { seq, epoch, result, latency_ms, snippet: String::new() }, delay_ms)
    }
}

impl Handler<Judge> for InboxActor {
    type Result = ResponseFuture<Result<Vec<Judged>, StoreError>>;

    fn handle(&mut self, Judge { claims, verdict }: Judge, ctx: &mut Context<Self>) -> Self::Result {
        // A claim that has run out is no longer its holder's, though no timer has looked yet.
        self.expire_leases();
        let judged: Vec<Judged> = claims.into_iter().map(|claim| self.judge(claim, &verdict)).collect();
        self.turn(ctx);
        let moved = judged.iter().any(|one| !matches!(one, Judged::Stale | Judged::Extended { .. }));
        let Some(state) = self.state.as_ref().filter(|_| moved) else {
            return Box::pin(std::future::ready(Ok(judged)));
        };
        // Rows and dead letters were handed in before this, and it carries them to the disk (IN-5).
        let (done, kept) = oneshot::channel();
        let (consumer, generation) = (self.parts.consumer.clone(), self.session.generation());
        self.parts.router.get().hint(Keep { consumer, generation, position: state.position(), done });
        Box::pin(async move { kept.await.unwrap_or(Err(StoreError::Unavailable)).map(|()| judged) })
    }
}
