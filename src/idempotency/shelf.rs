//! How much is kept: in all and per org, in keys and bytes of answers (ID-5). Pure.
//!
//! The oldest of an org make room for its new ones, but none that is younger than a time within which clients retry. When
//! the hub as a whole is full, who has most gives: one org's flood takes nothing from the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::state::KeyId;
use crate::ground::clock::UnixMs;

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Keys in all.
    pub(super) keys_max: usize,
    /// Keys of one org.
    pub(super) org_keys_max: usize,
    /// Bytes of the answers of one org.
    pub(super) org_bytes_max: u64,
    /// No key younger than this makes room.
    pub(super) keep_at_least_ms: u64,
}

/// Keys that one new key may push out: more only when the bounds were lowered, and then with the next ones.
const ROOM_MAX: usize = 16;

/// There is no room, and there will be none before this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) until: UnixMs,
}

/// A key on the shelf.
#[derive(Clone, Copy, Debug)]
struct Item {
    id: KeyId,
    first: UnixMs,
    bytes: u64,
    /// Being held, or written: it stays.
    busy: bool,
}

#[derive(Debug, Default)]
struct Account {
    /// By the number of the key: the oldest first.
    items: BTreeMap<u64, Item>,
    bytes: u64,
}

impl Account {
    /// The oldest key that may go; when none may, when the oldest will.
    fn oldest(&self, now: UnixMs, keep_at_least_ms: u64) -> Result<KeyId, Full> {
        let idle = self.items.values().find(|item| !item.busy);
        let Some(item) = idle else { return Err(Full { until: now.plus_ms(1_000) }) };
        let until = item.first.plus_ms(keep_at_least_ms);
        if until <= now { Ok(item.id) } else { Err(Full { until }) }
    }
}

/// Whose keys are kept.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    accounts: HashMap<Arc<str>, Account>,
    keys: usize,
    bytes: u64,
}

impl Shelf {
    /// Keys in all, and bytes of their answers.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.keys, self.bytes)
    }

    /// A key that must go before this org may have another one; none when there is room.
    pub(super) fn must_go(&self, org: &str, now: UnixMs, bounds: &Bounds) -> Result<Option<KeyId>, Full> {
        let account = self.accounts.get(org);
        if let Some(account) = account.filter(|account| account.items.len() >= bounds.org_keys_max) {
            return account.oldest(now, bounds.keep_at_least_ms).map(Some);
        }
        if self.keys < bounds.keys_max {
            return Ok(None);
        }
        let most = self.accounts.values().max_by_key(|account| account.items.len());
        most.map(|account| account.oldest(now, bounds.keep_at_least_ms)).transpose()
    }

    /// The key that goes next so that an answer of so many bytes has room; none when it has. `Full` when it cannot have.
    pub(super) fn must_go_for(
        &self,
        org: &str,
        bytes: u64,
        now: UnixMs,
        bounds: &Bounds,
    ) -> Result<Option<KeyId>, Full> {
        if bytes > bounds.org_bytes_max {
            return Err(Full { until: now });
        }
        let Some(account) = self.accounts.get(org) else { return Ok(None) };
        if account.bytes.saturating_add(bytes) <= bounds.org_bytes_max {
            return Ok(None);
        }
        account.oldest(now, bounds.keep_at_least_ms).map(Some)
    }

    /// Most keys that may go for one.
    pub(super) fn room_max() -> usize {
        ROOM_MAX
    }

    /// Puts a busy key on the shelf.
    pub(super) fn put(&mut self, org: &Arc<str>, number: u64, id: KeyId, first: UnixMs) {
        let account = self.accounts.entry(Arc::clone(org)).or_default();
        let item = Item { id, first, bytes: 0, busy: true };
        if account.items.insert(number, item).is_none() {
            self.keys += 1;
        }
    }

    /// Notes whether a key is busy, and how many bytes its answer has.
    pub(super) fn mark(&mut self, org: &str, number: u64, busy: bool, bytes: u64) {
        let Some(account) = self.accounts.get_mut(org) else { return };
        let Some(item) = account.items.get_mut(&number) else { return };
        account.bytes = account.bytes.saturating_sub(item.bytes).saturating_add(bytes);
        self.bytes = self.bytes.saturating_sub(item.bytes).saturating_add(bytes);
        (item.busy, item.bytes) = (busy, bytes);
    }

    /// Takes a key off the shelf.
    pub(super) fn take(&mut self, org: &str, number: u64) {
        let Some(account) = self.accounts.get_mut(org) else { return };
        let Some(item) = account.items.remove(&number) else { return };
        account.bytes = account.bytes.saturating_sub(item.bytes);
        self.bytes = self.bytes.saturating_sub(item.bytes);
        self.keys -= 1;
        if account.items.is_empty() {
            self.accounts.remove(org);
        }
    }

    /// Keys that were first asked for at or before this time, up to `limit` of them.
    pub(super) fn old(&self, upto: UnixMs, limit: usize) -> Vec<KeyId> {
        let of = |account: &Account| -> Vec<KeyId> {
            account.items.values().take_while(|item| item.first <= upto).take(limit).map(|item| item.id).collect()
        };
        let mut out: Vec<KeyId> = self.accounts.values().flat_map(of).collect();
        out.truncate(limit);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { keys_max: 5, org_keys_max: 3, org_bytes_max: 100, keep_at_least_ms: 50 };

    fn id(number: u64) -> KeyId {
        KeyId([u8::try_from(number).expect("small"); 32])
    }

    /// A shelf with a key of ten bytes per number, first asked for at its number.
    fn shelf(keys: &[(&str, u64)]) -> Shelf {
        let mut shelf = Shelf::default();
        for (org, number) in keys {
            shelf.put(&Arc::from(*org), *number, id(*number), UnixMs(*number));
            shelf.mark(org, *number, false, 10);
        }
        shelf
    }

    #[test]
    fn the_oldest_of_a_full_org_makes_room_when_it_is_old_enough() {
        let shelf = shelf(&[("acme", 1), ("acme", 2), ("acme", 3)]);
        assert_eq!(shelf.must_go("acme", UnixMs(51), &BOUNDS), Ok(Some(id(1))));
        assert_eq!(shelf.must_go("acme", UnixMs(50), &BOUNDS), Err(Full { until: UnixMs(51) }));
        assert_eq!(shelf.must_go("beta", UnixMs(50), &BOUNDS), Ok(None), "another org has its own room");
    }

    #[test]
    fn a_key_that_is_held_stays() {
        let mut shelf = shelf(&[("acme", 1), ("acme", 2), ("acme", 3)]);
        shelf.mark("acme", 1, true, 0);
        assert_eq!(shelf.must_go("acme", UnixMs(99), &BOUNDS), Ok(Some(id(2))));
        shelf.mark("acme", 2, true, 0);
        shelf.mark("acme", 3, true, 0);
        assert_eq!(shelf.must_go("acme", UnixMs(99), &BOUNDS), Err(Full { until: UnixMs(1_099) }));
    }

    #[test]
    fn who_has_most_gives_when_the_hub_is_full() {
        let shelf = shelf(&[("acme", 3), ("beta", 1), ("beta", 2), ("beta", 4), ("gamma", 5)]);
        for org in ["acme", "gamma", "delta"] {
            assert_eq!(shelf.must_go(org, UnixMs(99), &BOUNDS), Ok(Some(id(1))), "{org}");
        }
    }

    #[test]
    fn bytes_are_bounded_per_org_and_counted_right() {
        let mut shelf = shelf(&[("acme", 1), ("acme", 2), ("beta", 3)]);
        assert_eq!(shelf.size(), (3, 30));
        assert_eq!(shelf.must_go_for("acme", 80, UnixMs(99), &BOUNDS), Ok(None));
        assert_eq!(shelf.must_go_for("acme", 81, UnixMs(99), &BOUNDS), Ok(Some(id(1))));
        assert!(shelf.must_go_for("acme", 101, UnixMs(99), &BOUNDS).is_err(), "nothing makes room for that");
        shelf.take("acme", 1);
        assert_eq!(shelf.must_go_for("acme", 81, UnixMs(99), &BOUNDS), Ok(None));
        shelf.take("acme", 1);
        shelf.take("acme", 2);
        shelf.mark("beta", 3, false, 25);
        assert_eq!(shelf.size(), (1, 25));
        shelf.take("beta", 3);
        assert_eq!(shelf.size(), (0, 0));
        assert!(shelf.accounts.is_empty());
    }

    #[test]
    fn the_old_ones_are_those_up_to_a_time() {
        let shelf = shelf(&[("acme", 1), ("acme", 5), ("beta", 2)]);
        let mut old = shelf.old(UnixMs(4), 9);
        old.sort();
        assert_eq!(old, [id(1), id(2)]);
        assert_eq!(shelf.old(UnixMs(9), 2).len(), 2);
    }
}
