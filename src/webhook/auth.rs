//! How a webhook shows its endpoint who is calling, and by which way (WHK-4): credentials and proxy.
//!
//! Everything here that is secret comes in once, is kept sealed, and goes out to nobody but the endpoint, the token
//! endpoint or the proxy it is for: [`Credentials::shown`] is all that a client ever sees of it again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::guard::AddressPolicy;
use super::headers::is_visible;
use super::outbound::check_identity;
use super::record::{HEADER_CHARS_MAX, RESERVED_HEADERS};
use crate::ground::error::Problem;
use crate::ground::secret::Secret;

/// Longest token or secret, in characters.
pub const SECRET_CHARS_MAX: usize = 4_096;
/// Longest user name, client id, scope or audience, in characters.
pub const NAME_CHARS_MAX: usize = 512;
/// Largest certificate chain, in bytes of PEM.
pub const CERTIFICATE_BYTES_MAX: usize = 64 << 10;
/// Largest private key, in bytes of PEM.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// The kinds, for refusals.
const KINDS: &str = "bearer, basic, oauth2, header, mtls";

/// Secrets in the text that is sealed, and in no other text: nothing else writes these types.
mod sealed_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

/// Where the client's secret stands in a request for a token (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// In the `Authorization` header.
    #[default]
    Basic,
    /// In the form.
    Body,
}

/// A client of an `OAuth` 2.0 server, for the client credentials grant (RFC 6749, 4.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuth2 {
    /// Where tokens are asked for.
    pub token_url: String,
    /// Who asks.
    pub client_id: String,
    /// What proves it.
    #[serde(with = "sealed_text")]
    pub client_secret: Secret,
    /// What the token is to be good for.
    #[serde(default)]
    pub scope: Option<String>,
    /// Whom it is for, where the server wants to know.
    #[serde(default)]
    pub audience: Option<String>,
    /// Where the secret stands.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// How the hub shows who is calling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Auth {
    /// A token in the `Authorization` header.
    Bearer {
        /// The token.
        #[serde(with = "sealed_text")]
        token: Secret,
    },
    /// A name and a password in the `Authorization` header.
    Basic {
        /// The name.
        username: String,
        /// The password.
        #[serde(with = "sealed_text")]
        password: Secret,
    },
    /// A token that is asked for.
    Oauth2(OAuth2),
    /// A key in a header of its own.
    Header {
        /// The header's name, in small letters.
        name: String,
        /// The key.
        #[serde(with = "sealed_text")]
        value: Secret,
    },
    /// A certificate in the TLS handshake.
    Mtls {
        /// The certificate, with those between it and its root, in PEM.
        certificate: String,
        /// Its key, in PEM.
        #[serde(with = "sealed_text")]
        key: Secret,
    },
}

/// A proxy that deliveries go through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Where it is.
    pub url: String,
    /// Who asks it.
    #[serde(default)]
    pub username: Option<String>,
    /// What proves it.
    #[serde(default, with = "sealed_option")]
    pub password: Option<Secret>,
}

mod sealed_option {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::expose).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
    }
}

/// What of a webhook is sealed beside its signing secret and headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Credentials {
    /// Towards the endpoint.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// On the way to it.
    #[serde(default)]
    pub proxy: Option<Proxy>,
}

impl Credentials {
    /// The text to seal; none when there is nothing.
    #[must_use]
    pub fn to_sealed_text(&self) -> Option<Secret> {
        if self.auth.is_none() && self.proxy.is_none() {
            return None;
        }
        serde_json::to_string(self).ok().map(Secret::new)
    }

    /// The credentials of a text that was sealed; none when it is not theirs.
    #[must_use]
    pub fn from_sealed_text(text: &Secret) -> Option<Self> {
        serde_json::from_str(text.expose()).ok()
    }

    /// What may be shown: `auth` and `proxy` without anything secret.
    #[must_use]
    pub fn shown(&self) -> (Option<Value>, Option<Value>) {
        let auth = self.auth.as_ref().map(|auth| match auth {
            Auth::Bearer { token } => json!({"kind": "bearer", "token_last4": token.last4()}),
            Auth::Basic { username, password: _ } => json!({"kind": "basic", "username": username}),
            Auth::Oauth2(OAuth2 { token_url, client_id, client_secret: _, scope, audience, client_auth }) => json!({
                "kind": "oauth2", "token_url": token_url, "client_id": client_id, "scope": scope,
                "audience": audience, "client_auth": client_auth,
            }),
            Auth::Header { name, value } => json!({"kind": "header", "name": name, "value_last4": value.last4()}),
            // A certificate is public: the endpoint sees it in every handshake.
            Auth::Mtls { certificate, key: _ } => json!({"kind": "mtls", "certificate": certificate}),
        });
        let proxy =
            self.proxy.as_ref().map(|Proxy { url, username, password: _ }| json!({"url": url, "username": username}));
        (auth, proxy)
    }

    /// Everything secret in it, in each spelling in which it is sent: an answer that repeats one must not be kept.
    #[must_use]
    pub fn secrets(&self) -> Vec<Secret> {
        let mut all = Vec::new();
        match &self.auth {
            None | Some(Auth::Mtls { .. }) => {}
            Some(Auth::Bearer { token }) => all.push(token.clone()),
            Some(Auth::Basic { username, password }) => {
                all.push(Secret::new(STANDARD.encode(format!("{username}:{}", password.expose()))));
                all.push(password.clone());
            }
            Some(Auth::Oauth2(oauth)) => all.push(oauth.client_secret.clone()),
            // The key may stand alone or after its scheme.
            Some(Auth::Header { name: _, value }) => all.extend(value.expose().rsplit(' ').next().map(Secret::new)),
        }
        if let Some(Proxy { username: Some(username), password: Some(password), url: _ }) = &self.proxy {
            all.push(Secret::new(STANDARD.encode(format!("{username}:{}", password.expose()))));
            all.push(password.clone());
        }
        all
    }
}

impl Auth {
    /// The header that says who calls, where it is the same for every call.
    #[must_use]
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let text = match self {
            Self::Bearer { token } => format!("Bearer {}", token.expose()),
            Self::Basic { username, password } => {
                format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose())))
            }
            Self::Header { name, value } => {
                return Some((HeaderName::from_bytes(name.as_bytes()).ok()?, sensitive(value.expose())?));
            }
            Self::Oauth2(_) | Self::Mtls { .. } => return None,
        };
        Some((AUTHORIZATION, sensitive(&text)?))
    }

    /// Reads it from a client's JSON. Nothing that is sent as a secret is repeated.
    ///
    /// # Errors
    /// A problem naming the member under `auth`.
    pub fn from_json(value: Value, policy: &AddressPolicy) -> Result<Self, Problem> {
        let auth = Self::from_kept(value, policy)?;
        auth.check_visible()?;
        Ok(auth)
    }

    /// Refuses a header of its own that is not visible ASCII.
    ///
    /// # Errors
    /// A problem naming the member under `auth`.
    pub fn check_visible(&self) -> Result<(), Problem> {
        match self {
            Self::Header { name: _, value } if !is_visible(value.expose()) => {
                let limit = format!("up to {HEADER_CHARS_MAX} visible ASCII characters");
                Err(Problem::field("auth.value", limit, "***"))
            }
            Self::Header { .. } | Self::Bearer { .. } | Self::Basic { .. } | Self::Oauth2(_) | Self::Mtls { .. } => {
                Ok(())
            }
        }
    }

    /// Reads one that is kept: it may be older than [`Auth::check_visible`] is.
    ///
    /// # Errors
    /// A problem naming the member under `auth`.
    pub fn from_kept(value: Value, policy: &AddressPolicy) -> Result<Self, Problem> {
        let mut members = Members::of("auth", value)?;
        let kind = members.text("kind", NAME_CHARS_MAX)?;
        let auth = match kind.as_deref() {
            Some("bearer") => Self::Bearer { token: members.token("token")? },
            Some("basic") => Self::Basic { username: members.user("username")?, password: members.secret("password")? },
            Some("oauth2") => Self::Oauth2(OAuth2 {
                token_url: members.url("token_url", policy)?,
                client_id: members.required("client_id")?,
                client_secret: members.secret("client_secret")?,
                scope: members.text("scope", NAME_CHARS_MAX)?,
                audience: members.text("audience", NAME_CHARS_MAX)?,
                client_auth: match members.text("client_auth", NAME_CHARS_MAX)?.as_deref() {
                    None | Some("basic") => ClientAuth::Basic,
                    Some("body") => ClientAuth::Body,
                    Some(other) => return Err(Problem::field("auth.client_auth", "basic or body", other)),
                },
            }),
            Some("header") => {
                Self::Header { name: members.header_name("name")?, value: members.header_value("value")? }
            }
            Some("mtls") => {
                let certificate = members.pem("certificate", CERTIFICATE_BYTES_MAX)?;
                let key = Secret::new(members.pem("key", KEY_BYTES_MAX)?);
                check_identity(&certificate, &key).map_err(|reason| {
                    Problem::field("auth.key", format!("the key of the certificate: {reason}"), "***")
                })?;
                Self::Mtls { certificate, key }
            }
            Some(other) => return Err(Problem::field("auth.kind", format!("one of {KINDS}"), other)),
            None => return Err(Problem::field("auth.kind", format!("required: one of {KINDS}"), "nothing")),
        };
        members.finish()?;
        Ok(auth)
    }
}

impl Proxy {
    /// Reads it from a client's JSON.
    ///
    /// # Errors
    /// A problem naming the member under `proxy`.
    pub fn from_json(value: Value, policy: &AddressPolicy) -> Result<Self, Problem> {
        let mut members = Members::of("proxy", value)?;
        let url = members.url("url", policy)?;
        let username = members.given("username").then(|| members.user("username")).transpose()?;
        let password = members.given("password").then(|| members.secret("password")).transpose()?;
        members.finish()?;
        if username.is_none() && password.is_some() {
            return Err(Problem::field("proxy.username", "required with a password", "nothing"));
        }
        Ok(Self { url, username, password })
    }
}

/// A header value that is left out of every log.
#[must_use]
pub fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The members of one object of a client's JSON.
struct Members {
    of: &'static str,
    map: Map<String, Value>,
}

impl Members {
    fn of(of: &'static str, value: Value) -> Result<Self, Problem> {
        match value {
            Value::Object(map) => Ok(Self { of, map }),
            // It may be a credential.
            _ => Err(Problem::field(of, "an object", "another type")),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.of)
    }

    fn given(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::field(self.path(name), "a text", "another type")),
        }
    }

    fn text(&mut self, name: &str, chars_max: usize) -> Result<Option<String>, Problem> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        if text.is_empty() || text.chars().count() > chars_max || text.chars().any(char::is_control) {
            let limit = format!("1 to {chars_max} characters, none of them control characters");
            return Err(Problem::field(self.path(name), limit, text.escape_debug()));
        }
        Ok(Some(text))
    }

    fn required(&mut self, name: &str) -> Result<String, Problem> {
        let missing = Problem::field(self.path(name), "required", "nothing");
        self.text(name, NAME_CHARS_MAX)?.ok_or(missing)
    }

    /// A name that a password follows after a colon.
    fn user(&mut self, name: &str) -> Result<String, Problem> {
        let user = self.required(name)?;
        if user.contains(':') {
            // What follows it may be the password.
            return Err(Problem::field(self.path(name), "no colon (RFC 7617)", "***"));
        }
        Ok(user)
    }

    fn secret(&mut self, name: &str) -> Result<Secret, Problem> {
        let path = self.path(name);
        let text = self.take(name)?.ok_or_else(|| Problem::field(&path, "required", "nothing"))?;
        if text.is_empty() || text.chars().count() > SECRET_CHARS_MAX || text.chars().any(char::is_control) {
            let limit = format!("1 to {SECRET_CHARS_MAX} characters, none of them control characters");
            return Err(Problem::field(path, limit, "***"));
        }
        Ok(Secret::new(text))
    }

    /// A secret that stands in a header as it is.
    fn token(&mut self, name: &str) -> Result<Secret, Problem> {
        let token = self.secret(name)?;
        if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Problem::field(self.path(name), "visible ASCII characters without spaces", "***"));
        }
        Ok(token)
    }

    /// A header that the hub does not set itself.
    fn header_name(&mut self, name: &str) -> Result<String, Problem> {
        let given = self.required(name)?.to_ascii_lowercase();
        let fits = HeaderName::from_bytes(given.as_bytes()).is_ok() && !RESERVED_HEADERS.contains(&given.as_str());
        if fits { Ok(given) } else { Err(Problem::field(self.path(name), "a header that the hub does not set", given)) }
    }

    /// A secret that is the whole of a header.
    fn header_value(&mut self, name: &str) -> Result<Secret, Problem> {
        let value = self.secret(name)?;
        if value.expose().chars().count() > HEADER_CHARS_MAX || HeaderValue::from_str(value.expose()).is_err() {
            let limit = format!("up to {HEADER_CHARS_MAX} visible ASCII characters");
            return Err(Problem::field(self.path(name), limit, "***"));
        }
        Ok(value)
    }

    fn url(&mut self, name: &str, policy: &AddressPolicy) -> Result<String, Problem> {
        let path = self.path(name);
        let text = self.take(name)?.ok_or_else(|| Problem::field(&path, "required", "nothing"))?;
        match policy.check_url(&text) {
            Ok(url) => Ok(url.to_string()),
            Err(problem) => {
                let (limit, sent) = (problem.limit.unwrap_or(problem.detail), problem.sent.unwrap_or_default());
                Err(Problem::field(path, limit, sent))
            }
        }
    }

    fn pem(&mut self, name: &str, bytes_max: usize) -> Result<String, Problem> {
        let path = self.path(name);
        let text = self.take(name)?.ok_or_else(|| Problem::field(&path, "required: PEM", "nothing"))?;
        if text.len() > bytes_max || !text.contains("-----BEGIN ") {
            return Err(Problem::field(path, format!("PEM of at most {bytes_max} bytes"), "***"));
        }
        Ok(text)
    }

    fn finish(self) -> Result<(), Problem> {
        match self.map.keys().next() {
            Some(name) => Err(Problem::unknown(self.path(name), "unknown field for this kind")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: AddressPolicy = AddressPolicy { allow_private: false, allowed: Vec::new() };

    fn read(value: Value) -> Result<Auth, Problem> {
        Auth::from_json(value, &OPEN)
    }

    #[test]
    fn a_header_that_is_not_visible_ascii_is_refused_anew_and_taken_from_where_it_was_kept() {
        for value in ["caf\u{e9} 4711", "\u{4711}", "4711\u{a0}"] {
            let sent = json!({"kind": "header", "name": "x-key", "value": value});
            let problem = read(sent.clone()).expect_err("not visible ASCII");
            assert_eq!(problem.field.as_deref(), Some("auth.value"));
            assert!(!format!("{problem:?}").contains("4711"), "{problem:?}");
            let kept = Auth::from_kept(sent, &OPEN).expect("taken before");
            assert!(kept.header().is_some(), "it goes out as it did");
        }
    }

    #[test]
    fn headers_are_as_the_standards_say() {
        let header = |value: Value| {
            let (name, header) = read(value).expect("fits").header().expect("one for all");
            assert!(header.is_sensitive());
            format!("{name}: {}", header.to_str().expect("text"))
        };
        assert_eq!(header(json!({"kind": "bearer", "token": "t-1"})), "authorization: Bearer t-1");
        assert_eq!(header(json!({"kind": "header", "name": "X-Api-Key", "value": "k 1"})), "x-api-key: k 1");
        // The example of RFC 7617.
        let aladdin = json!({"kind": "basic", "username": "Aladdin", "password": "open sesame"});
        assert_eq!(header(aladdin), "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn what_is_secret_is_neither_printed_nor_shown_and_survives_sealing() {
        let auth = json!({"kind": "oauth2", "token_url": "https://id.example/token", "client_id": "hub", "client_secret": "s3cret-s3cret", "scope": "a b"});
        let proxy = json!({"url": "http://proxy.example:3128", "username": "u", "password": "pr0xy-pr0xy"});
        let credentials = Credentials {
            auth: Some(read(auth).expect("fits")),
            proxy: Some(Proxy::from_json(proxy, &OPEN).expect("fits")),
        };
        let (auth, proxy) = credentials.shown();
        let seen = format!("{credentials:?} {auth:?} {proxy:?}");
        assert!(!seen.contains("s3cret") && !seen.contains("pr0xy-pr0xy"), "{seen}");
        assert!(seen.contains("id.example") && seen.contains("proxy.example"), "{seen}");
        let sealed = credentials.to_sealed_text().expect("something");
        assert_eq!(Credentials::from_sealed_text(&sealed), Some(credentials));
        assert!(Credentials::default().to_sealed_text().is_none());
    }

    #[test]
    fn what_does_not_fit_is_named_and_no_secret_is_repeated() {
        let pem = "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n";
        let cases = [
            (json!("hunter2"), "auth"),
            (json!({"token": "hunter2"}), "auth.kind"),
            (json!({"kind": "digest"}), "auth.kind"),
            (json!({"kind": "bearer"}), "auth.token"),
            (json!({"kind": "bearer", "token": ["hunter2"]}), "auth.token"),
            (json!({"kind": "bearer", "token": "hunter2 x"}), "auth.token"),
            (json!({"kind": "bearer", "token": "hunter2\r\n"}), "auth.token"),
            (json!({"kind": "bearer", "token": "x".repeat(4_097)}), "auth.token"),
            (json!({"kind": "bearer", "token": "x", "hunter2": "hunter2"}), "auth.hunter2"),
            (json!({"kind": "basic", "password": "hunter2"}), "auth.username"),
            (json!({"kind": "basic", "username": "a:b", "password": "hunter2"}), "auth.username"),
            (json!({"kind": "basic", "username": "a", "password": ""}), "auth.password"),
            (json!({"kind": "oauth2", "client_id": "a", "client_secret": "hunter2"}), "auth.token_url"),
            (
                json!({"kind": "oauth2", "token_url": "http://127.0.0.1/", "client_id": "a", "client_secret": "hunter2"}),
                "auth.token_url",
            ),
            (
                json!({"kind": "oauth2", "token_url": "https://u:hunter2@a.example/", "client_id": "a", "client_secret": "x"}),
                "auth.token_url",
            ),
            (
                json!({"kind": "oauth2", "token_url": "https://a.example/", "client_id": "a", "client_secret": "x", "client_auth": "jwt"}),
                "auth.client_auth",
            ),
            (json!({"kind": "header", "value": "hunter2"}), "auth.name"),
            (json!({"kind": "header", "name": "host", "value": "hunter2"}), "auth.name"),
            (json!({"kind": "header", "name": "a b", "value": "hunter2"}), "auth.name"),
            (json!({"kind": "header", "name": "x-key", "value": "hunter2\r\nx: y"}), "auth.value"),
            (json!({"kind": "header", "name": "x-key", "value": "hunter2é".repeat(200)}), "auth.value"),
            (json!({"kind": "mtls", "certificate": "hunter2", "key": pem}), "auth.certificate"),
            (json!({"kind": "mtls", "certificate": pem, "key": "hunter2"}), "auth.key"),
            (json!({"kind": "mtls", "certificate": pem, "key": pem}), "auth.key"),
        ];
        for (sent, field) in cases {
            let problem = read(sent.clone()).expect_err("refused");
            assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
            let told = problem.to_json().to_string().replace("auth.hunter2", "");
            assert!(!told.contains("hunter2"), "{sent}: {told}");
        }
        for (sent, field) in [
            (json!({}), "proxy.url"),
            (json!({"url": "socks5://a.example"}), "proxy.url"),
            (json!({"url": "http://10.0.0.1:3128"}), "proxy.url"),
            (json!({"url": "http://a.example", "password": "x"}), "proxy.username"),
            (json!({"url": "http://a.example", "port": 1}), "proxy.port"),
        ] {
            assert_eq!(Proxy::from_json(sent, &OPEN).expect_err("refused").field.as_deref(), Some(field));
        }
    }
}
