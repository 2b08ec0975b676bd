//! The private systemd that whole-system tests run in, and the clients that load it.

pub mod arrivals;
pub mod bench;
pub mod bpf;
pub mod classic;
pub mod client;
pub mod http;
pub mod metrics;
pub mod process;
pub mod prometheus;
pub mod sandbox;
pub mod service;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

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

/// A program of this workspace, built in the profile of the program that asks.
///
/// # Errors
///
/// It has not been built.
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

/// Calls `probe` until it gives something. Waits for events that cannot be listened to.
///
/// # Errors
///
/// It did not happen in time (see [`patience`]); the message says what was waited for.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = deadline * patience();
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            bail!("{what}: not within {deadline:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
