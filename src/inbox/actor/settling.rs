//! Where events go: claims given out with a ticket, answers taken, dead letters and attempt pages written.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::InboxActor;
use super::reading::SHED_REST_MS;
use super::replaying::Fetcher;
use crate::event::envelope::Event;
use crate::event::filter::is_own;
use crate::event::render;
use crate::ground::clock::UnixMs;
use crate::ground::ids::{Epoch, Seq, prefixed};
use crate::ground::limits::{ERROR_CHARS_MAX, clip};
use crate::inbox::demand::Expected;
use crate::inbox::messages::{Answers, Deferred, Deliver, Judged, Outcome, Settled, Ticket, Told};
use crate::inbox::spec::{ConsumerKind, DeadLetterNote, Notice};
use crate::inbox::state::{Claim, Illegal, Settlement};
use crate::retry::{AttemptResult, FailureKind};
use crate::store::StateOp;
use crate::store::records::{AttemptPage, AttemptRecord, DeadLetterRecord};

/// A page of attempts is written at this many records …
const PAGE_RECORDS_MAX: usize = 128;
/// … or bytes.
const PAGE_BYTES_MAX: usize = 32 << 10;
/// Longest rest that an endpoint can ask for with `Retry-After`.
const RETRY_AFTER_MAX_MS: u64 = 60 * 60 * 1_000;
/// Pause before events that could not be read are tried again.
const FETCH_PAUSE_MS: u64 = 1_000;

/// What a failed attempt came to.
struct Failure {
    kind: FailureKind,
    status: Option<u16>,
    message: String,
}

impl InboxActor {
    /// The way back for the tickets of this life, shared by all of them.
    fn answers(&mut self, ctx: &Context<Self>) -> Arc<dyn Answers> {
        Arc::clone(self.answers.get_or_insert_with(|| Arc::new(ctx.address())))
    }

    pub(super) fn expire_leases(&mut self) {
        let now = self.now();
        let expired = self.state.as_ref().map(|state| state.expired_leases(now)).unwrap_or_default();
        // Who pulls has had its wait: the lease.
        let delay_ms = (self.spec.kind == ConsumerKind::Pull).then_some(0);
        for claim in expired {
            let result = AttemptResult::failed(
                FailureKind::LeaseExpired,
                format!("no answer within the lease of {} ms", self.spec.rules.lease_ms),
            );
            let lease_ms = u32::try_from(self.spec.rules.lease_ms).unwrap_or(u32::MAX);
            let Claim { seq, epoch, attempt: _ } = claim;
            let settled = Settled { seq, epoch, result, latency_ms: lease_ms, snippet: String::new() };
            // What the machine has told of is there.
            self.settle_with(settled, delay_ms);
        }
    }

    pub(super) fn give_out(&mut self, ctx: &mut Context<Self>) {
        let deliver = self.parts.deliver.load_full();
        let (Some(state), Some(deliver)) = (self.state.as_mut(), (*deliver).as_ref()) else { return };
        if self.quiesced {
            return;
        }
        // Looked at again by the wake.
        if self.session.is_congested() {
            return;
        }
        let now = self.parts.clock.now();
        let claims = match self.spec.rate_limit {
            None => state.claim_most(now, deliver.room()),
            Some(limit) => {
                let mut rate = self.parts.rate.lock();
                let claims = state.claim_most(now, deliver.room().min(rate.available(&limit, now) as usize));
                rate.take(&limit, now, u32::try_from(claims.len()).unwrap_or(u32::MAX));
                if rate.available(&limit, now) == 0 && state.has_runnable() && state.hold(now).is_none() {
                    state.throttle(rate.take(&limit, now, 1).next_at);
                    self.parts.metrics.deliveries_deferred.with_label_values(&["rate_limited"]).inc();
                }
                claims
            }
        };
        if claims.is_empty() {
            return;
        }
        let mut work = Vec::with_capacity(claims.len());
        let mut absent = Vec::new();
        let answers = self.answers(ctx);
        let lease_until = now.plus_ms(self.spec.rules.lease_ms);
        for claim in claims {
            let expected = deliver.expect();
            match self.bodies.get(&claim.seq) {
                Some(event) => {
                    let ticket = Ticket::new(claim, Arc::clone(&answers)).leased(lease_until, expected);
                    work.push((ticket, Arc::clone(event)));
                }
                None => absent.push((claim, expected)),
            }
        }
        if !work.is_empty() {
            deliver.deliver(Deliver { work });
        }
        if !absent.is_empty() {
            self.fetch(absent, ctx);
        }
    }

    /// Reads the events of claims whose body is not in memory (exception rows), then gives them out.
    fn fetch(&mut self, claims: Vec<(Claim, Option<Expected>)>, ctx: &mut Context<Self>) {
        let letter_of = |claim: &Claim| self.state.as_ref()?.dead_letter_of(claim.seq).map(str::to_owned);
        let wanted = claims.iter().map(|(claim, _)| (claim.seq, letter_of(claim))).collect();
        let fetcher = Fetcher {
            reader: self.parts.reader.clone(),
            state: Arc::clone(&self.parts.state),
            random: Arc::clone(&self.parts.random),
        };
        let fetched = fetcher.fetch(wanted);
        ctx.spawn(fetched.into_actor(self).map(move |fetched, inbox, ctx| match fetched {
            Ok(events) => inbox.fetched(claims, events, ctx),
            Err(error) => {
                tracing::warn!(consumer = %inbox.parts.consumer, %error, "reading events to deliver failed; trying again");
                let until = Some(inbox.now().plus_ms(FETCH_PAUSE_MS));
                for (claim, _) in claims {
                    inbox.defer(Deferred { seq: claim.seq, epoch: claim.epoch, until });
                }
                inbox.turn(ctx);
            }
        }));
    }

    fn fetched(&mut self, claims: Vec<(Claim, Option<Expected>)>, events: Vec<Arc<Event>>, ctx: &mut Context<Self>) {
        let mut events: HashMap<Seq, Arc<Event>> = events.into_iter().map(|event| (event.seq, event)).collect();
        let mut work = Vec::with_capacity(claims.len());
        let answers = self.answers(ctx);
        let now = self.now();
        for (claim, expected) in claims {
            // The lease began before the event was read; a claim that has run out meanwhile is not given out.
            let lease = self.state.as_mut().map(|state| state.lease_for(claim.seq, claim.epoch, now, None));
            let Some(Ok(lease_until)) = lease else { continue };
            match events.remove(&claim.seq) {
                Some(event) => {
                    self.bodies.insert(claim.seq, Arc::clone(&event));
                    let ticket = Ticket::new(claim, Arc::clone(&answers)).leased(lease_until, expected);
                    work.push((ticket, event));
                }
                None => {
                    tracing::warn!(consumer = %self.parts.consumer, seq = claim.seq.0, "retention has dropped an event that was to be tried again");
                    self.parts.totals.gaps.fetch_add(1, Atomic::Relaxed);
                    self.apply(claim.seq, claim.epoch, Settlement::GivenUp, Vec::new());
                }
            }
        }
        if let Some(deliver) = self.parts.deliver.load().as_ref() {
            deliver.deliver(Deliver { work });
        }
        self.turn(ctx);
    }

    /// Takes the answer to a claim: decides what follows, records the attempt, writes what is an exception.
    pub(super) fn settle(&mut self, settled: Settled) {
        self.settle_with(settled, None);
    }

    /// The same, with the wait before the next attempt where that is given. Returns what it led to; nothing has changed
    /// when the claim counts no longer.
    pub(super) fn settle_with(&mut self, settled: Settled, delay_ms: Option<u64>) -> Judged {
        let Settled { seq, epoch, result, latency_ms, snippet } = settled;
        let now = self.now();
        let kind = self.spec.kind.as_str();
        let Some(state) = self.state.as_ref() else { return Judged::Stale };
        // An answer of an old claim has no effect at all (IN-2).
        let (attempts, first_attempt) = match state.claimed(seq, epoch) {
            Ok(history) => history,
            Err(illegal) => {
                self.refuse(illegal);
                return Judged::Stale;
            }
        };
        let attempt = attempts + 1;
        self.parts.metrics.attempts.with_label_values(&[kind, result.as_str()]).inc();
        self.parts.metrics.delivery_seconds.with_label_values(&[kind]).observe(f64::from(latency_ms) / 1e3);
        let event = self.bodies.get(&seq).cloned();
        let (result, snippet) = result.cleared(&self.parts.redactor, event.as_deref(), snippet);
        let outcome = result.as_str().to_owned();
        let (settlement, status, failure) = match result {
            AttemptResult::Delivered { status } => (Settlement::Processed, Some(status), None),
            AttemptResult::Failed { kind, status, message, retry_after_ms } => {
                let failure = Failure { kind, status, message: clip(&message, ERROR_CHARS_MAX).to_owned() };
                (self.after_failure(&failure, attempt, retry_after_ms, delay_ms), status, Some(failure))
            }
        };
        let next_try_at = match &settlement {
            Settlement::Retry { due_at, .. } => Some(*due_at),
            Settlement::Processed | Settlement::GivenUp | Settlement::Deferred => None,
        };
        let judged = match &settlement {
            Settlement::Processed => Judged::Acked,
            Settlement::Retry { due_at, .. } => Judged::Retried { due_at: *due_at },
            Settlement::GivenUp | Settlement::Deferred => Judged::GivenUp,
        };
        let record = AttemptRecord {
            seq,
            event_id: event.as_ref().map(|event| event.meta.id.clone()).unwrap_or_default(),
            attempt,
            at: now,
            latency_ms,
            outcome,
            status,
            error: failure.as_ref().map(|failure| failure.message.clone()),
            snippet,
            next_try_at,
        };
        let mut ops = Vec::new();
        let mut letter = None;
        let failed = failure.as_ref().map(|failure| failure.kind);
        let given_up = settlement == Settlement::GivenUp;
        let tells = match &failure {
            None => Some(true),
            // These are the hub's own doing.
            Some(Failure { kind: FailureKind::Template | FailureKind::Internal, .. }) => None,
            Some(_) => Some(false),
        };
        if let Some(failure) = failure {
            if failure.kind == FailureKind::Gone {
                (self.parts.notice)(&self.parts.consumer, Notice::Gone);
            }
            if given_up
                && self.spec.dead_letters
                && let Some(event) = &event
            {
                let dead = self.dead_letter(event, failure, &record, first_attempt);
                let (id, org, kind) = (dead.id.clone(), dead.org.clone(), dead.error_kind.clone());
                letter = Some(DeadLetterNote { id, org, at: dead.at, kind });
                ops.push(StateOp::PutDeadLetter(Box::new(dead)));
            }
        }
        if !self.apply(seq, epoch, settlement, ops) {
            return Judged::Stale;
        }
        if letter.is_some() {
            self.parts.metrics.dead_letter_made(&self.parts.consumer);
        }
        let outcome = Outcome { event: event.as_ref(), attempt: &record, failure: failed };
        let deliver = self.parts.deliver.load();
        let told = deliver.as_ref().as_ref().map_or(Told::ByInbox, |deliver| deliver.came_of(&outcome));
        if let (Told::ByInbox, Some(failed)) = (told, failed) {
            self.log_failure(&record, failed, given_up);
        }
        drop(deliver);
        self.note(record);
        if event.is_some_and(|event| !is_own(&event.meta.event_type)) {
            self.tell_hub(tells, letter);
        }
        judged
    }

    /// Tells the hub what may be news to the owner. The hub's own events are none (EH-3).
    fn tell_hub(&self, delivered: Option<bool>, given_up: Option<DeadLetterNote>) {
        let (consumer, notice) = (&self.parts.consumer, &self.parts.notice);
        if let (Some(rules), Some(delivered)) = (&self.spec.health, delivered) {
            let change = self.parts.tracked.lock().note(rules, delivered, self.now());
            if let Some(change) = change {
                notice(consumer, Notice::Health(change));
            }
        }
        if let Some(note) = given_up {
            notice(consumer, Notice::DeadLetter(note));
        }
    }

    /// Whether and when a failed delivery is tried again. An endpoint that is too busy rests for as long as it
    /// says, or for a while when it does not say.
    /// `asked_ms` is the wait that the holder of the claim asked for.
    fn after_failure(
        &mut self,
        failure: &Failure,
        attempt: u32,
        retry_after_ms: Option<u64>,
        asked_ms: Option<u64>,
    ) -> Settlement {
        let Failure { kind, status, ref message } = *failure;
        let now = self.now();
        if matches!(status, Some(429 | 503))
            && let Some(state) = self.state.as_mut()
        {
            let rest_ms = retry_after_ms.map_or(self.spec.overload_rest_ms, |rest| rest.min(RETRY_AFTER_MAX_MS));
            if rest_ms > 0 {
                state.suspend(now.plus_ms(rest_ms));
            }
        }
        let retryable = kind.retryable(status);
        let scheduled = || self.spec.retry.next_delay(attempt, self.parts.random.fraction(), retry_after_ms);
        let delay_ms = match asked_ms {
            Some(asked_ms) => Some(asked_ms).filter(|_| attempt < self.spec.retry.attempts_max()),
            None => scheduled(),
        };
        let delay_ms = delay_ms.filter(|_| retryable);
        match delay_ms {
            Some(delay_ms) => Settlement::Retry { due_at: now.plus_ms(delay_ms), error: message.clone() },
            None => Settlement::GivenUp,
        }
    }

    /// Settles and writes. False when the answer came from an old claim.
    fn apply(&mut self, seq: Seq, epoch: Epoch, settlement: Settlement, mut ops: Vec<StateOp>) -> bool {
        let now = self.now();
        let Some(state) = self.state.as_mut() else { return false };
        let totals = &self.parts.totals;
        let counted = match &settlement {
            Settlement::Processed => Some(&totals.processed),
            Settlement::GivenUp => Some(&totals.given_up),
            Settlement::Retry { .. } => Some(&totals.failed),
            Settlement::Deferred => None,
        };
        let kept = settlement == Settlement::Deferred;
        let change = match state.settle(seq, epoch, settlement, now) {
            Ok(change) => change,
            Err(illegal) => {
                self.refuse(illegal);
                return false;
            }
        };
        if let Some(counter) = counted {
            counter.fetch_add(1, Atomic::Relaxed);
        }
        if !kept {
            self.bodies.remove(&seq);
        }
        if let Some(deliver) = self.parts.deliver.load().as_ref() {
            deliver.ended(seq, epoch);
        }
        ops.extend(change.map(|change| change.into_op(&self.parts.consumer)));
        self.session.commit(ops);
        true
    }

    fn refuse(&self, illegal: Illegal) {
        self.parts.metrics.stale_answers.inc();
        tracing::debug!(consumer = %self.parts.consumer, %illegal, "a late answer is refused");
    }

    fn log_failure(&self, record: &AttemptRecord, failed: FailureKind, given_up: bool) {
        let error = record.error.as_deref().unwrap_or_default();
        let kind = failed.as_str();
        if failed == FailureKind::Auth || given_up {
            tracing::error!(consumer = %self.parts.consumer, event = %record.event_id, attempt = record.attempt, status = record.status, r#type = kind, transient = false, error, "delivery given up");
        } else {
            tracing::warn!(consumer = %self.parts.consumer, event = %record.event_id, attempt = record.attempt, status = record.status, r#type = kind, transient = true, error, "delivery failed");
        }
    }

    /// What is kept of an event whose last attempt is in `record`.
    fn dead_letter(
        &self,
        event: &Event,
        failure: Failure,
        record: &AttemptRecord,
        first_attempt: Option<UnixMs>,
    ) -> DeadLetterRecord {
        let Failure { kind, status, message } = failure;
        DeadLetterRecord {
            id: prefixed("dlq", record.at, &*self.parts.random),
            at: record.at,
            consumer: self.parts.consumer.clone(),
            seq: event.seq,
            event_id: event.meta.id.clone(),
            event_type: event.meta.event_type.clone(),
            org: event.meta.org.clone(),
            correlation_id: event.meta.correlation_id.clone(),
            event: render::envelope(event),
            error_message: message,
            error_kind: kind.as_str().to_owned(),
            error_code: status,
            error_detail: record.snippet.clone(),
            attempts: record.attempt,
            first_attempt: first_attempt.or(Some(record.at)),
            last_attempt: Some(record.at),
            closed: None,
            earlier: self.state.as_ref().and_then(|state| state.dead_letter_of(event.seq)).map(str::to_owned),
        }
    }

    /// Keeps an attempt for the next page.
    fn note(&mut self, record: AttemptRecord) {
        self.page_bytes += record.weight();
        self.page.push(record);
        if self.page.len() >= PAGE_RECORDS_MAX || self.page_bytes >= PAGE_BYTES_MAX {
            self.write_page();
        }
    }

    pub(super) fn write_page(&mut self) {
        self.page_bytes = 0;
        if !self.page.is_empty() {
            let page = AttemptPage { attempts: std::mem::take(&mut self.page) };
            self.session.commit(vec![StateOp::Attempts(self.parts.consumer.clone(), page)]);
        }
    }

    pub(super) fn defer(&mut self, Deferred { seq, epoch, until }: Deferred) {
        if self.apply(seq, epoch, Settlement::Deferred, Vec::new()) {
            // Whoever pulled has gone; that says nothing of the next one.
            if until.is_none() && self.spec.kind == ConsumerKind::Pull {
                return;
            }
            let until = until.unwrap_or_else(|| self.now().plus_ms(SHED_REST_MS));
            if let Some(state) = self.state.as_mut() {
                state.suspend(until);
            }
        }
    }
}
