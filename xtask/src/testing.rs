//! `cargo xtask test`, but for emulated machines.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    command::{Step, run},
    packages, toolchain,
};

/// The tests that need no privilege.
///
/// # Errors
///
/// One of them failed.
pub fn units(filter: Option<&str>) -> Result<()> {
    let filter: Vec<&str> = filter.into_iter().collect();
    // First what everything rests on, and what is built soonest: the core with the arrows between the rooms,
    // and the model of the stop protocol. Alone, the core has fewer features of some twenty crates.
    let core = [
        "test",
        "--package",
        "ondemand-core",
        "--lib",
        "--test",
        "rooms",
    ];
    run(&Step::cargo(&core).args(&filter))?;
    run(&Step::cargo(&["model"]).args(&filter))?;
    run(&Step::cargo(&["test", "--lib", "--bins"]).args(&filter))?;
    // The program as it is called (a glob of cargo's).
    run(&Step::cargo(&["test", "--test", "report_*", "--test", "completions"]).args(&filter))
}

/// The tests of whole systems. `root`: that of another distribution.
///
/// # Errors
///
/// One of them failed, or they cannot run there.
pub fn systems(long: bool, root: Option<&Path>, filter: Option<&str>) -> Result<()> {
    if let Some(reason) = tests::sandbox::unavailable() {
        if root.is_some() || tests::skip::is_all_required() {
            bail!("the tests of whole systems cannot run: {reason}");
        }
        println!("skipped: the tests of whole systems: {reason}");
        return Ok(());
    }
    let runner = root.map(runner).transpose()?;
    build::debug()?;
    // The tests that show what the stop protocol's steps are for.
    let ablated = [
        "--features",
        "ondemand/ablation",
        "--bin",
        "ondemand-ablated",
    ];
    run(&Step::cargo(&["build"]).args(&ablated))?;
    packages::for_tests()?;
    let runner: Vec<&str> = runner.iter().flat_map(|it| ["--config", it]).collect();
    // Three at a time: most wait for something most of the time.
    let at_a_time = if long { "1" } else { "3" };
    let filter: Vec<&str> = filter.into_iter().collect();
    let system = Step::cargo(&["test"])
        .args(&runner)
        .args(&["--test", "sandbox", "--test", "system"])
        .args(&filter)
        .args(&["--", "--test-threads", at_a_time]);
    if long {
        // Its figures are what it is run for.
        return run(&system.args(&["--nocapture"]).env("ONDEMAND_LONG", "1"));
    }
    run(&system)
}

/// The arguments of cargo for a test in the root of another distribution.
fn runner(root: &Path) -> Result<String> {
    let root = root
        .canonicalize()
        .with_context(|| format!("the root {}", root.display()))?;
    let missing = toolchain::packages_missing_in(&root);
    if !missing.is_empty() {
        bail!(
            "install these in {}: {}",
            root.display(),
            missing.join(", ")
        );
    }
    let script = tests::source_tree().join("tests/in-root.sh");
    let [script, root] = [script, root].map(|path| path.display().to_string());
    // The words as TOML strings, which have JSON's escapes.
    Ok(format!(
        "target.'cfg(unix)'.runner={}",
        serde_json::json!([script, root])
    ))
}
