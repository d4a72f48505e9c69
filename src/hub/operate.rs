//! What operators do: keys, breakers, planned faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Hub, Key};
use crate::breaker::actor::{BreakerView, DOCUMENT_KIND, Inspect, Instruct};
use crate::breaker::state::{BreakerState, Phase};
use crate::breaker::{Breaker, BreakerSettings, Command, record};
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::ConsumerId;
use crate::ground::secret::Secret;
use crate::inbox::messages::Wake;
use crate::router::Inboxes as _;
use crate::store::Registry as _;
use crate::supervise::PanicNow;

fn state_json(id: &str, state: &BreakerState, probes: usize) -> Value {
    let (until, times_opened) = match state {
        BreakerState::Open { until, times_opened } => (Some(*until), *times_opened),
        BreakerState::Closed { times_opened, .. } | BreakerState::HalfOpen { times_opened, .. } => {
            (None, *times_opened)
        }
        BreakerState::ForcedOpen | BreakerState::Disabled => (None, 0),
    };
    json!({
        "id": id,
        "state": state.phase().as_str(),
        "until": until.map(UnixMs::to_rfc3339),
        "times_opened": times_opened,
        "probes_in_flight": probes,
    })
}

impl Hub {
    /// Makes an API key. Blocks. The text is returned this once.
    ///
    /// # Errors
    /// When a field does not fit, or the store fails.
    pub fn create_key(&self, fields: Fields, context: WriteContext) -> Result<(Arc<Key>, Secret), Problem> {
        self.inner.keys.create(fields, context, &*self.inner.random)
    }

    /// Writes when keys were last used. It is a note: when the store fails, it is written the next time.
    pub(super) async fn save_key_uses(&self) {
        if let Err(problem) = self.blocking(|hub| hub.inner.keys.save_uses()).await {
            tracing::warn!(%problem, "when keys were last used is not written yet");
        }
    }

    /// Every breaker. Those that do not run are read from the store; one that was never stored is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn breakers(&self) -> Result<Vec<Value>, Problem> {
        let stored = self
            .blocking(|hub| hub.inner.engine.list(DOCUMENT_KIND).map_err(|error| super::store_problem(&error)))
            .await?;
        let mut out = Vec::new();
        for webhook in self.inner.webhooks.all() {
            let id = ConsumerId::new(&webhook.id);
            let running = self.inner.directory.running_breaker(&id);
            let view = match running {
                Some(breaker) => breaker.ask(Inspect).await.ok(),
                None => None,
            };
            let view = view.unwrap_or_else(|| {
                let document = stored.iter().find(|document| document.key == webhook.id);
                let read = document.and_then(|one| record::decode(&one.bytes, BreakerSettings::default()).ok());
                let breaker = read.unwrap_or_else(|| Breaker::new(BreakerSettings::default()));
                BreakerView { state: breaker.state().clone(), probes: 0 }
            });
            out.push(state_json(&webhook.id, &view.state, view.probes));
        }
        for upstream in self.inner.upstreams.all() {
            if let Ok(view) = upstream.core.breaker.ask(Inspect).await {
                out.push(state_json(&upstream.core.id, &view.state, view.probes));
            }
        }
        Ok(out)
    }

    /// Commands a breaker; when it lets calls through after that, waiting deliveries go on at once.
    ///
    /// # Errors
    /// When there is no such breaker, or it is being restarted.
    pub async fn command_breaker(&self, id: &str, command: Command) -> Result<Value, Problem> {
        let consumer = ConsumerId::new(id);
        let of_upstream = self.inner.upstreams.get(id).map(|upstream| upstream.core.breaker.clone());
        let breaker = of_upstream
            .or_else(|| self.inner.directory.breaker(&consumer))
            .ok_or_else(|| Problem::not_found("breaker", id))?;
        let view = breaker
            .ask(Instruct(command))
            .await
            .map_err(|_| Problem::new(ProblemKind::Overloaded, "the breaker is being restarted"))?;
        if matches!(view.state.phase(), Phase::Closed | Phase::Disabled)
            && let Some(inbox) = self.inner.directory.running(&consumer)
        {
            inbox.hint(Wake);
        }
        if matches!(view.state.phase(), Phase::Closed | Phase::Disabled) {
            self.wake_publishes(id);
        }
        Ok(state_json(id, &view.state, view.probes))
    }

    /// Injects a fault by name; returns how many actors it hit, none when the name is not known.
    #[must_use]
    pub fn inject_fault(&self, name: &str) -> Option<usize> {
        tracing::warn!(fault = name, "fault injection");
        let inner = &self.inner;
        match name {
            "panic-outbox" => inner.outbox.hint(PanicNow),
            "panic-router" => inner.router.hint(PanicNow),
            "panic-schedule" => inner.schedule.hint(PanicNow),
            "panic-indexer" => inner.indexer.hint(PanicNow),
            "panic-upstreams" => return Some(inner.upstreams.panic_all()),
            "panic-jobs" => return Some(inner.jobs.panic_all()),
            "panic-consumers" => {
                let consumers = inner.directory.consumers();
                return Some(consumers.iter().map(|consumer| consumer.panic_all()).sum());
            }
            "panic-house" => return Some(inner.house_panics.panic_all()),
            "hold-answers" => inner.idempotency.hold_recordings(true),
            "fail-commit" => inner.engine.faults().fail_commits.store(1, Ordering::Relaxed),
            _ => return None,
        }
        Some(1)
    }
}
