//! Values with weights in bounded memory.

/// The number of buckets. A quantile is too large by at most this part of the largest value.
const BUCKETS: usize = 4096;

/// Values of one width, of which the largest is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    weight: u64,
    largest: u64,
}

/// How often values occurred, or for how long they lasted. Exact until there are more than 4096 different ones, and
/// then at most a 4096th of the largest too large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    buckets: Vec<Bucket>,
    /// Each bucket is two to the power of this wide.
    width: u32,
    largest: u64,
    weight: u64,
    sum: u128,
}

impl Spread {
    /// Adds a value. Without weight it is only remembered as the largest.
    pub fn add(&mut self, value: u64, weight: u64) {
        self.largest = self.largest.max(value);
        if weight == 0 {
            return;
        }
        self.weight = self.weight.saturating_add(weight);
        self.sum += u128::from(value) * u128::from(weight);
        while (value >> self.width) as usize >= BUCKETS {
            self.widen();
        }
        let place = (value >> self.width) as usize;
        if place >= self.buckets.len() {
            self.buckets.resize(place + 1, Bucket::default());
        }
        let bucket = &mut self.buckets[place];
        bucket.weight = bucket.weight.saturating_add(weight);
        bucket.largest = bucket.largest.max(value);
    }

    fn widen(&mut self) {
        self.width += 1;
        let halves = self.buckets.chunks(2);
        self.buckets = halves
            .map(|pair| Bucket {
                weight: pair.iter().map(|half| half.weight).sum(),
                largest: pair.iter().map(|half| half.largest).max().unwrap_or(0),
            })
            .collect();
    }

    /// The smallest value that is not exceeded by this percentage of the weight (nearest rank). `None`: there is none.
    pub fn quantile(&self, percent: u64) -> Option<u64> {
        let rank = (u128::from(self.weight) * u128::from(percent)).div_ceil(100);
        let mut below = 0_u128;
        for bucket in &self.buckets {
            below += u128::from(bucket.weight);
            if bucket.weight > 0 && below >= rank {
                return Some(bucket.largest);
            }
        }
        None
    }

    /// The largest, whatever its weight.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// The sum of all weights.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The sum of each value times its weight.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// The mean by weight. `None`: there is none.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0).then(|| self.sum as f64 / self.weight as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_weight() {
        let mut spread = Spread::default();
        assert_eq!((spread.quantile(99), spread.mean()), (None, None));
        spread.add(7, 0);
        assert_eq!((spread.quantile(50), spread.largest()), (None, 7));
        spread.add(10, 98);
        spread.add(1 << 40, 2);
        assert_eq!(spread.quantile(50), Some(10));
        assert_eq!(spread.quantile(98), Some(10));
        assert_eq!(spread.quantile(99), Some(1 << 40));
        assert_eq!(spread.sum(), 980 + (2 << 40));
        assert_eq!(spread.weight(), 100);
    }

    #[test]
    fn it_is_bounded_and_never_too_small() {
        let mut spread = Spread::default();
        for value in 0..100_000_u64 {
            spread.add(value * 1000, 1);
        }
        assert!(spread.buckets.len() <= BUCKETS);
        for percent in [1, 50, 99, 100] {
            let exact = percent * 1_000_000 - 1000;
            let found = spread.quantile(percent).unwrap();
            assert!(found >= exact, "{percent}: {found}");
            assert!(
                found - exact <= spread.largest() / 2048,
                "{percent}: {found}"
            );
        }
    }
}
