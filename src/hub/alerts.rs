//! Alerts of dead letters (RTY-4): each dead letter is in exactly one, and there is at most one a minute for each consumer
//! and org, however many there are. A pure rule on the caller's clock.
//!
//! They are counted in memory: a crash can lose the alert of the last minute, never the dead letter.

use std::collections::HashMap;

use crate::ground::clock::UnixMs;
use crate::ground::ids::ConsumerId;
use crate::inbox::spec::DeadLetterNote;

/// One alert for one consumer and org in this time; the first dead letter after a quiet while is told at once.
pub(super) const ALERT_EVERY_MS: u64 = 60_000;
/// Consumers and orgs that are counted apart at most. Beyond, a dead letter raises no alert of its own.
const GROUPS_MAX: usize = 10_000;

/// Dead letters of one consumer and org since the last alert about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alert {
    /// Whose.
    pub(super) consumer: ConsumerId,
    /// The org of the events.
    pub(super) org: String,
    /// How many.
    pub(super) count: u64,
    /// The first one.
    pub(super) first: DeadLetterNote,
    /// The last one.
    pub(super) last: DeadLetterNote,
}

#[derive(Debug, Default)]
struct Group {
    waiting: Option<(u64, DeadLetterNote, DeadLetterNote)>,
    told_at: Option<UnixMs>,
}

impl Group {
    fn due_at(&self) -> Option<UnixMs> {
        self.waiting.as_ref().map(|_| self.told_at.map_or(UnixMs(0), |told| told.plus_ms(ALERT_EVERY_MS)))
    }
}

/// What was not told yet.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    groups: HashMap<(ConsumerId, String), Group>,
}

impl Alerts {
    /// Takes a dead letter in. False when it is one of too many groups.
    pub(super) fn note(&mut self, consumer: &ConsumerId, note: DeadLetterNote) -> bool {
        let key = (consumer.clone(), note.org.clone());
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            return false;
        }
        let group = self.groups.entry(key).or_default();
        match &mut group.waiting {
            Some((count, _, last)) => {
                *count += 1;
                *last = note;
            }
            None => group.waiting = Some((1, note.clone(), note)),
        }
        true
    }

    /// The alerts whose time has come.
    pub(super) fn take_due(&mut self, now: UnixMs) -> Vec<Alert> {
        let mut due = Vec::new();
        self.groups.retain(|(consumer, org), group| {
            if group.due_at().is_some_and(|at| at <= now)
                && let Some((count, first, last)) = group.waiting.take()
            {
                group.told_at = Some(now);
                due.push(Alert { consumer: consumer.clone(), org: org.clone(), count, first, last });
            }
            // Kept while the next one would come too soon.
            group.waiting.is_some() || group.told_at.is_some_and(|told| now.since_ms(told) < ALERT_EVERY_MS)
        });
        due.sort_by(|a, b| a.first.id.cmp(&b.first.id));
        due
    }

    /// Takes back an alert that could not be told; it is due again after the pause.
    pub(super) fn put_back(&mut self, alert: Alert) {
        let Alert { consumer, org, count, first, last } = alert;
        let group = self.groups.entry((consumer, org)).or_default();
        group.waiting = Some(match group.waiting.take() {
            Some((more, _, newest)) => (count + more, first, newest),
            None => (count, first, last),
        });
    }

    /// When the next alert is due; none while nothing waits.
    pub(super) fn next_at(&self) -> Option<UnixMs> {
        self.groups.values().filter_map(Group::due_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMs = UnixMs(1_795_248_000_000);

    fn note(n: u64, org: &str) -> DeadLetterNote {
        DeadLetterNote { id: format!("dlq_{n}"), org: org.to_owned(), at: START.plus_ms(n), kind: "status".to_owned() }
    }

    #[test]
    fn the_first_is_told_at_once_and_a_flood_once_a_minute_each_counted_once() {
        let mut alerts = Alerts::default();
        let consumer = ConsumerId::new("whk_1");
        let mut counts = Vec::new();
        for second in 0..200 {
            for n in 0..10 {
                assert!(alerts.note(&consumer, note(second * 10 + n, "acme")));
                counts.extend(alerts.take_due(START.plus_ms(second * 1_000)).iter().map(|alert| alert.count));
            }
        }
        let end = START.plus_ms(400_000);
        counts.extend(alerts.take_due(end).iter().map(|alert| alert.count));
        assert_eq!(counts, [1, 600, 600, 600, 199]);
        assert_eq!(alerts.next_at(), None);
        assert!(alerts.take_due(end.plus_ms(ALERT_EVERY_MS)).is_empty());
        assert!(alerts.groups.is_empty(), "a quiet group is forgotten");
    }

    #[test]
    fn consumers_and_orgs_are_told_apart_and_bounded() {
        let mut alerts = Alerts::default();
        let (a, b) = (ConsumerId::new("a"), ConsumerId::new("b"));
        alerts.note(&a, note(1, "acme"));
        alerts.note(&b, note(2, "acme"));
        alerts.note(&a, note(3, "globex"));
        alerts.note(&a, note(4, "acme"));
        let due = alerts.take_due(START);
        let told: Vec<_> = due.iter().map(|one| (one.first.id.as_str(), one.last.id.as_str(), one.count)).collect();
        assert_eq!(told, [("dlq_1", "dlq_4", 2), ("dlq_2", "dlq_2", 1), ("dlq_3", "dlq_3", 1)]);
        alerts.note(&a, note(5, "acme"));
        alerts.put_back(due[0].clone());
        let again = alerts.groups[&(a.clone(), "acme".to_owned())].waiting.clone().expect("waits");
        assert_eq!((again.0, again.1.id.as_str(), again.2.id.as_str()), (3, "dlq_1", "dlq_5"));
        assert_eq!(alerts.next_at(), Some(START.plus_ms(ALERT_EVERY_MS)));
        for n in 0..GROUPS_MAX as u64 {
            alerts.note(&a, note(n, &format!("org-{n}")));
        }
        assert_eq!(alerts.groups.len(), GROUPS_MAX);
        assert!(!alerts.note(&b, note(1, "one more")));
    }
}
