//! The documents that the program has with it: `ondemand help TOPIC`, and the manual pages.

pub mod man;
mod roff;

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use super::{args::Cli, client};

/// The manual.
const MANUAL: &str = include_str!("../../../../MANUAL.md");

/// What a topic shows.
struct Topic {
    name: &'static str,
    about: &'static str,
    text: &'static str,
    /// Only this section of it.
    heading: Option<&'static str>,
}

const fn document(name: &'static str, about: &'static str, text: &'static str) -> Topic {
    Topic {
        name,
        about,
        text,
        heading: None,
    }
}

const fn of_manual(name: &'static str, about: &'static str, heading: &'static str) -> Topic {
    Topic {
        name,
        about,
        text: MANUAL,
        heading: Some(heading),
    }
}

const TOPICS: &[Topic] = &[
    document("manual", "all of the manual", MANUAL),
    of_manual(
        "configuration",
        "the configuration's file and all of its keys",
        "## Configuration",
    ),
    of_manual("keys", "the keys alone", "### All keys"),
    of_manual(
        "stops",
        "when a service is stopped",
        "## When a service is stopped",
    ),
    of_manual("permissions", "who may do what", "## Permissions"),
    of_manual("metrics", "what Prometheus gets", "## Metrics"),
    of_manual("d-bus", "org.ondemand1", "### D-Bus"),
    of_manual("files", "where everything is", "## Files"),
    of_manual("remove", "how to remove it again", "## Remove it again"),
    document(
        "troubleshooting",
        "each word of `check` and line of the journal",
        include_str!("../../../../docs/troubleshooting.md"),
    ),
    document(
        "recipes",
        "nginx, Redis, PostgreSQL, sshd, Python, Node, a language model",
        include_str!("../../../../docs/recipes.md"),
    ),
    document(
        "faq",
        "why is it still up, why did it start, and others",
        include_str!("../../../../docs/faq.md"),
    ),
    document(
        "reverse-proxies",
        "nginx, Caddy, HAProxy, Traefik; TLS",
        include_str!("../../../../docs/reverse-proxies.md"),
    ),
    document(
        "monitoring",
        "to watch services without waking them",
        include_str!("../../../../docs/monitoring.md"),
    ),
    document(
        "comparison",
        "Sablier, socket-proxyd, llama-swap and others",
        include_str!("../../../../docs/comparison.md"),
    ),
    document(
        "json",
        "what --json prints",
        include_str!("../../../../JSON.md"),
    ),
    document(
        "security",
        "threats, and what is done about each",
        include_str!("../../../../SECURITY.md"),
    ),
];

/// The words that `ondemand help` takes, commands excepted.
pub fn topics() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|topic| topic.name)
}

/// A section of a document, without its heading: up to the next heading of its level or above.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\n{heading}\n"))?;
    let level = heading.find(' ')?;
    let mut length = 0;
    let mut is_code = false;
    for line in rest.split_inclusive('\n') {
        is_code ^= line.starts_with("```");
        let marks = line.len() - line.trim_start_matches('#').len();
        if !is_code && (1..=level).contains(&marks) && line[marks..].starts_with(' ') {
            break;
        }
        length += line.len();
    }
    Some(&rest[..length])
}

/// Prints a topic, the help of a command, or without a name which topics there are.
///
/// # Errors
///
/// There is no such topic, or it cannot be printed.
pub fn help(name: Option<&str>) -> Result<()> {
    let mut out = io::stdout().lock();
    let Some(name) = name else {
        let mut text = "Topics of `ondemand help TOPIC`:\n".to_owned();
        for Topic { name, about, .. } in TOPICS {
            text.push_str(&format!("  {name:<16} {about}\n"));
        }
        text.push_str("`ondemand help COMMAND` and `ondemand COMMAND --help` are the same.\n");
        return out.write_all(text.as_bytes()).context("print the topics");
    };
    if let Some(topic) = TOPICS.iter().find(|topic| topic.name == name) {
        let text = match topic.heading {
            Some(heading) => section(topic.text, heading)
                .with_context(|| format!("the document has no section {heading:?}"))?,
            None => topic.text,
        };
        let text = text.trim_matches('\n');
        return writeln!(out, "{text}").context("print the topic");
    }
    let mut cli = Cli::command();
    cli.build();
    if let Some(command) = cli.find_subcommand_mut(name) {
        let text = command.render_long_help();
        return write!(out, "{text}").context("print the help");
    }
    let names: Vec<&str> = topics().collect();
    Err(client::Error::Usage(format!(
        "there is no topic and no command {name:?}; the topics are {}",
        names.join(", ")
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_topic_has_a_text() {
        for topic in TOPICS {
            let text = match topic.heading {
                Some(heading) => section(topic.text, heading),
                None => Some(topic.text),
            };
            let words = text.map(|text| text.split_whitespace().count());
            assert!(words > Some(40), "{}: {words:?}", topic.name);
        }
        let names: BTreeSet<&str> = topics().collect();
        assert_eq!(names.len(), TOPICS.len(), "two topics have one name");
        // A command's name would hide its help.
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(!names.contains(name), "{name} is a command");
        }
    }

    #[test]
    fn sections_end_where_the_next_begins() {
        let text = "# a\n## b\none\n```toml\n# no heading\n```\n### c\ntwo\n## d\nthree\n";
        let check = |heading, expected| assert_eq!(section(text, heading), expected, "{heading}");
        check(
            "## b",
            Some("one\n```toml\n# no heading\n```\n### c\ntwo\n"),
        );
        check("### c", Some("two\n"));
        check("## d", Some("three\n"));
        check("## e", None);
    }
}
