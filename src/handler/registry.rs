//! Which handler takes which events: the subscriber registry (INB-3).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;

use super::context::HandlerContext;
use super::outcome::HandlerError;
use crate::event::envelope::Event;
use crate::event::filter::TypePattern;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::{CONSUMER_CHARS_MAX, HANDLERS_MAX};

/// Code that takes events. Async functions and closures of an event and a context are handlers.
pub trait EventHandler: Send + Sync + 'static {
    /// Takes one event. The future is dropped when the lease runs out before it ends.
    fn handle(&self, event: Arc<Event>, context: HandlerContext) -> BoxFuture<'static, Result<(), HandlerError>>;
}

impl<F, Fut> EventHandler for F
where
    F: Fn(Arc<Event>, HandlerContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    fn handle(&self, event: Arc<Event>, context: HandlerContext) -> BoxFuture<'static, Result<(), HandlerError>> {
        Box::pin(self(event, context))
    }
}

/// The closure itself; its types are then known to the compiler and need not be written:
/// `handler_fn(|event, context| async move { Ok(()) })`.
pub fn handler_fn<F, Fut>(handler: F) -> F
where
    F: Fn(Arc<Event>, HandlerContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    handler
}

/// Names one registration; never used twice within a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerId(u64);

/// A handler with what it was registered for.
#[derive(Clone)]
pub struct Registered {
    /// Its registration; later ones are larger.
    pub id: HandlerId,
    /// The types it takes.
    pub pattern: TypePattern,
    /// Whose handler it is.
    pub consumer: Arc<str>,
    /// Lower runs first.
    pub priority: i32,
    /// The code.
    pub handler: Arc<dyn EventHandler>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("id", &self.id)
            .field("pattern", &self.pattern)
            .field("consumer", &self.consumer)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Entries {
    next: u64,
    count: usize,
    /// Each consumer's handlers in the order they run. A consumer without handlers is not here.
    consumers: BTreeMap<Arc<str>, Vec<Registered>>,
}

/// The handlers of a hub. Shared; each call sees the registrations as of one moment.
#[derive(Default)]
pub struct HandlerRegistry(RwLock<Entries>);

impl fmt::Debug for HandlerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0.read().consumers).finish()
    }
}

impl HandlerRegistry {
    /// A registry without handlers.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Registers a handler for a type, `prefix.*` or `*`, under a consumer's name of `A-Z a-z 0-9 _ . -`, at most 127
    /// characters. The lower priority runs first; equal ones run in order of registration. One consumer may register
    /// several handlers for the same events: they run one after the other.
    ///
    /// # Errors
    /// `InvalidField` of `event_types` or `consumer`; `Conflict` when the registry is full (10,000 handlers).
    pub fn register(
        &self,
        pattern: &str,
        consumer: &str,
        priority: i32,
        handler: impl EventHandler,
    ) -> Result<HandlerId, Problem> {
        let pattern = TypePattern::parse(pattern)?;
        check_consumer_name(consumer)?;
        let handler: Arc<dyn EventHandler> = Arc::new(handler);
        let mut entries = self.0.write();
        if entries.count >= HANDLERS_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("at most {HANDLERS_MAX} handlers are registered")));
        }
        let id = HandlerId(entries.next);
        entries.next += 1;
        entries.count += 1;
        let name =
            entries.consumers.get_key_value(consumer).map_or_else(|| Arc::from(consumer), |(name, _)| Arc::clone(name));
        let own = entries.consumers.entry(Arc::clone(&name)).or_default();
        let place = own.partition_point(|other| other.priority <= priority);
        own.insert(place, Registered { id, pattern, consumer: name, priority, handler });
        Ok(id)
    }

    /// Every handler that takes events of this type, of all consumers, in the order they run.
    #[must_use]
    pub fn handlers_for(&self, event_type: &str) -> Vec<Registered> {
        let entries = self.0.read();
        let all = entries.consumers.values().flatten();
        let mut found: Vec<Registered> = all.filter(|known| known.pattern.matches(event_type)).cloned().collect();
        found.sort_by_key(|known| (known.priority, known.id));
        found
    }

    /// This consumer's handlers that take events of this type, in the order they run.
    #[must_use]
    pub fn handlers_of(&self, consumer: &str, event_type: &str) -> Vec<Registered> {
        let entries = self.0.read();
        let own = entries.consumers.get(consumer).map_or(&[][..], Vec::as_slice);
        own.iter().filter(|known| known.pattern.matches(event_type)).cloned().collect()
    }

    /// Whether any handler takes events of this type.
    #[must_use]
    pub fn has(&self, event_type: &str) -> bool {
        self.0.read().consumers.values().flatten().any(|known| known.pattern.matches(event_type))
    }

    /// The event names that handlers are registered for, each once, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = self.0.read();
        let names: BTreeSet<String> =
            entries.consumers.values().flatten().map(|known| known.pattern.to_string()).collect();
        names.into_iter().collect()
    }

    /// The consumers that have handlers, sorted.
    #[must_use]
    pub fn consumers(&self) -> Vec<Arc<str>> {
        self.0.read().consumers.keys().cloned().collect()
    }

    /// The handlers of a consumer.
    #[must_use]
    pub fn all_of(&self, consumer: &str) -> Vec<HandlerId> {
        self.0.read().consumers.get(consumer).into_iter().flatten().map(|known| known.id).collect()
    }

    /// What a consumer's handlers ask for, each pattern once, sorted: its filter. Empty when it has no handlers, which in
    /// an [`EventFilter`](crate::event::filter::EventFilter) would mean every type.
    #[must_use]
    pub fn patterns_of(&self, consumer: &str) -> Vec<TypePattern> {
        let entries = self.0.read();
        let own = entries.consumers.get(consumer).into_iter().flatten();
        let patterns: BTreeSet<TypePattern> = own.map(|known| known.pattern.clone()).collect();
        patterns.into_iter().collect()
    }

    /// How many handlers are registered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.read().count
    }

    /// Removes one handler; false when it is not there. A run that has begun ends.
    pub fn remove(&self, id: HandlerId) -> bool {
        let mut entries = self.0.write();
        let before = entries.count;
        entries.consumers.retain(|_, own| {
            own.retain(|known| known.id != id);
            !own.is_empty()
        });
        entries.count = entries.consumers.values().map(Vec::len).sum();
        entries.count < before
    }

    /// Removes every handler. Runs that have begun end.
    pub fn clear(&self) {
        let mut entries = self.0.write();
        entries.consumers.clear();
        entries.count = 0;
    }
}

/// Whether `name` can name an in-process consumer.
///
/// # Errors
/// `InvalidField` of `consumer`.
pub fn check_consumer_name(name: &str) -> Result<(), Problem> {
    const FIELD: &str = "consumer";
    if name.is_empty() {
        return Err(Problem::field(FIELD, "not empty", name));
    }
    if name.len() > CONSUMER_CHARS_MAX {
        return Err(Problem::field(FIELD, format!("at most {CONSUMER_CHARS_MAX} characters"), name));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
        return Err(Problem::field(FIELD, "a name of A-Z a-z 0-9 _ . -", name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing(_: Arc<Event>, _: HandlerContext) -> Result<(), HandlerError> {
        Ok(())
    }

    fn consumers(found: &[Registered]) -> Vec<&str> {
        found.iter().map(|known| &*known.consumer).collect()
    }

    #[test]
    fn handlers_run_by_priority_and_then_in_order_of_registration() {
        let registry = HandlerRegistry::new();
        for (pattern, consumer, priority) in [
            ("order.*", "b", 5),
            ("*", "last", 100),
            ("order.paid", "a", 5),
            ("order.*", "first", -1),
            ("x", "other", 0),
        ] {
            registry.register(pattern, consumer, priority, nothing).expect("registers");
        }
        assert_eq!(consumers(&registry.handlers_for("order.paid")), ["first", "b", "a", "last"]);
        assert_eq!(consumers(&registry.handlers_for("order")), ["last"]);
    }

    #[test]
    fn one_consumer_may_have_several_handlers() {
        let registry = HandlerRegistry::new();
        let late = registry.register("order.*", "ops", 9, nothing).expect("registers");
        let early = registry.register("order.paid", "ops", 1, nothing).expect("registers");
        registry.register("order.paid", "crm", 0, nothing).expect("registers");
        let ids: Vec<_> = registry.handlers_of("ops", "order.paid").iter().map(|known| known.id).collect();
        assert_eq!(ids, [early, late]);
        assert_eq!(registry.handlers_of("ops", "order.sent").len(), 1);
        assert!(registry.handlers_of("nobody", "order.paid").is_empty());
        let patterns: Vec<_> = registry.patterns_of("ops").iter().map(ToString::to_string).collect();
        assert_eq!(patterns, ["order.*", "order.paid"]);
    }

    #[test]
    fn a_registry_tells_what_it_holds_until_it_is_cleared() {
        let registry = HandlerRegistry::new();
        let first = registry.register("a.*", "one", 0, nothing).expect("registers");
        registry.register("a.*", "two", 0, nothing).expect("registers");
        assert_eq!((registry.count(), registry.names()), (2, vec!["a.*".to_owned()]));
        assert_eq!(registry.consumers().iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["one", "two"]);
        assert!(registry.has("a.b") && !registry.has("a"));

        assert!(registry.remove(first) && !registry.remove(first));
        assert_eq!((registry.count(), registry.consumers().len()), (1, 1));

        registry.clear();
        assert_eq!((registry.count(), registry.has("a.b"), registry.names().len()), (0, false, 0));
        let again = registry.register("a.*", "one", 0, nothing).expect("registers");
        assert!(again > first, "a registration's id is never used again");
    }

    #[test]
    fn a_bad_pattern_or_name_is_refused_and_nothing_is_registered() {
        let registry = HandlerRegistry::new();
        for pattern in ["", "*.paid", "a.*.b", "ord*", "a b", ".a"] {
            let problem = registry.register(pattern, "ops", 0, nothing).expect_err("is refused");
            assert_eq!(problem.field.as_deref(), Some("event_types"), "{pattern}");
        }
        for name in ["", "a b", "a/b", "ä", &"x".repeat(128)] {
            let problem = registry.register("*", name, 0, nothing).expect_err("is refused");
            assert_eq!(problem.field.as_deref(), Some("consumer"), "{name}");
        }
        assert_eq!(registry.count(), 0);
        registry.register("*", &"x".repeat(127), 0, nothing).expect("127 characters fit");
    }

    #[test]
    fn a_full_registry_refuses_more() {
        let registry = HandlerRegistry::new();
        for _ in 0..HANDLERS_MAX {
            registry.register("a", "ops", 0, nothing).expect("registers");
        }
        let problem = registry.register("a", "ops", 0, nothing).expect_err("is refused");
        assert_eq!(problem.kind, ProblemKind::Conflict);
    }
}
