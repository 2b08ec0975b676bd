//! What the policy would have meant, as [`crate::replay`] says it of fixed timeouts.

use std::time::Duration;

use super::{Choice, Learned, Terms};

/// Gaps of one service, and what the policy made of each before it knew its length.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    learned: Learned,
    cold_starts: u64,
    /// Microseconds, as the following.
    warm_idle: u128,
    optimum: u128,
    open: u64,
}

/// The outcome of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Clients that would have waited for a cold start.
    pub cold_starts: u64,
    /// Time spent up and unused. Microseconds.
    pub warm_idle: u128,
    /// Their cost. Microseconds.
    pub cost: u128,
    /// The cost for one who knows each gap's length beforehand. Microseconds.
    pub optimum: u128,
}

impl Outcome {
    /// Adds that of another service.
    pub fn add(&mut self, other: &Self) {
        self.cold_starts = self.cold_starts.saturating_add(other.cold_starts);
        self.warm_idle = self.warm_idle.saturating_add(other.warm_idle);
        self.cost = self.cost.saturating_add(other.cost);
        self.optimum = self.optimum.saturating_add(other.optimum);
    }
}

impl Trial {
    /// No arrivals.
    pub fn new(terms: Terms) -> Self {
        Self {
            learned: Learned::new(terms),
            cold_starts: 0,
            warm_idle: 0,
            optimum: 0,
            open: 0,
        }
    }

    /// Adds an arrival after a gap of unknown length: a cold start, and nothing to learn from.
    pub fn first(&mut self) {
        self.cold_starts = self.cold_starts.saturating_add(1);
        self.optimum += self.cost();
    }

    /// Adds an arrival after `length` microseconds of quiet.
    pub fn gap(&mut self, length: u64) {
        let timeout = micros(self.learned.timeout());
        if length > timeout {
            self.cold_starts = self.cold_starts.saturating_add(1);
        }
        self.warm_idle += u128::from(length.min(timeout));
        self.optimum += u128::from(length).min(self.cost());
        self.learned.learn(Duration::from_micros(length));
    }

    /// Sets the end: its last `length` microseconds were quiet.
    pub fn end(&mut self, length: u64) {
        self.open = length;
    }

    /// What was learned.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// The timeout after the last gap, and why.
    pub fn choice(&self) -> Choice {
        self.learned.choice()
    }

    /// The outcome. One who knows that no client comes any more stops at once.
    pub fn outcome(&self) -> Outcome {
        let open = self.open.min(micros(self.learned.timeout()));
        let warm_idle = self.warm_idle + u128::from(open);
        Outcome {
            cold_starts: self.cold_starts,
            warm_idle,
            cost: warm_idle + u128::from(self.cold_starts) * self.cost(),
            optimum: self.optimum,
        }
    }

    fn cost(&self) -> u128 {
        self.learned.terms().cold_start_cost().as_micros()
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
