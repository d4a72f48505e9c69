//! Why an event did or did not reach a consumer, and where its delivery stands (WHK-9). Pure: facts in, answer out.
//!
//! The facts are what the code acts on itself: the filter's decision, the standing and hold of the inbox, the state of
//! the breaker, the attempt records, the dead letters. What is gathered here is only their order: of several reasons
//! that hold at once the answer names the one that must go first.
//!
//! - `EX-1` A consumer that the event does not match, or that began after it, has no delivery.
//! - `EX-2` What is settled stays as it was settled, whatever holds the consumer now.
//! - `EX-3` What is out is out, also while the consumer is paused or its upstream rests.
//! - `EX-4` Of what waits, the answer names what keeps the whole consumer (paused, breaker, rate) before what keeps the
//!   one event (its key, its due time, its place in the log).

use serde_json::{Value, json};

use crate::breaker::state::BreakerState;
use crate::event::filter::Clause;
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::inbox::state::{Hold, Standing};
use crate::store::AttemptRecord;

/// Outcome of an attempt that succeeded.
pub const DELIVERED: &str = "delivered";

/// What is known of one event and one consumer.
#[derive(Clone, Debug)]
pub enum Facts {
    /// The filter says no.
    NotMatched {
        /// The clause that decided.
        clause: Clause,
        /// Why, in words.
        reason: String,
    },
    /// The consumer gets only what comes after this.
    BeforeStart {
        /// Where it began.
        from: Seq,
    },
    /// The event is one for this consumer.
    Matched(Box<Stand>),
}

/// Where a matching event is found.
#[derive(Clone, Debug)]
pub struct Stand {
    /// The event.
    pub seq: Seq,
    /// The first position still in the log.
    pub earliest: Seq,
    /// Whether the consumer is paused.
    pub paused: bool,
    /// What the inbox says, or the store where no inbox runs.
    pub standing: Standing,
    /// Everything up to here was looked at for this consumer.
    pub reached: Seq,
    /// When the claim on it runs out.
    pub lease_until: Option<UnixMs>,
    /// The id of the event it waits behind.
    pub waits_for: Option<String>,
    /// What keeps the inbox from claiming.
    pub hold: Option<Hold>,
    /// The breaker of its upstream, when it has one.
    pub breaker: Option<BreakerState>,
    /// The newest attempt that is kept.
    pub last: Option<AttemptRecord>,
    /// The dead letter, when it became one.
    pub dead_letter: Option<String>,
}

/// Where a delivery stands, by its stable name (OUT-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It waits for its first attempt.
    Pending,
    /// It is out.
    Processing,
    /// It failed, and is tried again.
    Failed,
    /// It is done.
    Processed,
    /// It was given up.
    DeadLetter,
    /// It is not for this consumer.
    Skipped,
}

impl Status {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Failed => "failed",
            Self::Processed => "processed",
            Self::DeadLetter => "dead_letter",
            Self::Skipped => "skipped",
        }
    }
}

/// What a delivery waits for, or what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// There is none: the filter says no.
    NotMatched,
    /// There is none: the consumer began after the event.
    BeforeStart {
        /// Where it began.
        from: Seq,
    },
    /// Retention dropped the event before it was read for this consumer.
    Gap,
    /// The consumer has not come so far yet.
    NotReached {
        /// How far it is.
        reached: Seq,
        /// How many positions are between.
        behind: u64,
    },
    /// The whole hub is paused by an operator.
    HubPaused,
    /// The consumer is paused.
    Paused,
    /// The breaker lets nothing through.
    BreakerOpen {
        /// Its phase.
        phase: &'static str,
        /// When it lets a probe through; none until a command.
        until: Option<UnixMs>,
    },
    /// The upstream, or a limit on it, takes no more for now.
    RateLimited {
        /// Until when.
        until: UnixMs,
    },
    /// It waits behind an older event of its ordering key.
    WaitingBehindKey {
        /// That event's position.
        seq: Seq,
        /// That event's id.
        id: Option<String>,
    },
    /// It is next, as soon as there is a place.
    Queued,
    /// It failed and is tried again.
    NextTryAt {
        /// When.
        at: UnixMs,
    },
    /// It is out.
    InFlight {
        /// Which attempt.
        attempt: u32,
        /// When it is given out again without an answer.
        lease_until: Option<UnixMs>,
    },
    /// It was taken.
    Delivered {
        /// When.
        at: UnixMs,
        /// By which attempt.
        attempt: u32,
    },
    /// It was given up.
    Dead {
        /// When.
        at: UnixMs,
        /// Its dead letter, when one was made and is still kept.
        dead_letter_id: Option<String>,
    },
    /// It is settled, and no attempt of it is kept: it was long ago, or the filter did not match then.
    Settled,
}

/// The answer for one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the filter says yes.
    pub matched: bool,
    /// The clause that said no.
    pub decided_by: Option<Clause>,
    /// Why, in words.
    pub detail: Option<String>,
    /// Where the delivery stands.
    pub status: Status,
    /// Attempts made; while it is out, this one included.
    pub attempts: u32,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it is tried again.
    pub next_try_at: Option<UnixMs>,
    /// What it waits for, or what became of it.
    pub delivery: Delivery,
}

/// The answer that these facts make.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    let skipped = |matched, decided_by, detail, delivery| Explanation {
        matched,
        decided_by,
        detail,
        status: Status::Skipped,
        attempts: 0,
        last_error: None,
        next_try_at: None,
        delivery,
    };
    match facts {
        Facts::NotMatched { clause, reason } => {
            skipped(false, Some(*clause), Some(reason.clone()), Delivery::NotMatched)
        }
        Facts::BeforeStart { from } => skipped(true, None, None, Delivery::BeforeStart { from: *from }),
        Facts::Matched(stand) => of_match(stand),
    }
}

fn of_match(stand: &Stand) -> Explanation {
    let recorded = stand.last.as_ref().map_or(0, |last| last.attempt);
    let (status, attempts, next_try_at, delivery) = match stand.standing {
        Standing::Settled => {
            let (status, delivery) = settled(stand);
            (status, recorded, None, delivery)
        }
        Standing::Processing { attempts } => {
            let delivery = Delivery::InFlight { attempt: attempts, lease_until: stand.lease_until };
            (Status::Processing, attempts, None, delivery)
        }
        Standing::Failed { due_at, attempts } => {
            let delivery = held(stand).unwrap_or(Delivery::NextTryAt { at: due_at });
            (Status::Failed, attempts, Some(due_at), delivery)
        }
        Standing::BehindKey { head } => {
            let behind = || Delivery::WaitingBehindKey { seq: head, id: stand.waits_for.clone() };
            (Status::Pending, recorded, None, held(stand).unwrap_or_else(behind))
        }
        Standing::Pending => (Status::Pending, recorded, None, held(stand).unwrap_or(Delivery::Queued)),
        Standing::Ahead if stand.seq < stand.earliest => (Status::Skipped, recorded, None, Delivery::Gap),
        Standing::Ahead => {
            let behind = stand.seq.0.saturating_sub(stand.reached.0);
            let behind = || Delivery::NotReached { reached: stand.reached, behind };
            (Status::Pending, recorded, None, held(stand).unwrap_or_else(behind))
        }
    };
    let failed = stand.last.as_ref().filter(|last| last.outcome != DELIVERED);
    Explanation {
        matched: true,
        decided_by: None,
        detail: None,
        status,
        attempts,
        last_error: failed.and_then(|last| last.error.clone()),
        next_try_at,
        delivery,
    }
}

fn settled(stand: &Stand) -> (Status, Delivery) {
    match &stand.last {
        Some(last) if last.outcome == DELIVERED => {
            (Status::Processed, Delivery::Delivered { at: last.at, attempt: last.attempt })
        }
        Some(last) if last.next_try_at.is_none() => {
            (Status::DeadLetter, Delivery::Dead { at: last.at, dead_letter_id: stand.dead_letter.clone() })
        }
        Some(_) | None => (Status::Processed, Delivery::Settled),
    }
}

/// What keeps the whole consumer, if anything does (`EX-4`).
fn held(stand: &Stand) -> Option<Delivery> {
    let resting = match stand.hold {
        Some(Hold::HubPaused) => return Some(Delivery::HubPaused),
        Some(Hold::Paused) => return Some(Delivery::Paused),
        _ if stand.paused => return Some(Delivery::Paused),
        Some(Hold::Suspended { until } | Hold::RateLimited { until }) => Some(until),
        None => None,
    };
    let phase = stand.breaker.as_ref().map(|breaker| breaker.phase().as_str()).unwrap_or_default();
    match (&stand.breaker, resting) {
        (Some(BreakerState::Open { until, .. }), _) => Some(Delivery::BreakerOpen { phase, until: Some(*until) }),
        (Some(BreakerState::ForcedOpen), _) => Some(Delivery::BreakerOpen { phase, until: None }),
        (Some(BreakerState::HalfOpen { .. }), Some(until)) => Some(Delivery::BreakerOpen { phase, until: Some(until) }),
        (_, Some(until)) => Some(Delivery::RateLimited { until }),
        (_, None) => None,
    }
}

impl Delivery {
    /// As it is answered: `{"state": …}` and what belongs to it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let time = |at: &Option<UnixMs>| at.map(UnixMs::to_rfc3339);
        match self {
            Self::NotMatched => json!({"state": "not_matched"}),
            Self::BeforeStart { from } => json!({"state": "before_start", "from": from.0}),
            Self::Gap => json!({"state": "gap"}),
            Self::NotReached { reached, behind } => {
                json!({"state": "not_reached", "reached": reached.0, "behind": behind})
            }
            Self::HubPaused => json!({"state": "hub_paused"}),
            Self::Paused => json!({"state": "paused"}),
            Self::BreakerOpen { phase, until } => {
                json!({"state": "breaker_open", "phase": phase, "until": time(until)})
            }
            Self::RateLimited { until } => json!({"state": "rate_limited", "until": until.to_rfc3339()}),
            Self::WaitingBehindKey { seq, id } => json!({"state": "waiting_behind_key", "seq": seq.0, "id": id}),
            Self::Queued => json!({"state": "queued"}),
            Self::NextTryAt { at } => json!({"state": "next_try_at", "at": at.to_rfc3339()}),
            Self::InFlight { attempt, lease_until } => {
                json!({"state": "in_flight", "attempt": attempt, "lease_until": time(lease_until)})
            }
            Self::Delivered { at, attempt } => {
                json!({"state": "delivered", "at": at.to_rfc3339(), "attempt": attempt})
            }
            Self::Dead { at, dead_letter_id } => {
                json!({"state": "dead", "at": at.to_rfc3339(), "dead_letter_id": dead_letter_id})
            }
            Self::Settled => json!({"state": "settled"}),
        }
    }
}

impl Explanation {
    /// As it is answered, for this consumer.
    #[must_use]
    pub fn to_json(&self, consumer: &str, kind: &str) -> Value {
        json!({
            "consumer": consumer,
            "kind": kind,
            "matched": self.matched,
            "decided_by": self.decided_by.map(Clause::as_str),
            "detail": self.detail,
            "status": self.status.as_str(),
            "attempts": self.attempts,
            "last_error": self.last_error,
            "next_try_at": self.next_try_at.map(UnixMs::to_rfc3339),
            "delivery": self.delivery.to_json(),
        })
    }
}

#[cfg(test)]
mod tests;
