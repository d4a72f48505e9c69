//! An event from the copy of its envelope that a dead letter keeps: the log may have dropped it.

use std::sync::Arc;

use bytes::Bytes;

use super::envelope::Event;
use super::json::members;
use super::parse::{ParseRules, parse_event};
use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;
use crate::ground::ids::Seq;
use crate::ground::random::Random;

/// What the hub adds to every envelope; a producer cannot set them.
const ADDED: [&[u8]; 2] = [b"seq", b"received_at"];

/// Reads an envelope as [`super::render::envelope`] wrote it. Rendered for a delivery, the event is the same byte for
/// byte as the one that stood in the log. `received_at` stands in when the envelope does not say.
///
/// # Errors
/// When the text is no such envelope.
pub fn restore(envelope: &[u8], seq: Seq, received_at: UnixMs, random: &dyn Random) -> Result<Arc<Event>, Problem> {
    let mut body = Vec::with_capacity(envelope.len());
    let mut now = received_at;
    body.push(b'{');
    for member in members(envelope) {
        if ADDED.contains(&member.name.as_ref()) {
            let time = serde_json::from_slice::<String>(&envelope[member.value]).ok();
            now = time.and_then(|text| UnixMs::parse_rfc3339(&text).ok()).unwrap_or(now);
            continue;
        }
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(&envelope[member.whole]);
    }
    body.push(b'}');
    let rules = ParseRules { default_org: None, confined_to: None, event_bytes_max: usize::MAX, now, random };
    let draft = parse_event(&Bytes::from(body), &rules)?;
    Ok(Event::new(seq, now, draft.meta, draft.body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::envelope::BodyFormat;
    use crate::event::render;
    use crate::ground::random::SeededRandom;

    const NOW: UnixMs = UnixMs(1_795_248_000_123);

    #[test]
    fn a_restored_event_is_delivered_byte_for_byte_as_the_first_time() {
        let random = SeededRandom::shared(1);
        let rules = ParseRules {
            default_org: Some("acme"),
            confined_to: None,
            event_bytes_max: 4_096,
            now: NOW,
            random: &*random,
        };
        for text in [
            r#"{"type":"a.b"}"#,
            r#"{ "data": {"b": 1.10, "a": 12345678901234567890, "seq": 4, "c": "\u00e9"}, "type":"a.b", "id":"i-1",
                 "aggregate_type":"order","aggregate_id":"7","occurred_at":null,"schema_version":2 } "#,
            r#"{"type":"a.b","org":"own","ordering_key":"k","data":null,"metadata":{"received_at":1},
                "request_context":{"correlation_id":"c"},"source_refs":[],"occurred_at":"2026-11-21T09:00:00+01:00"}"#,
        ] {
            let draft = parse_event(&Bytes::from_static(text.as_bytes()), &rules).expect("is taken");
            let event = Event::new(Seq(9), draft.received_at, draft.meta, draft.body);
            let restored = restore(&render::envelope(&event), Seq(9), UnixMs(1), &*random).expect("restores");
            for format in [BodyFormat::Standard, BodyFormat::Raw] {
                assert_eq!(restored.rendered(format), event.rendered(format), "{text}");
            }
            assert_eq!((restored.seq, restored.received_at), (event.seq, NOW));
            assert_eq!(restored.meta.id, event.meta.id);
            assert_eq!(restored.meta.correlation_id, event.meta.correlation_id);
            assert_eq!(restored.meta.ordering_key, event.meta.ordering_key);
        }
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let random = SeededRandom::shared(1);
        for text in ["", "{}", "[1]", r#"{"type":"a.b","colour":1,"org":"acme"}"#] {
            assert!(restore(text.as_bytes(), Seq(9), NOW, &*random).is_err(), "{text}");
        }
    }
}
