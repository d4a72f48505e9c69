//! Replays, recovery and single retries.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::jobs::rate;
use super::operation::Operation;
use super::schema::{
    FieldList, answer, any_text, count, flag, id, list, list_of, nullable, reference, request, text, time, told, whole,
    words,
};
use super::shared::type_pattern;
use crate::event::filter::fields::EVENT_TYPES_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{AGGREGATE_ID_CHARS_MAX, EVENT_ID_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::hub::Scope;
use crate::replay::EVENT_IDS_MAX;

const TAG: &str = "replays";

const ABOUT: &str = "A job reads the log below live traffic and hands what fits to the consumer, which gives it out below live traffic too, in the order of its keys. What is unsettled there is not doubled. With `dry_run` nothing is handed on: the answer is 200 with what would be.";

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Manage, TAG, id, method, path);
    let webhook = |name, path| on(name, Method::POST, path).path_parameter("id", "The webhook's id", id("whk"));
    let range = json!({
        "hour": {
            "summary": "One type, an hour of it, at most 50 a second",
            "value": {
                "from": "2026-11-21T08:00:00Z", "to": "2026-11-21T09:00:00Z", "event_types": ["invoice.*"], "rate": 50,
            },
        },
    });
    let since =
        json!({ "outage": { "summary": "What failed since then", "value": { "since": "2026-11-21T08:00:00Z" } } });
    vec![
        asked(webhook("replayIntoWebhook", "/v1/webhooks/{id}/replay").told("Replay events into a webhook", ABOUT))
            .optional_json(reference("NewReplay"), range.clone())
            .correlated()
            .refuses(&[ProblemKind::Conflict]),
        asked(
            on("replayIntoConsumer", Method::POST, "/v1/consumers/{name}/replay")
                .path_parameter("name", "The consumer's name", any_text(SCOPE_CHARS_MAX))
                .told("Replay events into a consumer", "As into a webhook; in-process handlers by the admin API alone."),
        )
        .optional_json(reference("NewReplay"), range)
        .correlated()
        .refuses(&[ProblemKind::Conflict]),
        webhook("recoverWebhook", "/v1/webhooks/{id}/recover")
            .told(
                "Recover a webhook after an outage",
                "Redrives the dead letters since a time and makes the retries due now that have failed since.",
            )
            .json(reference("Recovery"), since)
            .correlated()
            .answers(202, "The job.", reference("Job"))
            .links(202, "/id", &["getJob", "cancelJob"])
            .refuses(&[ProblemKind::Conflict]),
        webhook("retryDelivery", "/v1/webhooks/{id}/deliveries/{event_id}/retry")
            .path_parameter("event_id", "The event's id", any_text(EVENT_ID_CHARS_MAX))
            .told(
                "Try one delivery again now",
                "A retry that waits is made due; what was delivered or given up is given out again; what is out is refused.",
            )
            .correlated()
            .answers(202, "What is done about it.", reference("Retried"))
            .refuses(&[ProblemKind::Conflict, ProblemKind::InvalidParameter]),
    ]
}

/// What answers with a job, or with a preview.
pub(super) fn asked(operation: Operation) -> Operation {
    operation
        .answers(200, "What would be given out (`dry_run`).", reference("ReplayPreview"))
        .answers(202, "The job.", reference("Job"))
        .links(202, "/id", &["getJob", "cancelJob"])
}

/// A position, or a time.
pub(super) fn bound() -> Value {
    json!({ "anyOf": [whole(1, u64::MAX), time(), { "type": "null" }] })
}

pub(super) fn schemas() -> FieldList {
    let scope = || nullable(text(SCOPE_CHARS_MAX));
    let any = || nullable(json!({ "type": "string", "minLength": 1, "maxLength": SCOPE_CHARS_MAX }));
    let replay = request(
        vec![
            ("from", bound()),
            ("to", bound()),
            ("event_types", nullable(list_of(type_pattern(), 1, EVENT_TYPES_MAX))),
            ("source", scope()),
            ("channel", any()),
            ("facility", any()),
            ("service", any()),
            (
                "filter",
                nullable(json!({ "type": "string", "description": "A condition on envelope and data, in CEL." })),
            ),
            ("aggregate_type", scope()),
            ("aggregate_id", nullable(text(AGGREGATE_ID_CHARS_MAX))),
            ("event_ids", nullable(list_of(text(EVENT_ID_CHARS_MAX), 1, EVENT_IDS_MAX))),
            ("match", nullable(words(["current", "all", "delivered"]))),
            ("rate", rate()),
            ("dry_run", nullable(flag())),
        ],
        &[],
    );
    let preview = super::schema::answer_with(
        vec![
            ("dry_run", flag()),
            ("would_match", count()),
            ("looked_at", count()),
            ("complete", flag()),
            ("looked_upto", count()),
            ("examples", list(told())),
        ],
        &["dry_run", "would_match", "looked_at", "complete", "examples"],
    );
    let retried = answer(vec![
        ("webhook", id("whk")),
        ("event_id", told()),
        ("seq", count()),
        ("outcome", words(["due_now", "replayed", "under_way"])),
    ]);
    vec![
        ("NewReplay", replay),
        ("ReplayPreview", preview),
        ("Recovery", request(vec![("since", time()), ("rate", rate())], &["since"])),
        ("Retried", retried),
    ]
}
