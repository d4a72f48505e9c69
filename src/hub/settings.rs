//! Settings that change at run time and are kept over a restart (OUT-7).

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::{Documents, Hub};
use crate::config::OutboxSettings;
use crate::ground::error::Problem;

const KEY: &str = "outbox";

/// The settings of in-process handlers: what the configuration says, and what was changed since.
#[derive(Debug)]
pub(super) struct Settings {
    documents: Documents<Map<String, Value>>,
    current: Mutex<OutboxSettings>,
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
        Ok(Self { documents, current: Mutex::new(current) })
    }

    pub(super) fn get(&self) -> OutboxSettings {
        self.current.lock().clone()
    }

    /// Checks, stores and applies a change. Blocks.
    fn patch(&self, changes: &Map<String, Value>) -> Result<OutboxSettings, Problem> {
        let mut current = self.current.lock();
        let mut changed = current.clone();
        changed.patch(changes)?;
        let stored = self.documents.get(KEY)?;
        let (mut all, revision) = stored.map_or((Map::new(), None), |(all, revision)| (all, Some(revision)));
        all.extend(changes.clone());
        self.documents.put(KEY, &all, revision)?;
        current.clone_from(&changed);
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
        self.inner.intake.set_enabled(changed.enabled);
        self.reconfigure_handlers();
        Ok(changed)
    }
}
