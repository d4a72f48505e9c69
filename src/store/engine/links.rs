//! [`LinkStore`] on the embedded engine. Trees: `links` (id → record), `links-out`, `links-in` and `links-org` (the
//! orders in which links are listed; keys only) and `links-count` (org → how many).
//!
//! Rows: `links-org` has `org ‖ 0 ‖ type ‖ id`, the other two have the entity before the type, each text followed by a
//! zero byte, which no text holds. Writers take turns for the commit and not for the sync: who waits for the disk meanwhile
//! shares the next sync with the others that wait.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sled::Tree;

use super::consumers::Batches;
use super::{Engine, Inner};
use crate::ground::codec::CodecError;
use crate::store::StoreError;
use crate::store::links::{Entity, Link, LinkId, LinkPlace, LinkSpot, LinkStore, LinkType, LinkWindow, PutLink};

/// Bytes of a type and an id, which end every row of an order.
const SPOT_BYTES: usize = 17;
/// Rows of one link.
const ROWS: usize = 5;

/// The trees of links.
pub(super) struct LinkTrees {
    records: Tree,
    outward: Tree,
    inward: Tree,
    by_org: Tree,
    counts: Tree,
    /// Held for a commit.
    writing: Mutex<()>,
    /// Commits so far.
    committed: AtomicU64,
    /// Commits that are on disk.
    synced: Mutex<u64>,
}

fn damaged(what: impl std::fmt::Display, source: CodecError) -> StoreError {
    StoreError::Corrupt { what: format!("link {what}"), source }
}

fn prefix(org: &str, entity: Option<&Entity>) -> Vec<u8> {
    let texts = entity.map(|one| [&one.module, &one.entity_type, &one.id]);
    let mut out = org.as_bytes().to_vec();
    out.push(0);
    for text in texts.into_iter().flatten() {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    out
}

fn spot_bytes(spot: LinkSpot) -> [u8; SPOT_BYTES] {
    let mut out = [0; SPOT_BYTES];
    out[0] = spot.link_type.byte();
    out[1..].copy_from_slice(&spot.id.0);
    out
}

fn row(org: &str, entity: Option<&Entity>, spot: LinkSpot) -> Vec<u8> {
    let mut out = prefix(org, entity);
    out.extend_from_slice(&spot_bytes(spot));
    out
}

fn count_of(bytes: &[u8]) -> Result<u64, StoreError> {
    let bytes = bytes.try_into().map_err(|_| damaged("count", CodecError::Short(bytes.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

impl LinkTrees {
    pub(super) fn open(db: &sled::Db) -> Result<Self, StoreError> {
        Ok(Self {
            records: db.open_tree("links")?,
            outward: db.open_tree("links-out")?,
            inward: db.open_tree("links-in")?,
            by_org: db.open_tree("links-org")?,
            counts: db.open_tree("links-count")?,
            writing: Mutex::new(()),
            committed: AtomicU64::new(0),
            synced: Mutex::new(0),
        })
    }

    fn get(&self, id: LinkId) -> Result<Option<Link>, StoreError> {
        let record = self.records.get(id.0)?;
        record.map(|bytes| Link::decode(&bytes).map_err(|source| damaged(id, source))).transpose()
    }

    fn count(&self, org: &str) -> Result<u64, StoreError> {
        self.counts.get(org)?.map_or(Ok(0), |bytes| count_of(&bytes))
    }

    fn orders(&self, link: &Link) -> [(&Tree, Vec<u8>); 3] {
        let spot = LinkSpot::of(link);
        [
            (&self.outward, row(&link.org, Some(&link.source), spot)),
            (&self.inward, row(&link.org, Some(&link.target), spot)),
            (&self.by_org, row(&link.org, None, spot)),
        ]
    }

    /// Commits, and gives the number of the commit.
    fn commit(&self, batches: Batches, links: usize) -> Result<u64, StoreError> {
        batches.commit()?;
        super::collect_garbage(links * ROWS);
        Ok(self.committed.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Returns when the commit of this number is on disk.
    fn sync(&self, inner: &Inner, commit: u64) -> Result<(), StoreError> {
        let mut synced = self.synced.lock();
        if *synced >= commit {
            return Ok(());
        }
        let upto = self.committed.load(Ordering::Acquire);
        inner.sync()?;
        *synced = upto;
        Ok(())
    }

    /// Writes what is not there yet; gives the number of the commit that the answers stand on.
    fn put(&self, links: &[Link], org_max: u64) -> Result<(Vec<PutLink>, u64), StoreError> {
        let mut batches = Batches::default();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let mut fresh: BTreeMap<LinkId, &Link> = BTreeMap::new();
        let mut answers = Vec::with_capacity(links.len());
        for link in links {
            let id = link.id();
            let there = match fresh.get(&id) {
                Some(sibling) => Some((*sibling).clone()),
                None => self.get(id)?,
            };
            if let Some(there) = there {
                answers.push(PutLink::There(Box::new(there)));
                continue;
            }
            let before = match counts.get(link.org.as_str()) {
                Some(count) => *count,
                None => self.count(&link.org)?,
            };
            if before >= org_max {
                answers.push(PutLink::Full);
                continue;
            }
            counts.insert(&link.org, before + 1);
            fresh.insert(id, link);
            let record = link.encode().map_err(|source| damaged(id, source))?;
            batches.of(&self.records).insert(&id.0, record);
            for (tree, row) in self.orders(link) {
                batches.of(tree).insert(row, Vec::new());
            }
            answers.push(PutLink::New);
        }
        if fresh.is_empty() {
            return Ok((answers, self.committed.load(Ordering::Acquire)));
        }
        for (org, count) in counts {
            batches.of(&self.counts).insert(org.as_bytes(), &count.to_be_bytes());
        }
        Ok((answers, self.commit(batches, fresh.len())?))
    }

    fn remove(&self, id: LinkId) -> Result<(bool, u64), StoreError> {
        let Some(link) = self.get(id)? else { return Ok((false, self.committed.load(Ordering::Acquire))) };
        let mut batches = Batches::default();
        batches.of(&self.records).remove(&id.0);
        for (tree, row) in self.orders(&link) {
            batches.of(tree).remove(row);
        }
        match self.count(&link.org)?.saturating_sub(1) {
            0 => batches.of(&self.counts).remove(link.org.as_bytes()),
            count => batches.of(&self.counts).insert(link.org.as_bytes(), &count.to_be_bytes()),
        }
        Ok((true, self.commit(batches, 1)?))
    }

    fn page(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> Result<(Vec<Link>, bool), StoreError> {
        let (tree, mut from) = match place {
            LinkPlace::Org => (&self.by_org, prefix(org, None)),
            LinkPlace::From(entity) => (&self.outward, prefix(org, Some(entity))),
            LinkPlace::To(entity) => (&self.inward, prefix(org, Some(entity))),
        };
        let entity_bytes = from.len();
        from.extend(window.link_type.map(LinkType::byte));
        let within = from.clone();
        if let Some(after) = window.after {
            from.truncate(entity_bytes);
            from.extend_from_slice(&spot_bytes(after));
            // The first row after that place.
            from.push(0);
        }
        let (mut links, mut held) = (Vec::new(), 0);
        for row in tree.range(from.max(within.clone())..).keys() {
            let row = row?;
            let Some(spot) = row.strip_prefix(within.as_slice()).and_then(|_| row.get(entity_bytes..)) else { break };
            let id = spot.get(1..).and_then(|id| <[u8; 16]>::try_from(id).ok());
            let id = LinkId(id.ok_or_else(|| damaged("order", CodecError::Short(row.len())))?);
            if links.len() >= window.limit || (held >= window.bytes && !links.is_empty()) {
                return Ok((links, true));
            }
            // One that was removed since its row was read is passed over.
            if let Some(link) = self.get(id)? {
                held += link.metadata.as_ref().map_or(0, String::len);
                links.push(link);
            }
        }
        Ok((links, false))
    }
}

impl LinkStore for Engine {
    fn put_links(&self, links: &[Link], org_max: u64) -> Result<Vec<PutLink>, StoreError> {
        self.check_space()?;
        self.with(|inner| {
            let (answers, commit) = {
                let _one_at_a_time = inner.links.writing.lock();
                inner.links.put(links, org_max)?
            };
            self.planned_fault()?;
            inner.links.sync(inner, commit)?;
            Ok(answers)
        })
    }

    fn remove_link(&self, id: LinkId) -> Result<bool, StoreError> {
        self.with(|inner| {
            let (was, commit) = {
                let _one_at_a_time = inner.links.writing.lock();
                inner.links.remove(id)?
            };
            inner.links.sync(inner, commit)?;
            Ok(was)
        })
    }

    fn link(&self, id: LinkId) -> Result<Option<Link>, StoreError> {
        self.with(|inner| inner.links.get(id))
    }

    fn links(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> Result<(Vec<Link>, bool), StoreError> {
        self.with(|inner| inner.links.page(org, place, window))
    }

    fn link_count(&self, org: &str) -> Result<u64, StoreError> {
        self.with(|inner| inner.links.count(org))
    }
}

/// Faults that are told one by one.
const FAULTS_MAX: usize = 100;

impl Engine {
    /// Reads every link and compares it with both indexes: how many there are, and what is wrong.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn check_links(&self) -> Result<(u64, Vec<String>), StoreError> {
        self.with(|inner| {
            let (mut links, mut faults) = (0_u64, Vec::new());
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            for entry in &inner.links.records {
                let (id, bytes) = entry?;
                links += 1;
                let name = hex::encode(&id);
                let link = match Link::decode(&bytes) {
                    Ok(link) => link,
                    Err(error) => {
                        faults.push(format!("link {name}: {error}"));
                        continue;
                    }
                };
                if link.id().0 != *id {
                    faults.push(format!("link {name} connects what link {} does", link.id()));
                }
                for (tree, row) in inner.links.orders(&link) {
                    if !tree.contains_key(row)? {
                        let order = String::from_utf8_lossy(&tree.name()).into_owned();
                        faults.push(format!("link {name} is missing in {order}"));
                    }
                }
                *counts.entry(link.org).or_default() += 1;
            }
            for tree in [&inner.links.outward, &inner.links.inward, &inner.links.by_org] {
                let rows = tree.len() as u64;
                if rows != links {
                    let order = String::from_utf8_lossy(&tree.name()).into_owned();
                    faults.push(format!("{order} has {rows} rows for {links} links"));
                }
            }
            for (org, found) in counts {
                let kept = inner.links.count(&org)?;
                if kept != found {
                    faults.push(format!("org {org} has {found} links, {kept} are counted"));
                }
            }
            faults.truncate(FAULTS_MAX);
            Ok((links, faults))
        })
    }
}

#[cfg(test)]
impl Engine {
    /// Takes a link's row out of one order.
    pub(crate) fn damage_links(&self, id: LinkId) -> Result<(), StoreError> {
        self.with(|inner| {
            if let Some(link) = inner.links.get(id)? {
                inner.links.inward.remove(row(&link.org, Some(&link.target), LinkSpot::of(&link)))?;
            }
            Ok(())
        })
    }
}
