//! A declared order as it is kept, as a client asks for it, and as the projection looks it up.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::rule::{Order, Transition};
use crate::event::parse::check_type_name;
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::ground::limits::{EVENT_TYPE_CHARS_MAX, SCOPE_CHARS_MAX};
use crate::store::lifecycle::Generation;

/// Most orders of a hub: how far each has been followed is one record.
pub const LIFECYCLES_MAX: usize = 500;
/// Most states of an order.
pub const STATES_MAX: usize = 50;
/// Most transitions of an order.
pub const TRANSITIONS_MAX: usize = 200;
/// Largest state, in characters.
pub const STATE_CHARS_MAX: usize = 64;

/// An order as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LifecycleRecord {
    /// Whose; empty for events without an org.
    pub org: String,
    /// Of aggregates of this type.
    pub aggregate_type: String,
    /// Tells this declaration from all others there were.
    pub generation: Generation,
    /// The newest event when it was declared: later ones are counted when they break it.
    pub since: Seq,
    /// The order.
    pub order: Order,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

impl LifecycleRecord {
    /// The order as clients see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "org": self.org,
            "aggregate_type": self.aggregate_type,
            "states": self.order.states,
            "initial": self.order.initial,
            "transitions": self.order.transitions,
            "since_seq": self.since.0,
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

/// The key of an order's document.
#[must_use]
pub fn lifecycle_key(org: &str, aggregate_type: &str) -> String {
    format!("{org}\u{1f}{aggregate_type}")
}

/// Reads the order a client declares.
///
/// # Errors
/// When a field does not fit.
pub fn read_lifecycle(mut fields: Fields, aggregate_type: &str) -> Result<Order, Problem> {
    let chars = aggregate_type.chars().count();
    if chars == 0 || chars > SCOPE_CHARS_MAX || aggregate_type.chars().any(char::is_control) {
        let limit = format!("1 to {SCOPE_CHARS_MAX} characters, no control characters");
        return Err(Problem::field("aggregate_type", limit, aggregate_type.escape_debug()));
    }
    let states = fields.texts("states", STATES_MAX, STATE_CHARS_MAX)?.unwrap_or_default();
    if states.is_empty() {
        return Err(Problem::field("states", "at least one state", "none"));
    }
    if let Some(at) = (1..states.len()).find(|at| states[..*at].contains(&states[*at])) {
        return Err(Problem::field(format!("states[{at}]"), "each state once", &states[at]));
    }
    let known = |field: &str, state: String| {
        if states.contains(&state) { Ok(state) } else { Err(Problem::field(field, "one of the states", state)) }
    };
    let initial = known("initial", fields.required_text("initial", STATE_CHARS_MAX)?)?;
    let value = fields.take("transitions").unwrap_or_default();
    let Value::Array(entries) = value else { return Err(Problem::field("transitions", "required, a list", value)) };
    if entries.is_empty() || entries.len() > TRANSITIONS_MAX {
        return Err(Problem::field("transitions", format!("1 to {TRANSITIONS_MAX} entries"), entries.len()));
    }
    let mut transitions: Vec<Transition> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let field = format!("transitions[{at}]");
        let Value::Object(mut map) = entry else { return Err(Problem::field(field, "an object", entry)) };
        let mut text = |name: &str| match map.remove(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(Problem::field(format!("{field}.{name}"), "required, a text", other.unwrap_or_default())),
        };
        let (from, to, event_type) = (text("from")?, text("to")?, text("event_type")?);
        if let Some(name) = map.keys().next() {
            let name = format!("{field}.{}", crate::ground::limits::clip(name, 64));
            return Err(Problem::unknown(name, "unknown; known are from, to, event_type"));
        }
        let place = format!("{field}.event_type");
        if event_type.is_empty() || event_type.chars().count() > EVENT_TYPE_CHARS_MAX {
            return Err(Problem::field(place, format!("1 to {EVENT_TYPE_CHARS_MAX} characters"), event_type));
        }
        check_type_name(&place, &event_type)?;
        let transition = Transition {
            from: known(&format!("{field}.from"), from)?,
            to: known(&format!("{field}.to"), to)?,
            event_type,
        };
        if transitions.iter().any(|one| one.from == transition.from && one.event_type == transition.event_type) {
            return Err(Problem::field(place, "one transition of a type from a state", transition.event_type));
        }
        transitions.push(transition);
    }
    fields.finish()?;
    Ok(Order { states, initial, transitions })
}

/// Every order, by org and type of aggregate.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    by_org: HashMap<String, HashMap<String, Arc<LifecycleRecord>>>,
}

impl Declared {
    /// The order of aggregates of this type.
    #[must_use]
    pub fn get(&self, org: &str, aggregate_type: &str) -> Option<&Arc<LifecycleRecord>> {
        self.by_org.get(org)?.get(aggregate_type)
    }

    /// Every order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<LifecycleRecord>> {
        self.by_org.values().flat_map(HashMap::values)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_org.is_empty()
    }

    /// Puts an order in.
    pub fn put(&mut self, record: LifecycleRecord) {
        let own = self.by_org.entry(record.org.clone()).or_default();
        own.insert(record.aggregate_type.clone(), Arc::new(record));
    }

    /// Takes an order out.
    pub fn remove(&mut self, org: &str, aggregate_type: &str) {
        if let Some(own) = self.by_org.get_mut(org) {
            own.remove(aggregate_type);
            if own.is_empty() {
                self.by_org.remove(org);
            }
        }
    }
}

/// The orders as they are now, and the word that they have changed.
#[derive(Debug, Default)]
pub struct DeclaredLifecycles {
    current: ArcSwap<Declared>,
    changed: Notify,
}

impl DeclaredLifecycles {
    /// As they are now.
    #[must_use]
    pub fn look(&self) -> Arc<Declared> {
        self.current.load_full()
    }

    /// Replaces them. Whoever changes them does so one at a time.
    pub fn change(&self, change: impl FnOnce(&mut Declared)) {
        let mut next = (*self.look()).clone();
        change(&mut next);
        self.current.store(Arc::new(next));
        self.changed.notify_one();
    }

    /// Ends when they have changed since the last time this ended. One waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_an_order_is_named() {
        let good = json!({"from": "a", "to": "b", "event_type": "x.y"});
        let with = |transitions: Value| json!({"states": ["a", "b"], "initial": "a", "transitions": transitions});
        for (value, field) in [
            (json!({}), "states"),
            (json!({"states": ["a", "a"]}), "states[1]"),
            (json!({"states": ["a"]}), "initial"),
            (json!({"states": ["a"], "initial": "c"}), "initial"),
            (json!({"states": ["a"], "initial": "a"}), "transitions"),
            (with(json!([])), "transitions"),
            (with(json!([1])), "transitions[0]"),
            (with(json!([{"from": "a", "to": "b"}])), "transitions[0].event_type"),
            (with(json!([{"from": "c", "to": "b", "event_type": "x"}])), "transitions[0].from"),
            (with(json!([{"from": "a", "to": "c", "event_type": "x"}])), "transitions[0].to"),
            (with(json!([{"from": "a", "to": "b", "event_type": "x..y"}])), "transitions[0].event_type"),
            (with(json!([good, {"from": "a", "to": "a", "event_type": "x.y"}])), "transitions[1].event_type"),
            (with(json!([{"from": "a", "to": "b", "event_type": "x", "why": 1}])), "transitions[0].why"),
        ] {
            let fields = Fields::parse(value.to_string().as_bytes()).expect("an object");
            assert_eq!(read_lifecycle(fields, "order").expect_err("refused").field.as_deref(), Some(field), "{value}");
        }
        let fields = Fields::parse(with(json!([good])).to_string().as_bytes()).expect("an object");
        assert_eq!(read_lifecycle(fields, "order").expect("fits").transitions.len(), 1);
    }
}
