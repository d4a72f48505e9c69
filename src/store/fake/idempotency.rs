//! Idempotency keys in memory.

use bytes::Bytes;

use super::{Call, FakeStore};
use crate::ground::clock::UnixMs;
use crate::store::{Durability, IdempotencyStore, KeyOp, KeyPlace, KeyRecord, StoreError};

impl IdempotencyStore for FakeStore {
    fn commit_keys(&self, ops: &[KeyOp], _: Durability) -> Result<(), StoreError> {
        self.write(Call::Keys, |content| {
            for op in ops {
                match op {
                    KeyOp::Put(record) => {
                        let answer = content.keys.remove(&record.place).and_then(|(_, answer)| answer);
                        content.keys.insert(record.place, (record.clone(), answer));
                    }
                    KeyOp::Done(record, answer) => {
                        content.keys.insert(record.place, (record.clone(), answer.clone()));
                    }
                    KeyOp::Forget(place) => {
                        content.keys.remove(place);
                    }
                }
            }
            Ok(())
        })
    }

    fn keys(&self, each: &mut dyn FnMut(KeyRecord)) -> Result<(), StoreError> {
        self.look(|content| content.keys.values().for_each(|(record, _)| each(record.clone())))
    }

    fn key_answer(&self, place: KeyPlace) -> Result<Option<Bytes>, StoreError> {
        self.look(|content| content.keys.get(&place).and_then(|(_, answer)| answer.clone()))
    }

    fn sweep_keys(&self, before: UnixMs) -> Result<(), StoreError> {
        self.write(Call::Keys, |content| {
            content.keys.retain(|place, _| place.first >= before);
            Ok(())
        })
    }
}
