//! What a handler is given beside the event (INB-4).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::publish::{NewEvent, Publisher, Receipt};
use crate::event::envelope::Event;
use crate::event::json::members;
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::error::Problem;
use crate::ground::ids::Seq;
use crate::inbox::messages::{LeaseLost, Renewal};
use crate::inbox::spec::ConsumerSpec;
use crate::link::Links;

/// How long a claim may still be worked at, as its holder knows it. Never shorter than the inbox means it to be, which
/// counts from when it gave the claim out.
pub(super) struct Lease {
    renewal: Renewal,
    /// Milliseconds since 1970.
    until: AtomicU64,
    spec: Arc<ArcSwap<ConsumerSpec>>,
    clock: SharedClock,
}

impl Lease {
    pub(super) fn begin(renewal: Renewal, spec: Arc<ArcSwap<ConsumerSpec>>, clock: SharedClock) -> Self {
        let until = clock.now().plus_ms(spec.load().rules.lease_ms);
        Self { renewal, until: AtomicU64::new(until.0), spec, clock }
    }

    fn until(&self) -> UnixMs {
        UnixMs(self.until.load(Ordering::Acquire))
    }

    async fn renew(&self) -> Result<(), LeaseLost> {
        self.renewal.renew().await?;
        let until = self.clock.now().plus_ms(self.spec.load().rules.lease_ms);
        self.until.fetch_max(until.0, Ordering::AcqRel);
        Ok(())
    }

    /// Ends when the lease has run out; renewals meanwhile put it off.
    pub(super) async fn ended(&self) {
        loop {
            let left_ms = self.until().since_ms(self.clock.now());
            if left_ms == 0 {
                return;
            }
            self.clock.sleep(Duration::from_millis(left_ms)).await;
        }
    }
}

/// One attempt of one event, as its handlers see it. Cheap to clone.
#[derive(Clone)]
pub struct HandlerContext(Arc<Attempt>);

pub(super) struct Attempt {
    pub(super) consumer: Arc<str>,
    pub(super) event: Arc<Event>,
    pub(super) number: u32,
    pub(super) lease: Lease,
    pub(super) span: tracing::Span,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) links: Links,
}

impl fmt::Debug for HandlerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerContext")
            .field("consumer", &self.0.consumer)
            .field("seq", &self.0.event.seq)
            .field("attempt", &self.0.number)
            .finish_non_exhaustive()
    }
}

impl HandlerContext {
    pub(super) fn new(attempt: Attempt) -> Self {
        Self(Arc::new(attempt))
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.0.lease
    }

    pub(super) fn event(&self) -> &Event {
        &self.0.event
    }

    /// The consumer whose handler this is.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.0.consumer
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.number
    }

    /// The event's position in the log, which names its entry in the consumer's inbox.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.0.event.seq
    }

    /// The event's id, the same at every attempt.
    #[must_use]
    pub fn event_id(&self) -> &str {
        &self.0.event.meta.id
    }

    /// The conversation the event belongs to: its correlation id, or its own id where it has none and so begins one.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        let meta = &self.0.event.meta;
        meta.correlation_id.as_deref().unwrap_or(&meta.id)
    }

    /// The event that caused this one (`request_context.causation_id`), where the producer named it.
    #[must_use]
    pub fn causation_id(&self) -> Option<String> {
        let text = self.0.event.text(self.0.event.meta.request_context?);
        let member = members(text).find(|member| &*member.name == b"causation_id")?;
        serde_json::from_slice(text.get(member.value)?).ok()
    }

    /// The span of this attempt, with consumer, event, attempt and correlation id. The handler runs in it; work that it
    /// spawns can be put into it.
    #[must_use]
    pub fn span(&self) -> &tracing::Span {
        &self.0.span
    }

    /// The links of the event's org. What is made through them keeps the handler's name and the conversation. A handler may
    /// be called again for the same event: a link made again is the one that is there.
    ///
    /// ```
    /// use tidegate::handler::{HandlerContext, HandlerError};
    /// use tidegate::link::{Entity, LinkType, NewLink};
    ///
    /// async fn on_customer_created(context: HandlerContext) -> Result<(), HandlerError> {
    ///     let (contact, customer) = (Entity::new("crm", "contact", "17"), Entity::new("erp", "customer", "C-9"));
    ///     context.links().create(NewLink::new(contact, customer, LinkType::Reference)).await?;
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.0.links
    }

    /// When the lease runs out unless it is renewed: the handler's future is dropped then.
    #[must_use]
    pub fn lease_until(&self) -> UnixMs {
        self.0.lease.until()
    }

    /// Asks for the whole lease time anew, from now (OUT-6).
    ///
    /// # Errors
    /// [`LeaseLost`] when the event was settled or may be given out again: what the handler does from here on is done
    /// twice, and its answer is refused.
    pub async fn renew(&self) -> Result<(), LeaseLost> {
        self.0.lease.renew().await
    }

    /// Publishes a follow-up event: this event is its cause, and where the new one says nothing else, it has this one's
    /// correlation id (or else id), org and trace context. Not cancel-safe: when the lease runs out meanwhile, the event
    /// may be in the log or not; with an id of its own the next attempt publishes it once.
    ///
    /// # Errors
    /// What a producer would be told.
    pub async fn publish(&self, event: NewEvent) -> Result<Receipt, Problem> {
        let body = event.following(self).to_body()?;
        self.0.publisher.publish(body).await
    }
}
