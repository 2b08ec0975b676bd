//! The manual pages: those of the commands from the words of the command line, the others from the
//! documents, so that none can differ from what it is made of.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use clap_mangen::Man;
use jiff::{Timestamp, tz::TimeZone};

use super::{MANUAL, roff, section};
use crate::commands::args::Cli;

/// What `man` prints at the top of each page.
const BOOK: &str = "ondemand";

/// The interfaces on D-Bus.
const INTERFACES: [&str; 2] = [
    include_str!("../../../../units/interfaces/org.ondemand1.Manager.xml"),
    include_str!("../../../../units/interfaces/org.ondemand1.Service.xml"),
];

/// A page from sections of the manual.
struct Page {
    name: &'static str,
    section: u8,
    about: &'static str,
    headings: &'static [&'static str],
    see_also: &'static [&'static str],
}

const PAGES: [Page; 3] = [
    Page {
        name: "ondemand.toml",
        section: 5,
        about: "which services are on demand, and when they are stopped",
        headings: &[
            "## Configuration",
            "### A learned idle timeout",
            "### Times of use",
        ],
        see_also: &["ondemand(1)", "ondemand.service(8)", "systemd.time(7)"],
    },
    Page {
        name: "ondemand.service",
        section: 8,
        about: "the agent that stops unused services, and the units around it",
        headings: &[
            "## Terms",
            "## When a service is stopped",
            "## Permissions",
            "## Metrics",
            "## Troubleshooting",
            "## Upgrade",
            "## Files",
            "## Remove it again",
        ],
        see_also: &["ondemand(1)", "ondemand.toml(5)", "systemd.generator(7)"],
    },
    Page {
        name: "org.ondemand1",
        section: 5,
        about: "the interface of the agent on D-Bus",
        headings: &["### D-Bus"],
        see_also: &["busctl(1)", "ondemand(1)", "polkit(8)"],
    },
];

/// Writes all pages into a directory. Returns their files.
///
/// # Errors
///
/// They cannot be written.
pub fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let date = date()?;
    let mut files = Vec::new();
    for (name, text) in texts(&date)? {
        let file = directory.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        files.push(file);
    }
    Ok(files)
}

/// The date of the pages, by <https://reproducible-builds.org/specs/source-date-epoch/>.
fn date() -> Result<String> {
    let now = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .with_context(|| format!("SOURCE_DATE_EPOCH={text} is not a number of seconds"))?,
        Err(_) => Timestamp::now(),
    };
    Ok(now.to_zoned(TimeZone::UTC).date().to_string())
}

/// The names of the files, and what is in them.
fn texts(date: &str) -> Result<Vec<(String, String)>> {
    let mut cli = Cli::command();
    cli.build();
    let mut texts = vec![command(&cli, date)?];
    for subcommand in cli.get_subcommands() {
        texts.push(command(subcommand, date)?);
    }
    for page in &PAGES {
        texts.push((format!("{}.{}", page.name, page.section), text(page, date)?));
    }
    Ok(texts)
}

/// The page of a command.
fn command(command: &clap::Command, date: &str) -> Result<(String, String)> {
    let after = command.get_after_help().map(ToString::to_string);
    let man = Man::new(command.clone())
        .date(date)
        .manual(BOOK)
        .source(concat!("ondemand ", env!("CARGO_PKG_VERSION")));
    let (explained, sections) = end_of_help(&after.unwrap_or_default());
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    text.extend(explained.into_bytes());
    man.render_options_section(&mut text)?;
    let has_commands = command.has_subcommands();
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut text = String::from_utf8(text).context("a manual page")?;
    text.push_str(&sections);
    let others = ["ondemand.toml(5)", "ondemand.service(8)"];
    let more = (!has_commands).then_some("ondemand(1)");
    text.push_str(&see_also(more.into_iter().chain(others)));
    Ok((man.get_filename(), roff::tidy(&text)))
}

/// What stands at the end of a `--help` text: what it explains, and then what becomes sections, in which lines are as
/// they are.
fn end_of_help(text: &str) -> (String, String) {
    let (mut explained, mut sections) = (String::new(), String::new());
    for part in text.split("\n\n").filter(|part| !part.trim().is_empty()) {
        let (head, rest) = part.split_once('\n').unwrap_or((part, ""));
        let name = head.split(':').next().unwrap_or_default();
        let first = head.get(name.len() + 1..).unwrap_or_default().trim();
        let title = match name {
            "Example" | "Examples" => "EXAMPLES",
            "Exit codes" => "EXIT STATUS",
            "Environment" => "ENVIRONMENT",
            "Setup" => "SETUP",
            _ if name.starts_with("Configuration") => "CONFIGURATION",
            _ if name.starts_with("Example") => "EXAMPLES",
            _ => {
                explained.push_str(&roff::from_markdown(part, 1));
                continue;
            }
        };
        let first = match title {
            "EXIT STATUS" => first.replace(", ", "\n"),
            _ => first.to_owned(),
        };
        sections.push_str(&roff::heading("SH", title));
        sections.push_str(&roff::verbatim(&outdented(&format!("{first}\n{rest}"))));
    }
    (explained, sections)
}

/// Lines without the spaces that all of them begin with.
fn outdented(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let indent = lines().map(|line| line.len() - line.trim_start().len());
    let indent = indent.min().unwrap_or_default();
    let lines: Vec<&str> = lines().map(|line| line[indent..].trim_end()).collect();
    lines.join("\n")
}

fn see_also<'a>(pages: impl Iterator<Item = &'a str>) -> String {
    let pages: Vec<String> = pages
        .map(|page| match page.split_once('(') {
            Some((name, section)) => format!(".BR {} ({section}", roff::escape(name)),
            None => page.to_owned(),
        })
        .collect();
    format!(".SH \"SEE ALSO\"\n{}\n", pages.join(" ,\n"))
}

/// A page from the manual.
fn text(page: &Page, date: &str) -> Result<String> {
    let mut out = format!(
        ".TH {} {} {date} \"ondemand {}\" \"{BOOK}\"\n.SH NAME\n{} \\- {}\n",
        roff::escape(page.name),
        page.section,
        env!("CARGO_PKG_VERSION"),
        roff::escape(page.name),
        roff::escape(page.about)
    );
    let single = page.headings.len() == 1;
    for (i, heading) in page.headings.iter().enumerate() {
        let Some(body) = section(MANUAL, heading) else {
            bail!("MANUAL.md has no section {heading:?}");
        };
        let title = heading.trim_start_matches(['#', ' ']);
        let level = heading.find(' ').unwrap_or_default();
        // The headings below the first are sections of the page themselves.
        let (title, level) = match i {
            0 if single || page.name == "ondemand.toml" => ("DESCRIPTION", level + 1),
            _ => (title, level),
        };
        out.push_str(&roff::heading("SH", &title.to_uppercase()));
        out.push_str(&roff::from_markdown(body, level));
    }
    if page.name == "org.ondemand1" {
        out.push_str(&roff::heading("SH", "INTERFACES"));
        for interface in INTERFACES {
            // Without the head, which is of XML.
            let begin = interface.find("<interface").unwrap_or_default();
            let text = interface[begin..].trim_end().trim_end_matches("</node>");
            out.push_str(&roff::verbatim(&format!("  {text}")));
        }
    }
    out.push_str(&see_also(page.see_also.iter().copied()));
    Ok(roff::tidy(&out))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn mandoc_has_nothing_to_say() {
        let directory = tempfile::tempdir().unwrap();
        let files = write(directory.path()).unwrap();
        assert!(files.len() > 15, "{files:?}");
        let mandoc = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .args(&files)
            .output();
        let output = match mandoc {
            Ok(output) => output,
            Err(error) => {
                ::tests::skip::part(format_args!("mandoc (the package mandoc): {error}"));
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.is_empty(), "{said}");
    }

    #[test]
    fn the_pages_say_what_the_manual_says() {
        let all = texts("2026-01-01").unwrap();
        let page = |name: &str| {
            let found = all.iter().find(|(file, _)| file == name);
            found.unwrap_or_else(|| panic!("no {name}")).1.as_str()
        };
        let keys = page("ondemand.toml.5");
        for key in ondemand_core::config::SERVICE_KEYS {
            let tag = format!(".TP\n\\fB{key}\\fR\n");
            assert!(keys.contains(&tag), "ondemand.toml(5) has no {key}");
        }
        assert!(page("ondemand.service.8").contains("ondemand.toml"));
        let bus = page("org.ondemand1.5");
        for word in ["org.ondemand1.Error.Kept", "IdleSinceUSec", "WaitListening"] {
            assert!(bus.contains(word), "no {word}");
        }
        let hold = page("ondemand-hold.1");
        for word in ["EXAMPLES", "EXIT STATUS", "\\-\\-for"] {
            assert!(hold.contains(word), "no {word}: {hold}");
        }
        for subcommand in Cli::command().get_subcommands() {
            page(&format!("ondemand-{}.1", subcommand.get_name()));
        }
    }
}
