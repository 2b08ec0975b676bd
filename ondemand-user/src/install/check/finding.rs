//! What was found, and how it is printed: lines for people, an array for scripts.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could; or it could not be looked at.
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

/// One thing that was looked at. Scripts read it: fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The service that it is about; null: the host.
    pub service: Option<String>,
    /// What was looked at: one word, such as `unit`.
    pub what: &'static str,
    /// What was found, and where.
    pub message: String,
    /// What to do next; null: nothing.
    pub next: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(what: &'static str, message: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            service: None,
            what,
            message: message.into(),
            next: None,
        }
    }

    /// It works, but.
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

    /// It does not work.
    pub fn error(what: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(what, message, next)
        }
    }

    /// What could not be looked at, and why.
    pub fn unknown(what: &'static str, why: &anyhow::Error) -> Self {
        Self {
            level: Level::Warning,
            ..Self::ok(what, format!("could not be looked at: {why:#}"))
        }
    }

    /// The same, about a service.
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }
}

/// The findings in groups: the host, then each service, and a last line that adds them up.
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

/// The worst of them.
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
                    "message": "it does not run", "next": "systemctl start ondemand",
                },
                {
                    "level": "error", "service": "a", "what": "unit",
                    "message": "a.service does not exist\nreally", "next": "write it",
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
