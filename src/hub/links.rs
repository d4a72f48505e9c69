//! Links between entities (LNK-1), for the program around the hub and for the front door.

use std::sync::Arc;

use super::Hub;
use crate::link::{LinkBook, Links};

impl Hub {
    /// The links of an org.
    #[must_use]
    pub fn links(&self, org: &str) -> Links {
        Links::new(Arc::clone(&self.inner.links), Arc::clone(&self.inner.clock), org, "program")
    }

    /// The links of every org. Its calls block.
    #[must_use]
    pub fn link_book(&self) -> &LinkBook {
        &self.inner.links
    }
}
