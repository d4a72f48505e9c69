//! What several areas have: parameters, problems, the context of a write.

use serde_json::{Value, json};

use super::QUERY_CHARS_MAX;
use super::schema::{
    FieldList, TYPE_PATTERN, answer, answer_with, any_text, count, flag, list, nullable, or_empty, problem_type,
    reference, request, text, time, told, whole, words,
};
use crate::event::filter::expression::EXPRESSION_CHARS_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{EVENT_TYPE_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::http::params::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::idempotency::KEY_CHARS_MAX;
use crate::ratelimit::{BURST_MAX, PER_SECOND_MAX, PER_SECOND_MIN, RateLimit};

/// An event type, `prefix.*` or `*`.
pub(super) fn type_pattern() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": EVENT_TYPE_CHARS_MAX, "pattern": TYPE_PATTERN })
}

/// The name of an org.
pub(super) fn org_name() -> Value {
    any_text(SCOPE_CHARS_MAX)
}

/// A condition on envelope and data.
pub(super) fn expression() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": EXPRESSION_CHARS_MAX, "pattern": r"\S",
        "description": "A condition in CEL over `event` (the envelope) and `data`. One that does not compile is refused with line and column.",
        "examples": ["data.amount > 100 && event.source == \"billing\""],
    })
}

/// The parameters of the components, by name.
pub(super) fn parameters() -> Value {
    let limit = json!({
        "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT,
    });
    let list = [
        ("org", "The tenant; a key that is confined to one org may name that org only", any_text(QUERY_CHARS_MAX)),
        ("type", "The event's type: exact, `prefix.*` or `*`", type_pattern()),
        ("from", "At or after this time", time()),
        ("to", "Before this time", time()),
        ("cursor", "Where the page begins: the `next_cursor` of the page before", any_text(QUERY_CHARS_MAX)),
        ("limit", "Most items of the page", limit),
    ];
    let key = json!({
        "name": crate::http::idempotency::NAME, "in": "header",
        "description": "The request is done once under this key. For 24 hours (idempotency.keep_ms) the same request, by query, content type and body, gets the same answer; it waits while the first is being answered. A key belongs to the application and org of the API key, to the method and the path. Answers of 500 and above, 401, 403, 408 and 429 are not kept.",
        "schema": { "type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX, "pattern": "^[!-~]+$" },
    });
    list.into_iter()
        .map(|(name, description, schema)| {
            // The one parameter that an empty text does not leave out.
            let schema = if name == "limit" { schema } else { or_empty(schema) };
            let parameter = json!({ "name": name, "in": "query", "description": description, "schema": schema });
            (name.to_owned(), parameter)
        })
        .chain([("IdempotencyKey".to_owned(), key)])
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

/// How many a second and how many at once, or the name of a preset.
pub(super) fn rate() -> Value {
    let numbers = request(
        vec![
            ("per_second", json!({ "type": "number", "minimum": PER_SECOND_MIN, "maximum": PER_SECOND_MAX })),
            ("burst", nullable(whole(1, BURST_MAX.into()))),
        ],
        &["per_second"],
    );
    json!({ "anyOf": [numbers, words(RateLimit::PRESETS.iter().copied())] })
}

/// A rate as it is kept and shown.
pub(super) fn rate_kept() -> Value {
    answer(vec![("per_second", json!({ "type": "number" })), ("burst", count())])
}

/// The headers of the components, by name.
pub(super) fn headers() -> Value {
    json!({
        "RateLimit": {
            "description": "What is left of the key's rate, when it has one: `r` now, all of it again after `t` seconds (draft-ietf-httpapi-ratelimit-headers).",
            "schema": told(),
        },
        "RateLimitPolicy": {
            "description": "The key's rate, when it has one: `q` in `w` seconds.",
            "schema": told(),
        },
        "RetryAfter": {
            "description": "Seconds after which the request is worth sending again.",
            "required": true,
            "schema": count(),
        },
        "RetryAfterBusy": {
            "description": "Seconds after which the request is worth sending again, when it is.",
            "schema": count(),
        },
        "IdempotencyReplayed": {
            "description": "`true` on an answer that was recorded before, when the request named an Idempotency-Key.",
            "schema": told(),
        },
        "Authenticate": {
            "description": "The scheme that is expected (RFC 9110).",
            "required": true,
            "schema": told(),
        },
    })
}

fn problem() -> Value {
    let kinds = ProblemKind::ALL.iter().map(|kind| problem_type(*kind)).collect::<Vec<_>>();
    let mut schema = answer_with(
        vec![
            ("type", json!({ "type": "string", "enum": kinds, "description": "Stable: match on this." })),
            ("title", told()),
            ("status", whole(400, 599)),
            ("detail", told()),
            ("field", json!({ "type": "string", "description": "The field or parameter, as a path." })),
            ("limit", json!({ "type": "string", "description": "The bound that was crossed, in words." })),
            ("sent", json!({ "type": "string", "description": "What was sent, clipped." })),
            ("retryable", flag()),
            ("scope", told()),
            ("offset", count()),
            ("bytes", count()),
            ("line", count()),
            ("column", count()),
            ("first_seq", count()),
            ("link_id", told()),
            (
                "bound",
                json!({ "type": "string", "description": "The setting that is the bound, such as `schedule.events_max`." }),
            ),
            ("asked_seq", count()),
            ("earliest_seq", count()),
            ("earliest_cursor", told()),
            ("seq", count()),
            ("original_status", whole(100, 599)),
            ("state", told()),
            ("unsettled", count()),
            ("finding", told()),
            ("violations", list(reference("Violation"))),
            ("more_violations", count()),
            ("changes", list(reference("BreakingChange"))),
            ("quarantine", words(["kept", "full", "failed"])),
            ("quarantine_id", nullable(told())),
        ],
        &["type", "title", "status", "detail", "retryable"],
    );
    schema["description"] = json!("Why a request was refused (RFC 9457).");
    schema
}

pub(super) fn schemas() -> FieldList {
    let context =
        answer(vec![("by", told()), ("at", time()), ("correlation_id", nullable(told())), ("ip", nullable(told()))]);
    vec![("Problem", problem()), ("WriteContext", context)]
}

/// Deliveries that are not settled, which a webhook's owner and operators look up alike.
pub(super) mod delivery {
    use super::*;
    use crate::http::openapi::operation::Operation;
    use crate::hub::DeliveryStatus;

    fn status() -> Value {
        words(DeliveryStatus::ALL.map(DeliveryStatus::as_str))
    }

    /// The parameters of the look-up.
    pub(in crate::http::openapi) fn query(operation: Operation) -> Operation {
        operation
            .query("status", "Where they stand", status())
            .query("due_before", "Due before this time", time())
            .query("due_after", "Due after this time", time())
            .common(&["cursor", "limit"])
    }

    /// One delivery.
    pub(in crate::http::openapi) fn schema() -> Value {
        answer(vec![
            ("seq", count()),
            ("event_id", nullable(told())),
            ("type", nullable(told())),
            ("org", nullable(told())),
            ("status", status()),
            ("waits_behind_key", flag()),
            ("attempts", count()),
            ("due_at", nullable(time())),
            ("first_attempt", nullable(time())),
            ("last_attempt", nullable(time())),
            ("last_error", nullable(told())),
        ])
    }
}

/// The name of an application or another thing that a client names.
pub(super) fn name() -> Value {
    text(SCOPE_CHARS_MAX)
}
