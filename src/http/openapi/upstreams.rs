//! Upstreams: declared, changed, checked by operators; read by applications.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::publishes;
use super::schema::{
    FieldList, answer, answer_with, any_text, count, list, list_of, nullable, of_form, page, reference, request, text,
    time, told, whole, words,
};
use super::shared::{rate, rate_kept};
use super::webhooks::{NO_COLON, breaker_numbers, header_kind};
use crate::breaker::BreakerSettings;
use crate::breaker::state::Phase;
use crate::ground::error::ProblemKind;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::hub::Scope;
use crate::upstream::adapter::VERSION_CHARS_MAX;
use crate::upstream::credential::{ENV_CHARS_MAX, FILE_CHARS_MAX};
use crate::upstream::health::Outcome;
use crate::upstream::read::{
    CACHE_MS_MAX, FIELDS_MAX, PAGE_LIMIT_MAX, PAGE_WORDS, PARAMETER_CHARS_MAX, POINTER_CHARS_MAX, READS_MAX,
};
use crate::upstream::record::{CONCURRENCY_MAX, DESCRIPTION_CHARS_MAX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN};
use crate::upstream::template::{NAME_CHARS_MAX, PARAMETERS_MAX, PATH_CHARS_MAX};
use crate::webhook::auth::{NAME_CHARS_MAX as USER_CHARS_MAX, SECRET_CHARS_MAX};
use crate::webhook::guard::URL_BYTES_MAX;

const TAG: &str = "upstreams";
/// What an id may be.
const ID: &str = "^[a-z0-9][a-z0-9_-]{0,63}$";
/// A path with one slash first.
const PATH: &str = r"^/([!-.0-~][!-~]*)?$";

fn bridge() -> Value {
    json!({ "crm": {
        "summary": "A CRM with a contact read and a history read",
        "value": {
            "id": "crm",
            "org": "acme",
            "base_url": "https://crm.example.com",
            "preset": "bridge",
            "auth": { "kind": "bearer", "token": "the CRM's token" },
            "reads": {
                "contact": {
                    "path": "/api/v1/contacts/{externalId}",
                    "fields": ["legalName", "email", "phone", "address", "kvkNumber"],
                },
                "history": {
                    "path": "/api/v1/contacts/{id}/klantbeeld",
                    "page": {
                        "items": "/transactions",
                        "shape": {
                            "transactions": "items", "limit": "limit", "offset": "offset", "unavailable": "unavailable",
                        },
                    },
                },
            },
        },
    }})
}

pub(super) fn operations() -> Vec<Operation> {
    let on = |id, method, path| Operation::scoped(Scope::Manage, TAG, id, method, path);
    let id = || of_form(ID);
    let one = |name, method, path| on(name, method, path).path_parameter("id", "The upstream's id", id());
    let tenant = || request(vec![("org", nullable(text(SCOPE_CHARS_MAX)))], &[]);
    let rotate = json!({ "next": {
        "summary": "Another token for one tenant",
        "value": { "org": "acme", "auth": { "kind": "bearer", "token": "the next token" } },
    }});
    vec![
        on("createUpstream", Method::POST, "/v1/admin/upstreams")
            .told(
                "Declare an upstream",
                "It can be called from now on. Its credential is kept sealed and never shown. An address inside the network is refused unless the hub allows it.",
            )
            .json(reference("NewUpstream"), bridge())
            .correlated()
            .answers(201, "The upstream.", reference("Upstream"))
            .links(201, "/id", &["getUpstream", "changeUpstream", "testUpstream", "deleteUpstream"])
            .refuses(&[ProblemKind::Conflict, ProblemKind::DiskFull]),
        on("listUpstreams", Method::GET, "/v1/admin/upstreams")
            .told("List upstreams", "By id: those of the settings, those declared here, and those of the program.")
            .common(&["cursor", "limit"])
            .answers(200, "A page of upstreams.", page("items", "Upstream")),
        Operation::scoped(Scope::Read, TAG, "checkUpstreams", Method::GET, "/v1/admin/upstreams/health")
            .told("Ask every upstream whether it is there", "Past breakers and rates; none of them makes the hub unready.")
            .answers(
                200,
                "How each fares, and all together.",
                answer(vec![
                    ("status", words(["healthy", "degraded", "unhealthy"])),
                    ("items", list(reference("UpstreamReport"))),
                ]),
            ),
        one("getUpstream", Method::GET, "/v1/admin/upstreams/{id}")
            .told("Look up an upstream", "")
            .answers(200, "The upstream.", reference("Upstream")),
        one("changeUpstream", Method::PATCH, "/v1/admin/upstreams/{id}")
            .told(
                "Change an upstream",
                "Only what is sent changes, from the next call on. `publishes` is sent as a whole: what waits for a rule that is changed goes out as the rule now says, and a rule is left out only when nothing waits for it. What was read before is forgotten when its address or its reads change. One of the settings is changed there.",
            )
            .optional_json(
                reference("UpstreamChange"),
                json!({ "slower": { "summary": "A gentler pace", "value": { "rate_limit": { "per_second": 2 } } } }),
            )
            .correlated()
            .answers(200, "The upstream as it is now.", reference("Upstream"))
            .refuses(&[ProblemKind::Conflict, ProblemKind::DiskFull]),
        one("deleteUpstream", Method::DELETE, "/v1/admin/upstreams/{id}")
            .told("Delete an upstream", "Its breaker, its series and what was read of it go with it. Refused while events wait for one of its publish rules.")
            .answers_empty(204, "It is gone.")
            .refuses(&[ProblemKind::Conflict]),
        one("testUpstream", Method::POST, "/v1/admin/upstreams/{id}/test")
            .told(
                "See whether an upstream is there",
                "Asks its `health_path`, or its base URL, past breaker and rate, with the credential of `org` when it is given.",
            )
            .optional_json(tenant(), json!({ "tenant": { "value": { "org": "acme" } } }))
            .answers(200, "What was found.", reference("UpstreamReport"))
            .refuses(&[ProblemKind::UpstreamUnavailable]),
        one("clearUpstreamCache", Method::POST, "/v1/admin/upstreams/{id}/clear-cache")
            .told("Forget what was read of an upstream", "")
            .answers(200, "It is forgotten.", answer(vec![("id", told()), ("cleared", count())])),
        one("resetUpstreamCounters", Method::POST, "/v1/admin/upstreams/{id}/reset-counters")
            .told(
                "Set the bridge counters of an upstream back to zero",
                "The series integration_bridge_*; the state of its breaker and the number of its dead letters stay.",
            )
            .answers(200, "They are zero.", answer(vec![("id", told()), ("reset", json!({ "const": true }))])),
        one("rotateUpstreamCredential", Method::POST, "/v1/admin/upstreams/{id}/rotate-credential")
            .told(
                "Change the credential of an upstream",
                "That of the tenant `org`, or the one for those who have none. `auth` null takes it away; without `auth` secrets of variables and files are read again.",
            )
            .optional_json(
                request(
                    vec![
                        ("org", nullable(text(SCOPE_CHARS_MAX))),
                        ("auth", nullable(reference("NewUpstreamAuth"))),
                    ],
                    &[],
                ),
                rotate,
            )
            .correlated()
            .answers(200, "The upstream as it is now.", reference("Upstream"))
            .refuses(&[ProblemKind::Conflict, ProblemKind::DiskFull]),
        Operation::scoped(Scope::Read, TAG, "readUpstream", Method::GET, "/v1/upstreams/{id}/reads/{read}")
            .told(
                "Read something of an upstream",
                "A read that is declared for it; the query holds the read's own parameters. From the cache while the answer is young; while the upstream is down an old answer is given, with `stale: true`. A paged read takes `limit` (1 to 100, whatever is sent) and `offset`, and answers always: it says when the upstream cannot be had.",
            )
            .path_parameter("id", "The upstream's id", id())
            .path_parameter("read", "The read's name", id())
            .common(&["org"])
            .given_query("parameters", "The parameters of the read, each under its own name", parameters())
            .answers(200, "The answer, in the form that the read declares.", json!({ "type": "object" }))
            .refuses(&[ProblemKind::Forbidden, ProblemKind::UpstreamFailed, ProblemKind::UpstreamUnavailable]),
    ]
}

fn parameters() -> Value {
    json!({
        "type": "object", "maxProperties": PARAMETERS_MAX + 2,
        "additionalProperties": { "type": "string", "maxLength": PARAMETER_CHARS_MAX },
    })
}

fn path() -> Value {
    json!({ "type": "string", "pattern": PATH, "maxLength": PATH_CHARS_MAX })
}

fn pointer() -> Value {
    json!({ "type": "string", "pattern": "^(/.*)?$", "maxLength": POINTER_CHARS_MAX })
}

fn read(kept: bool) -> Value {
    let or_null = |schema: Value| nullable(schema);
    let pointers = json!({ "type": "object", "maxProperties": FIELDS_MAX, "additionalProperties": pointer() });
    let fields =
        if kept { pointers } else { json!({ "anyOf": [pointers, list_of(text(NAME_CHARS_MAX), 1, FIELDS_MAX)] }) };
    let shape = json!({ "type": "object", "additionalProperties": words(PAGE_WORDS) });
    let paging = vec![
        ("items", pointer()),
        ("total", or_null(pointer())),
        ("limit_parameter", or_null(text(NAME_CHARS_MAX))),
        ("offset_parameter", or_null(text(NAME_CHARS_MAX))),
        ("limit_default", or_null(whole(1, PAGE_LIMIT_MAX))),
        ("shape", or_null(shape)),
    ];
    let paging = if kept { answer(paging) } else { request(paging, &["items"]) };
    let query =
        json!({ "type": "object", "maxProperties": PARAMETERS_MAX, "additionalProperties": any_text(PATH_CHARS_MAX) });
    let all = vec![
        ("path", path()),
        ("query", or_null(query)),
        ("fields", or_null(fields)),
        ("page", or_null(paging)),
        ("cache_ms", or_null(whole(0, CACHE_MS_MAX))),
        ("stale_ms", or_null(whole(0, CACHE_MS_MAX))),
    ];
    if kept { answer(all) } else { request(all, &["path"]) }
}

/// A secret: itself, or where it is.
fn secret(inline: Value) -> Value {
    let env = of_form("^[A-Za-z0-9_]+$");
    let env = json!({ "allOf": [env, { "maxLength": ENV_CHARS_MAX }] });
    let file = json!({ "type": "string", "pattern": "^/", "maxLength": FILE_CHARS_MAX });
    json!({ "oneOf": [inline, request(vec![("env", env)], &["env"]), request(vec![("file", file)], &["file"])] })
}

fn new_auth() -> Value {
    let kind = |kind: &str, mut fields: FieldList, needed: &[&str]| {
        fields.insert(0, ("kind", json!({ "const": kind })));
        request(fields, &[&["kind"], needed].concat())
    };
    let token = json!({ "type": "string", "pattern": "^[!-~]+$", "maxLength": SECRET_CHARS_MAX });
    let user = json!({ "type": "string", "minLength": 1, "maxLength": USER_CHARS_MAX, "pattern": NO_COLON });
    let name = || text(USER_CHARS_MAX);
    let oauth = vec![
        ("token_url", json!({ "type": "string", "format": "uri", "minLength": 1, "maxLength": URL_BYTES_MAX })),
        ("client_id", name()),
        ("client_secret", secret(text(SECRET_CHARS_MAX))),
        ("scope", nullable(name())),
        ("audience", nullable(name())),
        ("client_auth", nullable(words(["basic", "body"]))),
    ];
    let (header_name, header_value) = header_kind();
    json!({ "oneOf": [
        kind("bearer", vec![("token", secret(token))], &["token"]),
        kind("basic", vec![("username", user), ("password", secret(text(SECRET_CHARS_MAX)))], &["username", "password"]),
        kind("oauth2", oauth, &["token_url", "client_id", "client_secret"]),
        kind("header", vec![("name", header_name), ("value", secret(header_value))], &["name", "value"]),
    ]})
}

/// What is shown of a credential. Its last characters are when the hub holds it.
fn auth() -> Value {
    let place =
        || json!({ "oneOf": [{ "const": "store" }, answer(vec![("env", told())]), answer(vec![("file", told())])] });
    let kind = |kind: &str, fields: FieldList, needed: &[&str]| {
        let all = [("kind", json!({ "const": kind })), ("source", place())].into_iter().chain(fields).collect();
        answer_with(all, &[&["kind", "source"], needed].concat())
    };
    let oauth = vec![
        ("token_url", told()),
        ("client_id", told()),
        ("scope", nullable(told())),
        ("audience", nullable(told())),
        ("client_auth", words(["basic", "body"])),
    ];
    json!({ "oneOf": [
        kind("bearer", vec![("token_last4", told())], &[]),
        kind("basic", vec![("username", told())], &["username"]),
        kind("oauth2", oauth, &["token_url", "client_id", "scope", "audience", "client_auth"]),
        kind("header", vec![("name", told()), ("value_last4", told())], &["name"]),
    ]})
}

fn settings() -> FieldList {
    let reads = json!({
        "type": "object", "maxProperties": READS_MAX,
        "propertyNames": { "pattern": ID },
        "additionalProperties": reference("NewUpstreamRead"),
    });
    let url = json!({ "type": "string", "format": "uri", "minLength": 1, "maxLength": URL_BYTES_MAX });
    vec![
        ("org", nullable(text(SCOPE_CHARS_MAX))),
        ("version", nullable(text(VERSION_CHARS_MAX))),
        ("base_url", nullable(url)),
        ("health_path", nullable(path())),
        ("connect_timeout_ms", nullable(whole(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX))),
        ("total_timeout_ms", nullable(whole(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX))),
        ("preset", nullable(words(BreakerSettings::PRESETS.iter().copied()))),
        ("retry", nullable(reference("NewRetryPolicy"))),
        ("breaker", nullable(reference("NewBreakerSettings"))),
        ("rate_limit", nullable(rate())),
        ("concurrency", nullable(whole(1, CONCURRENCY_MAX))),
        ("reads", nullable(reads)),
        ("publishes", nullable(publishes::new_rules())),
        ("description", nullable(any_text(DESCRIPTION_CHARS_MAX))),
        (
            "allowed_networks",
            nullable(json!({
                "type": "array", "maxItems": 0, "items": { "type": "string" },
                "description": "In the settings of the hub alone.",
            })),
        ),
        ("auth", nullable(reference("NewUpstreamAuth"))),
    ]
}

fn new_upstream() -> Value {
    let mut fields = settings();
    for (name, schema) in &mut fields {
        if *name == "base_url" {
            schema["type"] = json!("string");
        }
    }
    fields.insert(0, ("id", of_form(ID)));
    request(fields, &["id", "base_url"])
}

fn upstream() -> Value {
    let by_name = |schema: Value| json!({ "type": "object", "additionalProperties": schema });
    answer(vec![
        ("id", of_form(ID)),
        ("origin", words(["config", "api", "program"])),
        ("org", nullable(told())),
        ("version", told()),
        ("base_url", nullable(told())),
        ("health_path", nullable(told())),
        ("connect_timeout_ms", nullable(count())),
        ("total_timeout_ms", count()),
        ("retry", reference("RetryPolicy")),
        ("breaker", answer(breaker_numbers())),
        ("rate_limit", nullable(rate_kept())),
        ("concurrency", count()),
        ("reads", by_name(read(true))),
        ("publishes", publishes::rules()),
        ("description", nullable(told())),
        ("allowed_networks", list(told())),
        ("auth", nullable(auth())),
        ("tenant_auth", by_name(auth())),
        ("circuit", words(Phase::ALL.map(Phase::as_str))),
        ("status", words(["pass", "warn", "fail"])),
        ("created_at", nullable(time())),
        ("created_by", nullable(reference("WriteContext"))),
        ("updated_at", nullable(time())),
        ("updated_by", nullable(reference("WriteContext"))),
    ])
}

fn report() -> Value {
    answer(vec![
        ("id", of_form(ID)),
        ("status", words(["pass", "warn", "fail"])),
        ("outcome", words(Outcome::WORDS)),
        ("latency_ms", count()),
        ("error", nullable(told())),
        ("breaker", words(Phase::ALL.map(Phase::as_str))),
        ("checked_at", time()),
    ])
}

pub(super) fn schemas() -> FieldList {
    vec![
        ("NewUpstream", new_upstream()),
        ("UpstreamChange", request(settings(), &[])),
        ("Upstream", upstream()),
        ("NewUpstreamAuth", new_auth()),
        ("NewUpstreamRead", read(false)),
        ("UpstreamReport", report()),
    ]
}
