//! Imports: uploads, commits, reports.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, answer_with, count, flag, id, list, nullable, of_form, page, reference, request, text, time,
    told, whole, words,
};
use crate::bulk::Compression;
use crate::bulk::import::RATE_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::http::imports::CONTENT_TYPES;
use crate::hub::Scope;

const TAG: &str = "imports";

const ABOUT: &str = "The content is NDJSON: an envelope a line, as a producer would send it or as an export has it, header lines of exports among them; several files one after the other are one content. It is sent in any number of pieces, each at the offset where the last one ended, and committed then. A job appends it below live traffic. Ids, orgs, times and all other fields stay; `seq` and `received_at` are new. A line without an id gets one made of the import's id and its number. A key that has an org imports lines of that org only.";

fn sha256() -> Value {
    nullable(of_form("^[0-9A-Fa-f]{64}$"))
}

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Publish, TAG, id, method, path);
    let one = |name, method, path| on(name, method, path).path_parameter("id", "The import's id", id("imp"));
    let example = json!({ "packed": {
        "summary": "What an export has packed",
        "value": { "compression": "zstd", "expected_bytes": 73_400_320 },
    }});
    let lines = json!({ "two": {
        "summary": "Two events",
        "value": "{\"id\":\"a-1\",\"type\":\"invoice.paid\",\"org\":\"acme\"}\n{\"id\":\"a-2\",\"type\":\"invoice.paid\",\"org\":\"acme\"}\n",
    }});
    vec![
        on("createImport", Method::POST, "/v1/imports")
            .told("Begin an import", ABOUT)
            .optional_json(reference("NewImport"), example)
            .correlated()
            .answers(201, "The import, to be sent to.", reference("Import"))
            .links(201, "/id", &["getImport", "appendImportContent", "commitImport", "deleteImport"])
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        on("listImports", Method::GET, "/v1/imports")
            .told("List imports", "Newest first.")
            .common(&["org", "cursor", "limit"])
            .answers(200, "A page of imports.", page("items", "Import")),
        one("getImport", Method::GET, "/v1/imports/{id}")
            .told("Look up an import", "`received_bytes` is the offset at which an upload goes on.")
            .answers(200, "The import.", reference("Import")),
        one("appendImportContent", Method::PATCH, "/v1/imports/{id}/content")
            .told(
                "Send content",
                "Appends the body at the offset. At another offset than that of the end 409 names the right one in `offset`. What has arrived of a body that breaks off stays, and is acknowledged.",
            )
            .given_query("offset", "How many bytes are there already", whole(0, u64::MAX))
            .body(CONTENT_TYPES, told(), lines)
            .correlated()
            .answers(200, "The import with its new offset, which is on disk.", reference("Import"))
            .refuses(&[ProblemKind::Conflict, ProblemKind::DiskFull]),
        one("commitImport", Method::POST, "/v1/imports/{id}/commit")
            .told("Begin to append what was sent", "Asked again, it answers the same.")
            .optional_json(reference("ImportCommit"), json!({}))
            .correlated()
            .answers(202, "The import.", reference("Import"))
            .links(202, "/job", &["getJob", "cancelJob"])
            .refuses(&[ProblemKind::Conflict, ProblemKind::DiskFull]),
        one("getImportReport", Method::GET, "/v1/imports/{id}/report")
            .told(
                "Read what was not taken",
                "In the order of the lines, as far as the import has come. A page by default; with `Accept: application/x-ndjson` all of it.",
            )
            .common(&["cursor", "limit"])
            .answers(200, "A page of rejected lines, or all of them.", page("items", "RejectedLine"))
            .also_as(200, "application/x-ndjson", told()),
        one("deleteImport", Method::DELETE, "/v1/imports/{id}")
            .told("Delete an import", "With its content and report. One that waits or runs is cancelled; what it has appended stays.")
            .correlated()
            .answers_empty(204, "It is gone.")
            .refuses(&[ProblemKind::Conflict]),
    ]
}

fn compression() -> Value {
    words(Compression::ALL.map(Compression::as_str))
}

pub(super) fn schemas() -> FieldList {
    let new = request(
        vec![
            ("org", nullable(text(SCOPE_CHARS_MAX))),
            ("compression", nullable(compression())),
            ("expected_bytes", nullable(count())),
            ("sha256", sha256()),
            ("rate", nullable(whole(1, RATE_MAX))),
        ],
        &[],
    );
    let states = ["uploading", "committed", "queued", "running", "done", "failed", "cancelled"];
    let import = answer(vec![
        ("id", id("imp")),
        ("owner", nullable(told())),
        ("org", nullable(told())),
        ("state", words(states)),
        ("compression", compression()),
        ("expected_bytes", nullable(count())),
        ("sha256", nullable(told())),
        ("rate", nullable(count())),
        ("received_bytes", count()),
        ("job", nullable(told())),
        ("content_at", count()),
        ("lines", count()),
        ("headers", count()),
        ("accepted", count()),
        ("scheduled", count()),
        ("duplicates", count()),
        ("conflicts", count()),
        ("rejected", count()),
        ("report_bytes", count()),
        ("report_lines", count()),
        ("report_complete", flag()),
        ("waits_for", nullable(told())),
        ("error", nullable(told())),
        ("created_at", time()),
        ("created_by", told()),
        ("updated_at", time()),
        ("finished_at", nullable(time())),
    ]);
    let rejected = answer_with(
        vec![
            ("line", whole(1, u64::MAX)),
            ("kind", told()),
            ("reason", told()),
            ("field", nullable(told())),
            ("limit", nullable(told())),
            ("sent", nullable(told())),
            ("first_seq", count()),
            ("finding", told()),
            ("violations", list(reference("Violation"))),
            ("more_violations", count()),
            ("quarantine", words(["kept", "full", "failed"])),
            ("quarantine_id", nullable(told())),
        ],
        &["line", "kind", "reason", "field", "limit", "sent"],
    );
    vec![
        ("NewImport", new),
        ("Import", import),
        ("ImportCommit", request(vec![("sha256", sha256())], &[])),
        ("RejectedLine", rejected),
    ]
}
