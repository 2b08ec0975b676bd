//! The input and the result of a bench.

use std::path::PathBuf;

use crate::{machine::Machine, report::Report};

/// The input of a bench.
pub struct Settings {
    /// How often everything is measured; each bench has a default of its own.
    pub rounds: Option<u32>,
    /// How long the soak lasts; it has a default of its own.
    pub minutes: Option<u32>,
    /// The program that is measured.
    pub ondemand: PathBuf,
}

impl Settings {
    /// Whether it is only to be seen that the bench works: with a single round it may be smaller.
    pub fn is_short(&self) -> bool {
        self.rounds == Some(1)
    }
}

/// What a bench returns.
pub struct Measured {
    /// Where it was measured.
    pub machine: Machine,
    /// The figures.
    pub report: Report,
}

/// What is measured in this round, in its order: each second one backwards, so that none always comes first.
pub fn alternating<T, const N: usize>(mut ways: [T; N], round: u32) -> [T; N] {
    if round % 2 == 1 {
        ways.reverse();
    }
    ways
}
