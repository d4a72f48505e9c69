//! Rotation of webhooks' secrets (WHK-3): the new one is durable before it is told, the old one leaves the store when the
//! overlap ends.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Hub, Inner};
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::webhook::record::{OVERLAP_MS_DEFAULT, OVERLAP_MS_MAX, PreviousSecret, WebhookRecord};
use crate::webhook::signer::{Made, Signer};

/// Pause before an old secret that could not be taken out of the store is taken out again.
const AGAIN: Duration = Duration::from_secs(60);

impl Hub {
    /// Gives a webhook a new secret, which is returned this once. The one it had signs too for `overlap_ms`; a rotation
    /// within the overlap of another ends that one: the oldest secret is gone at once.
    ///
    /// # Errors
    /// When the webhook is not there, a field does not fit, or the store fails.
    pub async fn rotate_webhook_secret(
        &self,
        id: &str,
        org: Option<&str>,
        mut fields: Fields,
        context: WriteContext,
    ) -> Result<(Arc<WebhookRecord>, Made), Problem> {
        let before = self.webhook(id, org)?;
        let overlap_ms = fields.number("overlap_ms", 0, OVERLAP_MS_MAX)?.unwrap_or(OVERLAP_MS_DEFAULT);
        fields.finish()?;
        let made = Signer::generate(before.settings.signing, &*self.inner.random);
        let sealed_secret = self.seal(&made.secret, id);
        let (secret_last4, public_key) = (made.last4(), made.public_key.clone());
        let until = context.at.plus_ms(overlap_ms);
        let record = self
            .update_webhook(id, context, move |_, record| {
                let previous = PreviousSecret {
                    sealed_secret: std::mem::replace(&mut record.sealed_secret, sealed_secret),
                    secret_last4: std::mem::replace(&mut record.secret_last4, secret_last4),
                    public_key: std::mem::replace(&mut record.public_key, public_key),
                    until,
                };
                record.previous = (overlap_ms > 0).then_some(previous);
            })
            .await?;
        tracing::info!(webhook = id, overlap_ms, "the secret of a webhook was rotated");
        Ok((record, made))
    }

    /// Takes the old secrets whose overlap is over out of the store. Returns when the next one is over.
    async fn forget_old_secrets(&self) -> Result<Option<UnixMs>, Problem> {
        let now = self.inner.clock.now();
        let mut next = None;
        for record in self.inner.webhooks.all() {
            let Some(previous) = &record.previous else { continue };
            if previous.until > now {
                next = Some(next.map_or(previous.until, |next: UnixMs| next.min(previous.until)));
                continue;
            }
            let context = WriteContext { by: "hub".into(), at: now, ..WriteContext::default() };
            self.update_webhook(&record.id, context, move |_, record| {
                // It may have been rotated again meanwhile.
                record.previous = record.previous.take().filter(|previous| previous.until > now);
            })
            .await?;
        }
        Ok(next)
    }
}

/// Takes old secrets out of the store as their overlaps end, until the hub ends.
pub(super) async fn forget_old_secrets(hub: Weak<Inner>, clock: SharedClock) {
    loop {
        let Some(inner) = hub.upgrade() else { return };
        let hub_now = Hub { inner };
        let pause = match hub_now.forget_old_secrets().await {
            Ok(None) => AGAIN,
            Ok(Some(next)) => Duration::from_millis(next.since_ms(clock.now())).min(AGAIN),
            Err(problem) => {
                tracing::warn!(%problem, "an old secret is not taken out of the store yet");
                AGAIN
            }
        };
        // The hub is not held while nothing is done: it ends with its last handle.
        drop(hub_now);
        clock.sleep(pause).await;
    }
}
