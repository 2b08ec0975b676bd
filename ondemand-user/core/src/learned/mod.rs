//! An idle timeout that is learned from a service's own quiet gaps.
//!
//! A gap of length `g` under the timeout `T` costs `min(g, T)`, the time up and idle, and, if it is longer than `T`,
//! one cold start. What that one is worth is stated by a person, as a time up and idle: [`Terms`].
//!
//! Two [`memory::Memory`]s, a long and a short one, remember gaps by the class of the gap before. Each has a timeout
//! of the least expected cost, and the one that did better lately leads. A guard bounds what it may cost to believe
//! them: at most [`EARNED`] more than the fixed timeout of a cold start's cost would have, and [`STAKE`] cold starts.
//! That fixed timeout in turn costs at most twice what one who knew all gaps beforehand would have paid.
//!
//! It is a function of the gaps alone, in less than 4 KB.

mod memory;
mod reason;
mod scale;
mod starts;
pub mod stored;
mod tally;
mod terms;
#[cfg(test)]
mod tests;
mod trial;

use std::time::Duration;

use memory::Memory;
pub use reason::{Choice, Kind, Reason};
use scale::Class;
use serde::{Deserialize, Serialize};
pub use starts::Starts;
pub use tally::Tally;
pub use terms::{DEFAULT_COST, SHORTEST, Terms};
pub use trial::{Outcome, Trial};

/// The half-lives of the memories, in cold starts' worth of cost that nobody could avoid.
const HALF_LIVES: [f64; 2] = [100.0, 3.0];
/// The handicap of the second memory, in cold starts: it leads when it is better by that.
const HANDICAP: f64 = 2.0;
/// The half-life of the scores that choose between the memories, in the same unit.
const LEAD: f64 = 20.0;

/// What the policy may cost more than the fixed timeout. Cold starts.
pub const STAKE: f64 = 5.0;
/// What it may cost more than that, as a share of the fixed timeout's cost.
pub const EARNED: f64 = 0.05;
/// A number in a file may be that much larger than it was.
const ROUNDING: f64 = 1.0 + 1e-9;
/// At most this is saved up for worse times. Cold starts.
const SAVED_UP: f64 = 20.0;

/// What was learned of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    terms: Terms,
    memories: [Memory; 2],
    /// The class of the last gap.
    last: Option<Class>,
    /// What may be lost against the fixed timeout. Seconds.
    bank: f64,
    gaps: u64,
}

impl Learned {
    /// Nothing is known yet.
    pub fn new(terms: Terms) -> Self {
        let memory = |half_life, handicap| Memory::new(half_life, handicap * terms.cost());
        let mut learned = Self {
            terms,
            memories: [memory(HALF_LIVES[0], 0.0), memory(HALF_LIVES[1], HANDICAP)],
            last: None,
            bank: STAKE * terms.cost(),
            gaps: 0,
        };
        learned.advise();
        learned
    }

    /// The same by other terms. What a cold start costs is in all that was learned: with another cost nothing is known
    /// any more.
    pub fn by(self, terms: Terms) -> Self {
        if self.terms.cost() != terms.cost() {
            return Self::new(terms);
        }
        let mut learned = Self { terms, ..self };
        learned.advise();
        learned
    }

    /// Learns from a gap that is over.
    pub fn learn(&mut self, gap: Duration) {
        let gap = gap.as_secs_f64();
        let terms = &self.terms;
        let allowed = (1.0 + EARNED) * terms.cost_of(gap, terms.fixed());
        let paid = terms.cost_of(gap, self.guarded());
        self.bank = (self.bank + allowed - paid).min(SAVED_UP * terms.cost());
        let age = terms.unavoidable(gap) / terms.cost();
        for memory in &mut self.memories {
            memory.judge(age / LEAD, terms.cost_of(gap, memory.advice()));
            memory.learn(self.last, gap, age);
        }
        self.last = Some(Class::of(gap));
        self.gaps = self.gaps.saturating_add(1);
        self.advise();
    }

    /// How long to wait for the next client.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.guarded())
    }

    /// The timeout, and why.
    pub fn choice(&self) -> Choice {
        let reason = if self.guarded() == self.leader().advice() {
            self.leader().reason(self.last, &self.terms)
        } else {
            Reason::Lost
        };
        Choice {
            timeout: self.timeout(),
            reason,
        }
    }

    /// What it was told.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// The number of gaps that it has seen.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Whether it is a state that could have come from gaps: for one that was stored.
    pub fn is_sound(&self) -> bool {
        let bank = 0.0..=SAVED_UP.max(STAKE) * self.terms.cost() * ROUNDING;
        let mut memories = self.memories.iter().zip(HALF_LIVES);
        self.terms.is_sound()
            && bank.contains(&self.bank)
            && memories.all(|(memory, half_life)| memory.is_sound(half_life, &self.terms))
    }

    fn advise(&mut self) {
        for memory in &mut self.memories {
            memory.advise(self.last, &self.terms);
        }
    }

    fn leader(&self) -> &Memory {
        let [long, short] = &self.memories;
        if short.score() < long.score() {
            short
        } else {
            long
        }
    }

    /// The leader's timeout, as far as the guard lets it be. Seconds.
    ///
    /// A shorter one loses less than a cold start at once; of a longer one only the time beyond the fixed one is lost.
    fn guarded(&self) -> f64 {
        let (advice, fixed) = (self.leader().advice(), self.terms.fixed());
        if advice < fixed && self.bank < self.terms.cost() {
            fixed
        } else {
            advice.min(fixed + self.bank.max(0.0))
        }
    }
}
