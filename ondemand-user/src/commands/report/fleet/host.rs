//! A host of a fleet: an agent's metrics.

use std::collections::BTreeMap;

use super::{
    api::{Labels, Point},
    segments::Period,
};

/// Labels that say what a series is, and not whose.
const OWN: [&str; 12] = [
    "__name__", "service", "timeout", "reason", "le", "state", "to", "result", "version", "unit",
    "way", "for",
];
/// Whose a counter is: a service's, or without one all of a host's.
pub type Name = Option<String>;

/// A counter: its metric's name, and the label that distinguishes it.
pub type Counter = (String, String);

/// What was counted of a service, or of a host.
pub type Totals = BTreeMap<Counter, f64>;

/// A host: an agent's metrics.
#[derive(Debug, Default)]
pub struct Host {
    /// Its instance, with further labels where that is not enough.
    pub name: String,
    pub(super) labels: Labels,
    pub(super) points: BTreeMap<String, Vec<Point>>,
    /// By service.
    pub totals: BTreeMap<Name, Totals>,
    /// The seconds up at the last look, by service.
    active: BTreeMap<String, f64>,
    /// What services take, by service, as the agent says it. Bytes.
    pub memory: BTreeMap<String, f64>,
    /// What the host has. Bytes.
    pub memory_of_host: Option<f64>,
    /// For each part of the period, the share of the time up, by service.
    pub up: BTreeMap<String, Vec<f32>>,
    /// When services were up: the places of moments, by service.
    pub moments: BTreeMap<String, Vec<u32>>,
}

/// Seconds down and up, at moments, by service.
pub(super) type Looks = BTreeMap<String, BTreeMap<i64, [Option<f64>; 2]>>;

pub(super) fn sums(found: &BTreeMap<i64, [Option<f64>; 2]>) -> Vec<Point> {
    let sum = |(at, both): (&i64, &[Option<f64>; 2])| Some((*at, both[0]? + both[1]?));
    found.iter().filter_map(sum).collect()
}

impl Host {
    pub(super) fn new(labels: Labels, looks: Looks, period: &Period, step: i64) -> Self {
        let mut host = Self {
            labels,
            ..Self::default()
        };
        let parts = ((period.until - period.from) / step).max(1) as usize;
        for (service, looks) in looks {
            let up = looks.iter().filter_map(|(at, both)| Some((*at, both[1]?)));
            let up: Vec<Point> = up.collect();
            let mut shares = vec![0.0; parts];
            for pair in up.windows(2) {
                let length = (pair[1].0 - pair[0].0).max(1) as f64;
                // After a boot it has counted from zero.
                let grown = if pair[1].1 < pair[0].1 {
                    pair[1].1
                } else {
                    pair[1].1 - pair[0].1
                };
                let share = (grown * 1e3 / length).clamp(0.0, 1.0) as f32;
                let [begin, end] =
                    [pair[0].0, pair[1].0].map(|at| ((at - period.from) / step) as usize);
                let end = end.max(begin + 1);
                for part in shares.iter_mut().take(end).skip(begin) {
                    *part = share;
                }
            }
            host.active
                .extend(up.last().map(|last| (service.clone(), last.1)));
            host.up.insert(service.clone(), shares);
            host.points.insert(service, sums(&looks));
        }
        host
    }

    pub(super) fn looks(&self) -> usize {
        self.points.values().map(Vec::len).sum()
    }

    /// Whether another one is the same, scraped twice: the same services, watched and up for the same time. Milliseconds.
    pub(super) fn is_same(&self, other: &Self, interval: i64) -> bool {
        let since = |points: &Vec<Point>| {
            points
                .last()
                .map(|(at, watched)| at - (watched * 1e3) as i64)
        };
        let points = self.points.values().zip(other.points.values());
        let mut points = points.map(|(one, other)| since(one).zip(since(other)));
        let mut active = self.active.values().zip(other.active.values());
        self.points.keys().eq(other.points.keys())
            && self.active.keys().eq(other.active.keys())
            && points
                .all(|both| both.is_some_and(|(one, other)| (one - other).abs() <= 2 * interval))
            && active.all(|(one, other)| ((one - other).abs() * 1e3) as i64 <= 2 * interval)
    }
}

/// The labels that say whose a series is.
pub(super) fn whose(labels: &Labels) -> Labels {
    let own = labels
        .iter()
        .filter(|(name, _)| !OWN.contains(&name.as_str()));
    own.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The labels in which it differs from others.
pub(super) fn difference(labels: &Labels, others: &[&Labels]) -> String {
    let differs = |(name, value): &(&String, &String)| {
        others.iter().any(|other| other.get(*name) != Some(*value))
    };
    let found = labels.iter().filter(differs);
    let found: Vec<String> = found
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    match found.is_empty() {
        true => "no further label".to_owned(),
        false => found.join(", "),
    }
}
