//! Provider sources: where third parties post their webhooks to.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, any_text, nullable, of_form, page, reference, request, text, time, told, whole, words,
};
use crate::ground::error::ProblemKind;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::Scope;
use crate::source::record::{
    DESCRIPTION_CHARS_MAX, HEADER_CHARS_MAX, KINDS, NAME_CHARS_MAX, RULE_CHARS_MAX, SECRET_CHARS_MAX, TOLERANCE_S_MAX,
};
use crate::source::verify::Algorithm;

const TAG: &str = "sources";
/// What a name may be.
const NAME: &str = "^[a-z0-9][a-z0-9_-]{0,63}$";

fn example() -> Value {
    json!({ "github": {
        "summary": "Webhooks of GitHub",
        "value": {
            "org": "acme",
            "verification": { "kind": "github" },
            "secret": "It's a Secret to Everybody",
        },
    }})
}

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Manage, TAG, id, method, path);
    let one = |operation: Operation| operation.path_parameter("name", "The source's name", any_text(NAME_CHARS_MAX));
    vec![
        on("createSource", Method::POST, "/v1/sources")
            .told(
                "Make a source",
                "Its secrets are never shown again. Its name is unique in the hub; left out, one is made.",
            )
            .json(reference("NewSource"), example())
            .answers(201, "The source.", reference("Source"))
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        on("listSources", Method::GET, "/v1/sources")
            .told("List sources", "By name.")
            .common(&["org"])
            .query("cursor", "The name after which the page begins", any_text(super::QUERY_CHARS_MAX))
            .common(&["limit"])
            .answers(200, "A page of sources.", page("items", "Source")),
        one(on("getSource", Method::GET, "/v1/sources/{name}")).told("Look up a source", "").answers(
            200,
            "The source.",
            reference("Source"),
        ),
        one(on("changeSource", Method::PATCH, "/v1/sources/{name}"))
            .told(
                "Change a source",
                "What is left out stays. `second_secret` stands beside the first while that is rotated.",
            )
            .optional_json(
                reference("SourceChange"),
                json!({ "rotate": {
                    "summary": "A second secret for the time of a rotation",
                    "value": { "second_secret": "the next one" },
                }}),
            )
            .answers(200, "The source.", reference("Source"))
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::DiskFull]),
        one(on("deleteSource", Method::DELETE, "/v1/sources/{name}"))
            .told("Delete a source", "Its address is unknown from now on; its events stay.")
            .answers_empty(204, "It is gone."),
        one(Operation::open(TAG, "receiveAtSource", Method::POST, "/v1/sources/{name}"))
            .told(
                "Receive a third party's webhook",
                "Verified as the source says; without an API key. What does not verify is stored nowhere.",
            )
            .optional_body(
                &["application/json", "application/x-www-form-urlencoded", "text/plain"],
                json!({}),
                json!({
                    "any": { "summary": "Whatever the provider sends", "value": {} },
                }),
            )
            .answers(202, "The event is durable.", reference("AnyReceipt"))
            .answers(
                200,
                "It was there already, or it was a challenge, which is given back.",
                json!({
                    "oneOf": [reference("Receipt"), reference("ScheduledReceipt"), answer(vec![("challenge", told())])],
                }),
            )
            .refuses(&[
                ProblemKind::Unauthorized,
                ProblemKind::Forbidden,
                ProblemKind::IdConflict,
                ProblemKind::DiskFull,
                ProblemKind::Internal,
                ProblemKind::Overloaded,
            ]),
    ]
}

fn verification() -> Value {
    request(
        vec![
            ("kind", words(KINDS)),
            ("tolerance_s", nullable(whole(1, TOLERANCE_S_MAX))),
            ("header", nullable(text(HEADER_CHARS_MAX))),
            ("algorithm", nullable(words(Algorithm::NAMES))),
            ("encoding", nullable(words(["hex", "base64"]))),
            ("prefix", nullable(any_text(RULE_CHARS_MAX))),
            ("username", nullable(text(RULE_CHARS_MAX))),
        ],
        &["kind"],
    )
}

fn mapping() -> Value {
    let short = || nullable(any_text(RULE_CHARS_MAX));
    let rule = || {
        nullable(request(
            vec![
                ("pointer", short()),
                ("header", nullable(text(HEADER_CHARS_MAX))),
                ("constant", short()),
                ("prefix", short()),
                ("default", short()),
            ],
            &[],
        ))
    };
    request(
        vec![
            ("type", rule()),
            ("id", rule()),
            ("org", rule()),
            ("subject", rule()),
            ("occurred_at", rule()),
            ("data", nullable(any_text(RULE_CHARS_MAX))),
        ],
        &[],
    )
}

fn wishes() -> FieldList {
    vec![
        ("verification", nullable(reference("SourceVerification"))),
        ("mapping", nullable(reference("SourceMapping"))),
        ("description", nullable(any_text(DESCRIPTION_CHARS_MAX))),
        ("secret", nullable(text(SECRET_CHARS_MAX))),
        ("second_secret", nullable(text(SECRET_CHARS_MAX))),
    ]
}

pub(super) fn schemas() -> FieldList {
    let mut new = wishes();
    new[0].1 = reference("SourceVerification");
    new.extend([("name", nullable(of_form(NAME))), ("org", nullable(text(SCOPE_CHARS_MAX)))]);
    let open = json!({ "type": "object", "additionalProperties": true });
    let source = answer(vec![
        ("name", of_form(NAME)),
        ("path", told()),
        ("org", nullable(told())),
        ("verification", open.clone()),
        ("mapping", open),
        ("description", nullable(told())),
        ("secret_last4", nullable(told())),
        ("second_secret_last4", nullable(told())),
        ("created_at", time()),
        ("created_by", reference("WriteContext")),
        ("updated_at", time()),
        ("updated_by", reference("WriteContext")),
    ]);
    vec![
        ("Source", source),
        ("NewSource", request(new, &["verification"])),
        ("SourceChange", request(wishes(), &[])),
        ("SourceVerification", verification()),
        ("SourceMapping", mapping()),
    ]
}
