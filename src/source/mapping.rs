//! What a request of a third party becomes: its headers and body are read by rules, and an envelope is written.
//!
//! A third party cannot be asked to send something else, so what does not fit a bound is made to fit where nothing is lost
//! by it: characters that a type may not have become `_`, an id that is too long becomes its hash, a time that is none is
//! left out. The data is the body, or a part of it, as it came (EVT-3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::verify::Verification;
use crate::event::json::members;
use crate::event::object::{Object, json_string};
use crate::ground::clock::UnixMs;
use crate::ground::limits::{EVENT_ID_CHARS_MAX, EVENT_TYPE_CHARS_MAX, KEY_CHARS_MAX, SCOPE_CHARS_MAX, clip};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A place in the JSON body (RFC 6901).
    Pointer(String),
    /// A header, in lower case.
    Header(String),
    /// This text.
    Constant(String),
}

/// How one field is filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Where from.
    #[serde(flatten)]
    pub from: Origin,
    /// What is put before it.
    #[serde(default)]
    pub prefix: String,
    /// What it is when there is nothing.
    #[serde(default)]
    pub default: Option<String>,
}

/// How the fields of an event are filled. A field without a rule is left out; the type is then `NAME.received`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// `type`
    #[serde(rename = "type", default)]
    pub event_type: Option<Rule>,
    /// `id`
    #[serde(default)]
    pub id: Option<Rule>,
    /// `org`, when the source has none.
    #[serde(default)]
    pub org: Option<Rule>,
    /// `subject`
    #[serde(default)]
    pub subject: Option<Rule>,
    /// `occurred_at`: RFC 3339, or seconds or milliseconds since 1970.
    #[serde(default)]
    pub occurred_at: Option<Rule>,
    /// The part of the body that is the data; empty for all of it.
    #[serde(default)]
    pub data: String,
}

fn rule(from: Origin, prefix: &str, default: Option<&str>) -> Option<Rule> {
    Some(Rule { from, prefix: prefix.to_owned(), default: default.map(str::to_owned) })
}

impl Mapping {
    /// What fits a provider.
    #[must_use]
    pub fn preset(verification: &Verification) -> Self {
        let header = |name: &str| Origin::Header(name.to_owned());
        let pointer = |path: &str| Origin::Pointer(path.to_owned());
        match verification {
            Verification::Github => Self {
                event_type: rule(header("x-github-event"), "github.", None),
                id: rule(header("x-github-delivery"), "", None),
                subject: rule(pointer("/repository/full_name"), "", None),
                ..Self::default()
            },
            Verification::Stripe { .. } => Self {
                event_type: rule(pointer("/type"), "stripe.", None),
                id: rule(pointer("/id"), "", None),
                subject: rule(pointer("/data/object/id"), "", None),
                occurred_at: rule(pointer("/created"), "", None),
                ..Self::default()
            },
            Verification::Slack { .. } => Self {
                event_type: rule(pointer("/event/type"), "slack.", Some("slack.request")),
                id: rule(pointer("/event_id"), "", None),
                subject: rule(pointer("/team_id"), "", None),
                occurred_at: rule(pointer("/event_time"), "", None),
                ..Self::default()
            },
            Verification::Shopify => Self {
                event_type: rule(header("x-shopify-topic"), "shopify.", None),
                id: rule(header("x-shopify-webhook-id"), "", None),
                subject: rule(header("x-shopify-shop-domain"), "", None),
                occurred_at: rule(header("x-shopify-triggered-at"), "", None),
                ..Self::default()
            },
            Verification::StandardWebhooks => Self {
                event_type: rule(pointer("/type"), "", None),
                id: rule(header("webhook-id"), "", None),
                occurred_at: rule(pointer("/timestamp"), "", None),
                ..Self::default()
            },
            Verification::Hmac { .. } | Verification::Bearer | Verification::Basic { .. } | Verification::None => {
                Self::default()
            }
        }
    }
}

/// A request that was verified.
pub struct Delivered<'a> {
    /// A header's text by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Its content type.
    pub content_type: Option<&'a str>,
    /// Its body.
    pub body: &'a Bytes,
}

/// The text at a place of a JSON text (RFC 6901), as it stands there.
#[must_use]
pub fn at_pointer<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
    let mut here = json.trim();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        here = match here.as_bytes().first()? {
            b'{' => {
                let member = members(here.as_bytes()).find(|member| member.name.as_ref() == token.as_bytes())?;
                here.get(member.value)?
            }
            b'[' => {
                let elements: Vec<&RawValue> = serde_json::from_str(here).ok()?;
                elements.get(token.parse::<usize>().ok()?)?.get()
            }
            _ => return None,
        };
    }
    Some(here)
}

/// The envelope of a request, as text. `org` is the source's.
#[must_use]
pub fn envelope(name: &str, kind: &str, org: Option<&str>, mapping: &Mapping, delivered: &Delivered<'_>) -> String {
    let text = std::str::from_utf8(delivered.body).ok();
    let json = text.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok()).map(str::trim);
    let value = |rule: &Option<Rule>| -> Option<String> {
        let Rule { from, prefix, default } = rule.as_ref()?;
        let found = match from {
            Origin::Constant(text) => Some(text.clone()),
            Origin::Header(name) => (delivered.header)(name).map(str::to_owned),
            Origin::Pointer(path) => json.and_then(|json| scalar(at_pointer(json, path)?)),
        };
        found.filter(|text| !text.is_empty()).map(|text| format!("{prefix}{text}")).or_else(|| default.clone())
    };
    let event_type = value(&mapping.event_type).and_then(|text| fitting_type(&text));
    let mut metadata = Object::new();
    metadata.put_text("name", Some(name));
    metadata.put_text("kind", Some(kind));
    metadata.put_text("content_type", delivered.content_type);
    let data = match (json, text) {
        (Some(json), _) => at_pointer(json, &mapping.data).map(str::to_owned),
        (None, _) if delivered.body.is_empty() => None,
        (None, Some(text)) => Some(json_string(text)),
        (None, None) => {
            metadata.put("data_base64", "true");
            Some(json_string(&STANDARD.encode(delivered.body)))
        }
    };
    let mut source = Object::new();
    source.put("source", &metadata.close());
    let mut out = Object::new();
    out.put_text("id", value(&mapping.id).map(fitting_id).as_deref());
    out.put_text("type", Some(&event_type.unwrap_or_else(|| format!("{name}.received"))));
    out.put_text("source", Some(name));
    let org = org.map(str::to_owned).or_else(|| value(&mapping.org));
    out.put_text("org", org.as_deref().map(|org| clip(org, SCOPE_CHARS_MAX)));
    out.put_text("subject", value(&mapping.subject).as_deref().map(|text| clip(text, KEY_CHARS_MAX)));
    out.put_text("occurred_at", value(&mapping.occurred_at).and_then(|text| fitting_time(&text)).as_deref());
    out.put("metadata", &source.close());
    if let Some(data) = data {
        out.put("data", &data);
    }
    out.close()
}

/// The characters of a JSON string, or a number or boolean as it is written.
fn scalar(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok(),
        b'{' | b'[' | b'n' => None,
        _ => Some(raw.to_owned()),
    }
}

fn fitting_type(text: &str) -> Option<String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-' | '/' | ':');
    let text: String = text.chars().map(|char| if fits(char) { char } else { '_' }).collect();
    let parts: Vec<&str> = text.split('.').filter(|part| !part.is_empty()).collect();
    let text = parts.join(".");
    let text = clip(&text, EVENT_TYPE_CHARS_MAX).trim_end_matches('.');
    (!text.is_empty()).then(|| text.to_owned())
}

fn fitting_id(text: String) -> String {
    if text.chars().count() <= EVENT_ID_CHARS_MAX && !text.chars().any(char::is_control) {
        return text;
    }
    format!("sha256-{}", hex::encode(Sha256::digest(text.as_bytes())))
}

/// From this number on, a count since 1970 is one of milliseconds: as seconds it would be the year 5138.
const MILLISECONDS_FROM: u64 = 100_000_000_000;

fn fitting_time(text: &str) -> Option<String> {
    if let Ok(count) = text.parse::<u64>() {
        let ms = if count < MILLISECONDS_FROM { count * 1_000 } else { count };
        return Some(UnixMs(ms).to_rfc3339());
    }
    UnixMs::parse_rfc3339(text).ok().map(UnixMs::to_rfc3339)
}

/// What Slack wants back when it is told of the address: the challenge, if this is one.
#[must_use]
pub fn challenge(verification: &Verification, body: &Bytes) -> Option<String> {
    if !matches!(verification, Verification::Slack { .. }) {
        return None;
    }
    let json = std::str::from_utf8(body).ok().filter(|text| serde_json::from_str::<&RawValue>(text).is_ok())?;
    let text = |path| scalar(at_pointer(json, path)?);
    if text("/type")? == "url_verification" { text("/challenge") } else { None }
}
