//! The systemd generator (systemd.generator(7)): runs early at boot and at every daemon-reload,
//! with PID 1 waiting for it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{Host, files, install};
use crate::config::{Config, DEFAULT_PATH};

/// The name under which the program is a generator.
pub const NAME: &str = "ondemand-generator";

/// The last configuration that was right, until the next boot. systemd lets a generator write
/// below /run, and has emptied `directory` before it calls.
const KEPT: &str = "/run/ondemand.toml";

/// Writes the units of the configuration at its usual place to `directory`.
///
/// No configuration is no error: the package is installed, and nothing is on demand yet. For one
/// that is wrong the units stay what they were: PID 1 closes a front socket, and refuses its
/// clients, as soon as the socket has no unit any more, and anybody may reload systemd at any time.
///
/// # Errors
///
/// The configuration is wrong, or a file cannot be written. In `directory` are then the units of
/// the last configuration that was right since the boot, or nothing.
pub fn run(directory: &Path) -> Result<()> {
    run_for(Path::new(DEFAULT_PATH), Path::new(KEPT), directory)
}

pub(super) fn run_for(path: &Path, kept: &Path, directory: &Path) -> Result<()> {
    if path
        .symlink_metadata()
        .is_err_and(|err| err.kind() == io::ErrorKind::NotFound)
    {
        // It was wanted so. There need not be one.
        let _ = fs::remove_file(kept);
        return Ok(());
    }
    let error = match Config::load(path) {
        Ok(config) => {
            generate(&config, directory)?;
            return keep(path, kept).with_context(|| format!("write {}", kept.display()));
        }
        Err(error) => error,
    };
    let before = fs::read_to_string(kept).ok();
    let before = before.and_then(|text| Config::parse(path, &text).ok());
    match before {
        Some(config) => {
            generate(&config, directory)?;
            Err(error.context("the units stay what they were before"))
        }
        None => Err(error),
    }
}

/// Keeps what is at `path`, unless it has become wrong since it was read.
fn keep(path: &Path, kept: &Path) -> Result<()> {
    let text = fs::read_to_string(path)?;
    if Config::parse(path, &text).is_err() {
        return Ok(());
    }
    let temporary = kept.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    // Not for more eyes than the file itself may be for.
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, kept))
        .inspect_err(|_| {
            // The error that is reported is the first one; this is only tidying up.
            let _ = fs::remove_file(&temporary);
        })?;
    Ok(())
}

/// Writes all units of `config`, or none.
pub(super) fn generate(config: &Config, directory: &Path) -> Result<()> {
    let files = files(config, &Host::here()?)?;
    install::write(&files, directory)
        .inspect_err(|_| install::remove(&files, directory))
        .map(drop)
        .context("generate units")
}

/// Says what is wrong. Early at boot nothing but the kernel's log is there to take it; the
/// journal collects it from there.
pub fn complain(error: &anyhow::Error) {
    // `<3>` is LOG_ERR (sd-daemon(3)).
    let line = format!("<3>{NAME}: {}", format!("{error:#}").replace('\n', "; "));
    let log = OpenOptions::new().write(true).open("/dev/kmsg");
    if log.and_then(|mut log| writeln!(log, "{line}")).is_err() {
        eprintln!("{}", &line[3..]);
    }
}
