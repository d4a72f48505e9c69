//! [`Registry`] on the embedded engine. Rows: `kind ‖ 0 ‖ key` → record of (revision, bytes).

use super::{Engine, Inner};
use crate::ground::codec;
use crate::store::{Document, Registry, StoreError};

const VERSION: u8 = 1;

fn row_key(kind: &str, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(kind.len() + 1 + key.len());
    out.extend_from_slice(kind.as_bytes());
    out.push(0);
    out.extend_from_slice(key.as_bytes());
    out
}

pub(super) fn read(kind: &str, key: &str, value: &[u8]) -> Result<Document, StoreError> {
    let (revision, bytes) = codec::decode(VERSION, value)
        .map_err(|source| StoreError::Corrupt { what: format!("registry document {kind}/{key}"), source })?;
    Ok(Document { key: key.to_owned(), revision, bytes })
}

fn get(inner: &Inner, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
    inner.registry.get(row_key(kind, key))?.map(|value| read(kind, key, &value)).transpose()
}

impl Registry for Engine {
    fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        self.with(|inner| get(inner, kind, key))
    }

    fn list(&self, kind: &str) -> Result<Vec<Document>, StoreError> {
        self.with(|inner| {
            let prefix = row_key(kind, "");
            let mut out = Vec::new();
            for row in inner.registry.scan_prefix(&prefix) {
                let (key, value) = row?;
                out.push(read(kind, &String::from_utf8_lossy(&key[prefix.len()..]), &value)?);
            }
            Ok(out)
        })
    }

    fn put(&self, kind: &str, key: &str, bytes: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
        self.check_space()?;
        self.with(|inner| {
            let row = row_key(kind, key);
            let before = inner.registry.get(&row)?;
            let found = before.as_deref().map(|value| read(kind, key, value)).transpose()?.map(|one| one.revision);
            if found != expected {
                return Err(StoreError::Revision { found, expected });
            }
            let revision = expected.unwrap_or(0) + 1;
            let record = codec::encode(VERSION, &(revision, bytes))
                .map_err(|source| StoreError::Corrupt { what: "a new document".into(), source })?;
            if inner.registry.compare_and_swap(row, before, Some(record))?.is_err() {
                let found = get(inner, kind, key)?.map(|one| one.revision);
                return Err(StoreError::Revision { found, expected });
            }
            inner.sync()?;
            Ok(revision)
        })
    }

    fn put_all(&self, kind: &str, documents: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        self.check_space()?;
        self.with(|inner| {
            let mut batch = sled::Batch::default();
            for (key, bytes) in documents {
                let revision = get(inner, kind, key)?.map_or(0, |one| one.revision) + 1;
                let record = codec::encode(VERSION, &(revision, bytes))
                    .map_err(|source| StoreError::Corrupt { what: "a new document".into(), source })?;
                batch.insert(row_key(kind, key), record);
            }
            inner.registry.apply_batch(batch)?;
            inner.sync()
        })
    }

    fn delete(&self, kind: &str, key: &str) -> Result<bool, StoreError> {
        self.with(|inner| {
            let was = inner.registry.remove(row_key(kind, key))?.is_some();
            inner.sync()?;
            Ok(was)
        })
    }
}
