//! Replays, recovery and single retries, as they are asked for (WHK-8, CDC-4).

use serde_json::{Value, json};

use super::{Consumer, Hub, Service, store_problem};
use crate::event::filter::EventFilter;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::actor::lane_key;
use crate::inbox::messages::{Hasten, HastenAnswer, ReplayAnswer, ReplayItem};
use crate::inbox::state::Standing;
use crate::job::{JobRecord, NewJob, StepError};
use crate::replay::{
    Bound, DELIVERED_RANGE_MAX, EventsWork, LetterSpec, Matching, RECOVER, REPLAY, ReplayRequest, ReplaySpec, hand_on,
    read_recover, read_replay,
};
use crate::router::Inboxes as _;
use crate::store::records::ReplayMark;
use crate::store::{ConsumerState as _, EventLog as _};

use std::sync::Arc;

/// What became of a request that may be a job.
#[derive(Clone, Debug)]
pub enum Asked {
    /// It is a job.
    Job(Arc<JobRecord>),
    /// It was a question: what would be done.
    Preview(Value),
}

/// A failure of the work as a client is told.
pub(super) fn step_problem(error: StepError) -> Problem {
    match error {
        StepError::Again(reason) => Problem::new(ProblemKind::Overloaded, reason),
        StepError::Fatal(reason) => Problem::new(ProblemKind::Conflict, reason),
    }
}

impl Hub {
    /// A consumer by its id or name (that of a pull consumer within the org), when this org may see it.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org.
    pub fn consumer_named(&self, name: &str, org: Option<&str>) -> Result<Arc<Consumer>, Problem> {
        let directory = &self.inner.directory;
        let pulled = || directory.get(&ConsumerId::new(&self.consumer(name, org).ok()?.id));
        let handler = || directory.get(&ConsumerId::handler(name));
        let found = directory.get(&ConsumerId::new(name)).or_else(pulled).or_else(handler);
        let visible = found.filter(|one| org.is_none() || one.spec.load().filter.org.as_deref() == org);
        visible.ok_or_else(|| Problem::not_found("consumer", name))
    }

    /// Whether a consumer is code in this process or a rule of an upstream: the operator's alone.
    #[must_use]
    pub fn is_handler(consumer: &Consumer) -> bool {
        match consumer.service {
            Service::Handler | Service::Publish(_) => true,
            Service::Webhook(_) | Service::Pull(_) => false,
        }
    }

    /// Replays events into a consumer, as the fields say: a job, or with `dry_run` what it would do.
    ///
    /// # Errors
    /// When a field does not fit, there are too many jobs, or the store fails.
    pub async fn replay(&self, consumer: &Consumer, fields: Fields, context: WriteContext) -> Result<Asked, Problem> {
        let request = read_replay(fields)?;
        let (rate, dry_run) = (request.rate, request.dry_run);
        let (id, org) = (consumer.id.clone(), consumer.spec.load().filter.org.clone());
        let spec = self.blocking(move |hub| hub.replay_spec(id, org, request)).await?;
        if spec.matching == Matching::Delivered {
            self.publish_attempts(&spec.consumer).await;
        }
        if dry_run {
            let preview = EventsWork::new(self.inner.replays.clone(), spec, None).preview().await;
            return Ok(Asked::Preview(preview.map_err(step_problem)?.to_json()));
        }
        let (org, total) = (spec.filter.org.clone(), Some(spec.total()));
        let new = NewJob { kind: REPLAY, org, spec: spec_json(&spec)?, rate, total };
        self.make_job(new, context).await
    }

    pub(super) async fn make_job(&self, new: NewJob, context: WriteContext) -> Result<Asked, Problem> {
        self.blocking(move |hub| hub.inner.jobs.create(new, context).map(Asked::Job)).await
    }

    /// Finds what a request names in the log. Blocks.
    fn replay_spec(
        &self,
        consumer: ConsumerId,
        org: Option<String>,
        request: ReplayRequest,
    ) -> Result<ReplaySpec, Problem> {
        let engine = &self.inner.engine;
        let (earliest, head) = (engine.earliest(), engine.head());
        let ReplayRequest { from, to, filter, event_ids, aggregate_type, aggregate_id, matching, .. } = request;
        let filter = EventFilter { org, ..filter };
        let seqs = self.find_listed(filter.org.as_deref(), &event_ids)?;
        let (first, from_time) = match from {
            Some(Bound::Seq(seq)) => (seq, None),
            Some(Bound::Time(time)) => (Seq(1), Some(time)),
            None => (Seq(1), None),
        };
        let (last, to_time) = match to {
            Some(Bound::Seq(seq)) => (seq, None),
            Some(Bound::Time(time)) => (head, Some(time)),
            None => (head, None),
        };
        // What is gone is gone: the range that is told is the one that is read.
        let (first, last) = match (seqs.first(), seqs.last()) {
            (Some(first), Some(last)) => (*first, *last),
            (Some(_) | None, _) => (first.max(earliest), last.min(head)),
        };
        let wide = last.0.saturating_sub(first.0) >= DELIVERED_RANGE_MAX;
        if matching == Matching::Delivered && wide {
            let limit = format!("`delivered` for a range of at most {DELIVERED_RANGE_MAX} positions");
            return Err(Problem::field("match", limit, format!("{first} to {last}")));
        }
        Ok(ReplaySpec {
            consumer,
            filter,
            from: first,
            to: last.max(first.prev()),
            from_time,
            to_time,
            aggregate_type,
            aggregate_id,
            seqs,
            matching,
        })
    }

    /// The places of events in the log, ascending. Blocks.
    fn find_listed(&self, org: Option<&str>, ids: &[String]) -> Result<Vec<Seq>, Problem> {
        let engine = &self.inner.engine;
        let mut seqs = Vec::with_capacity(ids.len());
        for (at, id) in ids.iter().enumerate() {
            let found = match org {
                Some(org) => engine.find(org, id).map(|seq| seq.into_iter().collect()),
                None => engine.find_all(id, 2),
            };
            let found: Vec<Seq> = found.map_err(|error| store_problem(&error))?;
            let refused = |limit: &str| Problem::field(format!("event_ids[{at}]"), limit, id);
            match found.as_slice() {
                [seq] => seqs.push(*seq),
                [] => return Err(refused("an event that is in the log")),
                [_, _, ..] => return Err(refused("an id that one org alone has used")),
            }
        }
        seqs.sort_unstable();
        seqs.dedup();
        Ok(seqs)
    }

    /// Redrives every dead letter of a webhook since a time, and makes every retry due that has failed since: a job.
    ///
    /// # Errors
    /// When a field does not fit, the webhook is not there, or the store fails.
    pub async fn recover_webhook(
        &self,
        id: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Asked, Problem> {
        let webhook = self.webhook(id, org)?;
        let request = read_recover(fields)?;
        let spec = LetterSpec {
            consumer: Some(ConsumerId::new(id)),
            org: webhook.settings.filter.org.clone(),
            event_type: None,
            error_kind: None,
            from: Some(request.since),
            to: context.at,
            retries_since: Some(request.since),
        };
        // Letters and rows that the inbox has handed in are readable then.
        self.publish_attempts(&ConsumerId::new(id)).await;
        let new =
            NewJob { kind: RECOVER, org: spec.org.clone(), spec: spec_json(&spec)?, rate: request.rate, total: None };
        self.make_job(new, context).await
    }

    /// Tries one event again now: a waiting retry is made due; one that is settled is given out again.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`] when the webhook or the event is not there; [`ProblemKind::Conflict`] when it is out
    /// now.
    pub async fn retry_delivery(
        &self,
        webhook: &str,
        event_id: &str,
        org: Option<&str>,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let org = self.webhook(webhook, org)?.settings.filter.org.clone();
        let consumer = ConsumerId::new(webhook);
        let wanted = event_id.to_owned();
        let event = self.blocking(move |hub| hub.event(&wanted, org.as_deref())).await?;
        let inbox = self.inner.directory.start(&consumer).ok_or_else(|| Problem::not_found("webhook", webhook))?;
        let away = |_| Problem::new(ProblemKind::Overloaded, "the inbox of the webhook is being restarted");
        self.publish_attempts(&consumer).await;
        let view = inbox.ask(crate::inbox::messages::Inspect { seqs: vec![event.seq] }).await.map_err(away)?;
        let out = || Problem::new(ProblemKind::Conflict, "the event is out now: wait for its outcome");
        let outcome = match view.standings.first().copied().unwrap_or(Standing::Pending) {
            Standing::Processing { .. } => return Err(out()),
            Standing::Pending | Standing::BehindKey { .. } | Standing::Ahead => "under_way",
            Standing::Failed { .. } => {
                let (of, seq) = (consumer.clone(), event.seq);
                let rows = self.blocking(move |hub| {
                    let rows =
                        hub.inner.engine.rows_after(&of, seq.prev(), 1).map_err(|error| store_problem(&error))?;
                    Ok(rows.into_iter().filter(|(found, _)| *found == seq).collect::<Vec<_>>())
                });
                let rows = rows.await?;
                let answers = inbox.ask(Hasten { rows }).await.map_err(away)?.map_err(|error| store_problem(&error))?;
                match answers.first() {
                    Some(HastenAnswer::Due) => "due_now",
                    Some(HastenAnswer::InFlight) => return Err(out()),
                    Some(HastenAnswer::Pending | HastenAnswer::Settled) | None => "under_way",
                }
            }
            Standing::Settled => self.give_out_again(&consumer, &event, &context).await?,
        };
        self.sync_state().await?;
        tracing::info!(webhook, event = event_id, outcome, by = context.by, "a delivery is to be tried now");
        Ok(json!({"webhook": webhook, "event_id": event_id, "seq": event.seq.0, "outcome": outcome}))
    }

    /// Gives a settled event out again; the open dead letter that its last attempt has left is closed with it.
    async fn give_out_again(
        &self,
        consumer: &ConsumerId,
        event: &Arc<crate::event::envelope::Event>,
        context: &WriteContext,
    ) -> Result<&'static str, Problem> {
        let _closing = self.inner.replays.closing.lock().await;
        let (of, wanted) = (consumer.clone(), Arc::clone(event));
        let letter = self.blocking(move |hub| hub.open_letter_of(&of, &wanted)).await?;
        let had_letter = letter.is_some();
        let item = match letter {
            Some(letter) => crate::replay::item_of_letter(letter, None, context, &*self.inner.random),
            None => {
                let mark = ReplayMark::default();
                Some(ReplayItem { seq: event.seq, key: lane_key(event), mark, letter: None })
            }
        };
        let items: Vec<ReplayItem> = item.into_iter().collect();
        let answers = hand_on(&*self.inner.directory, consumer, items).await.map_err(step_problem)?;
        match answers.first() {
            Some(ReplayAnswer::Full) | None => Err(lane_full()),
            Some(answer) => {
                if had_letter {
                    self.inner.metrics.dead_letter_closed(consumer);
                }
                Ok(if *answer == ReplayAnswer::Taken { "replayed" } else { "under_way" })
            }
        }
    }

    /// Waits until everything that was handed in before is on disk.
    pub(super) async fn sync_state(&self) -> Result<(), Problem> {
        let session = self.inner.ledger.session();
        session.commit_synced(Vec::new()).await.map_err(|error| store_problem(&error))
    }
}

/// A consumer has as many replayed events waiting as it may.
pub(super) fn lane_full() -> Problem {
    let text = "the consumer has as many replayed events waiting as it may; come back when some are delivered";
    Problem::new(ProblemKind::Overloaded, text).retry_after(5)
}

pub(super) fn spec_json(spec: &impl serde::Serialize) -> Result<Value, Problem> {
    serde_json::to_value(spec).map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))
}
