//! What each setting may be: one table, used for files, environment, flags and the settings API alike.

use serde_json::{Map, Value};

use super::model::OutboxSettings;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// `true` or `false`.
    Flag,
    /// A whole number within these bounds, both included.
    Whole(u64, u64),
    /// A whole number within these bounds, or 0 for what the comment of the key says.
    WholeOrZero(u64, u64),
    /// A number within these bounds, both included.
    Fraction(f64, f64),
    /// Text of at most this many characters.
    Text(usize),
    /// Text of at least one and at most this many characters.
    Name(usize),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// IP address and port.
    Address,
    /// A list of CIDRs.
    Networks(usize),
    /// A list of at most so many whole numbers, each within bounds.
    Wholes(usize, u64, u64),
    /// Log levels, alone or per module.
    Levels,
    /// At most so many declarations of upstreams, no secret in clear among them.
    Upstreams(usize),
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEARS: u64 = 3_650 * DAY;
const EVENT_BYTES_CEILING: u64 = limits::EVENT_BYTES_CEILING as u64;

/// Every setting and what it may be.
pub const SETTINGS: &[(&str, Range)] = &[
    ("upstreams", Range::Upstreams(1_000)),
    ("upstream.cache_entries_max", Range::Whole(1, 10_000_000)),
    ("upstream.cache_bytes_max", Range::Whole(64 << 10, 16 * GIB)),
    ("server.data_dir", Range::Name(4_096)),
    ("server.public", Range::Address),
    ("server.admin", Range::Address),
    ("server.workers", Range::WholeOrZero(1, 1_024)),
    ("server.keep_alive_ms", Range::Whole(1_000, HOUR)),
    ("server.slow_request_ms", Range::Whole(100, 10 * MINUTE)),
    ("server.body_timeout_ms", Range::Whole(100, HOUR)),
    ("server.connections_max", Range::Whole(1, 1_000_000)),
    ("server.shutdown_ms", Range::Whole(0, HOUR)),
    ("server.paused", Range::Flag),
    ("limits.event_bytes_max", Range::Whole(1_024, EVENT_BYTES_CEILING)),
    ("limits.batch_events_max", Range::Whole(1, 10_000)),
    ("limits.batch_bytes_max", Range::Whole(1_024, 64 * MIB)),
    ("log.cache_bytes", Range::Whole(16 * MIB, 4_096 * MIB)),
    ("log.segment_events", Range::Whole(1_000, 1_000_000)),
    ("log.group_events_max", Range::Whole(1, 4_096)),
    ("log.ingest_queue_bytes", Range::Whole(MIB, 4 * GIB)),
    ("log.tail_ring_bytes", Range::Whole(MIB, 4 * GIB)),
    ("log.retention_ms", Range::Whole(1_000, YEARS)),
    ("log.retention_bytes", Range::WholeOrZero(MIB, 1_024 * TIB)),
    ("log.max_consumer_lag_ms", Range::Whole(1_000, YEARS)),
    ("log.free_space_floor_bytes", Range::Whole(0, TIB)),
    ("log.retention_check_ms", Range::Whole(100, DAY)),
    ("schedule.ahead_ms_max", Range::Whole(1_000, YEARS)),
    ("schedule.events_max", Range::Whole(1, 1_000_000)),
    ("schedule.bytes_max", Range::Whole(MIB, 16 * GIB)),
    ("links.per_org_max", Range::Whole(1, 1_000_000_000)),
    ("outbox.enabled", Range::Flag),
    ("outbox.processor_enabled", Range::Flag),
    ("outbox.startup_drain_enabled", Range::Flag),
    ("outbox.polling_interval_ms", Range::Whole(100, HOUR)),
    ("outbox.idle_polling_interval_ms", Range::Whole(100, DAY)),
    ("outbox.batch_size", Range::Whole(1, 1_000)),
    ("outbox.max_attempts", Range::Whole(1, limits::RETRY_ATTEMPTS_MAX as u64)),
    ("outbox.processing_lease_ms", Range::Whole(1_000, HOUR)),
    ("outbox.retry_base_delay_ms", Range::Whole(1, HOUR)),
    ("outbox.dead_letter_enabled", Range::Flag),
    ("outbox.startup_drain_batch_size", Range::Whole(1, 1_000)),
    ("inbox.window_events", Range::Whole(1, 65_536)),
    ("inbox.window_bytes", Range::Whole(64 << 10, GIB)),
    ("inbox.parked_max", Range::Whole(1, 10_000_000)),
    ("inbox.checkpoint_ms", Range::Whole(1, MINUTE)),
    ("inbox.idle_ms", Range::Whole(100, DAY)),
    ("inbox.catch_up_readers", Range::Whole(1, 64)),
    ("cdc.streams_max", Range::Whole(1, 100_000)),
    ("cdc.heartbeat_ms", Range::Whole(100, HOUR)),
    ("cdc.readers", Range::Whole(1, 64)),
    ("delivery.allow_private_networks", Range::Flag),
    ("delivery.allowed_networks", Range::Networks(1_000)),
    ("delivery.connect_timeout_ms", Range::Whole(10, 5 * MINUTE)),
    ("delivery.total_timeout_ms", Range::Whole(10, 10 * MINUTE)),
    ("delivery.concurrency", Range::Whole(1, 512)),
    ("delivery.attempts_retention_ms", Range::Whole(1_000, YEARS)),
    ("delivery.dead_letter_retention_ms", Range::Whole(1_000, YEARS)),
    ("delivery.arbiters", Range::WholeOrZero(1, 64)),
    ("delivery.overload_rest_ms", Range::Whole(0, HOUR)),
    ("delivery.extra_ca_file", Range::Text(4_096)),
    ("delivery.proxy", Range::Text(2_048)),
    ("delivery.retry.delays_ms", Range::Wholes(limits::RETRY_ATTEMPTS_MAX as usize - 1, 0, limits::RETRY_DELAY_MS_MAX)),
    ("delivery.retry.jitter", Range::Fraction(0.0, 1.0)),
    ("pull.clients_max", Range::Whole(1, 1_000_000)),
    ("pull.consumer_clients_max", Range::Whole(1, 100_000)),
    ("pull.heartbeat_ms", Range::Whole(10, 10 * MINUTE)),
    ("pull.send_timeout_ms", Range::Whole(10, 10 * MINUTE)),
    ("breaker.failure_threshold", Range::Whole(1, 10_000)),
    ("breaker.success_threshold", Range::Whole(1, 1_000)),
    ("breaker.cooldown_ms", Range::Whole(1, DAY)),
    ("breaker.cooldown_cap_ms", Range::Whole(1, 7 * DAY)),
    ("breaker.probes_max", Range::Whole(1, 100)),
    ("idempotency.keep_ms", Range::Whole(MINUTE, 30 * DAY)),
    ("idempotency.wait_ms", Range::Whole(0, 5 * MINUTE)),
    ("idempotency.lock_ms", Range::Whole(1_000, HOUR)),
    ("idempotency.answer_bytes_max", Range::Whole(0, 4 * MIB)),
    ("idempotency.org_keys_max", Range::Whole(1, 1_000_000)),
    ("idempotency.org_bytes_max", Range::Whole(0, GIB)),
    ("idempotency.keys_max", Range::Whole(1, 1_000_000)),
    ("idempotency.keep_at_least_ms", Range::Whole(0, DAY)),
    ("jobs.running_max", Range::Whole(1, 64)),
    ("jobs.finished_max", Range::Whole(1, 100_000)),
    ("jobs.finished_ms", Range::Whole(1_000, YEARS)),
    ("bulk.part_bytes", Range::Whole(64 << 10, GIB)),
    ("bulk.exports_bytes_max", Range::Whole(MIB, 1_024 * TIB)),
    ("bulk.exports_ms", Range::Whole(1_000, YEARS)),
    ("bulk.import_bytes_max", Range::Whole(1_024, 1_024 * TIB)),
    ("bulk.imports_bytes_max", Range::Whole(1_024, 1_024 * TIB)),
    ("bulk.imports_max", Range::Whole(1, 100_000)),
    ("bulk.imports_ms", Range::Whole(1_000, YEARS)),
    ("bulk.import_rate", Range::WholeOrZero(1, 100_000)),
    ("health.failing_after", Range::Whole(1, limits::FAILURES_MAX)),
    ("health.pause_after_ms", Range::WholeOrZero(limits::PAUSE_MS_MIN, limits::PAUSE_MS_MAX)),
    ("health.pause_after_failures", Range::Whole(0, limits::FAILURES_MAX)),
    ("secrets.key_file", Range::Text(4_096)),
    ("secrets.key_env", Range::Text(255)),
    ("logging.level", Range::Levels),
    ("logging.format", Range::Choice(&["auto", "json", "pretty"])),
    ("trace.otlp_endpoint", Range::Text(2_048)),
    ("trace.sampling_ratio", Range::Fraction(0.0, 1.0)),
    ("trace.queue_spans_max", Range::Whole(1, 1_000_000)),
    ("trace.timeout_ms", Range::Whole(10, 5 * MINUTE)),
    ("supervise.restarts_max", Range::Whole(0, 1_000)),
    ("supervise.window_ms", Range::Whole(100, DAY)),
    ("supervise.backoff_ms", Range::Whole(1, HOUR)),
    ("supervise.backoff_cap_ms", Range::Whole(1, HOUR)),
    ("faults.enabled", Range::Flag),
];

/// Members of `auth` that are secret: here they may only say where the secret is.
const SECRET_MEMBERS: [&str; 4] = ["token", "password", "client_secret", "value"];

/// Whether a declaration of an upstream has a secret in clear.
fn holds_secret(declared: &Value) -> bool {
    let auth = declared.get("auth");
    SECRET_MEMBERS.iter().any(|name| auth.and_then(|auth| auth.get(name)).is_some_and(|value| !value.is_object()))
}

/// The setting of this name and what it may be.
#[must_use]
pub fn setting(key: &str) -> Option<(&'static str, Range)> {
    SETTINGS.iter().find(|(known, _)| *known == key).copied()
}

/// The known name nearest to a wrong one, when one is near enough to be what was meant.
#[must_use]
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: f64 = 0.75;
    known
        .map(|name| (name, strsim::normalized_damerau_levenshtein(wrong, name)))
        .filter(|(_, score)| *score >= NEAR)
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
        .map(|(name, _)| name)
}

impl Range {
    /// The range in words: `a whole number, 1 to 512`.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Whole(min, max) => format!("a whole number, {min} to {max}"),
            Self::WholeOrZero(min, max) => format!("0, or a whole number, {min} to {max}"),
            Self::Fraction(min, max) => format!("a number, {min} to {max}"),
            Self::Text(chars) => format!("text of at most {chars} characters"),
            Self::Name(chars) => format!("text of 1 to {chars} characters"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Address => "an IP address and a port, such as 127.0.0.1:8080".to_owned(),
            Self::Networks(count) => format!("a list of at most {count} networks, such as 10.1.0.0/16"),
            Self::Wholes(count, min, max) => {
                format!("a list of at most {count} whole numbers, each {min} to {max}")
            }
            Self::Levels => {
                "error, warn, info, debug, trace or off, or such pairs as info,tidegate::outbox=debug".into()
            }
            Self::Upstreams(count) => format!(
                "a list of at most {count} tables, the secret of each `auth` given as {{ env = NAME }} or {{ file = PATH }}"
            ),
        }
    }

    /// What of a value that was refused may be repeated.
    #[must_use]
    pub fn shown(self, value: &Value) -> String {
        match self {
            // A secret may stand in it.
            Self::Upstreams(_) => "what was given".to_owned(),
            Self::Flag
            | Self::Whole(..)
            | Self::WholeOrZero(..)
            | Self::Fraction(..)
            | Self::Text(_)
            | Self::Name(_)
            | Self::Choice(_)
            | Self::Address
            | Self::Networks(_)
            | Self::Wholes(..)
            | Self::Levels => value.to_string(),
        }
    }

    /// Whether the value is one of those allowed.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        let text = value.as_str();
        match self {
            Self::Flag => value.is_boolean(),
            Self::Whole(min, max) => value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
            Self::WholeOrZero(min, max) => value.as_u64().is_some_and(|n| n == 0 || (min..=max).contains(&n)),
            Self::Fraction(min, max) => value.as_f64().is_some_and(|n| (min..=max).contains(&n)),
            Self::Text(chars) => text.is_some_and(|text| text.chars().count() <= chars),
            Self::Name(chars) => text.is_some_and(|text| !text.is_empty() && text.chars().count() <= chars),
            Self::Choice(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Address => text.is_some_and(|text| text.parse::<std::net::SocketAddr>().is_ok()),
            Self::Networks(count) => value.as_array().is_some_and(|list| {
                let network = |item: &Value| item.as_str().is_some_and(|text| text.parse::<ipnet::IpNet>().is_ok());
                list.len() <= count && list.iter().all(network)
            }),
            Self::Wholes(count, min, max) => value
                .as_array()
                .is_some_and(|list| list.len() <= count && list.iter().all(|item| Self::Whole(min, max).admits(item))),
            Self::Levels => text.is_some_and(levels_fit),
            Self::Upstreams(count) => value.as_array().is_some_and(|list| {
                list.len() <= count && list.iter().all(|one| one.is_object() && !holds_secret(one))
            }),
        }
    }

    /// Reads a value from the text of a variable or flag. Text that does not read stays text, for [`Range::admits`] to
    /// refuse with the range.
    #[must_use]
    pub fn read(self, text: &str) -> Value {
        let kept = || Value::String(text.to_owned());
        let digits = text.replace('_', "");
        match self {
            Self::Flag => text.parse::<bool>().map_or_else(|_| kept(), Value::Bool),
            Self::Whole(..) | Self::WholeOrZero(..) => digits.parse::<u64>().map_or_else(|_| kept(), Value::from),
            Self::Fraction(..) => digits.parse::<f64>().map_or_else(|_| kept(), Value::from),
            Self::Text(_) | Self::Name(_) | Self::Choice(_) | Self::Address | Self::Levels => kept(),
            Self::Upstreams(_) => serde_json::from_str(text).unwrap_or_else(|_| kept()),
            Self::Networks(_) => list(text, |item| Value::String(item.to_owned())),
            Self::Wholes(_, min, max) => list(text, |item| Self::Whole(min, max).read(item)),
        }
    }
}

/// A list as `a,b` or `[a, b]`, the items with or without quotes.
fn list(text: &str, item: impl Fn(&str) -> Value) -> Value {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let items = inner.split(',').map(|part| part.trim().trim_matches('"')).filter(|part| !part.is_empty());
    Value::Array(items.map(item).collect())
}

/// Checked here because the filter's own parser takes a bare `bogus` for a module's name.
fn levels_fit(text: &str) -> bool {
    let level = |word: &str| !word.is_empty() && word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let part = |part: &str| match part.split_once('=') {
        Some((module, word)) => !module.trim().is_empty() && level(word.trim()),
        None => level(part.trim()),
    };
    !text.trim().is_empty() && text.len() <= 1_024 && text.split(',').all(part)
}

impl OutboxSettings {
    /// Changes the settings named in `changes`: all of them, or none when one is unknown or out of its range.
    ///
    /// # Errors
    /// A problem that names the field, the allowed range and what was sent.
    pub fn patch(&mut self, changes: &Map<String, Value>) -> Result<(), Problem> {
        let mut next = serde_json::to_value(&*self).map_err(|error| internal(&error))?;
        for (name, value) in changes {
            let Some((_, range)) = setting(&format!("outbox.{name}")) else { return Err(unknown(name)) };
            if !range.admits(value) {
                return Err(Problem::field(format!("outbox.{name}"), range.words(), value));
            }
            next[name] = value.clone();
        }
        *self = serde_json::from_value(next).map_err(|error| internal(&error))?;
        Ok(())
    }
}

fn unknown(name: &str) -> Problem {
    let names = SETTINGS.iter().filter_map(|(key, _)| key.strip_prefix("outbox."));
    let limit = match nearest(name, names.clone()) {
        Some(near) => format!("is unknown, did you mean {near}?"),
        None => format!("is unknown; the settings are {}", names.collect::<Vec<_>>().join(", ")),
    };
    Problem::field(format!("outbox.{}", limits::clip(name, limits::SCOPE_CHARS_MAX)), limit, name)
}

fn internal(error: &serde_json::Error) -> Problem {
    tracing::error!(%error, "settings do not pass through their own form");
    Problem::new(ProblemKind::Internal, "the settings could not be changed")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    fn patched(changes: Value) -> Result<OutboxSettings, Problem> {
        let mut settings = Config::default().outbox;
        let changes = changes.as_object().expect("an object").clone();
        settings.patch(&changes).map(|()| settings)
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let settings = patched(json!({"batch_size": 25, "dead_letter_enabled": false})).expect("fits");
        let expected = OutboxSettings { batch_size: 25, dead_letter_enabled: false, ..Config::default().outbox };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_bad_value_is_refused_with_the_range_and_changes_nothing() {
        let mut settings = Config::default().outbox;
        let changes = json!({"max_attempts": 5, "batch_size": 0});
        let problem = settings.patch(changes.as_object().expect("an object")).expect_err("refused");
        assert_eq!(problem.field.as_deref(), Some("outbox.batch_size"));
        assert_eq!(problem.limit.as_deref(), Some("a whole number, 1 to 1000"));
        assert_eq!(settings, Config::default().outbox);
        for bad in [json!("10"), json!(1.5), json!(-1), json!(null), json!(1e30)] {
            assert!(patched(json!({"batch_size": bad})).is_err(), "{bad}");
        }
        assert!(patched(json!({"enabled": 1})).is_err());
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_nearest_name() {
        let problem = patched(json!({"batchsize": 1})).expect_err("refused");
        assert_eq!(problem.limit.as_deref(), Some("is unknown, did you mean batch_size?"));
        let far = patched(json!({"zzz": 1})).expect_err("refused");
        assert!(far.limit.expect("a limit").contains("polling_interval_ms"));
    }

    #[test]
    fn levels_are_words_or_pairs_of_module_and_word() {
        for good in ["info", "WARN", "off", "info,tidegate::outbox=debug", "error, actix_web=trace"] {
            assert!(levels_fit(good), "{good}");
        }
        for bad in ["", "bogus", "info,", "tidegate=loud", "=info"] {
            assert!(!levels_fit(bad), "{bad}");
        }
    }

    #[test]
    fn lists_read_with_and_without_brackets() {
        assert_eq!(Range::Networks(9).read("10.0.0.0/8, ::1/128"), json!(["10.0.0.0/8", "::1/128"]));
        assert_eq!(Range::Networks(9).read(r#"["10.0.0.0/8"]"#), json!(["10.0.0.0/8"]));
        assert_eq!(Range::Wholes(9, 0, 9).read("[1, 2]"), json!([1, 2]));
        assert_eq!(Range::Wholes(9, 0, 9).read(""), json!([]));
    }
}
