//! `tidegate verify`: reads a store offline and tells what is damaged.

use indicatif::{ProgressBar, ProgressStyle};

use super::client::Target;
use super::exit::Failure;
use super::output::Output;
use crate::hub::verify;
use crate::store::verify::Report;

/// Flags of `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show no progress bar
    #[arg(long)]
    quiet: bool,
}

/// Checks the store of the data directory.
///
/// # Errors
/// When the store cannot be opened, or is damaged.
pub fn run(target: &Target, output: Output, args: &Args) -> Result<(), Failure> {
    let data_dir = target.data_dir()?;
    // Opening makes a store where there is none; a check must not.
    if !data_dir.join("store").is_dir() {
        return Err(Failure::Usage(format!("{}: there is no store in this directory", data_dir.display())));
    }
    let bar = if args.quiet || output == Output::Json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} events  {eta} left") {
        bar.set_style(style);
    }
    let report = verify(&data_dir, &mut |at, head| {
        bar.set_length(head.0);
        bar.set_position(at.0);
    });
    bar.finish_and_clear();
    tell(output, &report.map_err(anyhow::Error::from)?)
}

fn tell(output: Output, report: &Report) -> Result<(), Failure> {
    output.thing(&serde_json::to_vec(report).map_err(anyhow::Error::from)?)?;
    match report.faults.len() {
        0 => output.say("the store is sound"),
        count => Err(anyhow::anyhow!("the store is damaged: {count} faults").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_store_is_a_usage_error_and_gets_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target { data_dir: Some(folder.path().to_owned()), ..Target::default() };
        let failure = run(&target, Output::Json, &Args { quiet: true }).expect_err("refused");
        assert_eq!(failure.code(), super::super::exit::code::USAGE);
        assert!(!folder.path().join("store").exists());
    }

    #[test]
    fn a_damaged_store_fails_and_a_sound_one_does_not() {
        assert!(tell(Output::Json, &Report::default()).is_ok());
        let damaged = Report { faults: vec!["event 3: bad checksum".to_owned()], ..Report::default() };
        assert_eq!(tell(Output::Json, &damaged).expect_err("damaged").code(), 1);
    }
}
