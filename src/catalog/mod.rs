//! The catalog: what an org's events mean (CAT-1). Types with their schemas, what is hidden of them, how they are checked.
//!
//! - `CT-1` An event is of the type that its own org declares under its name, else of the one declared for every org.
//! - `CT-2` Hot paths read one shared picture without a lock; while the catalog is empty that is all they do.
//! - `CT-3` A type and each version of its schema are documents of their own. A version's schema never changes.

pub mod aggregate;
pub mod compat;
pub mod policy;
pub mod quarantine;
pub mod read;
pub mod record;
pub mod schema;
pub mod snapshot;
pub mod specimen;
pub mod tell;

pub use snapshot::{Catalog, Snapshot, TypeEntry, Version};
