//! Health, readiness, version, metrics, and the document itself.

use actix_web::http::Method;
use serde_json::json;

use super::operation::Operation;
use super::schema::{answer, count, flag, list, told, words};
use crate::hub::Scope;

const TAG: &str = "health";

pub(super) fn operations() -> Vec<Operation> {
    let get = |id, path| Operation::open(TAG, id, Method::GET, path);
    let readiness =
        || answer(vec![("status", words(["ready", "not_ready"])), ("failing", list(told())), ("paused", flag())]);
    vec![
        get("getHealth", "/healthz").told("Whether the process answers", "").answers(
            200,
            "It does.",
            answer(vec![("status", words(["ok"]))]),
        ),
        get("getReadiness", "/readyz")
            .told("Whether the hub can take events", "`failing` names the components that cannot do their work. A hub that is paused takes events and is ready; `paused` says so.")
            .answers(200, "It can.", readiness())
            .answers(503, "It cannot now, or is stopping.", readiness()),
        get("getVersion", "/version").told("What was built, and when", "").answers(
            200,
            "The build.",
            answer(vec![("version", told()), ("commit", told()), ("build_date", told())]),
        ),
        get("getMetrics", "/metrics").told("The hub's series, for Prometheus", "").answers_as(
            200,
            "Text exposition format 0.0.4.",
            "text/plain",
            told(),
        ),
        get("getOpenApi", "/v1/openapi.json")
            .told("This document", "Each listener serves the document of what it offers.")
            .answers(200, "OpenAPI 3.1.", json!({ "type": "object", "required": ["openapi", "info", "paths"] })),
        components(),
    ]
}

fn components() -> Operation {
    let component = answer(vec![("name", told()), ("ok", flag()), ("detail", told())]);
    Operation::scoped(Scope::Read, TAG, "getComponents", Method::GET, "/v1/admin/health")
        .told("The state of each component", "")
        .answers(
            200,
            "Every component, whether it does its work, and in words.",
            answer(vec![
                ("status", words(["ok", "degraded"])),
                ("components", list(component)),
                ("requests_in_flight", count()),
            ]),
        )
}
