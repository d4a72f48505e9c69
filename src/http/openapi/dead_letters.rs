//! Dead letters: what was given up, with the event and the reason.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::jobs::rate;
use super::operation::Operation;
use super::replays::asked;
use super::schema::{
    FieldList, answer, any_text, count, flag, id, nullable, page, reference, request, text, time, told, whole, words,
};
use super::shared::type_pattern;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{CODE_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::hub::{LetterState, REASON_CHARS_MAX, Scope};
use crate::replay::CONSUMER_CHARS_MAX;
use crate::retry::FailureKind;

const TAG: &str = "dead-letters";

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Read, TAG, id, method, path);
    let manage = |id, path| Operation::scoped(Scope::Manage, TAG, id, Method::POST, path);
    vec![
        on("listDeadLetters", Method::GET, "/v1/dead-letters")
            .told("List dead letters", "Newest first.")
            .query("consumer", "The consumer's id", any_text(super::QUERY_CHARS_MAX))
            .common(&["type", "org"])
            .query("state", "Where they stand", state())
            .common(&["from", "to"])
            .query("cursor", "The id after which the page begins", any_text(super::QUERY_CHARS_MAX))
            .common(&["limit"])
            .answers(200, "A page of dead letters.", page("items", "DeadLetter")),
        on("getDeadLetter", Method::GET, "/v1/dead-letters/{id}")
            .told("Look up a dead letter", "")
            .path_parameter("id", "The dead letter's id", id("dlq"))
            .answers(200, "The dead letter.", reference("DeadLetter")),
        manage("redriveDeadLetter", "/v1/dead-letters/{id}/redrive")
            .path_parameter("id", "The dead letter's id", id("dlq"))
            .told(
                "Redrive a dead letter",
                "Its event is given to the consumer again, also when the log has dropped it. When it fails again, another dead letter names this one.",
            )
            .correlated()
            .answers(202, "The dead letter, closed.", reference("DeadLetter"))
            .refuses(&[ProblemKind::Conflict]),
        manage("discardDeadLetter", "/v1/dead-letters/{id}/discard")
            .path_parameter("id", "The dead letter's id", id("dlq"))
            .told("Discard a dead letter", "It is kept as long as any other, with who did it and why.")
            .json(reference("Discard"), json!({ "known": { "value": { "reason": "a test order" } } }))
            .correlated()
            .answers(200, "The dead letter, closed.", reference("DeadLetter"))
            .refuses(&[ProblemKind::Conflict]),
        asked(manage("redriveDeadLetters", "/v1/dead-letters/redrive").told(
            "Redrive many dead letters",
            "A job redrives those that are open and fit, in the order in which they were given up, none that comes later. With `dry_run` nothing is done.",
        ))
        .optional_json(reference("Redrive"), json!({ "all": { "value": { "type": "invoice.*", "rate": 50 } } }))
        .correlated()
        .refuses(&[ProblemKind::Forbidden, ProblemKind::Conflict]),
    ]
}

fn state() -> Value {
    words(LetterState::ALL.map(LetterState::as_str))
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
        ("state", state()),
        ("error", error),
        ("attempts", count()),
        ("first_attempt", nullable(time())),
        ("last_attempt", nullable(time())),
        ("correlation_id", nullable(told())),
        ("redriven_at", nullable(time())),
        ("discarded_at", nullable(time())),
        ("closed_by", nullable(told())),
        ("job", nullable(told())),
        ("reason", nullable(told())),
        ("earlier", nullable(told())),
        ("event", event),
    ]);
    let redrive = request(
        vec![
            ("consumer", nullable(text(CONSUMER_CHARS_MAX))),
            ("org", nullable(text(SCOPE_CHARS_MAX))),
            ("type", nullable(type_pattern())),
            ("error_kind", nullable(text(CODE_CHARS_MAX))),
            ("from", nullable(time())),
            ("to", nullable(time())),
            ("rate", rate()),
            ("dry_run", nullable(flag())),
        ],
        &[],
    );
    let discard = request(vec![("reason", text(REASON_CHARS_MAX))], &["reason"]);
    vec![("DeadLetter", letter), ("Redrive", redrive), ("Discard", discard)]
}
