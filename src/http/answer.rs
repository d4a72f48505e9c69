//! How answers are written: JSON, and problem+json for every refusal (RFC 9457).

use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde_json::Value;

use super::params::Params;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::Page;

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Problem);

/// What a handler returns.
pub(crate) type Answer = Result<HttpResponse, Refusal>;

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CONTENT_TYPE, "application/problem+json"));
        if let Some(seconds) = self.0.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if self.0.kind == ProblemKind::Unauthorized {
            response.insert_header(("WWW-Authenticate", "Bearer"));
        }
        response.body(self.0.to_json().to_string())
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &Value) -> HttpResponse {
    text(status, body.to_string())
}

/// A JSON answer from its text.
pub(crate) fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> HttpResponse {
    HttpResponse::build(status).insert_header((CONTENT_TYPE, "application/json")).body(body.into())
}

/// A list with its cursor.
pub(crate) fn page(page: Page<Value>) -> HttpResponse {
    let Page { items, next, has_more } = page;
    json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next, "has_more": has_more }))
}

/// The page that the query asks for of a list that is all in memory, in the order of its keys.
pub(crate) fn page_of<T>(
    mut all: Vec<T>,
    params: &Params,
    key: impl Fn(&T) -> &str,
    told: impl FnMut(T) -> Value,
) -> Answer {
    let (limit, after) = (params.limit()?, params.get("cursor").unwrap_or_default());
    all.retain(|one| key(one) > after);
    Ok(page(Page::first(all, limit, after, |last| key(last).to_owned()).map(told)))
}

/// A list that is always given whole, in the form of a page.
pub(crate) fn whole(items: Value) -> HttpResponse {
    json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": "", "has_more": false }))
}

/// What was written: 201 when it is new, 200 when it was there.
pub(crate) fn written(told: &Value, new: bool) -> HttpResponse {
    json(if new { StatusCode::CREATED } else { StatusCode::OK }, told)
}

/// Done, and nothing to tell of it.
pub(crate) fn done() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// The path does not exist.
pub(crate) async fn not_found(request: HttpRequest) -> Answer {
    let mut problem = Problem::new(ProblemKind::NotFound, "no such path");
    problem.sent = Some(crate::ground::limits::clip(request.path(), 120).to_owned());
    Err(problem.into())
}

/// The path exists, the method does not; `allowed` are those that do (RFC 9110, section 15.5.6).
pub(crate) fn method_not_allowed(method: &Method, allowed: &str) -> HttpResponse {
    let mut problem = Problem::field("method", format!("one of {allowed}"), method);
    problem.kind = ProblemKind::MethodNotAllowed;
    let mut response = Refusal(problem).error_response();
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}
