//! What is asked about scheduled events: which wait, one of them, not to send it after all.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Hub, Page, store_problem};
use crate::event::envelope::Event;
use crate::event::redact::Audience;
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::schedule::{Cancel, Cancelled, Waiting};
use crate::store::{EventLog as _, ScheduleKey, ScheduleStore as _, StoreError};

/// The cursor of a list: the place of its last event.
fn cursor_of(key: ScheduleKey) -> String {
    format!("{}.{}", key.due_at.0, key.number)
}

fn read_cursor(text: &str) -> Result<ScheduleKey, Problem> {
    let read = || {
        let (due_at, number) = text.split_once('.')?;
        Some(ScheduleKey { due_at: UnixMs(due_at.parse().ok()?), number: number.parse().ok()? })
    };
    read().ok_or_else(|| super::bad_cursor(text))
}

impl Hub {
    /// The events that wait, in the order of their time. Blocks.
    ///
    /// # Errors
    /// For a cursor that is none; when the store fails.
    pub fn scheduled_events(
        &self,
        org: Option<&str>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Value>, Problem> {
        let after = cursor.map(read_cursor).transpose()?;
        let found = self.inner.book.after(after, org, limit + 1);
        let Page { items: found, next, has_more } =
            Page::first(found, limit, cursor.unwrap_or_default(), |last| cursor_of(last.key));
        let mut items = Vec::with_capacity(found.len());
        for one in &found {
            // What was released while the page was being read waits no longer.
            items.extend(self.scheduled_json(one)?.map(|(json, _)| json));
        }
        Ok(Page { items, next, has_more })
    }

    /// An event that waits, with its envelope as it was sent: JSON text. Blocks.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`], also for one of another org; when the store fails.
    pub fn scheduled_event(&self, id: &str, org: Option<&str>) -> Result<Vec<u8>, Problem> {
        let one = self.find_scheduled(id, org)?;
        let (json, event) = self.scheduled_json(&one)?.ok_or_else(|| absent(id))?;
        // The envelope is not built anew: its numbers and the order of its keys are the producer's.
        let mut out = json.to_string().into_bytes();
        out.pop();
        out.extend_from_slice(b",\"event\":");
        out.extend_from_slice(&event);
        out.push(b'}');
        Ok(out)
    }

    /// Takes an event that waits away: it never comes.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]; [`ProblemKind::Conflict`] when it was released already.
    pub async fn cancel_scheduled(&self, id: &str, org: Option<&str>) -> Result<(), Problem> {
        let (key_id, key_org) = (id.to_owned(), org.map(str::to_owned));
        let found = self.blocking(move |hub| hub.find_scheduled(&key_id, key_org.as_deref())).await?;
        let (reply, answer) = oneshot::channel();
        let away = || Problem::new(ProblemKind::Overloaded, "the schedule is being restarted; ask again");
        self.inner.schedule.tell(Cancel { key: found.key, reply }).map_err(|_| away())?;
        match answer.await.map_err(|_| away())?? {
            Cancelled::Yes => Ok(()),
            // It went while it was asked about.
            Cancelled::Absent => {
                let (key_id, key_org) = (id.to_owned(), org.map(str::to_owned));
                self.blocking(move |hub| hub.find_scheduled(&key_id, key_org.as_deref())).await?;
                Err(Problem::new(ProblemKind::Conflict, "it was scheduled again meanwhile; ask again"))
            }
        }
    }

    fn find_scheduled(&self, id: &str, org: Option<&str>) -> Result<Waiting, Problem> {
        let mut found = self.inner.book.find(org, id);
        if found.len() > 1 {
            return Err(Problem::field("org", "required: events of several orgs have this id", "nothing")
                .as_kind(ProblemKind::InvalidParameter));
        }
        if let Some(one) = found.pop() {
            return Ok(one);
        }
        let engine = &self.inner.engine;
        let logged = match org {
            Some(org) => engine.find(org, id),
            None => engine.find_all(id, 1).map(|found| found.first().copied()),
        };
        match logged.map_err(|error| store_problem(&error))? {
            Some(seq) => {
                Err(Problem::new(ProblemKind::Conflict, format!("the event is in the log already, at position {seq}")))
            }
            None => Err(absent(id)),
        }
    }

    /// What is told of an event that waits, and its envelope; none when it waits no longer.
    fn scheduled_json(&self, one: &Waiting) -> Result<Option<(Value, bytes::Bytes)>, Problem> {
        let failed = |error: StoreError| store_problem(&error);
        let Some(record) = self.inner.engine.scheduled(one.key).map_err(failed)? else { return Ok(None) };
        let created = record.created.to_json();
        let event: std::sync::Arc<Event> = crate::schedule::decode(one.key, record).map_err(failed)?;
        let json = json!({
            "id": &*one.id, "org": &*one.org, "type": event.meta.event_type, "source": event.meta.source,
            "deliver_at": one.key.due_at.to_rfc3339(), "bytes": one.bytes, "created": created,
        });
        Ok(Some((json, self.inner.redactor.shown(&event, Audience::Console).body.clone())))
    }
}

fn absent(id: &str) -> Problem {
    Problem::not_found("scheduled event", id)
}
