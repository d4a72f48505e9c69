//! Who goes next when more is queued than one group holds: tenants take turns by bytes, so that the flood of one does
//! not make the others wait behind it. Deficit round robin (Shreedhar and Varghese, 1995); pure.
//!
//! Within a tenant the order of arrival is kept. A tenant with nothing queued has no state here.

use std::collections::{HashMap, VecDeque};

/// Bytes a tenant may take in one turn. A turn of a group of 4 MiB reaches 64 tenants that all flood; a single event of
/// a quiet tenant waits for one such turn of each of the others at most.
const QUANTUM_BYTES: usize = 64 << 10;

/// What waits, by tenant.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    tenants: HashMap<Box<str>, Waiting<T>>,
    /// The tenants that have something queued, the one whose turn it is first.
    turns: VecDeque<Box<str>>,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<(usize, T)>,
    /// Bytes it may still take in its turn.
    credit: usize,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { tenants: HashMap::new(), turns: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Queues something of a tenant, behind what the tenant has queued already.
    pub(super) fn push(&mut self, tenant: &str, bytes: usize, item: T) {
        if let Some(waiting) = self.tenants.get_mut(tenant) {
            waiting.items.push_back((bytes, item));
            return;
        }
        let waiting = Waiting { items: VecDeque::from([(bytes, item)]), credit: QUANTUM_BYTES };
        self.tenants.insert(tenant.into(), waiting);
        self.turns.push_back(tenant.into());
    }

    /// The next item, with its bytes.
    pub(super) fn pop(&mut self) -> Option<(usize, T)> {
        loop {
            let tenant = self.turns.front()?;
            let alone = self.turns.len() == 1;
            let waiting = self.tenants.get_mut(tenant)?;
            let bytes = waiting.items.front().map_or(0, |(bytes, _)| *bytes);
            if !alone && bytes > waiting.credit {
                waiting.credit = waiting.credit.saturating_add(QUANTUM_BYTES);
                self.turns.rotate_left(1);
                continue;
            }
            waiting.credit = waiting.credit.saturating_sub(bytes);
            let item = waiting.items.pop_front();
            if waiting.items.is_empty()
                && let Some(tenant) = self.turns.pop_front()
            {
                self.tenants.remove(&tenant);
            }
            return item;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(queue: &mut FairQueue<(usize, usize)>) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect()
    }

    #[test]
    fn an_event_of_a_quiet_tenant_waits_for_one_turn_of_the_flood() {
        let mut queue = FairQueue::new();
        for n in 0..10_000 {
            queue.push("flood", 1_024, (0, n));
        }
        queue.push("quiet", 1_024, (1, 0));
        let order = drain(&mut queue);
        let place = order.iter().position(|(tenant, _)| *tenant == 1).expect("it comes out");
        assert!(place <= QUANTUM_BYTES / 1_024, "it came out at place {place}");
        assert!(queue.is_empty() && queue.tenants.is_empty());
    }

    #[test]
    fn tenants_that_flood_alike_get_alike_by_bytes_not_by_events() {
        let mut queue = FairQueue::new();
        for n in 0..4_000 {
            queue.push("small", 1_024, (0, n));
        }
        for n in 0..40 {
            queue.push("large", 102_400, (1, n));
        }
        let mut bytes = [0_usize; 2];
        while bytes[0] + bytes[1] < 2_000 * 1_024 {
            let (taken, (tenant, _)) = queue.pop().expect("more is queued");
            bytes[tenant] += taken;
        }
        assert!(bytes[0].abs_diff(bytes[1]) <= 102_400 + QUANTUM_BYTES, "{bytes:?}");
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_each_tenant_in_its_order(
            pushes in prop::collection::vec((0_usize..4, 1_usize..300_000, any::<bool>()), 0..200)
        ) {
            let mut queue = FairQueue::new();
            let mut out = Vec::new();
            for (n, (tenant, bytes, pop)) in pushes.iter().enumerate() {
                queue.push(&tenant.to_string(), *bytes, (*tenant, n));
                if *pop {
                    out.extend(queue.pop().map(|(_, item)| item));
                }
            }
            out.extend(drain(&mut queue));
            prop_assert_eq!(out.len(), pushes.len());
            for tenant in 0..4 {
                let own: Vec<usize> = out.iter().filter(|item| item.0 == tenant).map(|item| item.1).collect();
                prop_assert!(own.windows(2).all(|pair| pair[0] < pair[1]));
            }
            prop_assert!(queue.is_empty() && queue.tenants.is_empty());
        }
    }
}
