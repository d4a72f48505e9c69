//! `CloudEvents` at the door of events (ING-2): which form a request has, and how an event of that form is read.

use actix_web::HttpRequest;
use actix_web::http::header::CONTENT_TYPE;
use bytes::Bytes;

use super::body;
use crate::event::cloudevents::{BATCH, HEADER_PREFIX, STRUCTURED, read_binary, read_structured};
use crate::event::envelope::Draft;
use crate::event::parse::{ParseRules, parse_event};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::clip;

/// The content type of envelopes.
const JSON: &str = "application/json";
/// What every content type of `CloudEvents` begins with.
const FAMILY: &str = "application/cloudevents";
/// Headers of which any one makes a request one in binary mode.
const BINARY: [&str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];

/// The form in which a request holds events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The hub's own envelope.
    Envelope,
    /// One `CloudEvent` in the body.
    Structured,
    /// A JSON array of them.
    Batch,
    /// One `CloudEvent` in headers and body.
    Binary,
}

/// The form of a request to `POST /v1/events`. The content type goes before the headers, as the binding has it.
pub(super) fn form_of(request: &HttpRequest) -> Result<Form, Problem> {
    let text = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("not readable"));
    let lower = text.unwrap_or_default().to_ascii_lowercase();
    let mut parts = lower.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    if !essence.starts_with(FAMILY) {
        if BINARY.iter().any(|name| request.headers().contains_key(*name)) {
            return Ok(Form::Binary);
        }
        body::expect_type(request, &[JSON, STRUCTURED, BATCH])?;
        return Ok(Form::Envelope);
    }
    let charset = parts.find_map(|parameter| parameter.strip_prefix("charset="));
    let utf8 = charset.is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8"));
    match essence {
        STRUCTURED if utf8 => Ok(Form::Structured),
        BATCH if utf8 => Ok(Form::Batch),
        _ => {
            let limit = format!("{STRUCTURED}, {BATCH}, both in UTF-8, or headers that begin with `{HEADER_PREFIX}`");
            Err(Problem::field("content-type", limit, clip(text.unwrap_or_default(), 120))
                .as_kind(ProblemKind::UnsupportedMediaType))
        }
    }
}

/// The form of the elements of a request to `POST /v1/events/batch`.
pub(super) fn form_of_elements(request: &HttpRequest) -> Result<Form, Problem> {
    body::expect_type(request, &[JSON, BATCH])?;
    let essence = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_batch = essence.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(BATCH));
    Ok(if is_batch { Form::Batch } else { Form::Envelope })
}

/// Reads one event, or one element of a batch.
pub(super) fn read(form: Form, request: &HttpRequest, body: &Bytes, rules: &ParseRules<'_>) -> Result<Draft, Problem> {
    match form {
        Form::Envelope => parse_event(body, rules),
        Form::Structured | Form::Batch => read_structured(body, rules),
        Form::Binary => {
            let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            read_binary(headers, body, rules)
        }
    }
}
