//! Who is asking. The public listener takes API keys, the admin listener the admin token.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{AUTHORIZATION, HeaderName};
use actix_web::{HttpMessage as _, HttpRequest};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::idempotency::note_allowed;
use super::{App, Listener};
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::clip;
use crate::hub::{Key, Scope};
use crate::ratelimit::{RateLimit, Taken};

/// Who asks.
pub(crate) enum Principal {
    /// An operator.
    Admin,
    /// An application.
    Key(Arc<Key>),
}

impl Principal {
    /// The org the principal is confined to; none means any.
    pub(crate) fn org(&self) -> Option<&str> {
        match self {
            Self::Admin => None,
            Self::Key(key) => key.record.org.as_deref(),
        }
    }

    /// Whether an answer that takes long may go on: the key has neither been revoked nor has it expired.
    pub(crate) fn may_go_on(&self, app: &App) -> bool {
        match self {
            Self::Admin => true,
            Self::Key(key) => app.hub.keys().is_live(key, app.hub.clock().now()),
        }
    }

    /// Takes so many requests or events from the key's rate, and notes what is left for the answer's headers.
    ///
    /// # Errors
    /// When they are not there; the problem says when they are.
    pub(crate) fn charge(&self, app: &App, request: &HttpRequest, count: usize) -> Result<(), Problem> {
        let Self::Key(key) = self else { return Ok(()) };
        let now = app.hub.clock().now();
        let Some((limit, taken)) = key.take(u32::try_from(count).unwrap_or(u32::MAX), now) else { return Ok(()) };
        request.extensions_mut().insert(RateSpent::of(&limit, &taken, now));
        if taken.allowed {
            return Ok(());
        }
        app.hub.metrics().rate_limited.with_label_values(&["key"]).inc();
        let RateLimit { per_second, burst } = limit;
        let detail = format!("the key may send {per_second} a second, {burst} at once");
        let wait_s = taken.next_at.since_ms(now).div_ceil(1_000).max(1);
        Err(Problem::new(ProblemKind::RateLimited, detail).retry_after(wait_s))
    }

    /// Waits until the key's rate allows so many more: for a stream, which is slowed down and not refused.
    pub(crate) async fn wait_for(&self, app: &App, count: usize) {
        let Self::Key(key) = self else { return };
        let (clock, count) = (app.hub.clock(), u32::try_from(count).unwrap_or(u32::MAX));
        while let Some((_, taken)) = key.take(count, clock.now()).filter(|(_, taken)| !taken.allowed) {
            clock.sleep(Duration::from_millis(taken.next_at.since_ms(clock.now()).max(1))).await;
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Key(key) => format!("key:{}", key.record.id),
        }
    }
}

/// What a request has left of its key's rate, for the headers of its answer
/// (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSpent {
    burst: u32,
    window_s: u64,
    left: u32,
    full_in_s: u64,
}

impl RateSpent {
    fn of(limit: &RateLimit, taken: &Taken, now: UnixMs) -> Self {
        Self {
            burst: limit.burst,
            window_s: ((f64::from(limit.burst) / limit.per_second).ceil() as u64).max(1),
            left: taken.remaining,
            full_in_s: taken.full_at.since_ms(now).div_ceil(1_000),
        }
    }

    /// The headers, by name.
    pub(crate) fn headers(self) -> [(HeaderName, String); 2] {
        let Self { burst, window_s, left, full_in_s } = self;
        [
            (HeaderName::from_static("ratelimit-policy"), format!("\"key\";q={burst};w={window_s}")),
            (HeaderName::from_static("ratelimit"), format!("\"key\";r={left};t={full_in_s}")),
        ]
    }
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let text = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who asks, whatever it may do; none when nobody knows.
pub(crate) fn identify(app: &App, request: &HttpRequest) -> Option<Principal> {
    match app.listener {
        Listener::Admin => is_admin(app, bearer(request)?).then_some(Principal::Admin),
        Listener::Public => {
            let text = header(request, "x-api-key").or_else(|| bearer(request))?;
            app.hub.keys().find(text, app.hub.clock().now()).map(Principal::Key)
        }
    }
}

fn is_admin(app: &App, token: &str) -> bool {
    let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    bool::from(digest.ct_eq(&app.admin_token))
}

/// The principal, when it may do what needs `scope`.
pub(crate) fn authorize(app: &App, request: &HttpRequest, scope: Scope) -> Result<Principal, Problem> {
    let principal = check(app, request, scope)?;
    note_allowed(request, &[scope]);
    Ok(principal)
}

fn check(app: &App, request: &HttpRequest, scope: Scope) -> Result<Principal, Problem> {
    let refused = |detail: &str| Problem::new(ProblemKind::Unauthorized, detail);
    match app.listener {
        Listener::Admin => {
            let token = bearer(request).ok_or_else(|| refused("send Authorization: Bearer with the admin token"))?;
            if is_admin(app, token) { Ok(Principal::Admin) } else { Err(refused("this is not the admin token")) }
        }
        Listener::Public => {
            let text = header(request, "x-api-key").or_else(|| bearer(request));
            let text = text.ok_or_else(|| refused("send X-API-Key, or Authorization: Bearer with an API key"))?;
            let key = app.hub.keys().find(text, app.hub.clock().now());
            let key = key.ok_or_else(|| refused("the key is not known, has expired or was revoked"))?;
            if !key.record.scopes.contains(&scope) {
                let detail = format!("the key has not the scope `{}`", scope.as_str());
                return Err(Problem::new(ProblemKind::Forbidden, detail).with("scope", scope.as_str()));
            }
            let principal = Principal::Key(key);
            principal.charge(app, request, 1)?;
            Ok(principal)
        }
    }
}

/// The principal, when it may do what needs any one of these scopes.
pub(crate) fn authorize_any(app: &App, request: &HttpRequest, scopes: &[Scope]) -> Result<Principal, Problem> {
    let mut refusal = Problem::new(ProblemKind::Forbidden, "no scope allows this");
    for scope in scopes {
        match check(app, request, *scope) {
            Err(problem) if problem.kind == ProblemKind::Forbidden => refusal = problem,
            decided => {
                note_allowed(request, scopes);
                return decided;
            }
        }
    }
    Err(refusal)
}

/// The context of a write (EVT-5).
pub(crate) fn write_context(app: &App, request: &HttpRequest, principal: &Principal) -> WriteContext {
    WriteContext {
        by: principal.name(),
        at: app.hub.clock().now(),
        correlation_id: header(request, "x-correlation-id").map(|text| clip(text, 128).to_owned()),
        ip: request.peer_addr().map(|address| address.ip().to_string()),
    }
}
