//! A test that cannot run here prints why and passes, or fails where everything is required.

use std::{
    env,
    fmt::Display,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
};

/// Where this is set to 1, as in CI, a test that cannot run fails.
pub const REQUIRE_ALL: &str = "ONDEMAND_REQUIRE_ALL";

/// Whether everything is required: no test may be skipped.
pub fn is_all_required() -> bool {
    env::var_os(REQUIRE_ALL).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Where this is set, as by `cargo xtask test --long`, tests run that take minutes or add little to another one.
pub const LONG: &str = "ONDEMAND_LONG";

/// Whether the long tests run, and the others at their full size.
pub fn is_long() -> bool {
    env::var_os(LONG).is_some()
}

/// Where this is set, as in the machine of `cargo xtask test --vm`, the whole machine belongs to the tests: its clock,
/// its limits.
pub const OWN_MACHINE: &str = "ONDEMAND_OWN_MACHINE";

/// Whether it does.
pub fn is_own_machine() -> bool {
    env::var_os(OWN_MACHINE).is_some()
}

/// Whether the calling test must return, because it is left out of the usual ones; prints why.
pub fn is_left_out(reason: impl Display) -> bool {
    let is_left_out = !is_long();
    if is_left_out {
        say(format_args!("{reason}; cargo xtask test --long"));
    }
    is_left_out
}

/// Whether the calling test must return, because it cannot run here; prints why.
///
/// # Panics
///
/// It cannot run, and everything is required.
#[track_caller]
pub fn skips(reason: Option<impl Display>) -> bool {
    let is_missing = reason.is_some();
    if let Some(reason) = reason {
        part(reason);
    }
    is_missing
}

/// The same for a part of a test, which continues without it.
///
/// # Panics
///
/// Everything is required.
#[track_caller]
pub fn part(reason: impl Display) {
    assert!(
        !is_all_required(),
        "cannot run here, and {REQUIRE_ALL} is set: {reason}"
    );
    say(reason);
}

/// Prints that something is skipped, even if the output of tests is captured. For cases that are
/// never a failure: a test that is left out by choice, a check that this machine's kernel cannot
/// take.
pub fn say(reason: impl Display) {
    let test = thread::current();
    // Not eprintln!, whose output the test harness keeps to itself. A write that fails loses this
    // notice and nothing else.
    let _ = match test.name() {
        Some(name) if name != "main" => writeln!(io::stderr(), "skipped: {reason} ({name})"),
        _ => writeln!(io::stderr(), "skipped: {reason}"),
    };
}

/// Which of these programs is neither in `PATH` nor where root's programs are, if one is not;
/// a path stands for itself.
pub fn missing(programs: &[&str]) -> Option<String> {
    let absent = programs.iter().find(|program| find(program).is_none())?;
    Some(format!("{absent} is not installed"))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(sbin)
        .map(|directory| directory.join(Path::new(program)))
        .find(|place| place.is_file())
}

/// Returns from a test that cannot run here, for this `Option` of a reason; see [`skip::skips`].
/// What the test returns then, if it is not `()`, is the second argument.
///
/// [`skip::skips`]: crate::skip::skips
#[macro_export]
macro_rules! require {
    ($reason:expr $(, $passed:expr)?) => {
        if $crate::skip::skips($reason) {
            return $($passed)?;
        }
    };
}

/// Returns from a test that is left out of the usual ones, for this reason; see [`skip::is_left_out`].
///
/// [`skip::is_left_out`]: crate::skip::is_left_out
#[macro_export]
macro_rules! require_long {
    ($reason:expr) => {
        if $crate::skip::is_left_out($reason) {
            return;
        }
    };
}

/// Returns from a test that needs a sandbox, where none can be booted; see [`require!`].
#[macro_export]
macro_rules! require_sandbox {
    ($($passed:expr)?) => {
        $crate::require!($crate::sandbox::unavailable() $(, $passed)?);
    };
}
