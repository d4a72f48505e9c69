//! A source as it is kept, and as a client asks for it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::mapping::{Mapping, Origin, Rule};
use super::verify::{Algorithm, Encoding, TOLERANCE_S_DEFAULT, Verification};
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::ground::secret::Secret;
use crate::webhook::sign::SigningKey;

/// Largest name, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Largest secret, in characters.
pub const SECRET_CHARS_MAX: usize = 512;
/// Longest tolerance of a timestamp, in seconds.
pub const TOLERANCE_S_MAX: u64 = 24 * 3_600;
/// Largest pointer, prefix, constant, user name, in characters.
pub const RULE_CHARS_MAX: usize = 255;
/// Largest header name, in characters.
pub const HEADER_CHARS_MAX: usize = 64;
/// Largest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 500;
/// The kinds of verification.
pub const KINDS: [&str; 9] =
    ["standard_webhooks", "github", "stripe", "slack", "shopify", "hmac", "bearer", "basic", "none"];

/// A source as it is kept. The secrets are sealed, in hex.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its name, unique in the hub: the last part of its address.
    pub name: String,
    /// The org of its events; none when the mapping says.
    #[serde(default)]
    pub org: Option<String>,
    /// How requests are verified.
    pub verification: Verification,
    /// What they become.
    pub mapping: Mapping,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// The secret.
    #[serde(default)]
    pub secret: Option<SealedSecret>,
    /// A second one, while the first is rotated.
    #[serde(default)]
    pub second_secret: Option<SealedSecret>,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

/// A secret at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Sealed, in hex.
    pub sealed: String,
    /// Its last characters.
    pub last4: String,
}

impl SourceRecord {
    /// The source as clients see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let last4 = |secret: &Option<SealedSecret>| secret.as_ref().map(|secret| secret.last4.clone());
        json!({
            "name": self.name,
            "path": format!("/v1/sources/{}", self.name),
            "org": self.org,
            "verification": self.verification,
            "mapping": self.mapping,
            "description": self.description,
            "secret_last4": last4(&self.secret),
            "second_secret_last4": last4(&self.second_secret),
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

/// What a client asks for: what is none stays as it is.
#[derive(Debug, Default)]
pub struct SourceWish {
    /// The name of a new source; none to have one made.
    pub name: Option<String>,
    /// The org of a new source.
    pub org: Option<String>,
    /// How requests are verified.
    pub verification: Option<Verification>,
    /// What they become.
    pub mapping: Option<Mapping>,
    /// Set, or taken away.
    pub description: Option<Option<String>>,
    /// Set.
    pub secret: Option<Secret>,
    /// Set, or taken away.
    pub second_secret: Option<Option<Secret>>,
}

/// Reads what a client wants of a new source.
///
/// # Errors
/// When a field does not fit.
pub fn read_new(mut fields: Fields, confined_to: Option<&str>) -> Result<SourceWish, Problem> {
    let name = fields.text("name", NAME_CHARS_MAX)?;
    if let Some(name) = &name {
        check_name(name)?;
    }
    let org = scoped_org(fields.text("org", SCOPE_CHARS_MAX)?, confined_to)?;
    let mut wish = read_common(&mut fields, None)?;
    fields.finish()?;
    let verification =
        wish.verification.as_ref().ok_or_else(|| Problem::field("verification", "required", "nothing"))?;
    if verification.needs_secret() && wish.secret.is_none() {
        return Err(Problem::field("secret", "required for this verification", "nothing"));
    }
    (wish.name, wish.org) = (name, org);
    Ok(wish)
}

/// Reads a change of a source.
///
/// # Errors
/// When a field does not fit.
pub fn read_change(mut fields: Fields, before: &SourceRecord) -> Result<SourceWish, Problem> {
    let wish = read_common(&mut fields, Some(&before.verification))?;
    fields.finish()?;
    let verification = wish.verification.as_ref().unwrap_or(&before.verification);
    if verification.needs_secret() && before.secret.is_none() && wish.secret.is_none() {
        return Err(Problem::field("secret", "required for this verification", "nothing"));
    }
    Ok(wish)
}

fn check_name(name: &str) -> Result<(), Problem> {
    let fits =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits && starts {
        return Ok(());
    }
    Err(Problem::field("name", "a-z 0-9 - _, a letter or digit first", name))
}

fn read_common(fields: &mut Fields, before: Option<&Verification>) -> Result<SourceWish, Problem> {
    let verification = fields.take("verification").map(read_verification).transpose()?;
    let mapping = fields.take("mapping").map(read_mapping).transpose()?;
    let description = match fields.sent("description") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(value) => Some(Some(short("description", value, DESCRIPTION_CHARS_MAX)?)),
    };
    let kind = verification.as_ref().or(before);
    let secret = fields.take("secret").map(|value| read_secret("secret", value, kind)).transpose()?;
    let second_secret = match fields.sent("second_secret") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(value) => Some(Some(read_secret("second_secret", value, kind)?)),
    };
    Ok(SourceWish { name: None, org: None, verification, mapping, description, secret, second_secret })
}

/// A secret; a refusal repeats nothing of it.
fn read_secret(field: &str, value: Value, kind: Option<&Verification>) -> Result<Secret, Problem> {
    let refuse = |limit: String| Problem::field(field, limit, "***");
    let Value::String(text) = value else { return Err(refuse("a text".to_owned())) };
    if text.is_empty() || text.chars().count() > SECRET_CHARS_MAX {
        return Err(refuse(format!("1 to {SECRET_CHARS_MAX} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(refuse("no control characters".to_owned()));
    }
    let secret = Secret::new(text);
    if kind == Some(&Verification::StandardWebhooks)
        && let Err(error) = SigningKey::from_secret(&secret)
    {
        return Err(refuse(error.to_string()));
    }
    Ok(secret)
}

fn short(field: &str, value: Value, chars_max: usize) -> Result<String, Problem> {
    let Value::String(text) = value else { return Err(Problem::field(field, "a text", value)) };
    if text.chars().count() > chars_max || text.chars().any(char::is_control) {
        let limit = format!("at most {chars_max} characters, none of them a control character");
        return Err(Problem::field(field, limit, text.escape_debug()));
    }
    Ok(text)
}

/// The members of an object, taken out one by one.
struct Members {
    path: &'static str,
    map: Map<String, Value>,
}

impl Members {
    fn read(path: &'static str, value: Value) -> Result<Self, Problem> {
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            // It may be a credential in the wrong place.
            _ => Err(Problem::field(path, "an object", "another type")),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str, chars_max: usize) -> Result<Option<String>, Problem> {
        let path = format!("{}.{name}", self.path);
        self.take(name).map(|value| short(&path, value, chars_max)).transpose()
    }

    fn choice<T: serde::de::DeserializeOwned + Default>(&mut self, name: &str, words: &str) -> Result<T, Problem> {
        let Some(value) = self.take(name) else { return Ok(T::default()) };
        T::deserialize(&value)
            .map_err(|_| Problem::field(format!("{}.{name}", self.path), format!("one of {words}"), value))
    }

    fn finish(self) -> Result<(), Problem> {
        match self.map.keys().next() {
            Some(name) => Err(Problem::unknown(format!("{}.{name}", self.path), "no member of it here")),
            None => Ok(()),
        }
    }
}

fn read_verification(value: Value) -> Result<Verification, Problem> {
    let mut members = Members::read("verification", value)?;
    let kind = members.text("kind", RULE_CHARS_MAX)?.unwrap_or_default();
    let tolerance_s = |members: &mut Members| match members.take("tolerance_s") {
        None => Ok(TOLERANCE_S_DEFAULT),
        Some(value) => value.as_u64().filter(|given| (1..=TOLERANCE_S_MAX).contains(given)).ok_or_else(|| {
            Problem::field("verification.tolerance_s", format!("a whole number from 1 to {TOLERANCE_S_MAX}"), value)
        }),
    };
    let verification = match kind.as_str() {
        "standard_webhooks" => Verification::StandardWebhooks,
        "github" => Verification::Github,
        "stripe" => Verification::Stripe { tolerance_s: tolerance_s(&mut members)? },
        "slack" => Verification::Slack { tolerance_s: tolerance_s(&mut members)? },
        "shopify" => Verification::Shopify,
        "hmac" => Verification::Hmac {
            header: header_name("verification.header", members.text("header", HEADER_CHARS_MAX)?)?,
            algorithm: members.choice::<Algorithm>("algorithm", &Algorithm::NAMES.join(", "))?,
            encoding: members.choice::<Encoding>("encoding", "hex, base64")?,
            prefix: members.text("prefix", RULE_CHARS_MAX)?.unwrap_or_default(),
        },
        "bearer" => Verification::Bearer,
        "basic" => {
            let username = members.text("username", RULE_CHARS_MAX)?;
            let username = username.filter(|name| !name.is_empty() && !name.contains(':'));
            let refused = || Problem::field("verification.username", "required, without a colon", "nothing of that");
            Verification::Basic { username: username.ok_or_else(refused)? }
        }
        "none" => Verification::None,
        other => return Err(Problem::field("verification.kind", format!("one of {}", KINDS.join(", ")), other)),
    };
    members.finish()?;
    Ok(verification)
}

fn header_name(field: &str, given: Option<String>) -> Result<String, Problem> {
    let given = given.unwrap_or_default();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if given.is_empty() || !given.bytes().all(token) {
        return Err(Problem::field(field, "a header's name", given));
    }
    Ok(given.to_ascii_lowercase())
}

fn read_mapping(value: Value) -> Result<Mapping, Problem> {
    let mut members = Members::read("mapping", value)?;
    let mut rule = |name: &str| {
        let path = format!("mapping.{name}");
        members.take(name).map(|value| read_rule(&path, value)).transpose()
    };
    let (event_type, id, org) = (rule("type")?, rule("id")?, rule("org")?);
    let (subject, occurred_at) = (rule("subject")?, rule("occurred_at")?);
    let data = members.text("data", RULE_CHARS_MAX)?.unwrap_or_default();
    check_pointer("mapping.data", &data)?;
    members.finish()?;
    Ok(Mapping { event_type, id, org, subject, occurred_at, data })
}

fn check_pointer(field: &str, pointer: &str) -> Result<(), Problem> {
    if pointer.is_empty() || pointer.starts_with('/') {
        return Ok(());
    }
    Err(Problem::field(field, "a JSON pointer such as /data/object/id (RFC 6901)", pointer))
}

fn read_rule(path: &str, value: Value) -> Result<Rule, Problem> {
    let shape = "an object with one of pointer, header, constant, and perhaps prefix and default";
    let Value::Object(mut map) = value else { return Err(Problem::field(path, shape, value)) };
    let mut text = |name: &str, chars_max: usize| {
        let taken = map.remove(name).filter(|value| !value.is_null());
        taken.map(|value| short(&format!("{path}.{name}"), value, chars_max)).transpose()
    };
    let pointer = text("pointer", RULE_CHARS_MAX)?;
    let header = text("header", HEADER_CHARS_MAX)?;
    let constant = text("constant", RULE_CHARS_MAX)?;
    let (prefix, default) = (text("prefix", RULE_CHARS_MAX)?.unwrap_or_default(), text("default", RULE_CHARS_MAX)?);
    let from = match (pointer, header, constant) {
        (Some(pointer), None, None) => {
            check_pointer(&format!("{path}.pointer"), &pointer)?;
            Origin::Pointer(pointer)
        }
        (None, Some(header), None) => Origin::Header(header_name(&format!("{path}.header"), Some(header))?),
        (None, None, Some(constant)) => Origin::Constant(constant),
        (pointer, header, constant) => {
            let given = [pointer.is_some(), header.is_some(), constant.is_some()].iter().filter(|one| **one).count();
            return Err(Problem::field(path, shape, format!("{given} of them")));
        }
    };
    if let Some(name) = map.keys().next() {
        return Err(Problem::unknown(format!("{path}.{name}"), shape));
    }
    Ok(Rule { from, prefix, default })
}
