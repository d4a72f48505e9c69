//! The catalog: types, versions, policies, contracts, the quarantine.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    EVENT_TYPE, FieldList, answer, answer_with, any_text, count, flag, id, list, list_of, nullable, page, reference,
    request, text, time, told, whole, words,
};
use crate::catalog::policy::{
    Finding, Mode, QUARANTINE_AGE_MS_MAX, QUARANTINE_AGE_MS_MIN, QUARANTINE_BYTES_MAX, QUARANTINE_EVENTS_MAX,
};
use crate::catalog::quarantine::State;
use crate::catalog::read::{DESCRIPTION_CHARS_MAX, SPECIMENS_MAX};
use crate::catalog::record::{Compatibility, Lifecycle, VersionState};
use crate::catalog::schema::SCHEMA_BYTES_MAX;
use crate::event::redact::{Audience, PATH_CHARS_MAX, REDACTIONS_MAX, RedactAction};
use crate::ground::error::ProblemKind;
use crate::ground::limits::{CODE_CHARS_MAX, EVENT_TYPE_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::hub::{REASON_CHARS_MAX, REDRIVE_MAX, Scope};

pub(super) const TAG: &str = "catalog";
const QUARANTINE: &str = "quarantine";

pub(super) fn event_type() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": EVENT_TYPE_CHARS_MAX, "pattern": EVENT_TYPE })
}

pub(super) fn example(name: &str, summary: &str, value: &Value) -> Value {
    json!({ name: { "summary": summary, "value": value } })
}

fn invoice_schema() -> Value {
    json!({
        "type": "object",
        "required": ["number", "amount"],
        "properties": { "number": { "type": "string" }, "amount": { "type": "integer", "minimum": 0 } },
    })
}

pub(super) fn operations() -> Vec<Operation> {
    [types(), versions(), readings(), quarantine()].into_iter().flatten().collect()
}

fn named(operation: Operation) -> Operation {
    operation.path_parameter("name", "The type's name", event_type())
}

fn types() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let one = "/v1/catalog/types/{name}";
    let whose = "The type of the org that is named or that the key is confined to; without one, that of every org. An org's own type goes before the one of every org.";
    let said = json!({
        "service": "billing", "owner": "team-billing", "description": "An invoice was paid.", "compatibility": "backward",
        "redactions": [{ "path": "/data/customer/email", "action": "mask", "audiences": ["webhook", "cdc"] }],
    });
    vec![
        on(Scope::Read, "listTypes", Method::GET, "/v1/catalog/types")
            .told("List event types", "By name: the org's own, and those of every org that it has not replaced.")
            .common(&["org", "type"])
            .query("service", "The service that sends it", any_text(super::QUERY_CHARS_MAX))
            .query("lifecycle", "Where it is in its life", words(Lifecycle::ALL.map(Lifecycle::as_str)))
            .common(&["cursor", "limit"])
            .answers(200, "A page of types.", page("items", "CatalogType")),
        named(on(Scope::Manage, "putType", Method::PUT, one))
            .told("Say what an event type is", &format!("{whose} What was said before is replaced; versions stay."))
            .common(&["org"])
            .optional_json(reference("TypeWish"), example("invoice", "A type of the billing service", &said))
            .answers(201, "The type is new.", reference("CatalogType"))
            .answers(200, "It was there and is replaced.", reference("CatalogType"))
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        named(on(Scope::Read, "getType", Method::GET, one))
            .told("Look up an event type with its versions", whose)
            .common(&["org"])
            .answers(200, "The type.", reference("CatalogType"))
            .refuses(&[ProblemKind::Forbidden]),
        named(on(Scope::Manage, "changeType", Method::PATCH, one))
            .told("Change what is said of a type", "What is left out stays; null takes away.")
            .common(&["org"])
            .optional_json(
                reference("TypeWish"),
                example("deprecate", "Producers should move on", &json!({ "lifecycle": "deprecated" })),
            )
            .answers(200, "The type.", reference("CatalogType"))
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        named(on(Scope::Manage, "deleteType", Method::DELETE, one))
            .told("Forget a type with its versions", "Its events stay.")
            .common(&["org"])
            .answers_empty(204, "It is gone.")
            .refuses(&[ProblemKind::Forbidden]),
        named(on(Scope::Read, "getSpecimens", Method::GET, "/v1/catalog/types/{name}/specimens"))
            .told(
                "Worked examples of a type's data",
                "Those that were given, and one made of the schema of each version that has none. Each fits its version.",
            )
            .common(&["org"])
            .answers(200, "The specimens and a sample CloudEvent.", reference("Specimens"))
            .refuses(&[ProblemKind::Forbidden]),
    ]
}

fn versions() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let (all, one) = ("/v1/catalog/types/{name}/versions", "/v1/catalog/types/{name}/versions/{version}");
    let version = |operation: Operation| {
        named(operation).path_parameter("version", "What events call it in `schema_version`", text(CODE_CHARS_MAX))
    };
    let about = format!(
        "JSON Schema 2020-12 of at most {SCHEMA_BYTES_MAX} bytes that refers to nothing outside itself. It is checked against the newest version in use, or against each when the type is transitive; a refusal names each place that breaks. What cannot be judged counts as breaking."
    );
    vec![
        named(on(Scope::Manage, "registerSchemaVersion", Method::POST, all))
            .told("Register a version of a type's schema", &about)
            .common(&["org"])
            .query("dry_run", "Only tell what would come of it", flag())
            .json(
                reference("NewVersion"),
                example("first", "The first version", &json!({ "schema": invoice_schema() })),
            )
            .answers(201, "The version.", reference("SchemaVersion"))
            .answers(200, "It was there already, or only asked for.", reference("SchemaVersion"))
            .correlated()
            .refuses(&[
                ProblemKind::IncompatibleSchema,
                ProblemKind::Conflict,
                ProblemKind::Forbidden,
                ProblemKind::DiskFull,
            ]),
        named(on(Scope::Read, "listSchemaVersions", Method::GET, all))
            .told("List the versions of a type", "Oldest first, without their schemas.")
            .common(&["org"])
            .answers(200, "The versions.", answer(vec![("items", list(reference("VersionSummary")))]))
            .refuses(&[ProblemKind::Forbidden]),
        version(on(Scope::Read, "getSchemaVersion", Method::GET, one))
            .told("Look up a version with its schema", "")
            .common(&["org"])
            .answers(200, "The version.", reference("SchemaVersion"))
            .refuses(&[ProblemKind::Forbidden]),
        version(on(Scope::Manage, "changeSchemaVersion", Method::PATCH, one))
            .told("Move a version on in its life", "One that comes into use is checked as if it were registered.")
            .common(&["org"])
            .json(
                request(vec![("state", words(VersionState::ALL.map(VersionState::as_str)))], &["state"]),
                example("retire", "It is over", &json!({ "state": "retired" })),
            )
            .answers(200, "The version.", reference("SchemaVersion"))
            .correlated()
            .refuses(&[
                ProblemKind::IncompatibleSchema,
                ProblemKind::Conflict,
                ProblemKind::Forbidden,
                ProblemKind::DiskFull,
            ]),
    ]
}

fn readings() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let policy = "/v1/catalog/policy";
    vec![
        on(Scope::Read, "getCatalog", Method::GET, "/v1/catalog")
            .told("The whole catalog", "As JSON, or as a page for a client that would rather have HTML.")
            .common(&["org"])
            .answers(200, "Every type.", answer(vec![("types", list(reference("CatalogType")))]))
            .also_as(200, "text/html", told())
            .refuses(&[ProblemKind::Forbidden]),
        on(Scope::Read, "getCatalogPage", Method::GET, "/v1/catalog.html")
            .told("The whole catalog as a page for people", "Plain HTML without a script.")
            .common(&["org"])
            .answers_as(200, "Every type.", "text/html", told())
            .refuses(&[ProblemKind::Forbidden]),
        on(Scope::Read, "listContracts", Method::GET, "/v1/catalog/contracts")
            .told("List the services that types name", "")
            .common(&["org"])
            .answers(
                200,
                "The services.",
                answer(vec![("services", list(answer(vec![("service", told()), ("types", count())])))]),
            )
            .refuses(&[ProblemKind::Forbidden]),
        on(Scope::Read, "getContract", Method::GET, "/v1/catalog/contracts/{service}")
            .told(
                "What a service's events are, for whoever reads exports and feeds",
                "Types, versions with their fields, what is hidden from whom, and how pages follow one another.",
            )
            .path_parameter("service", "The service", any_text(SCOPE_CHARS_MAX))
            .common(&["org"])
            .answers(200, "The contract.", reference("ExportContract"))
            .refuses(&[ProblemKind::Forbidden]),
        on(Scope::Read, "getPolicy", Method::GET, policy)
            .told("How events of an org are checked", "Its own policy, or the one of every org.")
            .common(&["org"])
            .answers(200, "The policy.", reference("CatalogPolicy"))
            .refuses(&[ProblemKind::Forbidden]),
        on(Scope::Manage, "changePolicy", Method::PATCH, policy)
            .told(
                "Change how events of an org are checked",
                "`open`: not at all. `warn`: what does not fit is taken, counted, logged and flagged in the answer. `strict`: it is refused with every violation. Without an org: of every org that has no policy of its own.",
            )
            .common(&["org"])
            .optional_json(
                reference("PolicyChange"),
                example("strict", "Refuse, and keep what is refused", &json!({ "policy": "strict", "quarantine": { "enabled": true } })),
            )
            .answers(200, "The policy.", reference("CatalogPolicy"))
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
    ]
}

fn quarantine() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, QUARANTINE, id, method, path);
    let one = |operation: Operation| operation.path_parameter("id", "The id in the quarantine", text(SCOPE_CHARS_MAX));
    let appended = &[ProblemKind::IdConflict, ProblemKind::Conflict, ProblemKind::DiskFull];
    vec![
        on(Scope::Read, "listQuarantine", Method::GET, "/v1/quarantine")
            .told("List refused events that are kept", "Oldest first, without their envelopes.")
            .common(&["org"])
            .query("type", "The event's type, exactly", any_text(super::QUERY_CHARS_MAX))
            .query("state", "Where they stand", words(State::ALL.map(State::as_str)))
            .common(&["cursor", "limit"])
            .answers(200, "A page of events.", page("items", "QuarantinedEvent")),
        one(on(Scope::Read, "getQuarantined", Method::GET, "/v1/quarantine/{id}"))
            .told("Look up a refused event with its envelope and violations", "")
            .answers(200, "The event; its envelope is null when it is no longer kept.", quarantined_with_event()),
        one(on(Scope::Manage, "redriveQuarantined", Method::POST, "/v1/quarantine/{id}/redrive"))
            .told("Check a refused event again and take it in", "It is appended once, however often this is asked.")
            .answers(
                200,
                "It is in the log.",
                answer(vec![
                    ("id", told()),
                    ("event_id", told()),
                    ("state", words([State::Redriven.as_str()])),
                    ("seq", count()),
                    ("duplicate", flag()),
                ]),
            )
            .correlated()
            .refuses(appended)
            .refuses(&[ProblemKind::SchemaViolation]),
        one(on(Scope::Manage, "discardQuarantined", Method::POST, "/v1/quarantine/{id}/discard"))
            .told("Let a refused event go", "Who did and why is kept, its envelope is not.")
            .json(
                request(vec![("reason", text(REASON_CHARS_MAX))], &["reason"]),
                example("test", "It was a test", &json!({ "reason": "sent by a test" })),
            )
            .answers(200, "It is discarded.", reference("QuarantinedEvent"))
            .correlated()
            .refuses(appended),
        on(Scope::Manage, "redriveQuarantine", Method::POST, "/v1/quarantine/redrive")
            .told("Redrive many refused events", "Oldest first; those that still do not fit stay.")
            .optional_json(
                reference("RedriveQuarantine"),
                example("type", "Those of one type", &json!({ "type": "invoice.paid", "limit": 500 })),
            )
            .answers(
                200,
                "What became of them.",
                answer(vec![
                    ("redriven", count()),
                    ("refused", count()),
                    ("failed", count()),
                    ("has_more", flag()),
                    ("last_id", nullable(told())),
                ]),
            )
            .correlated()
            .refuses(&[ProblemKind::Forbidden, ProblemKind::DiskFull]),
    ]
}

fn anything() -> Value {
    json!({ "description": "Anything; kept as it was written." })
}

fn open_object() -> Value {
    json!({ "type": "object", "additionalProperties": true })
}

fn redaction() -> Value {
    let audiences = list_of(words(Audience::ALL.map(Audience::as_str)), 1, Audience::ALL.len());
    request(
        vec![
            ("path", text(PATH_CHARS_MAX)),
            ("action", words(RedactAction::ALL.map(RedactAction::as_str))),
            ("audiences", nullable(audiences)),
        ],
        &["path", "action"],
    )
}

fn specimen() -> Value {
    request(
        vec![("name", text(SCOPE_CHARS_MAX)), ("version", nullable(text(CODE_CHARS_MAX))), ("data", anything())],
        &["name", "data"],
    )
}

fn type_wish() -> Value {
    request(
        vec![
            ("name", nullable(event_type())),
            ("service", nullable(text(SCOPE_CHARS_MAX))),
            ("description", nullable(text(DESCRIPTION_CHARS_MAX))),
            ("owner", nullable(text(SCOPE_CHARS_MAX))),
            ("lifecycle", nullable(words(Lifecycle::ALL.map(Lifecycle::as_str)))),
            ("compatibility", nullable(words(Compatibility::ALL.map(Compatibility::as_str)))),
            ("transitive", nullable(flag())),
            ("specimens", nullable(list_of(specimen(), 0, SPECIMENS_MAX))),
            ("redactions", nullable(list_of(redaction(), 0, REDACTIONS_MAX))),
            ("sample", nullable(open_object())),
        ],
        &[],
    )
}

pub(super) fn written() -> FieldList {
    vec![
        ("created_at", time()),
        ("created_by", reference("WriteContext")),
        ("updated_at", time()),
        ("updated_by", reference("WriteContext")),
    ]
}

fn catalog_type() -> Value {
    let mut fields = vec![
        ("name", told()),
        ("org", nullable(told())),
        ("service", nullable(told())),
        ("description", nullable(told())),
        ("owner", nullable(told())),
        ("lifecycle", words(Lifecycle::ALL.map(Lifecycle::as_str))),
        ("compatibility", words(Compatibility::ALL.map(Compatibility::as_str))),
        ("transitive", flag()),
        ("specimens", list(open_object())),
        ("redactions", list(open_object())),
        ("sample", nullable(open_object())),
        ("versions", list(reference("VersionSummary"))),
        ("newest_version", nullable(told())),
    ];
    fields.extend(written());
    answer(fields)
}

fn quarantine_rules() -> FieldList {
    vec![
        ("enabled", flag()),
        ("events_max", whole(1, QUARANTINE_EVENTS_MAX)),
        ("bytes_max", whole(1, QUARANTINE_BYTES_MAX)),
        ("age_ms", whole(QUARANTINE_AGE_MS_MIN, QUARANTINE_AGE_MS_MAX)),
    ]
}

fn quarantined() -> FieldList {
    vec![
        ("id", id("qrt")),
        ("org", told()),
        ("type", told()),
        ("event_id", told()),
        ("state", words(State::ALL.map(State::as_str))),
        ("finding", words(Finding::ALL.map(Finding::as_str))),
        ("message", told()),
        ("violations", list(reference("Violation"))),
        ("more_violations", count()),
        ("received_at", time()),
        ("deliver_at", nullable(time())),
        ("bytes", count()),
        ("created_by", reference("WriteContext")),
        ("seq", nullable(count())),
        ("reason", nullable(told())),
        ("closed_by", nullable(reference("WriteContext"))),
    ]
}

fn quarantined_with_event() -> Value {
    let mut fields = quarantined();
    fields.push(("event", nullable(open_object())));
    answer(fields)
}

/// What a policy says of an event that was taken.
pub(super) fn warnings() -> Value {
    list(answer_with(
        vec![
            ("code", words(Finding::ALL.map(Finding::as_str))),
            ("message", told()),
            ("violations", list(reference("Violation"))),
            ("more_violations", count()),
        ],
        &["code", "message"],
    ))
}

fn contract() -> Value {
    let field = answer_with(
        vec![("pointer", told()), ("types", list(told())), ("required", flag())],
        &["pointer", "types", "required"],
    );
    let version = answer(vec![
        ("version", told()),
        ("state", words(VersionState::ALL.map(VersionState::as_str))),
        ("fields", list(field)),
        ("schema", json!({ "type": ["object", "boolean"] })),
    ]);
    let event_type = answer(vec![
        ("type", told()),
        ("org", nullable(told())),
        ("description", nullable(told())),
        ("owner", nullable(told())),
        ("lifecycle", words(Lifecycle::ALL.map(Lifecycle::as_str))),
        ("compatibility", words(Compatibility::ALL.map(Compatibility::as_str))),
        ("newest_version", nullable(told())),
        ("schema_versions", list(version)),
        ("redactions", list(open_object())),
    ]);
    let pagination = answer(vec![
        ("order", told()),
        ("feed", told()),
        ("cursor", told()),
        ("limit_default", count()),
        ("limit_max", count()),
        ("delivery", told()),
    ]);
    answer(vec![
        ("contract", told()),
        ("contract_version", count()),
        ("service", told()),
        ("org", nullable(told())),
        ("event_types", list(event_type)),
        ("pagination", pagination),
    ])
}

pub(super) fn schemas() -> FieldList {
    let state = || words(VersionState::ALL.map(VersionState::as_str));
    let summary = vec![("version", told()), ("number", count()), ("state", state()), ("created_at", time())];
    let mut version = vec![
        ("type", told()),
        ("org", nullable(told())),
        ("version", told()),
        ("number", count()),
        ("state", state()),
        ("schema", json!({ "type": ["object", "boolean"] })),
    ];
    version.extend(written());
    let new_version = vec![
        ("version", nullable(text(CODE_CHARS_MAX))),
        ("state", nullable(words(["draft", "active"]))),
        ("schema", json!({ "type": ["object", "boolean"] })),
    ];
    let made =
        answer(vec![("name", told()), ("version", nullable(told())), ("data", anything()), ("generated", flag())]);
    let mode = || words(Mode::ALL.map(Mode::as_str));
    let policy = vec![
        ("org", nullable(told())),
        ("policy", mode()),
        ("quarantine", answer(quarantine_rules())),
        ("updated_at", time()),
        ("updated_by", reference("WriteContext")),
    ];
    let change = vec![("policy", nullable(mode())), ("quarantine", nullable(request(quarantine_rules(), &[])))];
    let redrive = vec![
        ("org", nullable(text(SCOPE_CHARS_MAX))),
        ("type", nullable(text(EVENT_TYPE_CHARS_MAX))),
        ("after", nullable(text(SCOPE_CHARS_MAX))),
        ("limit", nullable(whole(1, REDRIVE_MAX))),
    ];
    let violation = vec![("pointer", told()), ("schema_path", told()), ("message", told())];
    let breaking = vec![
        ("breaks", words(["backward", "forward"])),
        ("pointer", told()),
        ("reason", told()),
        ("certain", flag()),
        ("against", told()),
    ];
    vec![
        ("CatalogType", catalog_type()),
        ("TypeWish", type_wish()),
        ("VersionSummary", answer(summary)),
        ("SchemaVersion", answer(version)),
        ("NewVersion", request(new_version, &["schema"])),
        ("BreakingChange", answer(breaking)),
        ("Specimens", answer(vec![("type", told()), ("specimens", list(made)), ("sample", open_object())])),
        ("CatalogPolicy", answer(policy)),
        ("PolicyChange", request(change, &[])),
        ("ExportContract", contract()),
        ("Violation", answer(violation)),
        ("QuarantinedEvent", answer(quarantined())),
        ("RedriveQuarantine", request(redrive, &[])),
    ]
}
