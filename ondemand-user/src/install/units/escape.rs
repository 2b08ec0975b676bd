//! Escapes values for unit files (systemd.syntax(7), systemd.unit(5) "Specifiers",
//! systemd.service(5) "Command lines").
//!
//! The configuration's validation keeps line breaks and quotes out of every value. These functions
//! do not rely on it.

use anyhow::{Result, ensure};

/// Escapes a value that stands alone after `Key=`: specifiers become literal.
///
/// # Errors
///
/// It contains a control character, which could start a new directive, or its ends would be trimmed.
pub(super) fn value(text: &str) -> Result<String> {
    ensure!(
        !text.chars().any(char::is_control),
        "{text:?} contains a control character, which a unit file cannot represent"
    );
    ensure!(
        text.trim() == text && !text.ends_with('\\'),
        "{text:?} starts or ends with a character that a unit file drops"
    );
    Ok(text.replace('%', "%%"))
}

/// Checks a name for use in a list of units, and in the names of files.
///
/// # Errors
///
/// It could be parsed as something else there. The valid characters are those of systemd.unit(5).
pub(super) fn name(text: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    ensure!(
        !text.is_empty() && text.chars().all(plain) && !text.ends_with('\\'),
        "{text:?} is not a valid unit name"
    );
    Ok(())
}

/// Escapes a word of a command line: quoted if needed; specifiers and variables become literal.
///
/// # Errors
///
/// Like [`value`].
pub(super) fn word(text: &str) -> Result<String> {
    ensure!(!text.is_empty(), "an empty word on a command line");
    ensure!(
        !text.chars().any(char::is_control),
        "{text:?} contains a control character, which a unit file cannot represent"
    );
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.:,=@+-[]".contains(c);
    if text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' | '"' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

/// Checks the path of the program at the start of a command line.
///
/// # Errors
///
/// It is not a plain absolute path: prefixes such as `-` and `@` have a meaning there, and the
/// handling of quotes and variables differs between versions of systemd.
pub(super) fn program(path: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.+-".contains(c);
    ensure!(
        path.starts_with('/') && path.chars().all(plain),
        "the program is at {path:?}, which is not safe in a unit file; install it at a path of letters, digits and \"/_.+-\""
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_line() {
        #[track_caller]
        fn check(text: &str, expected: Option<&str>) {
            assert_eq!(value(text).ok().as_deref(), expected, "{text:?}");
        }
        check("/run/x.sock", Some("/run/x.sock"));
        check("/run/50%/%n", Some("/run/50%%/%%n"));
        check("/a b", Some("/a b"));
        check("/a\nExecStart=/bin/sh", None);
        check("/a\r", None);
        check("/a\0", None);
        check("/a\u{85}b", None);
        check("/a\\", None);
        check("/a ", None);
        check(" /a", None);
    }

    #[test]
    fn names_are_names() {
        assert!(name("a\\x2db@c:d_e.service").is_ok());
        for bad in ["", "a b", "a/b", "a\nb", "a%n", "a=b", "ä", "a\\"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_stay_one_word() {
        #[track_caller]
        fn check(text: &str, expected: Option<&str>) {
            assert_eq!(word(text).ok().as_deref(), expected, "{text:?}");
        }
        check("127.0.0.1:80", Some("127.0.0.1:80"));
        check("[::1]:80", Some("[::1]:80"));
        check("--exit-idle-time=1s", Some("--exit-idle-time=1s"));
        check("a b", Some("\"a b\""));
        check(";", Some("\";\""));
        check("$HOME%h", Some("\"$$HOME%%h\""));
        check("a\"b\\c", Some("\"a\\\"b\\\\c\""));
        check("a\\", Some("\"a\\\\\""));
        check("it's", Some("\"it's\""));
        check("a\nb", None);
        check("", None);
    }

    #[test]
    fn programs_have_plain_paths() {
        assert!(program("/usr/bin/ondemand").is_ok());
        for bad in [
            "ondemand",
            "-/bin/x",
            "@/bin/x",
            "/opt/a b/x",
            "/opt/$x",
            "/opt/%n",
            "/x\n",
        ] {
            assert!(program(bad).is_err(), "{bad:?}");
        }
    }
}
