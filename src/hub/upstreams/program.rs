//! Upstreams in code: a program's own adapters. They are called as every upstream is, and no restart of the hub knows them.

use std::sync::Arc;

use crate::ground::error::{Problem, ProblemKind};
use crate::hub::Hub;
use crate::ratelimit::RateLimit;
use crate::retry::RetryPolicy;
use crate::upstream::Adapter;
use crate::upstream::perform::{Rules, Served};
use crate::upstream::record::{CONCURRENCY_DEFAULT, TOTAL_MS_DEFAULT};

/// The rules of a program's own adapter.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// The tenant whose it is; none when it serves all of them.
    pub org: Option<String>,
    /// Its rules.
    pub rules: Rules,
}

impl AdapterOptions {
    /// The rules of the presets of this name: retry and breaker, and the rate where there is one.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let breaker = crate::breaker::BreakerSettings::preset(name)?;
        let attempt_ms = breaker.call_timeout_ms.unwrap_or(TOTAL_MS_DEFAULT);
        let (retry, rate_limit) = (RetryPolicy::preset(name)?, RateLimit::preset(name));
        Some(Self {
            org: None,
            rules: Rules { retry, breaker, rate_limit, attempt_ms, concurrency: CONCURRENCY_DEFAULT },
        })
    }

    /// The same for one tenant.
    #[must_use]
    pub fn for_org(mut self, org: &str) -> Self {
        self.org = Some(org.to_owned());
        self
    }
}

impl Default for AdapterOptions {
    fn default() -> Self {
        let breaker = crate::breaker::BreakerSettings::default();
        let retry = RetryPolicy::Fixed { attempts_max: 3, delays_ms: vec![1_000, 2_000, 4_000], jitter: 0.0 };
        let rules =
            Rules { retry, breaker, rate_limit: None, attempt_ms: TOTAL_MS_DEFAULT, concurrency: CONCURRENCY_DEFAULT };
        Self { org: None, rules }
    }
}

impl Hub {
    /// Registers a program's own adapter; it is called as every upstream is, and no restart of the hub knows it.
    ///
    /// ```no_run
    /// # use futures_util::future::{BoxFuture, FutureExt as _};
    /// # use tidegate::upstream::call::Reply;
    /// use tidegate::hub::{AdapterOptions, Hub};
    /// use tidegate::upstream::{Adapter, AdapterContext, Call, CallError};
    ///
    /// struct Stock;
    ///
    /// impl Adapter for Stock {
    ///     fn id(&self) -> &str {
    ///         "stock"
    ///     }
    ///     fn version(&self) -> &str {
    ///         "2.0.1"
    ///     }
    ///     fn validate(&self, _: &Call, _: &AdapterContext) -> Result<(), CallError> {
    ///         Ok(())
    ///     }
    ///     fn execute<'a>(&'a self, _: &'a Call, _: &'a AdapterContext) -> BoxFuture<'a, Result<Reply, CallError>> {
    ///         async { Ok(Reply::json(200, &serde_json::json!({ "pieces": 12 }))) }.boxed()
    ///     }
    ///     fn health_check<'a>(&'a self, _: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>> {
    ///         async { Ok(()) }.boxed()
    ///     }
    /// }
    ///
    /// # async fn example(hub: &Hub) -> anyhow::Result<()> {
    /// hub.register_adapter(Stock, AdapterOptions::preset("erp").unwrap_or_default())?;
    /// let context = AdapterContext::new(Some("acme"), hub.clock().now());
    /// let answer = hub.call_upstream("stock", Call { operation: "count".into(), ..Call::default() }, context).await?;
    /// println!("{} after {} attempts", answer.body["pieces"], answer.attempts);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When its id, version or rules do not fit, the id is taken, or there are as many upstreams as there may be
    /// ([`UPSTREAMS_MAX`](crate::upstream::service::UPSTREAMS_MAX)).
    pub fn register_adapter(&self, adapter: impl Adapter, options: AdapterOptions) -> Result<(), Problem> {
        let AdapterOptions { org, rules } = options;
        self.inner.upstreams.register(Served::new(Arc::new(adapter), org, rules)).map(|_| ())
    }

    /// Takes a program's own adapter away.
    ///
    /// # Errors
    /// When there is none of this id, or it is declared.
    pub async fn remove_adapter(&self, id: &str) -> Result<(), Problem> {
        if self.inner.declared_upstreams.by_id.contains_key(id) {
            return Err(Problem::new(ProblemKind::Conflict, "the upstream is declared; delete its declaration"));
        }
        self.inner.upstreams.remove(id).await.map(|_| ()).ok_or_else(|| Problem::not_found("upstream", id))
    }
}
