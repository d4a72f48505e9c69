//! Puts commit and build date into the binary, for `/version`. Both can be given by the environment, for builds that can
//! be repeated; without git the commit is "unknown".

use std::process::Command;

fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

fn main() {
    let commit = std::env::var("TIDEGATE_COMMIT").ok().or_else(|| said("git", &["rev-parse", "--short=12", "HEAD"]));
    let date = std::env::var("TIDEGATE_BUILD_DATE").ok().or_else(|| said("date", &["-u", "+%Y-%m-%d"]));
    println!("cargo::rustc-env=TIDEGATE_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=TIDEGATE_BUILD_DATE={}", date.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rerun-if-env-changed=TIDEGATE_COMMIT");
    println!("cargo::rerun-if-env-changed=TIDEGATE_BUILD_DATE");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=build.rs");
}
