//! The state of consumers in memory.

use std::collections::BTreeMap;

use super::{Call, Content, FakeStore};
use crate::ground::ids::{ConsumerId, Seq};
use crate::store::records::PageKey;
use crate::store::{
    AttemptPage, Checkpoints, ConsumerState, DeadLetterRecord, Durability, Expired, RowRecord, StateOp, StoreError,
};

impl Content {
    fn commit(&mut self, op: StateOp) {
        match op {
            StateOp::PutRow(consumer, seq, row) => {
                self.rows.entry(consumer).or_default().insert(seq, row);
            }
            StateOp::DeleteRow(consumer, seq) => {
                self.rows.entry(consumer).or_default().remove(&seq);
            }
            StateOp::Attempts(consumer, page) => {
                let Some(newest) = page.attempts.last() else { return };
                let key = match self.newest_page {
                    Some(last) if last.at_ms >= newest.at.0 => PageKey { at_ms: last.at_ms, part: last.part + 1 },
                    Some(_) | None => PageKey { at_ms: newest.at.0, part: 0 },
                };
                self.newest_page = Some(key);
                self.attempts.insert((consumer, key), page);
            }
            StateOp::PutDeadLetter(dead) => {
                self.dead.insert(dead.id.clone(), *dead);
            }
            StateOp::Checkpoint { router, set, clear } => {
                self.router = Some(router);
                self.positions.extend(set);
                self.positions.retain(|consumer, _| !clear.contains(consumer));
            }
            StateOp::DropConsumer(consumer) => {
                self.positions.remove(&consumer);
                self.rows.remove(&consumer);
            }
        }
    }
}

impl ConsumerState for FakeStore {
    fn commit(&self, ops: Vec<StateOp>, _: Durability) -> Result<(), StoreError> {
        self.write(Call::Commit, |content| {
            ops.into_iter().for_each(|op| content.commit(op));
            Ok(())
        })
    }

    fn checkpoints(&self) -> Result<Checkpoints, StoreError> {
        self.look(|content| Checkpoints {
            router: content.router,
            consumers: content.positions.iter().map(|(consumer, one)| (consumer.clone(), one.clone())).collect(),
        })
    }

    fn rows(&self, consumer: &ConsumerId) -> Result<Vec<(Seq, RowRecord)>, StoreError> {
        self.write(Call::Rows, |content| {
            let rows = content.rows.get(consumer).into_iter().flatten();
            Ok(rows.map(|(seq, row)| (*seq, row.clone())).collect())
        })
    }

    fn rows_after(&self, consumer: &ConsumerId, after: Seq, limit: usize) -> Result<Vec<(Seq, RowRecord)>, StoreError> {
        self.write(Call::Rows, |content| {
            let rows = content.rows.get(consumer).into_iter().flat_map(|rows| rows.range(after.next()..));
            Ok(rows.take(limit).map(|(seq, row)| (*seq, row.clone())).collect())
        })
    }

    fn consumers_with_rows(&self) -> Result<Vec<ConsumerId>, StoreError> {
        self.look(|content| {
            content.rows.iter().filter(|(_, rows)| !rows.is_empty()).map(|(one, _)| one.clone()).collect()
        })
    }

    fn attempts(
        &self,
        consumer: &ConsumerId,
        before: PageKey,
        pages: usize,
    ) -> Result<Vec<(PageKey, AttemptPage)>, StoreError> {
        self.look(|content| {
            let from = (consumer.clone(), PageKey { at_ms: 0, part: 0 });
            let found = content.attempts.range(from..(consumer.clone(), before)).rev().take(pages);
            found.map(|((_, key), page)| (*key, page.clone())).collect()
        })
    }

    fn attempts_since(
        &self,
        consumer: &ConsumerId,
        from: PageKey,
        pages: usize,
    ) -> Result<Vec<(PageKey, AttemptPage)>, StoreError> {
        self.look(|content| {
            let found = content.attempts.range((consumer.clone(), from)..(consumer.clone(), PageKey::MAX)).take(pages);
            found.map(|((_, key), page)| (*key, page.clone())).collect()
        })
    }

    fn dead_letter(&self, id: &str) -> Result<Option<DeadLetterRecord>, StoreError> {
        self.look(|content| content.dead.get(id).cloned())
    }

    fn dead_letters(&self, before: Option<&str>, limit: usize) -> Result<Vec<DeadLetterRecord>, StoreError> {
        self.look(|content| {
            let found = content.dead.iter().rev().filter(|(id, _)| before.is_none_or(|before| id.as_str() < before));
            found.take(limit).map(|(_, dead)| dead.clone()).collect()
        })
    }

    fn dead_letters_after(
        &self,
        after: &str,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<DeadLetterRecord>, StoreError> {
        self.look(|content| {
            let (mut out, mut bytes) = (Vec::new(), 0);
            for (_, dead) in content.dead.iter().filter(|(id, _)| id.as_str() > after) {
                bytes += dead.weight();
                out.push(dead.clone());
                if out.len() >= limit || bytes >= bytes_max {
                    break;
                }
            }
            out
        })
    }

    fn dead_letter_counts(&self) -> Result<Vec<(ConsumerId, u64)>, StoreError> {
        self.look(|content| {
            let mut counts: BTreeMap<ConsumerId, u64> = BTreeMap::new();
            for dead in content.dead.values().filter(|dead| dead.closed.is_none()) {
                *counts.entry(dead.consumer.clone()).or_default() += 1;
            }
            counts.into_iter().collect()
        })
    }

    fn expire(&self, attempts_before_ms: u64, dead_before_ms: u64) -> Result<Expired, StoreError> {
        self.write(Call::Commit, |content| {
            content.attempts.retain(|(_, key), _| key.at_ms >= attempts_before_ms);
            let mut expired = Expired::default();
            content.dead.retain(|_, dead| {
                let stays = dead.at.0 >= dead_before_ms;
                expired.dead_letters += u64::from(!stays);
                if !stays && dead.closed.is_none() {
                    *expired.open.entry(dead.consumer.clone()).or_default() += 1;
                }
                stays
            });
            Ok(expired)
        })
    }
}
