//! Checking events against the catalog on their way in, and what is done with those that are refused (ING-6).

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};

use super::accept::{Lane, prepare};
use super::{Accepted, Hub, Page, store_problem};
use crate::catalog::policy::{QuarantineRules, Refusal, Verdict, Warning, judge};
use crate::catalog::quarantine::{Kept, Listing, State, Wanted};
use crate::event::envelope::{Draft, Event};
use crate::event::redact::Audience;
use crate::ground::clock::UnixMs;
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::ground::limits::{EVENT_TYPE_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::store::quarantine::{KeptViolation, QuarantineId, QuarantineRecord, Standing};
use crate::store::{Appended, EventLog as _, log_record};

/// Violations that are kept with a quarantined event.
const VIOLATIONS_KEPT_MAX: usize = 20;
/// Most events that one request redrives.
pub const REDRIVE_MAX: u64 = 1_000;
/// Events redriven in one append.
const REDRIVE_GROUP: usize = 100;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = super::REASON_CHARS_MAX;
/// One line of the log about events that do not fit in this time.
const LOG_EVERY_MS: u64 = 1_000;

/// When events that do not fit were last logged, and how many were not since.
#[derive(Debug, Default)]
pub(super) struct Noise {
    last_ms: AtomicU64,
    silent: AtomicU64,
}

impl Noise {
    /// Whether to log now, and how many were not logged before; one caller a second.
    fn turn(&self, now: UnixMs) -> Option<u64> {
        let last = self.last_ms.load(Ordering::Relaxed);
        let due = last == 0 || now.0.saturating_sub(last) >= LOG_EVERY_MS;
        if due && self.last_ms.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Some(self.silent.swap(0, Ordering::Relaxed));
        }
        self.silent.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Events sorted by what the catalog says of them.
pub(super) struct Sorted {
    /// Those that go on, with their places.
    pub(super) taken: Vec<(usize, Draft)>,
    /// What is told of some of these, by place.
    pub(super) warnings: Vec<(usize, Vec<Warning>)>,
    /// Those that do not, with their places.
    pub(super) refused: Vec<(usize, Draft, Refusal)>,
}

/// What became of an attempt to redrive one event.
enum Redriven {
    Taken(Seq, bool),
    Refused(Refusal),
    Problem(Problem),
}

impl Hub {
    /// Sorts events by the policies of their orgs; gives them back when nobody looks.
    pub(super) fn sort_by_policy(&self, drafts: Vec<Draft>) -> Result<Vec<Draft>, Sorted> {
        let snapshot = self.inner.types.catalog().look();
        if !snapshot.checks() {
            return Ok(drafts);
        }
        let metrics = &self.inner.metrics;
        let mut sorted = Sorted { taken: Vec::with_capacity(drafts.len()), warnings: Vec::new(), refused: Vec::new() };
        for (at, draft) in drafts.into_iter().enumerate() {
            let outcome = match judge(&snapshot, &draft) {
                Verdict::Fits => {
                    sorted.taken.push((at, draft));
                    "fits"
                }
                Verdict::Flagged(warnings) => {
                    for one in &warnings {
                        metrics.catalog_findings.with_label_values(&[one.code.as_str(), "flagged"]).inc();
                    }
                    self.log_misfit(&draft, "flagged", warnings.first().map_or("", |one| one.message.as_str()));
                    sorted.warnings.push((at, warnings));
                    sorted.taken.push((at, draft));
                    "flagged"
                }
                Verdict::Refused(refusal) => {
                    sorted.refused.push((at, draft, refusal));
                    "refused"
                }
            };
            metrics.catalog_checked.with_label_values(&[outcome]).inc();
        }
        Err(sorted)
    }

    fn log_misfit(&self, draft: &Draft, outcome: &str, message: &str) {
        let Some(silent) = self.inner.noise.turn(self.inner.clock.now()) else { return };
        let meta = &draft.meta;
        tracing::warn!(
            org = meta.org,
            event_type = meta.event_type,
            event_id = meta.id,
            outcome,
            message,
            silent,
            "an event is not as the catalog says"
        );
    }

    /// Takes back what is in the log already: what was taken once stays taken, whatever is said of it since. Its id tells.
    async fn known_before(&self, refused: &mut Vec<(usize, Draft, Refusal)>) -> Result<Vec<(usize, Draft)>, Problem> {
        if !refused.iter().any(|(_, draft, _)| draft.id_given) {
            return Ok(Vec::new());
        }
        let of = |(at, draft, _): &(usize, Draft, Refusal)| {
            draft.id_given.then(|| (*at, draft.meta.org.clone(), draft.meta.id.clone()))
        };
        let asked: Vec<_> = refused.iter().filter_map(of).collect();
        let known: Vec<usize> = self
            .blocking(move |hub| {
                let mut known = Vec::new();
                for (at, org, id) in asked {
                    let found = hub.inner.engine.find(&org, &id).map_err(|error| store_problem(&error))?;
                    known.extend(found.map(|_| at));
                }
                Ok(known)
            })
            .await?;
        let (back, left) = std::mem::take(refused).into_iter().partition(|(at, _, _)| known.contains(at));
        *refused = left;
        Ok(Vec::into_iter(back).map(|(at, draft, _)| (at, draft)).collect())
    }

    /// Takes in events that were sorted: those that are refused are answered, and kept where their org wants that.
    pub(super) async fn take_sorted(
        &self,
        mut sorted: Sorted,
        atomic: bool,
        lane: Lane,
        context: WriteContext,
    ) -> Result<Vec<Accepted>, Problem> {
        let back = self.known_before(&mut sorted.refused).await?;
        sorted.taken.extend(back);
        sorted.taken.sort_by_key(|(at, _)| *at);
        if atomic && let Some((at, draft, refusal)) = sorted.refused.first() {
            self.count_refusal(draft, refusal);
            let mut problem = refusal.to_problem();
            problem.field = Some(format!("[{at}].{}", problem.field.as_deref().unwrap_or("data")));
            return Err(problem);
        }
        let Sorted { taken, warnings, refused } = sorted;
        let mut out: Vec<(usize, Accepted)> = Vec::with_capacity(taken.len() + refused.len());
        if !refused.is_empty() {
            out.extend(self.refuse(refused, &context).await);
        }
        if !taken.is_empty() {
            let (places, drafts): (Vec<usize>, Vec<Draft>) = taken.into_iter().unzip();
            let accepted = self.take_in(drafts, atomic, lane, || context).await?;
            out.extend(places.into_iter().zip(accepted));
        }
        for (at, told) in warnings {
            if let Some((_, accepted)) = out.iter_mut().find(|(place, one)| *place == at && one.is_taken()) {
                let plain = std::mem::replace(accepted, Accepted::Log(Appended::Withheld));
                *accepted = Accepted::Flagged(Box::new(plain), told);
            }
        }
        out.sort_by_key(|(at, _)| *at);
        Ok(out.into_iter().map(|(_, accepted)| accepted).collect())
    }

    fn count_refusal(&self, draft: &Draft, refusal: &Refusal) {
        let metrics = &self.inner.metrics;
        metrics.catalog_findings.with_label_values(&[refusal.finding.as_str(), "refused"]).inc();
        metrics.events_refused.with_label_values(&[ProblemKind::SchemaViolation.slug()]).inc();
        self.log_misfit(draft, "refused", &refusal.message);
    }

    async fn refuse(&self, refused: Vec<(usize, Draft, Refusal)>, context: &WriteContext) -> Vec<(usize, Accepted)> {
        let (mut problems, mut wanted, mut places) = (Vec::with_capacity(refused.len()), Vec::new(), Vec::new());
        for (at, draft, refusal) in refused {
            self.count_refusal(&draft, &refusal);
            problems.push((at, refusal.to_problem()));
            let snapshot = self.inner.types.catalog().look();
            let rules = snapshot.policy(&draft.meta.org).map(|policy| policy.quarantine).filter(|rules| rules.enabled);
            if let Some(rules) = rules
                && let Some((record, envelope)) = record_of(draft, &refusal, context)
            {
                let id = QuarantineId::new(self.inner.clock.now(), &*self.inner.random);
                wanted.push(Wanted { id, record, envelope, rules });
                places.push(problems.len() - 1);
            }
        }
        if !wanted.is_empty() {
            let count = wanted.len();
            let kept = self.blocking(move |hub| Ok(hub.inner.quarantine.keep(wanted))).await;
            let kept = kept.unwrap_or_else(|_| vec![Kept::Failed; count]);
            for (place, kept) in places.into_iter().zip(kept) {
                let (word, id) = match kept {
                    Kept::As(id) => ("kept", Some(id.to_string())),
                    Kept::Full => ("full", None),
                    Kept::Failed => ("failed", None),
                };
                self.inner.metrics.quarantined.with_label_values(&[word]).inc();
                if let Some((_, problem)) = problems.get_mut(place) {
                    *problem = problem.clone().with("quarantine", word).with("quarantine_id", id);
                }
            }
        }
        problems.into_iter().map(|(at, problem)| (at, Accepted::Refused(problem))).collect()
    }

    fn seen_quarantined(&self, id: &str, org: Option<&str>) -> Result<(QuarantineId, State), Problem> {
        let absent = || Problem::not_found("quarantined event", id);
        let parsed = QuarantineId::parse(id).ok_or_else(absent)?;
        let (whose, state) = self.inner.quarantine.look(parsed).ok_or_else(absent)?;
        if org.is_some_and(|org| *whose != *org) {
            return Err(absent());
        }
        Ok((parsed, state))
    }

    /// Quarantined events, oldest first. Blocks.
    ///
    /// # Errors
    /// When the store fails.
    pub fn quarantined(&self, listing: &Listing, limit: usize) -> Result<Page<Value>, Problem> {
        let book = &self.inner.quarantine;
        let mut ids = book.list(listing, limit + 1);
        let has_more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().copied().or(listing.after).map_or_else(String::new, |id| id.to_string());
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            // What went while the page was being read is not on it.
            if let Some(record) = book.read_record(id).map_err(|error| store_problem(&error))? {
                items.push(record_json(id, &record));
            }
        }
        Ok(Page { items, next, has_more })
    }

    /// A quarantined event with its envelope as it was sent: JSON text. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org; when the store fails.
    pub fn quarantined_event(&self, id: &str, org: Option<&str>) -> Result<Vec<u8>, Problem> {
        let (parsed, _) = self.seen_quarantined(id, org)?;
        let found = self.inner.quarantine.read(parsed).map_err(|error| store_problem(&error))?;
        let (record, envelope) = found.ok_or_else(|| Problem::not_found("quarantined event", id))?;
        let mut out = record_json(parsed, &record).to_string().into_bytes();
        out.pop();
        out.extend_from_slice(b",\"event\":");
        match envelope.map(|envelope| log_record::decode(Seq::ZERO, envelope)) {
            Some(Ok(event)) => out.extend_from_slice(&self.shown(&event)),
            Some(Err(error)) => {
                tracing::error!(id, %error, "a quarantined event is damaged");
                return Err(Problem::new(ProblemKind::Internal, "the event is damaged; the log of the hub names it"));
            }
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
        Ok(out)
    }

    /// The envelope as people may see it.
    fn shown(&self, event: &Event) -> Vec<u8> {
        let redactions = self.inner.types.catalog().redactions(&event.meta.org, &event.meta.event_type);
        match redactions {
            Some(redactions) => {
                let body = redactions.apply(&event.meta.org, &event.body, Audience::Console);
                body.into_owned()
            }
            None => event.body.to_vec(),
        }
    }

    /// Checks a quarantined event again and takes it in, once however often this is asked.
    ///
    /// # Errors
    /// [`ProblemKind::SchemaViolation`] when it still does not fit; [`ProblemKind::Conflict`] when it is not open or
    /// somebody works on it; [`ProblemKind::NotFound`], also for one of another org; those of [`Hub::accept`].
    pub async fn redrive_quarantined(
        &self,
        id: &str,
        org: Option<&str>,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let (parsed, state) = self.seen_quarantined(id, org)?;
        let claim = self.inner.quarantine.claim(parsed).ok_or_else(|| not_open(state))?;
        let mut done = self.redrive_some(vec![parsed], &context).await?;
        drop(claim);
        match done.pop() {
            Some((_, event_id, Redriven::Taken(seq, duplicate))) => Ok(json!({
                "id": id, "event_id": event_id, "state": State::Redriven.as_str(), "seq": seq.0, "duplicate": duplicate,
            })),
            Some((_, _, Redriven::Refused(refusal))) => {
                Err(refusal.to_problem().with("quarantine", "kept").with("quarantine_id", id))
            }
            Some((_, _, Redriven::Problem(problem))) => Err(problem),
            None => Err(Problem::not_found("quarantined event", id)),
        }
    }

    /// Redrives open events of a type or of all types, oldest first, up to a bound. Those that do not fit stay.
    ///
    /// # Errors
    /// When a field does not fit; when the store fails: what was redriven before that stays so.
    pub async fn redrive_quarantine(
        &self,
        mut fields: Fields,
        confined_to: Option<&str>,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let org = scoped_org(fields.text("org", SCOPE_CHARS_MAX)?, confined_to)?;
        let event_type = fields.text("type", EVENT_TYPE_CHARS_MAX)?;
        let after = fields.text("after", SCOPE_CHARS_MAX)?;
        let limit = fields.number("limit", 1, REDRIVE_MAX)?.unwrap_or(100);
        fields.finish()?;
        let read = |text: String| {
            QuarantineId::parse(&text).ok_or_else(|| Problem::field("after", "the id of a quarantined event", text))
        };
        let after = after.map(read).transpose()?;
        let listing = Listing { org, event_type, state: Some(State::Open), after };
        let limit = usize::try_from(limit).unwrap_or(100);
        let mut ids = self.inner.quarantine.list(&listing, limit + 1);
        let has_more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().map(ToString::to_string);
        let (mut redriven, mut refused, mut failed) = (0_u64, 0_u64, 0_u64);
        for group in ids.chunks(REDRIVE_GROUP) {
            let claims: Vec<_> = group.iter().filter_map(|id| Some((*id, self.inner.quarantine.claim(*id)?))).collect();
            let ids = claims.iter().map(|(id, _)| *id).collect();
            for (_, _, done) in self.redrive_some(ids, &context).await? {
                match done {
                    Redriven::Taken(..) => redriven += 1,
                    Redriven::Refused(_) => refused += 1,
                    Redriven::Problem(_) => failed += 1,
                }
            }
            drop(claims);
        }
        Ok(json!({
            "redriven": redriven, "refused": refused, "failed": failed, "has_more": has_more, "last_id": next,
        }))
    }

    /// Redrives events that the caller has claimed.
    async fn redrive_some(
        &self,
        ids: Vec<QuarantineId>,
        context: &WriteContext,
    ) -> Result<Vec<(QuarantineId, String, Redriven)>, Problem> {
        let read = move |hub: &Hub| {
            let mut read = Vec::with_capacity(ids.len());
            for id in ids {
                let found = hub.inner.quarantine.read(id).map_err(|error| store_problem(&error))?;
                let Some((record, Some(envelope))) = found else { continue };
                let event = log_record::decode(Seq::ZERO, envelope).map_err(|error| {
                    tracing::error!(%id, %error, "a quarantined event is damaged");
                    Problem::new(ProblemKind::Internal, "a quarantined event is damaged; the log of the hub names it")
                })?;
                read.push((id, record, event));
            }
            Ok(read)
        };
        let read = self.blocking(read).await?;
        let now = self.inner.clock.now();
        let (mut out, mut taken, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
        for (id, record, event) in read {
            let draft = Draft {
                meta: event.meta.clone(),
                body: event.body.clone(),
                // Also when the hub made it: a second redrive must find the first (QU-4).
                id_given: true,
                received_at: now,
                deliver_at: record.deliver_at,
            };
            match judge(&self.inner.types.catalog().look(), &draft) {
                Verdict::Fits | Verdict::Flagged(_) => {
                    taken.push((id, record));
                    drafts.push(draft);
                }
                Verdict::Refused(refusal) => out.push((id, record.event_id, Redriven::Refused(refusal))),
            }
        }
        if drafts.is_empty() {
            return Ok(out);
        }
        let accepted = self.take_in(drafts, false, Lane::Org, || context.clone()).await?;
        let mut closed = Vec::new();
        for ((id, record), accepted) in taken.into_iter().zip(accepted) {
            let done = match accepted {
                Accepted::Log(Appended::New(event)) => Redriven::Taken(event.seq, false),
                Accepted::Log(Appended::Duplicate(seq)) => Redriven::Taken(seq, true),
                Accepted::Scheduled { duplicate, .. } => Redriven::Taken(Seq::ZERO, duplicate),
                Accepted::Log(Appended::Conflict(seq)) => Redriven::Problem(super::id_conflict(&record.event_id, seq)),
                Accepted::Refused(problem) => Redriven::Problem(problem),
                Accepted::Log(Appended::Withheld) | Accepted::Flagged(..) => {
                    Redriven::Problem(Problem::new(ProblemKind::Internal, "no receipt for the event"))
                }
            };
            let event_id = record.event_id.clone();
            if let Redriven::Taken(seq, _) = &done {
                let standing = Standing::Redriven { seq: *seq, context: context.clone() };
                closed.push((id, QuarantineRecord { standing, ..record }));
                self.inner.metrics.quarantined.with_label_values(&["redriven"]).inc();
            }
            out.push((id, event_id, done));
        }
        self.blocking(move |hub| hub.inner.quarantine.close(&closed).map_err(|error| store_problem(&error))).await?;
        Ok(out)
    }

    /// Lets a quarantined event go; who did and why is kept as long as it would have been. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::Conflict`] when it is not open; [`ProblemKind::NotFound`], also for one of another org; when a field
    /// does not fit; when the store fails.
    pub fn discard_quarantined(
        &self,
        id: &str,
        org: Option<&str>,
        mut fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let (parsed, state) = self.seen_quarantined(id, org)?;
        let reason = fields.required_text("reason", REASON_CHARS_MAX)?;
        fields.finish()?;
        let book = &self.inner.quarantine;
        let _claim = book.claim(parsed).ok_or_else(|| not_open(state))?;
        let record = book.read_record(parsed).map_err(|error| store_problem(&error))?;
        let record = record.ok_or_else(|| Problem::not_found("quarantined event", id))?;
        let record = QuarantineRecord { standing: Standing::Discarded { reason, context }, ..record };
        book.close(&[(parsed, record.clone())]).map_err(|error| store_problem(&error))?;
        self.inner.metrics.quarantined.with_label_values(&["discarded"]).inc();
        Ok(record_json(parsed, &record))
    }

    /// Lets go of what is old. Blocks.
    pub(super) fn expire_quarantine(&self) {
        let snapshot = self.inner.types.catalog().look();
        let default = QuarantineRules::default();
        let age_ms = |org: &str| snapshot.policy(org).map_or(default.age_ms, |policy| policy.quarantine.age_ms);
        match self.inner.quarantine.expire(self.inner.clock.now(), age_ms) {
            Ok(0) => {}
            Ok(gone) => {
                self.inner.metrics.quarantined.with_label_values(&["expired"]).inc_by(gone);
                tracing::info!(gone, "quarantined events that nobody has redriven or discarded are too old and gone");
            }
            Err(error) => tracing::warn!(%error, "old quarantined events are still there; trying again"),
        }
    }
}

fn not_open(state: State) -> Problem {
    let text = match state {
        State::Open => "somebody works on it now",
        State::Redriven => "it was redriven",
        State::Discarded => "it was discarded",
    };
    Problem::new(ProblemKind::Conflict, text).with("state", state.as_str())
}

/// A refused event as it is kept.
fn record_of(draft: Draft, refusal: &Refusal, context: &WriteContext) -> Option<(QuarantineRecord, Bytes)> {
    let (id_given, deliver_at) = (draft.id_given, draft.deliver_at);
    let event = prepare(vec![draft])
        .inspect_err(|problem| tracing::error!(%problem, "a refused event cannot be kept"))
        .ok()?
        .pop()?;
    let listed = refusal.violations.listed.iter();
    let kept = |one: &crate::catalog::schema::Violation| KeptViolation {
        pointer: one.pointer.clone(),
        schema_path: one.schema_path.clone(),
        message: one.message.clone(),
    };
    let violations: Vec<KeptViolation> = listed.take(VIOLATIONS_KEPT_MAX).map(kept).collect();
    let record = QuarantineRecord {
        org: event.meta.org.clone(),
        event_type: event.meta.event_type.clone(),
        event_id: event.meta.id.clone(),
        id_given,
        received_at: event.received_at,
        deliver_at,
        finding: refusal.finding.as_str().to_owned(),
        message: refusal.message.clone(),
        more_violations: (refusal.violations.count() - violations.len()) as u64,
        violations,
        created: context.clone(),
        standing: Standing::Open,
        bytes: event.body().len() as u64,
    };
    Some((record, Bytes::copy_from_slice(event.record())))
}

fn record_json(id: QuarantineId, record: &QuarantineRecord) -> Value {
    let violations: Vec<Value> = record
        .violations
        .iter()
        .map(|one| json!({ "pointer": one.pointer, "schema_path": one.schema_path, "message": one.message }))
        .collect();
    let (mut seq, mut reason, mut closed) = (None, None, None);
    match &record.standing {
        Standing::Open => {}
        Standing::Redriven { seq: at, context } => {
            seq = Some(at.0).filter(|at| *at > 0);
            closed = Some(context.to_json());
        }
        Standing::Discarded { reason: why, context } => {
            reason = Some(why.clone());
            closed = Some(context.to_json());
        }
    }
    json!({
        "id": id.to_string(),
        "org": record.org,
        "type": record.event_type,
        "event_id": record.event_id,
        "state": State::of(&record.standing).as_str(),
        "finding": record.finding,
        "message": record.message,
        "violations": violations,
        "more_violations": record.more_violations,
        "received_at": record.received_at.to_rfc3339(),
        "deliver_at": record.deliver_at.map(UnixMs::to_rfc3339),
        "bytes": record.bytes,
        "created_by": record.created.to_json(),
        "seq": seq,
        "reason": reason,
        "closed_by": closed,
    })
}
