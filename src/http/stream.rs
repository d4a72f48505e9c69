//! `POST /v1/events/stream`: NDJSON of any length in, a result line per input line out (ING-1).
//!
//! Lines are appended in groups; a group's results are sent before the next one is read, so a client that does not
//! read its results is not read from either. What is held is bounded by one group and one line.

use std::collections::VecDeque;

use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::stream;

use super::answer::Answer;
use super::auth::{Principal, authorize, write_context};
use super::events::{RequestTrace, error_result, parse, result, streaming, trace_of};
use super::{Shared, body};
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::Scope;

/// Lines appended together.
const GROUP_LINES_MAX: usize = 256;
/// Bytes of lines appended together, besides at least one line.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// A line of the input.
enum Line {
    Text(Bytes),
    /// Longer than an event may be; its bytes were passed over.
    TooLong,
}

/// Cuts a stream of pieces into lines, holding at most one line that is not complete.
struct Cutter {
    buffer: BytesMut,
    /// Within a line that is too long.
    skipping: bool,
    line_bytes_max: usize,
    lines: VecDeque<Line>,
}

impl Cutter {
    fn push(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.last() == Some(&b'\n');
            if self.skipping {
                self.skipping = !ends;
                continue;
            }
            self.buffer.extend_from_slice(part);
            if self.buffer.len() > self.line_bytes_max + 2 {
                self.buffer.clear();
                self.lines.push_back(Line::TooLong);
                self.skipping = !ends;
            } else if ends {
                self.flush();
            }
        }
    }

    /// Ends the line that has begun; blank lines are passed over.
    fn flush(&mut self) {
        let line = self.buffer.split().freeze();
        if !line.trim_ascii().is_empty() {
            self.lines.push_back(Line::Text(line));
        }
    }
}

struct State {
    app: Shared,
    principal: Principal,
    trace: Option<RequestTrace>,
    context: WriteContext,
    payload: web::Payload,
    cutter: Cutter,
    ended: bool,
}

pub(crate) async fn publish_stream(app: Shared, request: HttpRequest, payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    body::expect_type(&request, &["application/x-ndjson", "application/ndjson", "application/jsonl"])?;
    let cutter = Cutter {
        buffer: BytesMut::new(),
        skipping: false,
        line_bytes_max: app.hub.config().limits.event_bytes_max,
        lines: VecDeque::new(),
    };
    let trace = trace_of(&request);
    let context = write_context(&app, &request, &principal);
    let state = State { app, principal, trace, context, payload, cutter, ended: false };
    let results = stream::unfold(state, |mut state| async move {
        loop {
            if !state.cutter.lines.is_empty() {
                let out = state.append_group().await;
                return Some((Ok(out), state));
            }
            if state.ended {
                return None;
            }
            match body::piece(&state.app, &mut state.payload).await {
                Ok(Some(piece)) => state.cutter.push(&piece),
                Ok(None) => {
                    state.ended = true;
                    state.cutter.flush();
                }
                // The client is slow or gone: what it has receipts for is durable, the rest it sends again.
                Err(problem) => {
                    state.ended = true;
                    state.cutter.buffer.clear();
                    let mut out = Vec::new();
                    error_result(&mut out, &problem);
                    out.push(b'\n');
                    return Some((Ok(Bytes::from(out)), state));
                }
            }
        }
    });
    Ok(streaming("application/x-ndjson", results))
}

impl State {
    /// Appends what lines there are, up to a group, and returns their results.
    async fn append_group(&mut self) -> Bytes {
        let mut drafts = Vec::new();
        let mut parsed = Vec::new();
        let mut bytes = 0;
        while parsed.len() < GROUP_LINES_MAX && bytes < GROUP_BYTES_MAX {
            let Some(line) = self.cutter.lines.pop_front() else { break };
            let draft = match line {
                Line::Text(text) => {
                    bytes += text.len();
                    parse(&self.app, &self.principal, self.trace.as_ref(), &text)
                }
                Line::TooLong => {
                    let limit = format!("at most {} bytes", self.cutter.line_bytes_max);
                    Err(Problem::field("body", limit, "a longer line").as_kind(ProblemKind::TooLarge))
                }
            };
            parsed.push(match draft {
                Ok(draft) => {
                    let id = draft.meta.id.clone();
                    drafts.push(draft);
                    Ok(id)
                }
                Err(problem) => Err(problem),
            });
        }
        self.principal.wait_for(&self.app, parsed.len()).await;
        let context = || self.context.clone();
        let accepted =
            if drafts.is_empty() { Ok(Vec::new()) } else { self.app.hub.accept(drafts, false, context).await };
        let mut out = Vec::with_capacity(parsed.len() * 80);
        let mut next = 0;
        for one in parsed {
            match (one, &accepted) {
                (Ok(id), Ok(accepted)) => {
                    if let Some(accepted) = accepted.get(next) {
                        result(&mut out, &id, accepted);
                    }
                    next += 1;
                }
                (Ok(_), Err(problem)) => error_result(&mut out, problem),
                (Err(problem), _) => error_result(&mut out, &problem),
            }
            out.push(b'\n');
        }
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_and_a_long_line_holds_no_memory() {
        let mut cutter = Cutter { buffer: BytesMut::new(), skipping: false, line_bytes_max: 8, lines: VecDeque::new() };
        for piece in ["{}\n\n {", "\"a\":1}", "\n", &"x".repeat(100), &"x".repeat(100), "\n[]"] {
            cutter.push(piece.as_bytes());
            assert!(cutter.buffer.len() <= 10);
        }
        cutter.flush();
        let told: Vec<String> = cutter
            .lines
            .iter()
            .map(|line| match line {
                Line::Text(text) => String::from_utf8_lossy(text).trim().to_owned(),
                Line::TooLong => "too long".to_owned(),
            })
            .collect();
        assert_eq!(told, ["{}", "{\"a\":1}", "too long", "[]"]);
    }
}
