//! The cache of reads (UPS-3): bounded in entries and bytes, old by the injected clock, filled once at a time for each key.
//!
//! - `RC-1` For one key there is one fetch at a time; who comes meanwhile waits for its outcome, also when it is a failure.
//! - `RC-2` A key names the upstream, the read, the tenant, the question and the generation: what was fetched before a
//!   change or a clearing is never given after it.
//! - `RC-3` An entry is given as fresh for `cache_ms`, as stale for `stale_ms` after that, and then no more.

use std::sync::Arc;

use actix::ArbiterHandle;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use moka::future::Cache;
use serde_json::Value;
use tokio::sync::oneshot;

use super::call::{CallError, CallErrorKind};
use super::template::encode;
use crate::ground::clock::UnixMs;

/// What an entry costs besides its body, in bytes.
const ENTRY_OVERHEAD: usize = 512;

/// What a read has fetched.
#[derive(Debug)]
pub struct Entry {
    /// What the upstream said; none when it has no such thing.
    pub body: Option<Value>,
    /// When.
    pub fetched_at: UnixMs,
    bytes: usize,
}

impl Entry {
    /// An entry of now.
    #[must_use]
    pub fn new(body: Option<Value>, fetched_at: UnixMs) -> Self {
        // A value takes more room than its text; twice that is near enough for a bound.
        let bytes = body.as_ref().map_or(0, |body| 2 * body.to_string().len());
        Self { body, fetched_at, bytes }
    }

    /// How old it is, in milliseconds.
    #[must_use]
    pub fn age_ms(&self, now: UnixMs) -> u64 {
        now.since_ms(self.fetched_at)
    }
}

/// What a fetch came to.
pub type Fetched = Result<Arc<Entry>, CallError>;

/// How long what is fetched may be kept; not at all when it is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is.
    Yes,
    /// It is not.
    No,
}

type Flights = DashMap<String, Shared<BoxFuture<'static, Fetched>>>;

/// What reads have fetched.
#[derive(Clone)]
pub struct ReadCache {
    entries: Cache<String, Arc<Entry>>,
    flights: Arc<Flights>,
}

impl std::fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadCache").field("entries", &self.entries.entry_count()).finish_non_exhaustive()
    }
}

/// The key of an answer: `upstream:read:…`.
#[must_use]
pub fn key(upstream: &str, read: &str, tenant: Option<&str>, generation: u64, question: &str) -> String {
    // Ids have no colon, and the tenant is encoded: no two keys are alike that should not be.
    let tenant = tenant.map_or_else(String::new, |tenant| format!("@{}", encode(tenant)));
    format!("{upstream}:{read}:{generation}{tenant}:{question}")
}

/// Takes the flight out of the list when it ends, in whatever way.
struct Landing(Arc<Flights>, String);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.remove(&self.1);
    }
}

impl ReadCache {
    /// A cache of at most so many entries and bytes.
    #[must_use]
    pub fn new(entries_max: u64, bytes_max: u64) -> Self {
        // An entry weighs at least its share, so that one bound holds both.
        let share = usize::try_from(bytes_max / entries_max.max(1)).unwrap_or(usize::MAX);
        let weigh = move |key: &String, entry: &Arc<Entry>| {
            u32::try_from((key.len() + entry.bytes + ENTRY_OVERHEAD).max(share)).unwrap_or(u32::MAX)
        };
        let entries = Cache::builder().max_capacity(bytes_max).weigher(weigh).build();
        Self { entries, flights: Arc::default() }
    }

    /// What is there under this key, however old.
    pub async fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key).await
    }

    /// Has `fetch` made on `arbiter`, unless it is under way for this key, and waits for its outcome. It ends whether the
    /// caller waits or not.
    pub async fn fetch(
        &self,
        key: &str,
        arbiter: &ArbiterHandle,
        keep: Keep,
        fetch: impl Future<Output = Fetched> + Send + 'static,
    ) -> Fetched {
        let (flight, lead) = match self.flights.entry(key.to_owned()) {
            Slot::Occupied(slot) => (slot.get().clone(), None),
            Slot::Vacant(slot) => {
                let (sender, receiver) = oneshot::channel::<Fetched>();
                let broken = || Err(CallError::new(CallErrorKind::Internal, "the read was given up"));
                let flight = receiver.map(move |got| got.unwrap_or_else(|_| broken())).boxed().shared();
                (slot.insert(flight).value().clone(), Some(sender))
            }
        };
        if let Some(sender) = lead {
            let (landing, entries, key) =
                (Landing(Arc::clone(&self.flights), key.to_owned()), self.entries.clone(), key.to_owned());
            let work = async move {
                let fetched = fetch.await;
                if let (Ok(entry), Keep::Yes) = (&fetched, keep) {
                    entries.insert(key, Arc::clone(entry)).await;
                }
                // Whoever comes after this finds the entry.
                drop(landing);
                // Everyone who waited may have gone away.
                sender.send(fetched).ok();
            };
            // Dropped with its sender when the thread has ended: then the flight ends, too.
            arbiter.spawn(work);
        }
        flight.await
    }

    /// Takes out everything whose key begins so. Returns how many there were.
    pub async fn clear(&self, upstream: &str) -> usize {
        let prefix = format!("{upstream}:");
        let found: Vec<Arc<String>> =
            self.entries.iter().map(|(key, _)| key).filter(|key| key.starts_with(&prefix)).collect();
        for key in &found {
            self.entries.invalidate(&**key).await;
        }
        found.len()
    }

    /// Entries and bytes now, as far as they have been counted.
    pub async fn size(&self) -> (u64, u64) {
        self.entries.run_pending_tasks().await;
        (self.entries.entry_count(), self.entries.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;

    fn entry(body: &Value) -> Arc<Entry> {
        Arc::new(Entry::new(Some(body.clone()), UnixMs(1)))
    }

    #[test]
    fn keys_that_mean_another_thing_are_others() {
        let all = [
            key("crm", "contact", None, 1, "/x"),
            key("crm", "contact", None, 2, "/x"),
            key("crm", "contact", Some("acme"), 1, "/x"),
            key("crm", "contact", Some("acme:"), 1, "/x"),
            key("crm", "contact", Some("acme"), 1, ":/x"),
            key("crm", "history", None, 1, "/x"),
            key("erp", "contact", None, 1, "/x"),
        ];
        let mut unique = all.to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
        assert!(all.iter().all(|key| key.starts_with("crm:") || key.starts_with("erp:")));
    }

    #[actix::test]
    async fn one_fetch_serves_all_who_wait_also_when_it_fails() {
        let cache = ReadCache::new(100, 1 << 20);
        let (calls, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        for fails in [true, false] {
            calls.store(0, Ordering::SeqCst);
            let waiters: Vec<_> = (0..5)
                .map(|_| {
                    let (cache, calls, go) = (cache.clone(), Arc::clone(&calls), Arc::clone(&go));
                    actix::spawn(async move {
                        let fetch = async move {
                            calls.fetch_add(1, Ordering::SeqCst);
                            go.notified().await;
                            if fails {
                                Err(CallError::new(CallErrorKind::Timeout, "late"))
                            } else {
                                Ok(entry(&json!(7)))
                            }
                        };
                        cache.fetch("crm:contact:x", &actix::Arbiter::current(), Keep::Yes, fetch).await
                    })
                })
                .collect();
            while calls.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            go.notify_one();
            for waiter in waiters {
                let outcome = waiter.await.expect("no panic");
                assert_eq!(outcome.is_err(), fails);
            }
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            assert_eq!(cache.get("crm:contact:x").await.is_some(), !fails, "failures are not kept");
        }
        assert!(cache.flights.is_empty());
    }

    #[actix::test]
    async fn a_fetch_goes_on_when_who_asked_for_it_goes_away_and_one_that_panics_leaves_nothing_behind() {
        let cache = ReadCache::new(100, 1 << 20);
        let arbiter = actix::Arbiter::new();
        let go = Arc::new(Notify::new());
        let waited = Arc::clone(&go);
        let fetch = async move {
            waited.notified().await;
            Ok(entry(&json!(1)))
        };
        let handle = arbiter.handle();
        {
            let asking = cache.fetch("k", &handle, Keep::Yes, fetch);
            assert!(asking.now_or_never().is_none(), "it is under way");
        }
        go.notify_one();
        while cache.get("k").await.is_none() {
            tokio::task::yield_now().await;
        }
        let panics = async { panic!("planned") };
        let outcome = cache.fetch("p", &handle, Keep::Yes, panics).await;
        assert_eq!(outcome.expect_err("given up").kind, CallErrorKind::Internal);
        assert!(cache.flights.is_empty());
        arbiter.stop();
    }

    #[actix::test]
    async fn the_cache_keeps_within_its_entries_and_bytes_and_is_cleared_by_upstream() {
        let arbiter = actix::Arbiter::current();
        let cache = ReadCache::new(10, 100_000);
        for n in 0..50 {
            let fetch = async { Ok(entry(&json!("x"))) };
            cache.fetch(&format!("crm:r:{n}"), &arbiter, Keep::Yes, fetch).await.expect("fetched");
        }
        let (entries, bytes) = cache.size().await;
        assert!(entries <= 10 && bytes <= 100_000, "{entries} entries, {bytes} bytes");
        let cache = ReadCache::new(1_000, 100_000);
        for n in 0..50 {
            let fetch = async { Ok(entry(&json!("x".repeat(5_000)))) };
            cache.fetch(&format!("crm:r:{n}"), &arbiter, Keep::Yes, fetch).await.expect("fetched");
        }
        let (_, bytes) = cache.size().await;
        assert!(bytes <= 100_000, "{bytes} bytes");
        let fetch = async { Ok(entry(&json!("x"))) };
        cache.fetch("crm2:r:1", &arbiter, Keep::Yes, fetch).await.expect("fetched");
        let kept = async { Ok(entry(&json!("x"))) };
        cache.fetch("crm:once", &arbiter, Keep::No, kept).await.expect("fetched");
        assert!(cache.get("crm:once").await.is_none());
        assert!(cache.clear("crm").await > 0);
        assert_eq!(cache.clear("crm").await, 0);
        assert!(cache.get("crm2:r:1").await.is_some());
    }
}
