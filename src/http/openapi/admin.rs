//! What operators do: keys, settings, statistics, consumers, breakers, planned faults.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, answer_with, any_text, count, flag, id, list, list_of, nullable, of_form, page, reference,
    request, settings, text, time, told, words,
};
use super::shared::{delivery, name, rate, rate_kept};
use crate::breaker::state::Phase;
use crate::ground::error::ProblemKind;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::Scope;
use crate::inbox::spec::ConsumerKind;
use crate::inbox::state::Hold;

const TAG: &str = "admin";

/// The names of the scopes.
fn scope() -> Value {
    words(Scope::ALL.map(Scope::as_str))
}

pub(super) fn operations() -> Vec<Operation> {
    let manage = |id, method, path| Operation::scoped(Scope::Manage, TAG, id, method, path);
    let read = |id, path| Operation::scoped(Scope::Read, TAG, id, Method::GET, path);
    let key = json!({
        "publisher": { "value": { "application": "billing", "org": "acme", "scopes": ["publish"] } },
    });
    let change = json!({ "batch": { "value": { "batch_size": 25 } } });
    vec![
        manage("createKey", Method::POST, "/v1/admin/keys")
            .told("Make an API key", "The key is shown this once. Without `org` it may name any org.")
            .json(reference("NewKey"), key)
            .correlated()
            .answers(201, "The key with its text.", reference("KeyWithText"))
            .links(201, "/id", &["changeKey", "revokeKey"])
            .refuses(&[ProblemKind::Conflict]),
        manage("listKeys", Method::GET, "/v1/admin/keys")
            .told("List API keys", "By id, without their texts.")
            .common(&["cursor", "limit"])
            .answers(200, "A page of keys.", page("items", "Key")),
        manage("changeKey", Method::PATCH, "/v1/admin/keys/{id}")
            .told("Change the rate limit or the end of an API key", "At once. Null takes either away.")
            .path_parameter("id", "The key's id", id("key"))
            .optional_json(
                request(vec![("rate_limit", nullable(rate())), ("expires_at", nullable(time_to_come()))], &[]),
                json!({ "slower": { "value": { "rate_limit": { "per_second": 50, "burst": 100 } } } }),
            )
            .correlated()
            .answers(200, "The key as it is now.", reference("Key"))
            .refuses(&[ProblemKind::Conflict]),
        manage("revokeKey", Method::DELETE, "/v1/admin/keys/{id}")
            .told("End an API key", "At once.")
            .path_parameter("id", "The key's id", id("key"))
            .answers_empty(204, "It is refused from now on."),
        manage("getSettings", Method::GET, "/v1/admin/settings").told("The run-time settings", "").answers(
            200,
            "As they hold now.",
            answer(settings("outbox")),
        ),
        manage("changeSettings", Method::PATCH, "/v1/admin/settings")
            .told(
                "Change run-time settings",
                "They hold at once and after a restart. All that is sent is changed, or nothing.",
            )
            .json(request(settings("outbox"), &[]), change)
            .answers(200, "As they hold now.", answer(settings("outbox")))
            .refuses(&[ProblemKind::Conflict]),
        read("getStats", "/v1/admin/stats").told("Statistics of the hub", "").answers(
            200,
            "Counts since the process began, and sizes.",
            reference("Stats"),
        ),
        read("listConsumers", "/v1/admin/consumers").told("Every consumer with its lag and sizes", "").answers(
            200,
            "All of them.",
            page("items", "Consumer"),
        ),
        delivery::query(read("listRows", "/v1/admin/consumers/{id}/rows"))
            .told("List what is not settled of a consumer", "Those due first.")
            .path_parameter("id", "The consumer's id", any_text(512))
            .answers(200, "A page of deliveries.", page("items", "Delivery")),
        read("listBreakers", "/v1/admin/breakers").told("Every circuit breaker", "").answers(
            200,
            "All of them.",
            page("items", "Breaker"),
        ),
        manage("commandBreaker", Method::POST, "/v1/admin/breakers/{id}/{command}")
            .told(
                "Command a breaker",
                "`reset` closes it, `open` keeps it open, `disable` lets every call through, `enable` ends that.",
            )
            .path_parameter("id", "The webhook's id, or the upstream's", any_text(64))
            .path_parameter("command", "What to do", words(["reset", "open", "disable", "enable"]))
            .answers(200, "The breaker as it is now.", reference("Breaker")),
        manage("pauseHub", Method::POST, "/v1/admin/pause")
            .told("Pause the hub", "Events are taken and nothing is delivered to any consumer until it is resumed; what is under way is finished. Not kept over a restart: a hub starts as `server.paused` says.")
            .correlated()
            .answers(200, "It is paused.", paused()),
        manage("resumeHub", Method::POST, "/v1/admin/resume")
            .told("Resume the hub", "What came meanwhile is delivered.")
            .correlated()
            .answers(200, "It is not paused.", paused()),
        manage("injectFault", Method::POST, "/v1/admin/faults/{fault}")
            .told("Inject a fault", "For tests; only when `faults.enabled` is set.")
            .path_parameter(
                "fault",
                "Which",
                words([
                    "panic-outbox", "panic-router", "panic-indexer", "panic-upstreams", "panic-consumers", "panic-house",
                    "fail-commit", "hold-answers",
                ]),
            )
            .answers(202, "It was injected.", answer(vec![("fault", told()), ("actors", count())]))
            .refuses(&[ProblemKind::Forbidden]),
    ]
}

fn paused() -> Value {
    answer(vec![("paused", flag())])
}

fn key(more: FieldList) -> Value {
    let mut fields = vec![
        ("id", id("key")),
        ("application", told()),
        ("org", nullable(told())),
        ("scopes", list(scope())),
        ("last4", told()),
        ("created_at", time()),
        ("created_by", reference("WriteContext")),
        ("expires_at", nullable(time())),
        ("updated_at", nullable(time())),
        ("updated_by", nullable(reference("WriteContext"))),
        ("rate_limit", nullable(rate_kept())),
        ("last_used_at", nullable(time())),
    ];
    fields.extend(more);
    answer(fields)
}

fn stats() -> Value {
    let log = ["head", "earliest", "segments", "store_bytes"].map(|name| (name, count()));
    let counts = [
        "pending",
        "processing",
        "processed",
        "failed",
        "dead_letter",
        "lag_max",
        "events_appended",
        "events_duplicate",
        "consumers",
        "ingest_queue_bytes",
        "state_queue",
    ];
    let mut fields =
        vec![("log", answer(log.into())), ("paused", flag()), ("oldest_pending_age_ms", nullable(count()))];
    fields.extend(counts.map(|name| (name, count())));
    answer(fields)
}

fn consumer() -> Value {
    let hold = answer_with(vec![("reason", words(Hold::NAMES)), ("until", time())], &["reason"]);
    let counts = [
        "cursor",
        "lag",
        "window",
        "in_flight",
        "exception_rows",
        "replay_rows",
        "waiting_for_retry",
        "processed",
        "failed_attempts",
        "given_up",
        "gaps",
    ];
    let mut fields = vec![
        ("id", told()),
        ("name", nullable(told())),
        ("waiting_clients", nullable(count())),
        ("kind", words(ConsumerKind::ALL.map(ConsumerKind::as_str))),
        ("org", nullable(told())),
        ("event_types", list(told())),
        ("paused", flag()),
        ("in_memory", flag()),
        ("hold", nullable(hold)),
    ];
    fields.extend(counts.map(|name| (name, count())));
    answer(fields)
}

fn breaker() -> Value {
    answer(vec![
        ("id", told()),
        ("state", words(Phase::ALL.map(Phase::as_str))),
        ("until", nullable(time())),
        ("times_opened", count()),
        ("probes_in_flight", count()),
    ])
}

fn time_to_come() -> Value {
    json!({ "type": "string", "format": "date-time", "maxLength": 64, "description": "A time to come." })
}

pub(super) fn schemas() -> FieldList {
    let new_key = request(
        vec![
            ("application", name()),
            ("org", nullable(text(SCOPE_CHARS_MAX))),
            ("scopes", list_of(scope(), 1, 16)),
            ("expires_at", nullable(time_to_come())),
            ("rate_limit", nullable(rate())),
        ],
        &["application", "scopes"],
    );
    vec![
        ("NewKey", new_key),
        ("Key", key(Vec::new())),
        ("KeyWithText", key(vec![("key", of_form("^tgk_[A-Za-z0-9_-]{43}$"))])),
        ("Stats", stats()),
        ("Consumer", consumer()),
        ("Breaker", breaker()),
    ]
}
