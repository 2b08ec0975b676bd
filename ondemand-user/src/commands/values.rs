//! Values of the command line.

use std::time::Duration;

use jiff::{Timestamp, civil, tz::TimeZone};
use ondemand_core::{config::time_span, hosts::MOST_MEMORY};

/// Parses `2026-11-01`, `2026-11-01 12:30` (local time), `2026-11-01T12:30:00Z`, `@1793500000`.
/// Returns milliseconds since 1970.
///
/// # Errors
///
/// `text` is not a time; the message shows the formats.
pub fn moment(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "{text:?} is not a time; write it like 2026-11-01, \"2026-11-01 12:30\", \
             2026-11-01T12:30:00Z or @1793500000"
        )
    };
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds: i64 = seconds.parse().map_err(|_| wrong())?;
        let at = Timestamp::from_second(seconds).map_err(|_| wrong())?;
        return Ok(at.as_millisecond());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let local: civil::DateTime = text.parse().map_err(|_| wrong())?;
    let at = local.to_zoned(TimeZone::system()).map_err(|_| wrong())?;
    Ok(at.timestamp().as_millisecond())
}

/// Parses a time span that a person types: with units, because a bare number is seconds in the
/// configuration, and seldom meant so here.
///
/// # Errors
///
/// `text` is not a time span, or a number in it has no unit.
pub fn span(text: &str) -> Result<Duration, String> {
    let span = time_span(text)?;
    if text
        .trim_end()
        .ends_with(|c: char| c.is_ascii_digit() || c == '.')
    {
        return Err(format!(
            "{text:?} has no unit; write it like \"2h\", \"10min\" or \"90s\""
        ));
    }
    Ok(span)
}

/// Parses a size of memory that a person types: `16GiB`, `512M`, with a unit, powers of 1024 as systemd has them. Bytes.
///
/// # Errors
///
/// `text` is not one, or it is zero or more than [`MOST_MEMORY`].
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let power = match unit.trim().trim_end_matches("iB").trim_end_matches('B') {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => 0,
    };
    let bytes = number.parse::<f64>().ok().filter(|_| power > 0);
    let bytes = bytes.map(|number| number * (1_u64 << power) as f64);
    match bytes {
        Some(bytes) if (1.0..=MOST_MEMORY as f64).contains(&bytes) => Ok(bytes as u64),
        Some(_) => Err(format!(
            "{text:?} is not from 1K to {} TiB",
            MOST_MEMORY >> 40
        )),
        None => Err(format!(
            "{text:?} is not a size; write it like \"16GiB\" or \"512MiB\""
        )),
    }
}

/// The longest name of a currency. Characters.
const LONGEST_CURRENCY: usize = 16;

/// Parses the name or the sign of a currency.
///
/// # Errors
///
/// `text` is none that could be printed beside a price.
pub fn currency(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_plain =
        (1..=LONGEST_CURRENCY).contains(&text.chars().count()) && !text.contains(char::is_control);
    match is_plain {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "not a currency of at most {LONGEST_CURRENCY} characters; write it like EUR"
        )),
    }
}

/// Parses a power in watts: a number that is not negative.
///
/// # Errors
///
/// `text` is not one.
pub fn watts(text: &str) -> Result<f64, String> {
    price(text).map_err(|_| format!("{text:?} is not a number of watts; write it like 12.5"))
}

/// Parses a price: a number that is not negative.
///
/// # Errors
///
/// `text` is not a price.
pub fn price(text: &str) -> Result<f64, String> {
    let price = text.trim().parse::<f64>().ok();
    price
        .filter(|price| price.is_finite() && *price >= 0.0)
        .ok_or_else(|| format!("{text:?} is not a price; write it like 0.004"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(moment(text).ok(), expected, "{text}");
        };
        check("@0", Some(0));
        check("@-1", Some(-1000));
        check("1970-01-02T00:00:00Z", Some(86_400_000));
        check("1970-01-02 01:00:00+01:00", Some(86_400_000));
        for text in [
            "",
            "@",
            "@1.5",
            "yesterday",
            "2026-13-01",
            "12:30",
            "2026-11-01T25:00",
        ] {
            check(text, None);
        }
        let local = |text| moment(text).unwrap();
        assert_eq!(
            local("2026-11-01 12:30") - local("2026-11-01 12:00"),
            1_800_000
        );
        assert_eq!(local("2026-11-01"), local("2026-11-01T00:00:00"));
    }

    #[test]
    fn currencies() {
        assert_eq!(currency(" EUR "), Ok("EUR".to_owned()));
        assert_eq!(currency("\u{20ac}"), Ok("\u{20ac}".to_owned()));
        for text in ["", " ", "\u{1b}[2J", "a currency that is none"] {
            assert!(currency(text).is_err(), "{text:?}");
        }
        assert!(watts("12.5").is_ok() && watts("-1").is_err() && watts("").is_err());
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(size(text).ok(), expected, "{text}");
        };
        check("16GiB", Some(16 << 30));
        check(" 512 M", Some(512 << 20));
        check("1.5K", Some(1536));
        check("64T", Some(1 << 46));
        for text in [
            "", "16", "0G", "65T", "-1G", "1X", "G", "1.2.3G", "infG", "1iB",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn prices() {
        assert_eq!(price("0.5"), Ok(0.5));
        for text in ["-1", "inf", "nan", "1,5", ""] {
            assert!(price(text).is_err(), "{text}");
        }
    }
}
