//! The OpenAPI 3.1 document of what a listener offers (CON-3), served at `/v1/openapi.json`.
//!
//! It is written by hand, an area a file, and takes its bounds from the constants that the code checks against. It cannot
//! drift from the routes: a test holds it equal with [`super::table::TABLE`], and a schema-driven fuzzer compares what
//! the hub answers with it (`scripts/test openapi`).
//!
//! - `schema`: small words for JSON Schema
//! - `operation`: one operation, and what every one of its sort has
//! - `shared`: parameters, headers and schemas that several areas have
//! - one file an area

mod admin;
mod catalog;
mod cdc;
mod consumers;
mod dead_letters;
mod events;
mod exports;
mod health;
mod imports;
mod jobs;
mod lifecycles;
mod links;
mod operation;
mod publishes;
mod replays;
mod schedule;
mod schema;
mod shared;
mod sources;
mod upstreams;
mod webhooks;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::operation::Operation;
use super::{Listener, Shared, answer, table};
use crate::config::Limits;

/// Largest query parameter, in characters.
const QUERY_CHARS_MAX: usize = super::params::CHARS_MAX;

const ABOUT: &str = "An event hub: a durable log, signed webhooks, retries, breakers and dead letters. \
Every refusal is a problem document (RFC 9457) whose `type` is stable. Unknown fields and parameters are refused by name. \
A request that is no HTTP, or does not arrive in time, is answered before it reaches an operation, without a document.";

/// `GET /v1/openapi.json`
pub(crate) async fn serve(app: Shared) -> HttpResponse {
    let document = app.openapi.get_or_init(|| text(app.listener, &app.hub.config().limits));
    answer::text(StatusCode::OK, document.clone())
}

fn operations(limits: &Limits) -> Vec<Operation> {
    [
        health::operations(),
        events::operations(limits),
        cdc::operations(),
        schedule::operations(),
        links::operations(),
        sources::operations(),
        catalog::operations(),
        lifecycles::operations(),
        webhooks::operations(),
        consumers::operations(),
        replays::operations(),
        jobs::operations(),
        publishes::operations(),
        exports::operations(),
        imports::operations(),
        dead_letters::operations(),
        upstreams::operations(),
        admin::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn security_schemes(listener: Listener) -> Value {
    match listener {
        Listener::Public => json!({
            "apiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key that an operator has made." },
            "bearerKey": { "type": "http", "scheme": "bearer", "description": "The same key as a bearer token." },
        }),
        Listener::Admin => json!({
            "adminToken": { "type": "http", "scheme": "bearer", "description": "The admin token of the hub." },
        }),
    }
}

fn paths(listener: Listener, limits: &Limits) -> Map<String, Value> {
    let offered = |operation: &Operation| {
        let same = |route: &&table::Route| route.method == operation.method && route.path == operation.path;
        table::TABLE.iter().find(same).is_none_or(|route| route.is_on(listener))
    };
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(limits).iter().filter(|operation| offered(operation)) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = operation.to_json(listener);
    }
    paths
}

fn schemas() -> Map<String, Value> {
    let areas = [
        shared::schemas(),
        events::schemas(),
        schedule::schemas(),
        links::schemas(),
        sources::schemas(),
        catalog::schemas(),
        lifecycles::schemas(),
        webhooks::schemas(),
        replays::schemas(),
        jobs::schemas(),
        publishes::schemas(),
        exports::schemas(),
        imports::schemas(),
        consumers::schemas(),
        dead_letters::schemas(),
        upstreams::schemas(),
        admin::schemas(),
    ];
    areas.into_iter().flatten().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// Every `$ref` within a value.
fn references<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, out));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The schemas that these paths lead to, directly or through others.
fn used(paths: &Map<String, Value>) -> Map<String, Value> {
    let mut rest = schemas();
    let mut used = Map::new();
    let mut wanted = Vec::new();
    paths.values().for_each(|path| references(path, &mut wanted));
    let name_of = |reference: &str| reference.strip_prefix("#/components/schemas/").map(str::to_owned);
    let mut wanted: Vec<String> = wanted.into_iter().filter_map(name_of).collect();
    while let Some(name) = wanted.pop() {
        let Some(schema) = rest.remove(&name) else { continue };
        let mut further = Vec::new();
        references(&schema, &mut further);
        wanted.extend(further.into_iter().filter_map(name_of));
        used.insert(name, schema);
    }
    used
}

fn document(listener: Listener, limits: &Limits) -> Value {
    let paths = paths(listener, limits);
    let schemas = used(&paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": format!("Tidegate, {} listener", listener.as_str()),
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "securitySchemes": security_schemes(listener),
            "parameters": shared::parameters(),
            "headers": shared::headers(),
            "schemas": schemas,
        },
    })
}

/// The document of a listener as text; made once for each hub.
pub(super) fn text(listener: Listener, limits: &Limits) -> Bytes {
    Bytes::from(document(listener, limits).to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;
    use crate::http::table::TABLE;

    fn limits() -> Limits {
        Config::default().limits
    }

    fn told(listener: Listener) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for (path, methods) in paths(listener, &limits()) {
            let methods = methods.as_object().expect("an object");
            out.extend(methods.keys().map(|method| format!("{} {path}", method.to_uppercase())));
        }
        out
    }

    #[test]
    fn what_a_listener_offers_is_what_its_document_tells_of() {
        for listener in [Listener::Public, Listener::Admin] {
            let routes = TABLE.iter().filter(|route| route.is_on(listener));
            let offered: BTreeSet<String> = routes.map(|route| format!("{} {}", route.method, route.path)).collect();
            let told = told(listener);
            let hidden: Vec<_> = offered.difference(&told).collect();
            let invented: Vec<_> = told.difference(&offered).collect();
            assert!(hidden.is_empty(), "{}: routes that are not in the document: {hidden:?}", listener.as_str());
            assert!(invented.is_empty(), "{}: operations that are no routes: {invented:?}", listener.as_str());
        }
    }

    #[test]
    fn an_operation_id_is_used_once_and_every_operation_says_what_it_does() {
        let mut seen = BTreeSet::new();
        for operation in operations(&limits()) {
            assert!(seen.insert(operation.id), "{} is used twice", operation.id);
            let json = operation.to_json(Listener::Admin);
            assert_ne!(json["summary"], "", "{}", operation.id);
            let statuses = json["responses"].as_object().expect("an object");
            let done = |status: &String| status.starts_with('2') || status == "101";
            assert!(statuses.keys().any(done), "{}", operation.id);
        }
    }

    #[test]
    fn every_reference_and_every_link_leads_somewhere_and_no_schema_is_left_over() {
        let document = document(Listener::Admin, &limits());
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let place = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(place).is_some(), "{reference} leads nowhere");
        }
        for name in schemas().keys() {
            let reference = format!("#/components/schemas/{name}");
            assert!(found.contains(&reference.as_str()), "{name} is used nowhere");
        }
        let ids: BTreeSet<&str> = operations(&limits()).iter().map(|operation| operation.id).collect();
        for path in document["paths"].as_object().expect("an object").values() {
            for operation in path.as_object().expect("an object").values() {
                for answer in operation["responses"].as_object().expect("an object").values() {
                    for link in answer["links"].as_object().into_iter().flat_map(Map::values) {
                        let id = link["operationId"].as_str().expect("a text");
                        assert!(ids.contains(id), "a link to {id}, which is no operation");
                    }
                }
            }
        }
    }

    #[test]
    fn a_parameter_of_the_path_is_described_once_by_its_name() {
        for operation in operations(&limits()) {
            let named: BTreeSet<&str> =
                operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            let json = operation.to_json(Listener::Admin);
            let parameters = json["parameters"].as_array().cloned().unwrap_or_default();
            let described: Vec<&str> =
                parameters.iter().filter(|one| one["in"] == "path").filter_map(|one| one["name"].as_str()).collect();
            assert_eq!(described.len(), named.len(), "{}", operation.id);
            assert!(described.iter().all(|name| named.contains(name)), "{}", operation.id);
        }
    }

    #[test]
    fn the_operations_are_as_recorded() {
        let mut lines = Vec::new();
        for operation in operations(&limits()) {
            for listener in [Listener::Public, Listener::Admin] {
                let Some(json) = paths(listener, &limits())
                    .get(operation.path)
                    .and_then(|path| path.get(operation.method.as_str().to_ascii_lowercase()).cloned())
                else {
                    continue;
                };
                let statuses: Vec<&str> =
                    json["responses"].as_object().expect("an object").keys().map(String::as_str).collect();
                let parameters: Vec<&str> = json["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|one| one["name"].as_str().or_else(|| one["$ref"].as_str()?.rsplit('/').next()))
                    .collect();
                lines.push(format!(
                    "{:<6} {:<6} {} {} ({}) → {}",
                    listener.as_str(),
                    operation.method,
                    operation.path,
                    operation.id,
                    parameters.join(", "),
                    statuses.join(" ")
                ));
            }
        }
        insta::assert_snapshot!("operations", lines.join("\n"));
    }
}
