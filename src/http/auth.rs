//! Who is asking. The public listener takes API keys, the admin listener the admin token.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{App, Listener};
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::clip;
use crate::hub::{Key, Scope};

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

    fn name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Key(key) => format!("key:{}", key.record.id),
        }
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

/// The principal, when it may do what needs `scope`.
pub(crate) fn authorize(app: &App, request: &HttpRequest, scope: Scope) -> Result<Principal, Problem> {
    let refused = |detail: &str| Problem::new(ProblemKind::Unauthorized, detail);
    match app.listener {
        Listener::Admin => {
            let token = bearer(request).ok_or_else(|| refused("send Authorization: Bearer with the admin token"))?;
            let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
            if bool::from(digest.ct_eq(&app.admin_token)) {
                Ok(Principal::Admin)
            } else {
                Err(refused("this is not the admin token"))
            }
        }
        Listener::Public => {
            let text = header(request, "x-api-key").or_else(|| bearer(request));
            let text = text.ok_or_else(|| refused("send X-API-Key, or Authorization: Bearer with an API key"))?;
            let key = app.hub.keys().find(text, app.hub.clock().now());
            let key = key.ok_or_else(|| refused("the key is not known, has expired or was revoked"))?;
            if key.record.scopes.contains(&scope) {
                return Ok(Principal::Key(key));
            }
            let detail = format!("the key has not the scope `{}`", scope.as_str());
            Err(Problem::new(ProblemKind::Forbidden, detail).with("scope", scope.as_str()))
        }
    }
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
