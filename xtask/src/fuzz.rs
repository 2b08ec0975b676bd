//! Fuzzing with libFuzzer, by cargo-fuzz.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command::{Step, run};

/// Beside `ondemand-user`, relative to the top of the source tree.
const DIRECTORY: &str = "ondemand-user/fuzz";
/// The longest input in bytes: a small database, a head of a request that is too long.
const LONGEST: &str = "9216";

/// Runs this number of inputs on each of these targets; on all of them if none is named. With
/// `sanitizer` it also finds memory errors of C code that cause no panic.
///
/// # Errors
///
/// A target does not exist, does not build, or crashed: the output names it.
pub fn fuzz(names: &[String], runs: u64, sanitizer: bool) -> Result<()> {
    let top = tests::source_tree();
    let targets = targets()?;
    if let Some(unknown) = names.iter().find(|name| !targets.contains(name)) {
        bail!("no target {unknown:?}; there are: {}", targets.join(", "));
    }
    let chosen = if names.is_empty() { &targets } else { names };
    // What is fuzzed is what is built: the same versions of everything.
    let lock = top.join(DIRECTORY).join("Cargo.lock");
    fs::copy(top.join("Cargo.lock"), &lock).with_context(|| format!("write {}", lock.display()))?;
    for name in chosen {
        let corpus = top.join("target/fuzz/corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
        let mut step = cargo_fuzz("run", sanitizer).args(&[name.as_str()]);
        // libFuzzer adds what it finds to the first directory.
        step = step.args(&[&format!("target/fuzz/corpus/{name}")]);
        step = step.args(&[&format!("{DIRECTORY}/seeds/{name}"), "--"]);
        step = step.args(&[&format!("-runs={runs}"), &format!("-max_len={LONGEST}")]);
        step = step.args(&["-timeout=10", "-print_final_stats=1"]);
        let dictionary = format!("{DIRECTORY}/dictionaries/{name}.dict");
        if top.join(&dictionary).exists() {
            step = step.args(&[&format!("-dict={dictionary}")]);
        }
        run(&step).with_context(|| format!("fuzz {name}"))?;
        println!("✓ {name}: at least {runs} inputs, no crash");
    }
    Ok(())
}

fn cargo_fuzz(command: &str, sanitizer: bool) -> Step {
    let step = Step::cargo(&["fuzz", command, "--fuzz-dir", DIRECTORY]);
    let step = step.args(&["--target-dir", "target/fuzz", "--sanitizer"]);
    if sanitizer {
        // Stable compilers keep sanitizers behind this switch.
        step.args(&["address"]).env("RUSTC_BOOTSTRAP", "1")
    } else {
        step.args(&["none"])
    }
}

/// The names of all targets, sorted.
fn targets() -> Result<Vec<String>> {
    let directory: PathBuf = tests::source_tree().join(DIRECTORY).join("fuzz_targets");
    let entries =
        fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}
