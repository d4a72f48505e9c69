//! How a page and a stream look.
//!
//! | | event | gap | silence |
//! |---|---|---|---|
//! | SSE | `id: CURSOR`, `event: event`, `data: ENVELOPE` | `event: gap`, `data: {from, to}` | `id: CURSOR` and a comment |
//! | NDJSON | `{"cursor":…,"event":ENVELOPE}` | `{"cursor":…,"gap":{from, to}}` | `{"cursor":…}` |
//!
//! The cursor of a line goes on after it. An SSE block without data moves the client's last id and is no event for it.

use bytes::Bytes;

use super::cursor::Cursor;
use super::feed::Chunk;
use super::filter::FeedFilter;
use crate::event::render;
use crate::ground::ids::Seq;

/// The form of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Server-sent events.
    Sse,
    /// A JSON document a line.
    Ndjson,
}

impl Form {
    /// Its content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    /// What a client is told first: with SSE, when to come back after the connection broke.
    #[must_use]
    pub fn prelude(self) -> Bytes {
        match self {
            Self::Sse => Bytes::from_static(b"retry: 2000\n\n"),
            Self::Ndjson => Bytes::new(),
        }
    }

    /// A piece of the stream: the gap first, then the events. `from` is where the reading began.
    #[must_use]
    pub fn piece(self, chunk: &Chunk, from: Seq, filter: &FeedFilter) -> Bytes {
        let mut out = Vec::new();
        if let Some(gap_to) = chunk.gap_to {
            let cursor = Cursor { next: gap_to }.to_text(filter);
            let gap = format!("{{\"from\":{from},\"to\":{}}}", gap_to.prev());
            match self {
                Self::Sse => out.extend_from_slice(format!("id: {cursor}\nevent: gap\ndata: {gap}\n\n").as_bytes()),
                Self::Ndjson => {
                    out.extend_from_slice(format!("{{\"cursor\":\"{cursor}\",\"gap\":{gap}}}\n").as_bytes())
                }
            }
        }
        for event in &chunk.events {
            let cursor = Cursor { next: event.seq.next() }.to_text(filter);
            let envelope = render::envelope(event);
            match self {
                Self::Sse => {
                    out.extend_from_slice(format!("id: {cursor}\nevent: event\ndata: ").as_bytes());
                    push_line(&mut out, &envelope);
                    out.extend_from_slice(b"\n\n");
                }
                Self::Ndjson => {
                    out.extend_from_slice(format!("{{\"cursor\":\"{cursor}\",\"event\":").as_bytes());
                    push_line(&mut out, &envelope);
                    out.extend_from_slice(b"}\n");
                }
            }
        }
        Bytes::from(out)
    }

    /// A sign of life that moves the client's place.
    #[must_use]
    pub fn heartbeat(self, next: Seq, filter: &FeedFilter) -> Bytes {
        let cursor = Cursor { next }.to_text(filter);
        Bytes::from(match self {
            Self::Sse => format!(": still here\nid: {cursor}\n\n"),
            Self::Ndjson => format!("{{\"cursor\":\"{cursor}\"}}\n"),
        })
    }
}

/// JSON on one line. Outside of texts a line break is white space, and within a text JSON has none.
fn push_line(out: &mut Vec<u8>, json: &[u8]) {
    out.extend(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
}

/// A page of the feed.
#[must_use]
pub fn page(chunk: &Chunk, filter: &FeedFilter) -> Bytes {
    let mut out = Vec::with_capacity(chunk.events.len() * 512 + 128);
    out.extend_from_slice(b"{\"events\":[");
    for (at, event) in chunk.events.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&render::envelope(event));
    }
    let cursor = Cursor { next: chunk.next }.to_text(filter);
    let rest = format!("],\"next_cursor\":\"{cursor}\",\"has_more\":{}}}", chunk.has_more);
    out.extend_from_slice(rest.as_bytes());
    Bytes::from(out)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
