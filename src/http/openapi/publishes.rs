//! Publish rules of upstreams: what they look like within an upstream, a preview, and the way to be rid of one.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, any_text, count, flag, list, list_of, nullable, reference, request, text, told, whole, words,
};
use super::shared::{expression, org_name, type_pattern};
use crate::event::filter::fields::EVENT_TYPES_MAX;
use crate::event::filter::path::PATH_CHARS_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{EVENT_ID_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::hub::Scope;
use crate::upstream::adapter::ID_CHARS_MAX;
use crate::upstream::call;
use crate::upstream::publish::pattern::PATTERN_CHARS_MAX;
use crate::upstream::publish::rule::{
    CONCURRENCY_MAX, DESCRIPTION_CHARS_MAX, FORMATS, HEADERS_MAX, METHODS, NAME_CHARS_MAX, REQUIRES_MAX, RULES_MAX,
};
use crate::webhook::template::SOURCE_BYTES_MAX;

const TAG: &str = "upstreams";
/// The names of upstreams and rules.
const NAME: &str = "^[a-z0-9][a-z0-9_-]*$";

fn named(chars_max: usize) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": chars_max, "pattern": NAME })
}

pub(super) fn operations() -> Vec<Operation> {
    let of_rule = |id, method, path| {
        Operation::scoped(Scope::Manage, TAG, id, method, path)
            .path_parameter("id", "The upstream's id", named(ID_CHARS_MAX))
            .path_parameter("name", "The rule's name", named(NAME_CHARS_MAX))
    };
    let examples = json!({
        "sample": {
            "summary": "An event that nobody publishes",
            "value": { "event": { "type": "booking.created", "org": "acme", "aggregate_type": "booking", "aggregate_id": "B-7", "data": { "contactId": "c-1" } } },
        },
        "from_the_log": { "summary": "An event of the log", "value": { "event_id": "e-1", "org": "acme" } },
    });
    vec![
        of_rule("previewPublish", Method::POST, "/v1/admin/upstreams/{id}/publishes/{name}/preview")
            .told(
                "What a rule would send for an event",
                "Nothing is sent. The event is one of the log or one that is given; `call` is what would go out, without the credential, and `fault` says why there is none.",
            )
            .json(preview(), examples)
            .answers(200, "Whether the rule takes the event, and the call that it makes of it.", previewed()),
        of_rule("discardPublish", Method::DELETE, "/v1/admin/upstreams/{id}/publishes/{name}")
            .told(
                "Take a rule away with what waits for it",
                "A change that leaves a rule out is refused while events wait for it; this is the way to give them up. Its dead letters stay. A rule that the hub's settings declare stays.",
            )
            .correlated()
            .answers(
                200,
                "It is gone, and so many events with it.",
                answer(vec![("name", told()), ("discarded", count())]),
            )
            .refuses(&[ProblemKind::Conflict]),
    ]
}

fn preview() -> Value {
    request(
        vec![
            ("event_id", nullable(text(EVENT_ID_CHARS_MAX))),
            (
                "event",
                json!({ "type": ["object", "null"], "description": "An envelope, as `POST /v1/events` takes it." }),
            ),
            ("org", nullable(text(SCOPE_CHARS_MAX))),
        ],
        &[],
    )
}

fn previewed() -> Value {
    let clauses = ["org", "event_types", "channel", "facility", "service", "when", "requires"];
    let headers = json!({ "type": "object", "additionalProperties": { "type": ["string", "null"] } });
    let call = answer(vec![
        ("method", words(call::Method::WORDS.iter().copied())),
        ("path", told()),
        ("headers", headers),
        ("body", json!({ "description": "The body as JSON; null when there is none." })),
    ]);
    answer(vec![
        ("event_id", told()),
        ("type", told()),
        ("org", told()),
        ("matched", flag()),
        ("decided_by", nullable(words(clauses))),
        ("detail", nullable(told())),
        ("call", nullable(call)),
        ("fault", nullable(told())),
    ])
}

/// A field of an event by its path.
fn path() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": PATH_CHARS_MAX,
        "description": "A field of the envelope, or one within data, metadata or request_context: `aggregate_id`, `data.contact.id`. `timestamp` is when the event happened, in UTC and to the second.",
    })
}

/// A text with places.
fn pattern() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": PATTERN_CHARS_MAX,
        "description": "A text with places that the event fills: `/v1/orders/{data.orderId}`.",
    })
}

/// The rules of an upstream as a client sends them.
pub(super) fn new_rules() -> Value {
    list_of(reference("NewPublishRule"), 0, RULES_MAX)
}

/// The rules of an upstream as they are shown.
pub(super) fn rules() -> Value {
    list(reference("PublishRule"))
}

fn new_rule() -> Value {
    let scope = || nullable(json!({ "type": "string", "minLength": 1, "maxLength": SCOPE_CHARS_MAX }));
    let headers = json!({ "type": "object", "maxProperties": HEADERS_MAX, "additionalProperties": pattern() });
    let methods = || words(METHODS.iter().map(|method| method.as_str()));
    let body = json!({
        "type": "string", "minLength": 1, "maxLength": SOURCE_BYTES_MAX,
        "description": "A template of the body, in the language of webhook templates; without one the event's data goes out.",
    });
    let call = request(
        vec![
            ("method", nullable(methods())),
            ("path", pattern()),
            ("headers", nullable(headers)),
            ("format", nullable(words(FORMATS.split(", ")))),
            ("body", nullable(body)),
            (
                "filled",
                nullable(json!({
                    "type": "array", "maxItems": REQUIRES_MAX, "items": text(PATH_CHARS_MAX),
                    "description": "Members of the body that must not be empty; an event that leaves one empty becomes a dead letter.",
                })),
            ),
        ],
        &["path"],
    );
    let about = request(vec![("external_id", nullable(path())), ("contact_id", nullable(path()))], &[]);
    request(
        vec![
            ("name", named(NAME_CHARS_MAX)),
            ("org", nullable(text(SCOPE_CHARS_MAX))),
            ("event_types", list_of(type_pattern(), 1, EVENT_TYPES_MAX)),
            ("channel", scope()),
            ("facility", scope()),
            ("service", scope()),
            ("when", nullable(expression())),
            ("requires", nullable(list_of(path(), 0, REQUIRES_MAX))),
            ("ordering", nullable(words(["none", "key", "strict"]))),
            ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
            ("retry", nullable(reference("NewRetryPolicy"))),
            ("paused", nullable(flag())),
            ("about", nullable(about)),
            ("call", call),
            ("description", nullable(text(DESCRIPTION_CHARS_MAX))),
        ],
        &["name", "event_types", "call"],
    )
}

fn rule() -> Value {
    let call = answer(vec![
        ("method", words(METHODS.iter().map(|method| method.as_str()))),
        ("path", told()),
        ("headers", json!({ "type": "object", "additionalProperties": told() })),
        ("format", words(FORMATS.split(", "))),
        ("body", nullable(told())),
        ("filled", list(told())),
    ]);
    answer(vec![
        ("name", told()),
        ("org", nullable(org_name())),
        ("event_types", list(type_pattern())),
        ("channel", nullable(told())),
        ("facility", nullable(told())),
        ("service", nullable(told())),
        ("when", nullable(told())),
        ("requires", list(any_text(PATH_CHARS_MAX))),
        ("ordering", words(["none", "key", "strict"])),
        ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
        ("retry", nullable(reference("RetryPolicy"))),
        ("paused", flag()),
        ("about", answer(vec![("external_id", told()), ("contact_id", nullable(told()))])),
        ("call", call),
        ("description", nullable(told())),
    ])
}

pub(super) fn schemas() -> FieldList {
    vec![("NewPublishRule", new_rule()), ("PublishRule", rule())]
}
