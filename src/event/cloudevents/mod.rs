//! `CloudEvents` 1.0, in and out: the JSON format (structured mode, batches) and the HTTP protocol binding (binary mode).
//!
//! An event that comes in becomes an envelope: the attributes that have a field of ours go there, `data` is taken over
//! byte for byte (EVT-3), and every other attribute is kept in `metadata.cloudevents`, so that it can come out again.
//!
//! | attribute | field | | attribute | field |
//! | --- | --- | --- | --- | --- |
//! | `id` | `id` | | `aggregatetype` | `aggregate_type` |
//! | `source` | `source` | | `aggregateid` | `aggregate_id` |
//! | `type` | `type` | | `orderingkey`, else `partitionkey` | `ordering_key` |
//! | `subject` | `subject` | | `reasoncode` | `reason_code` |
//! | `time` | `occurred_at` | | `schemaversion` | `schema_version` |
//! | `org` | `org` | | `correlationid` | `request_context.correlation_id` |
//! | `channel` | `channel` | | `causationid` | `request_context.causation_id` |
//! | `facility` | `facility` | | `traceparent` | `traceparent` |
//! | `deliverat` | `deliver_at` | | `tracestate` | `tracestate` |
//! | `delay` | `delay` | | | |
//!
//! `deliverat` and `delay` are for this hub and do not come out again.
//!
//! - `CE-1` What came in as a `CloudEvent` comes out with the same attributes, in either mode.
//! - `CE-2` Data that is no JSON comes out as the same bytes: text is kept as a JSON string, everything else in base64,
//!   which `metadata.cloudevents.data_base64` says (no attribute can have this name).
//! - `CE-3` Two events are the same by (org, id), as for every event of the hub; `source` has no part in it.
//!
//! Sources: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>, `formats/json-format.md` and
//! `bindings/http-protocol-binding.md` beside it.

mod header;
mod read;
mod render;

pub use read::{read_binary, read_structured};
pub use render::{render_binary, render_structured, source_of};

/// Content type of one event in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// Content type of a batch.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// What the names of binary mode's headers begin with.
pub const HEADER_PREFIX: &str = "ce-";

/// The member of `metadata` that holds the attributes without a field.
const KEPT: &str = "cloudevents";
/// Member of [`KEPT`], beside the attributes: `true` when the data is base64 of bytes.
const IS_BASE64: &str = "data_base64";
/// The one version of the specification.
const SPECVERSION: &str = "1.0";

/// Where an attribute stands in the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A field.
    Field(&'static str),
    /// A member of `request_context`.
    Context(&'static str),
}

/// The attributes that have a place of their own, in the order in which they are written out.
const PLACES: [(&str, Place); 19] = [
    ("id", Place::Field("id")),
    ("source", Place::Field("source")),
    ("type", Place::Field("type")),
    ("subject", Place::Field("subject")),
    ("time", Place::Field("occurred_at")),
    ("org", Place::Field("org")),
    ("channel", Place::Field("channel")),
    ("facility", Place::Field("facility")),
    ("aggregatetype", Place::Field("aggregate_type")),
    ("aggregateid", Place::Field("aggregate_id")),
    ("orderingkey", Place::Field("ordering_key")),
    ("reasoncode", Place::Field("reason_code")),
    ("schemaversion", Place::Field("schema_version")),
    ("traceparent", Place::Field("traceparent")),
    ("tracestate", Place::Field("tracestate")),
    ("deliverat", Place::Field("deliver_at")),
    ("delay", Place::Field("delay")),
    ("correlationid", Place::Context("correlation_id")),
    ("causationid", Place::Context("causation_id")),
];

/// Attributes of the specification itself: always strings.
const CORE: [&str; 8] = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

fn place_of(name: &str) -> Option<Place> {
    PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
}

/// Whether an attribute may have this name.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The media type of a content type, without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether data of this content type is JSON; so is data without one.
fn is_json(content_type: Option<&str>) -> bool {
    content_type.is_none_or(|content_type| {
        let essence = essence(content_type).to_ascii_lowercase();
        essence.ends_with("/json") || essence.ends_with("+json")
    })
}

/// Whether data of this content type is characters, in UTF-8.
fn is_text(content_type: &str) -> bool {
    const TEXTS: [&str; 8] = [
        "application/xml",
        "application/yaml",
        "application/toml",
        "application/javascript",
        "application/graphql",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        "application/sql",
    ];
    let lower = content_type.to_ascii_lowercase();
    let kind = essence(&lower);
    let mut parameters = lower.split(';').skip(1);
    let charset = parameters.find_map(|parameter| parameter.trim().strip_prefix("charset="));
    let utf8 = charset.is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"));
    let text = kind.starts_with("text/") || kind.ends_with("+xml") || kind.ends_with("+yaml") || TEXTS.contains(&kind);
    text && utf8
}

#[cfg(test)]
mod tests;
