//! The way into an inbox.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::envelope::Event;
use crate::event::restore::restore;
use crate::ground::context::WriteContext;
use crate::ground::ids::ConsumerId;
use crate::ground::random::Random;
use crate::inbox::actor::lane_key;
use crate::inbox::messages::{Replay, ReplayAnswer, ReplayItem};
use crate::job::StepError;
use crate::router::Inboxes;
use crate::store::records::{Closed, Closing, ReplayMark};
use crate::store::{DeadLetterRecord, StoreError};

/// Gives events to the inbox of a consumer, in this order; one answer each. They are in order before whatever is synced
/// next when this returns.
///
/// # Errors
/// [`StepError::Fatal`] when the consumer is gone; [`StepError::Again`] when its inbox is being restarted or the store
/// reopened: then some may have been taken, which are under way when they are given again.
pub async fn hand_on(
    inboxes: &dyn Inboxes,
    consumer: &ConsumerId,
    items: Vec<ReplayItem>,
) -> Result<Vec<ReplayAnswer>, StepError> {
    let gone = || StepError::Fatal(format!("the consumer {consumer} is no longer there"));
    let inbox = inboxes.start(consumer).ok_or_else(gone)?;
    match inbox.ask(Replay { items }).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(again(&error)),
        Err(away) => Err(StepError::Again(format!("the inbox of {consumer}: {away}"))),
    }
}

/// A failure of the store as that of a step: damage stays, everything else passes.
pub(super) fn again(error: &StoreError) -> StepError {
    match error {
        StoreError::Corrupt { .. } => StepError::Fatal(error.to_string()),
        StoreError::Engine(_) | StoreError::Unavailable | StoreError::DiskFull { .. } | StoreError::Revision { .. } => {
            StepError::Again(error.to_string())
        }
    }
}

/// An event as a replay gives it to an inbox.
pub(super) fn item_of_event(event: &Event, job: Option<&str>) -> ReplayItem {
    let mark = ReplayMark { job: job.map(str::to_owned), dead_letter: None };
    ReplayItem { seq: event.seq, key: lane_key(event), mark, letter: None }
}

/// A dead letter as a redrive gives it to an inbox: closed, with the event that it keeps. None when that does not read.
#[must_use]
pub fn item_of_letter(
    mut letter: DeadLetterRecord,
    job: Option<&str>,
    context: &WriteContext,
    random: &dyn Random,
) -> Option<ReplayItem> {
    let event = restore(&letter.event, letter.seq, letter.at, random);
    let event = event.inspect_err(|problem| {
        tracing::error!(letter = letter.id, %problem, "the event of a dead letter does not read");
    });
    let key = lane_key(&*event.ok()?);
    let job = job.map(str::to_owned);
    let mark = ReplayMark { job: job.clone(), dead_letter: Some(letter.id.clone()) };
    letter.closed = Some(Closed { how: Closing::Redriven { job }, context: context.clone() });
    Some(ReplayItem { seq: letter.seq, key, mark, letter: Some(Box::new(letter)) })
}

/// Events that were read and not handed on yet.
pub(super) type Pending = VecDeque<Arc<Event>>;
