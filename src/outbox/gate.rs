//! The gate before the outbox: bounds the bytes that wait, whatever mailboxes and channels would take, and keeps room in
//! it for tenants that have little waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

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

/// Why a tenant's work is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The gate is full.
    #[error("more events wait than the log takes; come back")]
    Gate,
    /// The tenant has as much waiting as there is room left for everyone.
    #[error("more events of this org wait than its share of the queue; come back")]
    Share,
}

/// A gate that tenants share. What one may hold is bounded by what is left free for everyone (dynamic thresholds, Choudhury
/// and Hahne, 1998): alone it gets half of the gate, beside one that floods likewise a third, and a tenant with nothing
/// waiting finds room whoever floods.
#[derive(Debug)]
pub struct SharedGate {
    gate: Gate,
    bound: usize,
    tenants: DashMap<Arc<str>, Arc<AtomicUsize>>,
}

/// A tenant's share of the gate; given back when dropped.
#[derive(Debug)]
pub struct TenantPermit {
    tenant: Arc<str>,
    held: Arc<AtomicUsize>,
    permit: Permit,
}

/// Tenants that are remembered before those with nothing waiting are forgotten.
const TENANTS_KEPT: usize = 1_024;

/// Whether a tenant that holds `own` of the `held` bytes may hold `bytes` more. Pure.
fn has_share(own: usize, held: usize, bytes: usize, bound: usize) -> bool {
    own == 0 || own.saturating_add(bytes) <= bound.saturating_sub(held)
}

impl SharedGate {
    /// A gate that lets `bound` bytes through at a time.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { gate: Gate::new(bound), bound, tenants: DashMap::new() }
    }

    /// A permit of `tenant` for `bytes`.
    ///
    /// # Errors
    /// [`Full`], with what is full.
    pub fn enter(&self, tenant: &str, bytes: usize) -> Result<TenantPermit, Full> {
        let (tenant, own) = self.tenant(tenant);
        if !has_share(own.load(Ordering::Acquire), self.gate.held(), bytes, self.bound) {
            return Err(Full::Share);
        }
        let permit = self.gate.enter(bytes).ok_or(Full::Gate)?;
        own.fetch_add(bytes, Ordering::AcqRel);
        Ok(TenantPermit { tenant, held: own, permit })
    }

    fn tenant(&self, name: &str) -> (Arc<str>, Arc<AtomicUsize>) {
        if let Some(entry) = self.tenants.get(name) {
            return (Arc::clone(entry.key()), Arc::clone(entry.value()));
        }
        if self.tenants.len() >= TENANTS_KEPT {
            // Nobody holds a permit, or is about to: the map's own is the only handle.
            self.tenants.retain(|_, own| Arc::strong_count(own) > 1);
        }
        let name: Arc<str> = Arc::from(name);
        let own = Arc::clone(&self.tenants.entry(Arc::clone(&name)).or_default());
        (name, own)
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gate.held()
    }

    /// Bytes held by all but this tenant.
    #[must_use]
    pub fn held_beside(&self, tenant: &str) -> usize {
        let own = self.tenants.get(tenant).map_or(0, |own| own.load(Ordering::Acquire));
        self.held().saturating_sub(own)
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound
    }
}

impl TenantPermit {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }
}

impl Drop for TenantPermit {
    fn drop(&mut self) {
        self.held.fetch_sub(self.permit.bytes, Ordering::AcqRel);
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

    #[test]
    fn one_tenant_leaves_half_of_the_gate_and_a_quiet_one_always_finds_room() {
        let gate = SharedGate::new(100);
        let flood: Vec<_> = std::iter::from_fn(|| gate.enter("flood", 10).ok()).collect();
        assert_eq!(gate.held(), 50);
        assert_eq!(gate.enter("flood", 10).expect_err("its share is full"), Full::Share);
        let second: Vec<_> = std::iter::from_fn(|| gate.enter("second", 10).ok()).collect();
        assert_eq!(second.len(), 3, "beside one that floods, another holds no more than stays free");
        let quiet = gate.enter("quiet", 20).expect("a tenant with nothing waiting finds room");
        assert_eq!(gate.enter("other", 10).expect_err("no room at all"), Full::Gate);
        drop((flood, second, quiet));
        assert_eq!(gate.held(), 0);
        assert!(gate.enter("flood", 1_000).is_ok(), "an empty gate lets any size through");
    }

    #[test]
    fn tenants_with_nothing_waiting_are_forgotten_and_the_others_are_not() {
        let gate = SharedGate::new(1_000_000);
        let kept = gate.enter("kept", 600_000).expect("fits");
        for n in 0..3 * TENANTS_KEPT {
            drop(gate.enter(&n.to_string(), 1).expect("fits"));
        }
        assert!(gate.tenants.len() <= TENANTS_KEPT);
        assert_eq!(gate.enter("kept", 1).expect_err("what it holds still counts"), Full::Share);
        drop(kept);
        assert!(gate.enter("kept", 1).is_ok());
    }
}
