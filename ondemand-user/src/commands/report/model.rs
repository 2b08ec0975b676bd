//! The contents of a report, with the names that scripts read.

use std::{collections::BTreeMap, path::Path};

use ondemand_core::{
    learned::Trial,
    replay::{self, Outcome, Replay, Timeouts},
    words::{Span, counted, span},
};
use serde::{Serialize, Serializer};

use super::{
    Terms, budgets::Budgets, evidence::Evidence, fleet::capacity::Capacity, headline,
    learned::Learned, plan::Plan, ways::Counted,
};

/// A report. Scripts read it: fields are added, never renamed. Spans are in seconds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its source: `history`, `trace` or `prometheus`.
    pub source: &'static str,
    /// The source's file, or the server's address.
    pub file: String,
    /// Seconds since 1970, or as in the trace.
    pub from: f64,
    /// See `from`.
    pub until: f64,
    /// The period's length.
    pub seconds: f64,
    /// The zone of hours and weekdays; `trace` if the trace counts from its own start.
    pub time_zone: String,
    /// The time up and idle that is as bad as one cold start.
    pub cold_start_cost_seconds: f64,
    /// The price from the command line.
    pub price_per_gib_hour: Option<f64>,
    /// Its currency.
    pub currency: Option<String>,
    /// What a CPU that is used takes, from the command line. Watts.
    pub watts_per_cpu: Option<f64>,
    /// What people want to know first, in one sentence.
    pub headline: String,
    /// All services together, with one timeout for all.
    pub total: Service,
    /// By name.
    pub services: Vec<Service>,
    /// By host, of a fleet; null for one.
    pub hosts: Option<Vec<Service>>,
    /// How many hosts would have carried a fleet; null for one host.
    pub capacity: Option<Capacity>,
    /// What a reader of the figures must know: who is missing, and what.
    pub notes: Vec<String>,
    /// How many hosts would carry a trace; null if that was not asked.
    pub plan: Option<Plan>,
    /// What other memory budgets would have meant; null without one.
    pub budgets: Option<Budgets>,
}

/// One service, or all.
#[derive(Debug, Default, Serialize)]
pub struct Service {
    /// The name; `all services` in the total.
    pub name: String,
    /// Uses after a quiet gap, and the first use; null: not in the metrics.
    pub arrivals: Option<u64>,
    /// The measurements; null for a trace.
    #[serde(flatten)]
    pub measured: Option<Measured>,
    /// The lengths of the gaps between two uses.
    pub gaps: Vec<Gaps>,
    /// Arrivals by hour of the week, starting on Monday at midnight.
    #[serde(skip)]
    pub week: Vec<u32>,
    /// Time up by hour of the week. Seconds; empty: there are arrivals instead, or it is not known.
    #[serde(skip)]
    pub week_up: Vec<u64>,
    /// The hours of the week with most arrivals, at most five.
    pub busiest_hours: Vec<Hour>,
    /// The outcome of each timeout.
    #[serde(serialize_with = "what_if")]
    pub what_if: WhatIf,
    /// The outcome of the learned timeout; null: not in the metrics.
    pub learned: Option<Learned>,
    /// The timeout with the lowest cost; null without evidence.
    pub recommended: Option<Recommended>,
    /// What a recommendation would rest on.
    pub evidence: Evidence,
    /// The share of the time up, for equal parts of the period.
    #[serde(skip)]
    pub timeline: Vec<f32>,
}

/// The measurements of the history.
#[derive(Debug, Default, Serialize)]
pub struct Measured {
    /// Starts of the application in the period.
    pub activations: u64,
    /// How long it was up.
    pub active_seconds: f64,
    /// How long it was down while it was watched.
    pub inactive_seconds: f64,
    /// The share of that; null: it was not watched.
    pub off_ratio: Option<f64>,
    /// How long starts took until the application listened.
    pub cold_start: Quantiles,
    /// How long starts took until the first packet went to a client.
    pub first_byte: Quantiles,
    /// Memory at each stop, times the time until the next start. Null if systemd does not account it;
    /// stops without accounting are not included.
    pub memory_gib_hours_given_back: Option<f64>,
    /// The same over the time: how much less memory was used on average. GiB; null as above.
    pub memory_gib_less: Option<f64>,
    /// The memory given back in money; null without a price.
    pub money_given_back: Option<f64>,
    /// CPU time of the runs that ended in the period; null as above.
    pub cpu_seconds: Option<f64>,
    /// The energy that took; null without `watts_per_cpu`, and as above.
    pub cpu_kwh: Option<f64>,
    /// Clients accepted in these runs.
    pub connections: u64,
    /// Payload bytes from clients in these runs.
    pub received_bytes: u64,
    /// Payload bytes to clients in these runs.
    pub sent_bytes: u64,
    /// Of the clients those that the proxy carried, so that the application did not meet them itself; null if that is known
    /// of none of the runs.
    pub proxied_connections: Option<u64>,
    /// How clients have come besides.
    #[serde(flatten)]
    pub ways: Counted,
    /// Silent connections that the stops of these runs closed (`silent_after`); null: not known.
    pub silent_connections: Option<u64>,
    /// Ends of these runs that made room: for another service of its group, and for memory; null: not from a history.
    pub evictions_for_group: Option<u64>,
    /// See `evictions_for_group`.
    pub evictions_for_memory: Option<u64>,
    /// How many of these runs waited for room in their group before they started; null as above.
    pub room_waits: Option<u64>,
    /// How long they did; null as above.
    pub room_wait_seconds: Option<f64>,
    /// How often a client had it thawed in these runs; null as above.
    pub thaws: Option<u64>,
    /// How long that took in the mean; null: it never was.
    pub thaw_mean_seconds: Option<f64>,
    /// The longest of them; null: it never was.
    pub thaw_max_seconds: Option<f64>,
    /// Number of runs' ends by reason.
    pub stops_by_reason: BTreeMap<&'static str, u64>,
}

/// Quantiles of spans in seconds, nearest rank; null without values.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// The number of values.
    pub count: u64,
    /// Half of them are at most this.
    pub p50_seconds: Option<f64>,
    /// 95 of 100 are at most this.
    pub p95_seconds: Option<f64>,
    /// The longest.
    pub max_seconds: Option<f64>,
}

impl Quantiles {
    /// Computes them from milliseconds in any order.
    pub fn of(millis: &mut [u32]) -> Self {
        let mut rank = |percent: usize| {
            let rank = (millis.len() * percent).div_ceil(100).checked_sub(1)?;
            let (_, found, _) = millis.select_nth_unstable(rank);
            Some(f64::from(*found) / 1e3)
        };
        let [p50, p95, max] = [50, 95, 100].map(&mut rank);
        Self {
            count: millis.len() as u64,
            p50_seconds: p50,
            p95_seconds: p95,
            max_seconds: max,
        }
    }
}

/// Gaps longer than the row before, and not longer than this.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gaps {
    /// Null: any length.
    pub up_to_seconds: Option<f64>,
    /// The number of gaps.
    pub count: u64,
}

/// An hour of the week.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hour {
    /// `Mon` to `Sun`.
    pub weekday: &'static str,
    /// 0 to 23.
    pub hour: u8,
    /// Arrivals in it, in all weeks of the period.
    pub arrivals: u32,
}

/// The outcome of each timeout, and the cost of a cold start, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct WhatIf {
    /// By timeout, ascending.
    pub outcomes: Vec<Outcome>,
    /// Microseconds of warm-idle time.
    pub cold_start_cost: u64,
}

/// The timeout with the lowest cost, and why.
#[derive(Debug, Serialize)]
pub struct Recommended {
    /// The timeout.
    pub timeout_seconds: f64,
    /// Its outcome.
    pub cold_starts: u64,
    /// See `cold_starts`.
    pub warm_idle_seconds: f64,
    /// Warm-idle time, plus that which its cold starts are worth.
    pub cost_seconds: f64,
    /// The reason in a sentence.
    pub reason: String,
}

/// Converts microseconds to seconds.
pub fn seconds(micros: u128) -> f64 {
    // Exact for whole microseconds up to 285 years.
    micros as f64 / 1e6
}

fn what_if<S: Serializer>(what_if: &WhatIf, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row {
        timeout_seconds: f64,
        cold_starts: u64,
        warm_idle_seconds: f64,
        cost_seconds: f64,
    }
    let cost = what_if.cold_start_cost;
    serializer.collect_seq(what_if.outcomes.iter().map(|outcome| Row {
        timeout_seconds: seconds(outcome.timeout.into()),
        cold_starts: outcome.cold_starts,
        warm_idle_seconds: seconds(outcome.warm_idle),
        cost_seconds: seconds(outcome.cost(cost)),
    }))
}

impl Service {
    /// The result from the arrivals of one service, which was watched for this number of seconds.
    pub fn new(
        name: &str,
        (replay, trial): (&Replay, &Trial),
        week: &[u32],
        watched: f64,
        timeouts: &Timeouts,
        cost: u64,
    ) -> Self {
        let outcomes = replay.outcomes(timeouts);
        let mut service = Self {
            name: name.to_owned(),
            arrivals: Some(replay.arrivals()),
            gaps: gaps(timeouts, &replay.gaps()),
            week: week.to_vec(),
            what_if: WhatIf {
                outcomes,
                cold_start_cost: cost,
            },
            ..Self::default()
        };
        service.learned = Some(Learned::new(trial, &service.what_if));
        service.conclude(watched);
        service
    }

    /// The sum of all services; the caller sums the measurements.
    pub fn total(services: &[Self], cost: u64) -> Self {
        let mut total = Self {
            name: "all services".to_owned(),
            arrivals: services.is_empty().then_some(0),
            week: vec![0; 168],
            ..Self::default()
        };
        total.what_if.cold_start_cost = cost;
        for service in services {
            if let Some(arrivals) = service.arrivals {
                total.arrivals = Some(total.arrivals.unwrap_or(0) + arrivals);
            }
            replay::add(&mut total.what_if.outcomes, &service.what_if.outcomes);
            for (into, from) in total.week.iter_mut().zip(&service.week) {
                *into = into.saturating_add(*from);
            }
            if total.gaps.is_empty() {
                total.gaps.clone_from(&service.gaps);
            } else {
                for (into, from) in total.gaps.iter_mut().zip(&service.gaps) {
                    into.count += from.count;
                }
            }
        }
        let learned = services
            .iter()
            .filter_map(|service| service.learned.as_ref());
        total.learned = Some(Learned::total(learned));
        let watched = services.iter().map(|service| service.evidence.seconds);
        total.conclude(watched.fold(0.0, f64::max));
        total
    }

    /// Computes what follows from the rest, if it was watched for this number of seconds.
    pub fn conclude(&mut self, watched: f64) {
        self.busiest_hours = busiest(&self.week);
        let gaps = self.gaps.iter().map(|gaps| gaps.count).sum();
        let cost = seconds(self.what_if.cold_start_cost.into());
        self.evidence = Evidence::new(gaps, watched, cost);
        self.recommended = match self.evidence.missing() {
            None => recommend(&self.what_if),
            Some(_) => None,
        };
    }
}

fn gaps(timeouts: &Timeouts, counts: &[u64]) -> Vec<Gaps> {
    let limits = timeouts
        .micros()
        .iter()
        .map(|limit| Some(seconds((*limit).into())));
    let rows = limits.chain([None]).zip(counts);
    rows.map(|(up_to_seconds, count)| Gaps {
        up_to_seconds,
        count: *count,
    })
    .collect()
}

/// The names of the days of the week.
pub const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn busiest(week: &[u32]) -> Vec<Hour> {
    let mut hours: Vec<usize> = (0..week.len()).filter(|hour| week[*hour] > 0).collect();
    // Stable: among equals the earlier in the week.
    hours.sort_by_key(|hour| std::cmp::Reverse(week[*hour]));
    let hour = |at: &usize| Hour {
        weekday: WEEKDAYS[at / 24 % 7],
        hour: (at % 24) as u8,
        arrivals: week[*at],
    };
    hours.iter().take(5).map(hour).collect()
}

fn recommend(what_if: &WhatIf) -> Option<Recommended> {
    let WhatIf {
        outcomes,
        cold_start_cost: cost,
    } = what_if;
    let best = replay::cheapest(outcomes, *cost)?;
    if outcomes.iter().all(|outcome| outcome.cold_starts == 0) {
        return None; // No arrivals: all timeouts are equal.
    }
    let position = outcomes.iter().position(|outcome| *outcome == best)?;
    let micros = |micros: u128| Span(span(seconds(micros)));
    let mut reason = format!(
        "with {}, {} (each worth {} up and idle) and {} up and idle cost {} together",
        micros(best.timeout.into()),
        counted(best.cold_starts, "cold start"),
        micros((*cost).into()),
        micros(best.warm_idle),
        micros(best.cost(*cost)),
    );
    let neighbour = |outcome: Option<&Outcome>| {
        outcome.map(|outcome| {
            let cost = micros(outcome.cost(*cost));
            format!("{} would cost {cost}", micros(outcome.timeout.into()))
        })
    };
    let shorter = neighbour(position.checked_sub(1).map(|before| &outcomes[before]));
    let longer = neighbour(outcomes.get(position + 1));
    let others: Vec<String> = [shorter, longer].into_iter().flatten().collect();
    reason += match others.is_empty() {
        true => "",
        false => ", the lowest of those compared: ",
    };
    reason += &others.join(", ");
    Some(Recommended {
        timeout_seconds: seconds(best.timeout.into()),
        cold_starts: best.cold_starts,
        warm_idle_seconds: seconds(best.warm_idle),
        cost_seconds: seconds(best.cost(*cost)),
        reason,
    })
}

impl Report {
    /// Formats an amount of money.
    pub fn money(&self, amount: f64) -> String {
        match &self.currency {
            Some(currency) => format!("{amount:.2} {currency}"),
            None => format!("{amount:.2}"),
        }
    }

    /// Assembles a report; `services` in any order, `measured` of all of them.
    pub fn new(
        source: &'static str,
        file: &Path,
        (from, until): (f64, f64),
        time_zone: String,
        mut services: Vec<Service>,
        measured: Option<Measured>,
        terms: &Terms,
    ) -> Self {
        services.sort_by(|one, other| one.name.cmp(&other.name));
        let total = Service::total(&services, terms.cold_start_cost);
        let mut report = Self {
            source,
            file: file.display().to_string(),
            from,
            until,
            seconds: until - from,
            time_zone,
            cold_start_cost_seconds: seconds(terms.cold_start_cost.into()),
            price_per_gib_hour: terms.price_per_gib_hour,
            currency: terms.currency.clone(),
            watts_per_cpu: terms.watts_per_cpu,
            headline: String::new(),
            total,
            services,
            hosts: None,
            capacity: None,
            notes: Vec::new(),
            plan: None,
            budgets: None,
        };
        report.total.measured = measured;
        report.headline = headline::of(&report);
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let check = |mut millis: Vec<u32>, expected: [Option<f64>; 3]| {
            let found = Quantiles::of(&mut millis);
            let figures = [found.p50_seconds, found.p95_seconds, found.max_seconds];
            assert_eq!(figures, expected, "{millis:?}");
        };
        check(vec![], [None; 3]);
        check(vec![1500], [Some(1.5); 3]);
        check(vec![2000, 1000], [Some(1.0), Some(2.0), Some(2.0)]);
        check(
            (1..=100).rev().collect(),
            [Some(0.05), Some(0.095), Some(0.1)],
        );
    }

    #[test]
    fn the_recommendation_says_why() {
        let outcome = |timeout: u64, cold_starts, warm_idle: u128| Outcome {
            timeout: timeout * 1_000_000,
            cold_starts,
            warm_idle: warm_idle * 1_000_000,
        };
        let what_if = WhatIf {
            outcomes: vec![
                outcome(60, 9, 600),
                outcome(300, 3, 900),
                outcome(600, 2, 1800),
            ],
            cold_start_cost: 120_000_000,
        };
        let found = recommend(&what_if).unwrap();
        assert_eq!(found.timeout_seconds, 300.0);
        assert_eq!(found.cost_seconds, 1260.0);
        assert_eq!(
            found.reason,
            "with 5 min, 3 cold starts (each worth 2 min up and idle) and 15 min up and idle cost \
             21 min together, the lowest of those compared: 1 min would cost 28 min, 10 min would \
             cost 34 min"
        );
        let nobody = WhatIf {
            outcomes: vec![outcome(60, 0, 0)],
            ..what_if
        };
        assert!(recommend(&nobody).is_none());
    }
}
