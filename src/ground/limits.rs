//! The bounds of the surface, in one place. A limit that can be configured has its default here.

/// Largest `id` of an event, in characters (EVT-1).
pub const EVENT_ID_CHARS_MAX: usize = 128;
/// Largest `type`, in characters.
pub const EVENT_TYPE_CHARS_MAX: usize = 255;
/// Largest `source`, `org`, `channel`, `facility`, `aggregate_type`, in characters.
pub const SCOPE_CHARS_MAX: usize = 127;
/// Largest `aggregate_id`, in characters.
pub const AGGREGATE_ID_CHARS_MAX: usize = 128;
/// Largest `subject`, `ordering_key`, in characters: an aggregate type, a slash and an aggregate id.
pub const KEY_CHARS_MAX: usize = 256;
/// Largest `reason_code` and `schema_version`, in characters.
pub const CODE_CHARS_MAX: usize = 127;
/// Most entries of `source_refs`.
pub const SOURCE_REFS_MAX: usize = 100;
/// Largest body of one event, in bytes, unless configured (EVT-2).
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// What `limits.event_bytes_max` may be set to at most.
pub const EVENT_BYTES_CEILING: usize = 16 << 20;
/// Most events of a batch.
pub const BATCH_EVENTS_MAX: usize = 1_000;
/// Largest body of a batch, in bytes.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting of an event, counting the envelope itself.
pub const NESTING_MAX: usize = 64;
/// Largest `metadata`, in bytes of its JSON text.
pub const METADATA_BYTES_MAX: usize = 16 << 10;
/// Largest `request_context`, in bytes of its JSON text.
pub const REQUEST_CONTEXT_BYTES_MAX: usize = 8 << 10;
/// Characters kept of an error message (OUT-2).
pub const ERROR_CHARS_MAX: usize = 1_023;
/// Bytes read of an endpoint's answer (WHK-5).
pub const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Characters kept of an endpoint's answer.
pub const SNIPPET_CHARS_MAX: usize = 500;
/// Most attempts a retry policy may ask for, the first included.
pub const RETRY_ATTEMPTS_MAX: u32 = 100;
/// Longest delay between two attempts, in milliseconds: 7 days.
pub const RETRY_DELAY_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Most failures in a row that a rule of an endpoint's health may wait for.
pub const FAILURES_MAX: u64 = 1_000_000;
/// Shortest time of nothing but failures that pauses a webhook, in milliseconds: a minute.
pub const PAUSE_MS_MIN: u64 = 60_000;
/// Longest: 30 days.
pub const PAUSE_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// Largest name of an in-process consumer, in characters.
pub const CONSUMER_CHARS_MAX: usize = 127;
/// Most in-process handlers of one hub.
pub const HANDLERS_MAX: usize = 10_000;
/// Largest value of one store row; longer records are cut into chunk rows (DESIGN §4).
pub const ROW_BYTES_MAX: usize = 60 << 10;

/// The text cut to at most `chars` characters.
#[must_use]
pub fn clip(text: &str, chars: usize) -> &str {
    match text.char_indices().nth(chars) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}
