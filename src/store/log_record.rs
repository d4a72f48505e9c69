//! An event's record in the log.
//!
//! `version: u8 | crc32c: u32 | head length: u32 LE | head (bincode: received_at, EventMeta) | body`.
//! The position is the row's key. The record is built on the thread that parsed the event; the writer only stores it.
//! A record longer than a row may be is cut: row `seq` holds the mark, the length and the first part, rows
//! `seq ‖ part` the rest.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::event::envelope::{Draft, Event, EventMeta, Span};
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError, HEADER_BYTES};
use crate::ground::ids::Seq;
use crate::ground::limits::ROW_BYTES_MAX;

/// Version of the record. Version 1 had no `tracestate`.
pub const VERSION: u8 = 2;
/// First byte of a row that holds only the first part of a record. No record version may have this number.
const CUT_MARK: u8 = 0xff;
const CUT_HEADER_BYTES: usize = 5;

/// An event ready to be stored.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Its fields.
    pub meta: EventMeta,
    /// When the hub received it.
    pub received_at: UnixMs,
    /// Whether the producer gave the id.
    pub id_given: bool,
    record: Bytes,
    body_at: usize,
}

impl Prepared {
    /// Builds the record of a draft.
    ///
    /// # Errors
    /// When the fields cannot be encoded: a mistake of the program.
    pub fn new(draft: Draft) -> Result<Self, CodecError> {
        let Draft { meta, body, id_given, received_at, deliver_at: _ } = draft;
        let mut out = Vec::with_capacity(HEADER_BYTES + 4 + 192 + body.len());
        out.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0, 0]);
        let head_at = out.len();
        bincode::serde::encode_into_std_write((received_at, &meta), &mut out, bincode::config::standard())
            .map_err(|error| CodecError::Payload(error.to_string()))?;
        let head_bytes = u32::try_from(out.len() - head_at).map_err(|error| CodecError::Payload(error.to_string()))?;
        out[HEADER_BYTES..head_at].copy_from_slice(&head_bytes.to_le_bytes());
        let body_at = out.len();
        out.extend_from_slice(&body);
        codec::seal(&mut out);
        Ok(Self { meta, received_at, id_given, record: Bytes::from(out), body_at })
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// The body the producer sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.record[self.body_at..]
    }

    /// The org it belongs to.
    #[must_use]
    pub fn org(&self) -> &str {
        &self.meta.org
    }

    /// The event at its place.
    #[must_use]
    pub fn into_event(self, seq: Seq) -> Arc<Event> {
        Event::new(seq, self.received_at, self.meta, self.record.slice(self.body_at..))
    }
}

/// Reads a whole record.
///
/// # Errors
/// When the bytes are damaged.
pub fn decode(seq: Seq, record: Bytes) -> Result<Arc<Event>, CodecError> {
    let version = if record.first() == Some(&1) { 1 } else { VERSION };
    let payload = codec::unframe(version, &record)?;
    let short = || CodecError::Short(record.len());
    let length = payload.get(..4).ok_or_else(short)?;
    let head_bytes = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    let head = payload.get(4..4 + head_bytes).ok_or_else(short)?;
    let (received_at, meta): (UnixMs, EventMeta) = if version == 1 {
        let (received_at, old): (UnixMs, EventMetaV1) = codec::decode_payload(head)?;
        (received_at, old.into())
    } else {
        codec::decode_payload(head)?
    };
    let body = record.slice(HEADER_BYTES + 4 + head_bytes..);
    Ok(Event::new(seq, received_at, meta, body))
}

macro_rules! first_version {
    ($($field:ident: $kind:ty,)+) => {
        #[derive(Deserialize)]
        struct EventMetaV1 { $($field: $kind,)+ }

        impl From<EventMetaV1> for EventMeta {
            fn from(old: EventMetaV1) -> Self {
                let EventMetaV1 { $($field,)+ } = old;
                Self { $($field,)+ tracestate: None }
            }
        }
    };
}

first_version! {
    id: String,
    event_type: String,
    org: String,
    source: Option<String>,
    aggregate_type: Option<String>,
    aggregate_id: Option<String>,
    channel: Option<String>,
    facility: Option<String>,
    subject: Option<String>,
    occurred_at: Option<String>,
    reason_code: Option<String>,
    schema_version: Option<String>,
    ordering_key: Option<String>,
    traceparent: Option<String>,
    correlation_id: Option<String>,
    data: Option<Span>,
    metadata: Option<Span>,
    source_refs: Option<Span>,
    request_context: Option<Span>,
}

/// Cuts a record into rows: the suffix of each row's key (empty for the first) and its value.
pub fn cut(record: &[u8], mut row: impl FnMut(&[u8], &[u8])) {
    if record.len() <= ROW_BYTES_MAX {
        row(&[], record);
        return;
    }
    let (first, rest) = record.split_at(ROW_BYTES_MAX - CUT_HEADER_BYTES);
    let mut head = Vec::with_capacity(ROW_BYTES_MAX);
    head.push(CUT_MARK);
    // Bodies are at most 16 MiB, so the length fits.
    head.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes());
    head.extend_from_slice(first);
    row(&[], &head);
    for (part, bytes) in rest.chunks(ROW_BYTES_MAX).enumerate() {
        row(&u16::try_from(part).unwrap_or(u16::MAX).to_be_bytes(), bytes);
    }
}

/// Puts a record together again from its rows, given in key order.
#[derive(Debug)]
pub struct Joiner {
    expected: usize,
    bytes: Vec<u8>,
}

impl Joiner {
    /// Starts with the first row: `Ok` when it holds the whole record, `Err` when more rows follow.
    pub fn start(first: &[u8]) -> Result<Bytes, Self> {
        match first {
            [CUT_MARK, a, b, c, d, part @ ..] => {
                let expected = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                // The capacity is not trusted to the bytes on disk: it grows with what is really there.
                Err(Self { expected, bytes: part.to_vec() })
            }
            whole => Ok(Bytes::copy_from_slice(whole)),
        }
    }

    /// Whether a further row is needed.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.bytes.len() < self.expected
    }

    /// Takes the next row.
    pub fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// The record.
    #[must_use]
    pub fn finish(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(data_bytes: usize) -> Draft {
        let body = format!(r#"{{"type":"a.b","data":"{}"}}"#, "x".repeat(data_bytes));
        let meta = EventMeta {
            id: "e1".into(),
            event_type: "a.b".into(),
            org: "acme".into(),
            source: None,
            aggregate_type: None,
            aggregate_id: None,
            channel: None,
            facility: Some("north".into()),
            subject: None,
            occurred_at: None,
            reason_code: None,
            schema_version: None,
            ordering_key: Some("order/1".into()),
            traceparent: None,
            correlation_id: None,
            data: None,
            metadata: None,
            source_refs: None,
            request_context: None,
            tracestate: Some("rojo=00f067aa0ba902b7".into()),
        };
        Draft {
            meta,
            body: Bytes::from(body),
            id_given: true,
            received_at: UnixMs(1_795_248_000_000),
            deliver_at: None,
        }
    }

    #[test]
    fn a_record_of_any_size_survives_being_cut_and_joined() {
        for size in [0, 1_000, ROW_BYTES_MAX - 60, ROW_BYTES_MAX, ROW_BYTES_MAX * 3 + 17, 1 << 20] {
            let prepared = Prepared::new(draft(size)).expect("prepares");
            let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            cut(prepared.record(), |suffix, value| rows.push((suffix.to_vec(), value.to_vec())));
            assert!(rows.iter().all(|(_, value)| value.len() <= ROW_BYTES_MAX));
            assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let record = match Joiner::start(&rows[0].1) {
                Ok(record) => record,
                Err(mut joiner) => {
                    for (_, part) in &rows[1..] {
                        assert!(joiner.wants_more());
                        joiner.push(part);
                    }
                    assert!(!joiner.wants_more());
                    joiner.finish()
                }
            };
            let event = decode(Seq(7), record).expect("decodes");
            assert_eq!(event.meta, prepared.meta);
            assert_eq!(event.body, prepared.body());
        }
    }

    #[test]
    fn the_bytes_of_a_record_are_as_they_always_were() {
        let prepared = Prepared::new(draft(3)).expect("prepares");
        insta::assert_snapshot!(hex::encode(prepared.record()));
    }

    /// What version 1 wrote of the same draft, without the trace state.
    const FIRST: &str = "018e4d500e33000000fd008c1efda101000002653103612e620461636d650000000001056e6f7274680000000001076f726465722f310000000000007b2274797065223a22612e62222c2264617461223a22787878227d";

    #[test]
    fn a_record_of_the_first_version_is_still_read() {
        let event = decode(Seq(7), Bytes::from(hex::decode(FIRST).expect("hex"))).expect("decodes");
        let wanted = draft(3);
        assert_eq!(event.meta, EventMeta { tracestate: None, ..wanted.meta });
        assert_eq!((event.received_at, &event.body), (wanted.received_at, &wanted.body));
        let mut damaged = hex::decode(FIRST).expect("hex");
        damaged[12] ^= 1;
        assert!(decode(Seq(7), Bytes::from(damaged)).is_err());
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let prepared = Prepared::new(draft(30)).expect("prepares");
        for at in 0..prepared.record().len() {
            let mut bad = prepared.record().to_vec();
            bad[at] ^= 1;
            assert!(decode(Seq(1), Bytes::from(bad)).is_err(), "byte {at}");
        }
    }
}
