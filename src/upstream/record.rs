//! A declared HTTP upstream (UPS-2) as it is kept, and as an operator asks for it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::adapter::{check_id, check_version};
use super::credential::{Credential, Inline, SealedCredential};
use super::publish::{PublishRule, read_rules};
use super::read::{self, Read};
use super::template::{PATH_CHARS_MAX, Template};
use crate::breaker::BreakerSettings;
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::ratelimit::RateLimit;
use crate::retry::RetryPolicy;
use crate::webhook::guard::{AddressPolicy, URL_BYTES_MAX};

/// Largest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 500;
/// Time for look-up, connection and TLS handshake unless the upstream says otherwise, in milliseconds.
pub const CONNECT_MS_DEFAULT: u64 = 3_000;
/// Time for one attempt unless the upstream or its breaker says otherwise, in milliseconds.
pub const TOTAL_MS_DEFAULT: u64 = 3_000;
/// Shortest time that may be given, in milliseconds.
pub const TIMEOUT_MS_MIN: u64 = 10;
/// Longest, in milliseconds: 10 minutes.
pub const TIMEOUT_MS_MAX: u64 = 600_000;
/// Most calls at once that may be allowed.
pub const CONCURRENCY_MAX: u64 = 512;
/// Calls at once unless the upstream says otherwise.
pub const CONCURRENCY_DEFAULT: u64 = 16;
/// Most tenants with a credential of their own.
pub const CREDENTIALS_MAX: usize = 1_000;
/// Most networks of one upstream.
const NETWORKS_MAX: usize = 100;
/// The version of an upstream that says none.
const VERSION_DEFAULT: &str = "1.0.0";

/// Where a declaration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the settings of the hub: it may name networks, and no secret in clear.
    Config,
    /// In the store, by the admin API.
    Api,
}

impl Origin {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
        }
    }
}

/// What an operator sets of an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamSettings {
    /// The tenant whose it is; none when it serves all of them.
    #[serde(default)]
    pub org: Option<String>,
    /// The version of what stands here, for spans.
    pub version: String,
    /// Where it is. A path in it goes before the path of every call.
    pub base_url: String,
    /// What is asked to see whether it is there; none for the base URL itself.
    #[serde(default)]
    pub health_path: Option<String>,
    /// For look-up, connection and TLS handshake.
    pub connect_timeout_ms: u64,
    /// For one attempt; none for that of the breaker, or the default.
    #[serde(default)]
    pub total_timeout_ms: Option<u64>,
    /// When a failed call is tried again.
    pub retry: RetryPolicy,
    /// The numbers of its breaker.
    pub breaker: BreakerSettings,
    /// How many calls go out in a row and a second; none for no bound.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// Calls at once.
    pub concurrency: u64,
    /// What can be read of it.
    #[serde(default)]
    pub reads: BTreeMap<String, Read>,
    /// Which events become which calls.
    #[serde(default)]
    pub publishes: Vec<PublishRule>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Private networks it may be in; in the settings of the hub alone.
    #[serde(default)]
    pub allowed_networks: Vec<IpNet>,
}

/// An upstream as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamRecord {
    /// Its id, unique in the hub.
    pub id: String,
    /// What an operator has set.
    pub settings: UpstreamSettings,
    /// Its credentials by tenant; that of `""` is for those who have none.
    #[serde(default)]
    pub credentials: BTreeMap<String, SealedCredential>,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

/// What an operator has asked for beside the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AuthWish {
    /// Nothing: it stays as it is.
    #[default]
    Keep,
    /// No credential.
    Remove,
    /// This one.
    Set(Credential),
}

/// A declaration that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its id.
    pub id: String,
    /// Its settings.
    pub settings: UpstreamSettings,
    /// Its credential.
    pub auth: AuthWish,
}

impl UpstreamSettings {
    /// Time for one attempt, in milliseconds.
    #[must_use]
    pub fn attempt_ms(&self) -> u64 {
        self.total_timeout_ms.or(self.breaker.call_timeout_ms).unwrap_or(TOTAL_MS_DEFAULT)
    }

    /// Where it may be: where any upstream may, and in its own networks.
    #[must_use]
    pub fn policy(&self, common: &AddressPolicy) -> AddressPolicy {
        let mut policy = common.clone();
        policy.allowed.extend(&self.allowed_networks);
        policy
    }
}

impl UpstreamRecord {
    /// The upstream as operators see it. No credential is shown.
    #[must_use]
    pub fn to_json(&self, origin: Origin) -> Value {
        let UpstreamSettings {
            org,
            version,
            base_url,
            health_path,
            connect_timeout_ms,
            total_timeout_ms: _,
            retry,
            breaker,
            rate_limit,
            concurrency,
            reads,
            publishes,
            description,
            allowed_networks,
        } = &self.settings;
        let of = |tenant: &str| self.credentials.get(tenant).map(|credential| credential.shown.clone());
        let tenants: BTreeMap<&String, &Value> = self
            .credentials
            .iter()
            .filter(|(tenant, _)| !tenant.is_empty())
            .map(|(tenant, one)| (tenant, &one.shown))
            .collect();
        json!({
            "id": self.id,
            "origin": origin.as_str(),
            "org": org,
            "version": version,
            "base_url": base_url,
            "health_path": health_path,
            "connect_timeout_ms": connect_timeout_ms,
            "total_timeout_ms": self.settings.attempt_ms(),
            "retry": retry,
            "breaker": breaker,
            "rate_limit": rate_limit,
            "concurrency": concurrency,
            "reads": reads,
            "publishes": publishes.iter().map(PublishRule::to_json).collect::<Vec<_>>(),
            "description": description,
            "allowed_networks": allowed_networks,
            "auth": of(""),
            "tenant_auth": tenants,
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }
}

/// What a declaration is read against.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Where upstreams may be.
    pub policy: &'a AddressPolicy,
    /// The breaker of an upstream that names no numbers of its own.
    pub breaker: &'a BreakerSettings,
    /// Where the declaration stands.
    pub origin: Origin,
}

fn check_base_url(url: &str, policy: &AddressPolicy) -> Result<String, Problem> {
    let renamed = |problem: Problem| {
        let (limit, sent) = (problem.limit.unwrap_or(problem.detail), problem.sent.unwrap_or_default());
        Problem::field("base_url", limit, sent)
    };
    let parsed = policy.check_url(url).map_err(renamed)?;
    if parsed.query().is_some() {
        return Err(Problem::field("base_url", "no query; what every call has stands in its declaration", "***"));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

fn networks(fields: &mut Fields, origin: Origin) -> Result<Option<Vec<IpNet>>, Problem> {
    let Some(given) = fields.texts("allowed_networks", NETWORKS_MAX, 64)? else { return Ok(None) };
    if origin == Origin::Api && !given.is_empty() {
        let limit =
            "in the settings of the hub alone: who may be called in private networks is the operator's to say there";
        return Err(Problem::field("allowed_networks", limit, given.join(", ")));
    }
    let read = |(at, text): (usize, String)| {
        text.parse()
            .map_err(|_| Problem::field(format!("allowed_networks[{at}]"), "a network such as 10.1.0.0/16", text))
    };
    given.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

/// `preset` sets retry, breaker and rate limit together, each where there is one of this name.
fn apply_preset(settings: &mut UpstreamSettings, name: &str) -> Result<(), Problem> {
    let (retry, breaker, rate) = (RetryPolicy::preset(name), BreakerSettings::preset(name), RateLimit::preset(name));
    let (Some(retry), Some(breaker)) = (retry, breaker) else {
        return Err(Problem::field("preset", format!("one of {}", BreakerSettings::PRESETS.join(", ")), name));
    };
    (settings.retry, settings.breaker, settings.rate_limit) = (retry, breaker, rate);
    Ok(())
}

/// The parts that can be set when an upstream is made and when it is changed.
fn shared(fields: &mut Fields, settings: &mut UpstreamSettings, ground: Ground<'_>) -> Result<AuthWish, Problem> {
    if let Some(networks) = networks(fields, ground.origin)? {
        settings.allowed_networks = networks;
    }
    let policy = settings.policy(ground.policy);
    if let Some(url) = fields.private_text("base_url", URL_BYTES_MAX)? {
        settings.base_url = check_base_url(&url, &policy)?;
    }
    if let Some(version) = fields.text("version", super::adapter::VERSION_CHARS_MAX)? {
        check_version("version", &version)?;
        settings.version = version;
    }
    match fields.sent("health_path") {
        None => {}
        Some(Value::Null) => settings.health_path = None,
        Some(Value::String(text)) if text.len() <= PATH_CHARS_MAX => {
            let path = Template::parse_path("health_path", &text)?;
            if path.parameters().next().is_some() {
                return Err(Problem::field("health_path", "no parameters", text));
            }
            settings.health_path = Some(text);
        }
        Some(other) => return Err(Problem::field("health_path", "a path such as /health", other)),
    }
    if let Some(ms) = fields.number("connect_timeout_ms", TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)? {
        settings.connect_timeout_ms = ms;
    }
    if let Some(name) = fields.text("preset", 64)? {
        apply_preset(settings, &name)?;
    }
    if let Some(ms) = fields.number("total_timeout_ms", TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)? {
        settings.total_timeout_ms = Some(ms);
    }
    if let Some(retry) = fields.take("retry") {
        settings.retry = RetryPolicy::from_json(&retry, "retry")?;
    }
    if let Some(breaker) = fields.take("breaker") {
        settings.breaker = BreakerSettings::from_json(&breaker, &settings.breaker, "breaker")?;
    }
    match fields.sent("rate_limit") {
        None => {}
        Some(Value::Null) => settings.rate_limit = None,
        Some(sent) => settings.rate_limit = Some(RateLimit::from_json(&sent, "rate_limit")?),
    }
    if let Some(concurrency) = fields.number("concurrency", 1, CONCURRENCY_MAX)? {
        settings.concurrency = concurrency;
    }
    if let Some(reads) = read::read_all(fields)? {
        settings.reads = reads;
    }
    if let Some(sent) = fields.take("publishes") {
        settings.publishes = read_rules(sent, settings.org.as_deref())?;
    }
    match fields.sent("description") {
        None => {}
        Some(Value::Null) => settings.description = None,
        Some(Value::String(text))
            if text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.chars().any(char::is_control) =>
        {
            settings.description = Some(text);
        }
        Some(other) => {
            let limit = format!("at most {DESCRIPTION_CHARS_MAX} characters, none of them control characters");
            return Err(Problem::field("description", limit, other));
        }
    }
    let inline = match ground.origin {
        Origin::Config => Inline::Refused,
        Origin::Api => Inline::Sealed,
    };
    match fields.sent("auth") {
        None => Ok(AuthWish::Keep),
        Some(Value::Null) => Ok(AuthWish::Remove),
        Some(sent) => Credential::from_json(sent, &policy, inline).map(AuthWish::Set),
    }
}

/// Reads the declaration of a new upstream.
///
/// # Errors
/// When a field does not fit.
pub fn read_new(mut fields: Fields, ground: Ground<'_>) -> Result<Declared, Problem> {
    let id = fields.required_text("id", super::adapter::ID_CHARS_MAX)?;
    check_id("id", &id)?;
    if RESERVED_IDS.contains(&id.as_str()) {
        return Err(Problem::field("id", format!("not one of {}", RESERVED_IDS.join(", ")), id));
    }
    let mut settings = UpstreamSettings {
        org: fields.text("org", SCOPE_CHARS_MAX)?,
        version: VERSION_DEFAULT.to_owned(),
        base_url: String::new(),
        health_path: None,
        connect_timeout_ms: CONNECT_MS_DEFAULT,
        total_timeout_ms: None,
        retry: RetryPolicy::Fixed { attempts_max: 3, delays_ms: vec![1_000, 2_000, 4_000], jitter: 0.0 },
        breaker: ground.breaker.clone(),
        rate_limit: None,
        concurrency: CONCURRENCY_DEFAULT,
        reads: BTreeMap::new(),
        publishes: Vec::new(),
        description: None,
        allowed_networks: Vec::new(),
    };
    let auth = shared(&mut fields, &mut settings, ground)?;
    fields.finish()?;
    if settings.base_url.is_empty() {
        return Err(Problem::field("base_url", "required", "nothing"));
    }
    Ok(Declared { id, settings, auth })
}

/// Reads a change of an upstream.
///
/// # Errors
/// When a field does not fit or cannot be changed.
pub fn read_change(
    mut fields: Fields,
    before: &UpstreamSettings,
    ground: Ground<'_>,
) -> Result<(UpstreamSettings, AuthWish), Problem> {
    let mut settings = before.clone();
    if let Some(org) = fields.text("org", SCOPE_CHARS_MAX)?
        && Some(&org) != before.org.as_ref()
    {
        return Err(Problem::field("org", "cannot be changed", org));
    }
    let auth = shared(&mut fields, &mut settings, ground)?;
    fields.finish()?;
    Ok((settings, auth))
}

/// Ids that are words of the admin API.
pub const RESERVED_IDS: [&str; 1] = ["health"];

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
