//! The hub's own log (OBS-2): one line an event on stderr, JSON or pretty, its level changeable while it runs.
//!
//! Secrets never reach a line: they live in [`crate::ground::secret::Secret`], which prints as stars.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogFormat, Logging};

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The text names no levels.
    #[error("log level {level:?}: {reason}")]
    BadLevel {
        /// What was given.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another log was set up before, or this one is gone.
    #[error("the log could not be installed: {0}")]
    Install(String),
}

/// Changes the level of the running log.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
}

impl LogHandle {
    /// Lets through what `level` says from now on: `info`, or with modules `info,tidegate::outbox=debug`.
    ///
    /// # Errors
    /// When the text names no levels; the old level stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|error| LogError::Install(error.to_string()))
    }
}

/// Sets up the log of this process on stderr. Call it once.
///
/// # Errors
/// When the level does not read, or a log was set up before.
pub fn init(settings: &Logging) -> Result<LogHandle, LogError> {
    let pretty = match settings.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    let form = if pretty { Form::Pretty { colour: colour() } } else { Form::Json };
    let (subscriber, handle) = build(&settings.level, form, std::io::stderr)?;
    subscriber.try_init().map_err(|error| LogError::Install(error.to_string()))?;
    Ok(handle)
}

/// Colour on a terminal, unless `NO_COLOR` is set to anything (no-color.org).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Pretty { colour: bool },
}

type Boxed =
    Box<dyn Layer<tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>> + Send + Sync>;

fn build<W>(
    level: &str,
    form: Form,
    writer: W,
) -> Result<(impl tracing::Subscriber + Send + Sync + use<W>, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines: Boxed = match form {
        Form::Json => fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(writer).boxed(),
        Form::Pretty { colour } => fmt::layer().with_ansi(colour).with_writer(writer).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, LogHandle { filter: handle }))
}

fn parse(level: &str) -> Result<Targets, LogError> {
    level.replace(' ', "").parse().map_err(|error: tracing_subscriber::filter::ParseError| LogError::BadLevel {
        level: level.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().clone()).expect("text").lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn a_json_line_has_time_level_target_fields_and_the_span_it_was_in() {
        let memory = Memory::default();
        let writer = memory.clone();
        let (subscriber, _handle) = build("info", Form::Json, move || writer.clone()).expect("built");
        tracing::subscriber::with_default(subscriber, || {
            let _inside = tracing::info_span!("delivery", webhook = "whk_1").entered();
            tracing::warn!(attempt = 2, token = %crate::ground::secret::Secret::new("hidden"), "attempt failed");
        });
        let lines = memory.lines();
        assert_eq!(lines.len(), 1);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(
            (&line["level"], &line["message"], &line["attempt"]),
            (&"WARN".into(), &"attempt failed".into(), &2.into())
        );
        assert_eq!(line["span"]["webhook"], "whk_1");
        assert!(line["timestamp"].is_string() && line["target"].is_string());
        assert_eq!(line["token"], "***");
    }

    #[test]
    fn the_level_changes_while_the_log_runs_and_a_bad_one_changes_nothing() {
        let memory = Memory::default();
        let writer = memory.clone();
        let form = Form::Pretty { colour: false };
        let (subscriber, handle) = build("warn", form, move || writer.clone()).expect("built");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            handle.set_level("warn, tidegate::logging=debug").expect("set");
            tracing::debug!("two");
            assert!(handle.set_level("tidegate=loud").is_err());
            tracing::debug!("three");
            handle.set_level("error").expect("set");
            tracing::warn!("four");
        });
        let told = memory.lines().join("\n");
        assert!(
            !told.contains("one") && told.contains("two") && told.contains("three") && !told.contains("four"),
            "{told}"
        );
    }
}
