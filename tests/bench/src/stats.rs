//! Medians and spreads: on a shared machine a mean says little.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

/// What was measured of one figure, a value for each round.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// Half of the values are below it; NaN if there are none.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The middle half of the values lies in it.
    pub fn spread(&self) -> RangeInclusive<f64> {
        self.quantile(0.25)..=self.quantile(0.75)
    }

    /// Half the spread's width, as a part of the median.
    pub fn relative_spread(&self) -> f64 {
        let spread = self.spread();
        (spread.end() - spread.start()) / 2.0 / self.median()
    }

    /// `self / other`, round by round: what slows the machine down for a while slows both.
    pub fn ratio_to(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// `self - other`, round by round.
    pub fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// Linear between the two nearest values.
    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let place = part * last as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * place.fract()
    }

    /// For programs to read.
    pub fn json(&self) -> Value {
        let spread = self.spread();
        json!({
            "median": self.median(),
            "lower_quartile": spread.start(),
            "upper_quartile": spread.end(),
            "values": self.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], median: f64, spread: RangeInclusive<f64>) {
        let series = Series(values.to_vec());
        assert_eq!(series.median(), median);
        assert_eq!(series.spread(), spread);
    }

    #[test]
    fn medians() {
        check(&[7.0], 7.0, 7.0..=7.0);
        check(&[1.0, 2.0], 1.5, 1.25..=1.75);
        check(&[5.0, 1.0, 3.0, 2.0, 4.0], 3.0, 2.0..=4.0);
        check(&[1.0, 1.0, 1.0, 1.0, 900.0], 1.0, 1.0..=1.0);
    }

    #[test]
    fn nothing_measured_is_not_a_number() {
        assert!(Series::default().median().is_nan());
    }

    #[test]
    fn ratios_go_round_by_round() {
        let halved = Series(vec![1.0, 5.0, 50.0]);
        let whole = Series(vec![2.0, 10.0, 100.0]);
        assert_eq!(halved.ratio_to(&whole).0, [0.5, 0.5, 0.5]);
    }
}
