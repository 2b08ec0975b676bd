//! The file format of holds: one JSON object per line, so that a damaged line does not affect the
//! others.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Holds, Left, Moment, left};

/// Longer than any request allows (microseconds in 64 bits); a longer value is damaged.
const LONGEST: Duration = Duration::from_secs(100_000_000_000_000);

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    service: String,
    /// Its end. Absent: when it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

/// The end of a hold on both clocks.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    /// By the wall clock, RFC 3339.
    until: String,
    /// What was left at the time of writing, in seconds.
    left: f64,
    /// The boot that `uptime` refers to.
    boot: String,
    /// By the clock since that boot, in seconds.
    uptime: f64,
}

/// Formats the file. `boot` identifies the present boot of the host.
pub fn text(holds: &Holds, now: &Moment, boot: &str) -> String {
    let mut text = String::new();
    for (service, end) in &holds.ends {
        let end = match left(*end, now) {
            None => continue,
            Some(Left::UntilReleased) => None,
            Some(Left::For(left)) => Some(End {
                until: now.after(left).to_string(),
                left: left.as_secs_f64(),
                boot: boot.to_owned(),
                uptime: now.uptime.saturating_add(left).as_secs_f64(),
            }),
        };
        let line = Line {
            service: service.clone(),
            end,
        };
        // Strings and finite numbers always serialize.
        text += &serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
    }
    text
}

/// Parses the file. A service that a damaged line names stays held until it is released; `known`
/// are the names to look for. Also returns one message for each damaged line.
pub fn parse<'a>(
    bytes: &[u8],
    now: &Moment,
    boot: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> (Holds, Vec<String>) {
    let mut holds = Holds::default();
    let mut problems = Vec::new();
    let text = String::from_utf8_lossy(bytes);
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = serde_json::from_str::<Line>(line);
        let parsed = parsed.map_err(|error| error.to_string());
        match parsed.and_then(|line| Ok((end_of(&line, now, boot)?, line.service))) {
            Ok((end, service)) => {
                holds.ends.insert(service, end);
            }
            Err(error) => {
                let quoted = |name: &&str| line.contains(&format!("\"{name}\""));
                let named: Vec<&str> = known.clone().filter(quoted).collect();
                for name in &named {
                    holds.ends.insert((*name).to_owned(), None);
                }
                let kept = match named.as_slice() {
                    [] => "it names no configured service and was dropped".to_owned(),
                    names => format!("{} stays held until released", names.join(", ")),
                };
                problems.push(format!("line {}: {error}; {kept}", index + 1));
            }
        }
    }
    (holds, problems)
}

fn end_of(line: &Line, now: &Moment, boot: &str) -> Result<Option<Duration>, String> {
    let Some(end) = &line.end else {
        return Ok(None);
    };
    let seconds = |value: f64| match Duration::try_from_secs_f64(value) {
        Ok(span) if span <= LONGEST => Ok(span),
        Ok(_) => Err(format!("{value} s: longer than any hold")),
        Err(error) => Err(format!("{value} s: {error}")),
    };
    if end.boot == boot {
        return Ok(Some(seconds(end.uptime)?));
    }
    let until: Timestamp = end
        .until
        .parse()
        .map_err(|error| format!("{:?}: {error}", end.until))?;
    // If the clock was set back, it shows more than there was.
    let left = Duration::try_from(until.duration_since(now.wall)).unwrap_or_default();
    let left = left.min(seconds(end.left)?);
    Ok(Some(now.uptime.saturating_add(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_800_000_000;

    fn at(uptime: u64, wall: i64) -> Moment {
        Moment {
            uptime: Duration::from_secs(uptime),
            wall: Timestamp::from_second(wall).unwrap(),
        }
    }

    fn seconds(seconds: u64) -> Option<Left> {
        Some(Left::For(Duration::from_secs(seconds)))
    }

    fn known() -> impl Iterator<Item = &'static str> + Clone {
        ["wiki", "llm"].into_iter()
    }

    /// What is left of a hold of an hour that was written at `WALL`, 1000 s after boot.
    #[track_caller]
    fn check(boot: &str, now: Moment, expected: Option<Left>) {
        let mut holds = Holds::default();
        let made = at(1_000, WALL);
        holds.set("wiki", Some(Duration::from_secs(3_600)), &made);
        holds.set("llm", None, &made);
        let written = text(&holds, &made, "a");
        let (read, problems) = parse(written.as_bytes(), &now, boot, known());
        assert_eq!(problems, [""; 0]);
        assert_eq!(read.left("wiki", &now), expected, "{boot} {now:?}");
        assert_eq!(read.left("llm", &now), Some(Left::UntilReleased));
    }

    #[test]
    fn a_hold_survives_a_restart_of_the_agent() {
        check("a", at(1_000, WALL), seconds(3_600));
        check("a", at(1_600, WALL + 600), seconds(3_000));
        check("a", at(4_600, WALL + 3_600), None);
        // Whatever happened to the wall clock meanwhile.
        check("a", at(1_600, WALL - 1_000_000), seconds(3_000));
        check("a", at(1_600, WALL + 1_000_000), seconds(3_000));
    }

    #[test]
    fn a_hold_survives_a_reboot() {
        check("b", at(20, WALL + 600), seconds(3_000));
        check("b", at(20, WALL + 3_600), None);
        check("b", at(20, WALL + 1_000_000), None);
        // A clock that was set back does not lengthen the hold.
        check("b", at(20, WALL - 1_000_000), seconds(3_600));
    }

    #[test]
    fn what_can_be_read_is_kept() {
        #[track_caller]
        fn check(bytes: &[u8], wiki: Option<Left>, problems: &[&str]) {
            let now = at(20, WALL);
            let (holds, found) = parse(bytes, &now, "a", known());
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(holds.left("wiki", &now), wiki, "{text}");
            assert_eq!(found.len(), problems.len(), "{text}: {found:?}");
            for (found, part) in found.iter().zip(problems) {
                assert!(found.contains(part), "{found} lacks {part}");
            }
        }
        let forever = Some(Left::UntilReleased);
        check(b"", None, &[]);
        check(b"\n \n", None, &[]);
        check(br#"{"service":"wiki"}"#, forever, &[]);
        // From a future version.
        check(br#"{"service":"wiki","by":"root"}"#, forever, &[]);
        check(
            b"\xff\0garbage\n{\"service\":\"wiki\"}\n",
            forever,
            &["line 1: "],
        );
        check(
            br#"{"service":"wiki","end":{"until":"soon","left":1,"boot":"z","uptime":1}}"#,
            forever,
            &["wiki stays held until released"],
        );
        check(
            br#"{"service":"wiki","end":{"until":"2026-11-24T00:00:00Z","left":-1,"boot":"z","uptime":1}}"#,
            forever,
            &["line 1: -1 s: "],
        );
        check(
            br#"{"service":"wiki","end":17}"#,
            forever,
            &["wiki stays held"],
        );
        check(br#"{"service":"wiki","en"#, forever, &["wiki stays held"]);
        check(br#"{"service":"wi"#, None, &["was dropped"]);
    }
}
