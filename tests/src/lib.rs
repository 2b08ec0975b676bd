//! The private systemd that whole-system tests run in, and the clients that load it.

pub mod arrivals;
pub mod bench;
pub mod bpf;
pub mod browser;
pub mod calling;
pub mod classic;
pub mod client;
pub mod datagrams;
pub mod documents;
pub mod http;
pub mod metrics;
pub mod pause;
pub mod process;
pub mod prometheus;
pub mod sandbox;
pub mod service;
pub mod skip;
#[cfg(test)]
mod sources;
pub mod terminal;
mod wait;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
pub use wait::{wait_closely, wait_for};

/// The top of the source tree.
pub fn source_tree() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Where cargo builds; this program was built there.
///
/// # Errors
///
/// It was not.
pub fn target_directory() -> Result<PathBuf> {
    let profile = profile_directory()?;
    let target = profile.parent().map(Path::to_owned);
    target.with_context(|| format!("{} has no parent", profile.display()))
}

fn profile_directory() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find the running program")?;
    let profile = this.ancestors().find(|path| {
        path.file_name()
            .is_some_and(|name| name == "debug" || name == "release")
    });
    let profile = profile.map(Path::to_owned);
    profile.with_context(|| format!("{} is not in a target directory", this.display()))
}

/// A program of this workspace, built in the profile of the running program.
///
/// # Errors
///
/// It was not built.
pub fn built(program: &str) -> Result<PathBuf> {
    let path = profile_directory()?.join(program);
    if !path.exists() {
        bail!(
            "{} is not there: run `cargo build --workspace` first",
            path.display()
        );
    }
    Ok(path)
}

/// How many times as long as usual things may take, as on an emulated machine: the number in
/// `ONDEMAND_TEST_PATIENCE`, by default 1.
pub fn patience() -> u32 {
    let set = std::env::var("ONDEMAND_TEST_PATIENCE");
    set.ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
        .max(1)
}
