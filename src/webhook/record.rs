//! A webhook as it is kept, and as a client asks for it (WHK-1).

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::{Auth, Credentials, Proxy};
use super::format::{FORMATS, Format, TemplateSettings};
use super::guard::AddressPolicy;
use super::headers::{HeaderRules, is_visible, read_headers};
use super::health::HealthSettings;
use super::signer::SigningMode;
use crate::breaker::BreakerSettings;
use crate::event::filter::EventFilter;
use crate::event::filter::fields::read_clauses;
use crate::ground::clock::UnixMs;
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::inbox::state::Ordering;
use crate::ratelimit::RateLimit;
use crate::retry::RetryPolicy;

/// Largest URL, in characters.
pub(crate) const URL_CHARS_MAX: usize = 2_048;
/// Most headers of a webhook.
pub(crate) const HEADERS_MAX: usize = 20;
/// Largest header value, in characters.
pub(crate) const HEADER_CHARS_MAX: usize = 1_024;
/// Largest description, in characters.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 500;
/// Most deliveries at once.
pub const CONCURRENCY_MAX: u64 = 512;
/// The modes of signing.
pub const SIGNING: &str = "standard, ed25519, hmac_sha256_hex";
/// How long both secrets of a rotation sign unless it says otherwise, in milliseconds: 24 hours.
pub const OVERLAP_MS_DEFAULT: u64 = 24 * 3_600_000;
/// Longest overlap of a rotation, in milliseconds: 7 days.
pub const OVERLAP_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Headers that the hub or HTTP sets.
pub(crate) const RESERVED_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-signature",
    "x-signature-next",
    "traceparent",
    "tracestate",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "proxy-authorization",
];

/// Whether a webhook gets events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookStatus {
    /// It does.
    Active,
    /// Its owner has paused it: its cursor waits.
    Paused,
    /// Its endpoint answered 410: its cursor waits until someone resumes it.
    Disabled,
}

impl WebhookStatus {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

/// What a client sets of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookSettings {
    /// The endpoint.
    pub url: String,
    /// What it gets.
    pub filter: EventFilter,
    /// In which order.
    pub ordering: Ordering,
    /// In which form.
    pub format: Format,
    /// The template, when the format is one.
    #[serde(default)]
    pub template: Option<TemplateSettings>,
    /// Further headers. They may hold credentials, so the record keeps them sealed, apart from this.
    #[serde(skip)]
    pub headers: BTreeMap<String, String>,
    /// What may be shown of its credentials.
    #[serde(default)]
    pub auth: Option<Value>,
    /// What may be shown of its proxy.
    #[serde(default)]
    pub proxy: Option<Value>,
    /// Its credentials. The record keeps them sealed, apart from this.
    #[serde(skip)]
    pub credentials: Credentials,
    /// Deliveries at once; none for the hub's default.
    #[serde(default)]
    pub concurrency: Option<usize>,
    /// When failed deliveries are tried again; none for the hub's default.
    #[serde(default)]
    pub retry: Option<RetryPolicy>,
    /// How deliveries are signed.
    #[serde(default)]
    pub signing: SigningMode,
    /// How many deliveries go out in a row and a second; none for no bound.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// When its owner is told that it fails, and when it is paused; none for the hub's rules.
    #[serde(default)]
    pub health: Option<HealthSettings>,
    /// The numbers of its breaker; none for the hub's.
    #[serde(default)]
    pub breaker: Option<BreakerSettings>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// A secret that was replaced and signs beside its successor until the overlap ends; then it is taken out of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreviousSecret {
    /// The secret, sealed, in hex.
    pub sealed_secret: String,
    /// The last characters of what the receiver verifies with.
    pub secret_last4: String,
    /// The public key, when signing goes by a key pair.
    #[serde(default)]
    pub public_key: Option<String>,
    /// When it ends.
    pub until: UnixMs,
}

/// A webhook as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WebhookRecord {
    /// Its id, `whk_…`, which is its consumer's id too.
    pub id: String,
    /// What its owner set.
    pub settings: WebhookSettings,
    /// Whether it gets events.
    pub status: WebhookStatus,
    /// Why it is not active.
    #[serde(default)]
    pub status_reason: Option<String>,
    /// The signing secret, sealed, in hex.
    pub sealed_secret: String,
    /// The headers, sealed, in hex: they may hold credentials.
    #[serde(default)]
    pub sealed_headers: Option<String>,
    /// The credentials, sealed, in hex.
    #[serde(default)]
    pub sealed_credentials: Option<String>,
    /// The last characters of what the receiver verifies with.
    pub secret_last4: String,
    /// The public key, when signing goes by a key pair.
    #[serde(default)]
    pub public_key: Option<String>,
    /// The secret before the last rotation, while it still signs.
    #[serde(default)]
    pub previous: Option<PreviousSecret>,
    /// Where the log stood when it was made.
    pub from: Seq,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

impl WebhookRecord {
    /// The webhook as clients see it. Header values are not shown: they may be credentials.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let WebhookSettings {
            url,
            filter,
            ordering,
            format,
            template,
            headers,
            auth,
            proxy,
            credentials: _,
            concurrency,
            retry,
            signing,
            rate_limit,
            breaker,
            health,
            description,
        } = &self.settings;
        let previous = self.previous.as_ref().map(|previous| {
            let PreviousSecret { sealed_secret: _, secret_last4, public_key, until } = previous;
            serde_json::json!({"secret_last4": secret_last4, "public_key": public_key, "until": until.to_rfc3339()})
        });
        serde_json::json!({
            "id": self.id,
            "url": url,
            "org": filter.org,
            "event_types": filter.event_types,
            "channel": filter.channel,
            "facility": filter.facility,
            "service": filter.service,
            "filter": filter.expression,
            "filter_error": filter.mistake().map(ToString::to_string),
            "ordering": ordering,
            "format": format,
            "template": template,
            "headers": headers.keys().collect::<Vec<_>>(),
            "auth": auth,
            "proxy": proxy,
            "concurrency": concurrency,
            "retry": retry,
            "rate_limit": rate_limit,
            "breaker": breaker,
            "health": health,
            "description": description,
            "status": self.status,
            "status_reason": self.status_reason,
            "signing": signing,
            "secret_last4": self.secret_last4,
            "public_key": self.public_key,
            "previous_secret": previous,
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

fn headers(sent: Value) -> Result<BTreeMap<String, String>, Problem> {
    let rules = HeaderRules {
        headers_max: HEADERS_MAX,
        reserved: RESERVED_HEADERS,
        reserved_limit: "not one that the hub sets itself",
    };
    read_headers(sent, rules, |field, text| {
        let fits = text.chars().count() <= HEADER_CHARS_MAX && is_visible(&text);
        let limit = || format!("up to {HEADER_CHARS_MAX} visible ASCII characters");
        if fits { Ok(text) } else { Err(Problem::field(field, limit(), "***")) }
    })
}

/// What the settings of a webhook are read against.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Where deliveries may go.
    pub policy: &'a AddressPolicy,
    /// The breaker of a webhook that names no numbers of its own.
    pub breaker: &'a BreakerSettings,
}

/// The parts that can be set when a webhook is made and when it is changed.
fn shared(
    fields: &mut Fields,
    settings: &mut WebhookSettings,
    Ground { policy, breaker }: Ground<'_>,
) -> Result<(), Problem> {
    if let Some(url) = fields.private_text("url", URL_CHARS_MAX)? {
        settings.url = policy.check_url(&url)?.to_string();
    }
    read_clauses(fields, &mut settings.filter)?;
    if let Some(format) = fields.choice("format", FORMATS)? {
        settings.format = format;
    }
    if let Some(template) = fields.take("template") {
        settings.template = Some(TemplateSettings::from_json(template)?);
    }
    if settings.format == Format::Template && settings.template.is_none() {
        return Err(Problem::field("template", "required by the format `template`: {body, content_type?}", "nothing"));
    }
    if let Some(sent) = fields.take("headers") {
        settings.headers = headers(sent)?;
    }
    match fields.sent("auth") {
        None => {}
        Some(Value::Null) => settings.credentials.auth = None,
        Some(sent) => settings.credentials.auth = Some(Auth::from_json(sent, policy)?),
    }
    match fields.sent("proxy") {
        None => {}
        Some(Value::Null) => settings.credentials.proxy = None,
        Some(sent) => settings.credentials.proxy = Some(Proxy::from_json(sent, policy)?),
    }
    (settings.auth, settings.proxy) = settings.credentials.shown();
    if let Some(concurrency) = fields.number("concurrency", 1, CONCURRENCY_MAX)? {
        settings.concurrency = usize::try_from(concurrency).ok();
    }
    if let Some(retry) = fields.take("retry") {
        settings.retry = Some(RetryPolicy::from_json(&retry, "retry")?);
    }
    match fields.sent("rate_limit") {
        None => {}
        Some(Value::Null) => settings.rate_limit = None,
        Some(sent) => settings.rate_limit = Some(RateLimit::from_json(&sent, "rate_limit")?),
    }
    match fields.sent("health") {
        None => {}
        Some(Value::Null) => settings.health = None,
        Some(sent) => settings.health = Some(HealthSettings::from_json(&sent)?),
    }
    match fields.sent("breaker") {
        None => {}
        Some(Value::Null) => settings.breaker = None,
        Some(sent) => {
            let base = settings.breaker.as_ref().unwrap_or(breaker);
            settings.breaker = Some(BreakerSettings::from_json(&sent, base, "breaker")?);
        }
    }
    if let Some(description) = fields.text("description", DESCRIPTION_CHARS_MAX)? {
        settings.description = Some(description);
    }
    Ok(())
}

/// Reads a request for a new webhook. `org` is the org the key is confined to.
///
/// # Errors
/// When a field does not fit.
pub fn read_new(mut fields: Fields, org: Option<&str>, ground: Ground<'_>) -> Result<WebhookSettings, Problem> {
    let given = fields.text("org", SCOPE_CHARS_MAX)?;
    let org = scoped_org(given, org)?
        .ok_or_else(|| Problem::field("org", "required: which tenant's events it gets", "nothing"))?;
    let mut settings = WebhookSettings {
        url: String::new(),
        filter: EventFilter { org: Some(org), ..EventFilter::default() },
        ordering: fields.choice("ordering", "none, key, strict")?.unwrap_or_default(),
        format: Format::default(),
        template: None,
        headers: BTreeMap::new(),
        auth: None,
        proxy: None,
        credentials: Credentials::default(),
        concurrency: None,
        retry: None,
        signing: fields.choice("signing", SIGNING)?.unwrap_or_default(),
        rate_limit: None,
        breaker: None,
        health: None,
        description: None,
    };
    shared(&mut fields, &mut settings, ground)?;
    fields.finish()?;
    if settings.url.is_empty() {
        return Err(Problem::field("url", "required", "nothing"));
    }
    if settings.filter.event_types.is_empty() {
        return Err(Problem::field("event_types", "required: at least one pattern; `*` for all", "nothing"));
    }
    Ok(settings)
}

/// Reads a change of a webhook.
///
/// # Errors
/// When a field does not fit or cannot be changed.
pub fn read_change(
    mut fields: Fields,
    before: &WebhookSettings,
    ground: Ground<'_>,
) -> Result<WebhookSettings, Problem> {
    let mut settings = before.clone();
    if let Some(ordering) = fields.choice::<Ordering>("ordering", "none, key, strict")?
        && ordering != before.ordering
    {
        let limit = "cannot be changed while events may be under way; make another webhook";
        return Err(Problem::field("ordering", limit, format!("{ordering:?}").to_lowercase()));
    }
    if let Some(org) = fields.text("org", SCOPE_CHARS_MAX)?
        && Some(&org) != before.filter.org.as_ref()
    {
        return Err(Problem::field("org", "cannot be changed", org));
    }
    if let Some(signing) = fields.choice::<SigningMode>("signing", SIGNING)?
        && signing != before.signing
    {
        let limit = "cannot be changed: receivers would refuse what is under way; make another webhook";
        return Err(Problem::field("signing", limit, format!("{signing:?}").to_lowercase()));
    }
    shared(&mut fields, &mut settings, ground)?;
    fields.finish()?;
    Ok(settings)
}

/// The headers of a webhook as they are sent.
#[must_use]
pub fn header_map(headers: &BTreeMap<String, String>) -> HeaderMap {
    let pair = |(name, value): (&String, &String)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    headers.iter().filter_map(pair).collect()
}
