//! What a hub does now and then: each in a task of its own that outlives its panics, and that ends with the hub.

use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::ArbiterHandle;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::bulk::tidy_bulk;
use super::owner::{NoticeQueue, Noticed, keep_house};
use super::rotation::forget_old_secrets;
use super::{Hub, Inner};
use crate::ground::clock::SharedClock;
use crate::supervise::{ActorKind, keep_running};

/// Begins what is done now and then, each in a task of its own that outlives its panics.
pub(super) fn begin_housekeeping(core: &ArbiterHandle, inner: &Arc<Inner>, noticed: mpsc::UnboundedReceiver<Noticed>) {
    let keep = |life: Box<dyn Fn() -> BoxFuture<'static, ()> + Send>| {
        keep_running(core, ActorKind::House, &inner.health, &inner.house_panics, life);
    };
    let (hub, clock) = (Arc::downgrade(inner), Arc::clone(&inner.clock));
    let notices = Arc::new(NoticeQueue::new(noticed));
    keep(Box::new({
        let (hub, clock) = (hub.clone(), Arc::clone(&clock));
        move || keep_house(hub.clone(), Arc::clone(&notices), Arc::clone(&clock)).boxed()
    }));
    keep(Box::new({
        let hub = hub.clone();
        move || expire_consumers(hub.clone()).boxed()
    }));
    keep(Box::new({
        let (hub, clock) = (hub.clone(), Arc::clone(&clock));
        move || save_key_uses(hub.clone(), Arc::clone(&clock)).boxed()
    }));
    keep(Box::new({
        let (hub, clock) = (hub.clone(), Arc::clone(&clock));
        move || forget_old_secrets(hub.clone(), Arc::clone(&clock)).boxed()
    }));
    keep(Box::new({
        let (hub, clock) = (hub.clone(), Arc::clone(&clock));
        move || expire_quarantine(hub.clone(), Arc::clone(&clock)).boxed()
    }));
    keep(Box::new({
        let hub = hub.clone();
        move || tidy_bulk(hub.clone()).boxed()
    }));
    keep(Box::new(move || forget_old_keys(hub.clone(), Arc::clone(&clock)).boxed()));
}

/// How often idempotency keys whose time is over are forgotten.
const SWEEP_KEYS_EVERY: Duration = Duration::from_secs(60);

/// Forgets idempotency keys whose time is over, every now and then, until the hub ends.
async fn forget_old_keys(hub: Weak<Inner>, clock: SharedClock) {
    loop {
        clock.sleep(SWEEP_KEYS_EVERY).await;
        let Some(inner) = hub.upgrade() else { return };
        if let Err(error) = inner.idempotency.sweep().await {
            tracing::warn!(%error, "old idempotency keys are not taken out of the store yet");
        }
    }
}

/// How often it is written when keys were last used.
const KEY_USES_EVERY: Duration = Duration::from_secs(60);

/// Writes when keys were last used, every now and then, until the hub ends.
async fn save_key_uses(hub: Weak<Inner>, clock: SharedClock) {
    loop {
        clock.sleep(KEY_USES_EVERY).await;
        let Some(inner) = hub.upgrade() else { return };
        Hub { inner }.save_key_uses().await;
    }
}

/// How often it is looked for quarantined events that are too old.
const QUARANTINE_EVERY: Duration = Duration::from_secs(60);

/// Lets go of quarantined events that are too old, every now and then, until the hub ends.
async fn expire_quarantine(hub: Weak<Inner>, clock: SharedClock) {
    loop {
        clock.sleep(QUARANTINE_EVERY).await;
        let Some(inner) = hub.upgrade() else { return };
        // What fails is logged where it does.
        let hub = Hub { inner };
        let expired = hub.blocking(|hub| {
            hub.expire_quarantine();
            Ok(())
        });
        expired.await.ok();
    }
}

/// Removes ephemeral consumers when their time is over, until the hub ends. Sleeps while there are none.
async fn expire_consumers(hub: Weak<Inner>) {
    let Some((changed, clock)) =
        hub.upgrade().map(|inner| (Arc::clone(&inner.pulls.changed), Arc::clone(&inner.clock)))
    else {
        return;
    };
    loop {
        let Some(inner) = hub.upgrade() else { return };
        let next = Hub { inner }.expire_consumers().await;
        match next {
            Some(at) => tokio::select! {
                () = clock.sleep(Duration::from_millis(at.since_ms(clock.now()))) => {}
                () = changed.notified() => {}
            },
            None => changed.notified().await,
        }
    }
}
