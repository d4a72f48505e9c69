//! A pull consumer as it is kept, and as a client asks for it (INB-5).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::event::filter::EventFilter;
use crate::event::filter::fields::read_clauses;
use crate::ground::clock::UnixMs;
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::ids::Seq;
use crate::ground::limits::{CONSUMER_CHARS_MAX, RETRY_ATTEMPTS_MAX, SCOPE_CHARS_MAX};
use crate::inbox::spec::{ConsumerKind, ConsumerSpec};
use crate::inbox::state::{InboxRules, Ordering};
use crate::retry::RetryPolicy;

/// Shortest lease.
pub const LEASE_MS_MIN: u64 = 100;
/// Longest lease: 12 hours.
pub const LEASE_MS_MAX: u64 = 12 * 3_600_000;
/// The lease of a consumer that does not say.
pub const LEASE_MS_DEFAULT: u64 = 30_000;
/// Attempts of a consumer that does not say.
pub const ATTEMPTS_DEFAULT: u32 = 10;
/// Most deliveries out at once.
pub const IN_FLIGHT_MAX: u64 = 1_000;
/// Deliveries out at once of a consumer that does not say.
pub const IN_FLIGHT_DEFAULT: usize = 256;
/// An ephemeral consumer may be alone for at least so long.
pub const EXPIRES_MS_MIN: u64 = 1_000;
/// And at most so long: 1 day.
pub const EXPIRES_MS_MAX: u64 = 24 * 3_600_000;
/// How long an ephemeral consumer may be alone when it does not say.
pub const EXPIRES_MS_DEFAULT: u64 = 60_000;
/// Largest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 500;

/// Whether a consumer gets events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullStatus {
    /// It does.
    Active,
    /// Its owner has paused it: its cursor waits. What is out can still be answered.
    Paused,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest event that the log has.
    Earliest,
    /// With what comes after its making.
    Latest,
    /// With this position.
    Seq(Seq),
    /// With the first event received at or after this time.
    Time(UnixMs),
}

impl Start {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        const WORDS: &str = "\"earliest\", \"latest\", {\"seq\": n} or {\"time\": RFC 3339}";
        let Some(value) = fields.take("start") else { return Ok(Self::Latest) };
        match value.as_str() {
            Some("earliest") => return Ok(Self::Earliest),
            Some("latest") => return Ok(Self::Latest),
            Some(_) | None => {}
        }
        let only = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.iter().next());
        match only.map(|(name, value)| (name.as_str(), value)) {
            Some(("seq", seq)) => match seq.as_u64().filter(|seq| *seq > 0) {
                Some(seq) => Ok(Self::Seq(Seq(seq))),
                None => Err(Problem::field("start.seq", "a position, from 1", seq)),
            },
            Some(("time", Value::String(text))) => UnixMs::parse_rfc3339(text)
                .map(Self::Time)
                .map_err(|error| Problem::field("start.time", format!("an RFC 3339 time ({error})"), text)),
            Some(("time", other)) => Err(Problem::field("start.time", "an RFC 3339 time", other)),
            Some(_) | None => Err(Problem::field("start", WORDS, value)),
        }
    }

    fn to_json(self) -> Value {
        match self {
            Self::Earliest => json!("earliest"),
            Self::Latest => json!("latest"),
            Self::Seq(seq) => json!({ "seq": seq.0 }),
            Self::Time(time) => json!({ "time": time.to_rfc3339() }),
        }
    }
}

/// What a client sets of a consumer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PullSettings {
    /// Its name within its org.
    pub name: String,
    /// What it gets.
    pub filter: EventFilter,
    /// In which order.
    pub ordering: Ordering,
    /// How long a delivery may stay unanswered.
    pub lease_ms: u64,
    /// Attempts before a delivery is given up.
    pub max_attempts: u32,
    /// Deliveries out at once.
    pub max_in_flight: usize,
    /// When what was refused without a delay is tried again; none for the default.
    #[serde(default)]
    pub retry: Option<RetryPolicy>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Removed when nobody has been there for so long; none for a consumer that stays.
    #[serde(default)]
    pub expires_after_ms: Option<u64>,
}

impl PullSettings {
    /// Its org.
    #[must_use]
    pub fn org(&self) -> &str {
        self.filter.org.as_deref().unwrap_or_default()
    }
}

/// A pull consumer as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullRecord {
    /// Its id, `con_…`, which names it where every consumer is named.
    pub id: String,
    /// What its owner set.
    pub settings: PullSettings,
    /// Whether it gets events.
    pub status: PullStatus,
    /// Where it was asked to begin.
    pub start: Start,
    /// What that came to: it gets what lies after this.
    pub from: Seq,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    pub updated: WriteContext,
}

impl PullRecord {
    /// The consumer as clients see it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let PullSettings {
            name,
            filter,
            ordering,
            lease_ms,
            max_attempts,
            max_in_flight,
            retry,
            description,
            expires_after_ms,
        } = &self.settings;
        json!({
            "id": self.id,
            "name": name,
            "org": filter.org,
            "event_types": filter.event_types,
            "channel": filter.channel,
            "facility": filter.facility,
            "service": filter.service,
            "filter": filter.expression,
            "filter_error": filter.mistake().map(ToString::to_string),
            "ordering": ordering,
            "lease_ms": lease_ms,
            "max_attempts": max_attempts,
            "max_in_flight": max_in_flight,
            "retry": retry,
            "description": description,
            "ephemeral": expires_after_ms.is_some(),
            "expires_after_ms": expires_after_ms,
            "status": self.status,
            "start": self.start.to_json(),
            "start_seq": self.from.next().0,
            "created_at": self.created.at.to_rfc3339(),
            "created_by": self.created.to_json(),
            "updated_at": self.updated.at.to_rfc3339(),
            "updated_by": self.updated.to_json(),
        })
    }

    /// What its inbox keeps to.
    #[must_use]
    pub fn spec(&self, config: &Config) -> ConsumerSpec {
        let settings = &self.settings;
        let retry = settings.retry.clone().unwrap_or(RetryPolicy::Exponential {
            attempts_max: settings.max_attempts,
            base_ms: 1_000,
            multiplier: 2.0,
            cap_ms: 60_000,
            jitter: 0.1,
        });
        ConsumerSpec {
            health: None,
            overload_rest_ms: 0,
            kind: ConsumerKind::Pull,
            filter: std::sync::Arc::new(settings.filter.clone()),
            rules: InboxRules {
                ordering: settings.ordering,
                concurrency: settings.max_in_flight,
                window_events: config.inbox.window_events,
                window_bytes: config.inbox.window_bytes,
                parked_max: config.inbox.parked_max,
                lease_ms: settings.lease_ms,
            },
            retry: retry.with_attempts(settings.max_attempts),
            rate_limit: None,
            paused: self.status != PullStatus::Active,
            dead_letters: true,
            from: self.from,
        }
    }
}

/// Whether a text can name a consumer: it stands in paths.
fn check_name(name: &str) -> Result<(), Problem> {
    const LIMIT: &str = "letters, digits, `_`, `.` and `-`, beginning with a letter or digit";
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.bytes().all(fits) { Ok(()) } else { Err(Problem::field("name", LIMIT, name)) }
}

/// The parts that can be set when a consumer is made and when it is changed.
fn shared(fields: &mut Fields, settings: &mut PullSettings) -> Result<(), Problem> {
    read_clauses(fields, &mut settings.filter)?;
    if let Some(lease_ms) = fields.number("lease_ms", LEASE_MS_MIN, LEASE_MS_MAX)? {
        settings.lease_ms = lease_ms;
    }
    let retry = fields.take("retry").map(|value| RetryPolicy::from_json(&value, "retry")).transpose()?;
    if let Some(policy) = retry {
        settings.max_attempts = policy.attempts_max();
        settings.retry = Some(policy);
    }
    if let Some(attempts) = fields.number("max_attempts", 1, u64::from(RETRY_ATTEMPTS_MAX))? {
        settings.max_attempts = u32::try_from(attempts).unwrap_or(RETRY_ATTEMPTS_MAX);
    }
    settings.retry = settings.retry.take().map(|policy| policy.with_attempts(settings.max_attempts));
    if let Some(most) = fields.number("max_in_flight", 1, IN_FLIGHT_MAX)? {
        settings.max_in_flight = usize::try_from(most).unwrap_or(IN_FLIGHT_DEFAULT);
    }
    if let Some(description) = fields.text("description", DESCRIPTION_CHARS_MAX)? {
        settings.description = Some(description);
    }
    if settings.retry.as_ref().is_some_and(|policy| policy.validate("retry").is_err()) {
        let limit = "with more than one attempt the retry policy needs delays";
        return Err(Problem::field("max_attempts", limit, settings.max_attempts));
    }
    Ok(())
}

/// Reads a request for a new consumer. `org` is the org the key is confined to.
///
/// # Errors
/// When a field does not fit.
pub fn read_new(mut fields: Fields, org: Option<&str>) -> Result<(PullSettings, Start), Problem> {
    let name = fields.required_text("name", CONSUMER_CHARS_MAX)?;
    check_name(&name)?;
    let given = fields.text("org", SCOPE_CHARS_MAX)?;
    let org = scoped_org(given, org)?
        .ok_or_else(|| Problem::field("org", "required: which tenant's events it gets", "nothing"))?;
    let start = Start::read(&mut fields)?;
    let ephemeral = match fields.take("ephemeral") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => return Err(Problem::field("ephemeral", "true or false", other)),
    };
    let expires = fields.number("expires_after_ms", EXPIRES_MS_MIN, EXPIRES_MS_MAX)?;
    if let Some(expires) = expires.filter(|_| !ephemeral) {
        return Err(Problem::field("expires_after_ms", "only with `ephemeral`: true", expires));
    }
    let mut settings = PullSettings {
        name,
        filter: EventFilter { org: Some(org), ..EventFilter::default() },
        ordering: fields.choice("ordering", "none, key, strict")?.unwrap_or_default(),
        lease_ms: LEASE_MS_DEFAULT,
        max_attempts: ATTEMPTS_DEFAULT,
        max_in_flight: IN_FLIGHT_DEFAULT,
        retry: None,
        description: None,
        expires_after_ms: ephemeral.then(|| expires.unwrap_or(EXPIRES_MS_DEFAULT)),
    };
    shared(&mut fields, &mut settings)?;
    fields.finish()?;
    if settings.filter.event_types.is_empty() {
        return Err(Problem::field("event_types", "required: at least one pattern; `*` for all", "nothing"));
    }
    Ok((settings, start))
}

/// Reads a change of a consumer.
///
/// # Errors
/// When a field does not fit or cannot be changed.
pub fn read_change(mut fields: Fields, before: &PullSettings) -> Result<PullSettings, Problem> {
    const FIXED: &str = "cannot be changed; make another consumer";
    let mut settings = before.clone();
    for (name, known) in [("name", Some(before.name.as_str())), ("org", before.filter.org.as_deref())] {
        if let Some(given) = fields.text(name, CONSUMER_CHARS_MAX)?
            && Some(given.as_str()) != known
        {
            return Err(Problem::field(name, FIXED, given));
        }
    }
    if let Some(ordering) = fields.choice::<Ordering>("ordering", "none, key, strict")?
        && ordering != before.ordering
    {
        return Err(Problem::field("ordering", FIXED, format!("{ordering:?}").to_lowercase()));
    }
    for name in ["start", "ephemeral"] {
        if let Some(given) = fields.take(name) {
            return Err(Problem::field(name, FIXED, given));
        }
    }
    if let Some(expires) = fields.number("expires_after_ms", EXPIRES_MS_MIN, EXPIRES_MS_MAX)? {
        if before.expires_after_ms.is_none() {
            return Err(Problem::field("expires_after_ms", "only of an ephemeral consumer", expires));
        }
        settings.expires_after_ms = Some(expires);
    }
    shared(&mut fields, &mut settings)?;
    fields.finish()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<(PullSettings, Start), Problem> {
        read_new(Fields::parse(value.to_string().as_bytes()).expect("an object"), None)
    }

    #[test]
    fn a_consumer_is_read_with_its_defaults_and_every_start() {
        let base = json!({"name": "billing", "org": "acme", "event_types": ["invoice.*"]});
        let (settings, start) = read(&base).expect("fits");
        assert_eq!((settings.lease_ms, settings.max_attempts, start), (30_000, 10, Start::Latest));
        assert_eq!(settings.expires_after_ms, None);
        for (given, wanted) in [
            (json!("earliest"), Start::Earliest),
            (json!({"seq": 7}), Start::Seq(Seq(7))),
            (json!({"time": "2026-11-21T08:00:00Z"}), Start::Time(UnixMs(1_795_248_000_000))),
        ] {
            let mut value = base.clone();
            value["start"] = given.clone();
            let (_, start) = read(&value).expect("fits");
            assert_eq!(start, wanted);
            assert_eq!(start.to_json().as_str().is_some(), given.is_string());
        }
    }

    #[test]
    fn every_field_that_does_not_fit_is_named() {
        for (field, with) in [
            ("name", json!({"name": "../x"})),
            ("name", json!({"name": "-x"})),
            ("name", json!({"name": null})),
            ("org", json!({"org": null})),
            ("event_types", json!({"event_types": null})),
            ("start", json!({"start": "now"})),
            ("start", json!({"start": {"seq": 1, "time": "x"}})),
            ("start.seq", json!({"start": {"seq": 0}})),
            ("start.time", json!({"start": {"time": "yesterday"}})),
            ("lease_ms", json!({"lease_ms": 1})),
            ("max_attempts", json!({"max_attempts": 0})),
            ("max_in_flight", json!({"max_in_flight": 100_000})),
            ("ordering", json!({"ordering": "some"})),
            ("ephemeral", json!({"ephemeral": 1})),
            ("expires_after_ms", json!({"expires_after_ms": 5_000})),
            ("expires_after_ms", json!({"ephemeral": true, "expires_after_ms": 1})),
            ("retry", json!({"retry": "sometimes"})),
            ("max_atempts", json!({"max_atempts": 3})),
        ] {
            let mut value = json!({"name": "billing", "org": "acme", "event_types": ["invoice.*"]});
            value.as_object_mut().expect("an object").extend(with.as_object().expect("an object").clone());
            let problem = read(&value).expect_err(field);
            assert_eq!(problem.field.as_deref(), Some(field), "{value}: {problem}");
        }
    }

    #[test]
    fn the_number_of_attempts_is_one_wherever_it_is_set() {
        let given = json!({"name": "a", "org": "acme", "event_types": ["*"], "retry": "erp", "max_attempts": 3});
        let (settings, _) = read(&given).expect("fits");
        assert_eq!(settings.retry.as_ref().map(RetryPolicy::attempts_max), Some(3));
        let changed = read_change(Fields::parse(br#"{"retry":"sales"}"#).expect("an object"), &settings).expect("fits");
        assert_eq!(changed.max_attempts, 4);
    }

    #[test]
    fn what_a_consumer_is_made_of_stays() {
        let given = json!({"name": "a", "org": "acme", "event_types": ["*"], "ordering": "key"});
        let (settings, _) = read(&given).expect("fits");
        for (field, change) in [
            ("name", json!({"name": "b"})),
            ("org", json!({"org": "other"})),
            ("ordering", json!({"ordering": "none"})),
            ("start", json!({"start": "earliest"})),
            ("ephemeral", json!({"ephemeral": true})),
            ("expires_after_ms", json!({"expires_after_ms": 5_000})),
        ] {
            let fields = Fields::parse(change.to_string().as_bytes()).expect("an object");
            assert_eq!(read_change(fields, &settings).expect_err(field).field.as_deref(), Some(field));
        }
        let same = json!({"name": "a", "org": "acme", "ordering": "key", "lease_ms": 500});
        let fields = Fields::parse(same.to_string().as_bytes()).expect("an object");
        assert_eq!(read_change(fields, &settings).expect("fits").lease_ms, 500);
    }

    #[test]
    fn a_document_of_the_first_version_is_read_as_it_was_written() {
        let document = r#"{"id":"con_1","settings":{"name":"billing","filter":{"org":"acme","event_types":["invoice.*"],"channel":null,"facility":null,"service":null},"ordering":"key","lease_ms":5000,"max_attempts":3,"max_in_flight":256},"status":"paused","start":{"seq":7},"from":6,"created":{"by":"admin","at":1795248000000},"updated":{"by":"key:1","at":1795248000001}}"#;
        let record: PullRecord = serde_json::from_str(document).expect("reads");
        assert_eq!((record.start, record.from, record.status), (Start::Seq(Seq(7)), Seq(6), PullStatus::Paused));
        assert_eq!(
            (record.settings.org(), record.settings.lease_ms, record.settings.retry.clone()),
            ("acme", 5_000, None)
        );
        let written = serde_json::to_string(&record).expect("writes");
        assert_eq!(serde_json::from_str::<PullRecord>(&written).expect("reads").settings, record.settings);
    }
}
