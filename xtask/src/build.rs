//! Builds, and the programs that run afterwards.
//!
//! Without a choice of packages cargo takes the `default-members` of Cargo.toml: everything but the
//! benches. A shared dependency gets the features that all of them request, and is built once for
//! all programs.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use tests::bench::Options;

use crate::command::{Step, run};

/// Builds everything but the benches.
///
/// # Errors
///
/// It does not build.
pub fn debug() -> Result<()> {
    run(&Step::cargo(&["build"]))
}

/// Builds some programs alone.
///
/// # Errors
///
/// They do not build.
pub fn programs(names: &[&str]) -> Result<()> {
    let words: Vec<&str> = names.iter().flat_map(|name| ["--bin", name]).collect();
    run(&Step::cargo(&["build"]).args(&words))
}

/// Builds the program with optimizations, and with its debug information in it.
///
/// # Errors
///
/// It does not build.
pub fn optimized() -> Result<()> {
    run(&Step::cargo(&[
        "build",
        "--package",
        "ondemand",
        "--release",
    ]))
}

/// Builds the program with optimizations, and takes its debug information out into `ondemand.debug`
/// beside it, where debuggers find it (`.gnu_debuglink`, the GDB manual's "Separate Debug Files").
///
/// # Errors
///
/// It does not build, or objcopy is missing: binutils has it, which comes with a C compiler.
pub fn release() -> Result<()> {
    optimized()?;
    let (program, debug) = ("target/release/ondemand", "target/release/ondemand.debug");
    let stripped = "target/release/ondemand.stripped";
    run(&Step::new(&[
        "objcopy",
        "--only-keep-debug",
        "--compress-debug-sections",
        program,
        debug,
    ]))?;
    let link = format!("--add-gnu-debuglink={debug}");
    run(&Step::new(&[
        "objcopy",
        "--strip-all",
        &link,
        program,
        stripped,
    ]))?;
    // Cargo's own copy, which has another name too, stays as it is: otherwise it would be linked again.
    let top = tests::source_tree();
    fs::rename(top.join(stripped), top.join(program)).context("put the stripped program in place")
}

/// Builds the benches and what they measure, and becomes them.
///
/// To see whether a bench works, the program is as the tests have it: to build it for release takes
/// longer than the benches.
///
/// # Errors
///
/// Something does not build, or cannot be run.
pub fn bench(options: &Options) -> Result<()> {
    run(&Step::cargo(&["build", "--workspace"]))?;
    if !options.check {
        release()?;
    }
    let program = tests::built("bench")?;
    let error = Command::new(&program).args(options.words()).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

/// The agent in the foreground, on the systemd that runs this machine.
///
/// # Errors
///
/// It is not systemd, the agent does not build, or it failed.
pub fn run_on_host(config: &Path) -> Result<()> {
    let systemd = Path::new("/run/systemd/system"); // sd_booted(3)
    if !systemd.is_dir() {
        bail!("PID 1 of this machine is not systemd: leave --host out to run in a private one");
    }
    let config = std::path::absolute(config)?;
    release()?;
    let program = tests::source_tree().join("target/release/ondemand");
    let program = program.to_string_lossy().into_owned();
    run(&Step::new(&[
        &program,
        "--config",
        &config.to_string_lossy(),
        "agent",
    ]))
}
