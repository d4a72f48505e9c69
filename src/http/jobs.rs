//! Jobs over HTTP.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::Shared;
use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::params::Params;
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Asked, Scope, bad_cursor};
use crate::job::{JobFilter, JobState};

/// Most characters of a kind.
pub(crate) const KIND_CHARS_MAX: usize = 32;

/// The answer to a request that may be a job: 202 with the job, or 200 with what it would do.
pub(crate) fn asked(asked: Asked) -> HttpResponse {
    match asked {
        Asked::Job(job) => json(StatusCode::ACCEPTED, &job.to_json(None)),
        Asked::Preview(preview) => json(StatusCode::OK, &preview),
    }
}

/// `GET /v1/jobs`, newest first
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let params = Params::read(&request, &["org", "state", "kind", "cursor", "limit"])?;
    let state = params.get("state").map(|text| {
        JobState::of(text).ok_or_else(|| {
            let names = JobState::ALL.map(JobState::as_str).join(", ");
            Problem::field("state", format!("one of {names}"), text).as_kind(ProblemKind::InvalidParameter)
        })
    });
    let kind = params.text("kind");
    if let Some(text) = kind.as_deref().filter(|text| text.chars().count() > KIND_CHARS_MAX) {
        let limit = format!("at most {KIND_CHARS_MAX} characters");
        return Err(Problem::field("kind", limit, text).as_kind(ProblemKind::InvalidParameter).into());
    }
    let before = params.text("cursor");
    if let Some(text) = before.as_deref().filter(|text| !text.starts_with("job_")) {
        return Err(bad_cursor(text).into());
    }
    let org = scoped_org(params.text("org"), principal.org())?;
    let filter = JobFilter { org, state: state.transpose()?, kind, before, limit: params.limit()? };
    Ok(page("items", app.hub.jobs(&filter)))
}

/// `GET /v1/jobs/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    Ok(json(StatusCode::OK, &app.hub.job(&id, principal.org())?))
}

/// `POST /v1/jobs/{id}/cancel`
pub(crate) async fn cancel(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Manage)?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::OK, &app.hub.cancel_job(&id, principal.org(), context).await?))
}
