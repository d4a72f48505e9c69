//! Dead letters: what was given up, with the event and the reason.

use actix_web::http::Method;
use serde_json::json;

use super::operation::Operation;
use super::schema::{FieldList, answer, any_text, count, id, nullable, page, reference, time, told, whole, words};
use crate::hub::Scope;
use crate::retry::FailureKind;

const TAG: &str = "dead-letters";

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Read, TAG, id, method, path);
    vec![
        on("listDeadLetters", Method::GET, "/v1/dead-letters")
            .told("List dead letters", "Newest first.")
            .query("consumer", "The consumer's id", any_text(super::QUERY_CHARS_MAX))
            .common(&["type", "org", "from", "to"])
            .query("cursor", "The id after which the page begins", any_text(super::QUERY_CHARS_MAX))
            .common(&["limit"])
            .answers(200, "A page of dead letters.", page("items", "DeadLetter")),
        on("getDeadLetter", Method::GET, "/v1/dead-letters/{id}")
            .told("Look up a dead letter", "")
            .path_parameter("id", "The dead letter's id", id("dlq"))
            .answers(200, "The dead letter.", reference("DeadLetter")),
    ]
}

pub(super) fn schemas() -> FieldList {
    let error = answer(vec![
        ("message", told()),
        ("code", nullable(whole(100, 999))),
        ("kind", words(FailureKind::ALL.iter().map(|kind| kind.as_str()))),
        ("detail", told()),
    ]);
    let event =
        json!({ "type": ["object", "null"], "additionalProperties": true, "description": "The envelope as it was." });
    let letter = answer(vec![
        ("id", id("dlq")),
        ("at", time()),
        ("consumer", told()),
        ("seq", count()),
        ("event_id", told()),
        ("type", told()),
        ("org", told()),
        ("error", error),
        ("attempts", count()),
        ("first_attempt", nullable(time())),
        ("last_attempt", nullable(time())),
        ("correlation_id", nullable(told())),
        ("event", event),
    ]);
    vec![("DeadLetter", letter)]
}
