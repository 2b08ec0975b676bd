//! Checks that the documents are complete and true.

use std::fs;

use ::tests::{documents::document, source_tree as top};

/// The names of all documents there, and of those in docs/.
fn documents() -> Vec<String> {
    let in_folder = |folder: &str| {
        let entries = fs::read_dir(top().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names = names.filter(|name| name.ends_with(".md"));
        names
            .map(|name| format!("{folder}{name}"))
            .collect::<Vec<_>>()
    };
    let mut names = in_folder("");
    names.extend(in_folder("docs/"));
    names.sort();
    assert!(names.iter().any(|name| name == "README.md"), "{names:?}");
    names
}

/// The rows of the tables in a section, as their cells.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let section = text.split(&format!("\n{heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("no section {heading}"));
    let level = heading.find(' ').unwrap_or_default();
    let ends = |line: &str| {
        let marks = line.find(|c| c != '#').unwrap_or_default();
        (1..=level).contains(&marks) && line[marks..].starts_with(' ')
    };
    let lines = section.lines().take_while(|line| !ends(line));
    let rows = lines.filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// What is between the first two backquotes.
fn code(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

mod tests {
    use std::{collections::BTreeSet, path::Path};

    use clap::CommandFactory as _;
    use ondemand_core::config::{AGENT_KEYS, Config, GROUP_KEYS, SERVICE_KEYS};

    use super::*;
    use crate::commands::args::Cli;

    #[test]
    fn the_manual_has_every_key_and_no_other() {
        let manual = document("MANUAL.md");
        let rows = rows(&manual, "### All keys");
        let found: BTreeSet<&str> = rows.iter().filter_map(|row| code(&row[0])).collect();
        let keys = AGENT_KEYS.iter().chain(SERVICE_KEYS).chain(GROUP_KEYS);
        let keys = keys.copied().collect();
        assert_eq!(found, keys);
    }

    #[test]
    fn the_manual_has_the_defaults() {
        let manual = document("MANUAL.md");
        let required =
            "listen = \"127.0.0.1:80\"\nbackend = \"127.0.0.1:81\"\nunit = \"a.service\"";
        let config = |agent: &str, service: &str| {
            // A mode is that of a path.
            let required = match service.starts_with("socket_") {
                true => required.replace("127.0.0.1:80\"", "/run/a.sock\""),
                false => required.to_owned(),
            };
            let text = format!("[agent]\n{agent}\n[service.a]\n{required}\n{service}");
            Config::parse(Path::new("/x"), &text).unwrap()
        };
        let without = config("", "");
        let mut defaults = 0;
        for row in rows(&manual, "### All keys") {
            let [key, _, default] = &row[..] else {
                panic!("three columns: {row:?}");
            };
            let (Some(key), Some(value)) = (code(key), code(default)) else {
                continue; // The head, a required key, or one without a value by default.
            };
            let line = format!("{key} = {value}");
            let with = match AGENT_KEYS.contains(&key) {
                true => config(&line, ""),
                false => config("", &line),
            };
            if key == "socket_mode" {
                let access = |config: &Config| config.services["a"].access.clone();
                assert_eq!(access(&with), access(&without), "{line}");
            } else {
                assert_eq!(with, without, "{line}");
            }
            defaults += 1;
        }
        assert!(defaults >= 6, "{defaults} defaults in the manual");
    }

    #[test]
    fn the_manual_has_every_command_and_option() {
        let manual = document("MANUAL.md");
        let rows = rows(&manual, "## Commands");
        let called = rows.iter().filter_map(|row| code(&row[0]));
        let named = called.filter_map(|call| call.strip_prefix("ondemand ")?.split(' ').next());
        let named: BTreeSet<&str> = named.collect();
        let cli = Cli::command();
        let commands = cli.get_subcommands().map(clap::Command::get_name);
        assert_eq!(named, commands.collect());
        let has = |option: &str| {
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
            manual.split(option).skip(1).any(ends)
        };
        for command in cli.get_subcommands() {
            let shown = command.get_arguments().filter(|it| !it.is_hide_set());
            for option in shown.filter_map(clap::Arg::get_long) {
                let option = format!("--{option}");
                let name = command.get_name();
                assert!(
                    has(&option),
                    "MANUAL.md has no {option} of `ondemand {name}`"
                );
            }
        }
    }

    #[test]
    fn examples_are_right() {
        let parse = |name: &str, text: &str| {
            let config = Config::parse(&top().join(name), text).unwrap();
            assert!(!config.services.is_empty(), "{name}");
        };
        for name in ["README.md", "MANUAL.md"] {
            let text = document(name);
            let examples = text.split("\n```toml\n").skip(1);
            let examples = examples.map(|rest| rest.split("\n```\n").next().unwrap());
            let examples: Vec<&str> = examples.collect();
            assert!(!examples.is_empty(), "{name} has no example");
            examples.iter().for_each(|example| parse(name, example));
        }
        let examples = fs::read_dir(top().join("units/examples")).unwrap();
        for example in examples.flatten() {
            let name = example.file_name().into_string().unwrap();
            if name.ends_with(".toml") {
                let copied = format!("units/examples/{name}");
                parse(&copied, &document(&copied));
            }
        }
    }

    /// A heading as the end of a link: as GitHub makes it.
    fn anchor(heading: &str) -> String {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let plain = heading.to_lowercase();
        plain
            .chars()
            .filter(kept)
            .collect::<String>()
            .replace(' ', "-")
    }

    fn has_heading(text: &str, wanted: &str) -> bool {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| line.trim_start_matches('#').trim())
            .any(|heading| anchor(heading) == wanted)
    }

    #[test]
    fn links_lead_somewhere() {
        let mut links = 0;
        for name in documents() {
            let text = document(&name);
            for link in text.split("](").skip(1) {
                let link = link.split(')').next().unwrap();
                if link.contains("://") {
                    continue;
                }
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let from_docs = match name.starts_with("docs/") {
                    true if file.starts_with("../") => file[3..].to_owned(),
                    true if !file.is_empty() => format!("docs/{file}"),
                    _ => file.to_owned(),
                };
                let file = match from_docs.as_str() {
                    "" => name.as_str(),
                    file => file,
                };
                assert!(top().join(file).exists(), "{name}: no file of {link}");
                if !heading.is_empty() {
                    let found = has_heading(&document(file), heading);
                    assert!(found, "{name}: no heading of {link}");
                }
                links += 1;
            }
        }
        assert!(links > 10, "{links} links");
    }

    #[test]
    fn files_that_are_named_are_there() {
        let mut files = 0;
        // What has changed may name what is no more.
        for name in documents().iter().filter(|name| *name != "CHANGELOG.md") {
            let text = document(name);
            let words = text.split(|c: char| c.is_whitespace() || "`()[]|,;:".contains(c));
            for word in words {
                let is_ours = [
                    "docs/",
                    "ondemand-ebpf/",
                    "ondemand-user/",
                    "tests/",
                    "units/",
                    "xtask/",
                ]
                .iter()
                .any(|folder| word.starts_with(folder));
                if !is_ours || word.contains('*') {
                    continue;
                }
                let path = word.trim_end_matches('.');
                assert!(top().join(path).exists(), "{name}: there is no {path}");
                files += 1;
            }
        }
        assert!(files > 20, "{files} files");
    }

    /// The sources of the program and the core, with texts that go over several lines in one.
    fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let mut joined = String::new();
                for part in text.split("\\\n") {
                    joined.push_str(match joined.is_empty() {
                        true => part,
                        false => part.trim_start(),
                    });
                }
                found.push((path.display().to_string(), joined));
            }
        }
    }

    #[test]
    fn each_word_of_check_has_a_row() {
        let document = document("docs/troubleshooting.md");
        let rows = rows(&document, "## Words of check");
        let rows: BTreeSet<&str> = rows.iter().filter_map(|row| code(&row[0])).collect();
        let mut texts = Vec::new();
        sources(&top().join("ondemand-user/src/install/check"), &mut texts);
        let mut words = BTreeSet::new();
        for (path, text) in &texts {
            if path.ends_with("finding.rs") {
                continue; // Its tests have made up some.
            }
            let text = text.split("#[cfg(test)]").next().unwrap();
            for begin in [
                "WHAT: &str = \"",
                "Finding::ok(",
                "Finding::warning(",
                "Finding::error(",
                "Finding::unknown(",
                "requirement(",
            ] {
                for rest in text.split(begin).skip(1) {
                    let rest = match begin.ends_with('(') {
                        true => match rest.trim_start().strip_prefix('"') {
                            Some(rest) => rest,
                            None => continue,
                        },
                        false => rest,
                    };
                    words.insert(rest.split('"').next().unwrap());
                }
            }
        }
        assert!(words.len() > 20, "{words:?}");
        let missing: Vec<_> = words.difference(&rows).collect();
        assert!(
            missing.is_empty(),
            "docs/troubleshooting.md lacks {missing:?}"
        );
        let is_stale = |word: &&&str| {
            let word = format!("\"{word}\"");
            !texts.iter().any(|(_, text)| text.contains(&word))
        };
        let stale: Vec<_> = rows.difference(&words).filter(is_stale).collect();
        assert!(stale.is_empty(), "`ondemand check` does not say {stale:?}");
    }

    /// What is between backquotes in the first cells of a table.
    fn codes(rows: &[Vec<String>]) -> Vec<&str> {
        let cells = rows.iter().filter_map(|row| row.first());
        cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect()
    }

    #[test]
    fn lines_of_the_journal_are_those_that_it_gets() {
        let document = document("docs/troubleshooting.md");
        let rows = rows(&document, "## Lines of the journal");
        let lines = codes(&rows);
        assert!(lines.len() > 25, "{lines:?}");
        let mut texts = Vec::new();
        sources(&top().join("ondemand-user/src"), &mut texts);
        sources(&top().join("ondemand-user/core/src"), &mut texts);
        for line in lines {
            let line = line.strip_prefix("NAME: ").unwrap_or(line);
            let is_there = texts.iter().any(|(_, text)| text.contains(line));
            assert!(is_there, "no source says {line:?}");
        }
    }

    /// The words of a format string without what is inserted.
    fn own_words(format: &str) -> String {
        let (mut words, mut depth) = (String::new(), 0);
        for letter in format.chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 0 => words.push(letter),
                _ => {}
            }
        }
        words
    }

    #[test]
    fn each_warning_of_the_journal_has_a_row() {
        // A shorter one passes on what another says.
        const SHORT: usize = 12;
        let document = document("docs/troubleshooting.md");
        let rows = rows(&document, "## Lines of the journal");
        let lines: Vec<_> = codes(&rows)
            .into_iter()
            .map(|line| line.strip_prefix("NAME: ").unwrap_or(line))
            .collect();
        let mut texts = Vec::new();
        sources(&top().join("ondemand-user/src"), &mut texts);
        sources(&top().join("ondemand-user/core/src"), &mut texts);
        let (mut missing, mut found) = (Vec::new(), 0);
        for (path, text) in &texts {
            // What is not in a release.
            if path.ends_with("ablation.rs") {
                continue;
            }
            let text = text.split("#[cfg(test)]").next().unwrap();
            let begins = ["log::warn!(", "log::error!("];
            let calls = begins.iter().flat_map(|begin| text.split(begin).skip(1));
            for call in calls {
                let Some(format) = call.trim_start().strip_prefix('"') else {
                    continue; // A text that was made elsewhere.
                };
                let format = format.split('"').next().unwrap();
                if own_words(format).trim().len() < SHORT {
                    continue;
                }
                found += 1;
                if !lines.iter().any(|line| format.contains(line)) {
                    missing.push((path, format));
                }
            }
        }
        assert!(found > 50, "{found} warnings");
        assert!(
            missing.is_empty(),
            "docs/troubleshooting.md lacks {missing:#?}"
        );
    }

    #[test]
    fn the_readme_is_short() {
        let words = document("README.md").split_whitespace().count();
        assert!(
            words < 1000,
            "{words} words: README.md is for people in a hurry"
        );
    }

    #[test]
    fn sections_end_where_the_next_begins() {
        let text = "# a\n## b\n| x | y |\n### c\n| `z` |\n## d\n| no |\n";
        assert_eq!(rows(text, "## b"), [vec!["x", "y"], vec!["`z`"]]);
        assert_eq!(rows(text, "### c"), [["`z`"]]);
        assert_eq!(code("`z` of `y`"), Some("z"));
        assert!(has_heading(text, "c") && !has_heading(text, "e"));
        assert_eq!(anchor("Hold, start: `stop`"), "hold-start-stop");
    }
}
