//! One HTTP request to an endpoint: to an allowed address, within a time, reading little of the answer (WHK-5).
//!
//! Names are looked up here and addresses the policy forbids are dropped before the connection is made, so what was
//! checked is what is connected to. A literal address never reaches the look-up; it is checked on every call.
//! No redirect is followed, no proxy is taken from the environment. Through a proxy, names are looked up by the proxy:
//! it is what has to keep deliveries out of where they may not go.
//!
//! A connection is driven by the runtime that opened it, so every thread that delivers makes an [`Outbound`] of its own.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER};
pub use reqwest::{Method, header};
use url::Url;
use zeroize::Zeroizing;

use super::auth::Proxy;
use super::guard::{AddressPolicy, AddressRefused};
use crate::ground::clock::Clock;
use crate::ground::limits::{ANSWER_BYTES_MAX, ERROR_CHARS_MAX, SNIPPET_CHARS_MAX, clip};
use crate::ground::secret::Secret;
use crate::retry::classify::{AttemptResult, FailureKind, classify_status};

/// Connections kept open to one host while nothing is sent.
const IDLE_PER_HOST_MAX: usize = 256;
/// How long such a connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What is kept of an answer to make the snippet: a character has at most four bytes, and a secret that begins within the
/// snippet must be there to its end to be known.
const SNIPPET_BYTES_MAX: usize = SNIPPET_CHARS_MAX * 4 + 4_096;
/// Shorter texts are not looked for in answers: they would be found everywhere.
const HIDDEN_CHARS_MIN: usize = 6;

/// How requests are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundSettings {
    /// Time for look-up, connection and TLS handshake, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Time for the whole of a request, the answer's body included, in milliseconds.
    pub total_timeout_ms: u64,
    /// The `User-Agent`.
    pub user_agent: String,
    /// Authorities trusted beside those of the machine, in PEM.
    pub extra_ca: String,
    /// The proxy every request goes through, unless it has one of its own. It is the operator's: it may be anywhere.
    pub proxy: Option<Url>,
}

impl Default for OutboundSettings {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            total_timeout_ms: 15_000,
            user_agent: concat!("tidegate/", env!("CARGO_PKG_VERSION")).to_owned(),
            extra_ca: String::new(),
            proxy: None,
        }
    }
}

/// What of a webhook's way is not that of the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnWay {
    /// Certificate and key of the TLS handshake, in PEM.
    pub identity: Option<(String, Secret)>,
    /// Its proxy.
    pub proxy: Option<Proxy>,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
#[error("make the HTTP client: {0}")]
pub struct OutboundError(String);

impl OutboundError {
    /// For this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// What an endpoint answered, or why it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it means.
    pub result: AttemptResult,
    /// The status, as soon as there was one; even when the rest of the answer never came.
    pub status: Option<u16>,
    /// From the call to the end of what was read, in milliseconds.
    pub latency_ms: u64,
    /// The beginning of the body, at most 500 characters, all of them visible.
    pub snippet: String,
}

/// Makes ring the cryptography of every TLS connection of the process. Any number of calls do it once.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider is installed already");
        }
    });
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// By which method.
    pub method: Method,
    /// Where to.
    pub url: &'a Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Time for the whole of it, in milliseconds; none for that of the settings.
    pub timeout_ms: Option<u64>,
    /// What must not be kept of an answer that repeats it.
    pub hide: &'a [Secret],
}

/// An answer with its body.
#[derive(Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The status.
    pub status: u16,
    /// When to ask again, as it came.
    pub retry_after: Option<String>,
    /// The body, or its beginning.
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub whole: bool,
}

/// Makes requests from one thread.
#[derive(Clone, Debug)]
pub struct Outbound {
    client: reqwest::Client,
    policy: Arc<AddressPolicy>,
    settings: Arc<OutboundSettings>,
    lookup: LookupFn,
}

/// Looks a name up.
#[derive(Clone)]
struct LookupFn(Arc<Lookup>);

impl std::fmt::Debug for LookupFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookupFn")
    }
}

impl Outbound {
    /// A client with no connection yet.
    ///
    /// # Errors
    /// When the settings make no client: a user agent that is no header value, say.
    pub fn new(policy: AddressPolicy, settings: OutboundSettings) -> Result<Self, OutboundError> {
        Self::with_lookup(policy, settings, Arc::new(system_lookup))
    }

    fn with_lookup(
        policy: AddressPolicy,
        settings: OutboundSettings,
        lookup: Arc<Lookup>,
    ) -> Result<Self, OutboundError> {
        let (policy, settings) = (Arc::new(policy), Arc::new(settings));
        let client = client(&policy, &settings, &lookup, &OwnWay::default())?;
        Ok(Self { client, policy, settings, lookup: LookupFn(lookup) })
    }

    /// A client for a webhook with a way of its own, with no connection yet.
    ///
    /// # Errors
    /// When certificate and key do not fit, or the proxy may not be called.
    pub fn with(&self, own: &OwnWay) -> Result<Self, OutboundError> {
        let client = client(&self.policy, &self.settings, &self.lookup.0, own)?;
        Ok(Self { client, ..self.clone() })
    }

    /// Sends a request. Never fails: what went wrong is the answer's result.
    ///
    /// Dropping the future gives the request up and closes its connection; the endpoint may have had it.
    pub async fn post(&self, request: Request<'_>, clock: &dyn Clock) -> Answer {
        let started_ns = clock.monotonic_ns();
        let mut answer = match self.policy.check_host(request.url) {
            Ok(()) => self.exchange(request, clock).await,
            Err(refused) => Answer::without_status(failure(FailureKind::Refused, &refused.to_string())),
        };
        answer.latency_ms = clock.monotonic_ns().saturating_sub(started_ns) / 1_000_000;
        answer
    }

    /// Sends a request for its answer's body, at most so many bytes of it.
    ///
    /// # Errors
    /// What went wrong on the way; any status is an answer.
    pub async fn fetch(&self, request: Request<'_>, bytes_max: usize) -> Result<Fetched, AttemptResult> {
        self.policy.check_host(request.url).map_err(|refused| failure(FailureKind::Refused, &refused.to_string()))?;
        let (mut response, total_ms) = self.send(request).await?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.classify(&error, total_ms))? {
            if body.len() + chunk.len() > bytes_max {
                return Ok(Fetched { status, retry_after, body, whole: false });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { status, retry_after, body, whole: true })
    }

    /// The answer's head, and the time the whole of it had.
    async fn send(&self, wanted: Request<'_>) -> Result<(reqwest::Response, u64), AttemptResult> {
        let Request { method, url, headers, body, timeout_ms, hide: _ } = wanted;
        let bare = body.is_empty() && method == Method::GET;
        let mut request = reqwest::Request::new(method, url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = (!bare).then(|| body.into());
        *request.timeout_mut() = timeout_ms.map(Duration::from_millis);
        let total_ms = timeout_ms.unwrap_or(self.settings.total_timeout_ms);
        match self.client.execute(request).await {
            Ok(response) => Ok((response, total_ms)),
            Err(error) => Err(self.classify(&error, total_ms)),
        }
    }

    async fn exchange(&self, request: Request<'_>, clock: &dyn Clock) -> Answer {
        let hide = request.hide;
        let (mut response, total_ms) = match self.send(request).await {
            Ok(sent) => sent,
            Err(result) => return Answer::without_status(result),
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let result = classify_status(status, retry_after, clock.now());
        let (kept, ended) = read_start(&mut response).await;
        let result = match (ended, result) {
            // An answer that broke off is no answer: the endpoint may not have done its work.
            (Err(error), AttemptResult::Delivered { .. }) => self.classify(&error, total_ms).with_status(status),
            (Ok(()) | Err(_), result) => result,
        };
        Answer { result, status: Some(status), latency_ms: 0, snippet: visible(&kept, hide) }
    }

    fn classify(&self, error: &reqwest::Error, total_ms: u64) -> AttemptResult {
        if let Some(refused) = cause::<AddressRefused>(error) {
            return failure(FailureKind::Refused, &refused.to_string());
        }
        if let Some(failed) = cause::<LookupFailed>(error) {
            return failure(FailureKind::Dns, &failed.to_string());
        }
        if error.is_timeout() {
            let message = if error.is_connect() {
                format!("no connection within {} ms", self.settings.connect_timeout_ms.min(total_ms))
            } else {
                format!("no complete answer within {total_ms} ms")
            };
            return failure(FailureKind::Timeout, &message);
        }
        if let Some(tls) = cause::<rustls::Error>(error) {
            return failure(FailureKind::Tls, &format!("TLS failed: {tls}"));
        }
        if error.is_builder() {
            return failure(FailureKind::Internal, &format!("the request cannot be made: {}", root_of(error)));
        }
        let what = if error.is_connect() { "could not connect" } else { "the connection broke" };
        failure(FailureKind::Connect, &format!("{what}: {}", root_of(error)))
    }
}

impl Answer {
    /// No request was made.
    #[must_use]
    pub fn unsent(result: AttemptResult) -> Self {
        Self::without_status(result)
    }

    fn without_status(result: AttemptResult) -> Self {
        Self { result, status: None, latency_ms: 0, snippet: String::new() }
    }
}

impl AttemptResult {
    fn with_status(self, answered: u16) -> Self {
        match self {
            Self::Failed { kind, message, retry_after_ms, .. } => {
                Self::Failed { kind, status: Some(answered), message, retry_after_ms }
            }
            Self::Delivered { status } => Self::Delivered { status },
        }
    }
}

fn failure(kind: FailureKind, message: &str) -> AttemptResult {
    AttemptResult::failed(kind, clip(message, ERROR_CHARS_MAX))
}

fn client(
    policy: &Arc<AddressPolicy>,
    settings: &OutboundSettings,
    lookup: &Arc<Lookup>,
    own: &OwnWay,
) -> Result<reqwest::Client, OutboundError> {
    install_crypto();
    let operators = settings.proxy.as_ref().filter(|_| own.proxy.is_none());
    let exempt = operators.and_then(|proxy| proxy.host_str()).map(str::to_owned);
    let resolver = Arc::new(GuardedResolver { policy: Arc::clone(policy), lookup: Arc::clone(lookup), exempt });
    let authorities = reqwest::Certificate::from_pem_bundle(settings.extra_ca.as_bytes())
        .map_err(|error| OutboundError(format!("the extra authorities: {}", root_of(&error))))?;
    let identity = match &own.identity {
        Some((certificate, key)) => Some(identity(certificate, key).map_err(OutboundError)?),
        None => None,
    };
    let proxy = match (&own.proxy, operators) {
        (Some(own), _) => Some(own_proxy(policy, own)?),
        (None, Some(url)) => Some(reqwest::Proxy::all(url.clone()).map_err(|error| OutboundError(root_of(&error)))?),
        (None, None) => None,
    };
    let builder = || {
        let mut builder = reqwest::Client::builder()
            .user_agent(&settings.user_agent)
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .timeout(Duration::from_millis(settings.total_timeout_ms))
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .http1_only()
            .dns_resolver(Arc::clone(&resolver));
        if let Some(identity) = &identity {
            builder = builder.identity(identity.clone());
        }
        if let Some(proxy) = &proxy {
            builder = builder.proxy(proxy.clone());
        }
        builder
    };
    match builder().tls_certs_merge(authorities.clone()).build() {
        Ok(client) => Ok(client),
        Err(error) => {
            // A machine without root certificates can still deliver to plain http; https then fails each time.
            let client = builder().tls_certs_only(authorities).build().map_err(|_| OutboundError(root_of(&error)))?;
            tracing::warn!(error = %root_of(&error), "no root certificates: deliveries to https will fail");
            Ok(client)
        }
    }
}

/// A webhook's proxy is its owner's: the address policy holds for it as for every endpoint.
fn own_proxy(
    policy: &AddressPolicy,
    Proxy { url, username, password }: &Proxy,
) -> Result<reqwest::Proxy, OutboundError> {
    let parsed = Url::parse(url).map_err(|error| OutboundError(format!("the proxy: {error}")))?;
    policy.check_host(&parsed).map_err(|refused| OutboundError(format!("the proxy: {refused}")))?;
    let proxy =
        reqwest::Proxy::all(parsed).map_err(|error| OutboundError(format!("the proxy: {}", root_of(&error))))?;
    Ok(match username {
        Some(username) => proxy.basic_auth(username, password.as_ref().map_or("", Secret::expose)),
        None => proxy,
    })
}

fn identity(certificate: &str, key: &Secret) -> Result<reqwest::Identity, String> {
    let pem = Zeroizing::new(format!("{certificate}\n{}\n", key.expose()));
    reqwest::Identity::from_pem(pem.as_bytes()).map_err(|error| root_of(&error))
}

/// Whether a certificate and a key can be used together in a TLS handshake.
///
/// # Errors
/// Why not; nothing of the key is repeated.
pub fn check_identity(certificate: &str, key: &Secret) -> Result<(), String> {
    install_crypto();
    let identity = identity(certificate, key)?;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).identity(identity).build();
    client.map(|_| ()).map_err(|error| root_of(&error))
}

/// Reads the authorities that are trusted beside those of the machine; an empty path names none.
///
/// # Errors
/// When the file cannot be read or holds no PEM certificate.
pub fn read_authorities(path: &std::path::Path) -> Result<String, OutboundError> {
    if path.as_os_str().is_empty() {
        return Ok(String::new());
    }
    let fail = |reason: String| OutboundError(format!("delivery.extra_ca_file {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    match reqwest::Certificate::from_pem_bundle(text.as_bytes()) {
        Ok(found) if !found.is_empty() => Ok(text),
        Ok(_) => Err(fail("it holds no certificate".to_owned())),
        Err(error) => Err(fail(root_of(&error))),
    }
}

/// Reads up to [`ANSWER_BYTES_MAX`] of the body and returns its start. A short body is read to its end, so that the
/// connection can serve again; a longer one costs the connection and nothing else.
async fn read_start(response: &mut reqwest::Response) -> (Vec<u8>, Result<(), reqwest::Error>) {
    let mut kept = Vec::new();
    let mut read = 0;
    while read < ANSWER_BYTES_MAX {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return (kept, Err(error)),
        };
        read += chunk.len();
        let room = SNIPPET_BYTES_MAX - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    (kept, Ok(()))
}

/// The first characters of a body, fit for a log line or a page: what is no UTF-8, and what could hide or reorder text,
/// is replaced; white space is a space. What is to be hidden is.
pub(crate) fn visible(body: &[u8], hide: &[Secret]) -> String {
    let shown = |c: char| match c {
        c if c.is_whitespace() => ' ',
        '\0'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let mut text = String::from_utf8_lossy(body).into_owned();
    for secret in hide.iter().map(Secret::expose).filter(|secret| secret.len() >= HIDDEN_CHARS_MIN) {
        if text.contains(secret) {
            text = text.replace(secret, "***");
        }
        // What was read of the body may end within a secret.
        let begun = |length: &usize| secret.get(..*length).is_some_and(|part| text.ends_with(part));
        if let Some(length) = (HIDDEN_CHARS_MIN..secret.len()).rev().find(begun) {
            text.truncate(text.len() - length);
            text.push_str("***");
        }
    }
    text.chars().take(SNIPPET_CHARS_MAX).map(shown).collect()
}

/// An error and what caused it, outermost first. An I/O error hides the error it carries from `source`.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&link| {
        if let Some(inner) = link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return Some(inner as &(dyn StdError + 'static));
        }
        link.source()
    })
}

fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|link| link.downcast_ref::<T>())
}

/// The innermost cause in words: unlike the outer ones it never holds a URL.
fn root_of(error: &reqwest::Error) -> String {
    match chain(error).skip(1).last() {
        Some(root) => root.to_string(),
        None => "no further cause".to_owned(),
    }
}

type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

fn system_lookup(host: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
}

#[derive(Debug, thiserror::Error)]
#[error("the name {host} has no address: {reason}")]
struct LookupFailed {
    host: String,
    reason: String,
}

/// Looks names up and lets allowed addresses through only.
struct GuardedResolver {
    policy: Arc<AddressPolicy>,
    lookup: Arc<Lookup>,
    /// The operator's proxy may be anywhere.
    exempt: Option<String>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let looked_up = (self.lookup)(host.clone());
        let policy = Arc::clone(&self.policy);
        let exempt = self.exempt.as_ref() == Some(&host);
        Box::pin(async move {
            let found =
                looked_up.await.map_err(|error| LookupFailed { host: host.clone(), reason: error.to_string() })?;
            let allowed = if exempt { found } else { allowed_of(&policy, &found)? };
            if allowed.is_empty() {
                return Err(LookupFailed { host, reason: "the answer is empty".to_owned() }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The allowed ones of these addresses; the first refusal when there are addresses and none is allowed.
fn allowed_of(policy: &AddressPolicy, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, AddressRefused> {
    let mut refusal = None;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match policy.check_ip(address.ip()) {
            Ok(()) => allowed.push(*address),
            Err(refused) => refusal = refusal.or(Some(refused)),
        }
    }
    match refusal {
        Some(refused) if allowed.is_empty() => Err(refused),
        Some(_) | None => Ok(allowed),
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
