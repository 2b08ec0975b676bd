//! Figures formatted for people.

use std::{fmt, time::Duration};

/// Maximum length of an [`excerpt`] in characters.
const EXCERPT: usize = 32;

/// A number and its noun: `1 connection`, `2 connections`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `text` with its control characters escaped, except line feeds: a terminal would interpret them.
/// Everything that is printed for people and contains a name or a message passes through here.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push(c),
            _ if c.is_control() => safe.extend(c.escape_default()),
            _ => safe.push(c),
        }
    }
    safe
}

/// [`printable`], with its line feeds escaped too.
pub fn on_one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

/// The first characters of a text of unknown length, on one line, to be quoted in a message.
pub fn excerpt(text: &str) -> String {
    let end = text.char_indices().nth(EXCERPT).map(|(end, _)| end);
    let start = &text[..end.unwrap_or(text.len())];
    let rest = if end.is_some() { "..." } else { "" };
    on_one_line(start) + rest
}

/// Formats a time span to two places: `840 ms`, `2.5 s`, `10 min`, `1 h 5 min`, `3 d`.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = |f: &mut fmt::Formatter<'_>, total: u64, per: u64, big: &str, small: &str| {
            write!(f, "{} {big}", total / per)?;
            if total.is_multiple_of(per) {
                Ok(())
            } else {
                write!(f, " {} {small}", total % per)
            }
        };
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => match self.0.subsec_millis() / 100 {
                0 => write!(f, "{seconds} s"),
                tenths => write!(f, "{seconds}.{tenths} s"),
            },
            60..3_600 => two(f, seconds, 60, "min", "s"),
            3_600..86_400 => two(f, seconds / 60, 60, "h", "min"),
            _ => two(f, seconds / 3_600, 24, "d", "h"),
        }
    }
}

/// Converts seconds to a span; an invalid value is zero.
pub fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Formats a number of bytes: `999 B`, `3.4 MB`, powers of 1000.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64;
        for unit in ["kB", "MB", "GB", "TB"] {
            value /= 1000.0;
            // What would print as 1000.0 becomes 1.0 of the next unit.
            if value < 999.95 {
                return write!(f, "{value:.1} {unit}");
            }
        }
        write!(f, "{:.1} PB", value / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: impl fmt::Display, expected: &str) {
        assert_eq!(value.to_string(), expected);
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        check(printable("über 1\n2"), "über 1\n2");
        check(
            printable("\u{1b}]0;x\u{7}\r\u{9b}2J\u{7f}\t"),
            "\\u{1b}]0;x\\u{7}\\r\\u{9b}2J\\u{7f}\\t",
        );
        check(on_one_line("1\n2"), "1\\n2");
        check(excerpt("wiki\n"), "wiki\\n");
        check(excerpt(&"é".repeat(32)), &"é".repeat(32));
        check(excerpt(&"é".repeat(33)), &("é".repeat(32) + "..."));
    }

    #[test]
    fn spans() {
        check(Span(Duration::from_micros(999)), "0 ms");
        check(Span(Duration::from_millis(840)), "840 ms");
        check(Span(Duration::from_millis(1_000)), "1 s");
        check(Span(Duration::from_millis(2_590)), "2.5 s");
        check(Span(Duration::from_secs(60)), "1 min");
        check(Span(Duration::from_secs(605)), "10 min 5 s");
        check(Span(Duration::from_secs(3_600)), "1 h");
        check(Span(Duration::from_secs(3_900)), "1 h 5 min");
        check(Span(Duration::from_secs(86_400 * 3)), "3 d");
        check(Span(Duration::from_secs(86_400 * 3 + 7_300)), "3 d 2 h");
    }

    #[test]
    fn bytes() {
        check(Bytes(0), "0 B");
        check(Bytes(999), "999 B");
        check(Bytes(1_000), "1.0 kB");
        check(Bytes(3_412_345), "3.4 MB");
        check(Bytes(999_960), "1.0 MB");
        check(Bytes(1 << 30), "1.1 GB");
        check(Bytes(u64::MAX), "18446.7 PB");
    }
}
