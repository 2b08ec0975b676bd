//! How many hosts would carry a trace.

pub mod text;

use std::collections::HashMap;

use anyhow::Result;
use ondemand_core::{
    hosts::{self, MOST_MEMORY, Outcome, Service, Simulation, Spread},
    learned::Learned,
};
use serde::Serialize;

use super::{
    Terms, Usage,
    headline::gib,
    model::{Report, seconds},
    trace::{
        Source,
        lines::{Arrival, MEMORY, START, micros},
    },
};

/// Bytes in a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// The hosts of a plan, and what the trace may not say of its services.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// The number of hosts.
    pub hosts: u32,
    /// The memory of each. Bytes.
    pub memory: u64,
    /// What a service takes of which the trace does not say it. Bytes.
    pub memory_of_each: Option<u64>,
    /// How long a start takes of a service of which the trace does not say it. Microseconds.
    pub start_of_each: u64,
}

/// How many hosts each policy would need, and what clients would have waited.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The hosts that were asked for.
    pub hosts: u32,
    /// The memory of each.
    pub memory_per_host_bytes: u64,
    /// The memory of all services.
    pub memory_bytes: u64,
    /// How many hosts first fit takes for services that are always up.
    pub always_up_hosts: u32,
    /// The fixed timeouts, ascending, and the learned one.
    pub policies: Vec<Policy>,
    /// Without timeouts: services stay up while they fit on their host (`memory_budget`), for each number of hosts.
    pub budget: Vec<Budget>,
    /// The fewest of these hosts that have no more cold starts than the learned timeout, and carry it; null: none.
    pub budget_hosts: Option<u32>,
}

/// A memory budget on a number of hosts, each service at home on one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// The number of hosts, and for how long services that started had more than their memory.
    #[serde(flatten)]
    pub placed: Placed,
    /// Clients that found their service down.
    pub cold_starts: u64,
    /// Clients that waited for a start.
    pub waited: Waited,
    /// The memory of all services that were up at the same time.
    pub up: Up,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// The idle timeout of all services; null: learned for each.
    pub timeout_seconds: Option<f64>,
    /// Whether the report recommends it.
    pub recommended: bool,
    /// Clients that found their service down.
    pub cold_starts: u64,
    /// Clients that waited for a start.
    pub waited: Waited,
    /// The memory of all services that were up at the same time.
    pub up: Up,
    /// How many hosts have as much memory as was up at p99, if each service could run on any; null: no time has passed.
    pub hosts_at_p99: Option<u64>,
    /// How many fewer that is; negative: more. Null as above.
    pub hosts_fewer: Option<i64>,
    /// The fewest of the hosts in `placed` that carry it; null: none of them.
    pub fewest_placed_hosts: Option<u32>,
    /// Each service on one host of so many, first fit by memory.
    pub placed: Vec<Placed>,
}

/// Clients that waited for a start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waited {
    /// Their number: of a cold start, or while it went on.
    pub clients: u64,
    /// What they waited together.
    pub seconds: f64,
    /// Half of them waited no longer; null: nobody waited.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 waited no longer.
    pub p99_seconds: Option<f64>,
}

/// The memory of all services that were up, over the time; null: no time has passed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Up {
    /// Its mean.
    pub mean_bytes: Option<f64>,
    /// At half of the time it was no more.
    pub p50_bytes: Option<u64>,
    /// At 99 % of the time it was no more.
    pub p99_bytes: Option<u64>,
    /// The most.
    pub max_bytes: u64,
}

/// A number of hosts, each service at home on one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placed {
    /// The number of hosts.
    pub hosts: u32,
    /// The share of the time in which a host had more up than it has memory, on average over the hosts.
    pub over_ratio: f64,
    /// The same of the host that was worst.
    pub worst_over_ratio: f64,
    /// Whether that is at most 1 %.
    pub carried: bool,
}

/// What is known of a service on the way through the trace.
struct Known {
    number: usize,
    learned: Learned,
    last: Option<u64>,
}

/// Reads the trace twice more: for what its services take, and to replay all of them beside each other.
///
/// # Errors
///
/// It cannot be read, says something wrong of its services, or one of them does not fit on a host ([`Usage`]).
pub fn of(source: &mut Source, fleet: &Fleet, report: &Report, terms: &Terms) -> Result<Plan> {
    let names: Vec<&str> = report.services.iter().map(|it| it.name.as_str()).collect();
    let services = services(source, fleet, &names)?;
    let timeouts = terms.timeouts.micros();
    let mut run = Simulation::new(services.clone(), fleet.hosts, fleet.memory, timeouts.len() + 1)
        .map_err(|large| {
            let [needed, there] =
                [services[large].memory, fleet.memory].map(|bytes| gib(bytes as f64 / GIB));
            Usage(format!(
                "--memory-per-host: a host of {there} is too small for service {:?}, which takes {needed}; give at least that",
                names[large]
            ))
        })?;
    let known = |(number, name): (usize, &&str)| {
        let learned = Learned::new(terms.learning);
        let name = name.as_bytes().to_vec();
        (
            name,
            Known {
                number,
                learned,
                last: None,
            },
        )
    };
    let mut known: HashMap<Vec<u8>, Known> = names.iter().enumerate().map(known).collect();
    let mut next = [timeouts, &[0]].concat();
    let mut end = 0;
    source.scan(|arrival| {
        end = arrival.at;
        let Some(service) = known.get_mut(arrival.service) else {
            return Ok(()); // Not one of those that were asked for.
        };
        if let Some(last) = service.last.replace(arrival.at) {
            let gap = arrival.at.checked_sub(last);
            let gap = gap.ok_or("the trace has changed while it was read")?;
            service.learned.learn(std::time::Duration::from_micros(gap));
        }
        if let Some(learned) = next.last_mut() {
            *learned = super::micros(service.learned.timeout());
        }
        run.arrive(service.number, arrival.at, &next);
        Ok(())
    })?;
    let found = run.end(end);
    let recommended = report.total.recommended.as_ref();
    let recommended = recommended.map(|best| best.timeout_seconds);
    let fixed = timeouts.iter().map(|it| Some(seconds((*it).into())));
    let policies = fixed.chain([None]).zip(&found.outcomes);
    let policies = policies.map(|(timeout, outcome)| Policy {
        recommended: timeout.is_some() && timeout == recommended,
        ..Policy::new(timeout, outcome, fleet, found.length)
    });
    let policies: Vec<Policy> = policies.collect();
    let budget: Vec<Budget> = found
        .budgeted
        .iter()
        .flat_map(|outcome| Budget::new(outcome, found.length))
        .collect();
    let learned = policies.iter().find(|it| it.timeout_seconds.is_none());
    let good = |it: &&Budget| {
        it.placed.carried && learned.is_some_and(|auto| it.cold_starts <= auto.cold_starts)
    };
    Ok(Plan {
        hosts: fleet.hosts,
        memory_per_host_bytes: fleet.memory,
        memory_bytes: found.memory,
        always_up_hosts: found.always_up,
        budget_hosts: budget.iter().filter(good).map(|it| it.placed.hosts).min(),
        budget,
        policies,
    })
}

/// What the services take, which is in their first lines.
fn services(source: &mut Source, fleet: &Fleet, names: &[&str]) -> Result<Vec<Service>> {
    let numbers = names
        .iter()
        .zip(0..)
        .map(|(name, number)| (name.as_bytes(), number));
    let numbers: HashMap<&[u8], usize> = numbers.collect();
    let mut found: Vec<Option<(Option<u64>, u64)>> = vec![None; names.len()];
    source.scan(|arrival| {
        let Some(number) = numbers.get(arrival.service) else {
            return Ok(());
        };
        if found[*number].is_none() {
            let start = start(arrival)?.unwrap_or(fleet.start_of_each);
            found[*number] = Some((memory(arrival)?.or(fleet.memory_of_each), start));
        }
        Ok(())
    })?;
    let service = |(found, name): (Option<(Option<u64>, u64)>, &&str)| {
        let (memory, start) = found.unwrap_or((fleet.memory_of_each, fleet.start_of_each));
        match memory {
            Some(memory) => Ok(Service { memory, start }),
            None => Err(Usage(format!(
                "--hosts: what service {name:?} takes is not known: add a column \"{MEMORY}\" to the trace, or give \
                 --memory SIZE for services without it"
            ))),
        }
    };
    let services: Result<Vec<Service>, Usage> = found.into_iter().zip(names).map(service).collect();
    Ok(services?)
}

/// The memory of a service, from its first line. Bytes.
fn memory(arrival: &Arrival<'_>) -> Result<Option<u64>, String> {
    if arrival.memory.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(arrival.memory);
    let bytes = text
        .parse()
        .ok()
        .filter(|bytes| (1..=MOST_MEMORY).contains(bytes));
    let wrong =
        || format!("the {MEMORY} {text:?} is not a number of bytes from 1 to {MOST_MEMORY}");
    bytes.ok_or_else(wrong).map(Some)
}

/// How long a start of a service takes, from its first line. Microseconds.
fn start(arrival: &Arrival<'_>) -> Result<Option<u64>, String> {
    if arrival.start.is_empty() {
        return Ok(None);
    }
    micros(arrival.start)
        .map(Some)
        .map_err(|why| format!("{START}: {why}"))
}

impl Policy {
    fn new(timeout: Option<f64>, outcome: &Outcome, fleet: &Fleet, length: u64) -> Self {
        let placed: Vec<Placed> = outcome
            .placed
            .iter()
            .map(|of| Placed::new(of, length))
            .collect();
        let needed = outcome.hosts_at_p99(fleet.memory);
        Self {
            timeout_seconds: timeout,
            recommended: false,
            cold_starts: outcome.cold_starts,
            waited: Waited::new(&outcome.waits),
            up: Up::new(&outcome.memory),
            hosts_at_p99: needed,
            hosts_fewer: needed.map(|needed| i64::from(fleet.hosts) - needed as i64),
            fewest_placed_hosts: placed
                .iter()
                .filter(|it| it.carried)
                .map(|it| it.hosts)
                .min(),
            placed,
        }
    }
}

impl Budget {
    fn new(outcome: &Outcome, length: u64) -> Option<Self> {
        Some(Self {
            placed: Placed::new(outcome.placed.first()?, length),
            cold_starts: outcome.cold_starts,
            waited: Waited::new(&outcome.waits),
            up: Up::new(&outcome.memory),
        })
    }
}

impl Placed {
    fn new(of: &hosts::Placed, length: u64) -> Self {
        let share = |micros: f64| {
            if length > 0 {
                micros / length as f64
            } else {
                0.0
            }
        };
        Self {
            hosts: of.hosts,
            over_ratio: share(of.over as f64 / f64::from(of.hosts)),
            worst_over_ratio: share(of.worst as f64),
            carried: of.is_carried(length),
        }
    }
}

impl Up {
    fn new(memory: &Spread) -> Self {
        Self {
            mean_bytes: memory.mean(),
            p50_bytes: memory.quantile(50),
            p99_bytes: memory.quantile(99),
            max_bytes: memory.largest(),
        }
    }
}

impl Waited {
    fn new(waits: &Spread) -> Self {
        let quantile = |percent| waits.quantile(percent).map(|it| seconds(it.into()));
        Self {
            clients: waits.weight(),
            seconds: seconds(waits.sum()),
            p50_seconds: quantile(50),
            p99_seconds: quantile(99),
        }
    }
}
