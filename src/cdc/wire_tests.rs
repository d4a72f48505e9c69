//! The bytes of a page and of streams.

use bytes::Bytes;

use super::*;
use crate::event::envelope::{Event, EventMeta};
use crate::event::filter::EventFilter;
use crate::ground::clock::UnixMs;

fn filter() -> FeedFilter {
    FeedFilter::new(EventFilter { org: Some("acme".to_owned()), ..EventFilter::default() }, None, None)
}

fn chunk() -> Chunk {
    let event = |seq: u64, body: &'static [u8]| {
        let meta = EventMeta {
            id: format!("e{seq}"),
            event_type: "a.b".to_owned(),
            org: "acme".to_owned(),
            ..EventMeta::default()
        };
        Event::new(Seq(seq), UnixMs(1_795_248_000_123), meta, Bytes::from_static(body))
    };
    let first = event(8, b"{\n  \"type\": \"a.b\",\r\n  \"data\": \"a\\nb\"\n}");
    let second = event(9, b"{\"type\":\"a.b\",\"id\":\"e9\"}");
    Chunk { events: vec![first, second], next: Seq(12), has_more: true, gap_to: Some(Seq(7)) }
}

fn text(bytes: Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[test]
fn each_form_has_the_gap_the_events_and_the_cursor_after_each() {
    for form in [Form::Sse, Form::Ndjson] {
        let stream = [form.prelude(), form.piece(&chunk(), Seq(3), &filter()), form.heartbeat(Seq(12), &filter())];
        insta::assert_snapshot!(format!("{form:?}"), text(Bytes::from(stream.concat())));
    }
    insta::assert_snapshot!("page", text(page(&chunk(), &filter())));
}

#[test]
fn every_line_of_a_stream_is_a_document_and_every_block_has_one_line_of_data() {
    for line in text(Form::Ndjson.piece(&chunk(), Seq(3), &filter())).lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let cursor = line["cursor"].as_str().expect("a text");
        let next = Cursor::read(cursor, &filter()).expect("our own").next;
        let told = line["event"]["seq"].as_u64().map_or(7, |seq| seq + 1);
        assert_eq!(next, Seq(told));
    }
    for block in text(Form::Sse.piece(&chunk(), Seq(3), &filter())).split("\n\n").filter(|block| !block.is_empty()) {
        let data: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.len(), 1, "{block}");
        assert!(serde_json::from_str::<serde_json::Value>(data[0]).is_ok(), "{block}");
    }
    let page: serde_json::Value = serde_json::from_slice(&page(&chunk(), &filter())).expect("JSON");
    assert_eq!(page["events"].as_array().map(Vec::len), Some(2));
}
