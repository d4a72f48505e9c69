//! Declared orders of aggregates, in the document.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::catalog::{TAG, event_type, example, written};
use super::operation::Operation;
use super::schema::{FieldList, answer, count, flag, list, list_of, nullable, page, reference, request, text, told};
use crate::catalog::aggregate::{STATE_CHARS_MAX, STATES_MAX, TRANSITIONS_MAX};
use crate::ground::error::ProblemKind;
use crate::ground::limits::{AGGREGATE_ID_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::hub::Scope;

pub(super) fn operations() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let one = "/v1/catalog/lifecycles/{aggregate_type}";
    let of = |operation: Operation| {
        operation.path_parameter("aggregate_type", "The aggregates' type", text(SCOPE_CHARS_MAX)).common(&["org"])
    };
    let order = json!({
        "states": ["draft", "sent", "paid"],
        "initial": "draft",
        "transitions": [
            { "from": "draft", "to": "sent", "event_type": "invoice.sent" },
            { "from": "sent", "to": "paid", "event_type": "invoice.paid" },
        ],
    });
    vec![
        on(Scope::Read, "listLifecycles", Method::GET, "/v1/catalog/lifecycles")
            .told("List the declared orders of aggregates", "By org and type of aggregate.")
            .common(&["org", "cursor", "limit"])
            .answers(200, "A page of orders.", page("items", "Lifecycle")),
        of(on(Scope::Manage, "putLifecycle", Method::PUT, one))
            .told(
                "Declare the order of events of an aggregate",
                "Events that break it are flagged, never refused. It is followed from the first event of the log; a changed order is followed anew.",
            )
            .json(reference("NewLifecycle"), example("invoice", "An invoice is sent, then paid", &order))
            .answers(201, "The order is new.", reference("Lifecycle"))
            .answers(200, "It was there, perhaps as another.", reference("Lifecycle"))
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        of(on(Scope::Read, "getLifecycle", Method::GET, one))
            .told("Look up a declared order", "")
            .answers(200, "The order.", reference("Lifecycle"))
            .refuses(&[ProblemKind::Forbidden]),
        of(on(Scope::Manage, "deleteLifecycle", Method::DELETE, one))
            .told("Take a declared order back", "Its flags count no longer.")
            .answers_empty(204, "It is gone.")
            .refuses(&[ProblemKind::Forbidden]),
        of(on(Scope::Read, "listLifecycleFlags", Method::GET, "/v1/catalog/lifecycles/{aggregate_type}/flags"))
            .told("List events that broke a declared order", "In order of position.")
            .common(&["cursor", "limit"])
            .answers(200, "A page of events.", page("items", "LifecycleFlag"))
            .refuses(&[ProblemKind::Forbidden]),
        of(on(
            Scope::Read,
            "getAggregateState",
            Method::GET,
            "/v1/catalog/lifecycles/{aggregate_type}/aggregates/{id}",
        ))
        .path_parameter("id", "The aggregate's id", text(AGGREGATE_ID_CHARS_MAX))
        .told("Where an aggregate stands in its declared order", "One that was not seen stands at the initial state.")
        .answers(
            200,
            "Its state.",
            answer(vec![
                ("aggregate_type", told()),
                ("aggregate_id", told()),
                ("state", told()),
                ("seq", nullable(count())),
            ]),
        )
        .refuses(&[ProblemKind::Forbidden]),
    ]
}

fn order() -> FieldList {
    let state = || text(STATE_CHARS_MAX);
    let transition =
        request(vec![("from", state()), ("to", state()), ("event_type", event_type())], &["from", "to", "event_type"]);
    vec![
        ("states", list_of(state(), 1, STATES_MAX)),
        ("initial", state()),
        ("transitions", list_of(transition, 1, TRANSITIONS_MAX)),
    ]
}

fn flag_fields() -> FieldList {
    vec![
        ("seq", count()),
        ("event_id", told()),
        ("type", told()),
        ("aggregate_id", told()),
        ("state", told()),
        ("state_after", told()),
        ("expected", list(told())),
    ]
}

/// What the order of its aggregate says of an event that breaks it.
pub(super) fn lifecycle_note() -> Value {
    let mut fields = flag_fields();
    fields.push(("flagged", flag()));
    nullable(answer(fields))
}

pub(super) fn schemas() -> FieldList {
    let mut lifecycle: FieldList = vec![("org", told()), ("aggregate_type", told())];
    lifecycle.extend(order());
    lifecycle.push(("since_seq", count()));
    lifecycle.extend(written());
    vec![
        ("NewLifecycle", request(order(), &["states", "initial", "transitions"])),
        ("Lifecycle", answer(lifecycle)),
        ("LifecycleFlag", answer(flag_fields())),
    ]
}
