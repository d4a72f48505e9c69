//! Redaction (EVT-4): what of an event does not leave the hub, by audience. A pure rule over the raw text.
//!
//! A type's redactions name places by JSON pointer (RFC 6901) from the root of the envelope, with `*` for every element
//! or member at that level. Four parts of an envelope may be pointed into: `data`, `metadata`, `source_refs` and
//! `request_context`. What comes out is still an envelope: the whole of `metadata` or `source_refs` can only be dropped, and
//! of an entry of `source_refs` a member can be masked or hashed. What routes and identifies an event (`id`, `type`, `org`, `seq`, the scopes, `subject`, the
//! aggregate, `ordering_key`, times, `request_context.correlation_id` and `.causation_id`) always stays: it is in headers,
//! indexes and answers, and a personal value does not belong there.
//!
//! | action | a member | an element of an array |
//! |---|---|---|
//! | `mask` | its value becomes `"***"`, whatever it was | the same |
//! | `hash` | its value becomes `"hash:…"` | the same |
//! | `drop` | the member is gone | `null`, so that the others keep their places |
//!
//! A hash is an HMAC-SHA256, cut to 128 bits, under a key of the org that the hub derives from its store key: the same
//! value has the same hash in every event, type and place of the org, so that it can be joined, and nobody without the key
//! can try values out. Two texts are the same value when they differ in white space, in the order of members or in how
//! strings are spelled; numbers when their text is the same. What can take few values, such as a boolean, can still be
//! told apart: mask it.
//!
//! Invariants:
//! - RD-1 Nothing of the text of a redacted value is in what comes out.
//! - RD-2 Everything else comes out byte for byte (EVT-3).
//! - RD-3 Redacting again changes nothing: a hash carries a tag by which the hub knows its own.
//! - RD-4 When several redactions meet one place, the one that tells least counts: drop, then mask, then hash. One for a
//!   container covers what is in it.
//! - RD-5 What others say of an event (a handler's error, an endpoint's answer) is cleared of redacted values before it is
//!   kept, logged or traced: see [`Redactor::cleared`].
//! - RD-6 An event whose type has no redaction for an audience is borrowed, not copied.

mod apply;
mod key;
mod read;
mod redactor;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub use self::key::RedactionKey;
pub use self::redactor::{ANSWER_WITHHELD, RedactionSource, Redactor, WITHHELD};
use super::envelope::{Event, EventMeta, Span};
use super::json::members;
use crate::ground::error::Problem;

/// Most redactions of one type.
pub const REDACTIONS_MAX: usize = 64;
/// Largest path, in characters.
pub const PATH_CHARS_MAX: usize = 512;
/// Most steps of a path, the root included.
pub const PATH_STEPS_MAX: usize = 32;
/// What a masked value becomes, as JSON text.
pub const MASK: &str = "\"***\"";

/// What happens to a redacted value. Later ones tell less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedactAction {
    /// A keyed hash stands in its place.
    Hash,
    /// Three stars stand in its place.
    Mask,
    /// It is gone.
    Drop,
}

impl RedactAction {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Mask, Self::Hash, Self::Drop];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Hash => "hash",
            Self::Drop => "drop",
        }
    }
}

/// Who reads an event outside of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Consumers: webhooks, pull consumers, their streams and sockets.
    Webhook,
    /// The change feed.
    Cdc,
    /// Exports.
    Export,
    /// People: event reads, dead letters, `tail`, the console.
    Console,
}

impl Audience {
    /// Every audience.
    pub const ALL: [Self; 4] = [Self::Webhook, Self::Cdc, Self::Export, Self::Console];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Cdc => "cdc",
            Self::Export => "export",
            Self::Console => "console",
        }
    }
}

/// One redaction of an event type. Part of stored records: a change of its fields is a new version of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redaction {
    /// JSON pointer from the root of the envelope, such as `/data/customer/email` or `/data/items/*/note`.
    pub path: String,
    /// What happens to what stands there.
    pub action: RedactAction,
    /// For whom; never empty.
    pub audiences: Vec<Audience>,
}

/// The parts of an envelope that a redaction may point into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `data`
    Data,
    /// `metadata`
    Metadata,
    /// `source_refs`
    SourceRefs,
    /// `request_context`
    RequestContext,
}

impl Root {
    /// Every root.
    pub const ALL: [Self; 4] = [Self::Data, Self::Metadata, Self::SourceRefs, Self::RequestContext];

    /// The name of the member.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::SourceRefs => "source_refs",
            Self::RequestContext => "request_context",
        }
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Every member, every element.
    Any,
    /// The member of this name, or the element at this place.
    Named { name: Box<[u8]>, index: Option<usize> },
}

/// A redaction ready to be applied.
#[derive(Clone, Debug)]
struct Rule {
    steps: Box<[Step]>,
    action: RedactAction,
}

/// The redactions of a type, ready to be applied. Immutable: a change of the type makes new ones.
#[derive(Clone, Debug)]
pub struct Redactions {
    rules: Box<[Rule]>,
    /// One bit a rule, by audience.
    by_audience: [u64; Audience::ALL.len()],
    key: RedactionKey,
    /// Tells these from all others of the process.
    serial: u64,
}

/// Numbers [`Redactions`].
static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Redactions {
    /// Compiles the redactions of a type; `field` is where they stand in what the client sent, for refusals.
    ///
    /// # Errors
    /// `InvalidField` when there are more than [`REDACTIONS_MAX`], a path is none or points where it may not, or a
    /// redaction has no audience.
    pub fn compile(field: &str, redactions: &[Redaction], key: &RedactionKey) -> Result<Self, Problem> {
        read::check_count(field, redactions.len())?;
        let mut rules = Vec::with_capacity(redactions.len());
        let mut by_audience = [0_u64; Audience::ALL.len()];
        for (at, redaction) in redactions.iter().enumerate() {
            rules.push(read::rule(&format!("{field}[{at}]"), redaction)?);
            for &audience in &redaction.audiences {
                by_audience[audience as usize] |= 1 << at;
            }
        }
        Ok(Self { rules: rules.into(), by_audience, key: key.clone(), serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Reads the redactions of a type from what a client sent: a list of `{path, action, audiences}`, where leaving out
    /// `audiences` means all. They are checked as [`compile`](Self::compile) does.
    ///
    /// # Errors
    /// `InvalidField` naming the field.
    pub fn read(field: &str, sent: &serde_json::Value) -> Result<Vec<Redaction>, Problem> {
        read::redactions(field, sent)
    }

    /// Whether anything is redacted for this audience.
    #[must_use]
    pub fn touch(&self, audience: Audience) -> bool {
        self.by_audience[audience as usize] != 0
    }

    /// An envelope of an event of this org without what this audience may not see. Takes the body as the producer sent it and every form that has
    /// the same parts at its top level (the envelope as read, the standard body of a webhook). Text that is no JSON
    /// comes out as `null`.
    #[must_use]
    pub fn apply<'a>(&self, org: &str, envelope: &'a [u8], audience: Audience) -> Cow<'a, [u8]> {
        match self.by_audience[audience as usize] {
            0 => Cow::Borrowed(envelope),
            live => apply::envelope(self, org, envelope, live),
        }
    }

    /// One part of an envelope, standing alone, without what this audience may not see. Where the part is dropped as a
    /// whole `null` comes out.
    #[must_use]
    pub fn apply_part<'a>(&self, org: &str, root: Root, part: &'a [u8], audience: Audience) -> Cow<'a, [u8]> {
        match self.by_audience[audience as usize] {
            0 => Cow::Borrowed(part),
            live => apply::part(self, org, root, part, live),
        }
    }

    /// The event as this audience may see it: every form rendered of it is redacted. The same `Arc` when nothing is
    /// redacted for the audience; else one that is shared by all who hold it at the same time.
    #[must_use]
    pub fn event(&self, event: &Arc<Event>, audience: Audience) -> Arc<Event> {
        if !self.touch(audience) {
            return Arc::clone(event);
        }
        event.redacted_as((self.serial, audience), || {
            let body = self.apply(&event.meta.org, &event.body, audience).into_owned();
            let meta = moved(&event.meta, &body);
            Event::new(event.seq, event.received_at, meta, body.into())
        })
    }
}

/// The fields of an event whose body has changed where redactions point.
fn moved(meta: &EventMeta, body: &[u8]) -> EventMeta {
    let mut meta = meta.clone();
    let EventMeta { data, metadata, source_refs, request_context, .. } = &mut meta;
    let parts = [
        (Root::Data.name(), data),
        (Root::Metadata.name(), metadata),
        (Root::SourceRefs.name(), source_refs),
        (Root::RequestContext.name(), request_context),
    ];
    for (name, span) in parts {
        if span.is_some() {
            *span = members(body).find(|member| member.name.as_ref() == name.as_bytes()).and_then(|member| {
                let (start, end) = (u32::try_from(member.value.start).ok()?, u32::try_from(member.value.end).ok()?);
                Some(Span { start, end })
            });
        }
    }
    meta
}
