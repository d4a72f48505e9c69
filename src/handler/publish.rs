//! Events that a program makes itself: how they are built, and where they go.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;

/// The way into the log for the program around the hub. The body is an envelope as a producer would send it and is
/// checked in the same way.
pub trait Publisher: Send + Sync {
    /// Publishes one event; answers after the sync that made it durable.
    fn publish(&self, body: Bytes) -> BoxFuture<'static, Result<Receipt, Problem>>;
}

/// What became of a published event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its id, given or made.
    pub id: String,
    /// Its position in the log; zero as long as it is scheduled.
    pub seq: Seq,
    /// Whether it was there before: nothing was appended then.
    pub duplicate: bool,
    /// When it is due, if it is scheduled.
    pub deliver_at: Option<UnixMs>,
}

/// Who caused an event and in which conversation (`request_context`, EVT-1).
#[derive(Clone, Debug, Default, Serialize)]
struct RequestContext {
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

impl RequestContext {
    fn is_empty(&self) -> bool {
        let Self { correlation_id, causation_id, user_id } = self;
        correlation_id.is_none() && causation_id.is_none() && user_id.is_none()
    }
}

/// An event to publish. Bounds are checked when it is published, as for every producer.
#[derive(Clone, Debug, Serialize)]
pub struct NewEvent {
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    facility: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    #[serde(skip_serializing_if = "RequestContext::is_empty")]
    request_context: RequestContext,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    /// What could not be written as JSON; told when the event is published.
    #[serde(skip)]
    fault: Option<Problem>,
}

macro_rules! setters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        $($(#[doc = $doc])+
        #[must_use]
        pub fn $name(mut self, $name: impl Into<String>) -> Self {
            self.$name = Some($name.into());
            self
        })+
    };
}

impl NewEvent {
    /// An event of this type.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            r#type: event_type.into(),
            id: None,
            org: None,
            source: None,
            aggregate_type: None,
            aggregate_id: None,
            channel: None,
            facility: None,
            subject: None,
            occurred_at: None,
            reason_code: None,
            schema_version: None,
            ordering_key: None,
            traceparent: None,
            tracestate: None,
            deliver_at: None,
            request_context: RequestContext::default(),
            metadata: None,
            data: None,
            fault: None,
        }
    }

    setters! {
        /// Its id; the same id again is a duplicate. A handler that derives it from the id of the event it handles
        /// publishes once however often it is called.
        id,
        /// The tenant.
        org,
        /// The module that speaks.
        source,
        /// The channel.
        channel,
        /// The facility.
        facility,
        /// What it is about, within the source.
        subject,
        /// When it happened, in RFC 3339; left out, when it is received.
        occurred_at,
        /// Why it happened, as a code.
        reason_code,
        /// The version of the data's schema.
        schema_version,
        /// Events of one key can be asked to stay in order; left out, the aggregate's.
        ordering_key,
        /// The W3C trace context.
        traceparent,
        /// When it is due, in RFC 3339: until then it is held back, and can be cancelled.
        deliver_at,
    }

    /// Which thing it is about.
    #[must_use]
    pub fn aggregate(mut self, kind: impl Into<String>, id: impl Into<String>) -> Self {
        self.aggregate_type = Some(kind.into());
        self.aggregate_id = Some(id.into());
        self
    }

    /// The conversation it belongs to (`request_context.correlation_id`).
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.request_context.correlation_id = Some(id.into());
        self
    }

    /// The event that caused it (`request_context.causation_id`).
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.request_context.causation_id = Some(id.into());
        self
    }

    /// Who caused it (`request_context.user_id`).
    #[must_use]
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.request_context.user_id = Some(id.into());
        self
    }

    /// Its data: anything that is written as JSON.
    #[must_use]
    pub fn data(mut self, data: impl Serialize) -> Self {
        self.data = self.json("data", &data);
        self
    }

    /// Its metadata, which must be written as a JSON object.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Serialize) -> Self {
        self.metadata = self.json("metadata", &metadata);
        self
    }

    fn json(&mut self, field: &str, value: &impl Serialize) -> Option<Box<RawValue>> {
        match serde_json::value::to_raw_value(value) {
            Ok(raw) => Some(raw),
            Err(error) => {
                self.fault = Some(Problem::field(field, "what can be written as JSON", error));
                None
            }
        }
    }

    /// Fills in, where nothing was set, what a follow-up event has from the one that caused it.
    pub(super) fn following(mut self, cause: &super::HandlerContext) -> Self {
        let meta = &cause.event().meta;
        if self.org.is_none() && !meta.org.is_empty() {
            self.org = Some(meta.org.clone());
        }
        if self.traceparent.is_none() {
            self.traceparent.clone_from(&meta.traceparent);
            self.tracestate.clone_from(&meta.tracestate);
        }
        let context = &mut self.request_context;
        context.causation_id.get_or_insert_with(|| meta.id.clone());
        context.correlation_id.get_or_insert_with(|| cause.correlation_id().to_owned());
        self
    }

    /// The envelope as JSON.
    ///
    /// # Errors
    /// `InvalidField` of `data` or `metadata` when it cannot be written as JSON.
    pub fn to_body(&self) -> Result<Bytes, Problem> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let body = serde_json::to_vec(self)
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("the event cannot be written: {error}")))?;
        Ok(Bytes::from(body))
    }
}
