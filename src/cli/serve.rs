//! `tidegate serve`: settings, log, then the hub.

use super::client::Target;
use super::exit::Failure;
use crate::config::{Config, LoadArgs};
use crate::serve::Until;

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: SettingFlags,
    /// Start paused: take events and deliver nothing until `tidegate resume`
    #[arg(long)]
    paused: bool,
    /// End when standard input ends, too: the hub does not outlive the program that started it
    #[arg(long)]
    until_input_ends: bool,
}

/// Flags that override settings.
#[derive(Debug, clap::Args)]
pub struct SettingFlags {
    /// Public listener; port 0 picks one
    #[arg(long, value_name = "ADDR")]
    public: Option<String>,
    /// Admin listener; port 0 picks one
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Any setting, such as log.retention_ms=86400000; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

/// Splits at the first `=`.
///
/// # Errors
/// When there is none.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl SettingFlags {
    /// What to load settings from.
    #[must_use]
    pub fn load_args(&self, target: &Target) -> LoadArgs {
        let mut args = target.load_args();
        let named = [("server.public", &self.public), ("server.admin", &self.admin)];
        args.overrides.extend(named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
        args.overrides.extend(self.set.iter().cloned());
        args
    }
}

impl Args {
    fn load_args(&self, target: &Target) -> LoadArgs {
        let mut args = self.settings.load_args(target);
        if self.paused {
            args.overrides.push(("server.paused".to_owned(), "true".to_owned()));
        }
        args
    }
}

/// Runs the hub until it is told to stop.
///
/// # Errors
/// When settings, log or hub do not start.
pub fn run(target: &Target, args: &Args) -> Result<(), Failure> {
    let loaded = Config::load(args.load_args(target))?;
    let until = if args.until_input_ends { Until::InputEnds } else { Until::Signal };
    let log = crate::logging::init(&loaded.config.logging).map_err(anyhow::Error::from)?;
    Ok(actix::System::new().block_on(crate::serve::run(loaded, log, until))?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_override_settings_and_the_rest_stays() {
        let line = ["serve", "--data-dir", "/d", "--public", "127.0.0.1:0", "--set", "log.retention_ms=60000"];
        let line = Line::parse_from(line);
        let loaded = Config::load_with(line.args.settings.load_args(&line.target), []).expect("fits");
        assert_eq!(loaded.config.server.data_dir, std::path::PathBuf::from("/d"));
        assert_eq!(loaded.config.server.public.to_string(), "127.0.0.1:0");
        assert_eq!(loaded.config.server.admin, Config::default().server.admin);
        assert_eq!(loaded.config.log.retention_ms, 60_000);
        assert!(!loaded.config.server.paused);
    }

    #[test]
    fn a_hub_starts_paused_when_it_is_told_so_whatever_the_settings_say() {
        let line = Line::parse_from(["serve", "--paused", "--set", "server.paused=false"]);
        let loaded = Config::load_with(line.args.load_args(&line.target), []).expect("fits");
        assert!(loaded.config.server.paused);
    }
}
