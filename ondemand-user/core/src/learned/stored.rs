//! The file format of what was learned: one JSON object per line, so that a damaged line does not affect the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Learned, Starts};
use crate::rhythm::Rhythm;

/// What is kept of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The last starts.
    pub starts: Starts,
    /// What was learned.
    pub learned: Learned,
    /// When its clients come, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rhythm: Option<Rhythm>,
}

#[derive(Deserialize)]
struct Line {
    service: String,
    #[serde(flatten)]
    stored: Stored,
}

#[derive(Serialize)]
struct LineOf<'a> {
    service: &'a str,
    #[serde(flatten)]
    stored: &'a Stored,
}

impl Stored {
    fn is_sound(&self) -> bool {
        self.learned.is_sound() && self.rhythm.as_ref().is_none_or(Rhythm::is_sound)
    }
}

/// Formats the file.
pub fn text<'a>(services: impl Iterator<Item = (&'a str, &'a Stored)>) -> String {
    let mut text = String::new();
    for (service, stored) in services {
        let line = LineOf { service, stored };
        // Strings and finite numbers always serialize.
        text += &serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
    }
    text
}

/// Parses the file. Also returns the number of lines that are no state that could have been written.
pub fn parse(text: &str) -> (BTreeMap<String, Stored>, usize) {
    let mut services = BTreeMap::new();
    let mut damaged = 0;
    for line in text.lines() {
        match serde_json::from_str::<Line>(line) {
            Ok(line) if line.stored.is_sound() => {
                services.insert(line.service, line.stored);
            }
            _ => damaged += 1,
        }
    }
    (services, damaged)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Learning;

    #[test]
    fn a_damaged_line_costs_one_service() {
        let mut learned = Learned::new(Learning::default().terms(None));
        learned.learn(Duration::from_secs(40));
        let mut starts = Starts::default();
        starts.add(Duration::from_millis(250));
        let names = ["a", "b \"\n", "c"];
        let stored = Stored {
            starts: starts.clone(),
            learned: learned.clone(),
            rhythm: Some(Rhythm::default()),
        };
        let text = text(names.iter().map(|name| (*name, &stored)));
        let (read, damaged) = parse(&text);
        assert_eq!((read.len(), damaged), (3, 0), "{text}");
        let b = &read["b \"\n"];
        assert_eq!((&b.starts, b.learned.choice()), (&starts, learned.choice()));

        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "",
            "x",
            "{}",
            &lines[1][..300],
            &lines[1].replacen("\"advice\":", "\"advice\":9", 1),
            &lines[1].replacen("\"score\":0", "\"score\":9", 1),
        ] {
            let (read, damaged) = parse(&[lines[0], line, lines[2]].join("\n"));
            assert_eq!((read.len(), damaged), (2, 1), "{line}");
        }
    }
}
