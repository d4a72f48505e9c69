//! The catalog as a service: types and versions made, changed, deleted.

use std::collections::HashMap;
use std::sync::Arc;

use super::Documents;
use crate::catalog::record::{TypeRecord, VersionRecord, type_key, version_key};
use crate::catalog::{Catalog, TypeEntry};
use crate::ground::error::Problem;

/// Every type, in the store and in memory.
#[derive(Debug)]
pub(super) struct Types {
    types: Documents<TypeRecord>,
    versions: Documents<VersionRecord>,
    catalog: Arc<Catalog>,
    /// Changes are made one at a time: they are rare, and each syncs.
    changing: parking_lot::Mutex<()>,
}

impl Types {
    /// Reads the catalog. A version whose type is gone (the end came between the two deletions) goes, too.
    pub(super) fn load(types: Documents<TypeRecord>, versions: Documents<VersionRecord>) -> Result<Self, Problem> {
        let mut of_type: HashMap<String, Vec<Arc<VersionRecord>>> = HashMap::new();
        for (version, _) in versions.list()? {
            of_type.entry(type_key(version.org.as_deref(), &version.name)).or_default().push(Arc::new(version));
        }
        let mut entries = Vec::new();
        for (record, revision) in types.list()? {
            let mut own = of_type.remove(&type_key(record.org.as_deref(), &record.name)).unwrap_or_default();
            own.sort_by_key(|version| version.number);
            entries.push(TypeEntry::new(record, revision, own));
        }
        for orphan in of_type.into_values().flatten() {
            versions.delete(&version_key(orphan.org.as_deref(), &orphan.name, orphan.number))?;
        }
        let catalog = Arc::new(Catalog::default());
        catalog.change(|snapshot| entries.into_iter().for_each(|entry| snapshot.put(entry)));
        Ok(Self { types, versions, catalog, changing: parking_lot::Mutex::new(()) })
    }

    /// The catalog as hot paths read it.
    pub(super) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }
}
