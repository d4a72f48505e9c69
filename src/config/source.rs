//! The layers: where values come from, and how they become one [`Config`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::model::Config;
use super::range::{self, SETTINGS};
use crate::ground::limits;

/// Every setting with its default and a comment.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Variables that begin so are settings.
const ENV_PREFIX: &str = "TIDEGATE__";
/// Characters of a bad value that a message repeats.
const SENT_CHARS_MAX: usize = 120;

/// What to load besides the defaults and the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadArgs {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Values of flags: (`server.data_dir`, `/var/lib/tidegate`). The last one of a key wins.
    pub overrides: Vec<(String, String)>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{origin}: {reason}")]
    Unreadable {
        /// The file.
        origin: Origin,
        /// What the system or the parser said.
        reason: String,
    },
    /// There is no such setting.
    #[error("{key}: unknown setting ({origin}){}", .nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    UnknownKey {
        /// As it was written.
        key: String,
        /// Where.
        origin: Origin,
        /// The known name that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The value is not one of those allowed.
    #[error("{key}: must be {allowed}, not {sent} ({origin})")]
    BadValue {
        /// The setting.
        key: String,
        /// Where.
        origin: Origin,
        /// The range in words.
        allowed: String,
        /// What was given, clipped.
        sent: String,
    },
}

/// The settings cannot be used: every fault found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            write!(f, "{gap}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One line of `config check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The setting.
    pub key: &'static str,
    /// Its value as JSON text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Settings that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Where each came from.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What they were loaded from, so that they can be loaded again.
    pub args: LoadArgs,
}

impl Loaded {
    /// Every setting with its value and origin, in the order of the table.
    #[must_use]
    pub fn effective(&self) -> Vec<Effective> {
        let leaves = match serde_json::to_value(&self.config) {
            Ok(Value::Object(map)) => flatten(map),
            Ok(_) | Err(_) => Vec::new(),
        };
        let values: BTreeMap<String, Value> = leaves.into_iter().collect();
        let line = |key: &'static str| {
            let value = values.get(key)?.to_string();
            let origin = self.origins.get(key).cloned().unwrap_or(Origin::Default);
            Some(Effective { key, value, origin })
        };
        SETTINGS.iter().filter_map(|(key, _)| line(key)).collect()
    }

    /// Loads again from the same file, flags and the environment as the process has it (SIGHUP).
    ///
    /// # Errors
    /// Every fault found; the old settings stay usable.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        Config::load(self.args.clone())
    }
}

impl Default for Config {
    #[expect(clippy::expect_used, reason = "the file is compiled in and a test loads it")]
    fn default() -> Self {
        Self::load_with(LoadArgs::default(), std::iter::empty()).expect("the compiled-in defaults fit").config
    }
}

impl Config {
    /// Loads defaults, file, environment and flags, later over earlier.
    ///
    /// # Errors
    /// Every fault found: an unreadable file, unknown keys, values out of range.
    pub fn load(args: LoadArgs) -> Result<Loaded, ConfigError> {
        let settings = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.to_str()?.to_owned();
            name.starts_with(ENV_PREFIX).then(|| (name, value.to_string_lossy().into_owned()))
        });
        Self::load_with(args, settings)
    }

    /// The same with an environment of the caller's choice.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load_with(
        args: LoadArgs,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let mut layers = Layers::default();
        layers.add_toml(DEFAULT_TOML, &Origin::Default);
        if let Some(path) = &args.file {
            layers.add_file(path);
        }
        for (name, text) in environment {
            if let Some(path) = name.strip_prefix(ENV_PREFIX) {
                let key = path.to_lowercase().replace("__", ".");
                layers.add_text(&key, &text, Origin::Environment(name.clone()));
            }
        }
        for (key, text) in &args.overrides {
            layers.add_text(key, text, Origin::Flag);
        }
        layers.finish(args)
    }
}

#[derive(Default)]
struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
    faults: Vec<Fault>,
}

impl Layers {
    fn add_file(&mut self, path: &Path) {
        let origin = Origin::File(path.to_owned());
        match std::fs::read_to_string(path) {
            Ok(text) => self.add_toml(&text, &origin),
            Err(error) => self.faults.push(Fault::Unreadable { origin, reason: error.to_string() }),
        }
    }

    fn add_toml(&mut self, text: &str, origin: &Origin) {
        let table: Map<String, Value> = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let reason = error.to_string().trim_end().to_owned();
                self.faults.push(Fault::Unreadable { origin: origin.clone(), reason });
                return;
            }
        };
        for (key, value) in flatten(table) {
            let empty_section = value.as_object().is_some_and(Map::is_empty) && is_section(&key);
            if !empty_section {
                self.add(&key, |_| value, origin.clone());
            }
        }
    }

    fn add_text(&mut self, key: &str, text: &str, origin: Origin) {
        self.add(key, |range| range.read(text), origin);
    }

    fn add(&mut self, key: &str, value: impl FnOnce(range::Range) -> Value, origin: Origin) {
        match range::setting(key) {
            Some((known, range)) => {
                self.values.insert(known, (value(range), origin));
            }
            None => {
                let nearest = suggestion(key);
                self.faults.push(Fault::UnknownKey { key: key.to_owned(), origin, nearest });
            }
        }
    }

    fn finish(mut self, args: LoadArgs) -> Result<Loaded, ConfigError> {
        for (key, range) in SETTINGS {
            let Some((value, origin)) = self.values.get(key) else { continue };
            if !range.admits(value) {
                let fault = bad(key, origin, range.words(), range.shown(value));
                self.faults.push(fault);
            }
        }
        if self.faults.is_empty() {
            self.check_pairs();
        }
        if !self.faults.is_empty() {
            return Err(ConfigError { faults: self.faults });
        }
        let values = self.values.iter().map(|(key, (value, _))| (*key, value.clone()));
        let config = serde_json::from_value(nest(values)).map_err(|error| {
            let fault = Fault::Unreadable { origin: Origin::Default, reason: error.to_string() };
            ConfigError { faults: vec![fault] }
        })?;
        let origins = self.values.into_iter().map(|(key, (_, origin))| (key, origin)).collect();
        Ok(Loaded { config, origins, args })
    }

    /// Settings that bound each other.
    fn check_pairs(&mut self) {
        const AT_LEAST: &[(&str, &str)] = &[
            ("limits.batch_bytes_max", "limits.event_bytes_max"),
            ("log.ingest_queue_bytes", "limits.batch_bytes_max"),
            ("log.max_consumer_lag_ms", "log.retention_ms"),
            ("delivery.total_timeout_ms", "delivery.connect_timeout_ms"),
            ("breaker.cooldown_cap_ms", "breaker.cooldown_ms"),
            ("supervise.backoff_cap_ms", "supervise.backoff_ms"),
        ];
        for (large, small) in AT_LEAST {
            let (Some((large_value, origin)), Some((small_value, _))) =
                (self.values.get(large), self.values.get(small))
            else {
                continue;
            };
            if large_value.as_u64() < small_value.as_u64() {
                let fault =
                    bad(large, origin, format!("at least {small}, which is {small_value}"), large_value.to_string());
                self.faults.push(fault);
            }
        }
    }
}

fn bad(key: &str, origin: &Origin, allowed: String, shown: String) -> Fault {
    let sent = limits::clip(&shown, SENT_CHARS_MAX).to_owned();
    Fault::BadValue { key: key.to_owned(), origin: origin.clone(), allowed, sent }
}

fn is_section(key: &str) -> bool {
    SETTINGS.iter().any(|(known, _)| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// A near name as a whole, or else the same last part in another section.
fn suggestion(key: &str) -> Option<&'static str> {
    let names = || SETTINGS.iter().map(|(known, _)| *known);
    let last = |name: &'static str| name.rsplit_once('.').map_or(name, |(_, last)| last);
    let wanted = key.rsplit_once('.').map_or(key, |(_, last)| last);
    range::nearest(key, names()).or_else(|| names().find(|name| last(name) == wanted))
}

/// A table as its leaves: (`delivery.retry.jitter`, 0.2). An empty table is a leaf.
fn flatten(table: Map<String, Value>) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    let mut open: Vec<(String, Value)> = table.into_iter().collect();
    while let Some((key, value)) = open.pop() {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                open.extend(inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            leaf => leaves.push((key, leaf)),
        }
    }
    leaves.sort_by(|(left, _), (right, _)| left.cmp(right));
    leaves
}

/// The leaves as a table again.
fn nest<'a>(leaves: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let mut root = Value::Object(Map::new());
    for (key, value) in leaves {
        // Indexing by name makes the tables on the way.
        let place = key.split('.').fold(&mut root, |table, name| &mut table[name]);
        *place = value;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tidegate.toml");
        std::fs::write(&path, file).expect("written");
        let own = |(left, right): &(&str, &str)| ((*left).to_owned(), (*right).to_owned());
        let args = LoadArgs { file: Some(path), overrides: flags.iter().map(own).collect() };
        Config::load_with(args, environment.iter().map(own))
    }

    fn faults(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<Fault> {
        load(file, environment, flags).expect_err("refused").faults
    }

    #[test]
    fn the_file_the_structs_and_the_ranges_name_the_same_settings() {
        let in_file: Map<String, Value> = toml::from_str(DEFAULT_TOML).expect("TOML");
        let in_file: Vec<String> = flatten(in_file).into_iter().map(|(key, _)| key).collect();
        let Ok(Value::Object(in_structs)) = serde_json::to_value(Config::default()) else { panic!("a table") };
        let in_structs: Vec<String> = flatten(in_structs).into_iter().map(|(key, _)| key).collect();
        let mut in_ranges: Vec<String> = SETTINGS.iter().map(|(key, _)| (*key).to_owned()).collect();
        in_ranges.sort_unstable();
        assert_eq!(in_file, in_structs);
        assert_eq!(in_file, in_ranges);
    }

    #[test]
    fn the_defaults_are_those_of_the_specification() {
        let config = Config::default();
        assert_eq!(config.server.public.to_string(), "0.0.0.0:8081");
        assert_eq!(config.server.admin.to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits.event_bytes_max, limits::EVENT_BYTES_MAX);
        assert_eq!(config.limits.batch_events_max, limits::BATCH_EVENTS_MAX);
        assert_eq!(config.limits.batch_bytes_max, limits::BATCH_BYTES_MAX);
        assert_eq!(config.log.retention_ms, 7 * 24 * 3_600_000);
        assert_eq!(config.outbox.polling_interval_ms, 5_000);
        assert_eq!(config.outbox.idle_polling_interval_ms, 30_000);
        assert_eq!((config.outbox.batch_size, config.outbox.startup_drain_batch_size), (10, 50));
        assert_eq!(config.delivery.retry.delays_ms.len() + 1, 10);
        assert_eq!(config.delivery.retry.delays_ms.iter().sum::<u64>() / 3_600_000, 75);
        assert_eq!((config.breaker.failure_threshold, config.breaker.success_threshold), (5, 1));
        assert!(!config.delivery.allow_private_networks && !config.faults.enabled);
    }

    #[test]
    fn file_environment_and_flags_override_in_that_order_and_are_named() {
        let file = "[log]\nsegment_events = 2_000\ncache_bytes = 20_000_000\n[server]\nworkers = 1\n";
        let environment = [
            ("TIDEGATE__LOG__SEGMENT_EVENTS", "3000"),
            ("TIDEGATE__SERVER__WORKERS", "2"),
            ("TIDEGATE__DELIVERY__RETRY__DELAYS_MS", "10,20"),
            ("TIDEGATE__DELIVERY__ALLOWED_NETWORKS", "127.0.0.0/8"),
            ("TIDEGATE_ADMIN_TOKEN", "not a setting"),
        ];
        let loaded = load(file, &environment, &[("server.workers", "3"), ("server.data_dir", "7")]).expect("fits");
        assert_eq!(loaded.config.log.cache_bytes, 20_000_000);
        assert_eq!(loaded.config.log.segment_events, 3_000);
        assert_eq!(loaded.config.server.workers, 3);
        assert_eq!(loaded.config.server.data_dir, PathBuf::from("7"));
        assert_eq!(loaded.config.delivery.retry.delays_ms, [10, 20]);
        assert_eq!(loaded.config.delivery.allowed_networks.len(), 1);

        let lines = loaded.effective();
        assert_eq!(lines.len(), SETTINGS.len());
        let line = |key: &str| lines.iter().find(|line| line.key == key).expect("a line");
        assert!(line("log.cache_bytes").origin.to_string().ends_with("tidegate.toml"));
        let segment = line("log.segment_events");
        assert_eq!(
            (segment.value.as_str(), segment.origin.to_string().as_str()),
            ("3000", "environment TIDEGATE__LOG__SEGMENT_EVENTS")
        );
        assert_eq!(line("server.workers").origin, Origin::Flag);
        assert_eq!(line("inbox.idle_ms").origin, Origin::Default);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name_and_its_origin() {
        let found =
            faults("[log]\ncache_byte = 1\n[zzz]\n", &[("TIDEGATE__SERVER__PUBLIK", "x")], &[("batch_size", "1")]);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[0].starts_with("log.cache_byte: unknown setting (file "), "{}", told[0]);
        assert!(told[0].ends_with("; did you mean log.cache_bytes?"), "{}", told[0]);
        assert!(told[1].starts_with("zzz: unknown setting"), "{}", told[1]);
        assert_eq!(
            told[2],
            "server.publik: unknown setting (environment TIDEGATE__SERVER__PUBLIK); did you mean server.public?"
        );
        assert_eq!(told[3], "batch_size: unknown setting (command line); did you mean outbox.batch_size?");
    }

    #[test]
    fn a_section_that_is_no_table_is_refused_and_an_empty_section_is_not() {
        assert_eq!(faults("log = 5\n", &[], &[]).len(), 1);
        assert!(load("[log]\n[delivery.retry]\n", &[], &[]).is_ok());
    }

    #[test]
    fn a_bad_value_is_refused_with_its_range_and_its_origin_and_all_are_told_at_once() {
        let file =
            "[server]\npublic = \"localhost\"\n[outbox]\nenabled = \"yes\"\n[delivery]\nallowed_networks = [\"x\"]\n";
        let environment = [("TIDEGATE__LOG__CACHE_BYTES", "1"), ("TIDEGATE__LOGGING__LEVEL", "loud")];
        let found = faults(file, &environment, &[("delivery.retry.jitter", "2")]);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(
            told.contains(
                &"log.cache_bytes: must be a whole number, 16777216 to 4294967296, not 1 \
              (environment TIDEGATE__LOG__CACHE_BYTES)"
                    .to_owned()
            )
        );
        assert!(told.contains(&"delivery.retry.jitter: must be a number, 0 to 1, not 2.0 (command line)".to_owned()));
    }

    #[test]
    fn a_schedule_of_webhooks_is_bounded_as_a_retry_policy_is() {
        let list = |count: u32, ms: u64| vec![ms.to_string(); count as usize].join(",");
        let most = limits::RETRY_ATTEMPTS_MAX - 1;
        let longest_ms = limits::RETRY_DELAY_MS_MAX;
        let key = "delivery.retry.delays_ms";
        for fits in [list(0, 0), list(most, longest_ms)] {
            let loaded = load("", &[], &[(key, &fits)]).expect("fits");
            let delays_ms = loaded.config.delivery.retry.delays_ms;
            let attempts_max = u32::try_from(delays_ms.len() + 1).expect("few");
            let policy = crate::retry::RetryPolicy::Fixed { attempts_max, delays_ms, jitter: 0.0 };
            policy.validate("retry").expect("a policy may have what a setting may have");
        }
        for bad in [list(most + 1, 1), list(1, longest_ms + 1)] {
            let found = faults("", &[], &[(key, &bad)]);
            assert!(found[0].to_string().contains("at most 99 whole numbers, each 0 to 604800000"), "{}", found[0]);
        }
    }

    #[test]
    fn a_declared_upstream_says_where_its_secret_is_and_one_in_clear_is_refused_and_not_repeated() {
        let fits = "[[upstreams]]\nid = \"crm\"\nbase_url = \"https://crm.example\"\n[upstreams.auth]\nkind = \"bearer\"\ntoken = { env = \"CRM_TOKEN\" }\n";
        let config = load(fits, &[], &[]).expect("fits").config;
        assert_eq!(config.upstreams[0].0["auth"]["token"]["env"], "CRM_TOKEN");
        let by_variable = ("TIDEGATE__UPSTREAMS", r#"[{"id":"a"},{"id":"b"}]"#);
        assert_eq!(load(fits, &[by_variable], &[]).expect("fits").config.upstreams.len(), 2);
        let clear = fits.replace("{ env = \"CRM_TOKEN\" }", "\"hunter2\"");
        for found in [faults(&clear, &[], &[]), faults("", &[("TIDEGATE__UPSTREAMS", "hunter2")], &[])] {
            let told = found[0].to_string();
            assert!(told.starts_with("upstreams: must be a list") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn settings_that_bound_each_other_are_checked_together() {
        let found = faults("", &[("TIDEGATE__DELIVERY__CONNECT_TIMEOUT_MS", "60000")], &[]);
        assert_eq!(
            found[0].to_string(),
            "delivery.total_timeout_ms: must be at least delivery.connect_timeout_ms, which is 60000, not 15000 (default)"
        );
    }

    #[test]
    fn a_missing_file_and_a_broken_file_are_told_with_their_path() {
        let args = LoadArgs { file: Some("/nonexistent/tidegate.toml".into()), overrides: Vec::new() };
        let error = Config::load_with(args, []).expect_err("refused").to_string();
        assert!(error.starts_with("file /nonexistent/tidegate.toml: "), "{error}");
        assert!(faults("[log\n", &[], &[])[0].to_string().contains("line 1"));
    }
}
