//! [`ConsumerState`] on the embedded engine.

use std::collections::{BTreeMap, HashMap};

use sled::transaction::TransactionError;
use sled::{Batch, Transactional as _, Tree};

use super::{Engine, Inner};
use crate::ground::codec::{self, CodecError};
use crate::ground::ids::{ConsumerId, Seq};
use crate::store::log_record::{self, Joiner};
use crate::store::records::{
    ATTEMPTS_VERSION, AttemptPage, DEAD_LETTER_VERSION, DeadLetterRecord, POSITION_VERSION, PageKey, ROW_VERSION,
    RowRecord,
};
use crate::store::{Checkpoints, ConsumerState, Durability, Expired, Position, StateOp, StoreError};

/// Key of the router's cursor among the checkpoints; consumer ids never start with a NUL.
pub(super) const ROUTER_KEY: &[u8] = b"\0router";
/// One tree of attempts holds this stretch of time; whole trees are dropped.
const ATTEMPTS_TREE_MS: u64 = 6 * 60 * 60 * 1_000;

/// The trees of attempt records, by the start of their stretch of time.
pub(super) struct AttemptTrees {
    trees: BTreeMap<u64, Tree>,
    last: PageKey,
}

fn attempts_name(start_ms: u64) -> String {
    format!("attempts-{start_ms:020}")
}

fn rows_name(consumer: &ConsumerId) -> String {
    format!("rows-{consumer}")
}

/// The trees of exception rows, by consumer. The engine itself can only list the names of all trees, which takes as long
/// as there are consumers.
pub(super) struct RowTrees(pub(super) HashMap<ConsumerId, Tree>);

impl RowTrees {
    pub(super) fn open(db: &sled::Db) -> Result<Self, StoreError> {
        let mut trees = HashMap::new();
        for name in db.tree_names() {
            let Some(consumer) = name.strip_prefix(b"rows-") else { continue };
            let consumer = ConsumerId::new(&String::from_utf8_lossy(consumer));
            trees.insert(consumer, db.open_tree(&name)?);
        }
        Ok(Self(trees))
    }
}

impl AttemptTrees {
    pub(super) fn open(db: &sled::Db) -> Result<Self, StoreError> {
        let mut trees = BTreeMap::new();
        for name in db.tree_names() {
            let start = std::str::from_utf8(&name).ok().and_then(|name| name.strip_prefix("attempts-"));
            if let Some(start) = start.and_then(|digits| digits.parse().ok()) {
                trees.insert(start, db.open_tree(name)?);
            }
        }
        Ok(Self { trees, last: PageKey { at_ms: 0, part: 0 } })
    }

    /// Every tree.
    pub(super) fn all(&self) -> Vec<Tree> {
        self.trees.values().cloned().collect()
    }

    /// The tree for a time, and a key in it that was not used before.
    fn place(&mut self, db: &sled::Db, consumer: &ConsumerId, at_ms: u64) -> Result<(Tree, Vec<u8>), StoreError> {
        let at_ms = at_ms.max(self.last.at_ms);
        self.last =
            PageKey { at_ms, part: if at_ms == self.last.at_ms { self.last.part.saturating_add(1) } else { 0 } };
        let start = at_ms - at_ms % ATTEMPTS_TREE_MS;
        let tree = match self.trees.get(&start) {
            Some(tree) => tree.clone(),
            None => {
                let tree = db.open_tree(attempts_name(start))?;
                self.trees.insert(start, tree.clone());
                tree
            }
        };
        let mut key = attempts_key(consumer, self.last);
        // The counter begins anew with every opening; the clock may stand where it stood before.
        while tree.contains_key(&key)? {
            self.last.part = self.last.part.saturating_add(1);
            key = attempts_key(consumer, self.last);
        }
        Ok((tree, key))
    }
}

fn attempts_key(consumer: &ConsumerId, page: PageKey) -> Vec<u8> {
    let mut key = consumer.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&page.to_bytes());
    key
}

fn encode<T: serde::Serialize>(version: u8, value: &T) -> Result<Vec<u8>, StoreError> {
    codec::encode(version, value).map_err(|source| StoreError::Corrupt { what: "a new record".into(), source })
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(version: u8, bytes: &[u8], what: &str) -> Result<T, StoreError> {
    codec::decode(version, bytes).map_err(|source| corrupt(what, source))
}

fn corrupt(what: &str, source: CodecError) -> StoreError {
    StoreError::Corrupt { what: what.to_owned(), source }
}

/// Batches by tree, kept in the order in which the trees were first named.
#[derive(Default)]
pub(super) struct Batches {
    trees: Vec<Tree>,
    batches: Vec<Batch>,
}

impl Batches {
    pub(super) fn of(&mut self, tree: &Tree) -> &mut Batch {
        let name = tree.name();
        let at = match self.trees.iter().position(|one| one.name() == name) {
            Some(at) => at,
            None => {
                self.trees.push(tree.clone());
                self.batches.push(Batch::default());
                self.trees.len() - 1
            }
        };
        &mut self.batches[at]
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        match (self.trees.as_slice(), self.batches) {
            ([], _) => Ok(()),
            ([tree], mut batches) => Ok(tree.apply_batch(batches.pop().unwrap_or_default())?),
            (trees, batches) => trees
                .transaction(|views| {
                    for (view, batch) in views.iter().zip(&batches) {
                        view.apply_batch(batch)?;
                    }
                    Ok(())
                })
                .map_err(|error: TransactionError<()>| match error {
                    TransactionError::Storage(error) => StoreError::from(error),
                    TransactionError::Abort(()) => StoreError::Engine("a commit was aborted".to_owned()),
                }),
        }
    }
}

/// A row of this consumer is written for the first time: its tree is made. Trees without rows stay: they cost nothing.
fn rows_tree(inner: &Inner, consumer: &ConsumerId) -> Result<Tree, StoreError> {
    let mut trees = inner.rows.lock();
    if let Some(tree) = trees.0.get(consumer) {
        return Ok(tree.clone());
    }
    let tree = inner.db.open_tree(rows_name(consumer))?;
    trees.0.insert(consumer.clone(), tree.clone());
    Ok(tree)
}

fn existing_rows_tree(inner: &Inner, consumer: &ConsumerId) -> Option<Tree> {
    inner.rows.lock().0.get(consumer).cloned()
}

fn commit(inner: &Inner, ops: Vec<StateOp>) -> Result<(), StoreError> {
    let mut batches = Batches::default();
    for op in ops {
        match op {
            StateOp::PutRow(consumer, seq, row) => {
                let record = encode(ROW_VERSION, &row)?;
                batches.of(&rows_tree(inner, &consumer)?).insert(&seq.to_key(), record);
            }
            StateOp::DeleteRow(consumer, seq) => {
                batches.of(&rows_tree(inner, &consumer)?).remove(&seq.to_key());
            }
            StateOp::Attempts(consumer, page) => {
                let Some(newest) = page.attempts.last() else { continue };
                let record = encode(ATTEMPTS_VERSION, &page)?;
                let (tree, key) = inner.attempts.lock().place(&inner.db, &consumer, newest.at.0)?;
                batches.of(&tree).insert(key, record);
            }
            StateOp::PutDeadLetter(dead) => {
                let record = encode(DEAD_LETTER_VERSION, &*dead)?;
                let batch = batches.of(&inner.dead);
                log_record::cut(&record, |suffix, value| {
                    let mut key = dead.id.as_bytes().to_vec();
                    if !suffix.is_empty() {
                        key.push(0);
                        key.extend_from_slice(suffix);
                    }
                    batch.insert(key, value);
                });
            }
            StateOp::Checkpoint { router, set, clear } => {
                let batch = batches.of(&inner.checkpoints);
                batch.insert(ROUTER_KEY, &router.to_key());
                for (consumer, position) in set {
                    batch.insert(consumer.as_str().as_bytes(), encode(POSITION_VERSION, &position)?);
                }
                for consumer in clear {
                    batch.remove(consumer.as_str().as_bytes());
                }
            }
            StateOp::DropConsumer(consumer) => {
                batches.of(&inner.checkpoints).remove(consumer.as_str().as_bytes());
                std::mem::take(&mut batches).commit()?;
                inner.rows.lock().0.remove(&consumer);
                inner.db.drop_tree(rows_name(&consumer))?;
            }
        }
    }
    batches.commit()
}

/// Reads the dead letter whose first row is given; `rows` gives the rows after it.
pub(super) fn join_dead_letter(inner: &Inner, id: &[u8], first: &[u8]) -> Result<DeadLetterRecord, StoreError> {
    let record = match Joiner::start(first) {
        Ok(record) => record,
        Err(mut joiner) => {
            let mut prefix = id.to_vec();
            prefix.push(0);
            for row in inner.dead.scan_prefix(prefix) {
                if !joiner.wants_more() {
                    break;
                }
                joiner.push(&row?.1);
            }
            joiner.finish()
        }
    };
    DeadLetterRecord::decode(&record).map_err(|source| corrupt("dead letter", source))
}

fn read_row(row: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(Seq, RowRecord), StoreError> {
    let (key, value) = row?;
    let seq = super::segment::seq_of_key(&key).unwrap_or_default();
    Ok((seq, RowRecord::decode(&value).map_err(|source| corrupt("exception row", source))?))
}

pub(super) fn is_first_row(key: &[u8]) -> bool {
    !key.contains(&0)
}

/// A page of attempts with its key; none under a key that is none.
fn read_page(key: &[u8], value: &[u8]) -> Result<Option<(PageKey, AttemptPage)>, StoreError> {
    let Some(Ok(place)) = key.len().checked_sub(12).map(|at| <[u8; 12]>::try_from(&key[at..])) else { return Ok(None) };
    Ok(Some((PageKey::from_bytes(place), decode(ATTEMPTS_VERSION, value, "attempts")?)))
}

impl ConsumerState for Engine {
    fn commit(&self, ops: Vec<StateOp>, durability: Durability) -> Result<(), StoreError> {
        self.with(|inner| {
            let rows = ops.len();
            commit(inner, ops)?;
            super::collect_garbage(rows);
            match durability {
                Durability::Ordered => Ok(()),
                Durability::Synced => inner.sync(),
            }
        })
    }

    fn checkpoints(&self) -> Result<Checkpoints, StoreError> {
        self.with(|inner| {
            let mut out = Checkpoints::default();
            for row in inner.checkpoints.iter() {
                let (key, value) = row?;
                if &*key == ROUTER_KEY {
                    out.router = super::segment::seq_of_key(&value);
                } else {
                    let consumer = ConsumerId::new(&String::from_utf8_lossy(&key));
                    let position: Position = decode(POSITION_VERSION, &value, "checkpoint")?;
                    out.consumers.push((consumer, position));
                }
            }
            Ok(out)
        })
    }

    fn rows(&self, consumer: &ConsumerId) -> Result<Vec<(Seq, RowRecord)>, StoreError> {
        self.with(|inner| {
            let Some(tree) = existing_rows_tree(inner, consumer) else { return Ok(Vec::new()) };
            tree.iter().map(read_row).collect()
        })
    }

    fn rows_after(&self, consumer: &ConsumerId, after: Seq, limit: usize) -> Result<Vec<(Seq, RowRecord)>, StoreError> {
        self.with(|inner| {
            let Some(tree) = existing_rows_tree(inner, consumer) else { return Ok(Vec::new()) };
            tree.range(after.next().to_key()..).take(limit).map(read_row).collect()
        })
    }

    fn consumers_with_rows(&self) -> Result<Vec<ConsumerId>, StoreError> {
        self.with(|inner| {
            let trees = inner.rows.lock();
            let mut out: Vec<ConsumerId> =
                trees.0.iter().filter(|(_, tree)| !tree.is_empty()).map(|(consumer, _)| consumer.clone()).collect();
            out.sort();
            Ok(out)
        })
    }

    fn attempts(
        &self,
        consumer: &ConsumerId,
        before: PageKey,
        pages: usize,
    ) -> Result<Vec<(PageKey, AttemptPage)>, StoreError> {
        self.with(|inner| {
            let trees: Vec<Tree> =
                inner.attempts.lock().trees.range(..=before.at_ms).rev().map(|(_, t)| t.clone()).collect();
            let from = attempts_key(consumer, PageKey { at_ms: 0, part: 0 });
            let to = attempts_key(consumer, before);
            let mut out = Vec::new();
            for tree in trees {
                for row in tree.range(from.clone()..to.clone()).rev().take(pages - out.len()) {
                    let (key, value) = row?;
                    out.extend(read_page(&key, &value)?);
                }
                if out.len() >= pages {
                    break;
                }
            }
            Ok(out)
        })
    }

    fn attempts_since(
        &self,
        consumer: &ConsumerId,
        from: PageKey,
        pages: usize,
    ) -> Result<Vec<(PageKey, AttemptPage)>, StoreError> {
        self.with(|inner| {
            let first = from.at_ms - from.at_ms % ATTEMPTS_TREE_MS;
            let trees: Vec<Tree> = inner.attempts.lock().trees.range(first..).map(|(_, tree)| tree.clone()).collect();
            let (from, to) = (attempts_key(consumer, from), attempts_key(consumer, PageKey::MAX));
            let mut out = Vec::new();
            for tree in trees {
                for row in tree.range(from.clone()..to.clone()).take(pages - out.len()) {
                    let (key, value) = row?;
                    out.extend(read_page(&key, &value)?);
                }
                if out.len() >= pages {
                    break;
                }
            }
            Ok(out)
        })
    }

    fn dead_letter(&self, id: &str) -> Result<Option<DeadLetterRecord>, StoreError> {
        if !is_first_row(id.as_bytes()) {
            return Ok(None);
        }
        self.with(|inner| match inner.dead.get(id)? {
            Some(first) => join_dead_letter(inner, id.as_bytes(), &first).map(Some),
            None => Ok(None),
        })
    }

    fn dead_letters(&self, before: Option<&str>, limit: usize) -> Result<Vec<DeadLetterRecord>, StoreError> {
        self.with(|inner| {
            let rows = match before {
                Some(id) => inner.dead.range(..id.as_bytes().to_vec()),
                None => inner.dead.iter(),
            };
            let mut out = Vec::new();
            for row in rows.rev() {
                let (key, value) = row?;
                if is_first_row(&key) {
                    out.push(join_dead_letter(inner, &key, &value)?);
                }
                if out.len() >= limit {
                    break;
                }
            }
            Ok(out)
        })
    }

    fn dead_letters_after(
        &self,
        after: &str,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<DeadLetterRecord>, StoreError> {
        self.with(|inner| {
            // The parts of a long record lie between its own key and the next one.
            let mut from = after.as_bytes().to_vec();
            from.push(1);
            let (mut out, mut bytes) = (Vec::new(), 0);
            for row in inner.dead.range(from..) {
                let (key, value) = row?;
                if !is_first_row(&key) {
                    continue;
                }
                let record = join_dead_letter(inner, &key, &value)?;
                bytes += record.weight();
                out.push(record);
                if out.len() >= limit || bytes >= bytes_max {
                    break;
                }
            }
            Ok(out)
        })
    }

    fn dead_letter_counts(&self) -> Result<Vec<(ConsumerId, u64)>, StoreError> {
        self.with(|inner| {
            let mut counts: BTreeMap<ConsumerId, u64> = BTreeMap::new();
            for row in inner.dead.iter() {
                let (key, value) = row?;
                if is_first_row(&key) {
                    let record = join_dead_letter(inner, &key, &value)?;
                    if record.closed.is_none() {
                        *counts.entry(record.consumer).or_default() += 1;
                    }
                }
            }
            Ok(counts.into_iter().collect())
        })
    }

    fn expire(&self, attempts_before_ms: u64, dead_before_ms: u64) -> Result<Expired, StoreError> {
        self.with(|inner| {
            let mut old = Vec::new();
            {
                let mut attempts = inner.attempts.lock();
                let starts: Vec<u64> = attempts
                    .trees
                    .keys()
                    .copied()
                    .take_while(|start| start.saturating_add(ATTEMPTS_TREE_MS) <= attempts_before_ms)
                    .collect();
                for start in starts {
                    attempts.trees.remove(&start);
                    old.push(start);
                }
            }
            for start in &old {
                inner.db.drop_tree(attempts_name(*start))?;
            }
            let mut expired = Expired::default();
            for row in inner.dead.iter() {
                let (key, value) = row?;
                if is_first_row(&key) {
                    let record = join_dead_letter(inner, &key, &value)?;
                    if record.at.0 >= dead_before_ms {
                        break;
                    }
                    expired.dead_letters += 1;
                    if record.closed.is_none() {
                        *expired.open.entry(record.consumer).or_default() += 1;
                    }
                }
                inner.dead.remove(key)?;
            }
            Ok(expired)
        })
    }
}
