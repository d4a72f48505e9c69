//! Credentials of upstreams (UPS-9): one a tenant, from the encrypted store, the environment or a file.
//!
//! The secret member of a credential (`token`, `password`, `client_secret`, `value`) is a text, which is kept sealed, or
//! says where the secret is: `{"env": "CRM_TOKEN"}`, `{"file": "/run/secrets/crm"}`. Those are read when they are needed
//! and again when they are old or were refused, so that a rotation needs no restart.

use std::io::Read as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ground::error::Problem;
use crate::ground::secret::Secret;
use crate::webhook::auth::{Auth, Credentials};
use crate::webhook::guard::AddressPolicy;

/// The kinds of credentials, with the member of each that is secret.
pub const KINDS: [(&str, &str); 4] =
    [("bearer", "token"), ("basic", "password"), ("oauth2", "client_secret"), ("header", "value")];
/// Longest name of a variable, in characters.
pub const ENV_CHARS_MAX: usize = 255;
/// Longest path of a file, in characters.
pub const FILE_CHARS_MAX: usize = 4_096;
/// Largest file with a secret, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Stands for a secret that is not read now.
const PLACEHOLDER: &str = "placeholder";

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the hub's own store, sealed.
    Store,
    /// In a variable of the environment.
    Env(String),
    /// In a file; white space at its end is left out.
    File(String),
}

/// Whether a secret may stand in what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline {
    /// It may: it is sealed before it is kept.
    Sealed,
    /// It may not: what is read lies in clear.
    Refused,
}

/// A credential as it was declared.
#[derive(Clone, PartialEq)]
pub struct Credential {
    /// As it was sent, the secret or its source included.
    sent: Map<String, Value>,
    member: &'static str,
    source: Source,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("kind", &self.sent.get("kind")).field("source", &self.source).finish()
    }
}

/// Why a credential cannot be had now. Nothing secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

fn source_of(path: &str, place: &Map<String, Value>) -> Result<Source, Problem> {
    let refuse = || Problem::field(path, "a text, {\"env\": NAME} or {\"file\": PATH}", "***");
    let (Some((name, Value::String(text))), 1) = (place.iter().next(), place.len()) else { return Err(refuse()) };
    match name.as_str() {
        "env" => {
            let fits = (1..=ENV_CHARS_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if fits {
                Ok(Source::Env(text.clone()))
            } else {
                // It may be the secret itself.
                Err(Problem::field(format!("{path}.env"), "a variable's name: A-Z a-z 0-9 _", "***"))
            }
        }
        "file" => {
            let fits =
                text.starts_with('/') && text.chars().count() <= FILE_CHARS_MAX && !text.chars().any(char::is_control);
            if fits {
                Ok(Source::File(text.clone()))
            } else {
                Err(Problem::field(format!("{path}.file"), "an absolute path", "***"))
            }
        }
        _ => Err(refuse()),
    }
}

impl Credential {
    /// Reads a credential from an operator's JSON. Nothing that is sent as a secret is repeated.
    ///
    /// # Errors
    /// A problem naming the member under `auth`.
    pub fn from_json(value: Value, policy: &AddressPolicy, inline: Inline) -> Result<Self, Problem> {
        let credential = Self::read(value, policy, inline)?;
        credential.with_secret(PLACEHOLDER, policy)?.check_visible()?;
        Ok(credential)
    }

    fn read(value: Value, policy: &AddressPolicy, inline: Inline) -> Result<Self, Problem> {
        let Value::Object(sent) = value else { return Err(Problem::field("auth", "an object", "another type")) };
        let words = || KINDS.map(|(kind, _)| kind).join(", ");
        let kind = match sent.get("kind") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(_) | None => {
                return Err(Problem::field("auth.kind", format!("required: one of {}", words()), "nothing of that"));
            }
        };
        let Some((_, member)) = KINDS.into_iter().find(|(known, _)| *known == kind) else {
            return Err(Problem::field("auth.kind", format!("one of {}", words()), kind));
        };
        let path = format!("auth.{member}");
        let source = match sent.get(member) {
            Some(Value::Object(place)) => source_of(&path, place)?,
            Some(_) if inline == Inline::Refused => {
                return Err(Problem::field(path, "{\"env\": NAME} or {\"file\": PATH}: this lies in clear", "***"));
            }
            Some(_) | None => Source::Store,
        };
        let credential = Self { sent, member, source };
        // Everything but a secret that is elsewhere is checked now.
        credential.with_secret(PLACEHOLDER, policy)?;
        Ok(credential)
    }

    /// The credential of a text that was sealed; none when it is not one.
    #[must_use]
    pub fn from_sealed_text(text: &Secret, policy: &AddressPolicy) -> Option<Self> {
        Self::read(serde_json::from_str(text.expose()).ok()?, policy, Inline::Sealed).ok()
    }

    /// The text to seal.
    #[must_use]
    pub fn to_sealed_text(&self) -> Secret {
        Secret::new(Value::Object(self.sent.clone()).to_string())
    }

    /// Where its secret is.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    fn with_secret(&self, secret: &str, policy: &AddressPolicy) -> Result<Auth, Problem> {
        let mut whole = self.sent.clone();
        match self.source {
            Source::Store => {}
            Source::Env(_) | Source::File(_) => {
                whole.insert(self.member.to_owned(), Value::from(secret));
            }
        }
        Auth::from_kept(Value::Object(whole), policy)
    }

    /// Reads the secret where it is. Blocks when that is a file.
    ///
    /// # Errors
    /// When it is not there, or does not fit.
    pub fn resolve(&self, policy: &AddressPolicy) -> Result<Auth, Unreadable> {
        let (secret, place) = match &self.source {
            Source::Store => (Secret::new(""), "the stored credential".to_owned()),
            Source::Env(name) => {
                let place = format!("the variable {name}");
                let text = std::env::var(name).map_err(|_| Unreadable(format!("{place} is not set")))?;
                (Secret::new(text), place)
            }
            Source::File(path) => {
                let place = format!("the file {path}");
                (read_file(path).map_err(|error| Unreadable(format!("{place}: {error}")))?, place)
            }
        };
        self.with_secret(secret.expose().trim_end(), policy).map_err(|problem| {
            // The limit is the hub's own text; what was read is not repeated.
            Unreadable(format!("{place} does not fit: {}", problem.limit.unwrap_or_default()))
        })
    }

    /// What may be shown: the kind, its public members, and where the secret is.
    #[must_use]
    pub fn shown(&self) -> Value {
        let open = AddressPolicy { allow_private: true, allowed: Vec::new() };
        let auth = self.with_secret(PLACEHOLDER, &open).ok();
        let mut shown = match (Credentials { auth, proxy: None }).shown().0 {
            Some(Value::Object(map)) => map,
            Some(_) | None => Map::new(),
        };
        let source = match &self.source {
            Source::Store => json!("store"),
            Source::Env(name) => json!({ "env": name }),
            Source::File(path) => json!({ "file": path }),
        };
        if self.source != Source::Store {
            shown.retain(|name, _| !name.ends_with("_last4"));
        }
        shown.insert("source".into(), source);
        Value::Object(shown)
    }
}

fn read_file(path: &str) -> std::io::Result<Secret> {
    let file = std::fs::File::open(path)?;
    // Reading a pipe or a device might never end.
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Secret::new(text.as_str()))
}

/// A credential at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SealedCredential {
    /// Sealed, in hex.
    pub sealed: String,
    /// What may be shown of it.
    pub shown: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: AddressPolicy = AddressPolicy { allow_private: false, allowed: Vec::new() };

    fn read(value: Value) -> Result<Credential, Problem> {
        Credential::from_json(value, &OPEN, Inline::Sealed)
    }

    fn header(auth: &Auth) -> String {
        let (name, value) = auth.header().expect("a header");
        format!("{name}: {}", value.to_str().expect("text"))
    }

    #[test]
    fn a_header_that_is_not_visible_ascii_is_refused_anew_and_read_where_it_was_sealed() {
        let sent = json!({"kind": "header", "name": "X-Key", "value": "caf\u{e9} 4711"});
        let problem = read(sent.clone()).expect_err("not visible ASCII");
        assert_eq!(problem.field.as_deref(), Some("auth.value"));
        assert!(!format!("{problem:?}").contains("4711"), "{problem:?}");
        let sealed = Credential::from_sealed_text(&Secret::new(sent.to_string()), &OPEN).expect("sealed before");
        assert!(sealed.resolve(&OPEN).expect("there").header().is_some());
    }

    #[test]
    fn a_secret_comes_from_the_store_the_environment_or_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "from-a-file-4711\n").expect("written");
        let stored = read(json!({"kind": "bearer", "token": "from-the-store-4711"})).expect("fits");
        assert_eq!(header(&stored.resolve(&OPEN).expect("there")), "authorization: Bearer from-the-store-4711");
        let filed = read(json!({"kind": "header", "name": "X-Key", "value": {"file": path}})).expect("fits");
        assert_eq!(header(&filed.resolve(&OPEN).expect("there")), "x-key: from-a-file-4711");
        std::fs::write(&path, "the-next-one-4712").expect("written");
        assert_eq!(header(&filed.resolve(&OPEN).expect("there")), "x-key: the-next-one-4712", "read again");
        // A variable that every process of the tests has.
        let named = read(json!({"kind": "basic", "username": "u", "password": {"env": "PATH"}})).expect("fits");
        assert!(header(&named.resolve(&OPEN).expect("there")).starts_with("authorization: Basic "));
        let missing = read(json!({"kind": "bearer", "token": {"env": "TIDEGATE_NO_SUCH_VARIABLE"}})).expect("fits");
        assert_eq!(
            missing.resolve(&OPEN).expect_err("unset").to_string(),
            "the variable TIDEGATE_NO_SUCH_VARIABLE is not set"
        );

        for (content, told) in
            [("hunter2 with a space", "visible ASCII"), ("", "1 to 4096"), (&*"x".repeat(70_000), "65536 bytes")]
        {
            std::fs::write(&path, content).expect("written");
            let bearer = read(json!({"kind": "bearer", "token": {"file": path}})).expect("fits");
            let error = bearer.resolve(&OPEN).expect_err(told).to_string();
            assert!(error.contains(told) && !error.contains("hunter2"), "{error}");
        }
        let folder = read(json!({"kind": "bearer", "token": {"file": folder.path()}})).expect("fits");
        assert!(folder.resolve(&OPEN).expect_err("a folder").to_string().contains("no file"));
    }

    #[test]
    fn what_is_shown_holds_no_secret_and_what_is_sealed_comes_back() {
        let cases = [
            (
                json!({"kind": "bearer", "token": "hunter2-4711"}),
                json!({"kind": "bearer", "token_last4": "4711", "source": "store"}),
            ),
            (
                json!({"kind": "basic", "username": "u", "password": "hunter2"}),
                json!({"kind": "basic", "username": "u", "source": "store"}),
            ),
            (
                json!({"kind": "header", "name": "X-Key", "value": {"env": "CRM_KEY"}}),
                json!({"kind": "header", "name": "x-key", "source": {"env": "CRM_KEY"}}),
            ),
        ];
        for (sent, shown) in cases {
            let credential = read(sent).expect("fits");
            assert_eq!(credential.shown(), shown);
            assert!(!format!("{credential:?}").contains("hunter2"));
            assert_eq!(Credential::from_sealed_text(&credential.to_sealed_text(), &OPEN), Some(credential));
        }
    }

    #[test]
    fn what_does_not_fit_is_named_and_no_secret_is_repeated() {
        let cases = [
            (json!("hunter2"), "auth"),
            (json!({"token": "hunter2"}), "auth.kind"),
            (json!({"kind": "mtls", "key": "hunter2"}), "auth.kind"),
            (json!({"kind": "bearer"}), "auth.token"),
            (json!({"kind": "bearer", "token": ["hunter2"]}), "auth.token"),
            (json!({"kind": "bearer", "token": {"env": "hunter2", "file": "/x"}}), "auth.token"),
            (json!({"kind": "bearer", "token": {"vault": "hunter2"}}), "auth.token"),
            (json!({"kind": "bearer", "token": {"env": "A B"}}), "auth.token.env"),
            (json!({"kind": "bearer", "token": {"env": ""}}), "auth.token.env"),
            (json!({"kind": "bearer", "token": {"file": "relative"}}), "auth.token.file"),
            (json!({"kind": "basic", "password": {"env": "X"}}), "auth.username"),
            (
                json!({"kind": "oauth2", "client_id": "a", "token_url": "http://10.0.0.1/", "client_secret": {"env": "X"}}),
                "auth.token_url",
            ),
        ];
        for (sent, field) in cases {
            let problem = read(sent.clone()).expect_err("refused");
            assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
            assert!(!problem.to_json().to_string().contains("hunter2"), "{problem}");
        }
        let sent = json!({"kind": "bearer", "token": "hunter2"});
        let problem = Credential::from_json(sent, &OPEN, Inline::Refused).expect_err("in clear");
        assert_eq!(problem.field.as_deref(), Some("auth.token"));
        assert!(!problem.to_json().to_string().contains("hunter2"));
    }
}
