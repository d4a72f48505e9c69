//! What arrived at one path of the receiver: how often, when first and last, and which ids more than once.
//!
//! An id is kept as a 64-bit hash: among a million ids two alike are a matter of one in 10⁷ runs, and a record costs
//! sixteen bytes.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::Hasher;

/// Counts of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that arrived whole.
    pub requests: u64,
    /// Different ids among them, as far as ids were recorded.
    pub distinct: u64,
    /// Requests with an id seen before.
    pub duplicates: u64,
    /// Requests whose id was not recorded: none given, or no room.
    pub unrecorded: u64,
    /// Monotonic time of the first arrival, in nanoseconds; zero before it.
    pub first_ns: u64,
    /// Monotonic time of the last arrival of an id not seen before, in nanoseconds.
    pub last_ns: u64,
}

/// The arrivals at one path, with at most so many ids.
#[derive(Debug)]
pub struct Arrivals {
    counts: Counts,
    seen: HashMap<u64, u64>,
    ids_max: usize,
}

impl Arrivals {
    /// Nothing has arrived; at most `ids_max` ids will be kept.
    #[must_use]
    pub fn new(ids_max: usize) -> Self {
        Self { counts: Counts::default(), seen: HashMap::new(), ids_max }
    }

    /// The counts up to now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When the id first arrived, in monotonic nanoseconds.
    #[must_use]
    pub fn arrived_ns(&self, id: &[u8]) -> Option<u64> {
        self.seen.get(&hash(id)).copied()
    }

    /// Takes note of an arrival.
    pub fn note(&mut self, id: Option<u64>, now_ns: u64) {
        if self.counts.requests == 0 {
            self.counts.first_ns = now_ns;
        }
        self.counts.requests += 1;
        let Some(id) = id else {
            self.counts.unrecorded += 1;
            self.counts.last_ns = now_ns;
            return;
        };
        let full = self.seen.len() >= self.ids_max;
        match self.seen.entry(id) {
            Entry::Occupied(_) => self.counts.duplicates += 1,
            Entry::Vacant(_) if full => {
                self.counts.unrecorded += 1;
                self.counts.last_ns = now_ns;
            }
            Entry::Vacant(place) => {
                place.insert(now_ns);
                self.counts.distinct += 1;
                self.counts.last_ns = now_ns;
            }
        }
    }
}

/// The hash an id is kept as.
#[must_use]
pub fn hash(id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_arrival_is_a_duplicate_and_keeps_the_first_time() {
        let mut arrivals = Arrivals::new(10);
        arrivals.note(Some(hash(b"a")), 5);
        arrivals.note(Some(hash(b"b")), 7);
        arrivals.note(Some(hash(b"a")), 9);
        let counts = Counts { requests: 3, distinct: 2, duplicates: 1, unrecorded: 0, first_ns: 5, last_ns: 7 };
        assert_eq!(arrivals.counts(), counts);
        assert_eq!(arrivals.arrived_ns(b"a"), Some(5));
        assert_eq!(arrivals.arrived_ns(b"c"), None);
    }

    #[test]
    fn ids_past_the_bound_are_counted_but_not_kept() {
        let mut arrivals = Arrivals::new(1);
        arrivals.note(Some(1), 1);
        arrivals.note(Some(2), 2);
        arrivals.note(Some(1), 3);
        arrivals.note(None, 4);
        let counts = arrivals.counts();
        assert_eq!((counts.distinct, counts.duplicates, counts.unrecorded), (1, 1, 2));
    }
}
