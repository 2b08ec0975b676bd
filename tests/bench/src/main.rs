//! What ondemand costs, beside what people use today. `cargo xtask bench` builds and runs this.

mod bpf;
mod bus;
mod checker;
mod cold_start;
mod counting;
mod crowd;
mod data_path;
mod datagrams;
mod detection;
mod document;
mod fleet;
mod growth;
mod holders;
mod load;
mod machine;
mod peers;
mod pins;
mod plot;
mod progress;
mod report;
mod scale;
mod settings;
mod soak;
mod stats;
mod stop_race;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use plot::Plot;
use report::{ABSURD, Report, Target};
use settings::{Measured, Settings};
use tests::bench::{NAMES, Options};

/// One bench: a name to call it by, and what it needs.
struct Bench {
    name: &'static str,
    measure: fn(&Settings) -> Result<Measured>,
    /// What is drawn of it.
    plots: fn(&Report) -> Vec<Plot>,
    /// What must hold on a busy machine, give or take a factor of [`Bench::margin`].
    checks: fn(&Report) -> Vec<Target>,
    margin: f64,
}

/// All there are, in the order of [`NAMES`].
const BENCHES: [Bench; NAMES.len()] = [
    Bench {
        name: "data-path",
        measure: data_path::measure,
        plots: plot::bars,
        checks: data_path::checks,
        margin: ABSURD,
    },
    Bench {
        name: "counting",
        measure: counting::measure,
        plots: plot::bars,
        checks: targets,
        // Of nanoseconds, which depend on the machine.
        margin: 10.0,
    },
    Bench {
        name: "cold-start",
        measure: cold_start::measure,
        plots: plot::bars,
        checks: cold_start::checks,
        margin: ABSURD,
    },
    Bench {
        name: "datagrams",
        measure: datagrams::measure,
        plots: plot::bars,
        checks: datagrams::checks,
        margin: ABSURD,
    },
    Bench {
        name: "detection",
        measure: detection::measure,
        plots: plot::bars,
        checks: targets,
        margin: ABSURD,
    },
    Bench {
        name: "stop-race",
        measure: stop_race::measure,
        plots: plot::bars,
        checks: targets,
        margin: ABSURD,
    },
    Bench {
        name: "scale",
        measure: scale::measure,
        plots: scale::plots,
        checks: targets,
        margin: ABSURD,
    },
    Bench {
        name: "growth",
        measure: growth::measure,
        plots: growth::plots,
        checks: growth::checks,
        // Of milliseconds of CPU time, which depend on the machine and the build.
        margin: 4.0,
    },
    Bench {
        name: "crowd",
        measure: crowd::measure,
        plots: plot::bars,
        checks: targets,
        // The agent as it is built for the tests takes ten times as long, and PID 1 does not.
        margin: 30.0,
    },
    Bench {
        name: "soak",
        measure: soak::measure,
        plots: soak::plots,
        checks: targets,
        margin: ABSURD,
    },
];

/// Measures what ondemand costs: run `cargo xtask bench`, which builds what this needs.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    match bench(&Cli::parse().options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, and writes `target/bench/`. Returns whether nothing was absurd, or the
/// options do not ask for that.
///
/// # Errors
///
/// A bench could not be completed. A missed target is not an error.
fn bench(options: &Options) -> Result<bool> {
    let ondemand = program(options.check)?;
    let settings = Settings {
        rounds: options.rounds.or(options.check.then_some(1)),
        minutes: options.minutes,
        ondemand,
    };
    let directory = tests::target_directory()?.join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut absurd = Vec::new();
    for bench in BENCHES {
        if !options.names.is_empty() && !options.names.iter().any(|name| name == bench.name) {
            continue;
        }
        let mut measured = bench.measure(&settings)?;
        if options.check && !bench.absurd(&measured.report).is_empty() {
            println!(
                "{}: once more, as other load may have disturbed it",
                bench.name
            );
            measured = bench.measure(&settings)?;
        }
        let Measured { machine, report } = measured;
        let markdown = report.markdown(&machine);
        let json = serde_json::to_string_pretty(&report.json(&machine))?;
        let svg = plot::svg(report.title, &(bench.plots)(&report))?;
        for (ending, text) in [("md", &markdown), ("json", &json), ("svg", &svg)] {
            let path = directory.join(format!("{}.{ending}", bench.name));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("written: {}", path.display());
        }
        println!();
        if options.readme {
            document::update(bench.name, &markdown)?;
        }
        absurd.extend(bench.absurd(&report));
    }
    if options.check && !absurd.is_empty() {
        println!("far off, twice:\n  {}", absurd.join("\n  "));
        return Ok(false);
    }
    Ok(true)
}

impl Bench {
    fn measure(&self, settings: &Settings) -> Result<Measured> {
        let measured = (self.measure)(settings);
        let measured = measured.with_context(|| format!("the bench {}", self.name))?;
        measured.report.print(&measured.machine);
        Ok(measured)
    }

    /// What is so far off that no noise explains it.
    fn absurd(&self, report: &Report) -> Vec<String> {
        let mut checks = (self.checks)(report);
        checks.retain(|check| check.is_off_by(self.margin));
        let text = |check: &Target| {
            let median = check.series.median();
            format!("{}: {}: {median:.2}", self.name, check.what)
        };
        checks.iter().map(text).collect()
    }
}

/// All that is wanted.
fn targets(report: &Report) -> Vec<Target> {
    report.targets.clone()
}

/// The program that is measured: the one that is built for release, or with `check` the one that
/// the tests have.
fn program(check: bool) -> Result<PathBuf> {
    if check {
        return tests::built("ondemand");
    }
    let program = tests::target_directory()?.join("release/ondemand");
    ensure!(
        program.exists(),
        "{} is not there: run `cargo xtask bench`, which builds it",
        program.display()
    );
    Ok(program)
}

#[cfg(test)]
mod tests_of_names {
    use super::{BENCHES, NAMES};

    #[test]
    fn each_name_is_that_of_a_bench() {
        assert_eq!(BENCHES.map(|bench| bench.name), NAMES);
    }
}
