//! The values of counters at a few moments, and what was counted between them.

use std::collections::{BTreeMap, HashMap};

use super::{
    host::{Counter, Host, Name, Totals},
    segments::Segment,
};

/// What is as it was at the end: since when a service is unused, its learned timeout, what it takes; what a host has.
const GAUGES: [&str; 4] = [
    "ondemand_unused_seconds",
    "ondemand_learned_idle_timeout_seconds",
    "ondemand_memory_bytes",
    "ondemand_host_memory_bytes",
];

/// A host, a moment, a service, and a counter: its name and its label.
pub(super) type Key = (usize, i64, Option<u32>, (u32, u32));

/// The values of counters: by host, moment, service and counter.
#[derive(Default)]
pub(super) struct Found {
    pub(super) words: HashMap<String, u32>,
    texts: Vec<String>,
    values: BTreeMap<Key, f64>,
}

impl Found {
    pub(super) fn word(&mut self, text: &str) -> u32 {
        if let Some(word) = self.words.get(text) {
            return *word;
        }
        let word = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.words.insert(text.to_owned(), word);
        word
    }

    fn of(
        &self,
        host: usize,
        at: i64,
        service: Option<u32>,
    ) -> impl Iterator<Item = ((u32, u32), f64)> {
        let all = (host, at, service, (0, 0))..=(host, at, service, (u32::MAX, u32::MAX));
        self.values.range(all).map(|(key, value)| (key.3, *value))
    }

    fn get(&self, host: usize, at: i64, service: Option<u32>, counter: (u32, u32)) -> Option<f64> {
        self.values.get(&(host, at, service, counter)).copied()
    }

    fn name(&self, counter: (u32, u32)) -> Counter {
        let text = |word: u32| self.texts[word as usize].clone();
        (text(counter.0), text(counter.1))
    }

    pub(super) fn add(&mut self, key: Key, value: f64) {
        self.values.insert(key, value);
    }

    /// Sums what was counted in these segments of a host. Returns how many counters began again for no known reason.
    pub(super) fn sum(
        &self,
        host: &mut Host,
        number: usize,
        segments: &BTreeMap<Name, Vec<Segment>>,
    ) -> u64 {
        let mut unexplained = 0;
        let mut open = Vec::new();
        for (name, stretches) in segments {
            let service = match name {
                Some(name) => match self.words.get(name) {
                    Some(word) => Some(*word),
                    None => continue,
                },
                None => None,
            };
            let totals = host.totals.entry(name.clone()).or_default();
            for stretch in stretches {
                for (counter, value) in self.of(number, stretch.to, service) {
                    let from = stretch
                        .from
                        .and_then(|from| self.get(number, from, service, counter));
                    let more = match from {
                        Some(from) if from <= value => value - from,
                        Some(_) => {
                            unexplained += 1;
                            value
                        }
                        None => value,
                    };
                    *totals.entry(self.name(counter)).or_default() += more;
                }
            }
            // The gauges are no sums.
            for gauge in GAUGES {
                totals.remove(&(gauge.to_owned(), String::new()));
            }
            let Some(last) = stretches.last() else {
                continue;
            };
            let [unused, learned, memory, of_host] = GAUGES.map(|gauge| {
                let counter = (*self.words.get(gauge)?, *self.words.get("")?);
                self.get(number, last.to, service, counter)
            });
            match name {
                Some(service) => {
                    host.memory
                        .extend(memory.map(|memory| (service.clone(), memory)));
                    open.extend(unused.map(|unused| (name.clone(), unused, learned)));
                }
                None => host.memory_of_host = of_host,
            }
        }
        for (name, unused, learned) in open {
            // A host's own are those of all its services.
            for name in [name, None] {
                if let Some(totals) = host.totals.get_mut(&name) {
                    end(totals, unused, learned);
                }
            }
        }
        host.totals.retain(|_, totals| !totals.is_empty());
        unexplained
    }
}

/// Counts the part of a gap that is not over, as a report of the history does. Seconds.
fn end(totals: &mut Totals, unused: f64, learned: Option<f64>) {
    let idle = totals
        .iter_mut()
        .filter(|(counter, _)| counter.0 == "ondemand_whatif_idle_seconds_total");
    for ((_, timeout), total) in idle {
        let timeout = match timeout.as_str() {
            "auto" => learned,
            timeout => timeout.parse().ok(),
        };
        *total += timeout.map_or(0.0, |timeout| unused.min(timeout));
    }
}
