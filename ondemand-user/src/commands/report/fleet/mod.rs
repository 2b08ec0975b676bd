//! `ondemand report --prometheus`: a fleet's report, from its metrics alone.

mod api;
pub mod capacity;
mod edges;
mod encoding;
mod found;
mod gather;
mod host;
mod http;
mod segments;
mod week;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Result;
use api::Api;
use capacity::Capacity;
use gather::{Fleet, gather};
use host::{Counter, Totals};
use http::Server;
use ondemand_core::{replay::Outcome, runs::StopReason};
use week::Week;

use super::{
    Terms, Usage, headline,
    learned::Learned,
    model::{Gaps, Measured, Quantiles, Report, Service, seconds},
    select,
};
use crate::commands::args;

/// The period, if nothing is said. Milliseconds.
const USUAL: i64 = 30 * 86_400_000;
const MICROS: f64 = 1e6;

/// Reads the metrics, and makes the report.
///
/// # Errors
///
/// The server does not answer, has no such metrics, or the request cannot be answered ([`Usage`]).
pub fn report(url: &str, options: &args::Report, terms: &Terms) -> Result<Report> {
    let server = Server::new(url, options.header_file.as_deref(), options.patience)?;
    let mut api = Api::new(server);
    let now = api.now()?;
    let until = options.until.unwrap_or(now).min(now);
    let last = options.last.map_or(USUAL, |last| {
        i64::try_from(last.as_millis()).unwrap_or(until)
    });
    let since = options.since.unwrap_or(until.saturating_sub(last)).max(0);
    if until - since < 60_000 {
        return Err(
            Usage("the period is shorter than a minute, of which metrics say nothing; choose a longer one".into()).into(),
        );
    }
    let fleet = gather(&mut api, &matching(options)?, (since, until))?;
    let names = fleet
        .hosts
        .iter()
        .flat_map(capacity::services)
        .map(|it| it.1.as_str());
    let names: BTreeSet<&str> = names.collect();
    select(&options.services, names.iter().copied(), api.name())?;
    let wanted =
        |name: &str| options.services.is_empty() || options.services.iter().any(|it| it == name);
    Maker {
        fleet: &fleet,
        terms,
        options,
        period: (since, until),
        wanted: &wanted,
    }
    .report(api.name())
}

/// What stands in each selector before the rest.
fn matching(options: &args::Report) -> Result<String, Usage> {
    let Some(text) = &options.matching else {
        return Ok(String::new());
    };
    let text = text
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim()
        .trim_end_matches(',');
    match text.contains(['{', '}']) || !text.contains(['=', '!']) {
        true => Err(Usage(
            "--match: write what stands between { and } in a query: 'instance=~\"web.*\"'".into(),
        )),
        false => Ok(format!("{text},")),
    }
}

struct Maker<'a> {
    fleet: &'a Fleet,
    terms: &'a Terms,
    options: &'a args::Report,
    period: (i64, i64),
    wanted: &'a dyn Fn(&str) -> bool,
}

impl Maker<'_> {
    fn report(&self, source: &str) -> Result<Report> {
        let mut notes = self.fleet.notes.clone();
        let ladder = self.ladder(&mut notes)?;
        let mut services: BTreeMap<&String, Part> = BTreeMap::new();
        let mut hosts = Vec::new();
        let mut all = Part::default();
        let week = Week::new(self.fleet, self.period.0);
        let only = !self.options.services.is_empty();
        for host in &self.fleet.hosts {
            let mut whole = Part::default();
            for (host, name, totals) in capacity::services(host) {
                if !(self.wanted)(name) {
                    continue;
                }
                let up = host.up.get(name).map_or(&[][..], Vec::as_slice);
                let moments = host.moments.get(name).map_or(&[][..], Vec::as_slice);
                for part in [services.entry(name).or_default(), &mut whole] {
                    part.add(totals, up);
                    week.add(moments, &mut part.week);
                }
            }
            if let Some(totals) = host.totals.get(&None).filter(|_| !only) {
                whole.add(totals, &[]);
            } else if only && host.totals.contains_key(&None) {
                let note = format!(
                    "{}: what-if figures are for all of its services alone (`whatif = \"total\"`)",
                    host.name
                );
                notes.push(note);
            }
            if whole.parts == 0 && only {
                continue;
            }
            all.merge(&whole);
            hosts.push(self.service(&host.name, &whole, &ladder));
        }
        let services = services
            .iter()
            .map(|(name, part)| self.service(name, part, &ladder));
        let (since, until) = (self.period.0 as f64 / 1e3, self.period.1 as f64 / 1e3);
        let zone = jiff::tz::TimeZone::system();
        let zone = zone.iana_name().unwrap_or("local time").to_owned();
        let mut report = Report::new(
            "prometheus",
            Path::new(source),
            (since, until),
            zone,
            services.collect(),
            None,
            self.terms,
        );
        report.total = self.service("all services", &all, &ladder);
        report.capacity = Some(Capacity::new(
            self.fleet,
            self.options.memory_per_host,
            self.wanted,
        ));
        if let Some(measured) = &mut report.total.measured {
            measured.conclude(until - since, self.terms);
        }
        report.hosts = Some(hosts);
        report.notes = notes;
        report.headline = headline::of(&report);
        Ok(report)
    }

    /// The timeouts of which all know something that know anything. Microseconds.
    fn ladder(&self, notes: &mut Vec<String>) -> Result<Vec<u64>> {
        let mut ladder: Option<BTreeSet<u64>> = None;
        let mut every: BTreeSet<u64> = BTreeSet::new();
        for totals in self
            .fleet
            .hosts
            .iter()
            .flat_map(|host| host.totals.values())
        {
            let of_one = totals.keys().filter(|counter| counter.0 == COLD_STARTS);
            let of_one: BTreeSet<u64> = of_one.filter_map(|counter| micros(&counter.1)).collect();
            if of_one.is_empty() {
                continue;
            }
            every.extend(&of_one);
            ladder = Some(match ladder {
                None => of_one,
                Some(ladder) => ladder.intersection(&of_one).copied().collect(),
            });
        }
        let mut ladder = ladder.unwrap_or_default();
        if ladder.len() < every.len() {
            notes.push(format!(
                "agents compare other timeouts: {} of {} are in the metrics of all",
                ladder.len(),
                every.len()
            ));
        }
        if !self.options.timeouts.is_empty() {
            let asked: BTreeSet<u64> = self.terms.timeouts.micros().iter().copied().collect();
            if let Some(other) = asked.difference(&ladder).next() {
                let there: Vec<String> = ladder
                    .iter()
                    .map(|it| span_of(seconds((*it).into())).to_string())
                    .collect();
                let other = span_of(seconds((*other).into()));
                return Err(Usage(format!(
                    "--timeouts: the metrics do not have {other}; they have: {}",
                    there.join(", ")
                ))
                .into());
            }
            ladder = asked;
        }
        Ok(ladder.into_iter().collect())
    }

    fn service(&self, name: &str, part: &Part, ladder: &[u64]) -> Service {
        let cost = self.terms.cold_start_cost;
        let outcome = |timeout: u64| {
            let label = format!("{}", timeout / 1_000_000);
            Some(Outcome {
                timeout,
                cold_starts: part.get(COLD_STARTS, &label)?.round() as u64,
                warm_idle: (part.get(IDLE, &label)? * MICROS).round() as u128,
            })
        };
        let outcomes: Option<Vec<Outcome>> = ladder.iter().map(|it| outcome(*it)).collect();
        let outcomes = outcomes.unwrap_or_default();
        // A gap of less than a second is none for the agents either.
        let arrivals = part.get(COLD_STARTS, "1").map(|count| count.round() as u64);
        let measured = self.measured(part);
        let watched = measured.active_seconds + measured.inactive_seconds;
        let mut service = Service {
            name: name.to_owned(),
            arrivals,
            gaps: gaps(&outcomes, arrivals),
            timeline: part
                .up
                .iter()
                .map(|up| up / part.lanes.max(1) as f32)
                .collect(),
            week_up: part.week.clone(),
            ..Service::default()
        };
        service.what_if.outcomes = outcomes;
        service.what_if.cold_start_cost = cost;
        let auto = [COLD_STARTS, IDLE].map(|name| part.get(name, "auto"));
        service.learned = match auto {
            [Some(cold_starts), Some(idle)] => Some(Learned::counted(
                cold_starts.round() as u64,
                (idle * MICROS).round() as u128,
                &service.what_if,
            )),
            _ => None,
        };
        service.measured = Some(measured);
        // Each on each of its hosts was watched for its own time.
        service.conclude(watched / part.parts.max(1) as f64);
        service
    }

    fn measured(&self, part: &Part) -> Measured {
        let total = |name: &str| part.get(&format!("ondemand_{name}_total"), "");
        let count = |name: &str| total(name).map_or(0, |count| count.round() as u64);
        let stops = StopReason::ALL.into_iter().filter_map(|reason| {
            let count = part.get("ondemand_stops_total", reason.as_str())?;
            Some((reason.as_str(), count.round() as u64))
        });
        let saved = total("saved_memory_byte_seconds");
        let mut measured = Measured {
            activations: count("starts"),
            active_seconds: total("active_seconds").unwrap_or(0.0),
            inactive_seconds: total("inactive_seconds").unwrap_or(0.0),
            cold_start: part.quantiles("ondemand_start_duration_seconds_bucket"),
            first_byte: part.quantiles("ondemand_client_wait_seconds_bucket"),
            memory_gib_hours_given_back: saved.map(|sum| sum / (f64::from(1 << 30) * 3600.0)),
            cpu_seconds: total("cpu_seconds"),
            connections: count("accepted_connections"),
            received_bytes: count("received_bytes"),
            sent_bytes: count("sent_bytes"),
            silent_connections: None,
            stops_by_reason: stops.filter(|(_, count)| *count > 0).collect(),
            ..Measured::default()
        };
        let watched = measured.active_seconds + measured.inactive_seconds;
        measured.conclude(watched, self.terms);
        measured
    }
}

const COLD_STARTS: &str = "ondemand_whatif_cold_starts_total";
const IDLE: &str = "ondemand_whatif_idle_seconds_total";

/// A label `timeout` in microseconds. `None`: it is not that of a fixed one.
fn micros(label: &str) -> Option<u64> {
    label.parse::<u64>().ok()?.checked_mul(1_000_000)
}

fn span_of(seconds: f64) -> ondemand_core::words::Span {
    super::text::span_of(seconds)
}

/// The gaps that each timeout does not bridge are those longer than it.
fn gaps(outcomes: &[Outcome], arrivals: Option<u64>) -> Vec<Gaps> {
    let Some(arrivals) = arrivals else {
        return Vec::new();
    };
    let mut longer = arrivals;
    let mut rows: Vec<Gaps> = Vec::with_capacity(outcomes.len() + 1);
    for outcome in outcomes {
        rows.push(Gaps {
            up_to_seconds: Some(seconds(outcome.timeout.into())),
            count: longer.saturating_sub(outcome.cold_starts),
        });
        longer = outcome.cold_starts;
    }
    rows.push(Gaps {
        up_to_seconds: None,
        count: longer,
    });
    rows
}

/// What was counted of one service, or of several.
#[derive(Default)]
struct Part {
    totals: Totals,
    /// Services on hosts.
    parts: usize,
    up: Vec<f32>,
    /// How many of them are in `up`.
    lanes: usize,
    /// Time up by hour of the week. Seconds; empty: not known.
    week: Vec<u64>,
}

impl Part {
    fn add(&mut self, totals: &Totals, up: &[f32]) {
        for (counter, value) in totals {
            *self.totals.entry(counter.clone()).or_default() += value;
        }
        if up.is_empty() {
            return;
        }
        self.parts += 1;
        self.lanes += 1;
        self.lay(up);
    }

    fn lay(&mut self, up: &[f32]) {
        if self.up.len() < up.len() {
            self.up.resize(up.len(), 0.0);
        }
        for (into, from) in self.up.iter_mut().zip(up) {
            *into += from;
        }
    }

    fn merge(&mut self, other: &Self) {
        for (counter, value) in &other.totals {
            *self.totals.entry(counter.clone()).or_default() += value;
        }
        self.parts += other.parts;
        self.lanes += other.lanes;
        week::merge(&mut self.week, &other.week);
        self.lay(&other.up);
    }

    fn get(&self, name: &str, label: &str) -> Option<f64> {
        self.totals
            .get(&(name.to_owned(), label.to_owned()))
            .copied()
    }

    /// Of a histogram, as `histogram_quantile()` has them.
    fn quantiles(&self, histogram: &str) -> Quantiles {
        let bucket = |(counter, count): (&Counter, &f64)| {
            let bound = match counter.1.as_str() {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().ok()?,
            };
            (counter.0 == histogram).then_some((bound, *count))
        };
        let mut buckets: Vec<(f64, f64)> = self.totals.iter().filter_map(bucket).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let count = buckets.last().map_or(0.0, |last| last.1);
        let quantile = |share: f64| {
            let rank = share * count;
            let mut below = (0.0, 0.0);
            for (bound, to) in &buckets {
                if *to >= rank && count > 0.0 {
                    // Above the last bound nothing is known.
                    let inside =
                        ((rank - below.1) / (to - below.1).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
                    return Some(if bound.is_finite() {
                        below.0 + (bound - below.0) * inside
                    } else {
                        below.0
                    });
                }
                below = (*bound, *to);
            }
            None
        };
        Quantiles {
            count: count.round() as u64,
            p50_seconds: quantile(0.5),
            p95_seconds: quantile(0.95),
            max_seconds: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_their_bucket() {
        let mut part = Part::default();
        for (le, count) in [("0.5", 0.0), ("1.0", 50.0), ("2.5", 100.0), ("+Inf", 100.0)] {
            let name = "ondemand_start_duration_seconds_bucket".to_owned();
            part.totals.insert((name, le.to_owned()), count);
        }
        let found = part.quantiles("ondemand_start_duration_seconds_bucket");
        assert_eq!((found.count, found.p50_seconds), (100, Some(1.0)));
        assert_eq!((found.p95_seconds, found.max_seconds), (Some(2.35), None));
        assert_eq!(Part::default().quantiles(""), Quantiles::default());
    }

    #[test]
    fn gaps_are_between_cold_starts() {
        let outcome = |timeout: u64, cold_starts| Outcome {
            timeout: timeout * 1_000_000,
            cold_starts,
            warm_idle: 0,
        };
        let found = gaps(&[outcome(1, 9), outcome(60, 4)], Some(9));
        let counts: Vec<u64> = found.iter().map(|row| row.count).collect();
        assert_eq!(counts, [0, 5, 4]);
        assert!(gaps(&[outcome(1, 9)], None).is_empty());
    }
}
