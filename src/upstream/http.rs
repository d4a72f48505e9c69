//! A declared HTTP upstream as an adapter (UPS-2).
//!
//! It sends to its own base URL and nowhere else, under the guard that webhooks have; no redirect is followed. What a
//! call carries beside its own headers: the credential of its tenant, `X-Correlation-ID`, the trace, and
//! `X-Idempotency-Key` where the call has one (UPS-6).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::adapter::{Adapter, AdapterContext};
use super::call::{Call, CallError, CallErrorKind, Method, Payload, Reply};
use super::credential::{Credential, Source};
use crate::ground::clock::{SharedClock, UnixMs};
use crate::ground::secret::Secret;
use crate::retry::{AttemptResult, classify_status};
use crate::webhook::access::Access;
use crate::webhook::auth::{Auth, Credentials};
use crate::webhook::guard::AddressPolicy;
use crate::webhook::outbound::{Fetched, Outbound, OutboundSettings, Request, visible};

/// Most that is read of an answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Largest body that is sent, in bytes.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Longest path with its query, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 << 10;
/// A secret of the environment or a file is read again when it is older than this, in milliseconds.
pub const READ_AGAIN_MS: u64 = 30_000;

static CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");
static IDEMPOTENCY: HeaderName = HeaderName::from_static("x-idempotency-key");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What an HTTP adapter is made of.
pub struct HttpParts {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its base URL, without a slash at the end.
    pub base_url: String,
    /// What a health check asks; none for the base URL.
    pub health_path: Option<String>,
    /// Time for one request, in milliseconds.
    pub request_ms: u64,
    /// Where it may be.
    pub policy: AddressPolicy,
    /// How requests are made.
    pub outbound: OutboundSettings,
    /// Credentials by tenant; that of `""` is for those who have none.
    pub credentials: BTreeMap<String, Credential>,
    /// Time.
    pub clock: SharedClock,
}

/// A credential that is ready to be used.
#[derive(Debug)]
struct Ready {
    auth: Auth,
    access: Access,
    hide: Vec<Secret>,
}

/// A credential, and what was last read of it.
struct Held {
    credential: Credential,
    ready: Mutex<Option<(Arc<Ready>, UnixMs)>>,
}

/// A declared HTTP upstream.
pub struct HttpAdapter {
    id: String,
    version: String,
    base: String,
    place: String,
    health_path: Option<String>,
    request_ms: u64,
    policy: Arc<AddressPolicy>,
    settings: OutboundSettings,
    /// Made at the first call, on the thread that makes the calls: its connections belong there.
    client: OnceLock<Result<Outbound, String>>,
    credentials: BTreeMap<String, Held>,
    clock: SharedClock,
}

impl std::fmt::Debug for HttpAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpAdapter").field("id", &self.id).field("base", &self.base).finish_non_exhaustive()
    }
}

/// How a credential is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// As it was read last, unless that is long ago.
    Recent,
    /// Read anew: what was read before was refused.
    Now,
}

fn auth_error(message: impl AsRef<str>) -> CallError {
    CallError::new(CallErrorKind::Auth, message)
}

impl HttpAdapter {
    /// An adapter that has called nothing yet.
    #[must_use]
    pub fn new(parts: HttpParts) -> Self {
        let HttpParts { id, version, base_url, health_path, request_ms, policy, outbound, credentials, clock } = parts;
        let held = |(tenant, credential)| (tenant, Held { credential, ready: Mutex::new(None) });
        let place = base_url.split_once("://").map_or(base_url.as_str(), |(_, rest)| rest).to_owned();
        Self {
            id,
            version,
            base: base_url,
            place,
            health_path,
            request_ms,
            policy: Arc::new(policy),
            settings: outbound,
            client: OnceLock::new(),
            credentials: credentials.into_iter().map(held).collect(),
            clock,
        }
    }

    fn client(&self) -> Result<&Outbound, CallError> {
        let make = || Outbound::new((*self.policy).clone(), self.settings.clone()).map_err(|error| error.to_string());
        self.client.get_or_init(make).as_ref().map_err(|error| CallError::new(CallErrorKind::Internal, error))
    }

    /// The credential of this tenant; none when the upstream takes calls without one.
    fn held(&self, tenant: Option<&str>) -> Result<Option<&Held>, CallError> {
        let own = tenant.filter(|tenant| !tenant.is_empty()).and_then(|tenant| self.credentials.get(tenant));
        match own.or_else(|| self.credentials.get("")) {
            Some(held) => Ok(Some(held)),
            None if self.credentials.is_empty() => Ok(None),
            None => Err(auth_error("the upstream has no credential for this tenant")),
        }
    }

    async fn ready(&self, held: &Held, freshness: Freshness) -> Result<Arc<Ready>, CallError> {
        let now = self.clock.now();
        let before = held.ready.lock().clone();
        let elsewhere = *held.credential.source() != Source::Store;
        if let Some((ready, read_at)) = &before {
            let recent = freshness == Freshness::Recent && now.since_ms(*read_at) < READ_AGAIN_MS;
            if recent || !elsewhere {
                return Ok(Arc::clone(ready));
            }
        }
        let (credential, policy) = (held.credential.clone(), Arc::clone(&self.policy));
        let resolved = tokio::task::spawn_blocking(move || credential.resolve(&policy)).await;
        let auth = match resolved {
            Ok(Ok(auth)) => auth,
            Ok(Err(error)) => {
                let Some((ready, _)) = before else { return Err(auth_error(error.to_string())) };
                tracing::warn!(app = %self.id, %error, "the credential cannot be read again; the one that was read before is used");
                *held.ready.lock() = Some((Arc::clone(&ready), now));
                return Ok(ready);
            }
            Err(_) => return Err(CallError::new(CallErrorKind::Internal, "reading the credential failed")),
        };
        if let Some((ready, _)) = before.filter(|(ready, _)| ready.auth == auth) {
            // The same as before: tokens that were asked for with it stay.
            *held.ready.lock() = Some((Arc::clone(&ready), now));
            return Ok(ready);
        }
        let access = Access::of(Some(&auth)).ok_or_else(|| auth_error("the token endpoint has no URL"))?;
        let credentials = Credentials { auth: Some(auth), proxy: None };
        let hide = credentials.secrets();
        let Some(auth) = credentials.auth else { return Err(auth_error("no credential")) };
        let ready = Arc::new(Ready { auth, access, hide });
        *held.ready.lock() = Some((Arc::clone(&ready), now));
        Ok(ready)
    }

    async fn send(
        &self,
        ready: Option<&Ready>,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> (Result<Fetched, AttemptResult>, Vec<Secret>) {
        let outbound = match self.client() {
            Ok(outbound) => outbound,
            Err(error) => return (Err(error.to_attempt()), Vec::new()),
        };
        let hide: Vec<Secret> = ready.map(|ready| ready.hide.clone()).unwrap_or_default();
        let method = match method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let send = |headers: HeaderMap, token: Option<Secret>| {
            let (method, body, mut hide) = (method.clone(), body.clone(), hide.clone());
            async move {
                hide.extend(token);
                let request = Request { method, url, headers, body, timeout_ms: Some(self.request_ms), hide: &hide };
                let fetched = outbound.fetch(request, ANSWER_BYTES_MAX).await;
                (fetched, hide)
            }
        };
        let refused = |answer: &(Result<Fetched, AttemptResult>, Vec<Secret>)| {
            answer.0.as_ref().is_ok_and(|fetched| fetched.status == 401)
        };
        let access = ready.map_or(&Access::None, |ready| &ready.access);
        match access.call(outbound, &*self.clock, headers.clone(), send, refused).await {
            Ok(answer) => answer,
            Err(result) => (Err(result), Vec::new()),
        }
    }

    /// One request with the tenant's credential. One that lies elsewhere is read again when it was refused.
    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        context: &AdapterContext,
    ) -> Result<(Fetched, Vec<Secret>), CallError> {
        let url = Url::parse(&format!("{}{path}", self.base))
            .map_err(|error| CallError::validation(format!("the URL of the call: {error}")))?;
        let held = self.held(context.tenant.as_deref())?;
        let mut ready = match held {
            Some(held) => Some(self.ready(held, Freshness::Recent).await?),
            None => None,
        };
        let mut answer = self.send(ready.as_deref(), method, &url, &headers, &body).await;
        let refused = answer.0.as_ref().is_ok_and(|fetched| fetched.status == 401);
        if let (true, Some(held)) = (refused, held) {
            let again = self.ready(held, Freshness::Now).await?;
            if ready.as_ref().is_some_and(|before| before.auth != again.auth) {
                ready = Some(again);
                answer = self.send(ready.as_deref(), method, &url, &headers, &body).await;
            }
        }
        let (fetched, hide) = answer;
        match fetched {
            Ok(fetched) => Ok((fetched, hide)),
            Err(result) => Err(CallError::of_attempt(result)
                .unwrap_or_else(|| CallError::new(CallErrorKind::Internal, "an attempt without an outcome"))),
        }
    }

    fn context_headers(headers: &mut HeaderMap, call: Option<&Call>, context: &AdapterContext) {
        let texts = [
            (&CORRELATION, Some(context.correlation_id.as_str())),
            (&IDEMPOTENCY, call.and_then(|call| call.idempotency_key.as_deref())),
            (&TRACEPARENT, context.traceparent.as_deref()),
        ];
        for (name, text) in texts {
            if let Some(Ok(value)) = text.filter(|text| !text.is_empty()).map(HeaderValue::from_str) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

/// The headers that a call names.
fn own_headers(call: &Call) -> Result<HeaderMap, CallError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in &call.headers {
        let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = pair else {
            return Err(CallError::validation("a header of the call is none (RFC 9110)"));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

fn body_of(payload: &Payload) -> Result<(Bytes, Option<HeaderValue>), CallError> {
    match payload {
        Payload::Nothing => Ok((Bytes::new(), None)),
        Payload::Json(value) => {
            Ok((Bytes::from(value.to_string()), Some(HeaderValue::from_static("application/json"))))
        }
        Payload::Text { content_type, body } => {
            let content_type = HeaderValue::from_str(content_type)
                .map_err(|_| CallError::validation("the content type of the call is none"))?;
            Ok((body.clone(), Some(content_type)))
        }
    }
}

impl Adapter for HttpAdapter {
    fn id(&self) -> &str {
        &self.id
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn validate(&self, call: &Call, _: &AdapterContext) -> Result<(), CallError> {
        let path = &call.path;
        if !path.starts_with('/') || path.starts_with("//") || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CallError::validation("the path of a call begins with one `/` and is percent-encoded"));
        }
        if path.len() > TARGET_BYTES_MAX {
            return Err(CallError::validation(format!("the path of a call has at most {TARGET_BYTES_MAX} bytes")));
        }
        own_headers(call)?;
        let (body, _) = body_of(&call.payload)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(CallError::validation(format!("the body of a call has at most {BODY_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    fn execute<'a>(&'a self, call: &'a Call, context: &'a AdapterContext) -> BoxFuture<'a, Result<Reply, CallError>> {
        async move {
            let mut headers = own_headers(call)?;
            let (body, content_type) = body_of(&call.payload)?;
            headers.extend(content_type.map(|value| (CONTENT_TYPE, value)));
            Self::context_headers(&mut headers, Some(call), context);
            let (fetched, hide) = self.request(call.method, &call.path, headers, body, context).await?;
            let Fetched { status, retry_after, body, whole } = fetched;
            let result = classify_status(status, retry_after.as_deref(), self.clock.now());
            if let Some(error) = CallError::of_attempt(result) {
                return Err(CallError { snippet: visible(&body, &hide), ..error });
            }
            if !whole {
                let told = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(CallError::malformed(told).with_status(status));
            }
            Ok(Reply { status, body: Bytes::from(body), hide })
        }
        .boxed()
    }

    fn place(&self, call: &Call) -> String {
        let path = call.path.split('?').next().unwrap_or_default();
        format!("{}{path}", self.place)
    }

    fn health_check<'a>(&'a self, context: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>> {
        async move {
            let mut headers = HeaderMap::new();
            Self::context_headers(&mut headers, None, context);
            let path = self.health_path.as_deref().unwrap_or("/");
            let (fetched, hide) = self.request(Method::Get, path, headers, Bytes::new(), context).await?;
            let Fetched { status, retry_after, body, .. } = fetched;
            // Whoever answers that there is nothing here, or that it is the wrong method, is there.
            let reached = matches!(status, 200..=399 | 404 | 405 | 406 | 429) && self.health_path.is_none();
            if reached || (200..=299).contains(&status) {
                return Ok(());
            }
            let result = classify_status(status, retry_after.as_deref(), self.clock.now());
            let error = CallError::of_attempt(result);
            Err(error.map_or_else(
                || CallError::malformed("an answer of no sort"),
                |error| CallError { snippet: visible(&body, &hide), ..error },
            ))
        }
        .boxed()
    }
}
