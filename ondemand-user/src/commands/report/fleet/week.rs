//! When services of a fleet were up, by hour of the week.

use jiff::{Timestamp, tz::TimeZone};

use super::gather::Fleet;

const HOURS: usize = 168;
/// Moments further from each other miss hours. Milliseconds.
const AN_HOUR: i64 = 3_600_000;

/// The hours of the week in which there were moments.
pub(super) struct Week {
    /// By moment; Monday's first is 0. Empty: they are too far from each other.
    hours: Vec<usize>,
    /// For how long each of them stands. Seconds.
    step: u64,
}

impl Week {
    /// `from`: the first moment, in milliseconds since 1970.
    pub(super) fn new(fleet: &Fleet, from: i64) -> Self {
        let zone = TimeZone::system();
        let moments = 0..i64::from(fleet.moments);
        let moments = moments.filter(|_| fleet.step <= AN_HOUR);
        let at = moments.map(|moment| from + moment * fleet.step);
        let hour = |at: i64| {
            let at = Timestamp::from_millisecond(at).unwrap_or_default();
            let at = at.to_zoned(zone.clone());
            let day = at.weekday().to_monday_zero_offset() as usize;
            day * 24 + at.hour() as usize
        };
        Self {
            hours: at.map(hour).collect(),
            step: (fleet.step / 1000) as u64,
        }
    }

    /// Adds the time up of a service at these moments. Seconds.
    pub(super) fn add(&self, moments: &[u32], week: &mut Vec<u64>) {
        if self.hours.is_empty() {
            return;
        }
        week.resize(HOURS, 0);
        for hour in moments.iter().filter_map(|it| self.hours.get(*it as usize)) {
            week[*hour] += self.step;
        }
    }
}

/// Adds a week to another one.
pub(super) fn merge(into: &mut Vec<u64>, from: &[u64]) {
    into.resize(into.len().max(from.len()), 0);
    for (into, from) in into.iter_mut().zip(from) {
        *into += from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Monday, 00:00 UTC.
    const MONDAY: i64 = 1_740_960_000_000;

    #[test]
    fn moments_are_in_their_hours() {
        let mut fleet = Fleet {
            moments: 10,
            step: AN_HOUR / 2,
            ..Fleet::default()
        };
        let mut week = Vec::new();
        Week::new(&fleet, MONDAY).add(&[0, 1, 2, 9, 77], &mut week);
        let up: Vec<u64> = week.iter().copied().filter(|up| *up > 0).collect();
        assert_eq!((week.len(), up), (HOURS, vec![3600, 1800, 1800]));
        let mut all = Vec::new();
        merge(&mut all, &week);
        merge(&mut all, &week);
        assert_eq!(all.iter().sum::<u64>(), 2 * 7200);
        fleet.step = AN_HOUR + 1;
        let mut none = Vec::new();
        Week::new(&fleet, MONDAY).add(&[0], &mut none);
        assert!(none.is_empty());
    }
}
