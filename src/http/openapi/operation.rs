//! One operation of the document, and what every operation of its sort has: who may ask, what can be refused.

use std::collections::BTreeMap;

use actix_web::http::Method;
use serde_json::{Map, Value, json};

use super::schema::{or_empty, problem};
use crate::ground::error::ProblemKind;
use crate::http::Listener;
use crate::http::idempotency::{self, Rule};
use crate::hub::Scope;

/// What an operation that is done once under a key can be refused for.
const ONCE_PROBLEMS: [ProblemKind; 7] = [
    ProblemKind::InvalidField,
    ProblemKind::RequestTimeout,
    ProblemKind::TooLarge,
    ProblemKind::IdempotencyBusy,
    ProblemKind::IdempotencyDone,
    ProblemKind::IdempotencyMismatch,
    ProblemKind::IdempotencyFull,
];

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Anyone.
    Open,
    /// A key with this scope, or an operator.
    Scoped(Scope),
}

/// One operation of the document.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: String,
    access: Access,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Map<String, Value>,
    problems: Vec<ProblemKind>,
}

impl Operation {
    fn new(tag: &'static str, id: &'static str, method: Method, path: &'static str, access: Access) -> Self {
        Self {
            method,
            path,
            id,
            tag,
            summary: "",
            description: String::new(),
            access,
            parameters: Vec::new(),
            body: None,
            answers: Map::new(),
            problems: Vec::new(),
        }
    }

    /// An operation that needs no key.
    pub(super) fn open(tag: &'static str, id: &'static str, method: Method, path: &'static str) -> Self {
        Self::new(tag, id, method, path, Access::Open)
    }

    /// An operation that needs a scope.
    pub(super) fn scoped(
        scope: Scope,
        tag: &'static str,
        id: &'static str,
        method: Method,
        path: &'static str,
    ) -> Self {
        let mut operation = Self::new(tag, id, method, path, Access::Scoped(scope));
        // Any of them may meet a store that is away.
        operation.problems.extend([ProblemKind::Internal, ProblemKind::Overloaded]);
        operation
    }

    /// What it does: a line, and what else there is to say.
    pub(super) fn told(mut self, summary: &'static str, description: &str) -> Self {
        self.summary = summary;
        self.description = description.to_owned();
        self
    }

    /// A parameter in the path.
    pub(super) fn path_parameter(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.parameters.push(
            json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema }),
        );
        self.problems.push(ProblemKind::NotFound);
        self
    }

    /// A parameter of the query. Unknown ones are refused.
    pub(super) fn query(self, name: &str, description: &str, schema: Value) -> Self {
        self.given_query(name, description, or_empty(schema))
    }

    /// A parameter of the query that an empty text does not leave out.
    pub(super) fn given_query(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.parameters.push(json!({ "name": name, "in": "query", "description": description, "schema": schema }));
        self.refuses(&[ProblemKind::InvalidParameter])
    }

    /// A header of the request.
    pub(super) fn header(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.parameters.push(json!({ "name": name, "in": "header", "description": description, "schema": schema }));
        self
    }

    /// A request that may be part of a trace.
    pub(super) fn traced(self) -> Self {
        let description = "The trace that the events are part of, when they name none (W3C Trace Context); one that is not valid counts as absent";
        let state = "What the systems of that trace say of it; one that is not valid counts as absent";
        self.header("traceparent", description, json!({ "type": "string" })).header(
            "tracestate",
            state,
            json!({ "type": "string" }),
        )
    }

    /// A write that keeps who asked for it and in which context (EVT-5).
    pub(super) fn correlated(self) -> Self {
        let schema = json!({ "type": "string" });
        self.header("X-Correlation-ID", "Kept with the change, its first 128 characters", schema)
    }

    /// Parameters that others have, too, by their names among the components.
    pub(super) fn common(mut self, names: &[&str]) -> Self {
        let known = names.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
        self.parameters.extend(known);
        self.refuses(&[ProblemKind::InvalidParameter])
    }

    /// A body of these content types that must be there.
    pub(super) fn body(self, types: &[&str], schema: Value, examples: Value) -> Self {
        self.with_body(true, types, schema, examples)
    }

    fn with_body(mut self, required: bool, types: &[&str], schema: Value, examples: Value) -> Self {
        let content: Map<String, Value> =
            types.iter().map(|kind| ((*kind).to_owned(), json!({ "schema": schema, "examples": examples }))).collect();
        self.body = Some(json!({ "required": required, "content": content }));
        self.refuses(&[
            ProblemKind::NotJson,
            ProblemKind::InvalidField,
            ProblemKind::RequestTimeout,
            ProblemKind::TooLarge,
            ProblemKind::UnsupportedMediaType,
        ])
    }

    /// A body of these content types that may be left out.
    pub(super) fn optional_body(self, types: &[&str], schema: Value, examples: Value) -> Self {
        self.with_body(false, types, schema, examples)
    }

    /// Another content type of the body, with a form of its own.
    pub(super) fn also_takes(mut self, kind: &str, schema: Value, examples: Value) -> Self {
        if let Some(body) = &mut self.body {
            body["content"][kind] = json!({ "schema": schema, "examples": examples });
        }
        self
    }

    /// A JSON document that must be there.
    pub(super) fn json(self, schema: Value, examples: Value) -> Self {
        self.body(&["application/json"], schema, examples)
    }

    /// A JSON document that may be left out, which counts as `{}`.
    pub(super) fn optional_json(self, schema: Value, examples: Value) -> Self {
        self.optional_body(&["application/json"], schema, examples)
    }

    /// An answer with a JSON document.
    pub(super) fn answers(self, status: u16, description: &str, schema: Value) -> Self {
        self.answers_as(status, description, "application/json", schema)
    }

    /// An answer of another content type.
    pub(super) fn answers_as(mut self, status: u16, description: &str, kind: &str, schema: Value) -> Self {
        let answer = json!({ "description": description, "content": { kind: { "schema": schema } } });
        self.answers.insert(status.to_string(), answer);
        self
    }

    /// The same answer in a further content type.
    pub(super) fn also_as(mut self, status: u16, kind: &str, schema: Value) -> Self {
        if let Some(answer) = self.answers.get_mut(&status.to_string()) {
            answer["content"][kind] = json!({ "schema": schema });
        }
        self
    }

    /// An answer without a body.
    pub(super) fn answers_empty(mut self, status: u16, description: &str) -> Self {
        self.answers.insert(status.to_string(), json!({ "description": description }));
        self
    }

    /// What the answer of this status leads to: the parameter `id` of another operation is a member of it.
    pub(super) fn links(mut self, status: u16, member: &str, operations: &[&str]) -> Self {
        let link = |id: &&str| {
            let parameters = json!({ "id": format!("$response.body#{member}") });
            ((*id).to_owned(), json!({ "operationId": id, "parameters": parameters }))
        };
        if let Some(answer) = self.answers.get_mut(&status.to_string()) {
            answer["links"] = operations.iter().map(link).collect::<Map<String, Value>>().into();
        }
        self
    }

    /// Further problems it can answer with.
    pub(super) fn refuses(mut self, kinds: &[ProblemKind]) -> Self {
        self.problems.extend(kinds);
        self
    }

    /// The operation object, as one listener has it.
    pub(super) fn to_json(&self, listener: Listener) -> Value {
        let mut answers = self.answers.clone();
        let (security, mut access_problems) = self.access(listener);
        let rule = idempotency::rule(&self.method, self.path);
        let mut parameters = self.parameters.clone();
        let mut description = self.description.clone();
        match rule {
            Rule::Once => {
                access_problems.extend(ONCE_PROBLEMS);
                parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
                answers.values_mut().for_each(|answer| {
                    answer["headers"]["Idempotency-Replayed"] =
                        json!({ "$ref": "#/components/headers/IdempotencyReplayed" });
                });
            }
            Rule::Refused(reason) => {
                access_problems.push(ProblemKind::InvalidField);
                description = format!("{description} An Idempotency-Key is refused: {reason}.").trim().to_owned();
            }
            Rule::Ignored(reason) if self.method != Method::GET => {
                description = format!("{description} An Idempotency-Key is passed over: {reason}.").trim().to_owned();
            }
            Rule::Ignored(_) => {}
        }
        let mut by_status: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
        for kind in self.problems.iter().chain(&access_problems) {
            let kinds = by_status.entry(kind.status()).or_default();
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        for (status, kinds) in by_status {
            answers.insert(status.to_string(), refusal(&kinds));
        }
        if matches!((self.access, listener), (Access::Scoped(_), Listener::Public)) {
            answers.values_mut().for_each(tell_rate);
        }
        let mut out = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "security": security,
            "responses": answers,
        });
        if !description.is_empty() {
            out["description"] = Value::from(description);
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::from(parameters);
        }
        if let Some(body) = &self.body {
            out["requestBody"] = body.clone();
        }
        out
    }

    fn access(&self, listener: Listener) -> (Value, Vec<ProblemKind>) {
        match (self.access, listener) {
            (Access::Open, Listener::Public | Listener::Admin) => (json!([]), Vec::new()),
            (Access::Scoped(_), Listener::Admin) => (json!([{ "adminToken": [] }]), vec![ProblemKind::Unauthorized]),
            (Access::Scoped(scope), Listener::Public) => {
                let scope = scope.as_str();
                let security = json!([{ "apiKey": [scope] }, { "bearerKey": [scope] }]);
                (security, vec![ProblemKind::Unauthorized, ProblemKind::Forbidden, ProblemKind::RateLimited])
            }
        }
    }
}

/// Every answer to a key tells what is left of its rate.
fn tell_rate(answer: &mut Value) {
    answer["headers"]["RateLimit"] = json!({ "$ref": "#/components/headers/RateLimit" });
    answer["headers"]["RateLimit-Policy"] = json!({ "$ref": "#/components/headers/RateLimitPolicy" });
}

/// The answer to a request that is refused for one of these reasons, which share a status.
fn refusal(kinds: &[ProblemKind]) -> Value {
    let titles: Vec<&str> = kinds.iter().map(|kind| kind.title()).collect();
    let mut out = json!({
        "description": titles.join("; or: "),
        "content": { "application/problem+json": { "schema": problem(kinds) } },
    });
    if kinds.iter().any(|kind| matches!(kind.status(), 429 | 503)) {
        out["headers"] = json!({ "Retry-After": { "$ref": "#/components/headers/RetryAfter" } });
    }
    if kinds.contains(&ProblemKind::IdempotencyBusy) {
        out["headers"] = json!({ "Retry-After": { "$ref": "#/components/headers/RetryAfterBusy" } });
    }
    if kinds.contains(&ProblemKind::Unauthorized) {
        out["headers"] = json!({ "WWW-Authenticate": { "$ref": "#/components/headers/Authenticate" } });
    }
    out
}
