//! The inbox actor: performs what the machine in [`super::state`] decides.
//!
//! It *follows* while the router's offers fit its window, and is *behind* otherwise: then it has detached from the
//! router and reads the log itself, until it is close enough to attach again. Its position is the router's to keep
//! (`CK-1`): it reports, the router writes.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::time::Duration;

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use arc_swap::ArcSwap;

use super::catch_up::{Chunk, LogReader, blocking};
use super::ledger::{Ledger, Session};
use super::messages::{
    Answers, Deferred, Deliver, DelivererSlot, Detached, InboxView, Inspect, Offer, Publish, Quiesce, Reconfigure,
    Renew, Settled, Ticket, Wake,
};
use super::state::{Claim, Hold, Illegal, InboxRules, InboxState, Offered, RowChange, Settlement};
use crate::event::envelope::Event;
use crate::event::filter::EventFilter;
use crate::event::render;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::ids::{ConsumerId, Seq, prefixed};
use crate::ground::limits::{ERROR_CHARS_MAX, clip};
use crate::ground::random::SharedRandom;
use crate::metrics::Metrics;
use crate::retry::{AttemptResult, FailureKind, RetryPolicy};
use crate::router::RouterLink;
use crate::router::messages::{Attach, Attached, Attachment, Detach, Positioned, Retire};
use crate::store::records::{AttemptPage, AttemptRecord, DeadLetterRecord, RowRecord};
use crate::store::{ConsumerState, Position, StateOp, StoreError};

/// A page of attempts is written at this many records …
const PAGE_RECORDS_MAX: usize = 128;
/// … or bytes.
const PAGE_BYTES_MAX: usize = 32 << 10;
/// A rest shorter than this does not empty the window.
const SHED_REST_MS: u64 = 1_000;
/// Pause before a start that failed (store or router away) is tried again.
const START_PAUSE: Duration = Duration::from_millis(100);
/// Pause while so many changes wait to be written that nothing new is begun.
const CONGESTED_PAUSE_MS: u64 = 100;

/// What kind of consumer it is; the label of its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerKind {
    /// An HTTP endpoint.
    Webhook,
    /// In-process code.
    Handler,
}

impl ConsumerKind {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Handler => "handler",
        }
    }
}

/// What a consumer has asked for; replaced as a whole when it changes.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    /// What it is.
    pub kind: ConsumerKind,
    /// What it gets.
    pub filter: Arc<EventFilter>,
    /// Its bounds and order.
    pub rules: InboxRules,
    /// When it is tried again.
    pub retry: RetryPolicy,
    /// Whether it gets anything now.
    pub paused: bool,
    /// Whether what is given up becomes a dead letter.
    pub dead_letters: bool,
    /// Nothing at or before this is for it: where the log stood when it was made.
    pub from: Seq,
}

/// Totals of a consumer since the process began; they outlive its actors.
#[derive(Debug, Default)]
pub struct Totals {
    /// Deliveries that succeeded.
    pub processed: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Deliveries given up.
    pub given_up: AtomicU64,
    /// Positions that retention had dropped before they were read.
    pub gaps: AtomicU64,
}

/// What the hub must do about a consumer besides its own inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The endpoint said it is gone: disable the webhook.
    Gone,
}

/// Takes what the hub must do about a consumer.
pub type NoticeTaker = Arc<dyn Fn(&ConsumerId, Notice) + Send + Sync>;

/// What an inbox works with.
#[derive(Clone)]
pub struct InboxParts {
    /// Whose inbox.
    pub consumer: ConsumerId,
    /// What it asked for.
    pub spec: Arc<ArcSwap<ConsumerSpec>>,
    /// Its totals.
    pub totals: Arc<Totals>,
    /// Reads the log.
    pub reader: LogReader,
    /// Rows at the start.
    pub state: Arc<dyn ConsumerState>,
    /// Where changes go.
    pub ledger: Ledger,
    /// The router.
    pub router: RouterLink,
    /// Who takes the deliveries; none while an in-process handler is not registered.
    pub deliver: Arc<DelivererSlot>,
    /// Called with what the hub must do.
    pub notice: NoticeTaker,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Chance.
    pub random: SharedRandom,
    /// How often positions are reported and attempts written.
    pub report_every: Duration,
    /// Idle for this long, the inbox ends.
    pub idle_after: Duration,
}

/// One consumer's deliveries.
pub struct InboxActor {
    parts: InboxParts,
    spec: Arc<ConsumerSpec>,
    session: Session,
    /// None until rows and position are there.
    state: Option<InboxState>,
    bodies: HashMap<Seq, Arc<Event>>,
    /// Matches that were read or offered and do not fit the window yet, in order.
    pending: VecDeque<Arc<Event>>,
    /// Everything up to here is in the state or in `pending`.
    looked_at: Seq,
    /// Offers that came while the log is read up to where they begin.
    later: VecDeque<Arc<Event>>,
    /// Whether the router offers; then offers begin after `boundary`.
    attached: bool,
    boundary: Seq,
    reading: bool,
    attaching: bool,
    page: Vec<AttemptRecord>,
    page_bytes: usize,
    report_planned: bool,
    idle_planned: bool,
    wake: Option<(UnixMs, SpawnHandle)>,
    idle_since: Option<UnixMs>,
    /// The hub is stopping: nothing more is given out.
    quiesced: bool,
    /// How tickets answer; made at the first claim.
    answers: Option<Arc<dyn Answers>>,
}

impl InboxActor {
    /// An inbox that reads its state when it starts.
    #[must_use]
    pub fn new(parts: InboxParts) -> Self {
        parts.metrics.inboxes.inc();
        let spec = parts.spec.load_full();
        let session = parts.ledger.session();
        Self {
            parts,
            spec,
            session,
            state: None,
            bodies: HashMap::new(),
            pending: VecDeque::new(),
            looked_at: Seq::ZERO,
            later: VecDeque::new(),
            attached: false,
            boundary: Seq::ZERO,
            reading: false,
            attaching: false,
            page: Vec::new(),
            page_bytes: 0,
            report_planned: false,
            idle_planned: false,
            wake: None,
            idle_since: None,
            quiesced: false,
            answers: None,
        }
    }

    /// The way back for the tickets of this life, shared by all of them.
    fn answers(&mut self, ctx: &Context<Self>) -> Arc<dyn Answers> {
        Arc::clone(self.answers.get_or_insert_with(|| Arc::new(ctx.address())))
    }

    fn now(&self) -> UnixMs {
        self.parts.clock.now()
    }

    /// Reads rows, then attaches. The mailbox waits meanwhile.
    ///
    /// An earlier life (a panic, an idle end) may have handed in rows that are still on their way to the store, and the
    /// router's position counts on them: so what waits is written first, then read.
    fn load(&mut self, ctx: &mut Context<Self>) {
        self.session = self.parts.ledger.session();
        let (state, consumer) = (Arc::clone(&self.parts.state), self.parts.consumer.clone());
        let (router, session) = (self.parts.router.clone(), self.session.clone());
        let loading = async move {
            let of = consumer.clone();
            // The last life's rows may still be on their way; its position, which the router holds, has passed them.
            session.drained().await?;
            let rows = blocking(move || state.rows(&of)).await?;
            let attach = Attach { consumer, generation: session.generation(), position: None };
            let attached = router.get().ask(attach).await.map_err(|_| StoreError::Unavailable)?;
            Ok::<_, StoreError>((rows, attached))
        };
        ctx.wait(loading.into_actor(self).map(|loaded, inbox, ctx| match loaded {
            Ok((rows, Attachment::Attached(attached))) => inbox.begin(rows, attached, ctx),
            Ok((_, Attachment::Unknown)) => {
                tracing::debug!(consumer = %inbox.parts.consumer, "the consumer is gone; its inbox ends");
                actix::ActorContext::stop(ctx);
            }
            Ok((_, Attachment::NotYet)) => {
                ctx.run_later(START_PAUSE, Self::load);
            }
            Err(error) => {
                tracing::warn!(consumer = %inbox.parts.consumer, %error, "the inbox cannot start yet");
                ctx.run_later(START_PAUSE, Self::load);
            }
        }));
    }

    fn begin(&mut self, rows: Vec<(Seq, RowRecord)>, attached: Attached, ctx: &mut Context<Self>) {
        let Attached { position, boundary } = attached;
        // Larger than any epoch of an earlier life: time has moved on, and a claim takes longer than a nanosecond.
        let first_epoch = self.now().0 << 20;
        self.looked_at = position.cursor;
        let state = InboxState::restore(self.spec.rules, position, rows, first_epoch, self.spec.paused);
        self.state = Some(state);
        self.attached = true;
        self.boundary = boundary;
        self.turn(ctx);
    }

    /// One turn: take in what fits, read on, give out what can be given out, plan when to look again.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.state.is_none() {
            return;
        }
        self.rest_if_held();
        self.fill(ctx);
        self.expire_leases(ctx);
        self.give_out(ctx);
        self.plan_wake(ctx);
        self.plan_report(ctx);
    }

    /// A consumer that rests for long holds no events in memory: it detaches and reads again later.
    fn rest_if_held(&mut self) {
        let now = self.now();
        let Some(state) = self.state.as_mut() else { return };
        let long = match state.hold(now) {
            Some(Hold::Paused) => true,
            Some(Hold::Suspended { until }) => until.since_ms(now) > SHED_REST_MS,
            None => false,
        };
        if !long || state.counts().in_flight > 0 {
            return;
        }
        let held = !self.pending.is_empty() || !self.later.is_empty() || !state.window_is_empty();
        if held {
            state.shed();
            self.looked_at = state.seen();
            self.bodies.clear();
            self.pending.clear();
            self.later.clear();
            self.detach();
        }
    }

    fn is_held(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.hold(self.now()).is_some())
    }

    fn detach(&mut self) {
        self.later.clear();
        self.attached = false;
        if let Some(state) = &self.state {
            let position = state.position();
            let (consumer, generation) = (self.parts.consumer.clone(), self.session.generation());
            self.parts.router.get().hint(Detach { consumer, generation, position });
        }
    }

    /// Whether part of the log up to the router's place is still to be read here.
    fn is_behind(&self) -> bool {
        !self.attached || self.looked_at < self.boundary
    }

    /// Moves matches into the window, and reads on when there is room.
    fn fill(&mut self, ctx: &mut Context<Self>) {
        self.take_pending();
        if !self.is_behind() && !self.later.is_empty() {
            while let Some(event) = self.later.pop_front() {
                self.looked_at = self.looked_at.max(event.seq);
                self.pending.push_back(event);
            }
            self.take_pending();
        }
        if self.is_behind() && !self.is_held() {
            self.read_on(ctx);
        }
    }

    fn take_pending(&mut self) {
        let mut rows = Vec::new();
        let Some(state) = self.state.as_mut() else { return };
        let mut parked = false;
        while let Some(event) = self.pending.front() {
            match state.offer(event.seq, lane_key(event), event.weight()) {
                Offered::Taken => {
                    self.bodies.insert(event.seq, Arc::clone(event));
                    self.pending.pop_front();
                }
                Offered::Known => {
                    self.pending.pop_front();
                }
                Offered::Full if parked => break,
                Offered::Full => {
                    parked = true;
                    rows.extend(state.park_blocked());
                }
            }
        }
        if self.pending.is_empty() {
            state.passed(self.looked_at);
        }
        self.write_rows(rows);
    }

    /// Writes row changes; a parked event leaves memory.
    fn write_rows(&mut self, rows: Vec<RowChange>) {
        let ops = rows
            .into_iter()
            .map(|change| {
                if let RowChange::Put(seq, _) = &change {
                    self.bodies.remove(seq);
                }
                change.into_op(&self.parts.consumer)
            })
            .collect();
        self.session.commit(ops);
    }

    fn read_on(&mut self, ctx: &mut Context<Self>) {
        if self.reading || self.attaching || !self.pending.is_empty() || self.session.is_congested() {
            return;
        }
        if !self.state.as_ref().is_some_and(InboxState::wants_more) {
            // What waits behind a failing key must not keep the other keys from being read.
            let rows = self.state.as_mut().map(InboxState::park_blocked).unwrap_or_default();
            let parked = !rows.is_empty();
            self.write_rows(rows);
            if !parked || !self.state.as_ref().is_some_and(InboxState::wants_more) {
                return;
            }
        }
        let upto = if self.attached { self.boundary } else { Seq(u64::MAX) };
        let from = self.looked_at.next();
        if !self.attached && from > self.parts.reader.head() {
            self.attach(ctx);
            return;
        }
        self.reading = true;
        let (reader, filter) = (self.parts.reader.clone(), Arc::clone(&self.spec.filter));
        let read = async move { reader.read(filter, from, upto).await };
        ctx.spawn(read.into_actor(self).map(move |read, inbox, ctx| {
            inbox.reading = false;
            match read {
                Ok(chunk) => inbox.take_chunk(from, chunk, ctx),
                Err(error) => {
                    tracing::warn!(consumer = %inbox.parts.consumer, %error, "reading the log failed; trying again");
                    ctx.run_later(START_PAUSE, Self::turn);
                }
            }
        }));
    }

    fn take_chunk(&mut self, from: Seq, chunk: Chunk, ctx: &mut Context<Self>) {
        // The place was given up while this was read (the consumer went to rest): it is read again later.
        if from != self.looked_at.next() {
            self.turn(ctx);
            return;
        }
        if let Some(gap_to) = chunk.gap_to {
            let lost = gap_to.0.saturating_sub(from.0);
            self.parts.totals.gaps.fetch_add(lost, Atomic::Relaxed);
            tracing::warn!(consumer = %self.parts.consumer, from = from.0, to = gap_to.prev().0, "retention has dropped events before this consumer read them");
        }
        self.looked_at = self.looked_at.max(chunk.upto);
        self.pending.extend(chunk.events);
        let left = self.parts.reader.head().0.saturating_sub(self.looked_at.0);
        let near = left <= self.spec.rules.window_events as u64 / 2;
        if !self.attached && near && !self.is_held() {
            self.attach(ctx);
        }
        self.turn(ctx);
    }

    /// Asks the router to offer again what comes after its place; what lies before that is read here. The mailbox waits
    /// for the answer: offers that come behind it must not be handled before it.
    fn attach(&mut self, ctx: &mut Context<Self>) {
        if self.attaching {
            return;
        }
        self.attaching = true;
        let router = self.parts.router.clone();
        let consumer = self.parts.consumer.clone();
        let position = self.state.as_ref().map(InboxState::position);
        let generation = self.session.generation();
        let asked = async move { router.get().ask(Attach { consumer, generation, position }).await };
        ctx.wait(asked.into_actor(self).map(|answer, inbox, ctx| {
            inbox.attaching = false;
            match answer {
                Ok(Attachment::Attached(Attached { position: _, boundary })) => {
                    inbox.attached = true;
                    inbox.boundary = boundary;
                    inbox.turn(ctx);
                }
                Ok(Attachment::Unknown) => actix::ActorContext::stop(ctx),
                Ok(Attachment::NotYet) | Err(_) => {
                    ctx.run_later(START_PAUSE, Self::turn);
                }
            }
        }));
    }

    fn expire_leases(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let expired = self.state.as_ref().map(|state| state.expired_leases(now)).unwrap_or_default();
        for claim in expired {
            let result = AttemptResult::failed(
                FailureKind::LeaseExpired,
                format!("no answer within the lease of {} ms", self.spec.rules.lease_ms),
            );
            let lease_ms = u32::try_from(self.spec.rules.lease_ms).unwrap_or(u32::MAX);
            self.settle(
                Settled { seq: claim.seq, epoch: claim.epoch, result, latency_ms: lease_ms, snippet: String::new() },
                ctx,
            );
        }
    }

    fn give_out(&mut self, ctx: &mut Context<Self>) {
        let deliver = self.parts.deliver.load_full();
        let (Some(state), Some(deliver)) = (self.state.as_mut(), (*deliver).as_ref()) else { return };
        if self.quiesced {
            return;
        }
        // Looked at again by the wake.
        if self.session.is_congested() {
            return;
        }
        let claims = state.claim(self.parts.clock.now());
        if claims.is_empty() {
            return;
        }
        let mut work = Vec::with_capacity(claims.len());
        let mut absent = Vec::new();
        let answers = self.answers(ctx);
        for claim in claims {
            match self.bodies.get(&claim.seq) {
                Some(event) => work.push((Ticket::new(claim, Arc::clone(&answers)), Arc::clone(event))),
                None => absent.push(claim),
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
    fn fetch(&mut self, claims: Vec<Claim>, ctx: &mut Context<Self>) {
        let reader = self.parts.reader.clone();
        let seqs = claims.iter().map(|claim| claim.seq).collect();
        let fetched = async move { reader.fetch(seqs).await };
        ctx.spawn(fetched.into_actor(self).map(move |fetched, inbox, ctx| match fetched {
            Ok(events) => inbox.fetched(claims, events, ctx),
            Err(error) => {
                tracing::warn!(consumer = %inbox.parts.consumer, %error, "reading events to deliver failed; trying again");
                let until = Some(inbox.now().plus_ms(1_000));
                for claim in claims {
                    inbox.defer(Deferred { seq: claim.seq, epoch: claim.epoch, until });
                }
                inbox.turn(ctx);
            }
        }));
    }

    fn fetched(&mut self, claims: Vec<Claim>, events: Vec<Arc<Event>>, ctx: &mut Context<Self>) {
        let mut events: HashMap<Seq, Arc<Event>> = events.into_iter().map(|event| (event.seq, event)).collect();
        let mut work = Vec::with_capacity(claims.len());
        let answers = self.answers(ctx);
        let now = self.now();
        for claim in claims {
            // The lease began before the event was read; a claim that has run out meanwhile is not given out.
            if self.state.as_mut().is_none_or(|state| state.renew(claim.seq, claim.epoch, now).is_err()) {
                continue;
            }
            match events.remove(&claim.seq) {
                Some(event) => {
                    self.bodies.insert(claim.seq, Arc::clone(&event));
                    work.push((Ticket::new(claim, Arc::clone(&answers)), event));
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
    fn settle(&mut self, settled: Settled, _ctx: &mut Context<Self>) {
        let Settled { seq, epoch, result, latency_ms, snippet } = settled;
        let now = self.now();
        let kind = self.spec.kind.as_str();
        let Some(state) = self.state.as_mut() else { return };
        // An answer of an old claim has no effect at all (IN-2).
        let (attempts, first_attempt) = match state.claimed(seq, epoch) {
            Ok(history) => history,
            Err(illegal) => {
                self.parts.metrics.stale_answers.inc();
                tracing::debug!(consumer = %self.parts.consumer, %illegal, "a late answer is refused");
                return;
            }
        };
        let attempt = attempts + 1;
        self.parts.metrics.attempts.with_label_values(&[kind, result.as_str()]).inc();
        self.parts.metrics.delivery_seconds.with_label_values(&[kind]).observe(f64::from(latency_ms) / 1e3);
        let (settlement, failure) = match result {
            AttemptResult::Delivered { .. } => (Settlement::Processed, None),
            AttemptResult::Failed { kind, status, ref message, retry_after_ms } => {
                let message = clip(message, ERROR_CHARS_MAX).to_owned();
                let delay = if kind.retryable(status) {
                    self.spec.retry.next_delay(attempt, self.parts.random.fraction(), retry_after_ms)
                } else {
                    None
                };
                if let Some(rest) = retry_after_ms.filter(|_| matches!(status, Some(429 | 503))) {
                    state.suspend(now.plus_ms(rest.min(RETRY_AFTER_MAX_MS)));
                }
                let settlement = match delay {
                    Some(delay) => Settlement::Retry { due_at: now.plus_ms(delay), error: message.clone() },
                    None => Settlement::GivenUp,
                };
                (settlement, Some((kind, status, message)))
            }
        };
        let event = self.bodies.get(&seq).cloned();
        let status = match result {
            AttemptResult::Delivered { status } => Some(status),
            AttemptResult::Failed { status, .. } => status,
        };
        let next_try_at = match &settlement {
            Settlement::Retry { due_at, .. } => Some(*due_at),
            Settlement::Processed | Settlement::GivenUp | Settlement::Deferred => None,
        };
        let record = AttemptRecord {
            seq,
            event_id: event.as_ref().map(|event| event.meta.id.clone()).unwrap_or_default(),
            attempt,
            at: now,
            latency_ms,
            outcome: result.as_str().to_owned(),
            status,
            error: failure.as_ref().map(|(_, _, message)| message.clone()),
            snippet,
            next_try_at,
        };
        let mut ops = Vec::new();
        if let Some((kind, status, message)) = failure {
            self.log_failure(&record, kind, &settlement);
            if settlement == Settlement::GivenUp
                && self.spec.dead_letters
                && let Some(event) = &event
            {
                let dead = self.dead_letter(event, kind, status, message, &record, first_attempt, now);
                ops.push(StateOp::PutDeadLetter(Box::new(dead)));
            }
            if kind == FailureKind::Gone {
                (self.parts.notice)(&self.parts.consumer, Notice::Gone);
            }
        }
        let gave_dead_letter = !ops.is_empty();
        if self.apply(seq, epoch, settlement, ops) {
            if gave_dead_letter {
                self.parts.metrics.dead_letters.inc();
            }
            self.note(record);
        }
    }

    /// Settles and writes. False when the answer came from an old claim.
    fn apply(
        &mut self,
        seq: Seq,
        epoch: crate::ground::ids::Epoch,
        settlement: Settlement,
        mut ops: Vec<StateOp>,
    ) -> bool {
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
        match state.settle(seq, epoch, settlement, now) {
            Ok(change) => {
                if let Some(counter) = counted {
                    counter.fetch_add(1, Atomic::Relaxed);
                }
                if !kept {
                    self.bodies.remove(&seq);
                }
                ops.extend(change.map(|change| change.into_op(&self.parts.consumer)));
                self.session.commit(ops);
                true
            }
            Err(illegal) => {
                self.parts.metrics.stale_answers.inc();
                tracing::debug!(consumer = %self.parts.consumer, %illegal, "a late answer is refused");
                false
            }
        }
    }

    fn log_failure(&self, record: &AttemptRecord, kind: FailureKind, settlement: &Settlement) {
        let error = record.error.as_deref().unwrap_or_default();
        let given_up = *settlement == Settlement::GivenUp;
        if kind == FailureKind::Auth || given_up {
            tracing::error!(consumer = %self.parts.consumer, event = %record.event_id, attempt = record.attempt, status = record.status, r#type = kind.as_str(), transient = false, error, "delivery given up");
        } else {
            tracing::warn!(consumer = %self.parts.consumer, event = %record.event_id, attempt = record.attempt, status = record.status, r#type = kind.as_str(), transient = true, error, "delivery failed");
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of the record")]
    fn dead_letter(
        &self,
        event: &Event,
        kind: FailureKind,
        status: Option<u16>,
        message: String,
        record: &AttemptRecord,
        first_attempt: Option<UnixMs>,
        now: UnixMs,
    ) -> DeadLetterRecord {
        DeadLetterRecord {
            id: prefixed("dlq", now, &*self.parts.random),
            at: now,
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
            first_attempt: first_attempt.or(Some(now)),
            last_attempt: Some(now),
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

    fn write_page(&mut self) {
        self.page_bytes = 0;
        if !self.page.is_empty() {
            let page = AttemptPage { attempts: std::mem::take(&mut self.page) };
            self.session.commit(vec![StateOp::Attempts(self.parts.consumer.clone(), page)]);
        }
    }

    fn defer(&mut self, Deferred { seq, epoch, until }: Deferred) {
        if self.apply(seq, epoch, Settlement::Deferred, Vec::new()) {
            let until = until.unwrap_or_else(|| self.now().plus_ms(SHED_REST_MS));
            if let Some(state) = self.state.as_mut() {
                state.suspend(until);
            }
        }
    }

    /// One timer at a time, at the earliest time something may happen.
    fn plan_wake(&mut self, ctx: &mut Context<Self>) {
        let at = self.state.as_ref().and_then(InboxState::wake_at);
        let at = if self.session.is_congested() {
            // Neither reading nor claiming goes on: what is due stays due meanwhile.
            Some(self.now().plus_ms(CONGESTED_PAUSE_MS))
        } else if self.quiesced || self.parts.deliver.load().is_none() {
            at.map(|at| at.max(self.now().plus_ms(1_000)))
        } else {
            at
        };
        let Some(at) = at else { return };
        if let Some((planned, handle)) = self.wake {
            // A timer that is early enough stays: when it fires, the next one is planned. Leases end late and are
            // answered early, so this spares a timer per delivery.
            if planned <= at && planned > self.now() {
                return;
            }
            ctx.cancel_future(handle);
        }
        let sleep = self.parts.clock.sleep(Duration::from_millis(at.since_ms(self.now())));
        let handle = ctx.spawn(sleep.into_actor(self).map(|(), inbox, ctx| {
            inbox.wake = None;
            inbox.turn(ctx);
        }));
        self.wake = Some((at, handle));
    }

    fn is_idle(&self) -> bool {
        self.attached
            && !self.is_behind()
            && self.pending.is_empty()
            && self.later.is_empty()
            && self.page.is_empty()
            && self.state.as_ref().is_some_and(|state| state.window_is_empty())
    }

    fn plan_report(&mut self, ctx: &mut Context<Self>) {
        if self.report_planned {
            return;
        }
        self.report_planned = true;
        ctx.run_later(self.parts.report_every, |inbox, ctx| {
            inbox.report_planned = false;
            inbox.report(ctx);
        });
    }

    /// Writes the attempts of the last while, tells the router where this inbox stands, and ends when idle for long.
    fn report(&mut self, ctx: &mut Context<Self>) {
        self.write_page();
        let idle = self.is_idle();
        let Some(state) = &self.state else { return };
        let told = Positioned {
            consumer: self.parts.consumer.clone(),
            generation: self.session.generation(),
            position: state.position(),
            seen: state.seen(),
            needed_from: Some(state.needed_from()).filter(|needed| *needed <= state.seen()),
            nothing_unsettled: idle,
        };
        self.parts.router.get().hint(told);
        if !idle || state.has_rows() {
            self.idle_since = None;
            return;
        }
        let now = self.now();
        let since = *self.idle_since.get_or_insert(now);
        let idle_ms = u64::try_from(self.parts.idle_after.as_millis()).unwrap_or(u64::MAX);
        if now.since_ms(since) >= idle_ms {
            self.retire(ctx);
        } else {
            let left = Duration::from_millis(idle_ms - now.since_ms(since)).max(self.parts.report_every);
            self.look_when_idle(left, ctx);
        }
    }

    /// One timer beside that of the reports, which must not wait for it.
    fn look_when_idle(&mut self, left: Duration, ctx: &mut Context<Self>) {
        if self.idle_planned {
            return;
        }
        self.idle_planned = true;
        ctx.run_later(left, |inbox, ctx| {
            inbox.idle_planned = false;
            inbox.report(ctx);
        });
    }

    /// Asks the router to let this inbox end; it makes a new one when an event matches.
    fn retire(&mut self, ctx: &mut Context<Self>) {
        let (router, consumer) = (self.parts.router.clone(), self.parts.consumer.clone());
        let generation = self.session.generation();
        let seen = self.state.as_ref().map_or(Seq::ZERO, InboxState::seen);
        let asked = async move { router.get().ask(Retire { consumer, generation, seen }).await };
        ctx.wait(asked.into_actor(self).map(|answer, inbox, ctx| {
            inbox.idle_since = None;
            match answer {
                // Without an answer the router may have let it go, and may have made another one: two must not be. It
                // has nothing to lose; the router makes a new one of whatever has stopped.
                Ok(true) | Err(_) => actix::ActorContext::stop(ctx),
                Ok(false) => inbox.plan_report(ctx),
            }
        }));
    }
}

/// Longest rest that an endpoint can ask for with `Retry-After`.
const RETRY_AFTER_MAX_MS: u64 = 60 * 60 * 1_000;

/// Hash of the event's ordering key; events without one each have their own.
fn lane_key(event: &Event) -> u64 {
    match &event.meta.ordering_key {
        Some(key) => {
            // Stored in rows: the same text must give the same number in every life of the process.
            let mut hasher = StableHasher(0xcbf2_9ce4_8422_2325);
            event.meta.org.hash(&mut hasher);
            key.hash(&mut hasher);
            hasher.finish()
        }
        None => event.seq.0 ^ (1 << 63),
    }
}

/// FNV-1a.
struct StableHasher(u64);

impl std::hash::Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Actor for InboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.write_page();
    }
}

impl Drop for InboxActor {
    fn drop(&mut self) {
        self.parts.metrics.inboxes.dec();
    }
}

impl Handler<Offer> for InboxActor {
    type Result = ();

    fn handle(&mut self, Offer { events, permit }: Offer, ctx: &mut Self::Context) {
        drop(permit);
        if self.state.is_none() {
            return;
        }
        if !self.attached {
            // The router does not know (it was built anew): tell it again.
            self.detach();
            return;
        }
        let known = self.boundary.max(self.looked_at);
        let fresh = events.into_iter().filter(|event| event.seq > known);
        if self.is_behind() {
            self.later.extend(fresh);
        } else {
            for event in fresh {
                self.looked_at = event.seq;
                self.pending.push_back(event);
            }
        }
        self.take_pending();
        let bound = self.spec.rules.window_events;
        if self.pending.len() > bound || self.later.len() > bound {
            self.fall_behind();
        }
        self.turn(ctx);
    }
}

impl Handler<Detached> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Detached, ctx: &mut Self::Context) {
        self.later.clear();
        self.attached = false;
        self.turn(ctx);
    }
}

impl InboxActor {
    /// Gives the newest matches back to the log: they are read again when there is room.
    fn fall_behind(&mut self) {
        let bound = self.spec.rules.window_events;
        if self.pending.len() > bound {
            self.pending.truncate(bound);
            self.looked_at = self.pending.back().map_or(self.looked_at, |last| last.seq);
        }
        self.detach();
    }
}

impl Handler<Settled> for InboxActor {
    type Result = ();

    fn handle(&mut self, settled: Settled, ctx: &mut Self::Context) {
        self.settle(settled, ctx);
        self.turn(ctx);
    }
}

impl Handler<Deferred> for InboxActor {
    type Result = ();

    fn handle(&mut self, deferred: Deferred, ctx: &mut Self::Context) {
        self.defer(deferred);
        self.turn(ctx);
    }
}

impl Handler<Renew> for InboxActor {
    type Result = actix::MessageResult<Renew>;

    fn handle(&mut self, Renew { seq, epoch }: Renew, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let renewed = match self.state.as_mut() {
            Some(state) => state.renew(seq, epoch, now),
            None => Err(Illegal::Unknown(seq)),
        };
        actix::MessageResult(renewed)
    }
}

impl Handler<Wake> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        if let Some(state) = self.state.as_mut() {
            state.resume_now();
        }
        self.turn(ctx);
    }
}

impl Handler<Reconfigure> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Reconfigure, ctx: &mut Self::Context) {
        self.spec = self.parts.spec.load_full();
        if let Some(state) = self.state.as_mut() {
            state.set_rules(self.spec.rules);
            state.set_paused(self.spec.paused);
        }
        self.turn(ctx);
    }
}

impl Handler<Publish> for InboxActor {
    type Result = actix::ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, _: Publish, _: &mut Self::Context) -> Self::Result {
        self.write_page();
        let session = self.session.clone();
        Box::pin(async move { session.drained().await })
    }
}

impl Handler<Quiesce> for InboxActor {
    type Result = ();

    fn handle(&mut self, _: Quiesce, ctx: &mut Self::Context) {
        self.quiesced = true;
        self.report(ctx);
    }
}

impl Handler<Inspect> for InboxActor {
    type Result = actix::MessageResult<Inspect>;

    fn handle(&mut self, Inspect { seqs }: Inspect, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let totals = &self.parts.totals;
        let (processed, failed) = (totals.processed.load(Atomic::Relaxed), totals.failed.load(Atomic::Relaxed));
        actix::MessageResult(match &self.state {
            Some(state) => InboxView {
                standings: seqs.iter().map(|seq| state.standing(*seq)).collect(),
                position: state.position(),
                needed_from: state.needed_from(),
                counts: state.counts(),
                out: state.claims_out(),
                hold: state.hold(now),
                processed,
                failed,
            },
            None => InboxView {
                standings: vec![super::state::Standing::Pending; seqs.len()],
                position: Position::default(),
                needed_from: Seq::ZERO,
                counts: super::state::Counts::default(),
                out: Vec::new(),
                hold: None,
                processed,
                failed,
            },
        })
    }
}

crate::supervised!(InboxActor);
