//! Sums of figures that systemd may not account.

use ondemand_core::caught::Ways;

/// A number that can be summed.
pub trait Measure: Copy + Default {
    /// The sum of both, capped at the largest number: a damaged file may contain anything.
    fn plus(self, other: Self) -> Self;
}

impl Measure for u64 {
    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl Measure for u128 {
    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl Measure for Ways {
    fn plus(self, other: Self) -> Self {
        self.and(&other)
    }
}

/// A sum of measurements, some of which may be missing. If all are, it is unknown and not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known<T> {
    sum: Option<T>,
    missing: bool,
}

impl<T: Measure> Known<T> {
    /// Adds a measurement.
    pub fn add(&mut self, measured: Option<T>) {
        match measured {
            Some(measured) => self.sum = Some(self.sum.unwrap_or_default().plus(measured)),
            None => self.missing = true,
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.missing |= other.missing;
        if let Some(sum) = other.sum {
            self.add(Some(sum));
        }
    }

    /// The sum of the known ones. `None`: there are some, and none is known.
    pub fn known(&self) -> Option<T> {
        match (self.sum, self.missing) {
            (None, false) => Some(T::default()),
            (sum, _) => sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_zero() {
        let sum = |parts: &[Option<u64>]| {
            let mut sum = Known::default();
            for part in parts {
                sum.add(*part);
            }
            sum
        };
        let check = |parts, expected| assert_eq!(sum(parts).known(), expected, "{parts:?}");
        check(&[], Some(0));
        check(&[None], None);
        check(&[Some(0)], Some(0));
        check(&[None, Some(0)], Some(0));
        check(&[Some(2), None, Some(3)], Some(5));
        check(&[Some(u64::MAX), Some(3)], Some(u64::MAX));
        let mut all = sum(&[]);
        all.merge(&sum(&[None]));
        assert_eq!(all.known(), None);
        all.merge(&sum(&[Some(7)]));
        all.merge(&sum(&[]));
        assert_eq!(all.known(), Some(7));
    }
}
