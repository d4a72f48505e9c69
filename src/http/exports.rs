//! Exports over HTTP: made, listed, shown, deleted, and their parts given out by ranges (BLK-1).

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;

use super::Listener;
use super::answer::{Answer, Refusal, done, json, page};
use super::caller::Call;
use crate::bulk::Compression;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{PartFile, Scope};
use crate::job::{JobFilter, JobState};

/// Bytes of a file that are read at once: what a slow client holds.
const PIECE_BYTES: usize = 256 << 10;

/// `POST /v1/exports`
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Consume)?;
    let (fields, context) = caller.write().await?;
    let org_required = caller.app.listener == Listener::Public;
    let export = caller.hub().create_export(fields, caller.org(), org_required, context).await?;
    Ok(json(StatusCode::ACCEPTED, &export))
}

/// `GET /v1/exports`, newest first
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Consume)?;
    let params = caller.params(&["org", "state", "cursor", "limit"])?;
    let state = params.choice("state", &JobState::ALL, JobState::as_str)?;
    let before = params.cursor_of("job_")?;
    let org = caller.org_within(&params)?;
    let filter = JobFilter { org, state, kind: None, before, limit: params.limit()? };
    Ok(page(caller.hub().exports(&filter)?))
}

/// `GET /v1/exports/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Consume)?;
    Ok(json(StatusCode::OK, &caller.hub().export(&id, caller.org())?))
}

/// `DELETE /v1/exports/{id}`
pub(crate) async fn delete(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Consume)?;
    let context = caller.context();
    caller.hub().delete_export(&id, caller.org(), context).await?;
    Ok(done())
}

/// `GET /v1/exports/{id}/parts`
pub(crate) async fn parts(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Consume)?;
    let params = caller.params(&["cursor", "limit"])?;
    let after = params.cursor_number()?.unwrap_or(0);
    let (limit, org) = (params.limit()?, caller.own_org());
    let found = caller.hub().blocking(move |hub| hub.export_parts(&id, org.as_deref(), after, limit)).await?;
    Ok(page(found))
}

/// `GET /v1/exports/{id}/parts/{n}`
pub(crate) async fn part(call: Call, path: web::Path<(String, String)>) -> Answer {
    let caller = call.by(Scope::Consume)?;
    let (id, number) = path.into_inner();
    let number: u32 = number.parse().map_err(|_| Problem::not_found("part", &number))?;
    let org = caller.own_org();
    let found = caller.hub().blocking(move |hub| hub.export_part(&id, org.as_deref(), number)).await?;
    give_part(&caller.request, found)
}

fn give_part(request: &HttpRequest, part: PartFile) -> Answer {
    let PartFile { file, record, compression, name } = part;
    let etag = format!("\"{}\"", record.sha256);
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // The range is of the part that the client knows, or of none (RFC 9110, section 13.1.5).
    let wanted = header(RANGE).filter(|_| header(IF_RANGE).is_none_or(|known| known == etag));
    let span = match wanted.map_or(Wanted::Whole, |text| read_range(text, record.bytes)) {
        Wanted::Whole => None,
        Wanted::Span(first, last) => Some((first, last)),
        Wanted::Outside => return Err(outside(wanted.unwrap_or_default(), record.bytes)),
    };
    let status = if span.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut answer = HttpResponse::build(status);
    let kind = match compression {
        Compression::None => "application/x-ndjson",
        Compression::Zstd => "application/zstd",
    };
    answer.content_type(kind).insert_header((ETAG, etag)).insert_header((ACCEPT_RANGES, "bytes"));
    answer.insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    if let Some((first, last)) = span {
        answer.insert_header((CONTENT_RANGE, format!("bytes {first}-{last}/{}", record.bytes)));
    }
    let (first, count) = span.map_or((0, record.bytes), |(first, last)| (first, last - first + 1));
    Ok(answer.body(SizedStream::new(count, pieces(file, first, count))))
}

fn outside(sent: &str, bytes: u64) -> Refusal {
    let problem = Problem::field("range", format!("bytes within 0-{}", bytes.saturating_sub(1)), sent);
    Refusal(problem.as_kind(ProblemKind::RangeNotSatisfiable).with("bytes", bytes))
}

/// The bytes of a file, read as fast as they are taken.
pub(super) fn pieces(
    file: File,
    first: u64,
    count: u64,
) -> impl futures_util::Stream<Item = Result<Bytes, actix_web::Error>> {
    stream::unfold(Some((file, first, count)), |state| async move {
        let (file, at, left) = state.filter(|(_, _, left)| *left > 0)?;
        let read = tokio::task::spawn_blocking(move || read_piece(file, at, left)).await;
        match read.map_err(io::Error::other).and_then(|read| read) {
            Ok((file, piece)) => {
                let length = piece.len() as u64;
                Some((Ok(piece), Some((file, at + length, left - length))))
            }
            Err(error) => {
                tracing::warn!(%error, "a file that is given out does not read; its answer breaks off");
                Some((Err(error.into()), None))
            }
        }
    })
}

fn read_piece(mut file: File, at: u64, left: u64) -> io::Result<(File, Bytes)> {
    let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut piece)?;
    Ok((file, Bytes::from(piece)))
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Everything: there is no range, or one that is not offered, which counts as none.
    Whole,
    /// From this byte to that one.
    Span(u64, u64),
    /// Nothing that is there.
    Outside,
}

/// Reads a range of one span of bytes (RFC 9110, section 14.1.2).
fn read_range(text: &str, bytes: u64) -> Wanted {
    let span = text.strip_prefix("bytes=").filter(|span| !span.contains(','));
    let Some((first, last)) = span.and_then(|span| span.trim().split_once('-')) else { return Wanted::Whole };
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Wanted::Whole,
        (true, false) => match number(last) {
            Some(0) => Wanted::Outside,
            Some(_) if bytes == 0 => Wanted::Outside,
            Some(count) => Wanted::Span(bytes.saturating_sub(count), bytes - 1),
            None => Wanted::Whole,
        },
        (false, _) => {
            let Some(first) = number(first) else { return Wanted::Whole };
            let last = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match last {
                None => Wanted::Whole,
                Some(last) if last < first => Wanted::Whole,
                Some(_) if first >= bytes => Wanted::Outside,
                Some(last) => Wanted::Span(first, last.min(bytes - 1)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_span_of_bytes_that_are_there_or_counts_as_none() {
        for (text, wanted) in [
            ("bytes=0-9", Wanted::Span(0, 9)),
            ("bytes=0-", Wanted::Span(0, 99)),
            ("bytes=90-200", Wanted::Span(90, 99)),
            ("bytes=-10", Wanted::Span(90, 99)),
            ("bytes=-1000", Wanted::Span(0, 99)),
            ("bytes=99-99", Wanted::Span(99, 99)),
            ("bytes=100-", Wanted::Outside),
            ("bytes=-0", Wanted::Outside),
            ("bytes=9-8", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=1-x", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=0-9", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(read_range(text, 100), wanted, "{text}");
        }
        assert_eq!(read_range("bytes=0-", 0), Wanted::Outside);
        assert_eq!(read_range("bytes=-5", 0), Wanted::Outside);
    }
}
