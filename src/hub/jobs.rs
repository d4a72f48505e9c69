//! Jobs as clients see them: listed, shown, cancelled.

use serde_json::Value;

use super::{Hub, Page};
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::job::JobFilter;

impl Hub {
    /// Jobs, newest first.
    #[must_use]
    pub fn jobs(&self, filter: &JobFilter) -> Page<Value> {
        let (items, has_more) = self.inner.jobs.list(filter);
        let next = items.last().and_then(|last| last["id"].as_str()).map(str::to_owned);
        Page { items, next: next.or_else(|| filter.before.clone()).unwrap_or_default(), has_more }
    }

    /// A job that this org may see.
    ///
    /// # Errors
    /// [`crate::ground::error::ProblemKind::NotFound`], also for one of another org.
    pub fn job(&self, id: &str, org: Option<&str>) -> Result<Value, Problem> {
        let (record, waits_for) = self.inner.jobs.get(id, org)?;
        Ok(record.to_json(waits_for.as_deref()))
    }

    /// Ends a job. What it has handed on stays so.
    ///
    /// # Errors
    /// When there is none of this id for this org, it has ended, or the store fails.
    pub async fn cancel_job(&self, id: &str, org: Option<&str>, context: WriteContext) -> Result<Value, Problem> {
        let (id, org) = (id.to_owned(), org.map(str::to_owned));
        let cancelled =
            self.blocking(move |hub| Ok(hub.inner.jobs.cancel(&id, org.as_deref(), context)?.to_json(None))).await?;
        // Its files go with it, if it has any.
        self.inner.bulk.wants_tidying();
        Ok(cancelled)
    }
}
