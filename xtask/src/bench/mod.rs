//! `cargo xtask bench`: what ondemand costs, beside what people use today.

mod bpf;
mod checker;
mod cold_start;
mod counting;
mod data_path;
mod detection;
mod fleet;
mod load;
mod machine;
mod peers;
mod progress;
mod report;
mod stats;
mod stop_race;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use machine::Machine;
use report::{Report, Target};

use crate::command::{Step, run};

/// One bench: a name to call it by, and what it needs.
struct Bench {
    name: &'static str,
    measure: fn(&Settings) -> Result<Measured>,
}

/// All there are.
const BENCHES: [Bench; 5] = [
    Bench {
        name: "data-path",
        measure: data_path::measure,
    },
    Bench {
        name: "counting",
        measure: counting::measure,
    },
    Bench {
        name: "cold-start",
        measure: cold_start::measure,
    },
    Bench {
        name: "detection",
        measure: detection::measure,
    },
    Bench {
        name: "stop-race",
        measure: stop_race::measure,
    },
];

/// What a bench is told.
struct Settings {
    /// How often everything is measured; each bench has a default of its own.
    rounds: Option<u32>,
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
    run(&Step::cargo(&[
        "build",
        "--release",
        "--package",
        "ondemand-user",
    ]))?;
    let settings = Settings {
        rounds: options.rounds,
        ondemand: released("ondemand")?,
    };
    let directory = target_directory()?.join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut absurd = Vec::new();
    for bench in BENCHES {
        if !options.names.is_empty() && !options.names.iter().any(|name| name == bench.name) {
            continue;
        }
        let Measured { machine, report } =
            (bench.measure)(&settings).with_context(|| format!("the bench {}", bench.name))?;
        report.print(&machine);
        let markdown = report.markdown(&machine);
        let json = serde_json::to_string_pretty(&report.json(&machine))?;
        for (ending, text) in [("md", &markdown), ("json", &json)] {
            let path = directory.join(format!("{}.{ending}", bench.name));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("written: {}", path.display());
        }
        println!();
        if options.readme {
            update_readme(bench.name, &markdown)?;
        }
        let far_off = report.targets.iter().filter(|target| target.is_absurd());
        absurd.extend(far_off.map(|Target { what, .. }| format!("{}: {what}", bench.name)));
    }
    if options.check && !absurd.is_empty() {
        println!("off by more than a factor of 2:\n  {}", absurd.join("\n  "));
        return Ok(false);
    }
    Ok(true)
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

/// Replaces a bench's part of the README, between its two marks.
fn update_readme(name: &str, markdown: &str) -> Result<()> {
    let path = tests::source_tree().join("README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let new = replace_part(&text, name, markdown).with_context(|| {
        format!(
            "{} has no line <!-- bench {name} --> with its <!-- end -->",
            path.display()
        )
    })?;
    fs::write(&path, new).with_context(|| format!("write {}", path.display()))?;
    println!("updated: {}", path.display());
    Ok(())
}

fn replace_part(text: &str, name: &str, part: &str) -> Option<String> {
    let (before, rest) = text.split_once(&format!("<!-- bench {name} -->\n"))?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!(
        "{before}<!-- bench {name} -->\n{part}<!-- end -->{after}"
    ))
}

#[cfg(test)]
mod tests_of_readme {
    use super::replace_part;

    #[test]
    fn only_its_own_part_is_replaced() {
        let text =
            "a\n<!-- bench x -->\nold\n<!-- end -->\nb\n<!-- bench y -->\nkept\n<!-- end -->\n";
        let new = replace_part(text, "x", "new\n");
        let wanted = text.replace("old", "new");
        assert_eq!(new.as_deref(), Some(wanted.as_str()));
        assert_eq!(replace_part(text, "z", "new\n"), None);
    }
}
