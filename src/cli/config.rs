//! `tidegate config check`: the effective settings and where each came from.

use serde_json::{Value, json};

use super::client::Target;
use super::exit::Failure;
use super::output::{self, Output};
use super::serve::SettingFlags;
use crate::config::Config;
use crate::hub::check_settings;

/// Commands about settings.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check file, environment and flags, and print every setting with its value and origin
    Check(SettingFlags),
}

/// Performs the command.
///
/// # Errors
/// When the settings do not load: each fault with its range and origin.
pub fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    match command {
        Command::Check(flags) => check(target, output, &flags),
    }
}

fn check(target: &Target, output: Output, flags: &SettingFlags) -> Result<(), Failure> {
    let loaded = Config::load(flags.load_args(target))?;
    // What a start would refuse is not printed: it may be a secret in the wrong place.
    check_settings(&loaded.config).map_err(Failure::Usage)?;
    // Programs get the value itself, people its text.
    let value = |text: String| match output {
        Output::Json => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Output::Human => Value::String(text),
    };
    let lines: Vec<_> = loaded
        .effective()
        .into_iter()
        .map(|line| json!({ "key": line.key, "value": value(line.value), "origin": line.origin.to_string() }))
        .collect();
    match output {
        Output::Json => output.line(&json!({ "items": lines }).to_string()),
        Output::Human => {
            output.line(&output::table(&lines, &[("SETTING", "/key"), ("VALUE", "/value"), ("ORIGIN", "/origin")]))
        }
    }
}
