//! Events: in singly, in batches and as a stream; out by id and as a list.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    EVENT_TYPE, FieldList, PRINTABLE, TRACEPARENT, TRACESTATE, answer, answer_with, any_text, count, flag, list,
    list_of, nullable, page, problem, reference, request, text, time, told, words,
};
use super::{catalog, lifecycles};
use crate::config::Limits;
use crate::event::cloudevents::{BATCH, STRUCTURED};
use crate::ground::error::ProblemKind;
use crate::ground::limits::{
    AGGREGATE_ID_CHARS_MAX, CODE_CHARS_MAX, EVENT_ID_CHARS_MAX, EVENT_TYPE_CHARS_MAX, KEY_CHARS_MAX,
    METADATA_BYTES_MAX, NESTING_MAX, REQUEST_CONTEXT_BYTES_MAX, SCOPE_CHARS_MAX, SOURCE_REFS_MAX,
};
use crate::http::events::{EXPLAINED_DEFAULT, EXPLAINED_MAX};
use crate::hub::Scope;
use crate::trace::TRACESTATE_CHARS_MAX;

const TAG: &str = "events";

/// A named example.
fn example(name: &str, summary: &str, value: &Value) -> Value {
    json!({ name: { "summary": summary, "value": value } })
}

fn invoice() -> Value {
    json!({
        "id": "inv-1001-paid",
        "type": "invoice.paid",
        "source": "billing",
        "aggregate_type": "invoice",
        "aggregate_id": "1001",
        "occurred_at": "2026-11-21T08:00:00Z",
        "data": { "amount": 1200, "currency": "EUR" },
    })
}

pub(super) fn operations(limits: &Limits) -> Vec<Operation> {
    let Limits { event_bytes_max, batch_events_max, batch_bytes_max } = *limits;
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let written = &[ProblemKind::IdConflict, ProblemKind::SchemaViolation, ProblemKind::DiskFull];
    vec![
        on(Scope::Publish, "publishEvent", Method::POST, "/v1/events")
            .traced()
            .told(
                "Publish an event",
                &format!("Answered when the event is durable. A body of at most {event_bytes_max} bytes, nested at most {NESTING_MAX} deep. Send it again with the same `id` when the outcome is unknown: an event is taken once. CloudEvents 1.0 come structured or as a batch by their content types, and in binary mode by `ce-` headers, with any content type."),
            )
            .json(reference("NewEvent"), example("invoice", "An invoice was paid", &invoice()))
            .also_takes(STRUCTURED, reference("CloudEvent"), example("invoice", "The same as a CloudEvent", &cloud_invoice()))
            .also_takes(BATCH, cloud_events(batch_events_max), example("one", "A batch of one", &json!([cloud_invoice()])))
            .query("atomic", "With a batch of CloudEvents: take all of them or none", flag())
            .answers(
                202,
                "The event is durable: in the log, or scheduled. A batch is answered as `publishBatch` answers it.",
                json!({ "oneOf": [reference("Receipt"), reference("ScheduledReceipt"), reference("BatchResults")] }),
            )
            .answers(200, "It was there already: the same id and the same body.", reference("AnyReceipt"))
            .links(202, "/id", &["getEvent"])
            .refuses(written)
            .refuses(&[ProblemKind::Forbidden]),
        on(Scope::Publish, "publishBatch", Method::POST, "/v1/events/batch")
            .traced()
            .told(
                "Publish many events",
                &format!("At most {batch_events_max} events and {batch_bytes_max} bytes. An element that does not fit rejects itself only, unless `atomic` is true."),
            )
            .query("atomic", "Take all of them or none", flag())
            .json(
                list_of(json!({}), 0, batch_events_max),
                example("two", "Two events", &json!([invoice(), { "type": "invoice.sent", "data": { "number": 1002 } }])),
            )
            .also_takes(BATCH, cloud_events(batch_events_max), example("one", "A batch of one", &json!([cloud_invoice()])))
            .answers(202, "One result per element, in the same order.", reference("BatchResults"))
            .refuses(written)
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden]),
        on(Scope::Publish, "publishStream", Method::POST, "/v1/events/stream")
            .traced()
            .told(
                "Publish a stream of events",
                "One envelope a line, of any number; one result a line comes back while the stream goes on. Blank lines are passed over.",
            )
            .optional_body(
                &["application/x-ndjson", "application/ndjson", "application/jsonl"],
                json!({ "description": "Lines of JSON, each an envelope." }),
                example("two", "Two events", &json!("{\"type\":\"a.b\"}\n{\"type\":\"a.c\"}\n")),
            )
            .answers_as(200, "A receipt or an error a line, each as in a batch.", "application/x-ndjson", told()),
        on(Scope::Read, "listEvents", Method::GET, "/v1/events")
            .told(
                "Look up events",
                "In order of position. A page may end early, with a cursor, when much was read in vain.",
            )
            .common(&["org", "type"])
            .query("source", "The event's source", any_text(super::QUERY_CHARS_MAX))
            .query("aggregate_type", "The aggregate's type", any_text(super::QUERY_CHARS_MAX))
            .query("aggregate_id", "The aggregate's id", any_text(super::QUERY_CHARS_MAX))
            .common(&["from", "to", "cursor", "limit"])
            .answers(200, "A page of envelopes.", page("events", "StoredEvent"))
            .refuses(&[]),
        on(Scope::Read, "getEvent", Method::GET, "/v1/events/{id}")
            .told("Look up one event, and where it stands with each consumer", "")
            .path_parameter("id", "The event's id", text(EVENT_ID_CHARS_MAX))
            .common(&["org"])
            .answers(200, "The envelope with its consumers.", reference("EventWithConsumers")),
        on(Scope::Read, "explainEvent", Method::GET, "/v1/events/{id}/explain")
            .told(
                "Say for every consumer of the org why it got an event or not, and where the delivery stands",
                "Consumers come by id, a page at a time.",
            )
            .path_parameter("id", "The event's id", text(EVENT_ID_CHARS_MAX))
            .common(&["org"])
            .query("consumer", "This consumer alone", any_text(super::QUERY_CHARS_MAX))
            .common(&["cursor"])
            .given_query("limit", "Most consumers of the page", limit_within(EXPLAINED_DEFAULT, EXPLAINED_MAX))
            .answers(200, "A page of consumers.", reference("Explanation")),
    ]
}

/// How many items a page has that is dearer than others.
fn limit_within(default: usize, max: usize) -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": max, "default": default })
}

/// The states of a delivery, with what each tells besides.
fn delivery() -> Value {
    let plain = ["not_matched", "gap", "hub_paused", "paused", "queued", "settled"];
    let state = |word: &str, more: FieldList| {
        let mut fields = vec![("state", words([word]))];
        fields.extend(more);
        answer(fields)
    };
    let mut states: Vec<Value> = plain.into_iter().map(|word| state(word, Vec::new())).collect();
    states.extend([
        state("before_start", vec![("from", count())]),
        state("not_reached", vec![("reached", count()), ("behind", count())]),
        state(
            "breaker_open",
            vec![("phase", words(["open", "half_open", "forced_open"])), ("until", nullable(time()))],
        ),
        state("rate_limited", vec![("until", time())]),
        state("waiting_behind_key", vec![("seq", count()), ("id", nullable(told()))]),
        state("next_try_at", vec![("at", time())]),
        state("in_flight", vec![("attempt", count()), ("lease_until", nullable(time()))]),
        state("delivered", vec![("at", time()), ("attempt", count())]),
        state("dead", vec![("at", time()), ("dead_letter_id", nullable(told()))]),
    ]);
    json!({ "oneOf": states })
}

fn explanation() -> Value {
    let clauses = ["org", "event_types", "channel", "facility", "service", "filter", "requires"];
    let consumer = answer(vec![
        ("consumer", told()),
        ("kind", told()),
        ("matched", flag()),
        ("decided_by", nullable(words(clauses))),
        ("detail", nullable(told())),
        ("status", words(["pending", "processing", "failed", "processed", "dead_letter", "skipped"])),
        ("attempts", count()),
        ("last_error", nullable(told())),
        ("next_try_at", nullable(time())),
        ("delivery", delivery()),
    ]);
    let event =
        answer(vec![("id", told()), ("seq", count()), ("org", told()), ("type", told()), ("received_at", time())]);
    answer(vec![
        ("event", event),
        ("lifecycle", lifecycles::lifecycle_note()),
        ("consumers", list(consumer)),
        ("next_cursor", told()),
        ("has_more", flag()),
    ])
}

fn cloud_invoice() -> Value {
    json!({
        "specversion": "1.0",
        "id": "inv-1002-paid",
        "source": "/billing",
        "type": "invoice.paid",
        "time": "2026-11-21T08:00:00Z",
        "data": { "amount": 900, "currency": "EUR" },
    })
}

/// A batch, whose elements are judged one by one.
fn cloud_events(events_max: usize) -> Value {
    list_of(json!({}), 0, events_max)
}

fn cloud_event() -> Value {
    let attribute = json!({ "type": ["string", "number", "boolean", "null"] });
    let event_type = json!({
        "type": "string", "minLength": 1, "maxLength": EVENT_TYPE_CHARS_MAX, "pattern": EVENT_TYPE,
        "description": "Types that begin with `tidegate.` are the hub's own: a producer's are refused.",
    });
    let mut schema = answer_with(
        vec![
            ("specversion", words(["1.0"])),
            ("id", text(EVENT_ID_CHARS_MAX)),
            ("source", json!({ "type": "string", "minLength": 1, "maxLength": SCOPE_CHARS_MAX })),
            ("type", event_type),
            ("time", nullable(time())),
            ("data", json!({ "description": "Anything; kept as it was written." })),
            ("data_base64", nullable(json!({ "type": "string", "contentEncoding": "base64" }))),
        ],
        &["specversion", "id", "source", "type"],
    );
    schema["propertyNames"] = json!({ "pattern": "^([a-z0-9]+|data_base64)$" });
    schema["additionalProperties"] = attribute;
    schema["description"] = json!("CloudEvents 1.0, JSON format; `data` and `data_base64` exclude each other.");
    schema
}

/// What a delay may be as a text.
const DELAY: &str =
    "^([0-9]{1,9}(ms|s|m|h|d)?|P([0-9]{1,4}W)?([0-9]{1,5}D)?(T([0-9]{1,6}H)?([0-9]{1,7}M)?([0-9]{1,8}S)?)?)$";

fn scope() -> Value {
    nullable(any_text(SCOPE_CHARS_MAX))
}

fn code() -> Value {
    nullable(json!({ "type": ["string", "integer"], "maxLength": CODE_CHARS_MAX }))
}

fn source_ref() -> Value {
    let part = || any_text(AGGREGATE_ID_CHARS_MAX);
    request(vec![("system", part()), ("type", part()), ("id", part())], &["system", "type", "id"])
}

fn request_context() -> Value {
    let key = || nullable(any_text(KEY_CHARS_MAX));
    let correlation = nullable(json!({ "type": "string", "maxLength": KEY_CHARS_MAX, "pattern": PRINTABLE }));
    let mut schema = answer_with(
        vec![
            ("correlation_id", correlation),
            ("causation_id", key()),
            ("user_id", key()),
            ("tenant_id", key()),
            ("ip", key()),
            ("user_agent", nullable(told())),
        ],
        &[],
    );
    schema["description"] = json!(format!("At most {REQUEST_CONTEXT_BYTES_MAX} bytes. Further members are kept."));
    // Further members are the producer's own, in answers as well.
    schema["additionalProperties"] = json!(true);
    nullable(schema)
}

/// The fields of an envelope that a producer may set.
fn envelope() -> FieldList {
    let metadata = json!({
        "type": "object",
        "additionalProperties": true,
        "description": format!("The producer's own; at most {METADATA_BYTES_MAX} bytes."),
    });
    let event_type =
        json!({ "type": "string", "minLength": 1, "maxLength": EVENT_TYPE_CHARS_MAX, "pattern": EVENT_TYPE });
    let traceparent = json!({ "type": "string", "maxLength": KEY_CHARS_MAX, "pattern": TRACEPARENT });
    let tracestate = json!({
        "type": "string", "maxLength": TRACESTATE_CHARS_MAX, "pattern": TRACESTATE,
        "description": "Kept beside `traceparent`, and not without it.",
    });
    vec![
        ("id", nullable(text(EVENT_ID_CHARS_MAX))),
        ("type", event_type),
        ("source", scope()),
        ("aggregate_type", scope()),
        ("aggregate_id", nullable(any_text(AGGREGATE_ID_CHARS_MAX))),
        ("org", nullable(text(SCOPE_CHARS_MAX))),
        ("channel", scope()),
        ("facility", scope()),
        ("subject", nullable(any_text(KEY_CHARS_MAX))),
        ("data", json!({ "description": "Anything; kept as it was written." })),
        ("metadata", nullable(metadata)),
        ("occurred_at", nullable(time())),
        ("reason_code", nullable(any_text(CODE_CHARS_MAX))),
        ("source_refs", nullable(list_of(source_ref(), 0, SOURCE_REFS_MAX))),
        ("schema_version", code()),
        ("ordering_key", nullable(any_text(KEY_CHARS_MAX))),
        ("request_context", request_context()),
        ("traceparent", nullable(traceparent)),
        ("tracestate", nullable(tracestate)),
        ("deliver_at", nullable(time())),
        ("delay", nullable(json!({ "type": ["string", "integer"], "minimum": 0, "pattern": DELAY }))),
    ]
}

/// The envelope as it stands in the log.
fn stored(more: FieldList) -> Value {
    let mut fields = envelope();
    for (name, schema) in &mut fields {
        match *name {
            // Set by the hub when the producer left them out.
            "id" | "ordering_key" | "occurred_at" => *schema = told(),
            "org" => *schema = any_text(SCOPE_CHARS_MAX),
            _ => {}
        }
    }
    fields.extend([("seq", count()), ("received_at", time())]);
    let mut required = vec!["id", "type", "org", "occurred_at", "seq", "received_at"];
    required.extend(more.iter().map(|(name, _)| *name));
    fields.extend(more);
    answer_with(fields, &required)
}

fn standing() -> Value {
    answer(vec![
        ("consumer", told()),
        ("name", nullable(told())),
        ("status", words(["pending", "processing", "processed", "failed", "dead_letter"])),
        ("waits_behind_key", flag()),
        ("attempts", count()),
        ("last_error", nullable(told())),
        ("available_at", nullable(time())),
        ("processed_at", nullable(time())),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

pub(super) fn schemas() -> FieldList {
    let refused = [
        ProblemKind::NotJson,
        ProblemKind::InvalidField,
        ProblemKind::TooLarge,
        ProblemKind::Forbidden,
        ProblemKind::IdConflict,
        ProblemKind::Conflict,
        ProblemKind::SchemaViolation,
    ];
    vec![
        ("NewEvent", request(envelope(), &["type"])),
        (
            "Receipt",
            answer_with(
                vec![
                    ("id", text(EVENT_ID_CHARS_MAX)),
                    ("seq", count()),
                    ("duplicate", flag()),
                    ("warnings", catalog::warnings()),
                ],
                &["id", "seq", "duplicate"],
            ),
        ),
        (
            "ScheduledReceipt",
            answer_with(
                vec![
                    ("id", text(EVENT_ID_CHARS_MAX)),
                    ("seq", json!({ "type": "null" })),
                    ("duplicate", flag()),
                    ("scheduled", json!({ "const": true })),
                    ("deliver_at", time()),
                    ("warnings", catalog::warnings()),
                ],
                &["id", "seq", "duplicate", "scheduled", "deliver_at"],
            ),
        ),
        ("AnyReceipt", json!({ "oneOf": [reference("Receipt"), reference("ScheduledReceipt")] })),
        (
            "BatchResult",
            json!({ "oneOf": [reference("Receipt"), reference("ScheduledReceipt"), answer(vec![("error", problem(&refused))])] }),
        ),
        (
            "BatchResults",
            answer(vec![("results", list(reference("BatchResult"))), ("accepted", count()), ("rejected", count())]),
        ),
        ("CloudEvent", cloud_event()),
        ("StoredEvent", stored(Vec::new())),
        ("EventWithConsumers", stored(vec![("consumers", list(reference("ConsumerStanding")))])),
        ("ConsumerStanding", standing()),
        ("Explanation", explanation()),
    ]
}
