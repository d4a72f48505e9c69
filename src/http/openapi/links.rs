//! Links between entities.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, count, flag, list, nullable, page, reference, request, text, told, whole, words,
};
use crate::ground::error::ProblemKind;
use crate::ground::limits::{AGGREGATE_ID_CHARS_MAX, METADATA_BYTES_MAX, SCOPE_CHARS_MAX};
use crate::hub::Scope;
use crate::link::walk::{DEPTH_DEFAULT, DEPTH_MAX, NODES_DEFAULT, NODES_MAX};
use crate::link::{Direction, LinkType};

const TAG: &str = "links";

fn link_type() -> Value {
    words(LinkType::ALL.map(LinkType::as_str))
}

fn entity(module: &'static str, kind: &'static str, id: &'static str) -> FieldList {
    vec![(module, text(SCOPE_CHARS_MAX)), (kind, text(SCOPE_CHARS_MAX)), (id, text(AGGREGATE_ID_CHARS_MAX))]
}

fn ends() -> FieldList {
    let source = entity("source_module", "source_type", "source_id");
    source.into_iter().chain(entity("target_module", "target_type", "target_id")).collect()
}

fn example() -> Value {
    json!({ "same": {
        "summary": "A contact of the CRM is a customer of the ERP",
        "value": {
            "org": "acme",
            "source_module": "crm", "source_type": "contact", "source_id": "17",
            "target_module": "erp", "target_type": "customer", "target_id": "C-9",
            "link_type": "reference", "metadata": { "since": 2024 },
        },
    }})
}

pub(super) fn operations() -> Vec<Operation> {
    let on = |scope, id, method, path| Operation::scoped(scope, TAG, id, method, path);
    let one = |operation: Operation| operation.path_parameter("id", "The link's id", told());
    let with = |operation: Operation, fields: FieldList, about: &str| {
        fields.into_iter().fold(operation, |operation, (name, schema)| operation.query(name, about, schema))
    };
    let search = on(Scope::Read, "listLinks", Method::GET, "/v1/links").told(
        "Find links",
        "With a source those that go out from it, with a target those that lead to it, with both those of the pair, with neither every link of the org; by type, in no order that means anything. A key that is not confined to an org names one.",
    );
    let walk = on(Scope::Read, "walkLinks", Method::GET, "/v1/links/walk").told(
        "Walk along links",
        "Breadth first from an entity; each entity once, at its smallest distance, cycles or not. `cut` says whether the walk ended at its most nodes or links; nothing beyond `depth` is looked at.",
    );
    vec![
        on(Scope::Publish, "createLink", Method::POST, "/v1/links")
            .told(
                "Link two entities",
                "There is one link of a type from one entity to another. Made again it is answered as it is (200); with other metadata it is a conflict, and so is one more than `links.per_org_max`.",
            )
            .json(reference("NewLink"), example())
            .answers(201, "The link.", reference("Link"))
            .answers(200, "The link was there, with this metadata.", reference("Link"))
            .links(201, "id", &["getLink", "deleteLink"])
            .correlated()
            .refuses(&[ProblemKind::Conflict, ProblemKind::Forbidden, ProblemKind::DiskFull]),
        with(search.common(&["org"]), ends(), "One end of the link; its three parts go together")
            .query("link_type", "Only links of this type", link_type())
            .query("both_ways", "With both ends: also the links that go the other way", flag())
            .common(&["cursor", "limit"])
            .answers(200, "A page of links.", page("items", "Link")),
        with(walk.common(&["org"]), entity("module", "type", "id"), "The entity the walk begins at; its three parts go together")
            .query("direction", "Which way links are followed; outbound when left out", words(Direction::ALL.map(Direction::as_str)))
            .query("link_type", "Only along links of this type", link_type())
            .query("depth", &format!("Steps from the start; {DEPTH_DEFAULT} when left out"), whole(1, DEPTH_MAX.into()))
            .given_query("limit", &format!("Most entities; {NODES_DEFAULT} when left out"), whole(1, NODES_MAX as u64))
            .answers(200, "What was reached.", reference("LinkWalk")),
        one(on(Scope::Read, "getLink", Method::GET, "/v1/links/{id}")).told("Look up a link", "").answers(
            200,
            "The link.",
            reference("Link"),
        ),
        one(on(Scope::Publish, "deleteLink", Method::DELETE, "/v1/links/{id}"))
            .told("Delete a link", "Made again it has the same id.")
            .answers_empty(204, "It is gone."),
    ]
}

fn metadata() -> Value {
    json!({
        "type": ["object", "null"], "additionalProperties": true,
        "description": format!("At most {METADATA_BYTES_MAX} bytes; kept as it comes."),
    })
}

fn told_ends() -> FieldList {
    let mut fields = vec![("id", told())];
    fields.extend(ends().into_iter().map(|(name, _)| (name, told())));
    fields.push(("link_type", link_type()));
    fields
}

pub(super) fn schemas() -> FieldList {
    let mut new = ends();
    let required: Vec<&str> = new.iter().map(|(name, _)| *name).chain(["link_type"]).collect();
    new.extend([("link_type", link_type()), ("org", nullable(text(SCOPE_CHARS_MAX))), ("metadata", metadata())]);
    let mut whole_link = told_ends();
    whole_link.extend([("org", told()), ("metadata", metadata()), ("created", reference("WriteContext"))]);
    let node = answer(vec![("module", told()), ("type", told()), ("id", told()), ("depth", count())]);
    let walked =
        vec![("nodes", list(node)), ("links", list(answer(told_ends()))), ("cut", nullable(words(["nodes", "links"])))];
    vec![("NewLink", request(new, &required)), ("Link", answer(whole_link)), ("LinkWalk", answer(walked))]
}
