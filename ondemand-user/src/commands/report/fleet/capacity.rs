//! How many hosts would have carried a fleet.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use ondemand_core::{hosts::Spread, words::counted};
use serde::Serialize;

use super::{
    gather::Fleet,
    host::{Host, Totals},
};
use crate::commands::report::headline::gib;

/// Bytes in a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// What services took at the same time, beside what they would take if all of them were always up. Null: not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Capacity {
    /// The number of hosts.
    pub hosts: usize,
    /// Services, each on each of its hosts.
    pub services: usize,
    /// Those of them whose memory is not known: they were not stopped in the period on any host, or systemd does not
    /// account it.
    pub services_without_memory: usize,
    /// The memory of the others, if all of them are always up.
    pub memory_bytes: Option<u64>,
    /// What of it was up at the same time, at half of the moments.
    pub up_p50_bytes: Option<u64>,
    /// The same at 99 % of them.
    pub up_p99_bytes: Option<u64>,
    /// The most.
    pub up_max_bytes: Option<u64>,
    /// The memory of a host: from the command line, or else on average over them.
    pub memory_per_host_bytes: Option<u64>,
    /// How many hosts have `memory_bytes`.
    pub always_up_hosts: Option<u64>,
    /// How many hosts have `up_p99_bytes`, if each service could run on any.
    pub hosts_at_p99: Option<u64>,
    /// How many fewer than `hosts` that is; negative: more.
    pub hosts_fewer: Option<i64>,
}

/// What a service takes, as its agent says it; of an older one, what its stops gave back over the time for which it was
/// down. Bytes.
fn memory(host: &Host, name: &str, totals: &Totals) -> Option<f64> {
    if let Some(memory) = host.memory.get(name) {
        return Some(*memory);
    }
    let total = |name: &str| totals.get(&(name.to_owned(), String::new())).copied();
    let saved = total("ondemand_saved_memory_byte_seconds_total")?;
    let down = total("ondemand_inactive_seconds_total")?;
    (saved > 0.0 && down > 0.0).then(|| saved / down)
}

impl Capacity {
    /// Of the services that `wanted` takes.
    pub fn new(fleet: &Fleet, per_host: Option<u64>, wanted: impl Fn(&str) -> bool) -> Self {
        let of_hosts = fleet.hosts.iter().map(|host| host.memory_of_host);
        let of_hosts: Option<Vec<f64>> = of_hosts.collect();
        let mean = of_hosts.map(|of| of.iter().sum::<f64>() / of.len().max(1) as f64);
        let per_host = per_host
            .or(mean.map(|mean| mean as u64))
            .filter(|it| *it > 0);
        let mut found = Self {
            hosts: fleet.hosts.len(),
            memory_per_host_bytes: per_host,
            ..Self::default()
        };
        let mut elsewhere: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (host, name, totals) in fleet.hosts.iter().flat_map(services) {
            elsewhere
                .entry(name)
                .or_default()
                .extend(memory(host, name, totals));
        }
        let elsewhere = |name: &str| {
            let known = elsewhere.get(name).filter(|known| !known.is_empty())?;
            Some(known.iter().sum::<f64>() / known.len() as f64)
        };
        let mut up: BTreeMap<u32, f64> = BTreeMap::new();
        let mut all = 0.0;
        for (host, name, totals) in fleet.hosts.iter().flat_map(services) {
            if !wanted(name) {
                continue;
            }
            found.services += 1;
            let Some(memory) = memory(host, name, totals).or_else(|| elsewhere(name)) else {
                found.services_without_memory += 1;
                continue;
            };
            all += memory;
            for moment in host.moments.get(name).into_iter().flatten() {
                *up.entry(*moment).or_default() += memory;
            }
        }
        if all == 0.0 {
            return found;
        }
        let mut spread = Spread::default();
        for bytes in up.values() {
            spread.add(*bytes as u64, 1);
        }
        spread.add(0, u64::from(fleet.moments).saturating_sub(up.len() as u64));
        found.memory_bytes = Some(all as u64);
        found.up_p50_bytes = spread.quantile(50);
        found.up_p99_bytes = spread.quantile(99);
        found.up_max_bytes = Some(spread.largest());
        // With a part of the services nothing can be said of hosts.
        if let Some(per_host) = per_host.filter(|_| found.services_without_memory == 0) {
            let hosts = |bytes: u64| bytes.div_ceil(per_host.max(1)).max(1);
            found.always_up_hosts = found.memory_bytes.map(hosts);
            found.hosts_at_p99 = found.up_p99_bytes.map(hosts);
            found.hosts_fewer = found
                .hosts_at_p99
                .map(|needed| found.hosts as i64 - needed as i64);
        }
        found
    }

    /// A paragraph, in sentences.
    pub fn words(&self) -> String {
        let size =
            |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| gib(bytes as f64 / GIB));
        let mut text = format!(
            "{} on {}",
            counted(self.services as u64, "service"),
            counted(self.hosts as u64, "host")
        );
        let known = self.services - self.services_without_memory;
        if known > 0 {
            let of = if self.services_without_memory > 0 {
                format!("; the {known} whose memory is known take ")
            } else {
                ", which take ".into()
            };
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "{of}{} if they are always up; up at the same time were {} at the median, {} at p99, {} at most",
                size(self.memory_bytes),
                size(self.up_p50_bytes),
                size(self.up_p99_bytes),
                size(self.up_max_bytes)
            );
        }
        if self.services_without_memory > 0 {
            let _ = write!(
                text,
                "; the memory of {} is unknown: not stopped in this time, or not accounted",
                counted(self.services_without_memory as u64, "service")
            );
        }
        text += ".";
        match (
            self.hosts_at_p99,
            self.hosts_fewer,
            self.memory_per_host_bytes,
        ) {
            (Some(needed), Some(fewer), per_host) => {
                let fewer = match fewer {
                    0 => "as many as there are".to_owned(),
                    1.. => format!("{fewer} fewer than there are"),
                    _ => format!("{} more than there are", -fewer),
                };
                let always = self.always_up_hosts.unwrap_or(0);
                let _ = write!(
                    text,
                    " {} of {} {} that at p99, if each service could run on any: {fewer}. Always up they would take {always}.",
                    counted(needed, "host"),
                    size(per_host),
                    if needed == 1 { "carries" } else { "carry" }
                );
            }
            (None, _, Some(_)) => text += " How many hosts would carry that is unknown.",
            _ => text += " --memory-per-host says how many hosts would carry that.",
        }
        text
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// None: writing to a string cannot fail.
    pub fn write(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "HOW MANY HOSTS: {}\n", self.words())
    }
}

/// The services of a host.
pub fn services(host: &Host) -> impl Iterator<Item = (&Host, &String, &Totals)> {
    let named = host.totals.iter();
    named.filter_map(move |(name, totals)| Some((host, name.as_ref()?, totals)))
}
