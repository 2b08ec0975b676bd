//! The systemd generator (systemd.generator(7)): runs early at boot and at every daemon-reload,
//! with PID 1 waiting for it.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{Host, files, install};
use crate::config::{Config, DEFAULT_PATH};

/// The name under which the program is a generator.
pub const NAME: &str = "ondemand-generator";

/// Writes the units of the configuration at its usual place to `directory`.
///
/// No configuration is no error: the package is installed, and nothing is on demand yet.
///
/// # Errors
///
/// The configuration is wrong, or a file cannot be written. Then nothing is left in `directory`.
pub fn run(directory: &Path) -> Result<()> {
    let path = Path::new(DEFAULT_PATH);
    if path
        .symlink_metadata()
        .is_err_and(|err| err.kind() == io::ErrorKind::NotFound)
    {
        return Ok(());
    }
    generate(&Config::load(path)?, directory)
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
