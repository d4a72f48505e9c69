//! Tokens of the client credentials grant (RFC 6749, 4.4), one source a client.
//!
//! - `OA-1` One request for a token at a time; who comes meanwhile waits for its answer, also when it is a failure.
//! - `OA-2` A token is used until shortly before its end, then another one is asked for.
//! - `OA-3` An endpoint that refuses a token that was kept gets a new one once; one that refuses a new one has refused.
//! - `OA-4` Nothing of what the token endpoint answers is shown but its status and the error codes of the standard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Url, form_urlencoded};

use super::auth::{ClientAuth, OAuth2, sensitive};
use super::outbound::{Fetched, Method, Outbound, Request};
use crate::ground::clock::{Clock, UnixMs};
use crate::ground::secret::Secret;
use crate::retry::classify::{AttemptResult, FailureKind, status_retryable};

/// Time for one request for a token, in milliseconds.
pub const TOKEN_TIMEOUT_MS: u64 = 10_000;
/// Most that is read of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// A token that says not when it ends is kept this long.
const LIFE_DEFAULT: Duration = Duration::from_secs(300);
/// No token is kept longer.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A token is replaced this long before its end; a short-lived one at a tenth of its life.
const MARGIN: Duration = Duration::from_secs(60);
/// The error codes of RFC 6749, 5.2.
const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// A token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its text.
    pub text: Secret,
    /// Whether it was asked for before this call.
    pub kept: bool,
    serial: u64,
}

#[derive(Clone)]
struct Kept {
    text: Secret,
    serial: u64,
    good_until: UnixMs,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    failed: Option<AttemptResult>,
}

/// Gets and keeps the tokens of one client.
pub struct TokenSource {
    client: OAuth2,
    url: Url,
    state: Mutex<State>,
    /// Requests that have ended.
    asked: AtomicU64,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSource").field("client", &self.client).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl TokenSource {
    /// A source that has asked for nothing yet; none when the address is no URL.
    #[must_use]
    pub fn new(client: OAuth2) -> Option<Self> {
        let url = Url::parse(&client.token_url).ok()?;
        Some(Self { client, url, state: Mutex::default(), asked: AtomicU64::new(0) })
    }

    /// A token that is good now. `refused` is one that the endpoint would not take.
    ///
    /// # Errors
    /// What came of asking for one.
    pub async fn token(
        &self,
        outbound: &Outbound,
        clock: &dyn Clock,
        refused: Option<&Token>,
    ) -> Result<Token, AttemptResult> {
        let asked = self.asked.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        let now = clock.now();
        let usable = |kept: &&Kept| now < kept.good_until && refused.is_none_or(|token| token.serial != kept.serial);
        if let Some(Kept { text, serial, .. }) = state.kept.as_ref().filter(usable) {
            return Ok(Token { text: text.clone(), kept: true, serial: *serial });
        }
        state.kept = None;
        if self.asked.load(Ordering::Acquire) != asked
            && let Some(failed) = &state.failed
        {
            // Another one has asked while this one waited.
            return Err(failed.clone());
        }
        let answer = self.ask(outbound).await;
        let serial = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        match answer {
            Ok((text, life)) => {
                let good = life.saturating_sub(MARGIN.min(life / 10));
                let good_until = now.plus_ms(u64::try_from(good.as_millis()).unwrap_or(u64::MAX));
                *state = State { kept: Some(Kept { text: text.clone(), serial, good_until }), failed: None };
                Ok(Token { text, kept: false, serial })
            }
            Err(failed) => {
                state.failed = Some(failed.clone());
                Err(failed)
            }
        }
    }

    /// The head and the body of a request for a token.
    fn request(&self) -> (HeaderMap, Bytes) {
        let OAuth2 { token_url: _, client_id, client_secret, scope, audience, client_auth } = &self.client;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", scope), ("audience", audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        match client_auth {
            ClientAuth::Body => {
                form.append_pair("client_id", client_id);
                form.append_pair("client_secret", client_secret.expose());
            }
            ClientAuth::Basic => {
                let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encode(client_id), encode(client_secret.expose()));
                if let Some(value) = sensitive(&format!("Basic {}", STANDARD.encode(pair))) {
                    headers.insert(AUTHORIZATION, value);
                }
            }
        }
        (headers, Bytes::from(form.finish()))
    }

    async fn ask(&self, outbound: &Outbound) -> Result<(Secret, Duration), AttemptResult> {
        let (headers, body) = self.request();
        let timeout_ms = Some(TOKEN_TIMEOUT_MS);
        let request = Request { method: Method::POST, url: &self.url, headers, body, timeout_ms, hide: &[] };
        let answer = outbound.fetch(request, ANSWER_BYTES_MAX).await.map_err(of_the_token_endpoint)?;
        let Fetched { status, retry_after: _, body: answer, whole } = answer;
        if !whole {
            let told = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
            return Err(of_the_token_endpoint(AttemptResult::failed(FailureKind::Connect, told)));
        }
        if !(200..=299).contains(&status) {
            return Err(refusal(status, &answer));
        }
        let unusable = |what: &str| {
            AttemptResult::failed(FailureKind::Auth, format!("the token endpoint's answer cannot be used: {what}"))
        };
        let granted: Granted = serde_json::from_slice(&answer).map_err(|_| unusable("it is no token response"))?;
        let Granted { access_token, token_type, expires_in } = granted;
        if token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(unusable("the token is no bearer token"));
        }
        if access_token.is_empty() || !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable("the token fits in no header"));
        }
        // Some servers write the number as a text.
        let seconds = expires_in.and_then(|sent| sent.as_u64().or_else(|| sent.as_str()?.parse().ok()));
        let life = seconds.map_or(LIFE_DEFAULT, |seconds| Duration::from_secs(seconds).min(LIFE_MAX));
        Ok((Secret::new(access_token), life))
    }
}

/// A failure on the way to the token endpoint, told as such.
fn of_the_token_endpoint(result: AttemptResult) -> AttemptResult {
    match result {
        AttemptResult::Failed { kind, status, message, retry_after_ms } => {
            AttemptResult::Failed { kind, status, message: format!("the token endpoint: {message}"), retry_after_ms }
        }
        AttemptResult::Delivered { status } => AttemptResult::Delivered { status },
    }
}

/// What a status of the token endpoint means: trouble that passes, or credentials that it does not take.
fn refusal(status: u16, answer: &[u8]) -> AttemptResult {
    let code = serde_json::from_slice::<Refused>(answer).ok();
    let code = code.and_then(|refused| ERRORS.into_iter().find(|known| *known == refused.error));
    let code = code.map_or_else(String::new, |code| format!(" ({code})"));
    let message = format!("the token endpoint answered {status}{code}");
    // The status is that of another server than the webhook's: it is told in words and judged here.
    let kind = if status_retryable(status) { FailureKind::Connect } else { FailureKind::Auth };
    AttemptResult::failed(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Verdict;

    #[test]
    fn what_the_token_endpoint_answers_is_judged_and_shown_by_its_code_alone() {
        let told = |status, body: &str| match refusal(status, body.as_bytes()) {
            AttemptResult::Failed { kind, status, message, .. } => (kind, status, message),
            AttemptResult::Delivered { .. } => panic!("a refusal"),
        };
        let (kind, status, message) = told(401, r#"{"error":"invalid_client","error_description":"s3cret"}"#);
        assert_eq!((kind, status), (FailureKind::Auth, None));
        assert_eq!(message, "the token endpoint answered 401 (invalid_client)");
        assert_eq!(told(400, r#"{"error":"s3cret"}"#).2, "the token endpoint answered 400");
        for (status, verdict) in
            [(503, Verdict::Retry), (429, Verdict::Retry), (410, Verdict::GiveUp), (302, Verdict::GiveUp)]
        {
            assert_eq!(refusal(status, b"").verdict(), verdict, "{status}");
        }
    }
}
