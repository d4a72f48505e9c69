//! How a call shows who makes it: nothing, a header that stays the same, or a token that is asked for.

use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::auth::{Auth, sensitive};
use super::oauth::TokenSource;
use super::outbound::Outbound;
use crate::ground::clock::Clock;
use crate::ground::secret::Secret;
use crate::retry::AttemptResult;

/// How the other side is shown who calls.
#[derive(Clone, Debug)]
pub enum Access {
    /// Not at all, or by the way of the connection.
    None,
    /// The same header each time.
    Header(HeaderName, HeaderValue),
    /// A token that is asked for.
    Token(Arc<TokenSource>),
}

impl Access {
    /// The way these credentials ask for; none when their token endpoint has no URL.
    #[must_use]
    pub fn of(auth: Option<&Auth>) -> Option<Self> {
        match auth {
            Some(Auth::Oauth2(client)) => Some(Self::Token(Arc::new(TokenSource::new(client.clone())?))),
            Some(auth) => Some(auth.header().map_or(Self::None, |(name, value)| Self::Header(name, value))),
            None => Some(Self::None),
        }
    }

    /// Makes a call with the credential among its headers; `send` gets a token that was asked for beside them, to hide it.
    /// A call that is `refused` with a token that was kept is made once more with a new one (OA-3).
    ///
    /// # Errors
    /// What came of asking for a token.
    pub async fn call<T, Fut: Future<Output = T>>(
        &self,
        outbound: &Outbound,
        clock: &dyn Clock,
        mut headers: HeaderMap,
        send: impl Fn(HeaderMap, Option<Secret>) -> Fut,
        refused: impl Fn(&T) -> bool,
    ) -> Result<T, AttemptResult> {
        let source = match self {
            Self::None => return Ok(send(headers, None).await),
            Self::Header(name, value) => {
                headers.insert(name.clone(), value.clone());
                return Ok(send(headers, None).await);
            }
            Self::Token(source) => source,
        };
        let mut before = None;
        loop {
            let token = source.token(outbound, clock, before.as_ref()).await?;
            let mut headers = headers.clone();
            headers.extend(sensitive(&format!("Bearer {}", token.text.expose())).map(|value| (AUTHORIZATION, value)));
            let answer = send(headers, Some(token.text.clone())).await;
            // The token may have ended early: one that was kept is replaced once.
            if !refused(&answer) || !token.kept || before.is_some() {
                return Ok(answer);
            }
            before = Some(token);
        }
    }
}
