//! Declared orders of aggregates as a service (CAT-3).

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::{Documents, Hub, Page, store_problem};
use crate::catalog::aggregate::{
    DeclaredLifecycles, LIFECYCLES_MAX, LifecycleActor, LifecycleRecord, lifecycle_key, read_lifecycle,
};
use crate::event::envelope::Event;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::store::lifecycle::{Flag, Generation};
use crate::store::{EventLog as _, LifecycleStore as _};
use crate::supervise::Handle;

/// Flags looked at for one page.
const LOOKED_AT_MAX: usize = 20_000;

/// Every declared order, in the store and in memory, and the actor that follows them.
pub(super) struct Lifecycles {
    documents: Documents<LifecycleRecord>,
    declared: Arc<DeclaredLifecycles>,
    actor: OnceLock<Handle<LifecycleActor>>,
    /// Changes are made one at a time.
    changing: parking_lot::Mutex<()>,
}

impl Lifecycles {
    pub(super) fn load(documents: Documents<LifecycleRecord>) -> Result<Self, Problem> {
        let declared = Arc::new(DeclaredLifecycles::default());
        let stored = documents.list()?;
        if !stored.is_empty() {
            declared.change(|all| stored.into_iter().for_each(|(record, _)| all.put(record)));
        }
        Ok(Self { documents, declared, actor: OnceLock::new(), changing: parking_lot::Mutex::new(()) })
    }

    /// The orders for who follows them.
    pub(super) fn declared(&self) -> Arc<DeclaredLifecycles> {
        Arc::clone(&self.declared)
    }

    /// Holds the actor for as long as the hub lives.
    pub(super) fn keep(&self, actor: Handle<LifecycleActor>) {
        self.actor.get_or_init(|| actor);
    }
}

fn absent(aggregate_type: &str) -> Problem {
    Problem::not_found("lifecycle of aggregates of this type", aggregate_type)
}

fn flag_json(seq: Seq, flag: &Flag) -> Value {
    json!({
        "seq": seq.0,
        "event_id": flag.event_id,
        "type": flag.event_type,
        "aggregate_id": flag.aggregate_id,
        "state": flag.state,
        "state_after": flag.now,
        "expected": flag.expected,
    })
}

impl Hub {
    /// Declares the order of aggregates of a type, or another one in its place, which is followed anew from the first event
    /// there is. The same order again changes nothing. True when there was none. Blocks.
    ///
    /// # Errors
    /// When a field does not fit, there are too many, or the store fails.
    pub fn put_lifecycle(
        &self,
        org: &str,
        aggregate_type: &str,
        fields: Fields,
        context: WriteContext,
    ) -> Result<(Value, bool), Problem> {
        let order = read_lifecycle(fields, aggregate_type)?;
        let lifecycles = &self.inner.lifecycles;
        let _one_at_a_time = lifecycles.changing.lock();
        let declared = lifecycles.declared.look();
        let before = declared.get(org, aggregate_type);
        if let Some(before) = before.filter(|before| before.order == order) {
            return Ok((before.to_json(), false));
        }
        if before.is_none() && declared.all().count() >= LIFECYCLES_MAX {
            let text = format!("a hub has at most {LIFECYCLES_MAX} lifecycles");
            return Err(Problem::new(ProblemKind::Conflict, text));
        }
        let key = lifecycle_key(org, aggregate_type);
        let revision = lifecycles.documents.get(&key)?.map(|(_, revision)| revision);
        let mut number = [0_u8; 8];
        self.inner.random.fill(&mut number);
        let record = LifecycleRecord {
            org: org.to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            generation: Generation(u64::from_be_bytes(number)),
            since: self.inner.engine.head(),
            order,
            created: before.map_or_else(|| context.clone(), |before| before.created.clone()),
            updated: context,
        };
        lifecycles.documents.put(&key, &record, revision)?;
        let (json, new) = (record.to_json(), before.is_none());
        lifecycles.declared.change(|all| all.put(record));
        Ok((json, new))
    }

    /// Takes a declaration back: its flags count no longer. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org; when the store fails.
    pub fn delete_lifecycle(&self, org: &str, aggregate_type: &str) -> Result<(), Problem> {
        let lifecycles = &self.inner.lifecycles;
        let _one_at_a_time = lifecycles.changing.lock();
        self.declared_lifecycle(org, aggregate_type)?;
        lifecycles.documents.delete(&lifecycle_key(org, aggregate_type))?;
        lifecycles.declared.change(|all| all.remove(org, aggregate_type));
        Ok(())
    }

    fn declared_lifecycle(&self, org: &str, aggregate_type: &str) -> Result<Arc<LifecycleRecord>, Problem> {
        let declared = self.inner.lifecycles.declared.look();
        declared.get(org, aggregate_type).cloned().ok_or_else(|| absent(aggregate_type))
    }

    /// A declared order.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org.
    pub fn lifecycle(&self, org: &str, aggregate_type: &str) -> Result<Value, Problem> {
        Ok(self.declared_lifecycle(org, aggregate_type)?.to_json())
    }

    /// Declared orders by org and type of aggregate.
    #[must_use]
    pub fn lifecycles(&self, org: Option<&str>, after: Option<&str>, limit: usize) -> Page<Value> {
        let declared = self.inner.lifecycles.declared.look();
        // A type of aggregate may hold what stands between the two in a key; a cursor is only compared.
        let place = |record: &LifecycleRecord| format!("{}|{}", record.org, record.aggregate_type);
        let fits = |record: &&Arc<LifecycleRecord>| {
            org.is_none_or(|org| org == record.org) && after.is_none_or(|after| place(record).as_str() > after)
        };
        let mut found: Vec<&Arc<LifecycleRecord>> = declared.all().filter(fits).collect();
        found.sort_by_cached_key(|record| place(record));
        Page::first(found, limit, after.unwrap_or_default(), |last| place(last)).map(|record| record.to_json())
    }

    /// Events that broke a declared order, in order of position. A page may end early, with a cursor. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for an order of another org; when the store fails.
    pub fn lifecycle_flags(
        &self,
        org: &str,
        aggregate_type: &str,
        after: Seq,
        limit: usize,
    ) -> Result<Page<Value>, Problem> {
        let generation = self.declared_lifecycle(org, aggregate_type)?.generation;
        let fits = |flag: &Flag| flag.generation == generation;
        let found = self.inner.engine.flags_after(after, limit + 1, LOOKED_AT_MAX, &fits);
        let found = found.map_err(|error| store_problem(&error))?;
        let page = Page::first(found, limit, &after.0.to_string(), |(seq, _)| seq.0.to_string());
        Ok(page.map(|(seq, flag)| flag_json(seq, &flag)))
    }

    /// Where an aggregate stands. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for an order of another org; when the store fails.
    pub fn aggregate_place(&self, org: &str, aggregate_type: &str, id: &str) -> Result<Value, Problem> {
        let record = self.declared_lifecycle(org, aggregate_type)?;
        let place = self.inner.engine.place(record.generation, id).map_err(|error| store_problem(&error))?;
        let (state, seq) = place.map_or((record.order.initial.clone(), None), |place| (place.state, Some(place.seq.0)));
        Ok(json!({ "aggregate_type": aggregate_type, "aggregate_id": id, "state": state, "seq": seq }))
    }

    /// What the declared order of its aggregate says of an event: null when there is none, or it is no matter of it, or it
    /// kept it. Blocks.
    pub(super) fn lifecycle_of(&self, event: &Event) -> Result<Value, Problem> {
        let declared = self.inner.lifecycles.declared.look();
        let kind = event.meta.aggregate_type.as_deref();
        let Some(record) = kind.and_then(|kind| declared.get(&event.meta.org, kind)) else { return Ok(Value::Null) };
        let flag = self.inner.engine.flag(event.seq).map_err(|error| store_problem(&error))?;
        let flag = flag.filter(|flag| flag.generation == record.generation);
        Ok(flag.map_or(Value::Null, |flag| {
            let mut json = flag_json(event.seq, &flag);
            json["flagged"] = Value::Bool(true);
            json
        }))
    }
}
