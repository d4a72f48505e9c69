//! What a consumer that is given only what it asks for has asked for.
//!
//! A lease begins with the claim, so an inbox must claim no more than somebody waits for. Whoever takes the deliveries
//! says how many are wanted; the inbox counts those that are on their way, and claims the difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Deliveries wanted, and those on their way.
#[derive(Debug, Default)]
pub struct Demand {
    wanted: AtomicUsize,
    coming: AtomicUsize,
}

impl Demand {
    /// Says how many are wanted now, those on their way included. Said before the latter are let go of
    /// ([`super::messages::Ticket::arrived`]), so that none is claimed twice.
    pub fn set(&self, wanted: usize) {
        self.wanted.store(wanted, Ordering::Release);
    }

    /// How many may be claimed.
    #[must_use]
    pub fn room(&self) -> usize {
        self.wanted.load(Ordering::Acquire).saturating_sub(self.coming.load(Ordering::Acquire))
    }

    /// Counts a claim as on its way, for as long as what is returned lives.
    #[must_use]
    pub fn expect(self: &Arc<Self>) -> Expected {
        self.coming.fetch_add(1, Ordering::AcqRel);
        Expected(Arc::clone(self))
    }
}

/// One claim on its way to whoever asked for it.
#[derive(Debug)]
pub struct Expected(Arc<Demand>);

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_not_claimed_again() {
        let demand = Arc::new(Demand::default());
        demand.set(3);
        let (first, second) = (demand.expect(), demand.expect());
        assert_eq!(demand.room(), 1);
        demand.set(2);
        drop(first);
        assert_eq!(demand.room(), 1, "one has come, one is on its way, one is wanted besides");
        demand.set(0);
        assert_eq!(demand.room(), 0, "who asked has gone; the one on its way is given back");
        drop(second);
        assert_eq!(demand.room(), 0);
    }
}
