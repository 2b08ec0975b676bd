//! Checks whether the units exist and match the present configuration.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use ondemand_core::config::{Config, DEFAULT_PATH, PerUnit, Service, UnitNames};

use super::finding::Finding;
use crate::{
    host::{small_file, unit_files::UnitFiles},
    install::units::{Content, Host, MARK, UnitFile, entering, generator},
    systemd::Facts,
};

/// The directories of generators (systemd.generator(7)).
const GENERATORS: [&str; 5] = [
    "/run/systemd/system-generators",
    "/etc/systemd/system-generators",
    "/usr/local/lib/systemd/system-generators",
    "/usr/lib/systemd/system-generators",
    "/lib/systemd/system-generators",
];

/// A unit file of ondemand's is shorter. Bytes.
const LONGEST: u64 = 1 << 20;

/// The program that the installed generator links to, if any.
pub fn generator_program() -> Option<PathBuf> {
    GENERATORS
        .iter()
        .find_map(|directory| fs::canonicalize(Path::new(directory).join(generator::NAME)).ok())
}

/// Returns this machine as the generator sees it: the units name the installed program, which may
/// differ from the running one.
///
/// # Errors
///
/// Like [`Host::here`].
pub fn host(program: Option<&Path>) -> anyhow::Result<Host> {
    let mut host = Host::here()?;
    if let Some(program) = program.and_then(Path::to_str) {
        host.ondemand = program.to_owned();
    }
    Ok(host)
}

/// How the units of a service are made, which decides the remedy if they are missing.
pub enum Source {
    /// By the generator.
    Generator,
    /// By hand: there is no generator, or it reads another file.
    Hand(String),
}

impl Source {
    /// The source for this configuration.
    pub fn of(config: &Config, program: Option<&Path>) -> Self {
        if program.is_some() && config.path == Path::new(DEFAULT_PATH) {
            return Self::Generator;
        }
        Self::Hand(format!(
            "ondemand --config {} units --output /etc/systemd/system && systemctl daemon-reload",
            config.path.display()
        ))
    }

    /// Adds the harmless way to make them, if there is one: a bare `daemon-reload` is none while an application runs whose lease
    /// nobody holds.
    fn mending(&self, finding: Finding) -> Finding {
        match self {
            Self::Generator => finding.fixed_by(super::APPLY),
            Self::Hand(_) => finding,
        }
    }

    /// The command that makes them.
    pub fn next(&self) -> &str {
        match self {
            Self::Generator => "systemctl daemon-reload",
            Self::Hand(command) => command,
        }
    }
}

/// The state of a unit file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Current,
    /// It was made from an earlier configuration, or by an earlier version.
    Old,
    /// The drop-in of an application that ran when it came into the configuration.
    Entering,
    /// It was not made by ondemand.
    Foreign,
    Missing,
}

fn compare(expected: &str, found: Option<&str>) -> State {
    match found {
        None => State::Missing,
        Some(found) if found == expected => State::Current,
        Some(found) if found == entering(expected) => State::Entering,
        Some(found) if found.starts_with(MARK) => State::Old,
        Some(_) => State::Foreign,
    }
}

/// The files of one service; `facts`: of its units, if PID 1 answered.
pub fn look(
    service: &Service,
    files: &HashMap<&OsStr, &UnitFile>,
    unit_files: &UnitFiles,
    source: &Source,
    facts: Option<&PerUnit<Facts>>,
) -> Finding {
    const WHAT: &str = "units";
    let drop_in = Path::new(&format!("{}.d", service.unit)).join("50-ondemand.conf");
    let UnitNames {
        proxy,
        lease,
        socket,
        ..
    } = service.unit_names();
    let timer = service.timer_unit().into();
    let own: [PathBuf; 5] = [socket.into(), proxy.into(), lease.into(), timer, drop_in];
    let mut states = Vec::new();
    for file in own.iter().filter_map(|path| files.get(path.as_os_str())) {
        let Content::Text(expected) = &file.content else {
            continue;
        };
        let (place, found) = match read(&file.path, unit_files) {
            Ok(found) => found.unzip(),
            Err(error) => return Finding::unknown(WHAT, &error),
        };
        let name = place.unwrap_or_else(|| file.path.clone());
        states.push((name, compare(expected, found.as_deref())));
    }
    let names = |wanted| {
        let names = states.iter().filter(|(_, state)| *state == wanted);
        let names: Vec<_> = names.map(|(name, _)| name.display().to_string()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(missing) = names(State::Missing) {
        let message = format!("missing: {missing}");
        return match source {
            Source::Generator => source.mending(Finding::warning(WHAT, message, source.next())),
            Source::Hand(_) => Finding::error(WHAT, message, source.next()),
        };
    }
    if let Some(old) = names(State::Old) {
        let message = format!("older than the configuration: {old}");
        return source.mending(Finding::warning(WHAT, message, source.next()));
    }
    if names(State::Entering).is_some() {
        let unit = &service.unit;
        return source.mending(Finding::warning(
            WHAT,
            format!(
                "{unit} ran when it came into the configuration, and its lease is not held yet: until then it is not \
                 stopped"
            ),
            "ondemand apply (or start the agent, which has root do it)",
        ));
    }
    if let Some(foreign) = names(State::Foreign) {
        return Finding::warning(
            WHAT,
            format!("not made from the configuration, which has no effect there: {foreign}"),
            "remove it, or check that it still does what `ondemand units` shows",
        );
    }
    let mut units = facts.iter().flat_map(|facts| facts.each());
    if units.any(|unit| unit.need_daemon_reload == Some(true)) {
        return source.mending(Finding::warning(
            WHAT,
            "present and current, but systemd has not loaded all of them since they or the \
             configuration changed",
            "systemctl daemon-reload",
        ));
    }
    let directory = states.first().and_then(|(name, _)| name.parent());
    let directory = directory.unwrap_or(Path::new("")).display();
    Finding::ok(WHAT, format!("present in {directory}, as configured"))
}

/// The first file of this name in the search path.
fn read(name: &Path, unit_files: &UnitFiles) -> anyhow::Result<Option<(PathBuf, String)>> {
    let mut parts = name.iter();
    let first = parts.next().and_then(OsStr::to_str).unwrap_or_default();
    let rest = parts.as_path();
    for place in unit_files.all(first) {
        let path = if rest.as_os_str().is_empty() {
            place
        } else {
            place.join(rest)
        };
        match small_file::read(&path, LONGEST) {
            // What is no text is none of ondemand's.
            Ok(text) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                return Ok(Some((path, text)));
            }
            // A link to nowhere is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart() {
        #[track_caller]
        fn check(found: Option<&str>, expected: State) {
            assert_eq!(compare(&format!("{MARK}/x; a\n"), found), expected);
        }
        check(None, State::Missing);
        check(Some(&format!("{MARK}/x; a\n")), State::Current);
        check(Some(&format!("{MARK}/x; b\n")), State::Old);
        let drop_in = "[Unit]\nStopWhenUnneeded=yes\n";
        assert_eq!(compare(drop_in, Some(&entering(drop_in))), State::Entering);
        check(Some("[Unit]\n"), State::Foreign);
        check(Some(""), State::Foreign);
    }

    #[test]
    fn units_come_from_the_generator_only_for_its_own_file() {
        #[track_caller]
        fn check(path: &str, program: Option<&str>, expected: &str) {
            let config = Config::parse(Path::new(path), "").unwrap();
            let source = Source::of(&config, program.map(Path::new));
            assert_eq!(source.next(), expected);
        }
        check(
            DEFAULT_PATH,
            Some("/usr/bin/ondemand"),
            "systemctl daemon-reload",
        );
        let by_hand = |path| {
            format!(
                "ondemand --config {path} units --output /etc/systemd/system && systemctl daemon-reload"
            )
        };
        check(DEFAULT_PATH, None, &by_hand(DEFAULT_PATH));
        check("/x.toml", Some("/usr/bin/ondemand"), &by_hand("/x.toml"));
    }
}
