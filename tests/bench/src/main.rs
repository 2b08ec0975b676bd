//! `cargo xtask bench`: what ondemand costs, beside what people use today.

mod bpf;
mod checker;
mod cold_start;
mod counting;
mod data_path;
mod detection;
mod fleet;
mod holders;
mod load;
mod machine;
mod peers;
mod pins;
mod plot;
mod progress;
mod report;
mod scale;
mod soak;
mod stats;
mod stop_race;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use machine::Machine;
use plot::Plot;
use report::{ABSURD, Report, Target};

use crate::command::{Step, run};

/// One bench: a name to call it by, and what it needs.
struct Bench {
    name: &'static str,
    measure: fn(&Settings) -> Result<Measured>,
    /// What is drawn of it.
    plots: fn(&Report) -> Vec<Plot>,
    /// What must hold on a machine that is busy, give or take a factor of [`Bench::margin`].
    checks: fn(&Report) -> Vec<Target>,
    margin: f64,
}

/// All there are.
const BENCHES: [Bench; 7] = [
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
        name: "soak",
        measure: soak::measure,
        plots: soak::plots,
        checks: targets,
        margin: ABSURD,
    },
];

/// What a bench is told.
struct Settings {
    /// How often everything is measured; each bench has a default of its own.
    rounds: Option<u32>,
    /// How long the soak lasts; it has a default of its own.
    minutes: Option<u32>,
    /// The program, built for release.
    ondemand: PathBuf,
}

impl Settings {
    /// Whether it is only to be seen that the bench works: with a single round it may be smaller.
    fn is_short(&self) -> bool {
        self.rounds == Some(1)
    }
}

/// What a bench gives back.
struct Measured {
    machine: Machine,
    report: Report,
}

/// What was asked for on the command line.
pub struct Options {
    /// Which; all of them if there is none.
    pub names: Vec<String>,
    /// How often everything is measured.
    pub rounds: Option<u32>,
    /// How long the soak lasts.
    pub minutes: Option<u32>,
    /// Whether the tables go into README.md.
    pub readme: bool,
    /// Whether an absurd figure is an error.
    pub check: bool,
}

/// The names of all benches.
pub fn names() -> [&'static str; BENCHES.len()] {
    BENCHES.map(|bench| bench.name)
}

/// Measures, prints, and writes `target/bench/`. Gives whether nothing was absurd, or nobody
/// wanted to know.
///
/// # Errors
///
/// A bench could not be carried through. A target that is missed is no error.
pub fn bench(options: &Options) -> Result<bool> {
    let ondemand = build(options.check)?;
    let settings = Settings {
        rounds: options.rounds.or(options.check.then_some(1)),
        minutes: options.minutes,
        ondemand,
    };
    let directory = target_directory()?.join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut absurd = Vec::new();
    for bench in BENCHES {
        if !options.names.is_empty() && !options.names.iter().any(|name| name == bench.name) {
            continue;
        }
        let mut measured = bench.measure(&settings)?;
        if options.check && !bench.absurd(&measured.report).is_empty() {
            println!(
                "{}: once more, that may be somebody else's load",
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
            update_readme(bench.name, &markdown)?;
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

/// Builds what is measured, and the clients. To see whether a bench works it is as the tests
/// have it: to build it for release takes longer than the benches.
fn build(check: bool) -> Result<PathBuf> {
    // The whole workspace: a package alone would have dependencies with other features, built anew.
    run(&Step::cargo(&["build", "--workspace"]))?;
    if check {
        return tests::built("ondemand");
    }
    run(&Step::cargo(&[
        "build",
        "--package",
        "ondemand",
        "--release",
    ]))?;
    released("ondemand")
}

/// The directory that cargo builds into.
fn target_directory() -> Result<PathBuf> {
    let this = tests::built("xtask")?;
    let directory = this.parent().and_then(Path::parent);
    Ok(directory.context("the target directory")?.to_owned())
}

/// A program that was built for release, whatever this one was built for.
fn released(program: &str) -> Result<PathBuf> {
    Ok(target_directory()?.join("release").join(program))
}

/// Replaces a bench's part of the README, between its two marks; a new one goes behind the last.
fn update_readme(name: &str, markdown: &str) -> Result<()> {
    let path = tests::source_tree().join("README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let new = replace_part(&text, name, markdown)
        .or_else(|| add_part(&text, name, markdown))
        .with_context(|| format!("{} has no line {END}", path.display()))?;
    fs::write(&path, new).with_context(|| format!("write {}", path.display()))?;
    println!("updated: {}", path.display());
    Ok(())
}

/// Ends each bench's part.
const END: &str = "<!-- end -->";

fn replace_part(text: &str, name: &str, part: &str) -> Option<String> {
    let begin = format!("<!-- bench {name} -->\n");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}{part}{END}{after}"))
}

fn add_part(text: &str, name: &str, part: &str) -> Option<String> {
    let (before, after) = text.rsplit_once(END)?;
    Some(format!(
        "{before}{END}\n\n<!-- bench {name} -->\n{part}{END}{after}"
    ))
}

#[cfg(test)]
mod tests_of_readme {
    use super::{add_part, replace_part};

    const TEXT: &str =
        "a\n<!-- bench x -->\nold\n<!-- end -->\nb\n<!-- bench y -->\nkept\n<!-- end -->\nc\n";

    #[test]
    fn only_its_own_part_is_replaced() {
        let new = replace_part(TEXT, "x", "new\n");
        let wanted = TEXT.replace("old", "new");
        assert_eq!(new.as_deref(), Some(wanted.as_str()));
        assert_eq!(replace_part(TEXT, "z", "new\n"), None);
    }

    #[test]
    fn a_new_part_goes_behind_the_last() {
        let new = add_part(TEXT, "z", "new\n");
        let wanted = TEXT.replace("\nc\n", "\n\n<!-- bench z -->\nnew\n<!-- end -->\nc\n");
        assert_eq!(new.as_deref(), Some(wanted.as_str()));
        assert_eq!(add_part("nothing", "z", "new\n"), None);
    }
}
