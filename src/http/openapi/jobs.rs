//! Jobs: listed, shown, cancelled.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, any_text, count, id, nullable, or_empty, page, reference, time, told, whole, words,
};
use crate::ground::error::ProblemKind;
use crate::hub::Scope;
use crate::job::JobState;
use crate::replay::RATE_MAX;

const TAG: &str = "jobs";

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Manage, TAG, id, method, path);
    let one = |name, method, path| on(name, method, path).path_parameter("id", "The job's id", id("job"));
    vec![
        on("listJobs", Method::GET, "/v1/jobs")
            .told("List jobs", "Newest first. Jobs that have ended are forgotten after a while.")
            .common(&["org"])
            .query("state", "Where they stand", state())
            .query("kind", "Of this kind", or_empty(any_text(crate::http::jobs::KIND_CHARS_MAX)))
            .common(&["cursor", "limit"])
            .answers(200, "A page of jobs.", page("items", "Job")),
        one("getJob", Method::GET, "/v1/jobs/{id}").told("Look up a job", "With how far it has come.").answers(
            200,
            "The job.",
            reference("Job"),
        ),
        one("cancelJob", Method::POST, "/v1/jobs/{id}/cancel")
            .told("Cancel a job", "What it has handed on stays so.")
            .correlated()
            .answers(200, "The job as it is now.", reference("Job"))
            .refuses(&[ProblemKind::Conflict]),
    ]
}

fn state() -> Value {
    words(JobState::ALL.map(JobState::as_str))
}

/// Events a second at most.
pub(super) fn rate() -> Value {
    nullable(whole(1, RATE_MAX))
}

pub(super) fn schemas() -> FieldList {
    let progress = answer(vec![
        ("looked_at", count()),
        ("matched", count()),
        ("handed_on", count()),
        ("skipped", count()),
        ("failed", count()),
        ("total", nullable(count())),
    ]);
    let spec = json!({ "type": "object", "additionalProperties": true, "description": "What it does, by its kind." });
    let job = answer(vec![
        ("id", id("job")),
        ("kind", told()),
        ("org", nullable(told())),
        ("consumer", nullable(told())),
        ("state", state()),
        ("progress", progress),
        ("rate", rate()),
        ("waits_for", nullable(told())),
        ("error", nullable(told())),
        ("spec", spec),
        ("created_at", time()),
        ("created_by", told()),
        ("updated_at", time()),
        ("updated_by", told()),
        ("finished_at", nullable(time())),
    ]);
    vec![("Job", job)]
}
