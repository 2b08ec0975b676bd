//! systemd's time spans (systemd.time(7), "Parsing Time Spans").

use std::time::Duration;

/// Units and their length in nanoseconds. A year is 365.25 days and a month a twelfth of it.
const UNITS: &[(&[&str], u64)] = &[
    (&["nsec", "ns"], 1),
    (&["usec", "us", "\u{b5}s", "\u{3bc}s"], 1_000),
    (&["msec", "ms"], 1_000_000),
    (&["seconds", "second", "sec", "s", ""], 1_000_000_000),
    (&["minutes", "minute", "min", "m"], 60_000_000_000),
    (&["hours", "hour", "hr", "h"], 3_600_000_000_000),
    (&["days", "day", "d"], 86_400_000_000_000),
    (&["weeks", "week", "w"], 604_800_000_000_000),
    (&["months", "month", "M"], 2_629_800_000_000_000),
    (&["years", "year", "y"], 31_557_600_000_000_000),
];

/// The longest accepted span: longer than any uptime, short enough that sums of spans and times
/// never overflow.
pub(super) const MAX: Duration = Duration::from_secs(100 * 31_557_600);

/// Parses `10min`, `1h 30min`, `0.2s`, `90` (seconds). `None` if it is not a time span, or longer than
/// [`MAX`]. `infinity` is not one: the caller decides whether it is allowed.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim_ascii();
    if rest.is_empty() {
        return None;
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = take(&mut rest, |c| c.is_ascii_digit() || c == '.');
        rest = rest.trim_ascii_start();
        let unit = take(&mut rest, char::is_alphabetic);
        rest = rest.trim_ascii_start();
        let (_, nanos) = UNITS.iter().find(|(names, _)| names.contains(&unit))?;
        sum = sum
            .checked_add(times(number, *nanos)?)
            .filter(|sum| *sum <= MAX)?;
    }
    Some(sum)
}

/// Cuts the leading characters that satisfy `wanted` off `rest`.
fn take<'a>(rest: &mut &'a str, wanted: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

/// `number` (`12`, `0.2`) times `nanos` nanoseconds, in exact integers.
fn times(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(nanos)?;
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // For all units up to a second, digits after the ninth are below a nanosecond.
    let fraction = &fraction[..fraction.len().min(9)];
    let part =
        fraction.parse::<u128>().ok()? * u128::from(nanos) / 10_u128.pow(fraction.len() as u32);
    Some(Duration::from_nanos(
        whole.checked_add(u64::try_from(part).ok()?)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<f64>) {
        assert_eq!(
            parse(text),
            expected.map(Duration::from_secs_f64),
            "{text:?}"
        );
    }

    #[test]
    fn spans_are_read_as_systemd_reads_them() {
        check("10min", Some(600.0));
        check("1h 30min", Some(5400.0));
        check("1h30min", Some(5400.0));
        check("30min 1h", Some(5400.0));
        check("0.2s", Some(0.2));
        check("500ms", Some(0.5));
        check("500 msec", Some(0.5));
        check("2d", Some(172_800.0));
        check("1 week", Some(604_800.0));
        check("1M", Some(2_629_800.0));
        check("1m", Some(60.0));
        check("1.5h", Some(5400.0));
        check("90", Some(90.0));
        check("0", Some(0.0));
        check("  7 s  ", Some(7.0));
        check("5min 20", Some(320.0));
        check("250us", Some(0.000_25));
        check("50y", Some(50.0 * 31_557_600.0));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            " ",
            "s",
            "min",
            "-5s",
            "+5s",
            "5 parsecs",
            "1,5s",
            "1.2.3s",
            ".5s",
            "5.s",
            "infinity",
            "1e3",
            "0x10",
        ] {
            check(text, None);
        }
        check("101y", None);
        check("99999999999999999999s", None);
        check("18446744073709551615d", None);
    }
}
