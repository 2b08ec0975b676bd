//! Hosts that never were, and what their agents would have told Prometheus.

use std::{collections::BTreeMap, path::Path};

use ondemand::observe::history::{Moment, Record, What, Writer};
use ondemand_core::runs::StopReason;

pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// 2025-03-03 00:00 UTC. Milliseconds.
pub const BEGIN: i64 = 1_740_960_000_000;
/// The end of what is asked for.
pub const NOW: i64 = BEGIN + 7 * DAY;
/// After how long the agents stop a service.
const IDLE_TIMEOUT: i64 = 10 * MINUTE;
/// How long starts take.
pub const START: i64 = 1500;
/// Some of the timeouts that agents compare. Seconds.
pub const LADDER: [i64; 5] = [1, 60, 600, 3600, 86_400];
const COLD_STARTS: &str = "whatif_cold_starts_total";
const IDLE: &str = "whatif_idle_seconds_total";
/// The bounds of the histogram.
const BOUNDS: [&str; 11] = [
    "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "120.0", "+Inf",
];
/// What they have learned. Seconds.
const LEARNED: i64 = 300;

/// A service, used for a minute now and then.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    /// Bytes.
    pub memory: i64,
    /// When clients come, ascending, from [`BEGIN`] on; at least a minute from each other and from a boot.
    pub uses: Vec<i64>,
    /// Since when it is configured, and until when.
    pub watched: (i64, i64),
}

/// Who has what-if figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WhatIf {
    Off,
    Total,
    Service,
}

/// A metric's name, its labels, and its value.
pub type Sample = (String, Vec<(String, String)>, f64);

#[derive(Clone, Debug)]
pub struct Host {
    /// Its labels.
    pub labels: Vec<(String, String)>,
    pub services: Vec<Service>,
    /// When it was booted, in the time that samples cover; the first one may be before.
    pub boots: Vec<i64>,
    pub version: String,
    pub what_if: WhatIf,
    /// Whether its agent says what services take, and what the host has.
    pub tells_memory: bool,
    /// The timeouts that its agent compares. Seconds.
    pub ladder: Vec<i64>,
    /// Time between samples.
    pub interval: i64,
    /// When it was scraped.
    pub scraped: Vec<(i64, i64)>,
}

impl Host {
    pub fn new(instance: &str, services: Vec<Service>) -> Self {
        Self {
            labels: vec![
                ("instance".into(), instance.into()),
                ("job".into(), "ondemand".into()),
            ],
            services,
            boots: vec![BEGIN],
            version: "0.1.0".into(),
            what_if: WhatIf::Service,
            tells_memory: false,
            ladder: LADDER.to_vec(),
            interval: MINUTE,
            scraped: vec![(BEGIN, BEGIN + 40 * DAY)],
        }
    }

    /// Its sample at a moment: of the metrics that `wants` takes, by their names without the prefix, with their labels.
    pub fn at(&self, t: i64, wants: impl Fn(&str) -> bool) -> Option<Vec<Sample>> {
        let boot = *self.boots.iter().rfind(|boot| **boot <= t)?;
        let mut found = Vec::new();
        let mut push = |name: &str, labels: &[(&str, &str)], value: f64| {
            if !wants(name) {
                return;
            }
            let own = labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let labels = self.labels.iter().cloned().chain(own).collect();
            found.push((format!("ondemand_{name}"), labels, value));
        };
        push("config_last_reload_successful", &[], 1.0);
        push("build_info", &[("version", &self.version)], 1.0);
        if self.tells_memory {
            push("host_memory_bytes", &[], (16_i64 << 30) as f64);
        }
        let mut sum: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut started = 0;
        for service in &self.services {
            if !(service.watched.0..service.watched.1).contains(&t) {
                continue;
            }
            let name = ("service", service.name.as_str());
            let since = boot.max(service.watched.0);
            let runs = service.runs(since, t);
            let active: i64 = runs.iter().map(|(start, end)| end.min(&t) - start).sum();
            let ended = runs.iter().filter(|(_, end)| *end <= t).count();
            let inactive = t - since - active;
            let clients = service.uses(since, t);
            started += runs.len();
            push("active_seconds_total", &[name], active as f64 / 1e3);
            push("inactive_seconds_total", &[name], inactive as f64 / 1e3);
            push("starts_total", &[name], runs.len() as f64);
            for (reason, count) in [("idle", ended), ("failed", 0)] {
                push("stops_total", &[name, ("reason", reason)], count as f64);
            }
            push(
                "saved_memory_byte_seconds_total",
                &[name],
                service.memory as f64 * inactive as f64 / 1e3,
            );
            push("accepted_connections_total", &[name], clients.len() as f64);
            push(
                "received_bytes_total",
                &[name],
                100.0 * clients.len() as f64,
            );
            push("sent_bytes_total", &[name], 1000.0 * clients.len() as f64);
            for le in BOUNDS {
                let is_in = le.parse().is_ok_and(|le: f64| le * 1e3 >= START as f64);
                push(
                    "start_duration_seconds_bucket",
                    &[name, ("le", le)],
                    if is_in { runs.len() as f64 } else { 0.0 },
                );
            }
            if self.tells_memory {
                push("memory_bytes", &[name], service.memory as f64);
            }
            let is_up = runs.last().is_some_and(|(_, end)| *end > t);
            for (state, is_it) in [("active", is_up), ("inactive", !is_up)] {
                push("state", &[name, ("state", state)], f64::from(is_it));
            }
            push("learned_idle_timeout_seconds", &[name], LEARNED as f64);
            if let Some(last) = clients.last() {
                push(
                    "unused_seconds",
                    &[name],
                    (t - last - MINUTE).max(0) as f64 / 1e3,
                );
            }
            if self.what_if == WhatIf::Off || !wants(COLD_STARTS) && !wants(IDLE) {
                continue;
            }
            let labels = self
                .ladder
                .iter()
                .map(|it| (it.to_string(), *it))
                .chain([("auto".to_owned(), LEARNED)]);
            for (label, timeout) in labels {
                let (mut cold, mut idle) = (0, 0);
                for (number, at) in clients.iter().enumerate() {
                    let gap = number
                        .checked_sub(1)
                        .map(|before| at - clients[before] - MINUTE);
                    cold += i64::from(gap.is_none_or(|gap| gap > timeout * 1000));
                    idle += gap.map_or(0, |gap| gap.min(timeout * 1000));
                }
                if self.what_if == WhatIf::Service {
                    push(
                        "whatif_cold_starts_total",
                        &[name, ("timeout", &label)],
                        cold as f64,
                    );
                    push(
                        "whatif_idle_seconds_total",
                        &[name, ("timeout", &label)],
                        idle as f64 / 1e3,
                    );
                }
                let sum = sum.entry(label).or_default();
                *sum = (sum.0 + cold, sum.1 + idle);
            }
        }
        // The first clients of all starts, and others who wait for less.
        for (way, count) in [("proxied", started), ("held", 3 * started)] {
            for le in BOUNDS {
                let is_in = le.parse().is_ok_and(|le: f64| le * 1e3 >= START as f64);
                let count = if is_in || way == "held" { count } else { 0 };
                push(
                    "client_wait_seconds_bucket",
                    &[("way", way), ("le", le)],
                    count as f64,
                );
            }
        }
        if self.what_if == WhatIf::Total {
            for (label, (cold, idle)) in &sum {
                push(
                    "whatif_cold_starts_total",
                    &[("timeout", label)],
                    *cold as f64,
                );
                push(
                    "whatif_idle_seconds_total",
                    &[("timeout", label)],
                    *idle as f64 / 1e3,
                );
            }
        }
        Some(found)
    }

    /// The moments of its samples in this time.
    pub fn samples(&self, from: i64, until: i64) -> Vec<i64> {
        let mut found = Vec::new();
        for (begin, end) in &self.scraped {
            let first =
                (from.max(*begin) - BEGIN).div_euclid(self.interval) * self.interval + BEGIN;
            let mut at = first;
            while at <= until && at < *end {
                if at >= from && at >= *begin {
                    found.push(at);
                }
                at += self.interval;
            }
        }
        found
    }

    /// Writes the history that its agent would have until [`NOW`]; the host was booted at [`BEGIN`] and not again.
    pub fn write_history(&self, path: &Path) {
        let until = NOW;
        let end = || Moment {
            boot: "another host's".to_owned(),
            monotonic: NOW - BEGIN,
            wall: NOW,
        };
        let mut writer = Writer::start_by(path, end).unwrap();
        let services = self
            .services
            .iter()
            .map(|service| service.name.clone())
            .collect();
        writer.write(Record::Watched { services, at: 0 });
        let mut records = Vec::new();
        for service in &self.services {
            let mut last = None;
            for at in service.uses(BEGIN, until) {
                let at = at - BEGIN;
                let gap = last.map(|last| at - last);
                records.push((at, 1, service, What::Arrived { at, gap }));
                records.push((at + MINUTE, 4, service, What::Quiet { since: at + MINUTE }));
                last = Some(at + MINUTE);
            }
            for (start, stop) in service.runs(BEGIN, until) {
                let clients = service
                    .uses(BEGIN, stop)
                    .into_iter()
                    .filter(|at| *at >= start)
                    .count() as i64;
                let (start, stop) = (start - BEGIN, stop - BEGIN);
                let memory = Some(service.memory);
                records.push((start, 2, service, What::Up { started: start }));
                records.push((start + START, 3, service, What::Listening { after: START }));
                if stop < until - BEGIN {
                    records.push((
                        stop,
                        5,
                        service,
                        What::Usage {
                            started: start,
                            memory,
                            cpu: None,
                        },
                    ));
                    let stopped = What::Stopped {
                        at: stop,
                        reason: StopReason::Idle,
                        connections: clients,
                        received: 100 * clients,
                        sent: 1000 * clients,
                        proxied: 0,
                        silent: 0,
                        ways: None,
                        turns: Default::default(),
                    };
                    records.push((stop, 6, service, stopped));
                }
            }
        }
        records.sort_by_key(|record| (record.0, record.1));
        for (_, _, service, what) in records {
            let name = service.name.clone();
            writer.write(Record::Service { name, what });
        }
        writer.write(Record::Ended { at: until - BEGIN });
        writer.finish();
    }
}

impl Service {
    pub fn new(name: &str, memory: i64, uses: impl IntoIterator<Item = i64>) -> Self {
        Self {
            name: name.into(),
            memory,
            uses: uses.into_iter().collect(),
            watched: (BEGIN, i64::MAX),
        }
    }

    /// Clients in this time.
    fn uses(&self, from: i64, until: i64) -> Vec<i64> {
        let uses = self.uses.iter().copied();
        uses.filter(|at| (from..=until).contains(at)).collect()
    }

    /// When it was up: begin and end.
    fn runs(&self, from: i64, until: i64) -> Vec<(i64, i64)> {
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for at in self.uses(from, until) {
            let end = at + MINUTE + IDLE_TIMEOUT;
            match runs.last_mut() {
                Some(last) if last.1 >= at => last.1 = end,
                _ => runs.push((at, end)),
            }
        }
        runs
    }
}
