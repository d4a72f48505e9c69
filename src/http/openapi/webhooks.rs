//! Webhooks: made, changed, paused, tested, deleted; their attempts and what of them is not settled.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, count, flag, id, list, list_of, nullable, of_form, page, reference, request, text, time, told,
    whole, words,
};
use super::shared::expression;
use super::shared::{delivery, org_name, rate, type_pattern};
use crate::breaker::BreakerSettings;
use crate::breaker::settings::{CALL_MS_MAX, CALL_MS_MIN, COUNT_MAX, TIME_MS_MAX, WINDOW_MAX};
use crate::event::filter::fields::EVENT_TYPES_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{
    FAILURES_MAX, PAUSE_MS_MAX, PAUSE_MS_MIN, RETRY_ATTEMPTS_MAX, RETRY_DELAY_MS_MAX, SCOPE_CHARS_MAX,
};
use crate::hub::Scope;
use crate::retry::FailureKind;
use crate::retry::policy::{MULTIPLIER_MAX, RetryPolicy};
use crate::webhook::auth::{CERTIFICATE_BYTES_MAX, KEY_BYTES_MAX, NAME_CHARS_MAX, SECRET_CHARS_MAX};
use crate::webhook::format::{CONTENT_TYPE_CHARS_MAX, FORMATS};
use crate::webhook::record::{
    CONCURRENCY_MAX, DESCRIPTION_CHARS_MAX, HEADER_CHARS_MAX, HEADERS_MAX, OVERLAP_MS_MAX, SIGNING, URL_CHARS_MAX,
};
use crate::webhook::template::SOURCE_BYTES_MAX;

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
            .links(201, "/id", &["getWebhook", "changeWebhook", "listAttempts", "listDeliveries", "pauseWebhook", "resumeWebhook", "rotateSecret", "deleteWebhook"])
            .refuses(&[ProblemKind::Forbidden, ProblemKind::Conflict]),
        on("listWebhooks", Method::GET, "/v1/webhooks")
            .told("List webhooks", "Those the key may see, by id.")
            .common(&["org", "cursor", "limit"])
            .answers(200, "A page of webhooks.", page("items", "Webhook")),
        one("getWebhook", Method::GET, "/v1/webhooks/{id}")
            .told("Look up a webhook", "")
            .answers(200, "The webhook.", reference("Webhook")),
        one("changeWebhook", Method::PATCH, "/v1/webhooks/{id}")
            .told("Change a webhook", "Only what is sent changes; null takes a scope, a rate, a breaker, credentials or a proxy away. `org`, `ordering` and `signing` stay.")
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
        one("rotateSecret", Method::POST, "/v1/webhooks/{id}/rotate-secret")
            .told(
                "Rotate the secret of a webhook",
                "The new secret is shown this once; the old one signs too until the overlap ends. A rotation within the overlap of another ends that one. A webhook that signs with a key pair shows its new public key instead.",
            )
            .optional_json(
                request(vec![("overlap_ms", nullable(whole(0, OVERLAP_MS_MAX)))], &[]),
                json!({ "hour": { "summary": "Both sign for an hour", "value": { "overlap_ms": 3_600_000 } } }),
            )
            .correlated()
            .answers(200, "The webhook with its new secret.", reference("WebhookWithSecret"))
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
        ("format", nullable(words(FORMATS.split(", ")))),
        ("template", nullable(template())),
        ("headers", nullable(headers)),
        ("auth", nullable(reference("NewWebhookAuth"))),
        ("proxy", nullable(proxy())),
        ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
        ("retry", nullable(reference("NewRetryPolicy"))),
        ("rate_limit", nullable(rate())),
        ("breaker", nullable(reference("NewBreakerSettings"))),
        ("health", nullable(request(health_rules(), &[]))),
        ("signing", nullable(words(SIGNING.split(", ")))),
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

fn public_key() -> Value {
    of_form("^whpk_[A-Za-z0-9+/=]+$")
}

/// The template as a client sends it.
fn template() -> Value {
    let body = json!({
        "type": "string", "minLength": 1, "maxLength": SOURCE_BYTES_MAX,
        "description": "In the language of Jinja, without assignments. It sees the envelope's fields by name, and `data_json`, the data as it came. `tojson` writes a value as JSON.",
    });
    let content_type = json!({ "type": "string", "pattern": "^[ -~]+/[ -~]+$", "maxLength": CONTENT_TYPE_CHARS_MAX });
    request(vec![("body", body), ("content_type", nullable(content_type))], &["body"])
}

fn address() -> Value {
    json!({ "type": "string", "format": "uri", "minLength": 1, "maxLength": URL_CHARS_MAX })
}

fn proxy() -> Value {
    let user = json!({ "type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX, "pattern": NO_COLON });
    request(
        vec![("url", address()), ("username", nullable(user)), ("password", nullable(text(SECRET_CHARS_MAX)))],
        &["url"],
    )
}

/// A name of HTTP's basic authentication.
pub(super) const NO_COLON: &str = r"^[^\u0000-\u001F\u007F-\u009F:]*$";

/// Name and key of a header.
pub(super) fn header_kind() -> (Value, Value) {
    let name = json!({ "type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "maxLength": NAME_CHARS_MAX });
    let value = json!({ "type": "string", "minLength": 1, "maxLength": HEADER_CHARS_MAX, "pattern": "^[ -~]*$" });
    (name, value)
}

/// Credentials as a client sends them.
fn new_auth() -> Value {
    let kind = |kind: &str, mut fields: FieldList, needed: &[&str]| {
        fields.insert(0, ("kind", json!({ "const": kind })));
        request(fields, &[&["kind"], needed].concat())
    };
    let name = || text(NAME_CHARS_MAX);
    let secret = || text(SECRET_CHARS_MAX);
    let token = json!({ "type": "string", "pattern": "^[!-~]+$", "maxLength": SECRET_CHARS_MAX });
    let user = json!({ "type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX, "pattern": NO_COLON });
    let (header_name, header_value) = header_kind();
    let pem = |bytes_max: usize| json!({ "type": "string", "pattern": "-----BEGIN ", "maxLength": bytes_max });
    let oauth = vec![
        ("token_url", address()),
        ("client_id", name()),
        ("client_secret", secret()),
        ("scope", nullable(name())),
        ("audience", nullable(name())),
        ("client_auth", nullable(words(["basic", "body"]))),
    ];
    json!({ "oneOf": [
        kind("bearer", vec![("token", token)], &["token"]),
        kind("basic", vec![("username", user), ("password", secret())], &["username", "password"]),
        kind("oauth2", oauth, &["token_url", "client_id", "client_secret"]),
        kind("header", vec![("name", header_name), ("value", header_value)], &["name", "value"]),
        kind(
            "mtls",
            vec![("certificate", pem(CERTIFICATE_BYTES_MAX)), ("key", pem(KEY_BYTES_MAX))],
            &["certificate", "key"],
        ),
    ]})
}

/// What is shown of credentials.
fn auth() -> Value {
    let kind = |kind: &str, mut fields: FieldList| {
        fields.insert(0, ("kind", json!({ "const": kind })));
        answer(fields)
    };
    let oauth = vec![
        ("token_url", told()),
        ("client_id", told()),
        ("scope", nullable(told())),
        ("audience", nullable(told())),
        ("client_auth", words(["basic", "body"])),
    ];
    json!({ "oneOf": [
        kind("bearer", vec![("token_last4", told())]),
        kind("basic", vec![("username", told())]),
        kind("oauth2", oauth),
        kind("header", vec![("name", told()), ("value_last4", told())]),
        kind("mtls", vec![("certificate", told())]),
    ]})
}

/// The numbers of a breaker. Some bounds depend on others, so only those that stand alone are told.
pub(super) fn breaker_numbers() -> FieldList {
    let share = || json!({ "type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0 });
    let (count, time) = (|| whole(1, u64::from(COUNT_MAX)), || whole(1, TIME_MS_MAX));
    vec![
        ("failure_threshold", count()),
        ("success_threshold", count()),
        ("probes_max", count()),
        ("cooldown_ms", time()),
        ("cooldown_cap_ms", time()),
        ("probe_timeout_ms", time()),
        ("ramp_ms", whole(0, TIME_MS_MAX)),
        ("call_timeout_ms", nullable(whole(CALL_MS_MIN, CALL_MS_MAX))),
        ("slow_call_ms", nullable(time())),
        ("failure_rate", nullable(share())),
        ("slow_rate", nullable(share())),
        ("window", whole(1, WINDOW_MAX as u64)),
        ("min_calls", whole(1, WINDOW_MAX as u64)),
    ]
}

/// When an owner is told and a webhook paused; what is null is as the hub has it.
fn health_rules() -> FieldList {
    let or_never = |min, max| nullable(json!({ "anyOf": [{ "const": 0 }, whole(min, max)] }));
    vec![
        ("failing_after", nullable(whole(1, FAILURES_MAX))),
        ("pause_after_ms", or_never(PAUSE_MS_MIN, PAUSE_MS_MAX)),
        ("pause_after_failures", or_never(1, FAILURES_MAX)),
    ]
}

/// A breaker as a client sends it: a preset's name, or the numbers that differ.
fn new_breaker() -> Value {
    let presets = || words(BreakerSettings::PRESETS.iter().copied());
    let mut fields = breaker_numbers();
    fields.push(("preset", presets()));
    json!({ "oneOf": [presets(), request(fields, &[])] })
}

fn webhook(more: FieldList) -> Value {
    let previous = answer(vec![("secret_last4", told()), ("public_key", nullable(public_key())), ("until", time())]);
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
        ("format", words(FORMATS.split(", "))),
        ("template", nullable(answer(vec![("body", told()), ("content_type", told())]))),
        ("headers", list(told())),
        ("auth", nullable(reference("WebhookAuth"))),
        ("proxy", nullable(answer(vec![("url", told()), ("username", nullable(told()))]))),
        ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
        ("retry", nullable(reference("RetryPolicy"))),
        ("rate_limit", nullable(answer(vec![("per_second", json!({ "type": "number" })), ("burst", count())]))),
        ("breaker", nullable(answer(breaker_numbers()))),
        ("health", nullable(answer(health_rules()))),
        ("description", nullable(told())),
        ("status", words(["active", "paused", "disabled"])),
        ("status_reason", nullable(told())),
        ("signing", words(SIGNING.split(", "))),
        ("secret_last4", told()),
        ("public_key", nullable(public_key())),
        ("previous_secret", nullable(previous)),
        ("created_at", time()),
        ("created_by", reference("WriteContext")),
        ("updated_at", time()),
        ("updated_by", reference("WriteContext")),
    ];
    fields.extend(more);
    answer(fields)
}

/// A webhook with its secret, where it has one to tell.
fn webhook_with(secret: Value) -> Value {
    let mut whole = webhook(Vec::new());
    whole["properties"]["signing_secret"] = secret;
    whole
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
    let secret = json!({
        "type": "string", "pattern": "^(whsec_[A-Za-z0-9+/=]+|[0-9a-f]{64})$",
        "description": "Not there when the webhook signs with a key pair: receivers need the public key only.",
    });
    vec![
        ("NewWebhook", new_webhook()),
        ("WebhookChange", request(settings(), &[])),
        ("Webhook", webhook(Vec::new())),
        ("WebhookWithSecret", webhook_with(secret)),
        ("NewWebhookAuth", new_auth()),
        ("WebhookAuth", auth()),
        ("NewBreakerSettings", new_breaker()),
        ("NewRetryPolicy", new_retry()),
        ("RetryPolicy", json!({ "oneOf": retry_schedules().map(answer) })),
        ("Attempt", attempt()),
        ("Delivery", delivery::schema()),
        ("WebhookTest", test()),
    ]
}
