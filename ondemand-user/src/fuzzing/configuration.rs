//! The configuration, written by the administrator or by a program.

use std::path::Path;

use super::generated;
use crate::host::config_file;

pub(super) const PATH: &str = "/etc/ondemand/ondemand.toml";

/// A configuration is parsed, and its units are harmless; or each of its problems is reported on a
/// line of its own that is safe for a terminal.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return; // Refused before it is parsed.
    };
    match config_file::parse(Path::new(PATH), text) {
        Ok(config) => generated::check(&config, &generated::host(data.len().is_multiple_of(2))),
        Err(error) => {
            let shown = error.to_string();
            let harmless = |c: char| !c.is_control() || c == '\n';
            assert!(shown.chars().all(harmless), "{shown:?}");
            let lines: Vec<&str> = shown.split('\n').collect();
            assert_eq!(lines.len(), error.problems().len(), "{shown:?}");
            assert!(lines.iter().all(|line| line.starts_with(PATH)), "{shown:?}");
            let last = 1 + text.matches('\n').count();
            let in_file = |line: usize| (1..=last).contains(&line);
            let mut places = error.problems().iter().filter_map(|problem| problem.line);
            assert!(places.all(in_file), "{shown:?}");
        }
    }
}
