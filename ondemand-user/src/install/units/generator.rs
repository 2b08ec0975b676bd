//! The systemd generator (systemd.generator(7)): runs early at boot and at each daemon-reload,
//! while PID 1 waits for it.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::stat::{Mode, umask};
use ondemand_core::{
    config::{Config, DEFAULT_PATH},
    words::printable,
};

use super::{Content, Host, MARK, Record, UnitFile, files, install, last_good, unreachable};
use crate::{
    host::{atomic_file, config_file, directories},
    kernel::requirements,
};

/// The program's name as a generator.
pub const NAME: &str = "ondemand-generator";
/// Where systemd has the units of generators.
pub const DIRECTORY: &str = "/run/systemd/generator";

/// The name of the report in the directory of the units. PID 1 skips names that are no unit's, and empties the
/// directory before each run, so the report is about the units beside it.
pub const REPORT: &str = "ondemand-generator.report";

/// Writes the units of the configuration at its usual place to `directory`.
///
/// A configuration that has never been there is not an error: the package is installed, and nothing is on
/// demand yet. One that is invalid, or gone, is replaced by the last valid one ([`last_good`]): its file
/// system may be mounted later than generators run. `directory` then has a [`REPORT`].
///
/// # Errors
///
/// The configuration is invalid or gone, whether it was replaced or not, or a file cannot be written. In the
/// latter case no unit is left in `directory`.
pub fn run(directory: &Path) -> Result<()> {
    let copies = last_good::PLACES.map(Path::new);
    let path = Path::new(DEFAULT_PATH);
    // As PID 1 sets it: units are for all to read.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if requirements::demands_capability() {
        install::write_unread(&[capability()], directory).context("give the agent CAP_BPF")?;
    }
    let is_absent = is_absent(path) && last_good::find_in(copies, path).is_none();
    let host = Host::here()?;
    let done = match is_absent {
        true => nothing_yet(path, copies, &Record::here(), directory),
        false => run_for(path, copies, &Record::here(), &host, directory),
    };
    if let Err(error) = &done {
        report(&format!("{error:#}"), directory);
    }
    done?;
    // The units are written all the same: the front sockets hold the clients until it is corrected.
    if !is_absent && let Some(why) = unreachable(&host) {
        complain(&anyhow!(
            "no proxy can run, so no client is served: {why}; `ondemand check` says what to do"
        ));
    }
    Ok(())
}

/// Leaves what was done instead for `ondemand check` and the agent.
fn report(words: &str, directory: &Path) {
    let text = printable(words).replace('\n', "; ") + "\n";
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| atomic_file::replace(&directory.join(REPORT), text.as_bytes(), 0o644));
    if let Err(error) = written {
        complain(&anyhow!("write {REPORT}: {error}"));
    }
}

/// What the last run did instead of generating the units of the configuration's file; `None`: it has
/// generated them, or has not run.
pub fn reported() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(DIRECTORY).join(REPORT)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether there is no file, and no link to one: that it was never installed, was removed, or is on a file
/// system that is not mounted looks the same.
fn is_absent(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|err| err.kind() == io::ErrorKind::NotFound)
}

/// There is no configuration, and no copy of one. Logged once in a boot.
fn nothing_yet(path: &Path, copies: [&Path; 2], record: &Record, directory: &Path) -> Result<()> {
    let [run, _] = copies;
    let words = format!(
        "no service is on demand, because {} does not exist, nor a copy of an earlier one; if its file system is \
         mounted later, `systemctl daemon-reload` after that",
        path.display()
    );
    if !run.exists() && directories::create(run, 0o700).is_ok() {
        log(LOG_NOTICE, &words);
    }
    report(&words, directory);
    keep_all(record, directory)
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
    host: &Host,
    directory: &Path,
) -> Result<()> {
    let [run, _] = copies;
    let read = config_file::text(path).and_then(|text| {
        let config = config_file::parse_among(path, &text, &host.unit_files)?;
        Ok((config, text))
    });
    let (config, text) = match read {
        Ok(read) => read,
        Err(error) => {
            return Err(fall_back(
                error.into(),
                path,
                copies,
                record,
                host,
                directory,
            ));
        }
    };
    generate(&config, record, host, directory)?;
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
    host: &Host,
    directory: &Path,
) -> anyhow::Error {
    let why = match is_absent(path) {
        true => {
            "is gone (an empty file means that no service is wanted; if its file system is mounted later, \
             `systemctl daemon-reload` after that)"
        }
        false => "is invalid",
    };
    let Some(copy) = last_good::find_in(copies, path) else {
        let error = error.context(format!(
            "no service is on demand, because the configuration {why}"
        ));
        return match keep_all(record, directory) {
            Ok(()) => error,
            Err(failed) => error.context(format!("{failed:#}")),
        };
    };
    match generate(&copy.config, record, host, directory) {
        Ok(()) => error.context(format!(
            "the units are those of an OLDER configuration, {}, because the present one {why}",
            copy.words()
        )),
        Err(failed) => error.context(format!("{}: {failed:#}", copy.file.display())),
    }
}

/// Writes all units of `config`, or none; and those of services that have left the configuration since
/// the boot ([`Record`]).
pub(super) fn generate(
    config: &Config,
    record: &Record,
    host: &Host,
    directory: &Path,
) -> Result<()> {
    let mut files = files(config, host)?;
    let unknown = record.enter(config, &mut files, &host.unit_files);
    write(&files, directory)?;
    for (name, error) in unknown {
        complain(&anyhow!("{name}: record its units: {error}"));
    }
    let left = record.leave(|name| config.services.contains_key(name));
    if let Err(error) = record.kept().keep(files.iter().chain(&left)) {
        complain(&anyhow!("record the units: {error}"));
    }
    write(&left, directory)
}

/// Writes the units of all services that were configured since the boot: no front socket closes, and no
/// application is stopped.
fn keep_all(record: &Record, directory: &Path) -> Result<()> {
    write(&record.leave(|_| false), directory)
}

fn write(files: &[UnitFile], directory: &Path) -> Result<()> {
    install::write_unread(files, directory)
        .inspect_err(|_| install::remove(files, directory))
        .context("generate units")
}

/// `<3>` and `<5>` are LOG_ERR and LOG_NOTICE (sd-daemon(3)).
const LOG_ERR: u8 = 3;
const LOG_NOTICE: u8 = 5;

/// Logs an error.
pub fn complain(error: &anyhow::Error) {
    log(LOG_ERR, &format!("{error:#}"));
}

/// Logs a line. Early at boot only the kernel's log can take it; the journal collects it from there.
fn log(level: u8, words: &str) {
    let line = format!("{NAME}: {}", printable(words).replace('\n', "; "));
    let log = OpenOptions::new().write(true).open("/dev/kmsg");
    if log
        .and_then(|mut log| writeln!(log, "<{level}>{line}"))
        .is_err()
    {
        eprintln!("{line}");
    }
}
