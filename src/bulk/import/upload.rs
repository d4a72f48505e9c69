//! The content of an upload, appended at an offset.

use std::io;
use std::path::{Path, PathBuf};

use crate::bulk::folder::{Tally, make_dir};

/// Bytes that are written before they are synced and acknowledged, while more of a request comes.
pub const SYNC_BYTES: u64 = 16 << 20;

/// The file of an upload's content.
#[must_use]
pub fn content_path(dir: &Path) -> PathBuf {
    dir.join("content")
}

/// A request that appends. Bytes that no document acknowledges are cut off when the next one begins.
#[derive(Debug)]
pub struct Appending {
    content: Tally,
    synced: u64,
}

impl Appending {
    /// Goes on after the bytes that are acknowledged. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn begin(dir: &Path, acknowledged: u64) -> io::Result<Self> {
        make_dir(dir)?;
        Ok(Self { content: Tally::open(&content_path(dir), acknowledged)?, synced: acknowledged })
    }

    /// Adds bytes. Blocks.
    ///
    /// # Errors
    /// When the file system fails; what was synced before stays.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.add(bytes)
    }

    /// Bytes there are now.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.content.length()
    }

    /// Whether so many were added since the last sync that they are worth one.
    #[must_use]
    pub fn wants_sync(&self) -> bool {
        self.length() - self.synced >= SYNC_BYTES
    }

    /// Makes what was added durable; gives how many bytes may be acknowledged. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn sync(&mut self) -> io::Result<u64> {
        if self.synced < self.length() {
            self.content.sync()?;
            self.synced = self.length();
        }
        Ok(self.synced)
    }
}
