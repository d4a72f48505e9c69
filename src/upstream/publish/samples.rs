//! What the tests of this folder share.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::event::envelope::Event;
use crate::event::parse::{ParseRules, parse_event};
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;

/// When every event happens: 2026-11-21T08:00:00.999Z.
pub(crate) const NOW: UnixMs = UnixMs(1_795_248_000_999);

/// An event of this type and data, about booking B-7 of acme.
pub(crate) fn event(event_type: &str, data: &str) -> Arc<Event> {
    envelope(&format!(
        r#"{{"id":"e-1","type":"{event_type}","org":"acme","source":"desk","aggregate_type":"booking","aggregate_id":"B-7","data":{data}}}"#
    ))
}

/// An event from its envelope.
pub(crate) fn envelope(body: &str) -> Arc<Event> {
    let random = SeededRandom::shared(1);
    let rules =
        ParseRules { default_org: None, confined_to: None, event_bytes_max: 1 << 20, now: NOW, random: &*random };
    let draft = parse_event(&Bytes::copy_from_slice(body.as_bytes()), &rules).expect("is taken");
    Event::new(Seq(1), NOW, draft.meta, draft.body)
}

/// The timeline publish of the customer bridge.
pub(crate) fn timeline() -> Value {
    json!({
        "name": "timeline",
        "event_types": ["booking.created", "booking.confirmed", "booking.cancelled", "booking.completed"],
        "requires": ["data.contactId"],
        "ordering": "key",
        "retry": "bridge",
        "about": { "external_id": "aggregate_id", "contact_id": "data.contactId" },
        "call": {
            "method": "POST",
            "path": "/api/v1/timeline",
            "body": r#"{"type": {{ type|tojson }}, "externalId": {{ aggregate_id|default('')|tojson }}, "timestamp": {{ occurred_at|utc_seconds|tojson }}, "contactId": {{ data.contactId|tojson }}, "metadata": {{ data.metadata|default({})|tojson }}}"#,
            "filled": ["type", "externalId", "contactId"],
        },
    })
}
