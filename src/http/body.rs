//! Reading request bodies: bounded in bytes and time, so that a slow or endless client holds little and not for long.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};

use super::App;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;

/// Largest body of requests that are not events, in bytes.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 256 << 10;

fn too_large(limit: usize, sent: impl std::fmt::Display) -> Problem {
    Problem::field("body", format!("at most {limit} bytes"), sent).as_kind(ProblemKind::TooLarge)
}

/// The next piece of a body, within the time left for it.
async fn next(payload: &mut Payload, timeout: Duration) -> Result<Option<Bytes>, Problem> {
    let piece = match payload.next().now_or_never() {
        Some(ready) => ready,
        // Boxed: a timer is large and aligned to cache lines, and would make every request's future so.
        None => Box::pin(tokio::time::timeout(timeout, payload.next())).await.map_err(|_| {
            Problem::new(ProblemKind::RequestTimeout, format!("no body within {} ms", timeout.as_millis()))
        })?,
    };
    piece.transpose().map_err(|error| {
        tracing::debug!(%error, "a request body broke off");
        Problem::new(ProblemKind::NotJson, "the body broke off before its end")
    })
}

/// The whole body.
pub(crate) async fn read(
    app: &App,
    request: &HttpRequest,
    payload: &mut Payload,
    limit: usize,
) -> Result<Bytes, Problem> {
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
    if let Some(declared) = declared.filter(|declared| *declared > limit) {
        return Err(too_large(limit, format_args!("{declared} bytes")));
    }
    let total = Duration::from_millis(app.hub.config().server.body_timeout_ms);
    let started = app.hub.clock().monotonic_ns();
    let Some(first) = next(payload, total).await? else { return Ok(Bytes::new()) };
    if declared == Some(first.len()) {
        return Ok(first);
    }
    let mut body = BytesMut::from(&*first);
    loop {
        if body.len() > limit {
            return Err(too_large(limit, format_args!("more than {limit} bytes")));
        }
        let spent = Duration::from_nanos(app.hub.clock().monotonic_ns().saturating_sub(started));
        match next(payload, total.saturating_sub(spent)).await? {
            Some(piece) => body.extend_from_slice(&piece),
            None => return Ok(body.freeze()),
        }
    }
}

/// One piece of an endless body.
pub(crate) async fn piece(app: &App, payload: &mut Payload) -> Result<Option<Bytes>, Problem> {
    next(payload, Duration::from_millis(app.hub.config().server.body_timeout_ms)).await
}

/// Checks the content type; a request without one is taken at its word.
pub(crate) fn expect_type(request: &HttpRequest, accepted: &[&str]) -> Result<(), Problem> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("not readable");
    let essence = text.split(';').next().unwrap_or_default().trim();
    if accepted.iter().any(|one| one.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let limit = format!("one of {}", accepted.join(", "));
    Err(Problem::field("content-type", limit, text).as_kind(ProblemKind::UnsupportedMediaType))
}

/// A JSON document as it is.
pub(crate) async fn document(app: &App, request: &HttpRequest, payload: &mut Payload) -> Result<Bytes, Problem> {
    expect_type(request, &["application/json"])?;
    read(app, request, payload, DOCUMENT_BYTES_MAX).await
}

/// The fields of a JSON document. An empty body counts as an empty object.
pub(crate) async fn fields(app: &App, request: &HttpRequest, payload: &mut Payload) -> Result<Fields, Problem> {
    let body = document(app, request, payload).await?;
    Fields::parse(if body.is_empty() { b"{}" } else { &body })
}
