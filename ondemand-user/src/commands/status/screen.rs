//! Where it is printed: how wide that is, and whether in colour.

use std::{
    collections::HashMap,
    env,
    io::{self, IsTerminal as _},
};

use ratatui::crossterm::terminal;

use crate::bus::report::{Report, Service};

/// The standard output.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether it is a terminal.
    pub is_terminal: bool,
    /// Its width in columns; `None`: a file or a pipe.
    pub width: Option<usize>,
    has_colour: bool,
}

impl Screen {
    /// That of this process.
    pub fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let width = is_terminal.then(terminal::size).and_then(Result::ok);
        // https://no-color.org: present and not empty.
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            is_terminal,
            width: width
                .map(|(columns, _)| columns.into())
                .filter(|columns| *columns > 0),
            has_colour: is_terminal && !is_set("NO_COLOR") && !is_dumb,
        }
    }

    /// The lines of the table in colour: red for a service with a problem, faint for one that is down, green for one
    /// that is up.
    pub fn paint(self, text: &str, report: &Report) -> String {
        let services: HashMap<&str, &Service> = match self.has_colour {
            true => report
                .services
                .iter()
                .map(|it| (it.name.as_str(), it))
                .collect(),
            false => HashMap::new(),
        };
        text.lines()
            .map(|line| self.paint_line(line, &services))
            .collect()
    }

    fn paint_line(self, line: &str, services: &HashMap<&str, &Service>) -> String {
        let name = line.split_whitespace().next().unwrap_or_default();
        let service = services.get(name);
        let code = match service {
            _ if !self.has_colour => None,
            Some(service) if service.problem.is_some() || service.state == "failed" => Some("31"),
            Some(service) if service.state == "inactive" => Some("2"),
            Some(service) if service.state == "active" => Some("32"),
            Some(_) => Some("33"),
            None if line.starts_with("WRONG") || line.starts_with("CONFIGURATION") => Some("31"),
            None if line.starts_with("NAME ") => Some("1"),
            None => None,
        };
        match code {
            Some(code) => format!("\x1b[{code}m{line}\x1b[0m\n"),
            None => format!("{line}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_colour_of_their_service() {
        let service = |name: &str, state: &str, problem: Option<&str>| Service {
            name: name.into(),
            state: state.into(),
            problem: problem.map(str::to_owned),
            ..Service::default()
        };
        let report = Report {
            services: vec![
                service("a", "active", None),
                service("b", "inactive", None),
                service("c", "active", Some("x")),
            ],
            ..Report::default()
        };
        let screen = |has_colour| Screen {
            is_terminal: true,
            width: None,
            has_colour,
        };
        for (line, code) in [
            ("a  active", "32"),
            ("b  inactive", "2"),
            ("c  active", "31"),
        ] {
            assert_eq!(
                screen(true).paint(line, &report),
                format!("\x1b[{code}m{line}\x1b[0m\n")
            );
            assert_eq!(screen(false).paint(line, &report), format!("{line}\n"));
        }
        assert_eq!(screen(true).paint("other", &report), "other\n");
    }
}
