//! Small documents in memory.

use super::{Call, FakeStore};
use crate::store::{Document, Registry, StoreError};

impl Registry for FakeStore {
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        self.look(|content| content.documents.get(&(kind.to_owned(), key.to_owned())).cloned())
    }

    fn list(&self, kind: &str) -> Result<Vec<Document>, StoreError> {
        self.look(|content| {
            content.documents.iter().filter(|((of, _), _)| of == kind).map(|(_, document)| document.clone()).collect()
        })
    }

    fn put(&self, kind: &str, key: &str, bytes: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
        self.write(Call::Put, |content| {
            let place = (kind.to_owned(), key.to_owned());
            let found = content.documents.get(&place).map(|document| document.revision);
            if found != expected {
                return Err(StoreError::Revision { found, expected });
            }
            let revision = expected.unwrap_or(0) + 1;
            content.documents.insert(place, Document { key: key.to_owned(), revision, bytes: bytes.to_vec() });
            Ok(revision)
        })
    }

    fn put_all(&self, kind: &str, documents: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(Call::Put, |content| {
            for (key, bytes) in documents {
                let place = (kind.to_owned(), key.clone());
                let revision = content.documents.get(&place).map_or(0, |document| document.revision) + 1;
                content.documents.insert(place, Document { key: key.clone(), revision, bytes: bytes.clone() });
            }
            Ok(())
        })
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, StoreError> {
        self.write(Call::Put, |content| Ok(content.documents.remove(&(kind.to_owned(), key.to_owned())).is_some()))
    }
}
