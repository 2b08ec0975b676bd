//! What a policy is told by people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scale::EDGES;

/// The cost of a cold start, if nothing is said.
pub const DEFAULT_COST: Duration = Duration::from_secs(300);

/// No service is stopped earlier because of what was learned.
pub const SHORTEST: Duration = Duration::from_secs(5);

/// What a cold start costs, and which timeouts may be chosen. Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    cost: f64,
    shortest: f64,
    longest: f64,
}

impl Terms {
    /// A cold start is as bad as `cost` of time up and idle, at least a millisecond. Timeouts are from `shortest` to
    /// `longest`; if that is less, it is `shortest` alone.
    pub fn new(cost: Duration, shortest: Duration, longest: Duration) -> Self {
        Self {
            cost: cost.max(Duration::from_millis(1)).as_secs_f64(),
            shortest: shortest.as_secs_f64(),
            longest: longest.max(shortest).as_secs_f64(),
        }
    }

    /// Whether they could come from [`Terms::new`].
    pub(super) fn is_sound(&self) -> bool {
        let longest = Duration::MAX.as_secs_f64();
        (1e-3..=longest).contains(&self.cost)
            && (0.0..=self.longest).contains(&self.shortest)
            && self.longest <= longest
    }

    /// The cost of a cold start.
    pub fn cold_start_cost(&self) -> Duration {
        Duration::from_secs_f64(self.cost)
    }

    /// The timeout of one who knows nothing: as near to the cost of a cold start as it may be.
    pub fn fixed_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.fixed())
    }

    /// What a gap costs with this timeout.
    pub fn cost_of_gap(&self, gap: Duration, timeout: Duration) -> Duration {
        match gap <= timeout {
            true => gap,
            false => timeout.saturating_add(self.cold_start_cost()),
        }
    }

    /// In seconds.
    pub(super) fn cost(&self) -> f64 {
        self.cost
    }

    /// The same as [`Terms::fixed_timeout`]: it costs at most twice the optimum, where it is that cost.
    pub(super) fn fixed(&self) -> f64 {
        self.cost.clamp(self.shortest, self.longest)
    }

    /// What may be chosen, ascending, as indices of [`EDGES`]. Empty: only [`Terms::fixed`].
    pub(super) fn choices(&self) -> std::ops::Range<usize> {
        let shorter = EDGES.partition_point(|edge| *edge < self.shortest);
        let allowed = EDGES.partition_point(|edge| *edge <= self.longest);
        shorter..allowed
    }

    /// Of ascending timeouts the one that is nearest to a cold start's cost, by the quotient of the two.
    pub(super) fn nearest(&self, timeouts: impl Iterator<Item = f64>) -> Option<f64> {
        let mut shorter = None;
        for timeout in timeouts {
            if timeout < self.cost {
                shorter = Some(timeout);
                continue;
            }
            let is_nearer = |shorter: &f64| self.cost / shorter <= timeout / self.cost;
            return shorter.filter(is_nearer).or(Some(timeout));
        }
        shorter
    }

    /// What a gap costs with this timeout.
    pub(super) fn cost_of(&self, gap: f64, timeout: f64) -> f64 {
        if gap <= timeout {
            gap
        } else {
            timeout + self.cost
        }
    }

    /// What it costs one who knows its length beforehand.
    pub(super) fn unavoidable(&self, gap: f64) -> f64 {
        gap.min(self.cost)
    }
}
