//! The order as a pure rule: a state and a type of event in, what that comes to out.

use serde::{Deserialize, Serialize};

/// Types that a flag names as those that were in order.
const EXPECTED_MAX: usize = 10;

/// One step of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// From this state,
    pub from: String,
    /// to this one,
    pub to: String,
    /// by an event of this type.
    pub event_type: String,
}

/// The order that events of an aggregate are to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Every state.
    pub states: Vec<String>,
    /// Where an aggregate begins.
    pub initial: String,
    /// What leads where.
    pub transitions: Vec<Transition>,
}

/// What an event does to an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The order says nothing of its type.
    Unrelated,
    /// It leads here, as declared.
    Moves(&'a str),
    /// It breaks the order.
    Breaks {
        /// Where the aggregate stands since.
        now: &'a str,
        /// The types that would have been in order; the first of them.
        expected: Vec<&'a str>,
    },
}

impl Order {
    /// What an event of this type does to an aggregate in this state.
    #[must_use]
    pub fn step<'a>(&'a self, state: &'a str, event_type: &str) -> Step<'a> {
        let mut leads_to: Option<&str> = None;
        let mut leads_elsewhere = false;
        for transition in self.transitions.iter().filter(|one| one.event_type == event_type) {
            if transition.from == state {
                return Step::Moves(&transition.to);
            }
            leads_elsewhere |= leads_to.is_some_and(|to| to != transition.to);
            leads_to = Some(&transition.to);
        }
        let Some(leads_to) = leads_to else { return Step::Unrelated };
        let now = if leads_elsewhere { state } else { leads_to };
        let from_here = self.transitions.iter().filter(|one| one.from == state);
        Step::Breaks { now, expected: from_here.map(|one| one.event_type.as_str()).take(EXPECTED_MAX).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        let of = |from: &str, to: &str, event_type: &str| Transition {
            from: from.to_owned(),
            to: to.to_owned(),
            event_type: event_type.to_owned(),
        };
        Order {
            states: ["none", "open", "paid", "closed"].map(str::to_owned).to_vec(),
            initial: "none".to_owned(),
            transitions: vec![
                of("none", "open", "order.placed"),
                of("open", "paid", "order.paid"),
                of("paid", "closed", "order.closed"),
                of("open", "closed", "order.closed"),
                of("open", "open", "order.touched"),
                of("paid", "paid", "order.touched"),
            ],
        }
    }

    #[test]
    fn each_pair_of_state_and_type_comes_to_what_was_declared() {
        let order = order();
        let breaks = |now, expected: &[&'static str]| Step::Breaks { now, expected: expected.to_vec() };
        let open = ["order.paid", "order.closed", "order.touched"];
        for (state, event_type, wanted) in [
            ("none", "order.placed", Step::Moves("open")),
            ("none", "order.paid", breaks("paid", &["order.placed"])),
            ("none", "order.closed", breaks("closed", &["order.placed"])),
            ("none", "order.touched", breaks("none", &["order.placed"])),
            ("open", "order.placed", breaks("open", &open)),
            ("open", "order.paid", Step::Moves("paid")),
            ("open", "order.closed", Step::Moves("closed")),
            ("open", "order.touched", Step::Moves("open")),
            ("paid", "order.placed", breaks("open", &["order.closed", "order.touched"])),
            ("paid", "order.paid", breaks("paid", &["order.closed", "order.touched"])),
            ("paid", "order.touched", Step::Moves("paid")),
            ("closed", "order.touched", breaks("closed", &[])),
            ("closed", "order.paid", breaks("paid", &[])),
            ("open", "order.viewed", Step::Unrelated),
        ] {
            assert_eq!(order.step(state, event_type), wanted, "{event_type} at {state}");
        }
    }
}
