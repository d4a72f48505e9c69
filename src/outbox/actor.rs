//! The outbox actor: owns the queue of appends, the writer thread and the retention of the log.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext as _, Context, Handler, Message};
use parking_lot::Mutex;

use super::intake::Intake;
use super::tail::Tail;
use super::writer::{GroupLimits, Writer};
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::ids::Seq;
use crate::metrics::Metrics;
use crate::store::{ConsumerState, EventLog, StoreError};

/// Drops what retention allows to drop, given the lowest position that a consumer still needs.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Retain {
    /// Nothing at or after this is dropped, unless it is older than `max_consumer_lag_ms`.
    pub needed_from: Seq,
}

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionRules {
    /// Age at which a segment may go.
    pub age_ms: u64,
    /// Bytes of segments above which the oldest may go; zero for no bound.
    pub bytes: u64,
    /// Age at which a segment goes even when a consumer still needs it.
    pub max_consumer_lag_ms: u64,
    /// Age at which attempt records go.
    pub attempts_ms: u64,
    /// Age at which dead letters go.
    pub dead_letters_ms: u64,
}

/// What the outbox works with.
#[derive(Clone)]
pub struct OutboxParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// Attempts and dead letters, for their retention.
    pub state: Arc<dyn ConsumerState>,
    /// Where synced events go.
    pub tail: Arc<Tail>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
    /// Most events of a group.
    pub group_events_max: usize,
    /// What retention does.
    pub retention: RetentionRules,
    /// Where appends come from.
    pub intake: Arc<Intake>,
    /// Held by the writer thread as long as it lives (OB-4); shared by every life of the actor.
    pub writing: Arc<Mutex<()>>,
}

/// Most bytes of a group, besides at least one unit.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Keeps the writer running, and the log within its retention.
pub struct OutboxActor {
    parts: OutboxParts,
}

impl OutboxActor {
    /// An outbox without its thread, which is made when the actor starts.
    #[must_use]
    pub fn new(parts: OutboxParts) -> Self {
        Self { parts }
    }

    fn start_writer(&self) {
        let writer = Writer {
            log: Arc::clone(&self.parts.log),
            tail: Arc::clone(&self.parts.tail),
            metrics: Arc::clone(&self.parts.metrics),
            clock: Arc::clone(&self.parts.clock),
            limits: GroupLimits { events: self.parts.group_events_max, bytes: GROUP_BYTES_MAX },
            alone: Arc::clone(&self.parts.writing),
        };
        let queue = self.parts.intake.begin();
        if let Err(error) = std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run(queue)) {
            tracing::error!(%error, "no thread for the log writer; trying again in a second");
        }
    }
}

impl Drop for OutboxActor {
    fn drop(&mut self) {
        self.parts.intake.end();
    }
}

impl Actor for OutboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_writer();
        ctx.run_interval(Duration::from_secs(1), |outbox, _| {
            if !outbox.parts.intake.has_writer() {
                outbox.start_writer();
            }
        });
    }
}

impl Handler<Retain> for OutboxActor {
    type Result = ();

    fn handle(&mut self, Retain { needed_from }: Retain, _: &mut Self::Context) {
        let parts = self.parts.clone();
        let now = parts.clock.now();
        actix::spawn(async move {
            let done = tokio::task::spawn_blocking(move || retain(&parts, needed_from, now)).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "retention failed; it is tried again"),
                Err(error) => tracing::error!(%error, "retention panicked; it is tried again"),
            }
        });
    }
}

crate::supervised!(OutboxActor);

/// The first position that stays, by the rules. Pure.
#[must_use]
pub(super) fn keep_from(
    segments: &[crate::store::SegmentInfo],
    rules: &RetentionRules,
    needed_from: Seq,
    now: UnixMs,
) -> Seq {
    let mut keep = segments.first().map_or(Seq(1), |segment| segment.first);
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    for segment in segments {
        let age_ms = now.0.saturating_sub(segment.newest_ms);
        let over = age_ms > rules.age_ms || (rules.bytes > 0 && bytes > rules.bytes);
        let needed = segment.last >= needed_from && age_ms <= rules.max_consumer_lag_ms;
        if !over || needed {
            break;
        }
        bytes = bytes.saturating_sub(segment.bytes);
        keep = segment.last.next();
    }
    keep
}

fn retain(parts: &OutboxParts, needed_from: Seq, now: UnixMs) -> Result<(), StoreError> {
    let rules = &parts.retention;
    let keep = keep_from(&parts.log.segments(), rules, needed_from, now);
    for dropped in parts.log.truncate(keep)? {
        tracing::info!(first = dropped.first.0, last = dropped.last.0, "retention dropped a segment of the log");
        if dropped.last >= needed_from {
            let lost_from = dropped.first.max(needed_from);
            tracing::warn!(
                first = lost_from.0,
                last = dropped.last.0,
                "a consumer lags past max_consumer_lag; events it had not settled are gone"
            );
        }
    }
    let expired =
        parts.state.expire(now.0.saturating_sub(rules.attempts_ms), now.0.saturating_sub(rules.dead_letters_ms))?;
    if expired.dead_letters > 0 {
        let open: u64 = expired.open.values().sum();
        tracing::info!(expired = expired.dead_letters, open, "retention dropped dead letters");
        for (consumer, count) in &expired.open {
            parts.metrics.dead_letters_moved(consumer, -i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SegmentInfo;

    const RULES: RetentionRules = RetentionRules {
        age_ms: 1_000,
        bytes: 0,
        max_consumer_lag_ms: 10_000,
        attempts_ms: 1_000,
        dead_letters_ms: 1_000,
    };

    fn segments() -> Vec<SegmentInfo> {
        (0..4)
            .map(|n| SegmentInfo { first: Seq(n * 100 + 1), last: Seq(n * 100 + 100), bytes: 50, newest_ms: n * 1_000 })
            .collect()
    }

    #[test]
    fn age_drops_the_old_segments_that_nobody_needs() {
        assert_eq!(keep_from(&segments(), &RULES, Seq(1_000), UnixMs(3_500)), Seq(301));
        assert_eq!(keep_from(&segments(), &RULES, Seq(150), UnixMs(3_500)), Seq(101));
    }

    #[test]
    fn a_segment_past_the_lag_limit_goes_even_when_needed() {
        assert_eq!(keep_from(&segments(), &RULES, Seq(1), UnixMs(11_500)), Seq(201));
    }

    #[test]
    fn bytes_drop_the_oldest_first() {
        let rules = RetentionRules { age_ms: u64::MAX, bytes: 120, ..RULES };
        assert_eq!(keep_from(&segments(), &rules, Seq(1_000), UnixMs(3_500)), Seq(201));
    }
}
