use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::event::parse::{ParseRules, parse_event};
use crate::ground::clock::{ManualClock, UnixMs};
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;

const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn draft(body: &str) -> Draft {
    let random = SeededRandom::shared(1);
    let rules = ParseRules {
        default_org: Some("acme"),
        confined_to: None,
        event_bytes_max: 4_096,
        now: UnixMs(1_000),
        random: &*random,
    };
    parse_event(&Bytes::copy_from_slice(body.as_bytes()), &rules).expect("an event")
}

fn event(body: &str) -> Arc<Event> {
    let draft = draft(body);
    Event::new(Seq(1), draft.received_at, draft.meta, draft.body)
}

fn off() -> Tracer {
    Tracer::off(ManualClock::starting_at(UnixMs(1_000)), SeededRandom::shared(2))
}

#[test]
fn without_an_endpoint_no_span_is_made_and_the_events_trace_is_as_it_came() {
    let mut drafts = [draft(r#"{"type":"a.b"}"#), draft(&format!(r#"{{"type":"a.b","traceparent":"{GIVEN}"}}"#))];
    assert!(off().ingest(&mut drafts).is_none());
    assert_eq!(drafts[0].meta.traceparent, None);
    assert_eq!(drafts[1].meta.traceparent.as_deref(), Some(GIVEN));
}

#[test]
fn every_attempt_carries_the_events_trace_with_an_id_of_its_own() {
    let tracer = off();
    let event = event(&format!(r#"{{"type":"a.b","traceparent":"{GIVEN}"}}"#));
    let attempts: Vec<Attempt> = (1..=3).map(|n| tracer.attempt(&event, "whk_1", n, AttemptKind::Call)).collect();
    let mut headers: Vec<String> = attempts.iter().filter_map(Attempt::traceparent).collect();
    assert!(attempts.iter().all(|attempt| attempt.recorded.is_none()), "TR-1");
    assert!(headers.iter().all(|header| header.starts_with(&GIVEN[..36]) && header.ends_with("-01")), "{headers:?}");
    headers.push(GIVEN.to_owned());
    headers.sort();
    headers.dedup();
    assert_eq!(headers.len(), 4);
}

#[test]
fn an_event_without_a_trace_is_delivered_without_one() {
    let attempt = off().attempt(&event(r#"{"type":"a.b"}"#), "whk_1", 1, AttemptKind::Call);
    assert_eq!(attempt.traceparent(), None);
}

#[test]
fn a_call_of_an_upstream_goes_on_from_the_trace_it_is_part_of_and_begins_none_where_no_spans_are_made() {
    let about = Execution {
        adapter: "crm",
        version: "1.0.0",
        correlation_id: "c-1",
        tenant: Some("acme"),
        operation: "contact",
    };
    assert_eq!(off().execute(None, &about).traceparent(), None);
    assert_eq!(off().execute(Some("not a trace"), &about).traceparent(), None);
    let span = off().execute(Some(GIVEN), &about);
    assert!(span.recorded.is_none(), "TR-1");
    let header = span.traceparent().expect("it goes on");
    assert!(header.starts_with(&GIVEN[..36]) && header != GIVEN, "{header}");
}
