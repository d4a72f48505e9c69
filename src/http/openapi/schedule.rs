//! Scheduled events: which wait, one of them, not to send it after all.

use actix_web::http::Method;
use serde_json::json;

use super::operation::Operation;
use super::schema::{FieldList, answer, count, nullable, page, reference, text, time, told};
use crate::ground::error::ProblemKind;
use crate::ground::limits::EVENT_ID_CHARS_MAX;
use crate::hub::Scope;

const TAG: &str = "scheduled";

pub(super) fn operations() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let one = |operation: Operation| {
        operation
            .path_parameter("id", "The event's id", text(EVENT_ID_CHARS_MAX))
            .common(&["org"])
            .refuses(&[ProblemKind::Conflict])
    };
    vec![
        on(Scope::Read, "listScheduled", Method::GET, "/v1/scheduled")
            .told("List the events that wait", "In the order in which they fall due.")
            .common(&["org", "cursor", "limit"])
            .answers(200, "A page of scheduled events.", page("items", "Scheduled")),
        one(on(Scope::Read, "getScheduled", Method::GET, "/v1/scheduled/{id}"))
            .told("Look up an event that waits", "409 when it is in the log already.")
            .answers(200, "The event with its envelope.", reference("ScheduledEvent")),
        one(on(Scope::Publish, "cancelScheduled", Method::DELETE, "/v1/scheduled/{id}"))
            .told("Cancel an event that waits", "It is never delivered. 409 when it is in the log already.")
            .answers_empty(204, "It is gone."),
    ]
}

fn scheduled() -> FieldList {
    vec![
        ("id", told()),
        ("org", told()),
        ("type", told()),
        ("source", nullable(told())),
        ("deliver_at", time()),
        ("bytes", count()),
        ("created", reference("WriteContext")),
    ]
}

pub(super) fn schemas() -> FieldList {
    let mut whole = scheduled();
    let envelope =
        json!({ "type": "object", "additionalProperties": true, "description": "The envelope as it was sent." });
    whole.push(("event", envelope));
    vec![("Scheduled", answer(scheduled())), ("ScheduledEvent", answer(whole))]
}
