//! The command line of the benches: `cargo xtask bench` reads it, the program in `tests/bench`
//! measures.

use clap::{Args, value_parser};

/// The benches, in the order in which they run.
pub const NAMES: [&str; 10] = [
    "data-path",
    "counting",
    "cold-start",
    "datagrams",
    "detection",
    "stop-race",
    "scale",
    "growth",
    "crowd",
    "soak",
];

/// What is measured, and how.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which [default: all of them]
    #[arg(value_parser = NAMES)]
    pub names: Vec<String>,
    /// How often everything is measured [default: each bench has its own]
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// How long the soak lasts [default: 60; with --rounds 1 a quarter of one]
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    pub minutes: Option<u32>,
    /// Put the tables into BENCHMARKS.md
    #[arg(long)]
    pub readme: bool,
    /// Fail if a figure is so far off its target that no noise explains it; by default in
    /// one small round, of the program as it is built for the tests
    #[arg(long, conflicts_with = "readme")]
    pub check: bool,
}

impl Options {
    /// The same as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.names.clone();
        for (name, number) in [("--rounds", self.rounds), ("--minutes", self.minutes)] {
            words.extend(number.map(|number| format!("{name}={number}")));
        }
        for (name, is_set) in [("--readme", self.readme), ("--check", self.check)] {
            words.extend(is_set.then(|| name.to_owned()));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, FromArgMatches as _, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[track_caller]
    fn check(options: &Options) {
        let words = std::iter::once("bench".to_owned()).chain(options.words());
        let matches = Cli::command().try_get_matches_from(words).unwrap();
        assert_eq!(Options::from_arg_matches(&matches).unwrap(), *options);
    }

    #[test]
    fn words_are_read_again() {
        check(&Options::default());
        check(&Options {
            names: vec!["soak".into(), "scale".into()],
            rounds: Some(3),
            minutes: Some(5),
            readme: true,
            check: false,
        });
        check(&Options {
            rounds: Some(u32::MAX),
            check: true,
            ..Options::default()
        });
    }
}
