//! The change feed.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{any_text, flag, page, told};
use crate::ground::error::ProblemKind;
use crate::hub::Scope;

/// Where a feed begins.
fn start() -> Value {
    json!({ "type": "string", "pattern": r"^(earliest|latest|seq:[1-9][0-9]{0,18}|time:.+)$", "default": "earliest" })
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::scoped(Scope::Consume, "cdc", "readChangeFeed", Method::GET, "/v1/cdc")
            .told(
                "Read the change feed of an org",
                "A page by default. With `Accept: text/event-stream` or `application/x-ndjson` a stream, which goes on with the live log and resumes from any cursor it has given out (SSE: also by `Last-Event-ID`). A cursor keeps its filter; one that is older than the log is answered with 410 and the earliest cursor. On the public listener `org` is required unless the key has one.",
            )
            .common(&["org"])
            .query("service", "The event's source", any_text(super::QUERY_CHARS_MAX))
            .query("channel", "The event's channel", any_text(super::QUERY_CHARS_MAX))
            .query("facility", "The event's facility", any_text(super::QUERY_CHARS_MAX))
            .query("type", "Types, each exact, `prefix.*` or `*`, separated by commas", any_text(super::QUERY_CHARS_MAX))
            .common(&["from", "to"])
            .query("start", "Where it begins without a cursor", start())
            .common(&["cursor", "limit"])
            .query("follow", "Of a stream: go on at the head of the log. SSE does unless told not to, NDJSON when told to", flag())
            .answers(200, "A page of envelopes, or a stream.", page("events", "StoredEvent"))
            .also_as(200, "text/event-stream", told())
            .also_as(200, "application/x-ndjson", told())
            .refuses(&[ProblemKind::Gone]),
    ]
}
