//! What became of the gaps of a service: counters for observers.

use std::time::Duration;

use super::{Kind, Learned};
use crate::config::IdleTimeout;

/// Counts of gaps that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Gaps before which the learned timeout had a reason of this kind, in the order of [`Kind::ALL`].
    pub reasons: [u64; Kind::ALL.len()],
    /// What they cost with the configured timeout; if that is the learned one, with [`super::Terms::fixed_timeout`].
    /// Seconds.
    pub fixed_cost: f64,
    /// What they cost with the learned timeout. Seconds.
    pub learned_cost: f64,
}

impl Tally {
    /// Counts a gap that is over, before it is learned.
    pub fn count(&mut self, gap: Duration, learned: &Learned, configured: IdleTimeout) {
        let terms = learned.terms();
        let fixed = match configured {
            IdleTimeout::Learned => Some(terms.fixed_timeout()),
            fixed => fixed.or(learned.timeout()),
        };
        let cost = |timeout| terms.cost_of_gap(gap, timeout).as_secs_f64();
        self.fixed_cost += cost(fixed.unwrap_or(Duration::MAX));
        self.learned_cost += cost(learned.timeout());
        let kind = learned.choice().reason.kind();
        if let Some(place) = Kind::ALL.iter().position(|of| *of == kind) {
            self.reasons[place] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Learning;

    #[test]
    fn each_gap_has_two_prices() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let learned = Learned::new(Learning::default().terms(None));
        assert_eq!(learned.timeout(), minutes(2));
        #[track_caller]
        fn check(learned: &Learned, gap: Duration, configured: IdleTimeout, expected: [u64; 2]) {
            let mut tally = Tally::default();
            tally.count(gap, learned, configured);
            let found = [tally.fixed_cost, tally.learned_cost];
            assert_eq!(found, expected.map(|minutes| minutes as f64 * 60.0));
            assert_eq!(tally.reasons, [1, 0, 0, 0]);
        }
        let after = |span| IdleTimeout::After(minutes(span));
        check(&learned, minutes(1), after(10), [1, 1]);
        check(&learned, minutes(3), after(10), [3, 7]);
        check(&learned, minutes(11), after(10), [15, 7]);
        check(&learned, minutes(11), IdleTimeout::Never, [11, 7]);
        check(&learned, minutes(11), IdleTimeout::Learned, [10, 7]);
    }
}
