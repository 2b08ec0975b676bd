//! Reads a fleet's metrics: who is there, since when and how far, and what was counted in the period.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ondemand_core::words::{Span, counted};

use super::{
    api::{Api, Labels, Series},
    found::Found,
    host::{Host, Looks, difference, whose},
    http::TooMuch,
    segments::Period,
};

/// How many hosts are asked for at once: it bounds the answers.
const AT_ONCE: usize = 20;
/// At how many moments all services are looked at, whatever the period.
const LOOKS: i64 = 120;
/// At how many moments it is looked which services are up.
const MOMENTS: i64 = 720;
/// They are not nearer to each other than this, since samples seldom are. Milliseconds.
const NEAREST: i64 = 60_000;
/// How far back Prometheus looks for a sample, unless it is told otherwise. Milliseconds.
const LOOKBACK: i64 = 300_000;
/// The time for which a service was watched.
pub(super) const WATCHED: &str = "__name__=~\"ondemand_(active|inactive)_seconds_total\"";
/// What is summed. Of those who waited, the first clients of starts that were proxied: what a history has.
const COUNTERS: &str = "__name__=~\"ondemand_(accepted_connections|received_bytes|sent_bytes|starts|stops|active_seconds|\
                        inactive_seconds|saved_memory_byte_seconds|cpu_seconds)_total|ondemand_start_duration_seconds_bucket|ondemand_client_wait_seconds_bucket|ondemand_unused_seconds|ondemand_memory_bytes|ondemand_host_memory_bytes|ondemand_learned_idle_timeout_seconds\",way=~\"|proxied\"";
const WHAT_IF: &str = "__name__=~\"ondemand_whatif_(cold_starts|idle_seconds)_total\"";

/// A fleet.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By name.
    pub hosts: Vec<Host>,
    /// How many moments there were.
    pub moments: u32,
    /// How far they are from each other. Milliseconds.
    pub step: i64,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
}

/// Reads all of it.
///
/// # Errors
///
/// The server does not answer, or has no metrics of this program in the period.
pub fn gather(api: &mut Api, matching: &str, (from, until): (i64, i64)) -> Result<Fleet> {
    let mut gathering = Gathering {
        api,
        matching,
        period: Period {
            from,
            until,
            blur: 0,
        },
        step: ((until - from) / LOOKS).max(NEAREST).min(until - from),
        count: 0,
        done: 0,
        interval: 0,
        wrap: None,
        notes: Vec::new(),
        versions: BTreeMap::new(),
        begin: Instant::now(),
        told: Duration::from_secs(2),
    };
    gathering.all()
}

pub(super) struct Gathering<'a> {
    pub(super) api: &'a mut Api,
    pub(super) matching: &'a str,
    pub(super) period: Period,
    pub(super) step: i64,
    /// How many hosts there are, and how many have been read.
    pub(super) count: usize,
    pub(super) done: usize,
    /// How far samples are from each other, as a rule. Milliseconds.
    pub(super) interval: i64,
    /// Where samples are far from each other, how far back to look for one. Milliseconds.
    pub(super) wrap: Option<i64>,
    pub(super) notes: Vec<String>,
    /// Which hosts have agents of which version.
    pub(super) versions: BTreeMap<String, BTreeSet<String>>,
    pub(super) begin: Instant,
    pub(super) told: Duration,
}

impl Gathering<'_> {
    fn all(&mut self) -> Result<Fleet> {
        let period = (self.period.from, self.period.until);
        let selector = format!("{{{}{}}}", self.matching, WATCHED);
        let mut instances = self.api.values("instance", &selector, period)?;
        instances.sort();
        instances.dedup();
        if instances.is_empty() {
            bail!(
                "{}: no metrics of ondemand in this time{}; is it scraped?",
                self.api.name(),
                match self.matching {
                    "" => String::new(),
                    matching => format!(" that match {}", matching.trim_end_matches(',')),
                }
            );
        }
        let count = instances.len();
        let mut hosts = Vec::new();
        self.count = count;
        for some in instances.chunks(AT_ONCE) {
            self.batch(some, &mut hosts)?;
        }
        if self.versions.len() > 1 {
            let each = self
                .versions
                .iter()
                .map(|(version, hosts)| format!("{version} ({})", some_of(hosts)));
            self.note(format!(
                "agents of several versions: {}",
                each.collect::<Vec<_>>().join(", ")
            ));
        }
        hosts.sort_by(|one: &Host, other| one.name.cmp(&other.name));
        self.notes.append(&mut self.api.warnings);
        Ok(Fleet {
            hosts,
            moments: (self.moments().1 + 1) as u32,
            step: self.moments().0,
            notes: std::mem::take(&mut self.notes),
        })
    }

    /// Tells a person who waits that it goes on.
    pub(super) fn progress(&mut self) {
        let took = self.begin.elapsed();
        if took >= self.told {
            self.told = took + Duration::from_secs(2);
            let hosts = counted(self.count as u64, "host");
            eprintln!("ondemand: {} of {hosts} read, {}", self.done, Span(took));
        }
    }

    /// Reads the hosts of some instances, fewer at once if they are too many for the server.
    fn batch(&mut self, some: &[String], hosts: &mut Vec<Host>) -> Result<()> {
        match self.some(some) {
            Ok(found) => {
                hosts.extend(found);
                self.done += some.len();
                Ok(())
            }
            Err(error) if some.len() > 1 && error.is::<TooMuch>() => {
                let (one, other) = some.split_at(some.len() / 2);
                self.batch(one, hosts)?;
                self.batch(other, hosts)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the hosts of some instances.
    fn some(&mut self, instances: &[String]) -> Result<Vec<Host>> {
        let instances: Vec<String> = instances
            .iter()
            .map(|name| quoted(&escaped(name)))
            .collect();
        let only = format!("{}instance=~\"{}\"", self.matching, instances.join("|"));
        self.interval(&only)?;
        let mut hosts = self.looks(&only)?;
        self.duplicates(&mut hosts);
        let mut moments: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        let mut all = Vec::new();
        for (number, host) in hosts.iter_mut().enumerate() {
            let of = self.segments(host)?;
            for segment in of.values().flatten() {
                for at in [segment.from, Some(segment.to)].into_iter().flatten() {
                    let asked = moments.entry(at).or_default();
                    if asked.last() != Some(&number) {
                        asked.push(number);
                    }
                }
            }
            all.push(of);
        }
        let found = self.counters(&hosts, &moments)?;
        for (number, (host, segments)) in hosts.iter_mut().zip(&all).enumerate() {
            let unexplained = found.sum(host, number, segments);
            if unexplained > 0 {
                self.note(format!(
                    "{}: {} began again without a boot; what they had counted since the last look before it is missing",
                    host.name,
                    counted(unexplained, "counter")
                ));
            }
        }
        self.up(&only, &mut hosts)?;
        self.versions(&only, &mut hosts)?;
        Ok(hosts)
    }

    /// Finds how far samples are from each other.
    fn interval(&mut self, only: &str) -> Result<()> {
        let mut gaps = Vec::new();
        for span in ["1h", "1d"] {
            let query = format!("ondemand_config_last_reload_successful{{{only}}}[{span}]");
            self.api.at(&query, self.period.until, |series| {
                let at: Vec<i64> = series.points().map(|point| point.0).collect();
                gaps.extend(at.windows(2).map(|pair| pair[1] - pair[0]));
            })?;
            if !gaps.is_empty() {
                break;
            }
        }
        gaps.sort_unstable();
        let usual = gaps.get(gaps.len() / 2).copied().unwrap_or(15_000);
        self.interval = usual;
        let far = usual * 5 / 2 > LOOKBACK;
        self.wrap = far.then_some(usual * 5 / 2);
        if far {
            self.note(format!(
                "samples are {} from each other: what happened is known no better",
                Span(Duration::from_millis(usual as u64))
            ));
        }
        self.period.blur = (2 * usual).max(LOOKBACK + NEAREST);
        Ok(())
    }

    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// A selector, with a further look back where that is needed.
    fn select(&mut self, selector: &str) -> String {
        self.progress();
        match self.wrap {
            Some(wrap) => format!("last_over_time({selector}[{wrap}ms])"),
            None => selector.to_owned(),
        }
    }

    /// The watched seconds of all services at a few moments.
    fn looks(&mut self, only: &str) -> Result<Vec<Host>> {
        let query = self.select(&format!("{{{WATCHED},{only}}}"));
        let (from, until, step) = (self.period.from, self.period.until, self.step);
        let mut found: HashMap<Labels, Looks> = HashMap::new();
        let mut take = |series: &Series<'_>| {
            let labels = whose(&series.metric);
            let services = found.entry(labels).or_default();
            let is_up = series.label("__name__").starts_with("ondemand_active");
            let points = services
                .entry(series.label("service").to_owned())
                .or_default();
            for (at, value) in series.points() {
                points.entry(at).or_default()[usize::from(is_up)] = Some(value);
            }
        };
        self.api.range(&query, (from, until), step, &mut take)?;
        // The end is not on a step, as a rule.
        self.api.at(&query, until, &mut take)?;
        let mut hosts: Vec<Host> = found
            .into_iter()
            .map(|(labels, looks)| Host::new(labels, looks, &self.period, step))
            .collect();
        hosts.sort_by(|one, other| one.labels.cmp(&other.labels));
        Ok(hosts)
    }

    /// Leaves one of those that are the same host twice, and names those that are not.
    fn duplicates(&mut self, hosts: &mut Vec<Host>) {
        let mut kept: Vec<Host> = Vec::new();
        for host in hosts.drain(..) {
            let instance = host.labels.get("instance").cloned().unwrap_or_default();
            let same = kept.iter_mut().find(|other| {
                other.labels.get("instance") == Some(&instance)
                    && other.is_same(&host, self.interval)
            });
            match same {
                Some(other) => {
                    let [one, two] = [&other.labels, &host.labels]
                        .map(|labels| difference(labels, &[&other.labels, &host.labels]));
                    let note = format!(
                        "{instance} is there twice, with {one} and with {two}: it counts once"
                    );
                    if other.looks() < host.looks() {
                        *other = host;
                    }
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
                None => kept.push(host),
            }
        }
        let all: Vec<Labels> = kept.iter().map(|host| host.labels.clone()).collect();
        for host in &mut kept {
            let instance = host.labels.get("instance").cloned().unwrap_or_default();
            let others: Vec<&Labels> = all
                .iter()
                .filter(|labels| labels.get("instance") == Some(&instance))
                .collect();
            host.name = match others.len() {
                1 => instance,
                _ => format!("{instance} ({})", difference(&host.labels, &others)),
            };
        }
        *hosts = kept;
    }

    /// The counters of hosts at the moments that are needed.
    fn counters(&mut self, hosts: &[Host], moments: &BTreeMap<i64, Vec<usize>>) -> Result<Found> {
        let mut found = Found::default();
        let place: HashMap<&Labels, usize> =
            hosts.iter().map(|host| &host.labels).zip(0..).collect();
        for (at, numbers) in moments {
            let instances = numbers
                .iter()
                .filter_map(|number| hosts[*number].labels.get("instance"));
            let instances: BTreeSet<String> =
                instances.map(|name| quoted(&escaped(name))).collect();
            let instances: Vec<String> = instances.into_iter().collect();
            let only = format!("{}instance=~\"{}\"", self.matching, instances.join("|"));
            for what in [COUNTERS, WHAT_IF] {
                let query = self.select(&format!("{{{what},{only}}}"));
                self.api.at(&query, *at, |series| {
                    let Some(number) = place.get(&whose(&series.metric)) else {
                        return; // One that is there twice.
                    };
                    let Some((_, value)) = series.points().next() else {
                        return;
                    };
                    let label = ["timeout", "reason", "le"]
                        .into_iter()
                        .find_map(|name| series.metric.get(name));
                    let counter = (
                        found.word(series.label("__name__")),
                        found.word(label.map_or("", String::as_str)),
                    );
                    let service = series.metric.get("service").map(|name| found.word(name));
                    found.add((*number, *at, service, counter), value);
                })?;
            }
        }
        Ok(found)
    }

    fn moments(&self) -> (i64, i64) {
        let length = self.period.until - self.period.from;
        let step = (length / MOMENTS).max(NEAREST);
        (step, length / step)
    }

    /// When services were up.
    fn up(&mut self, only: &str, hosts: &mut [Host]) -> Result<()> {
        let (step, _) = self.moments();
        let query = self.select(&format!("ondemand_state{{state=\"active\",{only}}}"));
        let place: HashMap<Labels, usize> = hosts
            .iter()
            .map(|host| host.labels.clone())
            .zip(0..)
            .collect();
        let (from, until) = (self.period.from, self.period.until);
        self.api
            .range(&format!("{query} == 1"), (from, until), step, |series| {
                let Some(number) = place.get(&whose(&series.metric)) else {
                    return;
                };
                let moments = series.points().map(|(at, _)| ((at - from) / step) as u32);
                let service = series.label("service").to_owned();
                hosts[*number].moments.insert(service, moments.collect());
            })
    }

    /// Names agents of other versions, and those without what-if.
    fn versions(&mut self, only: &str, hosts: &mut [Host]) -> Result<()> {
        let query = self.select(&format!("ondemand_build_info{{{only}}}"));
        self.api.at(&query, self.period.until, |series| {
            let version = series.label("version").to_owned();
            self.versions
                .entry(version)
                .or_default()
                .insert(series.label("instance").to_owned());
        })?;
        let has_what_if = |host: &&Host| {
            let mut names = host.totals.values().flat_map(BTreeMap::keys);
            names.any(|(name, _)| name.starts_with("ondemand_whatif"))
        };
        let without: BTreeSet<String> = hosts
            .iter()
            .filter(|host| !has_what_if(host))
            .map(|host| host.name.clone())
            .collect();
        if !without.is_empty() {
            self.note(format!(
                "without what-if figures: {}; their agents are older, or `whatif = \"off\"` is in their configuration",
                some_of(&without)
            ));
        }
        Ok(())
    }
}

fn some_of(names: &BTreeSet<String>) -> String {
    let some: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    match names.len().saturating_sub(5) {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

/// For a regular expression of RE2.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if "\\.+*?()|[]{}^$".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// For a string of PromQL.
pub(super) fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
