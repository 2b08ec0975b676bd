//! Durations of starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds in seconds: from a small program to the default `start_timeout` and beyond.
pub const BOUNDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Counts by duration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// By bucket, each without those below it; the last is above all bounds.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Adds one.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let count = &mut self.counts[place(&BOUNDS, seconds)];
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(took);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts.into_iter().fold(0, u64::saturating_add)
    }

    /// The sum in seconds.
    pub fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Upper bound in seconds, and the number in this bucket alone.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        buckets(&BOUNDS, &self.counts)
    }
}

/// The bucket of a value; the last is above all bounds.
pub fn place(bounds: &[f64], value: f64) -> usize {
    let bucket = bounds.iter().position(|bound| value <= *bound);
    bucket.unwrap_or(bounds.len())
}

/// Each bound with the number in its bucket alone.
pub fn buckets(bounds: &[f64], counts: &[u64]) -> Vec<(f64, u64)> {
    let bounds = bounds.iter().copied().chain([f64::INFINITY]);
    // The encoder sums them: the numbers of a damaged file must not overflow.
    let mut room = u64::MAX;
    let counts = counts.iter().map(|count| {
        let count = (*count).min(room);
        room -= count;
        count
    });
    bounds.zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        #[track_caller]
        fn check(ms: u64, bound: f64) {
            let mut histogram = Histogram::default();
            histogram.observe(Duration::from_millis(ms));
            let filled = histogram
                .buckets()
                .into_iter()
                .find(|(_, count)| *count > 0);
            assert_eq!(filled, Some((bound, 1)), "{ms} ms");
            assert_eq!(histogram.count(), 1);
            assert_eq!(histogram.sum(), ms as f64 / 1000.0);
        }
        check(0, 0.1);
        check(100, 0.1);
        check(101, 0.25);
        check(120_000, 120.0);
        check(120_001, f64::INFINITY);
    }
}
