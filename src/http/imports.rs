//! Imports over HTTP: an upload that goes on at a byte offset, its commit, its report (BLK-2).

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::ACCEPT;
use actix_web::{HttpResponse, web};

use super::answer::{Answer, done, json, page};
use super::body;
use super::caller::Call;
use super::exports::pieces;
use super::params::refuse;
use crate::hub::Scope;

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
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Publish)?;
    let (fields, context) = caller.write().await?;
    let org = caller.own_org();
    let made = caller.hub().blocking(move |hub| hub.create_import(fields, org.as_deref(), context)).await?;
    Ok(json(StatusCode::CREATED, &made))
}

/// `GET /v1/imports`, newest first
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Publish)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let before = params.cursor_of("imp_")?;
    let org = caller.org_within(&params)?;
    Ok(page(caller.hub().imports(org.as_deref(), before.as_deref(), params.limit()?)))
}

/// `GET /v1/imports/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Publish)?;
    Ok(json(StatusCode::OK, &caller.hub().import(&id, caller.org())?))
}

/// `PATCH /v1/imports/{id}/content?offset=N`: what arrived is acknowledged, also when the body breaks off.
pub(crate) async fn append(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Publish)?;
    let params = caller.params(&["offset"])?;
    let offset = params
        .number("offset", 0, u64::MAX)?
        .ok_or_else(|| refuse("offset", "required: how many bytes are there already", "nothing"))?;
    // Whether the import is there comes before what is wrong with the request.
    caller.hub().import(&id, caller.org())?;
    body::expect_type(&caller.request, CONTENT_TYPES)?;
    let context = caller.context();
    let mut upload = caller.hub().append_import(&id, caller.org(), offset, context).await?;
    let mut gathered = bytes::BytesMut::new();
    let broken = loop {
        match caller.piece().await {
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
pub(crate) async fn commit(call: Call, id: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Publish)?;
    caller.hub().import(&id, caller.org())?;
    let (fields, context) = caller.write().await?;
    Ok(json(StatusCode::ACCEPTED, &caller.hub().commit_import(&id, caller.org(), fields, context).await?))
}

/// `GET /v1/imports/{id}/report`: a page, or with `Accept: application/x-ndjson` all of it.
pub(crate) async fn report(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Publish)?;
    let params = caller.params(&["cursor", "limit"])?;
    let org = caller.own_org();
    let accepted = caller.request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/x-ndjson"))
    {
        let found = caller.hub().blocking(move |hub| hub.import_report_file(&id, org.as_deref())).await?;
        let mut answer = HttpResponse::Ok();
        answer.content_type("application/x-ndjson");
        return Ok(match found {
            Some((file, bytes)) => answer.body(SizedStream::new(bytes, pieces(file, 0, bytes))),
            None => answer.finish(),
        });
    }
    let at = params.cursor_number()?.unwrap_or(0);
    let limit = params.limit()?;
    let found = caller.hub().blocking(move |hub| hub.import_report(&id, org.as_deref(), at, limit)).await?;
    Ok(page(found))
}

/// `DELETE /v1/imports/{id}`
pub(crate) async fn delete(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Publish)?;
    let context = caller.context();
    caller.hub().delete_import(&id, caller.org(), context).await?;
    Ok(done())
}
