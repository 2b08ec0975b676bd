//! Findings and their output: lines for people, an array for scripts.

use std::fmt::Write as _;

use serde::Serialize;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Correct.
    Ok,
    /// It works with a restriction, or it could not be checked.
    Warning,
    /// It does not work.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding. Scripts read it: fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity.
    pub level: Level,
    /// The service it concerns; null: the host.
    pub service: Option<String>,
    /// The subject of the check: one word, such as `unit`.
    pub what: &'static str,
    /// The result.
    pub message: String,
    /// What to do next; null: nothing.
    pub next: Option<String>,
    /// The command, word by word, that does it and can do no harm: `--fix` runs it. Null: a person has to judge.
    pub fix: Option<Vec<String>>,
}

impl Finding {
    /// A correct state.
    pub fn ok(what: &'static str, message: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            service: None,
            what,
            message: message.into(),
            next: None,
            fix: None,
        }
    }

    /// A restriction.
    pub fn warning(
        what: &'static str,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            next: Some(next.into()),
            ..Self::ok(what, message)
        }
    }

    /// A fault.
    pub fn error(what: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(what, message, next)
        }
    }

    /// A check that could not be made, and why.
    pub fn unknown(what: &'static str, why: &anyhow::Error) -> Self {
        Self {
            level: Level::Warning,
            ..Self::ok(what, format!("could not be checked: {why:#}"))
        }
    }

    /// Returns the finding with the command that mends it. It must stop no application, cut no connection, loosen no
    /// permission and unmask nothing.
    pub fn fixed_by(mut self, command: &[&str]) -> Self {
        self.fix = Some(command.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// Returns the finding with its service.
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }
}

/// Formats the findings in groups: the host, then each service, and a last line with the totals.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.what.len()).max();
    let width = width.unwrap_or(0);
    // Writing to a string cannot fail.
    for (i, group) in findings.chunk_by(|a, b| a.service == b.service).enumerate() {
        let blank = if i == 0 { "" } else { "\n" };
        let _ = match &group[0].service {
            Some(service) => writeln!(text, "{blank}service {service}"),
            None => writeln!(text, "{blank}host"),
        };
        for finding in group {
            let Finding {
                level,
                what,
                message,
                next,
                ..
            } = finding;
            // A message of several lines stays in its column.
            let indent = format!("\n{:1$}", "", 2 + 9 + width + 2);
            let message = message.replace('\n', &indent);
            let _ = writeln!(text, "  {:<9}{what:<width$}  {message}", level.word());
            if let Some(next) = next {
                let _ = writeln!(text, "{}-> {next}", &indent[1..]);
            }
        }
    }
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .count() as u64
    };
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let _ = writeln!(
        text,
        "\n{}, {}",
        ondemand_core::words::counted(errors, "error"),
        ondemand_core::words::counted(warnings, "warning")
    );
    text
}

/// The highest severity among them.
pub fn worst(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("kernel", "Linux 6.18"),
            Finding::warning("agent", "it does not run", "systemctl start ondemand"),
            Finding::error("unit", "a.service does not exist\nreally", "write it").of("a"),
            Finding::ok("veto", "/bin/true").of("a"),
            Finding::ok("unit", "b.service").of("b"),
        ]
    }

    #[test]
    fn people_get_groups_of_lines() {
        let expected = "\
host
  ok       kernel  Linux 6.18
  warning  agent   it does not run
                   -> systemctl start ondemand

service a
  error    unit    a.service does not exist
                   really
                   -> write it
  ok       veto    /bin/true

service b
  ok       unit    b.service

1 error, 1 warning
";
        assert_eq!(text(&findings()), expected);
        assert_eq!(text(&[]), "\n0 errors, 0 warnings\n");
    }

    #[test]
    fn scripts_get_these_names() {
        ::tests::documents::assert_documented(&serde_json::to_value(findings()).unwrap());
        assert_eq!(
            serde_json::to_value(&findings()[1..3]).unwrap(),
            serde_json::json!([
                {
                    "level": "warning", "service": null, "what": "agent",
                    "message": "it does not run", "next": "systemctl start ondemand", "fix": null,
                },
                {
                    "level": "error", "service": "a", "what": "unit",
                    "message": "a.service does not exist\nreally", "next": "write it", "fix": null,
                },
            ])
        );
    }

    #[test]
    fn the_worst_counts() {
        assert_eq!(worst(&[]), Level::Ok);
        assert_eq!(worst(&findings()[..2]), Level::Warning);
        assert_eq!(worst(&findings()), Level::Error);
    }
}
