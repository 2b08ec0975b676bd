//! Reads the configuration's file.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Result;
use nix::fcntl::OFlag;
use ondemand_core::config::{Config, Error, Problem};

use super::unit_files::UnitFiles;

/// A configuration file larger than this is a mistake. Bytes.
const MAX_FILE: u64 = 4 << 20;

/// Reads and validates `path`.
///
/// # Errors
///
/// An [`Error`] inside the [`anyhow::Error`]. Its message names the file, the line and the key,
/// one line for each problem.
pub fn load(path: &Path) -> Result<Config> {
    Ok(parse_here(path, &text(path)?)?)
}

/// Validates `text` like [`parse`], and what depends on this host: that no two services have one unit by
/// different names, and none has a unit of ondemand's own.
///
/// # Errors
///
/// Like [`parse`].
pub fn parse_here(path: &Path, text: &str) -> Result<Config, Error> {
    parse_among(path, text, &UnitFiles::here())
}

/// The same, with these unit files.
///
/// # Errors
///
/// Like [`parse`].
pub fn parse_among(path: &Path, text: &str, files: &UnitFiles) -> Result<Config, Error> {
    judge(parse(path, text)?, files)
}

/// Validates what depends on this host.
///
/// # Errors
///
/// Like [`parse_here`].
pub fn judge(config: Config, files: &UnitFiles) -> Result<Config, Error> {
    let problems = aliases(&config, files);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Error::new(&config.path, problems))
    }
}

fn aliases(config: &Config, files: &UnitFiles) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut users: HashMap<String, &str> = HashMap::new();
    for service in config.services.values() {
        let unit = files.canonical(&service.unit);
        let message = match users.get(&unit) {
            Some(other) => format!(
                "{} and the unit of service.{other} are one, {unit}, by different names (an alias); each unit \
                 belongs to one service",
                service.unit
            ),
            None if is_own(&unit) => format!(
                "{} is an alias of {unit}, one of ondemand's own units; name the unit of the application",
                service.unit
            ),
            None => {
                users.insert(unit, &service.name);
                continue;
            }
        };
        problems.push(Problem {
            line: None,
            key: format!("service.{}.unit", service.name),
            message,
        });
    }
    problems
}

/// Whether `unit` is one of ondemand's own.
pub fn is_own(unit: &str) -> bool {
    unit == "ondemand.service" || unit.starts_with("ondemand-")
}

/// Validates `text`, which was read from `path`. The configuration's own path is absolute.
///
/// # Errors
///
/// Like [`Config::parse`].
pub fn parse(path: &Path, text: &str) -> Result<Config, Error> {
    let mut config = Config::parse(path, text)?;
    if let Ok(absolute) = std::path::absolute(path) {
        config.path = absolute;
    }
    Ok(config)
}

/// Reads the text of the file at `path`.
///
/// # Errors
///
/// It cannot be read, or is not text.
pub fn text(path: &Path) -> Result<String, Error> {
    let fail = |message: String| Error::new(path, vec![Problem::file(message)]);
    let mut bytes = Vec::new();
    let unreadable = |err: io::Error| fail(unreadable(path, &err));
    // The generator runs at boot, and nothing else does meanwhile: opening a pipe would wait for a
    // process that writes, and reading a terminal for a person.
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(unreadable)?;
    let kind = file.metadata().map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(fail(
            "a pipe or a device, not a file; use --config with a regular file".into(),
        ));
    }
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fail(format!(
            "larger than {} MiB; is it the right file?",
            MAX_FILE >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|err| {
        let good = err.utf8_error().valid_up_to();
        let line = 1 + err.as_bytes()[..good]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        let message = "not UTF-8 text; save the file as UTF-8".to_owned();
        Error::new(
            path,
            vec![Problem {
                line: Some(line),
                key: String::new(),
                message,
            }],
        )
    })
}

/// Why the file at `path` could not be read, and what to do.
fn unreadable(path: &Path, err: &io::Error) -> String {
    let hint = match err.kind() {
        io::ErrorKind::NotFound => {
            "create it (`ondemand --help` shows an example; an empty file: no service is wanted), or use another \
             with --config FILE"
                .into()
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "run as root, or make it readable: chmod a+r {}",
                path.display()
            )
        }
        io::ErrorKind::IsADirectory => "use --config with a file in it".into(),
        _ => "check the file and its disk".to_owned(),
    };
    format!("cannot read the configuration: {err}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_read_say_what_to_do() {
        #[track_caller]
        fn check_file(path: &Path, expected: &str) {
            let err = load(path).unwrap_err();
            assert!(err.is::<Error>());
            let message = format!("{err:#}");
            assert!(
                message.starts_with(&path.display().to_string()),
                "{message}"
            );
            assert!(message.contains(expected), "{message}");
        }
        let dir = tempfile::tempdir().unwrap();
        check_file(
            &dir.path().join("none.toml"),
            "No such file or directory (os error 2); create it",
        );
        check_file(
            dir.path(),
            "Is a directory (os error 21); use --config with a file in it",
        );
        check_file(Path::new("/dev/zero"), "a pipe or a device, not a file");
        let pipe = dir.path().join("pipe.toml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Without a writer: it must not wait for one.
        check_file(&pipe, "a pipe or a device, not a file");
        let large = dir.path().join("large.toml");
        File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        check_file(&large, "larger than 4 MiB");
        let file = dir.path().join("o.toml");
        std::fs::write(&file, b"[agent]\nhistory = \"\xff\"\n").unwrap();
        check_file(&file, "o.toml:2: not UTF-8");
        std::fs::write(&file, "").unwrap();
        assert_eq!(load(&file).unwrap().path, file);
    }
}
