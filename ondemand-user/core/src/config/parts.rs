//! A configuration of several files as one text: the main file, then those of `conf.d`, each after a line that names
//! it. So whatever keeps, compares or copies a configuration handles one text.

use std::path::{Path, PathBuf};

/// What such a line begins with. TOML allows the second character nowhere, so no line of a valid file does.
const MARK: &str = "#\u{1}";

/// The directory of the other files, beside the main one.
pub const DIRECTORY: &str = "conf.d";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part<'t> {
    /// Its path relative to the directory of the main file. `None`: the main file.
    pub name: Option<PathBuf>,
    pub text: &'t str,
}

/// Adds the file `name` of [`DIRECTORY`], which has this text. A text that could be taken for several files is refused.
///
/// # Errors
///
/// Says what is wrong with the name or the text.
pub fn add(whole: &mut String, name: &str, text: &str) -> Result<(), String> {
    if name.contains('\n') {
        return Err("a file name with a line break; rename it".into());
    }
    may_be_part(text)?;
    if !whole.is_empty() && !whole.ends_with('\n') {
        whole.push('\n');
    }
    whole.push_str(&format!("{MARK}{DIRECTORY}/{name}\n{text}"));
    Ok(())
}

/// Whether a text can be that of one file among several.
///
/// # Errors
///
/// It cannot; the message says why.
pub fn may_be_part(text: &str) -> Result<(), String> {
    match text.lines().any(|line| line.starts_with(MARK)) {
        true => {
            Err("not valid TOML: a comment with the control character U+0001; remove it".into())
        }
        false => Ok(()),
    }
}

/// The files of a text.
pub(super) fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut name = None;
    let mut rest = text;
    loop {
        let mark = match rest.starts_with(MARK) {
            true => Some(0),
            false => rest.find(&format!("\n{MARK}")).map(|at| at + 1),
        };
        let Some(at) = mark else {
            parts.push(Part { name, text: rest });
            return parts;
        };
        parts.push(Part {
            name: name.take(),
            text: &rest[..at],
        });
        let line = &rest[at + MARK.len()..];
        let (file, after) = line.split_once('\n').unwrap_or((line, ""));
        name = Some(PathBuf::from(file));
        rest = after;
    }
}

/// The path of a file beside the main one at `main`.
pub(super) fn beside(main: &Path, name: Option<&Path>) -> PathBuf {
    match name {
        None => main.to_owned(),
        Some(name) => main.with_file_name("").join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    fn whole(main: &str, parts: &[(&str, &str)]) -> String {
        let mut whole = main.to_owned();
        for (name, text) in parts {
            add(&mut whole, name, text).unwrap();
        }
        whole
    }

    fn parse(main: &str, parts: &[(&str, &str)]) -> Result<Config, String> {
        let path = Path::new("/etc/ondemand/ondemand.toml");
        Config::parse(path, &whole(main, parts)).map_err(|error| error.to_string())
    }

    fn service(name: &str, port: u16) -> String {
        format!("[service.{name}]\nlisten = \"127.0.0.1:{port}\"\nunit = \"{name}.service\"\n")
    }

    #[test]
    fn what_is_put_together_is_taken_apart() {
        for main in ["", "a", "a\n", "a\n\n"] {
            for parts in [
                &[][..],
                &[("x.toml", "")],
                &[("x.toml", "b\nc"), ("y.toml", "\n"), ("z.toml", "d")],
            ] {
                let text = whole(main, parts);
                let split = split(&text);
                assert_eq!(split.len(), 1 + parts.len(), "{text:?}");
                assert_eq!(split[0].text.trim_end(), main.trim_end());
                assert_eq!(split[0].name, None);
                for (part, (name, text)) in split[1..].iter().zip(parts) {
                    assert_eq!(part.name, Some(Path::new(DIRECTORY).join(name)));
                    assert_eq!(part.text.trim_end(), text.trim_end());
                }
            }
        }
        assert!(add(&mut String::new(), "x\ny.toml", "").is_err());
        assert!(add(&mut String::new(), "x.toml", "#\u{1}conf.d/y.toml\n").is_err());
    }

    #[test]
    fn services_of_all_files_are_one_configuration() {
        // A file that ends in a table, and one that begins with a key of the root.
        let dotted = "service.b.listen = \"127.0.0.1:2\"\nservice.b.unit = \"b.service\"\n";
        let config = parse(
            &("[agent]\nmetrics = \"\"\n".to_owned() + &service("a", 1)),
            &[
                ("b.toml", dotted),
                ("c.toml", &service("c", 3)),
                ("d.toml", ""),
            ],
        )
        .unwrap();
        let names: Vec<_> = config.services.keys().collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(config.agent.metrics, None);
    }

    #[test]
    fn problems_name_their_file() {
        #[track_caller]
        fn check(main: &str, parts: &[(&str, &str)], expected: &[&str]) {
            let error = parse(main, parts).unwrap_err();
            let lines: Vec<_> = error.lines().collect();
            assert_eq!(lines.len(), expected.len(), "{error}");
            for (line, expected) in lines.iter().zip(expected) {
                assert!(line.starts_with(expected), "{line}\n{expected}");
            }
        }
        let (a, b) = (service("a", 1), service("b", 1));
        check(
            &format!("\n{a}"),
            &[("x.toml", &service("a", 2))],
            &["/etc/ondemand/conf.d/x.toml:1: service.a: also in /etc/ondemand/ondemand.toml:2; "],
        );
        check(
            &a,
            &[("x.toml", &b)],
            &[
                "/etc/ondemand/conf.d/x.toml:2: service.b.listen: 127.0.0.1:1 is already used by service.a.listen \
                 (/etc/ondemand/ondemand.toml:2)",
            ],
        );
        check(
            "",
            &[
                ("x.toml", &a),
                (
                    "y.toml",
                    &b.replace("127.0.0.1:1", "127.0.0.1:2")
                        .replace("b.service", "a.service"),
                ),
            ],
            &[
                "/etc/ondemand/conf.d/y.toml:3: service.b.unit: a.service is already used by service.a.unit (/etc/ondemand/conf.d/x.toml:3)",
            ],
        );
        check(
            "[agent]\nhistory = 1\n",
            &[
                ("x.toml", "[agent]\nmetrics = \"\"\n"),
                ("y.toml", "[service"),
            ],
            &["/etc/ondemand/conf.d/y.toml:1: not valid TOML"],
        );
        check(
            "[agent]\nhistory = 1\n",
            &[
                ("x.toml", "[agent]\nmetrics = \"\"\n"),
                ("y.toml", "x = 1\n"),
            ],
            &[
                "/etc/ondemand/ondemand.toml:2: agent.history: expected",
                "/etc/ondemand/conf.d/x.toml:1: agent: belongs in /etc/ondemand/ondemand.toml",
                "/etc/ondemand/conf.d/y.toml:1: x: unknown key",
            ],
        );
    }
}
