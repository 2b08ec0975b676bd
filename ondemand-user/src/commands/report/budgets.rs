//! What a larger or smaller `memory_budget` would have meant.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use ondemand_core::{
    config::MemoryBudget,
    room::simulation::{Simulation, Size},
    words::{Span, counted},
};
use serde::Serialize;

use super::headline::gib;
use crate::observe::history::{
    Loaded,
    arrivals::{Happened, Use},
};

/// Parts of the budget that is compared.
const OF_BUDGET: [f64; 5] = [0.5, 0.75, 1.0, 1.5, 2.0];
/// Parts of what all services would take, where the budget is no number.
const OF_ALL: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// What a cold start takes of a service of which none was seen, as for the agent.
const UNKNOWN_START: Duration = Duration::from_secs(1);

/// The budgets, side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Budgets {
    /// The one of the configuration; null: `auto`.
    pub memory_budget_bytes: Option<u64>,
    /// What all of these services take together.
    pub all_bytes: u64,
    /// How many services count.
    pub services: u64,
    /// How many do not, since their memory was never measured.
    pub services_left_out: u64,
    /// Ascending.
    pub outcomes: Vec<Outcome>,
}

/// What a budget would have come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The budget.
    pub budget_bytes: u64,
    /// Starts for which a client would have waited.
    pub cold_starts: u64,
    /// How long, in all.
    pub waited_seconds: f64,
    /// Stops to make room.
    pub evictions: u64,
    /// The most that would have been taken at once: more than the budget if that much was in use.
    pub most_bytes: u64,
}

/// The services whose memory is known, and what they take.
pub fn sizes(loaded: &[Loaded]) -> (Vec<&str>, Vec<Size>) {
    let known = loaded.iter().filter_map(|service| {
        let size = Size {
            memory: service.memory()?,
            cold_start: service.usual_start().unwrap_or(UNKNOWN_START),
        };
        Some((service.name.as_str(), size))
    });
    known.unzip()
}

/// Replays these uses. `all`: the number of all services, of which those with these sizes count.
pub fn of(budget: MemoryBudget, all: usize, sizes: &[Size], uses: &[Use]) -> Budgets {
    let all_bytes: u64 = sizes.iter().map(|size| size.memory).sum();
    let memory_budget_bytes = match budget {
        MemoryBudget::Bytes(bytes) => Some(bytes),
        MemoryBudget::Auto { .. } => None,
    };
    let (base, parts) = match memory_budget_bytes {
        Some(bytes) => (bytes, &OF_BUDGET[..]),
        None => (all_bytes, &OF_ALL[..]),
    };
    let outcome = |part: &f64| {
        let budget_bytes = (base as f64 * part) as u64;
        let mut simulation = Simulation::new(sizes, budget_bytes);
        for of in uses {
            match of.what {
                Happened::Quiet => simulation.quiet(of.service),
                Happened::Unknown => simulation.gone(of.service),
                Happened::Used => simulation.used(of.service),
            }
        }
        let found = simulation.outcome();
        Outcome {
            budget_bytes,
            cold_starts: found.cold_starts,
            waited_seconds: found.waited.as_secs_f64(),
            evictions: found.evictions,
            most_bytes: found.most,
        }
    };
    Budgets {
        memory_budget_bytes,
        all_bytes,
        services: sizes.len() as u64,
        services_left_out: all.saturating_sub(sizes.len()) as u64,
        outcomes: parts.iter().map(outcome).collect(),
    }
}

impl Budgets {
    /// Writes the table.
    pub fn write(&self, text: &mut String) -> fmt::Result {
        let now = match self.memory_budget_bytes {
            Some(bytes) => size(bytes),
            None => "auto".to_owned(),
        };
        writeln!(
            text,
            "OTHER MEMORY BUDGETS (it is {now}; {} together take {})",
            counted(self.services, "service"),
            size(self.all_bytes)
        )?;
        writeln!(
            text,
            "  {:>14}  {:>12}  {:>16}  {:>16}",
            "BUDGET", "COLD STARTS", "WAITED IN ALL", "MOST AT ONCE"
        )?;
        for outcome in &self.outcomes {
            let is_now = self.memory_budget_bytes == Some(outcome.budget_bytes);
            let waited = Duration::try_from_secs_f64(outcome.waited_seconds).unwrap_or_default();
            writeln!(
                text,
                "{} {:>14}  {:>12}  {:>16}  {:>16}",
                if is_now { '>' } else { ' ' },
                size(outcome.budget_bytes),
                outcome.cold_starts,
                Span(waited).to_string(),
                size(outcome.most_bytes),
            )?;
        }
        if self.services_left_out > 0 {
            let left_out = counted(self.services_left_out, "service");
            writeln!(text, "Without {left_out} whose memory was never measured.")?;
        }
        writeln!(text)
    }
}

fn size(bytes: u64) -> String {
    gib(bytes as f64 / (1_u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_parts_of_the_budget_or_of_all() {
        let size = |mib: u64| Size {
            memory: mib << 20,
            cold_start: Duration::from_secs(2),
        };
        let found = of(MemoryBudget::Bytes(8 << 20), 3, &[size(4), size(6)], &[]);
        let budgets: Vec<u64> = found
            .outcomes
            .iter()
            .map(|it| it.budget_bytes >> 20)
            .collect();
        assert_eq!(budgets, [4, 6, 8, 12, 16]);
        assert_eq!((found.all_bytes >> 20, found.services_left_out), (10, 1));
        let found = of(
            MemoryBudget::Auto { reserve: 1 },
            2,
            &[size(4), size(8)],
            &[],
        );
        let budgets: Vec<u64> = found
            .outcomes
            .iter()
            .map(|it| it.budget_bytes >> 20)
            .collect();
        assert_eq!(budgets, [3, 6, 9, 12]);
        let mut text = String::new();
        found.write(&mut text).unwrap();
        assert!(
            text.contains("it is auto; 2 services together take 12 MiB"),
            "{text}"
        );
    }
}
