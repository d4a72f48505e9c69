//! The event envelope (EVT-1) as the hub holds it: the producer's own bytes, and the few fields that rules look at.
//!
//! The body is kept as it came, so that number text and key order come out as they went in (EVT-3). What the rules
//! need (type, org, scopes, ordering key) is read once, at the edge, into [`EventMeta`].

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::redact::Audience;
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;

/// Where a value's JSON text lies in the body: `start..end` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// The fields of an envelope, with the defaults filled in. Part of the stored record: a change of its fields is a new
/// record version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventMeta {
    /// Given by the producer, or a `UUIDv7` made here. Unique within the org for the whole retention.
    pub id: String,
    /// Dotted name, such as `invoice.paid`.
    pub event_type: String,
    /// The tenant; empty when neither envelope nor key names one.
    pub org: String,
    /// Module or service that speaks. The `service` scope of filters compares with this.
    pub source: Option<String>,
    /// Kind of thing the event is about.
    pub aggregate_type: Option<String>,
    /// Which thing.
    pub aggregate_id: Option<String>,
    /// Narrower scope.
    pub channel: Option<String>,
    /// Narrower scope.
    pub facility: Option<String>,
    /// What the event is about, within the source (`CloudEvents`).
    pub subject: Option<String>,
    /// When it happened, as the producer wrote it; none means `received_at`.
    pub occurred_at: Option<String>,
    /// Why it happened, as a code.
    pub reason_code: Option<String>,
    /// Version of the data's schema, as text.
    pub schema_version: Option<String>,
    /// Events with the same key can be asked to stay in order; none when there is neither key nor aggregate.
    pub ordering_key: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// `request_context.correlation_id`.
    pub correlation_id: Option<String>,
    /// The JSON text of `data`.
    pub data: Option<Span>,
    /// The JSON text of `metadata`.
    pub metadata: Option<Span>,
    /// The JSON text of `source_refs`.
    pub source_refs: Option<Span>,
    /// The JSON text of `request_context`.
    pub request_context: Option<Span>,
    /// W3C trace state, beside the trace context.
    pub tracestate: Option<String>,
}

/// An event that passed every check and is not yet in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Its fields.
    pub meta: EventMeta,
    /// The JSON object as the producer sent it, without space around it.
    pub body: Bytes,
    /// Whether the producer gave the id (then it may be a duplicate) or it was made here (then it cannot).
    pub id_given: bool,
    /// When the hub received it.
    pub received_at: UnixMs,
    /// When it is due, if the producer asked to hold it back (ING-7). Not before this it is appended to the log.
    pub deliver_at: Option<UnixMs>,
}

/// A form in which an event leaves the hub. A body is rendered once per (event, format) and shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyFormat {
    /// `{type, timestamp, data, id, org, …}`, as Standard Webhooks recommends.
    #[default]
    Standard,
    /// The data alone.
    Raw,
}

/// An event in the log. Immutable and shared.
#[derive(Debug)]
pub struct Event {
    /// Its position.
    pub seq: Seq,
    /// When the hub received it.
    pub received_at: UnixMs,
    /// Its fields.
    pub meta: EventMeta,
    /// The JSON object as the producer sent it.
    pub body: Bytes,
    standard: OnceLock<Bytes>,
    /// What the last ones who asked for a redacted form share while they hold it.
    redacted: Mutex<Option<((u64, Audience), Weak<Event>)>>,
}

impl Event {
    /// An event at its place in the log.
    #[must_use]
    pub fn new(seq: Seq, received_at: UnixMs, meta: EventMeta, body: Bytes) -> Arc<Self> {
        Arc::new(Self { seq, received_at, meta, body, standard: OnceLock::new(), redacted: Mutex::new(None) })
    }

    /// The bytes this event may come to hold in memory, roughly: for gates and windows. The rendered body is counted from
    /// the start, because it is kept for as long as the event is.
    #[must_use]
    pub fn weight(&self) -> usize {
        2 * self.body.len() + 1_024
    }

    /// The JSON text of a part of the body.
    #[must_use]
    pub fn text(&self, span: Span) -> &[u8] {
        self.body.get(span.start as usize..span.end as usize).unwrap_or(b"null")
    }

    /// The redacted form of this event under a name: the one that somebody holds, or one made now.
    pub(super) fn redacted_as(&self, name: (u64, Audience), make: impl FnOnce() -> Arc<Self>) -> Arc<Self> {
        let mut shared = self.redacted.lock();
        if let Some(event) = shared.as_ref().filter(|(known, _)| *known == name).and_then(|(_, held)| held.upgrade()) {
            return event;
        }
        let event = make();
        *shared = Some((name, Arc::downgrade(&event)));
        event
    }

    /// The body of a delivery in this format, rendered at the first call.
    #[must_use]
    pub fn rendered(&self, format: BodyFormat) -> Bytes {
        match format {
            BodyFormat::Standard => self.standard.get_or_init(|| super::render::standard(self)).clone(),
            BodyFormat::Raw => match self.meta.data {
                Some(span) => self.body.slice(span.start as usize..span.end as usize),
                None => Bytes::from_static(b"null"),
            },
        }
    }
}
