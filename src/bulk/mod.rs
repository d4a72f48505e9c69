//! Bulk: events out to files and in from files, as jobs that go on after a restart where they were (BLK-1, BLK-2, BLK-3).
//!
//! - `folder`: files that count only when they are whole and on disk
//! - [`export`]: parts of bounded size, one event a line, a header line first
//! - [`import`]: an upload, and the job that appends its lines to the log
//! - [`tidy`]: which files go
//! - `verify`: whether what is on disk is what was written
//!
//! On disk, in the data directory: `bulk/exports/JOB/` with `part-NNNNNN.ndjson` or `.ndjson.zst` and `parts.ndjson`, a
//! line about each part; `bulk/imports/ID/` with `content`, the upload, and `rejected.ndjson`, a line about each line that
//! was not taken. Names are made of ids that the hub made; nothing that a client sent becomes part of a path.
//!
//! - `BK-1` A part counts when its file is synced and renamed, its folder is synced, its line in `parts.ndjson` is synced,
//!   and the job's cursor names it, in this order. What a crash leaves behind that no cursor names is removed when the
//!   job goes on. So no event of an export is in two parts, and none is missing.
//! - `BK-2` What retention drops before an export has read it is a gap that the export tells.
//! - `BK-3` The cursor of an import passes a line only when the line is in the log, or its rejection is in the report and
//!   synced. A line that is appended again after a crash has the id and the body it had, so the log knows it.
//! - `BK-4` An import is a tenant of its own at the gate of the log, has no more than one batch there, and waits while
//!   many live events wait.
//! - `BK-5` What a client acknowledged of an upload is on disk: its offset is in a document that was written after the
//!   sync of the bytes.

pub mod export;
mod folder;
pub mod import;
pub mod tidy;
pub(crate) mod verify;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use crate::config;
use crate::event::redact::Redactor;
use crate::ground::clock::SharedClock;
use crate::ground::random::SharedRandom;
use crate::job::{JobRecord, JobWork, StepError};
use crate::lookup::Finder;
use crate::store::StoreError;
use crate::store::engine::free_bytes;

use export::{ExportSpec, ExportWork, Live};
use import::{ImportSpec, ImportWork, Taking};

/// Kind of a job that exports events.
pub const EXPORT: &str = "export";
/// Kind of a job that imports events.
pub const IMPORT: &str = "import";

/// The version of the export contract that header lines name.
pub const CONTRACT_VERSION: u32 = 1;
/// The form of the files: a header line, then an envelope a line.
pub const FORMAT: &str = "tidegate.events.ndjson";
/// What a header line begins with. No event has a member of this name.
pub const HEADER_MARK: &str = "{\"tidegate_export\":";

/// Exports that read the log at once.
const READERS: usize = 1;

/// How the lines of a file are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// They are not.
    #[default]
    None,
    /// Zstandard (RFC 8878); several frames one after the other are one file.
    Zstd,
}

impl Compression {
    /// Every form.
    pub const ALL: [Self; 2] = [Self::None, Self::Zstd];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}

/// What exports and imports work with.
pub struct Bulk {
    root: PathBuf,
    settings: config::Bulk,
    floor_bytes: u64,
    event_bytes_max: usize,
    finder: Finder,
    /// What exports may show.
    redactor: Redactor,
    lane: Semaphore,
    clock: SharedClock,
    random: SharedRandom,
    /// What running exports have done since their last part.
    live: DashMap<String, Live>,
    taking: OnceLock<Arc<dyn Taking>>,
    /// Bytes of the exports on disk, as far as is known.
    export_bytes: AtomicU64,
    /// Wakes whoever removes files.
    tidy: Notify,
}

impl std::fmt::Debug for Bulk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bulk").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Bulk {
    /// Over the files in the data directory and the log.
    #[must_use]
    pub fn new(
        config: &config::Config,
        finder: Finder,
        redactor: Redactor,
        clock: SharedClock,
        random: SharedRandom,
    ) -> Arc<Self> {
        Arc::new(Self {
            root: config.server.data_dir.join("bulk"),
            settings: config.bulk.clone(),
            floor_bytes: config.log.free_space_floor_bytes,
            event_bytes_max: config.limits.event_bytes_max,
            finder,
            redactor,
            lane: Semaphore::new(READERS),
            clock,
            random,
            live: DashMap::new(),
            taking: OnceLock::new(),
            export_bytes: AtomicU64::new(0),
            tidy: Notify::new(),
        })
    }

    /// Sets who appends what imports read. Once.
    pub fn set_taking(&self, taking: Arc<dyn Taking>) {
        self.taking.get_or_init(|| taking);
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &config::Bulk {
        &self.settings
    }

    /// The folder of an export.
    #[must_use]
    pub fn export_dir(&self, job: &str) -> PathBuf {
        self.exports_dir().join(job)
    }

    /// The folder of an import.
    #[must_use]
    pub fn import_dir(&self, id: &str) -> PathBuf {
        self.imports_dir().join(id)
    }

    fn exports_dir(&self) -> PathBuf {
        self.root.join("exports")
    }

    fn imports_dir(&self) -> PathBuf {
        self.root.join("imports")
    }

    /// Wakes whoever removes files.
    pub fn wants_tidying(&self) {
        self.tidy.notify_one();
    }

    /// Ends when there may be files to remove. One waiter.
    pub async fn tidying_wanted(&self) {
        self.tidy.notified().await;
    }

    fn exports_are_full(&self) -> bool {
        self.export_bytes.load(Ordering::Acquire) >= self.settings.exports_bytes_max
    }

    fn add_export_bytes(&self, bytes: u64) {
        self.export_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// What a running export has done since its last part.
    #[must_use]
    pub fn live(&self, job: &str) -> Live {
        self.live.get(job).map(|live| *live).unwrap_or_default()
    }

    /// Refuses to write when less space would be left than the floor, after `more` bytes. Blocks.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]; when the system does not tell.
    pub fn check_space(&self, more: u64) -> Result<(), StoreError> {
        let at: &Path = if self.root.is_dir() { &self.root } else { self.root.parent().unwrap_or(&self.root) };
        let (free, floor) = (free_bytes(at)?, self.floor_bytes);
        if free < floor.saturating_add(more) { Err(StoreError::DiskFull { free, floor }) } else { Ok(()) }
    }

    /// Opens the work of an export or an import.
    ///
    /// # Errors
    /// When what the job does cannot be read, or it is of another kind.
    pub fn open(self: &Arc<Self>, job: &JobRecord) -> Result<Box<dyn JobWork>, StepError> {
        let unreadable =
            |error: serde_json::Error| StepError::Fatal(format!("what the job does is not readable: {error}"));
        match job.kind.as_str() {
            EXPORT => {
                let spec: ExportSpec = serde_json::from_value(job.spec.clone()).map_err(unreadable)?;
                Ok(Box::new(ExportWork::new(Arc::clone(self), job.id.clone(), spec)))
            }
            IMPORT => {
                let spec: ImportSpec = serde_json::from_value(job.spec.clone()).map_err(unreadable)?;
                let taking = self.taking.get().map(Arc::clone);
                let taking = taking.ok_or_else(|| StepError::Again("the hub is being opened".to_owned()))?;
                Ok(Box::new(ImportWork::new(Arc::clone(self), taking, spec, job.created.clone())))
            }
            other => Err(StepError::Fatal(format!("{other} is neither an export nor an import"))),
        }
    }
}

/// A failure of the file system as that of a step: it may pass.
fn again(what: &str) -> impl Fn(std::io::Error) -> StepError {
    move |error| StepError::Again(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests;
