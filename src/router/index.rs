//! Which subscriptions an event matches: an index from org to exact type, prefix and wildcard, so that an event costs
//! its matches and not the number of subscriptions.
//!
//! - `IX-1` A subscription stands at most once among the candidates of an event: patterns that another pattern of the
//!   same filter covers are not indexed, and the rest are disjoint.
//! - `IX-2` `matches` gives exactly the subscriptions whose filter decides `Match`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, LazyLock};

use crate::event::envelope::Event;
use crate::event::filter::subject::Subject;
use crate::event::filter::{Decision, EventFilter, OWN_PREFIX, TypePattern, is_own};

/// A subscription in one place of the index.
#[derive(Clone, Debug)]
struct Candidate<K> {
    key: K,
    /// The filter, when it has clauses beside org and type.
    narrowed_by: Option<Arc<EventFilter>>,
}

/// The subscriptions of one org.
#[derive(Debug)]
struct Table<K> {
    all: Vec<Candidate<K>>,
    exact: HashMap<String, Vec<Candidate<K>>>,
    prefix: HashMap<String, Vec<Candidate<K>>>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { all: Vec::new(), exact: HashMap::new(), prefix: HashMap::new() }
    }
}

impl<K: Copy + Eq> Table<K> {
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.exact.is_empty() && self.prefix.is_empty()
    }

    fn insert(&mut self, pattern: &TypePattern, candidate: Candidate<K>) {
        match pattern {
            TypePattern::All => self.all.push(candidate),
            TypePattern::Prefix(prefix) => self.prefix.entry(prefix.clone()).or_default().push(candidate),
            TypePattern::Exact(exact) => self.exact.entry(exact.clone()).or_default().push(candidate),
        }
    }

    fn remove(&mut self, pattern: &TypePattern, key: K) {
        match pattern {
            TypePattern::All => self.all.retain(|candidate| candidate.key != key),
            TypePattern::Prefix(prefix) => remove_from(&mut self.prefix, prefix, key),
            TypePattern::Exact(exact) => remove_from(&mut self.exact, exact, key),
        }
    }

    fn matches(&self, subject: &Subject<'_>, out: &mut Vec<K>) {
        let event_type = subject.event.meta.event_type.as_str();
        let mut take = |candidates: &[Candidate<K>]| {
            let fits = |candidate: &&Candidate<K>| match &candidate.narrowed_by {
                Some(filter) => filter.decide_on(subject) == Decision::Match,
                None => true,
            };
            out.extend(candidates.iter().filter(fits).map(|candidate| candidate.key));
        };
        if !is_own(event_type) {
            take(&self.all);
        }
        if let Some(candidates) = self.exact.get(event_type) {
            take(candidates);
        }
        if self.prefix.is_empty() {
            return;
        }
        for (dot, _) in event_type.match_indices('.') {
            if let Some(candidates) = self.prefix.get(&event_type[..dot]) {
                take(candidates);
            }
        }
    }
}

fn remove_from<K: Copy + Eq>(places: &mut HashMap<String, Vec<Candidate<K>>>, name: &str, key: K) {
    if let Some(candidates) = places.get_mut(name) {
        candidates.retain(|candidate| candidate.key != key);
        if candidates.is_empty() {
            places.remove(name);
        }
    }
}

/// The index. `K` stands for a subscription, such as its slot in a list.
#[derive(Debug)]
pub struct SubscriptionIndex<K> {
    by_org: HashMap<String, Table<K>>,
    every_org: Table<K>,
    filters: HashMap<K, Arc<EventFilter>>,
}

impl<K> Default for SubscriptionIndex<K> {
    fn default() -> Self {
        Self { by_org: HashMap::new(), every_org: Table::default(), filters: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash> SubscriptionIndex<K> {
    /// An index of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many subscriptions it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// The filter of a subscription.
    #[must_use]
    pub fn filter(&self, key: K) -> Option<&Arc<EventFilter>> {
        self.filters.get(&key)
    }

    /// Puts a subscription in, or gives one that is in another filter.
    pub fn insert(&mut self, key: K, filter: &EventFilter) {
        self.remove(key);
        let filter = Arc::new(filter.clone());
        let narrow = filter.channel.is_some()
            || filter.facility.is_some()
            || filter.service.is_some()
            || filter.expression.is_some()
            || !filter.requires.is_empty();
        let table = match &filter.org {
            Some(org) => self.by_org.entry(org.clone()).or_default(),
            None => &mut self.every_org,
        };
        for pattern in indexed_patterns(&filter) {
            table.insert(pattern, Candidate { key, narrowed_by: narrow.then(|| Arc::clone(&filter)) });
        }
        self.filters.insert(key, filter);
    }

    /// Takes a subscription out; nothing happens when it is not in.
    pub fn remove(&mut self, key: K) {
        let Some(filter) = self.filters.remove(&key) else { return };
        let Some(org) = &filter.org else {
            indexed_patterns(&filter).for_each(|pattern| self.every_org.remove(pattern, key));
            return;
        };
        let Some(table) = self.by_org.get_mut(org) else { return };
        indexed_patterns(&filter).for_each(|pattern| table.remove(pattern, key));
        if table.is_empty() {
            self.by_org.remove(org);
        }
    }

    /// Appends the subscriptions that the event matches, each once, in no particular order. What their expressions look
    /// at is parsed once for all of them.
    pub fn matches(&self, event: &Event, out: &mut Vec<K>) {
        let subject = Subject::new(event);
        if let Some(table) = self.by_org.get(&event.meta.org) {
            table.matches(&subject, out);
        }
        self.every_org.matches(&subject, out);
    }
}

/// Every type there is: those of producers, and the hub's own.
static EVERY_TYPE: LazyLock<[TypePattern; 2]> =
    LazyLock::new(|| [TypePattern::All, TypePattern::Prefix(OWN_PREFIX.trim_end_matches('.').to_owned())]);

/// The patterns under which a filter is indexed: those that no other of its patterns covers (`IX-1`).
fn indexed_patterns(filter: &EventFilter) -> impl Iterator<Item = &TypePattern> {
    let patterns = &filter.event_types;
    let covered = move |at: usize| {
        let covers = |other: usize| {
            let earlier_or_wider = other < at || !patterns[at].covers(&patterns[other]);
            other != at && patterns[other].covers(&patterns[at]) && earlier_or_wider
        };
        (0..patterns.len()).any(covers)
    };
    let every: &[TypePattern] = if patterns.is_empty() { &*EVERY_TYPE } else { &[] };
    every.iter().chain((0..patterns.len()).filter(move |&at| !covered(at)).map(move |at| &patterns[at]))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::event::envelope::EventMeta;
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::Seq;

    fn placed(meta: EventMeta) -> Arc<Event> {
        Event::new(Seq(1), UnixMs(1), meta, Bytes::from_static(b"{}"))
    }

    fn event(org: &str, event_type: &str, channel: Option<&str>) -> Arc<Event> {
        placed(EventMeta {
            org: org.to_owned(),
            event_type: event_type.to_owned(),
            channel: channel.map(str::to_owned),
            ..EventMeta::default()
        })
    }

    fn filter(org: Option<&str>, patterns: &[&str]) -> EventFilter {
        EventFilter {
            org: org.map(str::to_owned),
            event_types: patterns.iter().map(|text| TypePattern::parse(text).expect("a pattern")).collect(),
            ..EventFilter::default()
        }
    }

    fn found(index: &SubscriptionIndex<u32>, event: &Event) -> Vec<u32> {
        let mut out = Vec::new();
        index.matches(event, &mut out);
        out.sort_unstable();
        out
    }

    #[test]
    fn a_subscription_with_overlapping_patterns_is_found_once() {
        let mut index = SubscriptionIndex::new();
        index.insert(1, &filter(Some("acme"), &["invoice.*", "invoice.paid", "invoice.*", "invoice.paid.*"]));
        index.insert(2, &filter(Some("acme"), &["*", "invoice.*"]));
        index.insert(3, &filter(None, &["invoice.paid", "invoice.paid"]));
        index.insert(4, &filter(Some("acme"), &[]));
        assert_eq!(found(&index, &event("acme", "invoice.paid", None)), [1, 2, 3, 4]);
        assert_eq!(found(&index, &event("acme", "invoice.paid.late", None)), [1, 2, 4]);
        assert_eq!(found(&index, &event("acme", "invoice", None)), [2, 4]);
        assert_eq!(found(&index, &event("other", "invoice.paid", None)), [3]);
        assert_eq!(
            found(&index, &event("acme", "tidegate.webhook.paused", None)),
            [4],
            "`*` does not mean the hub's own"
        );
    }

    #[test]
    fn an_index_whose_subscriptions_all_left_holds_nothing() {
        let mut index = SubscriptionIndex::new();
        index.insert(1, &filter(Some("acme"), &["a.*", "b"]));
        index.insert(1, &filter(None, &["c.*", "d", "*"]));
        assert_eq!(found(&index, &event("acme", "a.x", None)), [1]);
        assert!(index.by_org.is_empty(), "the first filter left nothing behind");
        index.remove(1);
        index.remove(2);
        assert!(index.is_empty() && index.every_org.is_empty());
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "tidegate"]), 1..4)
            .prop_map(|parts| parts.join("."))
    }

    fn pattern() -> impl Strategy<Value = TypePattern> {
        prop_oneof![
            1 => Just(TypePattern::All),
            4 => name().prop_map(TypePattern::Prefix),
            4 => name().prop_map(TypePattern::Exact),
        ]
    }

    fn scope() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop::sample::select(vec!["x", "y"]).prop_map(str::to_owned))
    }

    fn any_filter() -> impl Strategy<Value = EventFilter> {
        (scope(), prop::collection::vec(pattern(), 0..4), scope(), scope(), scope()).prop_map(
            |(org, event_types, channel, facility, service)| EventFilter {
                org,
                event_types,
                channel,
                facility,
                service,
                ..EventFilter::default()
            },
        )
    }

    fn any_event() -> impl Strategy<Value = Arc<Event>> {
        (scope(), name(), scope(), scope(), scope()).prop_map(|(org, event_type, channel, facility, source)| {
            let org = org.unwrap_or_default();
            placed(EventMeta { org, event_type, channel, facility, source, ..EventMeta::default() })
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_loop_over_all_filters_finds(
            steps in prop::collection::vec((0_u32..12, prop::option::weighted(0.8, any_filter())), 0..40),
            events in prop::collection::vec(any_event(), 1..10),
        ) {
            let mut index = SubscriptionIndex::new();
            let mut model = std::collections::BTreeMap::new();
            for (key, filter) in steps {
                match filter {
                    Some(filter) => {
                        index.insert(key, &filter);
                        model.insert(key, filter);
                    }
                    None => {
                        index.remove(key);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for event in &events {
                let fits = |filter: &EventFilter| filter.decide(event) == Decision::Match;
                let wanted: Vec<u32> = model.iter().filter(|(_, filter)| fits(filter)).map(|(key, _)| *key).collect();
                prop_assert_eq!(found(&index, event), wanted, "{:?}", event);
            }
        }
    }
}
