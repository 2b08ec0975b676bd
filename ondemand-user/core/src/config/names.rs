//! Names and paths that end up in unit files and on command lines.
//!
//! What is refused here never reaches a unit file, so nothing there can be read as a directive,
//! a specifier or a second word.

use std::path::PathBuf;

use crate::words;

/// systemd's own limit for a unit's name (`UNIT_NAME_MAX`, src/basic/unit-name.h).
const UNIT_NAME_MAX: usize = 255;

/// `sun_path` without its closing NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Maximum length of a service's name in bytes: it is a part of unit names and of paths.
pub const LONGEST_NAME: usize = 63;

/// What `ondemand-` precedes in the names of ondemand's own programs and units: a service of this name
/// would have the same names.
const RESERVED: [&str; 4] = ["generator", "load", "open", "permit"];

/// Checks the name of a service. The error says what is wrong and what to write.
pub(super) fn service(name: &str) -> Result<(), String> {
    if RESERVED.contains(&name) {
        return Err(format!(
            "a reserved name: ondemand-{name} is ondemand's own; choose a name other than {}",
            RESERVED.join(", ")
        ));
    }
    match problem(name) {
        None => Ok(()),
        Some(problem) => Err(format!("not a usable name: {problem}; {RULE}")),
    }
}

/// What names are made of.
const RULE: &str =
    "use 1 to 63 letters, digits, '-', '_' or '.', and begin with a letter, digit or '_'";

/// Why no service can have this name. The length is checked before anything else: the name may come
/// from a stranger.
fn problem(name: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    Some(match name {
        "" => "an empty name",
        _ if name.len() > LONGEST_NAME => "longer than 63 characters",
        _ if name.starts_with(['.', '-']) => "starts with '.' or '-'",
        _ if !name.chars().all(plain) => "a character that a unit name cannot contain unescaped",
        _ => return None,
    })
}

/// Refuses a name from outside that no service can have. The cost, and the size of the message, do
/// not depend on its length.
///
/// # Errors
///
/// The message has an excerpt of the name without control characters, and what names are made of.
pub fn possible(name: &str) -> Result<(), String> {
    match problem(name) {
        None => Ok(()),
        Some(problem) => Err(format!(
            "no service \"{}\": {problem}; names have {}",
            words::excerpt(name),
            "1 to 63 letters, digits, '-', '_' or '.'"
        )),
    }
}

/// Checks the name of an application's unit.
pub(super) fn unit(name: &str) -> Result<(), String> {
    let Some(stem) = name.strip_suffix(".service") else {
        return Err(match name.rsplit_once('.') {
            Some((
                _,
                kind @ ("socket" | "target" | "timer" | "path" | "mount" | "slice" | "scope"),
            )) => {
                format!("{name:?} is a {kind} unit; name the .service unit of the application")
            }
            _ => format!("not a service unit; write {:?}", format!("{name}.service")),
        });
    };
    // The valid characters of systemd.unit(5); '@' parts prefix and instance.
    let valid =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    if stem.is_empty()
        || name.len() > UNIT_NAME_MAX
        || !name.chars().all(valid)
        || stem.starts_with('@')
    {
        return Err(format!(
            "not a valid unit name; use letters, digits and \":-_.\\@\", at most {UNIT_NAME_MAX} (`systemd-escape` makes one)"
        ));
    }
    if let Some(prefix) = stem.strip_suffix('@') {
        return Err(format!(
            "a template without an instance; write {prefix}@INSTANCE.service"
        ));
    }
    if stem == "ondemand" || stem.starts_with("ondemand-") {
        return Err("one of ondemand's own units; name the unit of the application".into());
    }
    Ok(())
}

/// Checks the name of a user or a group, or its number.
pub(super) fn owner(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > 31
        || name.starts_with(['-', '.'])
        || !name.chars().all(plain)
    {
        return Err(
            "not a usable name; write a user or group such as \"www-data\", or its number: at most 31 letters, digits, '-', '_' or '.'"
                .into(),
        );
    }
    Ok(())
}

/// Checks the path of a Unix socket.
pub(super) fn socket_path(path: &str) -> Result<PathBuf, String> {
    if path.len() > SOCKET_PATH_MAX {
        return Err(format!(
            "a path of {} bytes; the kernel's maximum for a Unix socket is {SOCKET_PATH_MAX}, choose a shorter path",
            path.len()
        ));
    }
    if let Some(c) = path
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '\'' | '\\'))
    {
        return Err(format!(
            "the path contains {c:?}; use letters, digits and punctuation other than quotes"
        ));
    }
    absolute_path(path)
}

/// Checks that a path is absolute and normalized.
pub(super) fn absolute_path(path: &str) -> Result<PathBuf, String> {
    if let Some(c) = path.chars().find(|c| c.is_control()) {
        return Err(format!("the path contains {c:?}; use printable characters"));
    }
    if !path.starts_with('/') {
        return Err("not an absolute path; begin it with '/'".into());
    }
    let clean = path[1..]
        .split('/')
        .all(|part| !matches!(part, "" | "." | ".."));
    if !clean {
        return Err(
            "the path must not contain '//', '/./' or '/../', or end with '/'; write the normalized path"
                .into(),
        );
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_instead, parse, wiki};

    #[test]
    fn unit_names_are_checked() {
        #[track_caller]
        fn check_unit(name: &str, expected: &str) {
            check_instead(
                "unit",
                &format!("unit = '{name}'"),
                &format!("/etc/o.toml:4: service.wiki.unit: {expected}"),
            );
        }
        check_unit("wiki", "not a service unit; write \"wiki.service\"");
        check_unit("", "not a service unit");
        check_unit("wiki.socket", "\"wiki.socket\" is a socket unit");
        check_unit(".service", "not a valid unit name");
        check_unit("@x.service", "not a valid unit name");
        check_unit("a b.service", "not a valid unit name");
        check_unit("a/b.service", "not a valid unit name");
        check_unit("%n.service", "not a valid unit name");
        check_unit("ü.service", "not a valid unit name");
        check_unit(
            &format!("{}.service", "x".repeat(250)),
            "not a valid unit name",
        );
        check_unit(
            "a@.service",
            "a template without an instance; write a@INSTANCE.service",
        );
        check_unit("ondemand.service", "one of ondemand's own units");
        check_unit("ondemand-wiki.service", "one of ondemand's own units");
        for good in [
            "a.service",
            "a@b.service",
            "a-b_c:d.e.service",
            "a\\x2db.service",
            "ondemandx.service",
        ] {
            let text = wiki("").replace("\"wiki.service\"", &format!("'{good}'"));
            assert_eq!(parse(&text).unwrap().services["wiki"].unit, good);
        }
    }

    #[test]
    fn a_name_from_outside_is_refused_by_its_length_first() {
        #[track_caller]
        fn check(name: &str, expected: &str) {
            let message = super::possible(name).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
            assert!(message.len() < 512, "{} bytes", message.len());
            assert!(!message.contains(char::is_control), "{message:?}");
        }
        check("", "no service \"\": an empty name; names have 1 to 63");
        check("a b", "no service \"a b\": a character");
        check("a\u{1b}[2Jb", "no service \"a\\u{1b}[2Jb\": a character");
        check("-x", "no service \"-x\": starts with");
        check(
            &"x".repeat(64),
            &format!("no service \"{}...\": longer", "x".repeat(32)),
        );
        check(&"\u{1b}".repeat(30 << 20), "no service \"\\u{1b}");
        check(&"é".repeat(40), "no service \"éé");
        for name in ["a", "A-b_c.d", "generator", &"x".repeat(63)] {
            super::possible(name).unwrap();
        }
    }

    #[test]
    fn service_names_are_checked() {
        #[track_caller]
        fn check_name(name: &str, expected: &str) {
            check(
                &wiki("").replace("wiki]", &format!("\"{name}\"]")),
                &format!("/etc/o.toml:1: service.{expected}"),
            );
        }
        check_name("", "\"\": not a usable name: an empty name");
        check_name("a b", "\"a b\": not a usable name: a character");
        check_name("a/b", "\"a/b\": not a usable name: a character");
        check_name("a@b", "\"a@b\": not a usable name: a character");
        check_name("a%b", "\"a%b\": not a usable name: a character");
        check_name("a\\nb", "\"a\\nb\": not a usable name: a character");
        check_name("é", "\"é\": not a usable name: a character");
        check_name(".a", "\".a\": not a usable name: starts with");
        check_name("-a", "-a: not a usable name: starts with");
        check_name(
            &"x".repeat(64),
            &format!("{}: not a usable name: longer", "x".repeat(64)),
        );
        check_name(
            "generator",
            "generator: a reserved name: ondemand-generator is",
        );
        check_name(
            "load",
            "load: a reserved name: ondemand-load is ondemand's own; choose a name other than generator, load, open, permit",
        );
        for good in [
            "a",
            "A-b_c.d",
            "0",
            "_x",
            "Load",
            "load2",
            "ondemand",
            "ondemand-load",
            "proxies",
            &"x".repeat(63),
        ] {
            let config = parse(&wiki("").replace("wiki]", &format!("\"{good}\"]"))).unwrap();
            assert_eq!(
                config.services[good].socket_unit(),
                format!("ondemand-{good}.socket")
            );
        }
    }
}
