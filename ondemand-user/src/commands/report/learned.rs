//! The learned idle timeout beside the fixed ones.

use ondemand_core::{
    learned::{Outcome, Trial},
    replay,
    words::{Span, span},
};
use serde::Serialize;

use super::model::{WhatIf, seconds};

/// What the learned idle timeout would have meant, online: at each gap by those before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Learned {
    /// The timeout after the last gap; null for all services together, each of which has its own.
    pub timeout_seconds: Option<f64>,
    /// Its cold starts.
    pub cold_starts: u64,
    /// Time up without a client.
    pub warm_idle_seconds: f64,
    /// Both together.
    pub cost_seconds: f64,
    /// What it would have cost to know the length of each gap beforehand; null: not known, of metrics.
    pub optimum_seconds: Option<f64>,
    /// The cost over that; null if that is 0, or not known.
    pub ratio_to_optimum: Option<f64>,
    /// The cost of the cheapest of the fixed timeouts, in hindsight; for all services together, of each one's own.
    pub best_fixed_cost_seconds: f64,
    /// The cost over that; null if that is 0.
    pub ratio_to_best_fixed: Option<f64>,
    /// Why it is what it is, in one sentence.
    pub reason: String,
    #[serde(skip)]
    outcome: Outcome,
    /// Microseconds.
    #[serde(skip)]
    best_fixed: u128,
}

impl Learned {
    /// Of one service.
    pub fn new(trial: &Trial, what_if: &WhatIf) -> Self {
        let cost = what_if.cold_start_cost;
        let best = replay::cheapest(&what_if.outcomes, cost);
        let choice = trial.choice();
        Self {
            timeout_seconds: Some(choice.timeout.as_secs_f64()),
            reason: choice.to_string(),
            ..Self::of(trial.outcome(), best.map_or(0, |best| best.cost(cost)))
        }
    }

    /// As agents have counted it, by their own terms; the cost is by those of `what_if`.
    pub fn counted(cold_starts: u64, warm_idle: u128, what_if: &WhatIf) -> Self {
        let cost = what_if.cold_start_cost;
        let best = replay::cheapest(&what_if.outcomes, cost);
        let outcome = Outcome {
            cold_starts,
            warm_idle,
            cost: warm_idle + u128::from(cold_starts) * u128::from(cost),
            optimum: 0,
        };
        Self {
            optimum_seconds: None,
            reason: "as the agents have counted it, each by the terms of its own configuration"
                .to_owned(),
            ..Self::of(outcome, best.map_or(0, |best| best.cost(cost)))
        }
    }

    /// Of all of them together.
    pub fn total<'a>(services: impl Iterator<Item = &'a Self>) -> Self {
        let (mut outcome, mut best) = (Outcome::default(), 0_u128);
        for service in services {
            outcome.add(&service.outcome);
            best = best.saturating_add(service.best_fixed);
        }
        let mut total = Self::of(outcome, best);
        total.reason = match (total.ratio_to_optimum, total.ratio_to_best_fixed) {
            (Some(optimum), Some(fixed)) => format!(
                "learned for each service from its own gaps, {optimum:.2} times the least possible cost, and {fixed:.2} \
                 times that of the best fixed timeout of each in hindsight"
            ),
            _ => "no gap has cost anything".to_owned(),
        };
        total
    }

    fn of(outcome: Outcome, best_fixed: u128) -> Self {
        let ratio = |to: u128| (to > 0).then(|| outcome.cost as f64 / to as f64);
        Self {
            timeout_seconds: None,
            cold_starts: outcome.cold_starts,
            warm_idle_seconds: seconds(outcome.warm_idle),
            cost_seconds: seconds(outcome.cost),
            optimum_seconds: Some(seconds(outcome.optimum)),
            ratio_to_optimum: ratio(outcome.optimum),
            best_fixed_cost_seconds: seconds(best_fixed),
            ratio_to_best_fixed: ratio(best_fixed),
            reason: String::new(),
            outcome,
            best_fixed,
        }
    }

    /// `1 min 30 s`; for all services together `auto`.
    pub fn timeout(&self) -> String {
        let timeout = self.timeout_seconds.map(|it| Span(span(it)).to_string());
        timeout.unwrap_or_else(|| "auto".to_owned())
    }
}
