//! What another idle timeout would have meant. Pure: the input is gaps, the output is cold starts
//! and warm-idle time.
//!
//! A service that is unused for longer than its idle timeout is stopped, and its next client waits
//! for a cold start. So the quiet gaps between one use and the next show, for each timeout `T`,
//! what would have happened:
//!
//! - The first arrival of a service is a cold start.
//! - A gap longer than `T` ends in a cold start; the service was up and idle for `T` of it.
//! - During any other gap the service was up and idle, and no client waited. This includes a gap
//!   of exactly `T`.
//! - After the last arrival it was up and idle until the end of the data, but not longer than `T`.
//!
//! Nothing else is assumed: starts take no time, and the length of a use is what the caller leaves
//! between two gaps. Times are whole microseconds, so sums are exact.

use std::{sync::LazyLock, time::Duration};

use serde::{Deserialize, Serialize};

/// The default timeouts, in seconds: those of a report, and of the metrics, so that both can be compared. Another
/// ladder is another record of [`crate::whatif`].
pub const LADDER: [u64; 24] = [
    1, 2, 5, 10, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200, 10_800,
    14_400, 21_600, 43_200, 86_400, 172_800, 604_800,
];

/// Maximum number of timeouts: it bounds the memory of a service.
pub const MOST_TIMEOUTS: usize = 48;

/// The idle timeouts to compare, ascending, without duplicates. Microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts(Vec<u64>);

impl Timeouts {
    /// Those of [`LADDER`].
    pub fn ladder() -> &'static Self {
        static TIMEOUTS: LazyLock<Timeouts> = LazyLock::new(Timeouts::default);
        &TIMEOUTS
    }

    /// Sorts and deduplicates. `None`: no timeout, or more than [`MOST_TIMEOUTS`].
    pub fn new(spans: &[Duration]) -> Option<Self> {
        let micros = |span: &Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let mut timeouts: Vec<u64> = spans.iter().map(micros).collect();
        timeouts.sort_unstable();
        timeouts.dedup();
        (1..=MOST_TIMEOUTS)
            .contains(&timeouts.len())
            .then_some(Self(timeouts))
    }

    /// In ascending order. Microseconds.
    pub fn micros(&self) -> &[u64] {
        &self.0
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self(LADDER.map(|seconds| seconds * 1_000_000).into())
    }
}

/// Gaps longer than one timeout and not longer than the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
struct Bucket {
    gaps: u64,
    /// The sum of their lengths. Microseconds.
    length: u64,
}

impl From<(u64, u64)> for Bucket {
    fn from((gaps, length): (u64, u64)) -> Self {
        Self { gaps, length }
    }
}

impl From<Bucket> for (u64, u64) {
    fn from(bucket: Bucket) -> Self {
        (bucket.gaps, bucket.length)
    }
}

/// The gaps of one service. Its size depends on the number of timeouts, not on that of gaps.
///
/// Sums saturate: those in a file may be at their maximum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// The first: up to the first timeout. The last: longer than all of them.
    buckets: Box<[Bucket]>,
    /// Arrivals after a gap of unknown length.
    first: u64,
    /// The quiet time at the end. Microseconds.
    open: u64,
}

/// The outcome of one timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The idle timeout. Microseconds.
    pub timeout: u64,
    /// Clients that would have waited for a cold start.
    pub cold_starts: u64,
    /// Time spent up and unused. Microseconds; the sum of many services exceeds 64 bits.
    pub warm_idle: u128,
}

impl Outcome {
    /// Its cost, if one cold start is as bad as `cold_start_cost` microseconds of warm-idle time.
    /// Microseconds.
    pub fn cost(&self, cold_start_cost: u64) -> u128 {
        self.warm_idle + u128::from(self.cold_starts) * u128::from(cold_start_cost)
    }
}

impl Replay {
    /// No arrivals.
    pub fn new(timeouts: &Timeouts) -> Self {
        Self {
            buckets: vec![Bucket::default(); timeouts.0.len() + 1].into(),
            first: 0,
            open: 0,
        }
    }

    /// Adds an arrival after a gap of unknown length.
    pub fn first(&mut self) {
        self.first = self.first.saturating_add(1);
    }

    /// Adds an arrival after `length` microseconds of quiet.
    pub fn gap(&mut self, timeouts: &Timeouts, length: u64) {
        let bucket = &mut self.buckets[timeouts.0.partition_point(|timeout| *timeout < length)];
        bucket.gaps = bucket.gaps.saturating_add(1);
        bucket.length = bucket.length.saturating_add(length);
    }

    /// Sets the end: its last `length` microseconds were quiet.
    pub fn end(&mut self, length: u64) {
        self.open = length;
    }

    /// Whether it is of this many timeouts: for one that was stored.
    pub fn has(&self, timeouts: &Timeouts) -> bool {
        self.buckets.len() == timeouts.0.len() + 1
    }

    /// The number of arrivals.
    pub fn arrivals(&self) -> u64 {
        self.gaps().iter().fold(self.first, saturating_sum)
    }

    /// The number of gaps longer than one timeout and not longer than the next; the last: longer
    /// than all.
    pub fn gaps(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.gaps).collect()
    }

    /// Adds the arrivals and gaps of `other`, of the same service.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.buckets.iter_mut().zip(&other.buckets) {
            into.gaps = into.gaps.saturating_add(from.gaps);
            into.length = into.length.saturating_add(from.length);
        }
        self.first = self.first.saturating_add(other.first);
        self.open = self.open.max(other.open);
    }

    /// The outcome of each timeout. `timeouts` must be those of [`Replay::new`].
    pub fn outcomes(&self, timeouts: &Timeouts) -> Vec<Outcome> {
        let mut longer = self.gaps().iter().fold(0, saturating_sum);
        let mut warm = 0_u128;
        let outcome = |(timeout, bucket): (&u64, &Bucket)| {
            longer = longer.saturating_sub(bucket.gaps);
            warm += u128::from(bucket.length);
            let stopped = u128::from(longer) * u128::from(*timeout);
            Outcome {
                timeout: *timeout,
                cold_starts: self.first.saturating_add(longer),
                warm_idle: warm + stopped + u128::from(self.open.min(*timeout)),
            }
        };
        timeouts.0.iter().zip(&self.buckets).map(outcome).collect()
    }
}

fn saturating_sum(sum: u64, count: &u64) -> u64 {
    sum.saturating_add(*count)
}

/// Adds the outcomes of another service to `sum`.
pub fn add(sum: &mut Vec<Outcome>, outcomes: &[Outcome]) {
    if sum.is_empty() {
        sum.extend_from_slice(outcomes);
        return;
    }
    for (into, from) in sum.iter_mut().zip(outcomes) {
        into.cold_starts += from.cold_starts;
        into.warm_idle += from.warm_idle;
    }
}

/// The outcome with the lowest cost; among equals, that of the shortest timeout. `None`: there is none.
pub fn cheapest(outcomes: &[Outcome], cold_start_cost: u64) -> Option<Outcome> {
    // Among equals, min_by_key returns the first.
    let cost = |outcome: &&Outcome| outcome.cost(cold_start_cost);
    outcomes.iter().min_by_key(cost).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts(seconds: &[u64]) -> Timeouts {
        let spans: Vec<_> = seconds.iter().copied().map(Duration::from_secs).collect();
        Timeouts::new(&spans).unwrap()
    }

    /// `arrivals` and `end` in seconds; expected: cold starts and warm-idle seconds.
    #[track_caller]
    fn check(arrivals: &[u64], end: u64, timeout: u64, expected: (u64, u128)) {
        // Other timeouts do not change the result.
        let timeouts = timeouts(&[timeout, 3, 17, 1_000_000]);
        let mut replay = Replay::new(&timeouts);
        for (i, at) in arrivals.iter().enumerate() {
            match i.checked_sub(1) {
                Some(before) => replay.gap(&timeouts, (at - arrivals[before]) * 1_000_000),
                None => replay.first(),
            }
        }
        if let Some(last) = arrivals.last() {
            replay.end((end - last) * 1_000_000);
        }
        let outcomes = replay.outcomes(&timeouts);
        let wanted = |outcome: &&Outcome| outcome.timeout == timeout * 1_000_000;
        let outcome = outcomes.iter().find(wanted).unwrap();
        let found = (outcome.cold_starts, outcome.warm_idle / 1_000_000);
        assert_eq!(found, expected, "{arrivals:?} until {end}, {timeout} s");
        assert_eq!(replay.arrivals(), arrivals.len() as u64);
    }

    #[test]
    fn a_timeout_means() {
        check(&[], 100, 10, (0, 0));
        check(&[0], 0, 10, (1, 0));
        check(&[0], 4, 10, (1, 4));
        check(&[0], 100, 10, (1, 10));
        check(&[0, 5, 9], 9, 10, (1, 9));
        check(&[0, 10], 10, 10, (1, 10)); // exactly the timeout: still up
        check(&[0, 11], 11, 10, (2, 10));
        check(&[0, 11, 11, 12, 50], 60, 10, (3, 31));
        check(&[5, 5, 5], 5, 0, (1, 0));
        check(&[5, 6], 7, 0, (2, 0));
    }

    #[test]
    fn halves_add_up() {
        let timeouts = timeouts(&[1, 10]);
        let (mut all, mut left, mut right) = (
            Replay::new(&timeouts),
            Replay::new(&timeouts),
            Replay::new(&timeouts),
        );
        left.first();
        all.first();
        for (i, gap) in [500_000, 2_000_000, 11_000_000].into_iter().enumerate() {
            all.gap(&timeouts, gap);
            [&mut left, &mut right][i % 2].gap(&timeouts, gap);
        }
        all.end(3);
        right.end(3);
        left.merge(&right);
        assert_eq!(left, all);
    }

    #[test]
    fn the_cheapest() {
        let outcome = |timeout, cold_starts, warm_idle| Outcome {
            timeout,
            cold_starts,
            warm_idle,
        };
        let outcomes = [outcome(1, 10, 5), outcome(2, 6, 13), outcome(3, 1, 40)];
        let pick = |cost| cheapest(&outcomes, cost).unwrap().timeout;
        assert_eq!(pick(0), 1);
        assert_eq!(pick(2), 1, "among equals the shortest");
        assert_eq!(pick(3), 2);
        assert_eq!(pick(10), 3);
        assert_eq!(cheapest(&[], 1), None);
    }

    #[test]
    fn how_many_timeouts() {
        let seconds = |count: u64| -> Vec<_> { (0..count).map(Duration::from_secs).collect() };
        assert_eq!(Timeouts::new(&[]), None);
        assert!(Timeouts::new(&seconds(48)).is_some());
        assert_eq!(Timeouts::new(&seconds(49)), None);
        let twice = [
            Duration::from_secs(2),
            Duration::ZERO,
            Duration::from_secs(2),
        ];
        assert_eq!(Timeouts::new(&twice).unwrap().micros(), [0, 2_000_000]);
    }
}
