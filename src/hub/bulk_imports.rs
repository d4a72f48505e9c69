//! Imports as clients see them: uploads made, appended to and committed; reports; deletion (BLK-2).

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::replays::spec_json;
use super::{Documents, Hub, Page};
use crate::bulk::IMPORT;
use crate::bulk::import::{
    Appending, ImportPlace, ImportRecord, ImportSpec, content_path, read_commit, read_import, read_report, report_path,
};
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::prefixed;
use crate::job::{JobRecord, NewJob};

/// When to come back while the uploads on disk are as many as they may be.
const FULL_RETRY_S: u64 = 60;

/// An import in memory.
#[derive(Clone, Debug)]
struct Entry {
    record: Arc<ImportRecord>,
    revision: u64,
    /// A request appends to it.
    appending: bool,
}

/// Every import.
#[derive(Debug)]
pub(super) struct Imports {
    documents: Documents<ImportRecord>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Documents are changed one at a time: each change syncs.
    changing: Mutex<()>,
}

impl Imports {
    pub(super) fn load(documents: Documents<ImportRecord>) -> Result<Self, Problem> {
        let listed = documents.list()?.into_iter();
        let entry = |(record, revision): (ImportRecord, u64)| {
            (record.id.clone(), Entry { record: Arc::new(record), revision, appending: false })
        };
        Ok(Self { entries: Mutex::new(listed.map(entry).collect()), documents, changing: Mutex::new(()) })
    }

    /// Changes a document. Blocks.
    fn change(&self, id: &str, change: impl FnOnce(&mut ImportRecord)) -> Result<Arc<ImportRecord>, Problem> {
        let _one_at_a_time = self.changing.lock();
        let entry = self.entries.lock().get(id).cloned().ok_or_else(|| Problem::not_found("import", id))?;
        let mut record = (*entry.record).clone();
        change(&mut record);
        let written = match self.documents.put(id, &record, Some(entry.revision)) {
            // An earlier write was carried out and reported as failed: nobody else writes this document.
            Err(problem) if problem.kind == ProblemKind::Conflict => {
                let found = self.documents.get(id)?.map(|(_, revision)| revision);
                self.documents.put(id, &record, found)
            }
            other => other,
        };
        let record = Arc::new(record);
        let revision = written?;
        if let Some(entry) = self.entries.lock().get_mut(id) {
            (entry.record, entry.revision) = (Arc::clone(&record), revision);
        }
        Ok(record)
    }
}

/// A request that appends to an upload. When it is dropped another one may.
#[derive(Debug)]
pub struct Upload {
    hub: Hub,
    id: String,
    appending: Option<Appending>,
    /// Bytes that may still come.
    left: u64,
    bound: &'static str,
    context: WriteContext,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(entry) = self.hub.inner.imports.entries.lock().get_mut(&self.id) {
            entry.appending = false;
        }
    }
}

fn failed(error: std::io::Error) -> Problem {
    tracing::warn!(%error, "a file of an import cannot be used now");
    Problem::new(ProblemKind::Overloaded, "the content cannot be written or read now; ask for the offset and go on")
}

fn upload_gone() -> Problem {
    Problem::new(ProblemKind::Overloaded, "the upload broke off; ask for the offset and go on")
}

impl Upload {
    /// Adds bytes, synced and acknowledged now and then.
    ///
    /// # Errors
    /// [`ProblemKind::TooLarge`] past what may be sent; when the disk is nearly full or the store fails.
    pub async fn add(&mut self, bytes: Bytes) -> Result<(), Problem> {
        let count = bytes.len() as u64;
        if count > self.left {
            let limit = format!("no more bytes than {}", self.bound);
            return Err(Problem::field("body", limit, "more").as_kind(ProblemKind::TooLarge));
        }
        let mut appending = self.appending.take().ok_or_else(upload_gone)?;
        let (id, context) = (self.id.clone(), self.context.clone());
        let added = self.hub.blocking(move |hub| {
            hub.check_bulk_space(count)?;
            appending.add(&bytes).map_err(failed)?;
            if appending.wants_sync() {
                hub.acknowledge(&id, &mut appending, context)?;
            }
            Ok(appending)
        });
        self.appending = Some(added.await?);
        self.left -= count;
        Ok(())
    }

    /// Syncs and acknowledges what was added; gives the import.
    ///
    /// # Errors
    /// When the file system or the store fails; what was acknowledged before stays.
    pub async fn finish(mut self) -> Result<Value, Problem> {
        let Some(mut appending) = self.appending.take() else { return Err(upload_gone()) };
        let (id, context) = (self.id.clone(), self.context.clone());
        self.hub
            .blocking(move |hub| {
                let record = hub.acknowledge(&id, &mut appending, context)?;
                Ok(hub.import_json(&record))
            })
            .await
    }
}

impl Hub {
    /// Makes an upload. Blocks.
    ///
    /// # Errors
    /// When a field does not fit, there are too many, or the store fails.
    pub fn create_import(
        &self,
        fields: Fields,
        confined_to: Option<&str>,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let settings = self.inner.bulk.settings();
        let request = read_import(fields, settings.import_bytes_max)?;
        let org = scoped_org(request.org, confined_to)?;
        let rate = request.rate.or((settings.import_rate > 0).then_some(settings.import_rate));
        let imports = &self.inner.imports;
        let _one_at_a_time = imports.changing.lock();
        if imports.entries.lock().len() >= settings.imports_max {
            let text = format!("{} imports are kept, which is the most (bulk.imports_max)", settings.imports_max);
            return Err(Problem::new(ProblemKind::Conflict, text).with("bound", "bulk.imports_max"));
        }
        let record = Arc::new(ImportRecord {
            id: prefixed("imp", context.at, &*self.inner.random),
            owner: confined_to.map(str::to_owned),
            org,
            compression: request.compression,
            expected_bytes: request.expected_bytes,
            sha256: request.sha256,
            rate,
            received_bytes: 0,
            committed: false,
            created: context.clone(),
            updated: context,
            ended: None,
        });
        let revision = imports.documents.put(&record.id, &record, None)?;
        let entry = Entry { record: Arc::clone(&record), revision, appending: false };
        imports.entries.lock().insert(record.id.clone(), entry);
        Ok(self.import_json(&record))
    }

    fn find_import(&self, id: &str, org: Option<&str>) -> Result<Arc<ImportRecord>, Problem> {
        let found = self.inner.imports.entries.lock().get(id).map(|entry| Arc::clone(&entry.record));
        let visible = found.filter(|record| org.is_none() || record.owner.as_deref() == org);
        visible.ok_or_else(|| Problem::not_found("import", id))
    }

    fn import_job(&self, id: &str) -> Option<(Arc<JobRecord>, Option<String>)> {
        self.inner.jobs.of_kind(IMPORT).into_iter().rev().find(|(job, _)| job.spec["import"] == id)
    }

    fn import_place(job: Option<&JobRecord>) -> ImportPlace {
        let cursor = job.and_then(|job| job.cursor.as_deref());
        cursor.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    fn import_json(&self, record: &ImportRecord) -> Value {
        let job = self.import_job(&record.id);
        if let (None, Some(told)) = (&job, &record.ended) {
            return told.clone();
        }
        let (job, waits_for) = job.map_or((None, None), |(job, waits_for)| (Some(job), waits_for));
        let place = Self::import_place(job.as_deref());
        let counts = place.counts;
        let state = match (&job, record.committed) {
            (Some(job), _) => job.state.as_str(),
            (None, true) => "committed",
            (None, false) => "uploading",
        };
        let ended = job.as_ref().filter(|job| job.state.has_ended());
        json!({
            "id": record.id,
            "owner": record.owner,
            "org": record.org,
            "state": state,
            "compression": record.compression.as_str(),
            "expected_bytes": record.expected_bytes,
            "sha256": record.sha256,
            "rate": record.rate,
            "received_bytes": record.received_bytes,
            "job": job.as_ref().map(|job| &job.id),
            "content_at": place.at,
            "lines": counts.lines,
            "headers": counts.headers,
            "accepted": counts.accepted,
            "scheduled": counts.scheduled,
            "duplicates": counts.duplicates,
            "conflicts": counts.conflicts,
            "rejected": counts.rejected,
            "report_bytes": place.report_bytes,
            "report_lines": place.report_lines,
            "report_complete": place.report_lines == counts.conflicts + counts.rejected,
            "waits_for": waits_for,
            "error": job.as_ref().and_then(|job| job.error.clone()),
            "created_at": record.created.at.to_rfc3339(),
            "created_by": record.created.by,
            "updated_at": record.updated.at.to_rfc3339(),
            "finished_at": ended.map(|job| job.updated.at.to_rfc3339()),
        })
    }

    /// An import that this org may see.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org.
    pub fn import(&self, id: &str, org: Option<&str>) -> Result<Value, Problem> {
        Ok(self.import_json(&*self.find_import(id, org)?))
    }

    /// Imports, newest first, from before the id `before`.
    #[must_use]
    pub fn imports(&self, org: Option<&str>, before: Option<&str>, limit: usize) -> Page<Value> {
        let fits = |record: &ImportRecord| {
            (org.is_none() || record.owner.as_deref() == org) && before.is_none_or(|before| record.id.as_str() < before)
        };
        let (shown, has_more) = {
            let entries = self.inner.imports.entries.lock();
            let mut fitting = entries.values().rev().map(|entry| &entry.record).filter(|record| fits(record));
            let shown: Vec<Arc<ImportRecord>> = fitting.by_ref().take(limit).map(Arc::clone).collect();
            (shown, fitting.next().is_some())
        };
        let next = shown.last().map_or_else(|| before.unwrap_or_default().to_owned(), |last| last.id.clone());
        Page { items: shown.iter().map(|record| self.import_json(record)).collect(), next, has_more }
    }

    /// Begins to append to an upload at an offset, which must be that of its end.
    ///
    /// # Errors
    /// [`ProblemKind::Conflict`] with the offset at which to go on; also when another request appends or it is committed.
    pub async fn append_import(
        &self,
        id: &str,
        org: Option<&str>,
        offset: u64,
        context: WriteContext,
    ) -> Result<Upload, Problem> {
        let record = self.find_import(id, org)?;
        let settings = self.inner.bulk.settings();
        let taken: u64 = {
            let mut entries = self.inner.imports.entries.lock();
            let all = entries.values().filter(|entry| entry.record.id != id);
            // Those that are being appended to are counted as of their last acknowledgement.
            let all = all.map(|entry| entry.record.received_bytes).sum();
            let entry = entries.get_mut(id).ok_or_else(|| Problem::not_found("import", id))?;
            if entry.record.committed {
                return Err(Problem::new(ProblemKind::Conflict, "the import is committed: nothing is added any more"));
            }
            let at = entry.record.received_bytes;
            if entry.appending {
                let text = "another request appends to it";
                return Err(Problem::new(ProblemKind::Conflict, text).with("offset", at));
            }
            if offset != at {
                let problem = Problem::field("offset", format!("{at}: so many bytes are there"), offset);
                return Err(problem.as_kind(ProblemKind::Conflict).with("offset", at));
            }
            entry.appending = true;
            all
        };
        let mut upload = Upload {
            hub: self.clone(),
            id: id.to_owned(),
            appending: None,
            left: settings.import_bytes_max.saturating_sub(offset),
            bound: "one import may have (bulk.import_bytes_max)",
            context,
        };
        if let Some(expected) = record.expected_bytes {
            (upload.left, upload.bound) = (expected.saturating_sub(offset), "were expected (expected_bytes)");
        }
        let room = settings.imports_bytes_max.saturating_sub(taken).saturating_sub(offset);
        if room == 0 {
            let text = "the uploads on disk have as many bytes as they may (bulk.imports_bytes_max)";
            let problem = Problem::new(ProblemKind::Overloaded, text).with("bound", "bulk.imports_bytes_max");
            return Err(problem.retry_after(FULL_RETRY_S));
        }
        if room < upload.left {
            (upload.left, upload.bound) = (room, "all uploads may have (bulk.imports_bytes_max)");
        }
        let dir = self.inner.bulk.import_dir(id);
        upload.appending = Some(self.blocking(move |_| Appending::begin(&dir, offset).map_err(failed)).await?);
        Ok(upload)
    }

    /// Syncs what was added to an upload, and then says so in its document (BK-5). Blocks.
    fn acknowledge(
        &self,
        id: &str,
        appending: &mut Appending,
        context: WriteContext,
    ) -> Result<Arc<ImportRecord>, Problem> {
        let received_bytes = appending.sync().map_err(failed)?;
        self.inner.imports.change(id, |record| {
            record.received_bytes = received_bytes;
            record.updated = context;
        })
    }

    /// Commits an upload: its job is made. Asked again, it answers the same.
    ///
    /// # Errors
    /// When a field does not fit, bytes are missing, there are too many jobs, or the store fails.
    pub async fn commit_import(
        &self,
        id: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        self.blocking(move |hub| hub.commit_upload(&id, org.as_deref(), fields, context)).await
    }

    fn commit_upload(
        &self,
        id: &str,
        org: Option<&str>,
        fields: Fields,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let sha256 = read_commit(fields)?;
        let record = self.find_import(id, org)?;
        if let (Some(named), Some(known)) = (&sha256, &record.sha256)
            && named != known
        {
            return Err(Problem::field("sha256", format!("{known}, as it was named before"), named));
        }
        if let Some(expected) = record.expected_bytes.filter(|expected| *expected != record.received_bytes) {
            let text = format!("{} of {expected} bytes are there", record.received_bytes);
            return Err(Problem::new(ProblemKind::Conflict, text).with("offset", record.received_bytes));
        }
        if self.inner.imports.entries.lock().get(id).is_some_and(|entry| entry.appending) {
            return Err(Problem::new(ProblemKind::Conflict, "a request appends to it"));
        }
        if !record.committed {
            self.inner.imports.change(id, |record| {
                record.committed = true;
                record.sha256 = sha256.or(record.sha256.take());
                record.updated = context.clone();
            })?;
        }
        let record = self.find_import(id, org)?;
        // The end may have come between the commit and the job; two commits at once make one job.
        let _one_at_a_time = self.inner.imports.changing.lock();
        if record.ended.is_none() && self.import_job(id).is_none() {
            let spec = ImportSpec {
                import: record.id.clone(),
                compression: record.compression,
                bytes: record.received_bytes,
                sha256: record.sha256.clone(),
                org: record.org.clone(),
                confined_to: record.owner.clone(),
            };
            let new = NewJob {
                kind: IMPORT,
                org: record.owner.clone(),
                spec: spec_json(&spec)?,
                rate: record.rate,
                total: None,
            };
            self.inner.jobs.create(new, context)?;
        }
        Ok(self.import_json(&record))
    }

    /// A page of the report, from the byte `at` on. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; for a cursor that is none.
    pub fn import_report(&self, id: &str, org: Option<&str>, at: u64, limit: usize) -> Result<Page<Value>, Problem> {
        let record = self.find_import(id, org)?;
        let report_bytes = self.report_bytes(&record);
        let dir = self.inner.bulk.import_dir(&record.id);
        let page = read_report(&dir, report_bytes, at, limit).map_err(|error| {
            tracing::debug!(%error, "a page of a report does not read");
            super::bad_cursor(&at.to_string())
        })?;
        Ok(Page { items: page.items, next: page.next.to_string(), has_more: page.has_more })
    }

    fn report_bytes(&self, record: &ImportRecord) -> u64 {
        match (self.import_job(&record.id), &record.ended) {
            (Some((job, _)), _) => Self::import_place(Some(&job)).report_bytes,
            (None, Some(told)) => told["report_bytes"].as_u64().unwrap_or(0),
            (None, None) => 0,
        }
    }

    /// The whole report as a file, and how many of its bytes count; none when there is none. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; when the file system fails.
    pub fn import_report_file(&self, id: &str, org: Option<&str>) -> Result<Option<(File, u64)>, Problem> {
        let record = self.find_import(id, org)?;
        let report_bytes = self.report_bytes(&record);
        if report_bytes == 0 {
            return Ok(None);
        }
        let path = report_path(&self.inner.bulk.import_dir(&record.id));
        Ok(Some((File::open(path).map_err(failed)?, report_bytes)))
    }

    /// Deletes an import with its content and report; one that waits or runs is cancelled. What it has appended stays.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; [`ProblemKind::Conflict`] while a request appends; when the store fails.
    pub async fn delete_import(&self, id: &str, org: Option<&str>, context: WriteContext) -> Result<(), Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        self.blocking(move |hub| {
            hub.find_import(&id, org.as_deref())?;
            if let Some((job, _)) = hub.import_job(&id)
                && !job.state.has_ended()
            {
                match hub.inner.jobs.cancel(&job.id, None, context) {
                    // It has ended meanwhile.
                    Err(problem) if problem.kind == ProblemKind::Conflict => {}
                    other => drop(other?),
                }
            }
            hub.forget_import(&id)
        })
        .await?;
        self.inner.bulk.wants_tidying();
        Ok(())
    }

    fn forget_import(&self, id: &str) -> Result<(), Problem> {
        let imports = &self.inner.imports;
        let _one_at_a_time = imports.changing.lock();
        if imports.entries.lock().get(id).is_some_and(|entry| entry.appending) {
            return Err(Problem::new(ProblemKind::Conflict, "a request appends to it"));
        }
        imports.documents.delete(id)?;
        imports.entries.lock().remove(id);
        Ok(())
    }

    /// Removes the content of imports that have ended, and imports that are old. Blocks.
    pub(super) fn tidy_imports(&self, jobs: &[Arc<JobRecord>]) -> std::io::Result<()> {
        let (bulk, now) = (&self.inner.bulk, self.inner.clock.now());
        let records: Vec<Arc<ImportRecord>> =
            self.inner.imports.entries.lock().values().map(|entry| Arc::clone(&entry.record)).collect();
        for record in &records {
            let job = jobs.iter().rev().find(|job| job.spec["import"] == record.id.as_str());
            let ended = job.filter(|job| job.state.has_ended());
            let content = content_path(&bulk.import_dir(&record.id));
            if ended.is_some() && record.ended.is_none() {
                let told = self.import_json(record);
                if let Err(problem) = self.inner.imports.change(&record.id, |record| record.ended = Some(told)) {
                    tracing::debug!(import = record.id, %problem, "how an import ended is noted later");
                    continue;
                }
            }
            if ended.is_some() && content.exists() {
                std::fs::remove_file(&content)?;
            }
            // An import that runs stays; so does one whose job is forgotten, until it is old itself.
            let since = match (job, ended) {
                (Some(_), None) => continue,
                (_, Some(job)) => job.updated.at,
                (None, None) => record.updated.at,
            };
            if now.since_ms(since) > bulk.settings().imports_ms
                && let Err(problem) = self.forget_import(&record.id)
            {
                tracing::debug!(import = record.id, %problem, "an old import stays for now");
            }
        }
        // A folder is made after its document is written, so one without is to go.
        let imports = &self.inner.imports;
        bulk.tidy_imports(|id| imports.entries.lock().contains_key(id))
    }
}
