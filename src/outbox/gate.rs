//! The gate before the outbox: bounds the bytes that wait, whatever mailboxes and channels would take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes in flight.
#[derive(Clone, Debug)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    held: AtomicUsize,
    bound: usize,
}

/// A share of the gate; given back when dropped, wherever the work it travels with ends.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<State>,
    bytes: usize,
}

impl Gate {
    /// A gate that lets `bound` bytes through at a time.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self(Arc::new(State { held: AtomicUsize::new(0), bound }))
    }

    /// A permit for `bytes`; none when the gate is full. When nothing is held, any size passes.
    #[must_use]
    pub fn enter(&self, bytes: usize) -> Option<Permit> {
        self.0
            .held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
                (held == 0 || held.saturating_add(bytes) <= self.0.bound).then_some(held.saturating_add(bytes))
            })
            .ok()
            .map(|_| Permit { gate: Arc::clone(&self.0), bytes })
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_refuses_until_a_permit_is_dropped() {
        let gate = Gate::new(100);
        let first = gate.enter(60).expect("fits");
        assert!(gate.enter(60).is_none());
        let second = gate.enter(40).expect("fits exactly");
        drop(first);
        assert_eq!(gate.held(), 40);
        drop(second);
        assert!(gate.enter(1_000).is_some(), "an empty gate lets any size through");
    }
}
