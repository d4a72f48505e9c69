//! Events given out again because somebody asked: replays, redriven dead letters, retries that are to be made now.

use std::sync::Arc;

use actix::{Context, Handler, ResponseFuture};

use super::InboxActor;
use crate::event::envelope::Event;
use crate::event::restore::restore;
use crate::ground::hash::stable_hash;
use crate::ground::ids::Seq;
use crate::ground::random::SharedRandom;
use crate::inbox::catch_up::{LogReader, blocking};
use crate::inbox::messages::{Hasten, HastenAnswer, Replay, ReplayAnswer, ReplayItem};
use crate::inbox::state::{Hastened, Replayed};
use crate::store::{ConsumerState, StateOp, StoreError};

/// Hash of the event's ordering key; events without one each have their own. Rows hold it.
#[must_use]
pub fn lane_key(event: &Event) -> u64 {
    match &event.meta.ordering_key {
        Some(key) => stable_hash(&[&event.meta.org, key]),
        None => event.seq.0 ^ (1 << 63),
    }
}

/// What the events of claims are read with.
pub(super) struct Fetcher {
    pub(super) reader: LogReader,
    pub(super) state: Arc<dyn ConsumerState>,
    pub(super) random: SharedRandom,
}

impl Fetcher {
    /// The events at these positions: from the log, else from the dead letter that is named. What neither has is left
    /// out.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub(super) async fn fetch(self, wanted: Vec<(Seq, Option<String>)>) -> Result<Vec<Arc<Event>>, StoreError> {
        let Self { reader, state, random } = self;
        let mut events = reader.fetch(wanted.iter().map(|(seq, _)| *seq).collect()).await?;
        let missing: Vec<(Seq, String)> = wanted
            .into_iter()
            .filter(|(seq, _)| events.iter().all(|event| event.seq != *seq))
            .filter_map(|(seq, letter)| Some((seq, letter?)))
            .collect();
        if missing.is_empty() {
            return Ok(events);
        }
        let kept = blocking(move || {
            let mut kept = Vec::with_capacity(missing.len());
            for (seq, id) in missing {
                let Some(letter) = state.dead_letter(&id)? else { continue };
                match restore(&letter.event, seq, letter.at, &*random) {
                    Ok(event) => kept.push(event),
                    Err(problem) => tracing::error!(letter = id, %problem, "the event of a dead letter does not read"),
                }
            }
            Ok(kept)
        });
        events.extend(kept.await?);
        Ok(events)
    }
}

impl InboxActor {
    /// Takes events of a replay until there is no room. None while the state is not there yet.
    fn take_replay(&mut self, items: Vec<ReplayItem>) -> Option<(Vec<ReplayAnswer>, Vec<StateOp>)> {
        let now = self.now();
        if self.quiesced || self.session.is_congested() {
            return None;
        }
        let state = self.state.as_mut()?;
        let (mut answers, mut ops) = (Vec::with_capacity(items.len()), Vec::new());
        let mut full = false;
        for ReplayItem { seq, key, mark, letter } in items {
            if full {
                answers.push(ReplayAnswer::Full);
                continue;
            }
            let answer = match state.replay(seq, key, mark, now) {
                Replayed::Taken(change) => {
                    ops.push(change.into_op(&self.parts.consumer));
                    ReplayAnswer::Taken
                }
                Replayed::UnderWay => ReplayAnswer::UnderWay,
                Replayed::Full => {
                    full = true;
                    ReplayAnswer::Full
                }
            };
            if answer != ReplayAnswer::Full {
                ops.extend(letter.map(StateOp::PutDeadLetter));
            }
            answers.push(answer);
        }
        Some((answers, ops))
    }

    /// Writes the operations and answers when they can be read.
    fn write_and_answer<T: Send + 'static>(
        &mut self,
        done: Option<(Vec<T>, Vec<StateOp>)>,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<Vec<T>, StoreError>> {
        let Some((answers, ops)) = done else {
            return Box::pin(std::future::ready(Err(StoreError::Unavailable)));
        };
        self.session.commit(ops);
        let session = self.session.clone();
        self.turn(ctx);
        Box::pin(async move {
            session.drained().await?;
            Ok(answers)
        })
    }
}

impl Handler<Replay> for InboxActor {
    type Result = ResponseFuture<Result<Vec<ReplayAnswer>, StoreError>>;

    fn handle(&mut self, Replay { items }: Replay, ctx: &mut Self::Context) -> Self::Result {
        let done = self.take_replay(items);
        self.write_and_answer(done, ctx)
    }
}

impl Handler<Hasten> for InboxActor {
    type Result = ResponseFuture<Result<Vec<HastenAnswer>, StoreError>>;

    fn handle(&mut self, Hasten { rows }: Hasten, ctx: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let consumer = &self.parts.consumer;
        let done = self.state.as_mut().map(|state| {
            let mut ops = Vec::new();
            let mut hasten = |(seq, row)| match state.hasten(seq, &row, now) {
                Hastened::Due(change) => {
                    ops.push(change.into_op(consumer));
                    HastenAnswer::Due
                }
                Hastened::InFlight => HastenAnswer::InFlight,
                Hastened::Pending => HastenAnswer::Pending,
                Hastened::Settled => HastenAnswer::Settled,
            };
            let answers = rows.into_iter().map(&mut hasten).collect();
            (answers, ops)
        });
        self.write_and_answer(done, ctx)
    }
}
