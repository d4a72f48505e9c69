//! Webhooks: made, changed, paused, tested, deleted; their attempts and what of them is not settled.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, count, flag, id, list, list_of, nullable, of_form, page, reference, request, text, time, told,
    whole, words,
};
use super::shared::expression;
use super::shared::{delivery, org_name, type_pattern};
use crate::event::filter::fields::EVENT_TYPES_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{RETRY_ATTEMPTS_MAX, RETRY_DELAY_MS_MAX, SCOPE_CHARS_MAX};
use crate::hub::Scope;
use crate::retry::FailureKind;
use crate::retry::policy::{MULTIPLIER_MAX, RetryPolicy};
use crate::webhook::record::{CONCURRENCY_MAX, DESCRIPTION_CHARS_MAX, HEADER_CHARS_MAX, HEADERS_MAX, URL_CHARS_MAX};

const TAG: &str = "webhooks";

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Manage, TAG, id, method, path);
    let one =
        |id, method, path| on(id, method, path).path_parameter("id", "The webhook's id", super::schema::id("whk"));
    let example = json!({
        "invoices": {
            "summary": "Everything about invoices, in order per invoice",
            "value": { "url": "https://example.com/hooks", "org": "acme", "event_types": ["invoice.*"], "ordering": "key" },
        },
    });
    let change = json!({ "narrow": { "summary": "Other types", "value": { "event_types": ["invoice.paid"] } } });
    vec![
        on("createWebhook", Method::POST, "/v1/webhooks")
            .told(
                "Make a webhook",
                "It gets every matching event from now on. The signing secret is shown this once. An address inside the network is refused unless the hub allows it.",
            )
            .json(reference("NewWebhook"), example)
            .correlated()
            .answers(201, "The webhook with its signing secret.", reference("WebhookWithSecret"))
            .links(201, "/id", &["getWebhook", "changeWebhook", "listAttempts", "listDeliveries", "pauseWebhook", "resumeWebhook", "deleteWebhook"])
            .refuses(&[ProblemKind::Forbidden, ProblemKind::Conflict]),
        on("listWebhooks", Method::GET, "/v1/webhooks")
            .told("List webhooks", "Those the key may see, by id.")
            .common(&["org", "cursor", "limit"])
            .answers(200, "A page of webhooks.", page("items", "Webhook")),
        one("getWebhook", Method::GET, "/v1/webhooks/{id}")
            .told("Look up a webhook", "")
            .answers(200, "The webhook.", reference("Webhook")),
        one("changeWebhook", Method::PATCH, "/v1/webhooks/{id}")
            .told("Change a webhook", "Only what is sent changes; null takes a scope away. `org` and `ordering` stay.")
            .optional_json(reference("WebhookChange"), change)
            .correlated()
            .answers(200, "The webhook as it is now.", reference("Webhook"))
            .refuses(&[ProblemKind::Conflict]),
        one("deleteWebhook", Method::DELETE, "/v1/webhooks/{id}")
            .told("Delete a webhook", "Its dead letters stay.")
            .answers_empty(204, "It is gone."),
        one("listAttempts", Method::GET, "/v1/webhooks/{id}/attempts")
            .told("List the attempts of a webhook", "Newest first.")
            .common(&["cursor", "limit"])
            .answers(200, "A page of attempts.", page("items", "Attempt")),
        delivery::query(one("listDeliveries", Method::GET, "/v1/webhooks/{id}/deliveries"))
            .told("List what is not settled of a webhook", "Those due first. New events that are merely next are not among them.")
            .answers(200, "A page of deliveries.", page("items", "Delivery")),
        one("pauseWebhook", Method::POST, "/v1/webhooks/{id}/pause")
            .told("Pause a webhook", "Nothing is sent to it; what comes meanwhile waits in the log.")
            .correlated()
            .answers(200, "The webhook as it is now.", reference("Webhook"))
            .refuses(&[ProblemKind::Conflict]),
        one("resumeWebhook", Method::POST, "/v1/webhooks/{id}/resume")
            .told("Resume a webhook", "Also one that was disabled because its endpoint answered 410.")
            .correlated()
            .answers(200, "The webhook as it is now.", reference("Webhook"))
            .refuses(&[ProblemKind::Conflict]),
        one("testWebhook", Method::POST, "/v1/webhooks/{id}/test")
            .told("Send a test event", "At once, past inbox and breaker. The answer says what came of it.")
            .answers(200, "What came of it.", reference("WebhookTest")),
    ]
}

fn retry_fields(kind: &str, more: FieldList) -> FieldList {
    let jitter = json!({ "type": "number", "minimum": 0.0, "maximum": 1.0 });
    let mut fields = vec![("kind", json!({ "const": kind })), ("jitter", jitter)];
    fields.push(("attempts_max", whole(1, u64::from(RETRY_ATTEMPTS_MAX))));
    fields.extend(more);
    fields
}

fn delay() -> Value {
    whole(0, RETRY_DELAY_MS_MAX)
}

/// The three schedules, as they are kept and shown.
fn retry_schedules() -> [FieldList; 3] {
    let multiplier = json!({ "type": "number", "minimum": 1.0, "maximum": MULTIPLIER_MAX });
    let delays = list_of(delay(), 0, RETRY_ATTEMPTS_MAX as usize - 1);
    [
        retry_fields("exponential", vec![("base_ms", delay()), ("multiplier", multiplier), ("cap_ms", delay())]),
        retry_fields("fixed", vec![("delays_ms", delays)]),
        retry_fields("linear", vec![("step_ms", delay()), ("cap_ms", delay())]),
    ]
}

/// A policy as a client sends it: a preset's name, or a schedule.
fn new_retry() -> Value {
    let needed: [&[&str]; 3] = [
        &["kind", "attempts_max", "base_ms", "cap_ms"],
        &["kind", "delays_ms"],
        &["kind", "attempts_max", "step_ms", "cap_ms"],
    ];
    let schedules = retry_schedules().into_iter().zip(needed).map(|(fields, needed)| request(fields, needed));
    let presets = words(RetryPolicy::PRESETS.iter().copied());
    let choices: Vec<Value> = [presets].into_iter().chain(schedules).collect();
    json!({ "oneOf": choices })
}

/// What can be set when a webhook is made and when it is changed.
fn settings() -> FieldList {
    let scope = || nullable(json!({ "type": "string", "minLength": 1, "maxLength": SCOPE_CHARS_MAX }));
    let headers = json!({
        "type": "object",
        "maxProperties": HEADERS_MAX,
        "propertyNames": { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" },
        "additionalProperties": { "type": "string", "maxLength": HEADER_CHARS_MAX, "pattern": "^[\\t\\u0020-\\u007E]*$" },
        "description": "Sent with each delivery; not those that the hub sets itself. Their values are not shown again.",
    });
    let url = json!({ "type": "string", "format": "uri", "minLength": 1, "maxLength": URL_CHARS_MAX });
    vec![
        ("url", nullable(url)),
        ("org", nullable(text(SCOPE_CHARS_MAX))),
        ("event_types", nullable(list_of(type_pattern(), 1, EVENT_TYPES_MAX))),
        ("channel", scope()),
        ("facility", scope()),
        ("service", scope()),
        ("filter", nullable(expression())),
        ("ordering", nullable(words(["none", "key", "strict"]))),
        ("format", nullable(words(["standard", "raw"]))),
        ("headers", nullable(headers)),
        ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
        ("retry", nullable(reference("NewRetryPolicy"))),
        ("description", nullable(text(DESCRIPTION_CHARS_MAX))),
    ]
}

/// What must be there is not null either.
fn new_webhook() -> Value {
    let mut fields = settings();
    for (name, schema) in &mut fields {
        match *name {
            "url" => schema["type"] = json!("string"),
            "event_types" => schema["type"] = json!("array"),
            _ => {}
        }
    }
    request(fields, &["url", "event_types"])
}

fn webhook(more: FieldList) -> Value {
    let mut fields = vec![
        ("id", id("whk")),
        ("url", told()),
        ("org", nullable(org_name())),
        ("event_types", list(type_pattern())),
        ("channel", nullable(told())),
        ("facility", nullable(told())),
        ("service", nullable(told())),
        ("filter", nullable(told())),
        ("filter_error", nullable(told())),
        ("ordering", words(["none", "key", "strict"])),
        ("format", words(["standard", "raw"])),
        ("headers", list(told())),
        ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
        ("retry", nullable(reference("RetryPolicy"))),
        ("description", nullable(told())),
        ("status", words(["active", "paused", "disabled"])),
        ("status_reason", nullable(told())),
        ("secret_last4", told()),
        ("created_at", time()),
        ("created_by", reference("WriteContext")),
        ("updated_at", time()),
        ("updated_by", reference("WriteContext")),
    ];
    fields.extend(more);
    answer(fields)
}

fn outcome() -> Value {
    words(FailureKind::ALL.iter().map(|kind| kind.as_str()).chain(["delivered"]))
}

fn status() -> Value {
    nullable(whole(100, 999))
}

fn attempt() -> Value {
    answer(vec![
        ("event_id", told()),
        ("seq", count()),
        ("attempt", whole(1, u64::from(u32::MAX))),
        ("at", time()),
        ("latency_ms", count()),
        ("outcome", outcome()),
        ("status", status()),
        ("error", nullable(told())),
        ("response_snippet", told()),
        ("next_try_at", nullable(time())),
    ])
}

fn test() -> Value {
    answer(vec![
        ("event_id", told()),
        ("delivered", flag()),
        ("outcome", outcome()),
        ("status", status()),
        ("latency_ms", count()),
        ("error", nullable(told())),
        ("response_snippet", told()),
    ])
}

pub(super) fn schemas() -> FieldList {
    let secret = of_form("^whsec_[A-Za-z0-9+/=]+$");
    vec![
        ("NewWebhook", new_webhook()),
        ("WebhookChange", request(settings(), &[])),
        ("Webhook", webhook(Vec::new())),
        ("WebhookWithSecret", webhook(vec![("signing_secret", secret)])),
        ("NewRetryPolicy", new_retry()),
        ("RetryPolicy", json!({ "oneOf": retry_schedules().map(answer) })),
        ("Attempt", attempt()),
        ("Delivery", delivery::schema()),
        ("WebhookTest", test()),
    ]
}
