//! The embedded engine: sled, with what was measured about it built in (DESIGN §4).
//!
//! On disk: one sled database in `DIR/store`. Trees: `log-SEQ` and `ids-SEQ` per segment of the log, `seals`
//! (what is known of full segments), `index-blocks` and `index-groups` (what is where in the log), `checkpoints`,
//! `rows-CONSUMER`, `attempts-MS` per stretch of time, `schedule-N` per six hours of due time, `idempotency-keys-N` and
//! `idempotency-answers-N` per ten minutes, `dead`, `registry`, `quarantine-N` per day of refused events,
//! `lifecycle-places` and `lifecycle-flags`, and `links` with its orders `links-out`, `links-in`, `links-org` and the
//! `links-count` of each org.
//! Each tree sees one pattern of inserts and deletes only: mixed patterns in one tree leak without bound.
//!
//! A failed commit poisons the handle. Then everything of it is dropped and the database is opened again by a thread of
//! its own, with retries; until that works every call answers [`StoreError::Unavailable`].

pub(crate) mod check;
mod consumers;
mod idempotency;
mod ids;
mod index;
mod lifecycle;
mod links;
mod log;
mod quarantine;
mod registry;
mod schedule;
mod segment;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::StoreError;
use index::IndexTrees;
use log::LogTrees;

/// How the engine is opened.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The data directory; the database lies in its `store` folder.
    pub data_dir: PathBuf,
    /// Page cache, in bytes.
    pub cache_bytes: u64,
    /// Events per segment of the log.
    pub segment_events: u64,
    /// Bytes that must stay free in the data directory.
    pub free_space_floor_bytes: u64,
}

/// How often a database that is still locked is tried again before opening fails.
const OPEN_TRIES: u32 = 100;
/// Pause between two tries.
const OPEN_PAUSE: Duration = Duration::from_millis(50);
/// Rows whose garbage one round of the collector certainly frees.
const ROWS_PER_COLLECTION: usize = 32;
/// Rounds before what was just replaced may be freed: nobody can still read it two epochs later.
const EPOCHS_TO_PASS: usize = 3;
/// Appends between two looks at the free space.
const SPACE_CHECK_EVERY: u32 = 64;

/// The open database.
pub(super) struct Inner {
    db: sled::Db,
    file: File,
    log: LogTrees,
    index: IndexTrees,
    checkpoints: sled::Tree,
    dead: sled::Tree,
    registry: sled::Tree,
    links: links::LinkTrees,
    attempts: Mutex<consumers::AttemptTrees>,
    schedule: schedule::Buckets,
    quarantine: quarantine::Days,
    lifecycle: lifecycle::LifecycleTrees,
    idempotency: idempotency::Stretches,
    rows: Mutex<consumers::RowTrees>,
}

impl Inner {
    fn open(options: &EngineOptions) -> Result<Self, StoreError> {
        let path = options.data_dir.join("store");
        std::fs::create_dir_all(&path)?;
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(options.cache_bytes)
            .segment_size(8 << 20)
            .flush_every_ms(Some(500));
        let mut tries = 0;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                // A second opener, even after our own drop, can find the lock still held for a moment.
                Err(sled::Error::Io(error)) if tries < OPEN_TRIES && is_locked(&error) => {
                    tries += 1;
                    std::thread::sleep(OPEN_PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let file = File::open(path.join("db"))?;
        let registry = db.open_tree("registry")?;
        let log = LogTrees::open(&db, &registry, options.segment_events)?;
        Ok(Self {
            index: IndexTrees::open(&db, log.head())?,
            log,
            checkpoints: db.open_tree("checkpoints")?,
            dead: db.open_tree("dead")?,
            attempts: Mutex::new(consumers::AttemptTrees::open(&db)?),
            schedule: schedule::Buckets::open(&db),
            links: links::LinkTrees::open(&db)?,
            quarantine: quarantine::Days::open(&db),
            lifecycle: lifecycle::LifecycleTrees::open(&db)?,
            idempotency: idempotency::Stretches::open(&db),
            rows: Mutex::new(consumers::RowTrees::open(&db)?),
            registry,
            file,
            db,
        })
    }

    /// Makes everything committed so far durable: the engine's flush, then a real sync of its file (ST-1).
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        // The flush has put the write buffer it ended into this thread's bag of garbage. A thread that commits seldom, as
        // those of the blocking pool do, would keep it there, and with it eight megabytes (measured: an import grew by
        // 600 MB while its job wrote its place).
        crossbeam_epoch::pin().flush();
        self.file.sync_data()?;
        Ok(())
    }
}

/// Frees what a commit of `rows` has replaced.
///
/// sled leaves old pages to crossbeam's collector, which looks once in 128 pins and frees 512 objects each time. A
/// transaction pins once and replaces a page per row, so without this the garbage of a busy log grows by kilobytes an
/// event (measured: 450 MB after 90,000 events).
///
/// To be called between a commit and its sync, on the thread of the commit: sled's I/O threads collect too when they
/// write, and what one thread frees of another's costs several times as much.
pub(super) fn collect_garbage(rows: usize) {
    for _ in 0..EPOCHS_TO_PASS + rows / ROWS_PER_COLLECTION {
        crossbeam_epoch::pin().flush();
    }
}

fn is_locked(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// Failures that a test or an operator plans.
#[derive(Debug, Default)]
pub struct PlannedFaults {
    /// This many of the next appends fail after they were written and before they were synced.
    pub fail_commits: AtomicU32,
}

/// The embedded engine. All ports are on it; it is shared by every actor.
pub struct Engine {
    options: EngineOptions,
    inner: RwLock<Option<Arc<Inner>>>,
    me: Weak<Engine>,
    /// Head and earliest survive while the database is being reopened.
    head: AtomicU64,
    earliest: AtomicU64,
    reopened: AtomicU64,
    appends: AtomicU32,
    faults: PlannedFaults,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data_dir", &self.options.data_dir).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens (or makes) the database. Blocks: up to seconds with a large log.
    ///
    /// # Errors
    /// When the directory cannot be used, another process holds it, or what is in it is damaged. Too little free space is
    /// no such error: reads work, and what would write answers [`StoreError::DiskFull`].
    pub fn open(options: EngineOptions) -> Result<Arc<Self>, StoreError> {
        let inner = Inner::open(&options)?;
        let engine = Arc::new_cyclic(|me| Self {
            options,
            head: AtomicU64::new(inner.log.head().0),
            earliest: AtomicU64::new(inner.log.earliest().0),
            inner: RwLock::new(Some(Arc::new(inner))),
            me: me.clone(),
            reopened: AtomicU64::new(0),
            appends: AtomicU32::new(0),
            faults: PlannedFaults::default(),
        });
        // Reading needs no space, so it opens all the same; what would write is refused.
        if let Err(error) = engine.check_space() {
            tracing::error!(%error, "too little free space: nothing new is taken until there is more");
        }
        Ok(engine)
    }

    /// Failures to come, for tests of what happens then.
    #[must_use]
    pub fn faults(&self) -> &PlannedFaults {
        &self.faults
    }

    /// Whether the database is open.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.inner.read().is_some()
    }

    /// How often the database was opened again after a failure.
    #[must_use]
    pub fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Acquire)
    }

    /// Bytes of the database file.
    #[must_use]
    pub fn size_on_disk(&self) -> u64 {
        std::fs::metadata(self.options.data_dir.join("store").join("db")).map_or(0, |meta| meta.len())
    }

    /// Makes everything committed so far durable.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.with(Inner::sync)
    }

    /// Free bytes of the file system the data directory is on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        free_bytes(&self.options.data_dir)
    }

    /// Refuses work when the disk is nearly full: deletes need space too.
    fn check_space(&self) -> Result<(), StoreError> {
        let (free, floor) = (self.free_bytes()?, self.options.free_space_floor_bytes);
        if free < floor { Err(StoreError::DiskFull { free, floor }) } else { Ok(()) }
    }

    /// Like [`Engine::check_space`], looked at once in a while; as long as space lacks, every time.
    fn check_space_sometimes(&self) -> Result<(), StoreError> {
        if !self.appends.fetch_add(1, Ordering::Relaxed).is_multiple_of(SPACE_CHECK_EVERY) {
            return Ok(());
        }
        self.check_space().inspect_err(|_| self.appends.store(0, Ordering::Relaxed))
    }

    /// Runs `work` on the open database. An engine failure starts the reopening.
    fn with<T>(&self, work: impl FnOnce(&Inner) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (inner, generation) = {
            let inner = self.inner.read();
            (inner.clone().ok_or(StoreError::Unavailable)?, self.reopened())
        };
        let result = work(&inner);
        if let Err(StoreError::Engine(error)) = &result {
            drop(inner);
            self.reopen(error, generation);
        }
        result
    }

    /// A planned fault of a durable commit, if one is due.
    fn planned_fault(&self) -> Result<(), StoreError> {
        let due =
            self.faults.fail_commits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if due.is_ok() { Err(StoreError::Engine("planned fault".to_owned())) } else { Ok(()) }
    }

    /// Takes the failed database away from everyone and opens it again on a thread of its own. A failure of an opening
    /// that was replaced meanwhile is no reason to take away the next one.
    fn reopen(&self, error: &str, generation: u64) {
        let failed = {
            let mut inner = self.inner.write();
            if self.reopened() != generation {
                return;
            }
            inner.take()
        };
        let Some(failed) = failed else { return };
        tracing::error!(error, "the store engine failed; nothing is acknowledged until it is open again");
        let Some(engine) = self.me.upgrade() else { return };
        let spawned = std::thread::Builder::new().name("store-reopen".into()).spawn(move || engine.reopen_loop(failed));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to reopen the store: the process must be restarted");
        }
    }

    fn reopen_loop(&self, failed: Arc<Inner>) {
        // Readers hold the old handle for one call only; the lock is free when the last of them has let go.
        while Arc::strong_count(&failed) > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(failed);
        let mut pause = OPEN_PAUSE;
        loop {
            match Inner::open(&self.options) {
                Ok(inner) => {
                    self.head.store(inner.log.head().0, Ordering::Release);
                    self.earliest.store(inner.log.earliest().0, Ordering::Release);
                    let mut slot = self.inner.write();
                    // Before anyone can commit: the ledger tells by it that its sessions are void.
                    self.reopened.fetch_add(1, Ordering::AcqRel);
                    *slot = Some(Arc::new(inner));
                    drop(slot);
                    tracing::warn!("the store is open again");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the store does not open; trying again");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }
}

/// Free bytes of the file system `path` is on.
///
/// # Errors
/// When the system does not tell.
pub fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| StoreError::Engine(format!("statvfs: {error}")))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
