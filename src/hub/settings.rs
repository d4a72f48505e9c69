//! Settings that change at run time and are kept over a restart (OUT-7).

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::{Documents, Hub};
use crate::config::{LiveSettings, OutboxSettings};
use crate::ground::error::Problem;
use crate::router::messages::Reconsider;

const KEY: &str = "outbox";

/// The settings of in-process handlers: what the configuration says, and what was changed since.
#[derive(Debug)]
pub(super) struct Settings {
    documents: Documents<Map<String, Value>>,
    /// Shared with the actors that the settings concern: whatever becomes of an actor, the next life reads these.
    current: LiveSettings,
    /// Changes are made one at a time.
    changing: Mutex<()>,
}

impl Settings {
    /// The configured settings with the stored changes. A stored change that no longer fits is left out and logged.
    pub(super) fn load(documents: Documents<Map<String, Value>>, configured: &OutboxSettings) -> Result<Self, Problem> {
        let mut current = configured.clone();
        if let Some((changes, _)) = documents.get(KEY)? {
            for (key, value) in changes {
                let one = Map::from_iter([(key.clone(), value)]);
                if let Err(problem) = current.patch(&one) {
                    tracing::warn!(key, %problem, "a stored setting does not fit any more and is left out");
                }
            }
        }
        Ok(Self { documents, current: Arc::new(ArcSwap::from_pointee(current)), changing: Mutex::new(()) })
    }

    pub(super) fn get(&self) -> Arc<OutboxSettings> {
        self.current.load_full()
    }

    /// Whether new events are taken.
    pub(super) fn takes_events(&self) -> bool {
        self.current.load().enabled
    }

    /// The settings for those who read them at each use.
    pub(super) fn live(&self) -> LiveSettings {
        Arc::clone(&self.current)
    }

    /// Checks, stores and applies a change. Blocks.
    fn patch(&self, changes: &Map<String, Value>) -> Result<OutboxSettings, Problem> {
        let _one_at_a_time = self.changing.lock();
        let mut changed = (*self.get()).clone();
        changed.patch(changes)?;
        let stored = self.documents.get(KEY)?;
        let (mut all, revision) = stored.map_or((Map::new(), None), |(all, revision)| (all, Some(revision)));
        all.extend(changes.clone());
        self.documents.put(KEY, &all, revision)?;
        self.current.store(Arc::new(changed.clone()));
        Ok(changed)
    }
}

impl Hub {
    /// Changes run-time settings; they hold at once and after a restart. Blocks.
    ///
    /// # Errors
    /// When a key is unknown or a value out of its range, or the store fails; nothing has changed then.
    pub fn patch_settings(&self, changes: &Map<String, Value>) -> Result<OutboxSettings, Problem> {
        let changed = self.inner.settings.patch(changes)?;
        self.reconfigure_handlers();
        // A router that is being restarted reads the settings when it begins.
        self.inner.router.hint(Reconsider);
        Ok(changed)
    }
}
