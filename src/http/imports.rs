//! Imports over HTTP: an upload that goes on at a byte offset, its commit, its report (BLK-2).

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, web};

use super::answer::{Answer, json, page};
use super::auth::{authorize, write_context};
use super::exports::pieces;
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Scope, bad_cursor};

/// Content types of an upload.
pub(super) const CONTENT_TYPES: &[&str] = &[
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/zstd",
    "application/octet-stream",
];
/// Bytes gathered before they are written.
const GATHER_BYTES: usize = 1 << 20;

/// `POST /v1/imports`
pub(crate) async fn create(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    let org = principal.org().map(str::to_owned);
    let made = app.hub.blocking(move |hub| hub.create_import(fields, org.as_deref(), context)).await?;
    Ok(json(StatusCode::CREATED, &made))
}

/// `GET /v1/imports`, newest first
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let params = Params::read(&request, &["org", "cursor", "limit"])?;
    let before = params.get("cursor");
    if let Some(text) = before.filter(|text| !text.starts_with("imp_")) {
        return Err(bad_cursor(text).into());
    }
    let org = scoped_org(params.text("org"), principal.org())?;
    Ok(page("items", app.hub.imports(org.as_deref(), before, params.limit()?)))
}

/// `GET /v1/imports/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    Ok(json(StatusCode::OK, &app.hub.import(&id, principal.org())?))
}

/// `PATCH /v1/imports/{id}/content?offset=N`: what arrived is acknowledged, also when the body breaks off.
pub(crate) async fn append(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let params = Params::read(&request, &["offset"])?;
    let offset = params.number("offset", 0, u64::MAX)?.ok_or_else(|| {
        let limit = "required: how many bytes are there already";
        Problem::field("offset", limit, "nothing").as_kind(ProblemKind::InvalidParameter)
    })?;
    // Whether the import is there comes before what is wrong with the request.
    app.hub.import(&id, principal.org())?;
    body::expect_type(&request, CONTENT_TYPES)?;
    let context = write_context(&app, &request, &principal);
    let mut upload = app.hub.append_import(&id, principal.org(), offset, context).await?;
    let mut gathered = bytes::BytesMut::new();
    let broken = loop {
        match body::piece(&app, &mut payload).await {
            Ok(Some(piece)) => gathered.extend_from_slice(&piece),
            Ok(None) => break None,
            Err(problem) => break Some(problem),
        }
        if gathered.len() >= GATHER_BYTES {
            upload.add(gathered.split().freeze()).await?;
        }
    };
    if !gathered.is_empty() {
        upload.add(gathered.freeze()).await?;
    }
    let import = upload.finish().await?;
    match broken {
        None => Ok(json(StatusCode::OK, &import)),
        Some(problem) => Err(problem.with("offset", import["received_bytes"].clone()).into()),
    }
}

/// `POST /v1/imports/{id}/commit`
pub(crate) async fn commit(
    app: Shared,
    request: HttpRequest,
    id: web::Path<String>,
    mut payload: web::Payload,
) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    app.hub.import(&id, principal.org())?;
    let fields = body::fields(&app, &request, &mut payload).await?;
    let context = write_context(&app, &request, &principal);
    Ok(json(StatusCode::ACCEPTED, &app.hub.commit_import(&id, principal.org(), fields, context).await?))
}

/// `GET /v1/imports/{id}/report`: a page, or with `Accept: application/x-ndjson` all of it.
pub(crate) async fn report(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let params = Params::read(&request, &["cursor", "limit"])?;
    let org = principal.org().map(str::to_owned);
    let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/x-ndjson"))
    {
        let found = app.hub.blocking(move |hub| hub.import_report_file(&id, org.as_deref())).await?;
        let mut answer = HttpResponse::Ok();
        answer.content_type("application/x-ndjson");
        return Ok(match found {
            Some((file, bytes)) => answer.body(SizedStream::new(bytes, pieces(file, 0, bytes))),
            None => answer.finish(),
        });
    }
    let at = params.get("cursor").map(|text| text.parse().map_err(|_| bad_cursor(text))).transpose()?.unwrap_or(0);
    let limit = params.limit()?;
    let found = app.hub.blocking(move |hub| hub.import_report(&id, org.as_deref(), at, limit)).await?;
    Ok(page("items", found))
}

/// `DELETE /v1/imports/{id}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let context = write_context(&app, &request, &principal);
    app.hub.delete_import(&id, principal.org(), context).await?;
    Ok(HttpResponse::NoContent().finish())
}
