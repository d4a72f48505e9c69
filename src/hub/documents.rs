//! Documents of one kind in the registry, as values. They are JSON, because their fields grow with the product; the
//! registry frames them with a version and a checksum.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ground::error::{Problem, ProblemKind};
use crate::store::{Registry, store_problem};

/// The documents of one kind.
pub struct Documents<T> {
    registry: Arc<dyn Registry>,
    kind: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for Documents<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("kind", &self.kind).finish_non_exhaustive()
    }
}

fn encoded(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value)
        .map_err(|error| Problem::new(ProblemKind::Internal, format!("the document does not encode: {error}")))
}

impl<T: Serialize + DeserializeOwned> Documents<T> {
    /// The documents of `kind`.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, kind: &'static str) -> Self {
        Self { registry, kind, of: PhantomData }
    }

    fn read(&self, key: &str, bytes: &[u8]) -> Result<T, Problem> {
        serde_json::from_slice(bytes).map_err(|error| {
            tracing::error!(kind = self.kind, key, %error, "a stored document does not decode");
            Problem::new(ProblemKind::Internal, "a stored document does not decode; the log of the hub names it")
        })
    }

    /// Every document with its revision, by key. Blocks.
    ///
    /// # Errors
    /// When the store fails or a document is damaged.
    pub fn list(&self) -> Result<Vec<(T, u64)>, Problem> {
        let documents = self.registry.list(self.kind).map_err(|error| store_problem(&error))?;
        documents.iter().map(|one| Ok((self.read(&one.key, &one.bytes)?, one.revision))).collect()
    }

    /// A document with its revision. Blocks.
    ///
    /// # Errors
    /// When the store fails or the document is damaged.
    pub fn get(&self, key: &str) -> Result<Option<(T, u64)>, Problem> {
        let found = self.registry.get(self.kind, key).map_err(|error| store_problem(&error))?;
        found.map(|one| Ok((self.read(key, &one.bytes)?, one.revision))).transpose()
    }

    /// Writes a document durably when its revision is still `expected`. Blocks.
    ///
    /// # Errors
    /// When it was changed meanwhile, or the store fails.
    pub fn put(&self, key: &str, value: &T, expected: Option<u64>) -> Result<u64, Problem> {
        self.registry.put(self.kind, key, &encoded(value)?, expected).map_err(|error| store_problem(&error))
    }

    /// Writes documents as they are, whatever their revision, in one durable commit. Blocks.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_all(&self, values: &[(String, T)]) -> Result<(), Problem> {
        let encode = |(key, value): &(String, T)| Ok((key.clone(), encoded(value)?));
        let documents: Vec<_> = values.iter().map(encode).collect::<Result<_, Problem>>()?;
        self.registry.put_all(self.kind, &documents).map_err(|error| store_problem(&error))
    }

    /// Removes a document durably. Blocks.
    ///
    /// # Errors
    /// When the store fails.
    pub fn delete(&self, key: &str) -> Result<bool, Problem> {
        self.registry.delete(self.kind, key).map_err(|error| store_problem(&error))
    }
}
