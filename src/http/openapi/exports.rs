//! Exports and their parts.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, any_text, count, id, list, list_of, nullable, page, reference, request, told, whole, words,
};
use super::shared::{expression, org_name, type_pattern};
use crate::bulk::Compression;
use crate::bulk::export::{PART_BYTES_MAX, PART_BYTES_MIN};
use crate::event::filter::fields::EVENT_TYPES_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::Scope;
use crate::job::JobState;

const TAG: &str = "exports";

const ABOUT: &str = "A job reads the log below live traffic and writes what fits into parts of bounded size: NDJSON, in each part a header line first with the version of the contract, then one envelope a line as the log has it, redacted for exports. It ends at the head of the log as it was when it was asked for; the `cursor` of an export says where a later one of the same filter goes on. What retention drops before it is read is told as a gap. On the public listener `org` is required unless the key has one.";

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Consume, TAG, id, method, path);
    let one = |name, method, path| on(name, method, path).path_parameter("id", "The export's id", id("job"));
    let example = json!({
        "month": {
            "summary": "The invoices of a month, packed",
            "value": {
                "org": "acme", "event_types": ["invoice.*"], "from": "2026-10-01T00:00:00Z",
                "to": "2026-11-01T00:00:00Z", "compression": "zstd",
            },
        },
    });
    vec![
        on("createExport", Method::POST, "/v1/exports")
            .told("Export events to files", ABOUT)
            .optional_json(reference("NewExport"), example)
            .correlated()
            .answers(202, "The export, which is a job.", reference("Export"))
            .links(202, "/id", &["getExport", "listExportParts", "deleteExport", "cancelJob"])
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        on("listExports", Method::GET, "/v1/exports")
            .told("List exports", "Newest first.")
            .common(&["org"])
            .query("state", "Where they stand", words(JobState::ALL.map(JobState::as_str)))
            .common(&["cursor", "limit"])
            .answers(200, "A page of exports.", page("items", "Export")),
        one("getExport", Method::GET, "/v1/exports/{id}")
            .told("Look up an export", "With how far it has come, the part under way included.")
            .answers(200, "The export.", reference("Export")),
        one("deleteExport", Method::DELETE, "/v1/exports/{id}")
            .told("Delete an export with its parts", "One that waits or runs is cancelled first.")
            .correlated()
            .answers_empty(204, "It is gone.")
            .refuses(&[ProblemKind::Conflict]),
        one("listExportParts", Method::GET, "/v1/exports/{id}/parts")
            .told("List the parts of an export", "In order; those that are whole, also while the export runs.")
            .common(&["cursor", "limit"])
            .answers(200, "A page of parts.", page("items", "ExportPart"))
            .refuses(&[ProblemKind::Gone]),
        one("getExportPart", Method::GET, "/v1/exports/{id}/parts/{n}")
            .path_parameter("n", "The part's number, from 1", whole(1, u32::MAX.into()))
            .told(
                "Download a part of an export",
                "Streamed from the file. `Range` takes one span of bytes; others count as none. The `ETag` is the SHA-256 of the part.",
            )
            .header("Range", "The bytes that are wanted, such as `bytes=1024-`", told())
            .header("If-Range", "The `ETag` of the part that the range is of; of another one the whole is given", told())
            .answers_as(200, "The part.", "application/x-ndjson", told())
            .also_as(200, "application/zstd", told())
            .answers_as(206, "The bytes that were wanted.", "application/x-ndjson", told())
            .also_as(206, "application/zstd", told())
            .refuses(&[ProblemKind::Gone, ProblemKind::RangeNotSatisfiable]),
    ]
}

fn compression() -> Value {
    words(Compression::ALL.map(Compression::as_str))
}

pub(super) fn schemas() -> FieldList {
    let any = || nullable(json!({ "type": "string", "minLength": 1, "maxLength": SCOPE_CHARS_MAX }));
    let new = request(
        vec![
            ("org", nullable(super::schema::text(SCOPE_CHARS_MAX))),
            ("event_types", nullable(list_of(type_pattern(), 1, EVENT_TYPES_MAX))),
            ("channel", any()),
            ("facility", any()),
            ("service", any()),
            ("filter", nullable(expression())),
            ("from", super::replays::bound()),
            ("to", super::replays::bound()),
            ("cursor", nullable(any_text(super::QUERY_CHARS_MAX))),
            ("compression", nullable(compression())),
            ("part_bytes", nullable(whole(PART_BYTES_MIN, PART_BYTES_MAX))),
        ],
        &[],
    );
    let filter = answer(vec![
        ("org", nullable(org_name())),
        ("event_types", list(told())),
        ("channel", nullable(told())),
        ("facility", nullable(told())),
        ("service", nullable(told())),
        ("filter", nullable(told())),
    ]);
    let progress =
        answer(vec![("looked_at", count()), ("total", count()), ("events", count()), ("open_part_bytes", count())]);
    let export = answer(vec![
        ("id", id("job")),
        ("org", nullable(told())),
        ("state", words(JobState::ALL.map(JobState::as_str))),
        ("filter", filter),
        ("first_seq", count()),
        ("last_seq", count()),
        ("from", nullable(super::schema::time())),
        ("to", nullable(super::schema::time())),
        ("compression", compression()),
        ("part_bytes", count()),
        ("progress", progress),
        ("parts", count()),
        ("events", count()),
        ("bytes", count()),
        (
            "complete",
            json!({ "type": "boolean", "description": "Done, to the end of its range, and nothing was missing." }),
        ),
        ("stopped", nullable(words(["no_room", "parts_max"]))),
        ("gaps", list(answer(vec![("from", count()), ("to", count())]))),
        ("gaps_more", count()),
        ("positions_lost", count()),
        ("kept", json!({ "type": "boolean", "description": "Whether its parts can be downloaded." })),
        ("cursor", json!({ "type": "string", "description": "Where a later export of the same filter goes on." })),
        ("waits_for", nullable(told())),
        ("error", nullable(told())),
        ("created_at", super::schema::time()),
        ("created_by", told()),
        ("finished_at", nullable(super::schema::time())),
    ]);
    let part = answer(vec![
        ("part", whole(1, u32::MAX.into())),
        ("file", told()),
        ("bytes", count()),
        ("plain_bytes", count()),
        ("lines", count()),
        ("events", count()),
        ("sha256", told()),
        ("first_seq", count()),
        ("last_seq", count()),
    ]);
    vec![("NewExport", new), ("Export", export), ("ExportPart", part)]
}
