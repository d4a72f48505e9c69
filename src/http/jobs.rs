//! Jobs over HTTP.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};

use super::answer::{Answer, json, page};
use super::caller::Call;
use super::params::refuse;
use crate::hub::{Asked, Scope};
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
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let params = caller.params(&["org", "state", "kind", "cursor", "limit"])?;
    let state = params.choice("state", &JobState::ALL, JobState::as_str)?;
    let kind = params.text("kind");
    if let Some(text) = kind.as_deref().filter(|text| text.chars().count() > KIND_CHARS_MAX) {
        let limit = format!("at most {KIND_CHARS_MAX} characters");
        return Err(refuse("kind", limit, text).into());
    }
    let before = params.cursor_of("job_")?;
    let org = caller.org_within(&params)?;
    let filter = JobFilter { org, state, kind, before, limit: params.limit()? };
    Ok(page(caller.hub().jobs(&filter)))
}

/// `GET /v1/jobs/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    Ok(json(StatusCode::OK, &caller.hub().job(&id, caller.org())?))
}

/// `POST /v1/jobs/{id}/cancel`
pub(crate) async fn cancel(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let context = caller.context();
    Ok(json(StatusCode::OK, &caller.hub().cancel_job(&id, caller.org(), context).await?))
}
