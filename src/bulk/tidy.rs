//! Which files go: those of jobs that were cancelled or forgotten, and what is too old or too much. The rule is pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Bulk;
use super::folder::{bytes_in, names, remove_dir};
use crate::ground::clock::UnixMs;
use crate::job::{JobRecord, JobState};

/// An export on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The job whose it is.
    pub job: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// How long finished exports stay.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bytes of all exports; past it the one that ended first goes first.
    pub bytes_max: u64,
    /// Age since the end.
    pub age_ms: u64,
}

/// The exports whose files go. `ended` tells of the jobs that are known: none for one that waits or runs.
#[must_use]
pub fn exports_to_remove(
    folders: &[Folder],
    ended: &HashMap<&str, Option<(JobState, UnixMs)>>,
    rules: Rules,
    now: UnixMs,
) -> Vec<String> {
    let mut bytes: u64 = folders.iter().map(|folder| folder.bytes).sum();
    let mut gone = Vec::new();
    let mut finished = Vec::new();
    for folder in folders {
        let goes = match ended.get(folder.job.as_str()) {
            None | Some(Some((JobState::Cancelled, _))) => true,
            Some(Some((_, at))) => {
                finished.push((*at, folder));
                now.since_ms(*at) > rules.age_ms
            }
            Some(None) => false,
        };
        if goes {
            bytes -= folder.bytes;
            gone.push(folder.job.clone());
        }
    }
    finished.sort_by(|a, b| (a.0, &a.1.job).cmp(&(b.0, &b.1.job)));
    for (_, folder) in finished {
        if bytes <= rules.bytes_max {
            break;
        }
        if !gone.contains(&folder.job) {
            bytes -= folder.bytes;
            gone.push(folder.job.clone());
        }
    }
    gone
}

impl Bulk {
    /// Removes the files of exports that are to go. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn tidy_exports(&self, jobs: &[Arc<JobRecord>]) -> std::io::Result<()> {
        let dir = self.exports_dir();
        let mut folders = Vec::new();
        for job in names(&dir)? {
            let bytes = bytes_in(&dir.join(&job))?;
            folders.push(Folder { job, bytes });
        }
        let ended = jobs
            .iter()
            .map(|job| (job.id.as_str(), job.state.has_ended().then_some((job.state, job.updated.at))))
            .collect();
        let settings = self.settings();
        let rules = Rules { bytes_max: settings.exports_bytes_max, age_ms: settings.exports_ms };
        let gone = exports_to_remove(&folders, &ended, rules, self.clock.now());
        for job in &gone {
            remove_dir(&dir.join(job))?;
            tracing::info!(job, "the files of an export are removed");
        }
        let kept = folders.iter().filter(|folder| !gone.contains(&folder.job));
        self.export_bytes.store(kept.map(|folder| folder.bytes).sum(), Ordering::Release);
        Ok(())
    }

    /// Removes the files of imports that are not known. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn tidy_imports(&self, is_known: impl Fn(&str) -> bool) -> std::io::Result<()> {
        let dir = self.imports_dir();
        for id in names(&dir)?.into_iter().filter(|id| !is_known(id)) {
            remove_dir(&dir.join(id))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(sizes: &[(&str, u64)]) -> Vec<Folder> {
        sizes.iter().map(|(job, bytes)| Folder { job: (*job).to_owned(), bytes: *bytes }).collect()
    }

    #[test]
    fn what_was_cancelled_forgotten_or_is_old_goes_and_then_what_ended_first() {
        let folders = folders(&[("a", 10), ("b", 10), ("c", 10), ("d", 10), ("e", 10), ("f", 10)]);
        let ended = HashMap::from([
            ("a", Some((JobState::Done, UnixMs(9_000)))),
            ("b", Some((JobState::Failed, UnixMs(8_500)))),
            ("c", None),
            ("d", Some((JobState::Cancelled, UnixMs(9_900)))),
            ("e", Some((JobState::Done, UnixMs(1)))),
        ]);
        let gone = |bytes_max| {
            let rules = Rules { bytes_max, age_ms: 5_000 };
            exports_to_remove(&folders, &ended, rules, UnixMs(10_000))
        };
        assert_eq!(gone(1_000), ["d", "e", "f"]);
        assert_eq!(gone(30), ["d", "e", "f"]);
        assert_eq!(gone(29), ["d", "e", "f", "b"]);
        assert_eq!(gone(0), ["d", "e", "f", "b", "a"], "what runs stays");
    }
}
