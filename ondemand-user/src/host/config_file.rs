//! Reads the configuration's files: the main one, and those of `conf.d` beside it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use nix::fcntl::OFlag;
use ondemand_core::config::{Config, Error, PARTS, Problem, add_part, may_be_part};

use super::unit_files::UnitFiles;

/// A configuration larger than this is a mistake. Bytes, of all files.
const MAX_FILE: u64 = 4 << 20;

/// Reads and validates the configuration with the main file at `path`.
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
            file: None,
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

/// Where the other files of the configuration with the main file at `path` are.
pub fn parts_directory(path: &Path) -> PathBuf {
    path.with_file_name(PARTS)
}

/// The other files, in the order of their names: those that end in `.toml`, and begin with no dot, as the copies of
/// editors do. Without the directory there are none.
///
/// # Errors
///
/// The directory cannot be read.
pub fn parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parts_directory(path)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry?.path();
        let is_hidden = file
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && file.extension().is_some_and(|end| end == "toml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the text of the configuration with the main file at `path`: of all its files ([`add_part`]).
///
/// # Errors
///
/// One cannot be read, or is not text.
pub fn text(path: &Path) -> Result<String, Error> {
    text_with(path, None)
}

/// The same, with this text instead of that of one file, which need not exist.
///
/// # Errors
///
/// Like [`text`].
pub fn text_with(path: &Path, instead: Option<(&Path, &str)>) -> Result<String, Error> {
    let read = |file: &Path, most: u64| match instead {
        Some((other, text)) if other == file => Ok(text.to_owned()),
        _ => text_of(file, most),
    };
    let mut whole = read(path, MAX_FILE)?;
    let directory = parts_directory(path);
    let mut files = parts(path).map_err(|error| {
        Error::new(
            &directory,
            vec![Problem::file(unreadable(&directory, &error))],
        )
    })?;
    if let Some((other, _)) = instead
        && other != path
        && !files.iter().any(|file| file == other)
    {
        files.push(other.to_owned());
        files.sort();
    }
    if files.is_empty() {
        return Ok(whole);
    }
    let wrong = |file: &Path, message: String| Error::new(file, vec![Problem::file(message)]);
    may_be_part(&whole).map_err(|message| wrong(path, message))?;
    for file in files {
        let left = MAX_FILE.saturating_sub(whole.len() as u64);
        let text = read(&file, left)?;
        let name = file.file_name().and_then(|name| name.to_str());
        let name =
            name.ok_or_else(|| wrong(&file, "a file name that is not UTF-8; rename it".into()))?;
        add_part(&mut whole, name, &text).map_err(|message| wrong(&file, message))?;
    }
    Ok(whole)
}

/// Reads the text of a copy of a configuration, which is one file.
///
/// # Errors
///
/// It cannot be read, or is not text.
pub fn copied(path: &Path) -> Result<String, Error> {
    text_of(path, MAX_FILE)
}

/// Reads the text of one file of at most `most` bytes.
fn text_of(path: &Path, most: u64) -> Result<String, Error> {
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
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(fail(format!(
            "larger than {} MiB, with all files of the configuration; is it the right file?",
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
                file: None,
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
        fs::write(&file, b"[agent]\nhistory = \"\xff\"\n").unwrap();
        check_file(&file, "o.toml:2: not UTF-8");
        fs::write(&file, "").unwrap();
        assert_eq!(load(&file).unwrap().path, file);
    }

    #[test]
    fn the_files_of_a_directory_are_read_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("o.toml");
        let service = |name: &str, port: u16| {
            format!("[service.{name}]\nlisten = \"127.0.0.1:{port}\"\nunit = \"{name}.service\"\n")
        };
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("o.toml", &service("a", 1));
        assert_eq!(text(&main).unwrap(), service("a", 1));
        fs::create_dir(parts_directory(&main)).unwrap();
        assert_eq!(text(&main).unwrap(), service("a", 1));
        write("conf.d/c.toml", &service("c", 3));
        write("conf.d/b.toml", &service("b", 2));
        // Of editors and package managers.
        for name in [
            ".b.toml.swp",
            ".#b.toml",
            "b.toml~",
            "b.toml.dpkg-old",
            "README",
        ] {
            write(&format!("conf.d/{name}"), "nonsense");
        }
        let whole = text(&main).unwrap();
        let names = |config: Config| config.services.into_keys().collect::<Vec<_>>();
        assert_eq!(names(parse(&main, &whole).unwrap()), ["a", "b", "c"]);
        // A copy has all of them.
        write("copy.toml", &whole);
        let copy = copied(&dir.path().join("copy.toml")).unwrap();
        assert_eq!(names(parse(&main, &copy).unwrap()), ["a", "b", "c"]);

        #[track_caller]
        fn check(main: &Path, expected: &str) {
            let message = load(main).unwrap_err().to_string();
            let start = main.with_file_name("conf.d/").display().to_string();
            let rest = message
                .strip_prefix(&start)
                .unwrap_or_else(|| panic!("{message}"));
            assert!(rest.starts_with(expected), "{message}");
        }
        write("conf.d/b.toml", "\n[service.b]\nunti = 1\n");
        check(&main, "b.toml:2: service.b.listen: ");
        fs::remove_file(dir.path().join("conf.d/b.toml")).unwrap();
        fs::create_dir(dir.path().join("conf.d/b.toml")).unwrap();
        check(
            &main,
            "b.toml: cannot read the configuration: Is a directory",
        );
        fs::remove_dir(dir.path().join("conf.d/b.toml")).unwrap();
        std::os::unix::fs::symlink("none", dir.path().join("conf.d/b.toml")).unwrap();
        check(&main, "b.toml: cannot read the configuration: No such file");
        fs::remove_file(dir.path().join("conf.d/b.toml")).unwrap();
        write("conf.d/b.toml", "#\u{1}conf.d/x.toml\n");
        check(&main, "b.toml: not valid TOML");
        let large = dir.path().join("conf.d/b.toml");
        File::create(large).unwrap().set_len(MAX_FILE).unwrap();
        check(&main, "b.toml: larger than 4 MiB");
    }
}
