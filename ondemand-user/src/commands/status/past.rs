//! The last starts and stops of a service, and the last lines of its journal, as far as the caller may read that.

use std::{process::Stdio, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;
use tokio::{process::Command, time::timeout};

/// Maximum time of journalctl, which may have to read a large journal.
const PATIENCE: Duration = Duration::from_secs(2);
/// The number of starts and stops.
const EVENTS: &str = "6";
/// The number of lines.
const LINES: &str = "8";

/// The messages of PID 1 (systemd/sd-messages.h): `SD_MESSAGE_UNIT_STARTED`, `SD_MESSAGE_UNIT_STOPPED`,
/// `SD_MESSAGE_UNIT_FAILED`, `SD_MESSAGE_UNIT_FAILURE_RESULT`.
const MESSAGES: [(&str, &str); 4] = [
    ("39f53479d3a045ac8e11786248231fbf", "started"),
    ("9d1aaa27d60140bd96365438aad20286", "stopped"),
    ("be02cf6855d2428ba40df7e9d022f03d", "start failed"),
    ("d9b373ed55a64feb8242e02dbe79a49c", "failed"),
];

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(rename = "MESSAGE_ID")]
    message: String,
}

/// What there is to print of the past of the service `name`.
pub async fn of(name: &str, unit: &str) -> String {
    let mut words = ["-o", "json", "-n", EVENTS, "_PID=1"]
        .map(str::to_owned)
        .to_vec();
    words.push(format!("UNIT={unit}"));
    words.extend(MESSAGES.map(|(id, _)| format!("MESSAGE_ID={id}")));
    let lines = ["-o", "short-iso", "-n", LINES, "-u", unit].map(str::to_owned);
    // The agent's own lines about it say why it was stopped, or was not.
    let agent = [
        "-o",
        "short-iso",
        "-n",
        LINES,
        "-u",
        "ondemand.service",
        "-g",
    ]
    .map(str::to_owned);
    let pattern = format!("^{}: ", name.replace('.', "\\."));
    let agent = [agent.as_slice(), &[pattern]].concat();
    let (events, lines, agent) = tokio::join!(journal(&words), journal(&lines), journal(&agent));
    let mut text = String::new();
    let events = events.unwrap_or_default();
    let events: Vec<_> = events.lines().filter_map(event).collect();
    if !events.is_empty() {
        text += "\nLAST STARTS AND STOPS\n";
        text.extend(events.iter().map(|line| format!("{line}\n")));
    }
    for (head, lines) in [("JOURNAL OF THE AGENT", agent), ("JOURNAL", lines)] {
        if let Some(lines) = lines.filter(|lines| !lines.trim().is_empty()) {
            text += &format!("\n{head}\n{}\n", lines.trim_end());
        }
    }
    text
}

fn event(line: &str) -> Option<String> {
    let entry: Entry = serde_json::from_str(line).ok()?;
    let at = Timestamp::from_microsecond(entry.at.parse().ok()?).ok()?;
    let at = at.to_zoned(TimeZone::system());
    let (_, word) = MESSAGES.iter().find(|(id, _)| *id == entry.message)?;
    Some(format!("{}  {word}", at.strftime("%F %T")))
}

/// `None`: it cannot be read.
async fn journal(words: &[String]) -> Option<String> {
    let child = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--boot"])
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, child).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_pid_1() {
        let line = r#"{"__REALTIME_TIMESTAMP":"1800000000000000","MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286","x":1}"#;
        assert!(event(line).unwrap().ends_with("  stopped"));
        assert_eq!(event("{}"), None);
        assert_eq!(event(&line.replace("9d1a", "0000")), None);
    }
}
