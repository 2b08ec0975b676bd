//! The systemd generator (systemd.generator(7)): runs early at boot and at each daemon-reload,
//! while PID 1 waits for it.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use ondemand_core::{
    config::{Config, DEFAULT_PATH},
    words::printable,
};

use super::{Content, Host, MARK, Record, UnitFile, files, install, last_good, unreachable};
use crate::{host::config_file, kernel::requirements};

/// The program's name as a generator.
pub const NAME: &str = "ondemand-generator";

/// Writes the units of the configuration at its usual place to `directory`.
///
/// A missing configuration is not an error: the package is installed, and nothing is on demand yet.
/// An invalid one is replaced by the last valid one ([`last_good`]).
///
/// # Errors
///
/// The configuration is invalid, whether it was replaced or not, or a file cannot be written. In the
/// latter case nothing is left in `directory`.
pub fn run(directory: &Path) -> Result<()> {
    let copies = last_good::PLACES.map(Path::new);
    let path = Path::new(DEFAULT_PATH);
    if path.exists() && requirements::demands_capability() {
        install::write(&[capability()], directory).context("give the agent CAP_BPF")?;
    }
    run_for(path, copies, &Record::here(), directory)?;
    // The units are written all the same: the front sockets hold the clients until it is corrected.
    if path.exists()
        && let Some(why) = unreachable(&Host::here()?)
    {
        complain(&anyhow!(
            "no proxy can run, so no client is served: {why}; `ondemand check` says what to do"
        ));
    }
    Ok(())
}

/// The drop-in of the agent's unit for kernels on which it cannot open pins without `CAP_BPF`.
pub(super) fn capability() -> UnitFile {
    let text = format!(
        "{MARK}the version of the kernel: before Linux 5.19 bpf(2) demands this of the agent.\n\
         [Service]\nAmbientCapabilities=CAP_BPF\nCapabilityBoundingSet=CAP_BPF\n"
    );
    UnitFile {
        path: "ondemand.service.d/50-ondemand.conf".into(),
        content: Content::Text(text),
    }
}

pub(super) fn run_for(
    path: &Path,
    copies: [&Path; 2],
    record: &Record,
    directory: &Path,
) -> Result<()> {
    let [run, _] = copies;
    if path
        .symlink_metadata()
        .is_err_and(|err| err.kind() == io::ErrorKind::NotFound)
    {
        let _: [(); 2] = copies.map(last_good::forget);
        return keep_all(record, directory);
    }
    let read =
        config_file::text(path).and_then(|text| Ok((config_file::parse_here(path, &text)?, text)));
    let (config, text) = match read {
        Ok(read) => read,
        Err(error) => return Err(fall_back(error.into(), path, copies, record, directory)),
    };
    generate(&config, record, directory)?;
    if let Err(error) = last_good::keep(run, &text) {
        complain(&anyhow!("keep a copy of {}: {error}", path.display()));
    }
    Ok(())
}

/// Generates the units of the last valid configuration, and returns an error that reports it.
fn fall_back(
    error: anyhow::Error,
    path: &Path,
    copies: [&Path; 2],
    record: &Record,
    directory: &Path,
) -> anyhow::Error {
    let Some(copy) = last_good::find_in(copies, path) else {
        let error = error.context("no service is on demand, because the configuration is invalid");
        return match keep_all(record, directory) {
            Ok(()) => error,
            Err(failed) => error.context(format!("{failed:#}")),
        };
    };
    match generate(&copy.config, record, directory) {
        Ok(()) => error.context(format!(
            "the units are those of an OLDER configuration, {}, because the present one is invalid",
            copy.words()
        )),
        Err(failed) => error.context(format!("{}: {failed:#}", copy.file.display())),
    }
}

/// Writes all units of `config`, or none; and those of services that have left the configuration since
/// the boot ([`Record`]).
pub(super) fn generate(config: &Config, record: &Record, directory: &Path) -> Result<()> {
    let mut files = files(config, &Host::here()?)?;
    let unknown = record.enter(config, &mut files);
    write(&files, directory)?;
    let (left, unkept) = record.keep(config, &files);
    for (name, error) in unknown.into_iter().chain(unkept) {
        complain(&anyhow!("{name}: record its units: {error}"));
    }
    write(&left, directory)
}

/// Writes the units of all services that were configured since the boot: no front socket closes, and no
/// application is stopped.
fn keep_all(record: &Record, directory: &Path) -> Result<()> {
    write(&record.leave(|_| false), directory)
}

fn write(files: &[UnitFile], directory: &Path) -> Result<()> {
    install::write(files, directory)
        .inspect_err(|_| install::remove(files, directory))
        .context("generate units")
}

/// Logs an error. Early at boot only the kernel's log can take it; the journal collects it from
/// there.
pub fn complain(error: &anyhow::Error) {
    // `<3>` is LOG_ERR (sd-daemon(3)).
    let line = format!(
        "<3>{NAME}: {}",
        printable(&format!("{error:#}")).replace('\n', "; ")
    );
    let log = OpenOptions::new().write(true).open("/dev/kmsg");
    if log.and_then(|mut log| writeln!(log, "{line}")).is_err() {
        eprintln!("{}", &line[3..]);
    }
}
