//! Exports as clients see them: made, listed, shown, their parts given out, deleted (BLK-1).

use std::fs::File;
use std::sync::Arc;

use serde_json::{Value, json};

use super::replays::spec_json;
use super::{Asked, Hub, Page, store_problem};
use crate::bulk::export::{
    ExportPlace, ExportSpec, PartRecord, Stopped, continuation, part_file, part_name, parts_of, read_continuation,
    read_export,
};
use crate::bulk::{Bulk, Compression, EXPORT};
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::job::{JobFilter, JobRecord, JobState, NewJob};
use crate::replay::Bound;
use crate::store::EventLog as _;

/// A part that is given out.
#[derive(Debug)]
pub struct PartFile {
    /// The file, open: it can be read to its end even when the export is deleted meanwhile.
    pub file: File,
    /// What is known of it.
    pub record: PartRecord,
    /// How it is packed.
    pub compression: Compression,
    /// A name for it, made of ids of the hub.
    pub name: String,
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Problem {
    move |error| {
        tracing::error!(%error, what, "a file of an export does not read");
        Problem::new(ProblemKind::Internal, format!("{what} does not read; the log of the hub has the cause"))
    }
}

fn gone() -> Problem {
    Problem::new(ProblemKind::Gone, "the parts of this export are no longer kept")
}

/// An export in memory: its job, what it does, how far it is.
struct Export {
    record: Arc<JobRecord>,
    waits_for: Option<String>,
    spec: ExportSpec,
    place: ExportPlace,
}

impl Export {
    fn of((record, waits_for): (Arc<JobRecord>, Option<String>)) -> Result<Self, Problem> {
        let unreadable = |error: serde_json::Error| {
            tracing::error!(%error, job = record.id, "an export does not read");
            Problem::new(ProblemKind::Internal, "the export does not read; the log of the hub has the cause")
        };
        let spec: ExportSpec = serde_json::from_value(record.spec.clone()).map_err(unreadable)?;
        let place = ExportPlace::read(record.cursor.as_deref(), &spec).map_err(unreadable)?;
        Ok(Self { record, waits_for, spec, place })
    }

    /// Whether the parts are there.
    fn is_kept(&self, bulk: &Bulk) -> bool {
        self.place.parts == 0 || bulk.export_dir(&self.record.id).is_dir()
    }

    fn to_json(&self, bulk: &Bulk) -> Value {
        let Self { record, waits_for, spec, place } = self;
        let live = bulk.live(&record.id);
        let ended = record.state.has_ended();
        let looked_at = place.at.0.saturating_sub(spec.from.prev().0) + live.looked_at;
        let gaps: Vec<Value> = place.gaps.iter().map(|gap| json!({"from": gap.from.0, "to": gap.to.0})).collect();
        let time = |time: Option<crate::ground::clock::UnixMs>| time.map(crate::ground::clock::UnixMs::to_rfc3339);
        let stopped = place.stopped.map(|stopped| match stopped {
            Stopped::NoRoom => "no_room",
            Stopped::PartsMax => "parts_max",
        });
        json!({
            "id": record.id,
            "org": record.org,
            "state": record.state.as_str(),
            "filter": spec.filter_json(),
            "first_seq": spec.from.0,
            "last_seq": spec.to.0,
            "from": time(spec.from_time),
            "to": time(spec.to_time),
            "compression": spec.compression.as_str(),
            "part_bytes": spec.part_bytes,
            "progress": {
                "looked_at": looked_at.min(spec.total()), "total": spec.total(),
                "events": place.events + live.events, "open_part_bytes": live.plain_bytes,
            },
            "parts": place.parts,
            "events": place.events,
            "bytes": place.bytes,
            "complete": record.state == JobState::Done && place.stopped.is_none() && place.positions_lost == 0,
            "stopped": stopped,
            "gaps": gaps,
            "gaps_more": place.gaps_more,
            "positions_lost": place.positions_lost,
            "kept": self.is_kept(bulk),
            "cursor": continuation(place.at.next(), &spec.filter),
            "waits_for": waits_for,
            "error": record.error,
            "created_at": record.created.at.to_rfc3339(),
            "created_by": record.created.by,
            "finished_at": ended.then(|| record.updated.at.to_rfc3339()),
        })
    }
}

impl Hub {
    /// Makes an export, as the fields say; it is durable when this returns. `org_required` when no key may read every org.
    ///
    /// # Errors
    /// When a field does not fit, there are too many jobs, or the store fails.
    pub async fn create_export(
        &self,
        fields: Fields,
        confined_to: Option<&str>,
        org_required: bool,
        context: WriteContext,
    ) -> Result<Value, Problem> {
        let mut request = read_export(fields)?;
        request.filter.org = scoped_org(request.filter.org.take(), confined_to)?;
        if request.filter.org.is_none() && org_required {
            return Err(Problem::field("org", "required: which tenant's events", "nothing"));
        }
        let (earliest, head) = (self.inner.engine.earliest(), self.inner.engine.head());
        let (from, from_time) = match (request.from, request.cursor.as_deref()) {
            (_, Some(cursor)) => (read_continuation(cursor, &request.filter)?, None),
            (Some(Bound::Seq(seq)), None) => (seq, None),
            (Some(Bound::Time(time)), None) => (earliest, Some(time)),
            (None, None) => (earliest, None),
        };
        let (to, to_time) = match request.to {
            Some(Bound::Seq(seq)) => (seq.min(head), None),
            Some(Bound::Time(time)) => (head, Some(time)),
            None => (head, None),
        };
        let spec = ExportSpec {
            filter: request.filter,
            from: from.max(Seq(1)),
            to: to.max(from.prev()),
            from_time,
            to_time,
            compression: request.compression,
            part_bytes: request.part_bytes.unwrap_or(self.inner.bulk.settings().part_bytes),
        };
        let (org, total) = (spec.filter.org.clone(), Some(spec.total()));
        let new = NewJob { kind: EXPORT, org, spec: spec_json(&spec)?, rate: None, total };
        match self.make_job(new, context).await? {
            Asked::Job(job) => self.export(&job.id, None),
            Asked::Preview(preview) => Ok(preview),
        }
    }

    fn find_export(&self, id: &str, org: Option<&str>) -> Result<Export, Problem> {
        let none = |_| Problem::not_found("export", id);
        let found = self.inner.jobs.get(id, org).map_err(none)?;
        if found.0.kind != EXPORT {
            return Err(Problem::not_found("export", id));
        }
        Export::of(found)
    }

    /// An export that this org may see.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org.
    pub fn export(&self, id: &str, org: Option<&str>) -> Result<Value, Problem> {
        Ok(self.find_export(id, org)?.to_json(&self.inner.bulk))
    }

    /// Exports, newest first.
    ///
    /// # Errors
    /// When one does not read.
    pub fn exports(&self, filter: &JobFilter) -> Result<Page<Value>, Problem> {
        let fits = |record: &JobRecord| {
            (filter.org.is_none() || record.org == filter.org)
                && filter.state.is_none_or(|state| record.state == state)
                && filter.before.as_ref().is_none_or(|before| record.id < *before)
        };
        let mut fitting = self.inner.jobs.of_kind(EXPORT).into_iter().rev().filter(|(record, _)| fits(record));
        let shown = fitting.by_ref().take(filter.limit);
        let items: Vec<Value> =
            shown.map(|one| Ok(Export::of(one)?.to_json(&self.inner.bulk))).collect::<Result<_, Problem>>()?;
        let has_more = fitting.next().is_some();
        let next = items.last().and_then(|last| last["id"].as_str()).map(str::to_owned);
        Ok(Page { items, next: next.or_else(|| filter.before.clone()).unwrap_or_default(), has_more })
    }

    /// The parts of an export after the part `after`. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; [`ProblemKind::Gone`] when they are no longer kept.
    pub fn export_parts(&self, id: &str, org: Option<&str>, after: u32, limit: usize) -> Result<Page<Value>, Problem> {
        let export = self.find_export(id, org)?;
        let bulk = &self.inner.bulk;
        if !export.is_kept(bulk) {
            return Err(gone());
        }
        let dir = bulk.export_dir(&export.record.id);
        let parts = parts_of(&dir, export.place.list_bytes, after, limit).map_err(failed("the list of parts"))?;
        let last = parts.last().map_or(after, |part| part.part);
        let items = parts.iter().map(|part| part.to_json(export.spec.compression)).collect();
        Ok(Page { items, next: last.to_string(), has_more: last < export.place.parts })
    }

    /// A part of an export. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; [`ProblemKind::Gone`] when it is no longer kept.
    pub fn export_part(&self, id: &str, org: Option<&str>, part: u32) -> Result<PartFile, Problem> {
        let export = self.find_export(id, org)?;
        let (bulk, compression) = (&self.inner.bulk, export.spec.compression);
        if part == 0 || part > export.place.parts {
            return Err(Problem::not_found("part", &part.to_string()));
        }
        if !export.is_kept(bulk) {
            return Err(gone());
        }
        let dir = bulk.export_dir(&export.record.id);
        let found = parts_of(&dir, export.place.list_bytes, part - 1, 1).map_err(failed("the list of parts"))?;
        let record = found.into_iter().find(|one| one.part == part);
        let record = record.ok_or_else(|| Problem::not_found("part", &part.to_string()))?;
        let file = File::open(part_file(&dir, part, compression)).map_err(failed("the part"))?;
        let name = format!("{}-{}", export.record.id, part_name(part, compression));
        Ok(PartFile { file, record, compression, name })
    }

    /// Deletes an export with its parts; one that waits or runs is cancelled first.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; when the store fails.
    pub async fn delete_export(&self, id: &str, org: Option<&str>, context: WriteContext) -> Result<(), Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        self.blocking(move |hub| {
            let export = hub.find_export(&id, org.as_deref())?;
            if !export.record.state.has_ended() {
                match hub.inner.jobs.cancel(&id, org.as_deref(), context) {
                    // It has ended meanwhile.
                    Err(problem) if problem.kind == ProblemKind::Conflict => {}
                    other => drop(other?),
                }
            }
            hub.inner.jobs.forget(&id)
        })
        .await?;
        self.inner.bulk.wants_tidying();
        Ok(())
    }

    /// Whether there is as much free space as anything new needs. Blocks.
    pub(super) fn check_bulk_space(&self, more: u64) -> Result<(), Problem> {
        self.inner.bulk.check_space(more).map_err(|error| store_problem(&error))
    }
}
