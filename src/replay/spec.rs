//! What a job does, as it is kept with the job.

use serde::{Deserialize, Serialize};

use crate::event::envelope::Event;
use crate::event::filter::{Decision, EventFilter, TypePattern};
use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Seq, prefixed_from};
use crate::lookup::{Column, Wanted};
use crate::store::DeadLetterRecord;

/// Which of the events that fit a replay are given out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matching {
    /// Those that the consumer's filter matches today.
    #[default]
    Current,
    /// All of them, whatever the consumer's filter says; of its org only.
    All,
    /// Those that the consumer was given before, by its attempt records.
    Delivered,
}

/// A replay of events of the log into one consumer. A clause that is not given does not narrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaySpec {
    /// Into which consumer.
    pub consumer: ConsumerId,
    /// What fits: of the consumer's org only.
    pub filter: EventFilter,
    /// The first position.
    pub from: Seq,
    /// The last position.
    pub to: Seq,
    /// Received at or after.
    pub from_time: Option<UnixMs>,
    /// Received before.
    pub to_time: Option<UnixMs>,
    /// Of aggregates of this type.
    pub aggregate_type: Option<String>,
    /// Of this aggregate.
    pub aggregate_id: Option<String>,
    /// These events, ascending; empty means the whole range.
    pub seqs: Vec<Seq>,
    /// Which of those that fit.
    #[serde(rename = "match")]
    pub matching: Matching,
}

impl ReplaySpec {
    /// Whether an event of the range fits, the consumer's own filter aside.
    #[must_use]
    pub fn fits(&self, event: &Event) -> bool {
        let meta = &event.meta;
        let same = |wanted: &Option<String>, found: Option<&String>| wanted.is_none() || wanted.as_ref() == found;
        same(&self.aggregate_type, meta.aggregate_type.as_ref())
            && same(&self.aggregate_id, meta.aggregate_id.as_ref())
            && self.from_time.is_none_or(|from| event.received_at >= from)
            && self.to_time.is_none_or(|to| event.received_at < to)
            && self.filter.decide(event) == Decision::Match
    }

    /// What the index of the log is asked for, narrowed by the consumer's filter where that counts.
    #[must_use]
    pub fn wanted(&self, filter: Option<&EventFilter>) -> Wanted {
        let own = &self.filter;
        filter
            .map(Wanted::from)
            .unwrap_or_default()
            .with(Column::Org, own.org.as_deref())
            .with_types(&own.event_types)
            .with(Column::Source, own.service.as_deref())
            .with(Column::AggregateType, self.aggregate_type.as_deref())
            .with(Column::AggregateId, self.aggregate_id.as_deref())
            .within(self.from_time, self.to_time)
    }

    /// How much there is to look at.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self.seqs.len() {
            0 => self.to.0.saturating_sub(self.from.prev().0),
            listed => listed as u64,
        }
    }

    /// How much of that lies after one position, up to another.
    pub(super) fn between(&self, after: Seq, upto: Seq) -> u64 {
        if self.seqs.is_empty() {
            return upto.0.saturating_sub(after.0);
        }
        let before = |seq: Seq| self.seqs.partition_point(|one| *one <= seq);
        before(upto).saturating_sub(before(after)) as u64
    }
}

/// A redrive of dead letters, and with `retries_since` of waiting retries too. A clause that is not given does not narrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterSpec {
    /// Of this consumer.
    pub consumer: Option<ConsumerId>,
    /// Of this org.
    pub org: Option<String>,
    /// Of events of this type.
    pub event_type: Option<TypePattern>,
    /// With this kind of error.
    pub error_kind: Option<String>,
    /// Given up at or after.
    pub from: Option<UnixMs>,
    /// Given up before: never after the job was made, so that what fails again is not redriven in a circle.
    pub to: UnixMs,
    /// Makes retries of the consumer due whose last attempt was at or after this.
    pub retries_since: Option<UnixMs>,
}

impl LetterSpec {
    /// Whether a dead letter is meant; an open one only.
    #[must_use]
    pub fn fits(&self, letter: &DeadLetterRecord) -> bool {
        letter.closed.is_none()
            && self.consumer.as_ref().is_none_or(|consumer| *consumer == letter.consumer)
            && self.org.as_ref().is_none_or(|org| *org == letter.org)
            && self.event_type.as_ref().is_none_or(|pattern| pattern.matches(&letter.event_type))
            && self.error_kind.as_ref().is_none_or(|kind| *kind == letter.error_kind)
            && self.from.is_none_or(|from| letter.at >= from)
            && letter.at < self.to
    }
}

/// The id before that of every dead letter given up at this time or later: an id begins with its time.
#[must_use]
pub fn letter_id_at(time: UnixMs) -> String {
    prefixed_from("dlq", time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::ids::prefixed;
    use crate::ground::random::SeededRandom;

    #[test]
    fn ids_of_dead_letters_lie_on_the_right_side_of_the_bound_of_their_time() {
        let random = SeededRandom::shared(3);
        for time in [UnixMs(0), UnixMs(1_795_248_000_123), UnixMs((1 << 48) - 2)] {
            let id = prefixed("dlq", time, &*random);
            assert!(letter_id_at(time) < id && id < letter_id_at(time.plus_ms(1)), "{id}");
        }
    }

    #[test]
    fn a_list_counts_its_events_and_a_range_its_positions() {
        let mut spec: ReplaySpec = serde_json::from_value(serde_json::json!({
            "consumer": "whk_1", "filter": EventFilter::default(), "from": 5, "to": 14, "from_time": null,
            "to_time": null, "aggregate_type": null, "aggregate_id": null, "seqs": [], "match": "current",
        }))
        .expect("reads");
        assert_eq!((spec.total(), spec.between(Seq(4), Seq(14)), spec.between(Seq(9), Seq(9))), (10, 10, 0));
        spec.seqs = vec![Seq(5), Seq(9), Seq(14)];
        assert_eq!((spec.total(), spec.between(Seq(4), Seq(14)), spec.between(Seq(5), Seq(9))), (3, 3, 1));
    }
}
