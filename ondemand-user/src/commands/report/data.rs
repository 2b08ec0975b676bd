//! What the page's program draws.

use std::fmt::Write as _;

use ondemand_core::words::printable;
use serde::Serialize;

use super::model::{Report, Service, seconds};

/// The data of the page.
#[derive(Serialize)]
struct Data<'a> {
    /// The compared timeouts. Seconds.
    timeouts: Vec<f64>,
    /// The ends of the parts of the timelines.
    moments: Vec<String>,
    /// Whether there are measurements.
    measured: bool,
    /// Whether weeks are of time up, and not of arrivals.
    week_up: bool,
    total: Row<'a>,
    services: Vec<Row<'a>>,
}

/// A service, or all. Spans are in seconds.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    arrivals: Option<u64>,
    /// Up to each timeout, and longer.
    gaps: Vec<u64>,
    /// Cold starts with each timeout.
    cold: Vec<u64>,
    /// Time up and idle with each timeout.
    warm: Vec<f64>,
    /// The recommended timeout's place among them.
    best: Option<usize>,
    learned: Learned<'a>,
    /// Hours of the week with arrivals, and how many; or with time up, and how much.
    week: Vec<u64>,
    /// A digit of base 13 for each part of the period: twelfths of it up.
    up: String,
    /// How long it was off; with a trace, at most with the learned timeout.
    off: Option<f64>,
    /// How much less memory was used on average, in GiB.
    gib: Option<f64>,
    starts: Option<u64>,
    /// The median of its starts.
    p50: Option<f64>,
    cpu: Option<f64>,
}

#[derive(Serialize)]
struct Learned<'a> {
    timeout: Option<f64>,
    cold: Option<u64>,
    warm: Option<f64>,
    reason: &'a str,
}

impl<'a> Row<'a> {
    fn new(service: &'a Service, period: f64) -> Self {
        let outcomes = &service.what_if.outcomes;
        let best = service.recommended.as_ref();
        let is_best =
            |timeout: u64| best.is_some_and(|best| best.timeout_seconds == seconds(timeout.into()));
        let arrivals = service.week.iter().copied().map(u64::from);
        let week = arrivals.chain(service.week_up.iter().copied());
        let week = week.zip(0_u64..).filter(|(count, _)| *count > 0);
        let learned = service.learned.as_ref();
        let warm = learned.map_or(0.0, |learned| learned.warm_idle_seconds);
        let measured = service.measured.as_ref();
        Self {
            name: &service.name,
            arrivals: service.arrivals,
            gaps: service.gaps.iter().map(|gaps| gaps.count).collect(),
            cold: outcomes.iter().map(|outcome| outcome.cold_starts).collect(),
            warm: outcomes
                .iter()
                .map(|outcome| rounded(seconds(outcome.warm_idle)))
                .collect(),
            best: outcomes.iter().position(|outcome| is_best(outcome.timeout)),
            learned: Learned {
                timeout: learned.and_then(|learned| learned.timeout_seconds),
                cold: learned.map(|learned| learned.cold_starts),
                warm: learned.map(|_| rounded(warm)),
                reason: learned.map_or("not in the metrics", |learned| learned.reason.as_str()),
            },
            week: week.flat_map(|(count, hour)| [hour, count]).collect(),
            up: up(&service.timeline),
            off: Some(measured.map_or_else(
                || rounded((period - warm).max(0.0)),
                |measured| rounded(measured.inactive_seconds),
            )),
            gib: measured.and_then(|measured| measured.memory_gib_less),
            starts: measured.map(|measured| measured.activations),
            p50: measured.and_then(|measured| measured.cold_start.p50_seconds),
            cpu: measured.and_then(|measured| measured.cpu_seconds),
        }
    }
}

/// To what is shown of it: the file has thousands of these.
fn rounded(seconds: f64) -> f64 {
    if seconds < 60.0 {
        seconds
    } else {
        seconds.round()
    }
}

/// Even the shortest run is shown.
fn up(timeline: &[f32]) -> String {
    let digit = |share: &f32| char::from_digit((share.clamp(0.0, 1.0) * 12.0).ceil() as u32, 36);
    timeline.iter().filter_map(digit).collect()
}

/// How many services' states are shown together.
const MOST_STATES: usize = 8;

/// Formats the data as JSON that can stand in a page; `moment` formats a part of the period.
pub fn json(report: &Report, moment: impl Fn(f64) -> String) -> String {
    embedded(&data(report, report.services.iter().collect(), moment))
}

/// Formats it for the live page, in lines: of all services, with those that save most; then each service's name and its
/// row, with a tab between.
pub fn lines(report: &Report, moment: impl Fn(f64) -> String) -> String {
    let mut most: Vec<&Service> = report.services.iter().collect();
    let saves = |service: &Service| {
        let measured = service.measured.as_ref();
        let off = measured.map_or(0.0, |measured| measured.inactive_seconds);
        measured.and_then(|it| it.memory_gib_less).unwrap_or(off)
    };
    most.sort_by(|one, other| saves(other).total_cmp(&saves(one)));
    most.truncate(MOST_STATES);
    let mut text = embedded(&data(report, most, moment)) + "\n";
    for service in &report.services {
        let row = embedded(&Row::new(service, report.seconds));
        text += &format!("{}\t{row}\n", printable(&service.name).replace('\n', " "));
    }
    text
}

fn data<'a>(
    report: &'a Report,
    services: Vec<&'a Service>,
    moment: impl Fn(f64) -> String,
) -> Data<'a> {
    let parts = report
        .services
        .iter()
        .map(|service| service.timeline.len())
        .max();
    let parts = parts.unwrap_or(0);
    let at = |part: usize| report.from + report.seconds * part as f64 / parts as f64;
    let row = |service| Row::new(service, report.seconds);
    Data {
        timeouts: report
            .total
            .what_if
            .outcomes
            .iter()
            .map(|it| seconds(it.timeout.into()))
            .collect(),
        moments: (0..=parts)
            .filter(|_| parts > 0)
            .map(|part| moment(at(part)))
            .collect(),
        measured: report.total.measured.is_some(),
        week_up: !report.total.week_up.is_empty(),
        total: row(&report.total),
        services: services.into_iter().map(row).collect(),
    }
}

/// JSON that can stand in a page.
fn embedded(data: &impl Serialize) -> String {
    // Strings and finite numbers always serialize.
    let json = serde_json::to_string(data).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // These occur in strings only. A page must not take them for its own.
            '<' | '>' | '&' => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_digits() {
        assert_eq!(up(&[0.0, 0.001, 0.5, 1.0, 2.0]), "016cc");
    }
}
