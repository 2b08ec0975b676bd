//! Tools: whether one is there, and how to get it.

use std::{
    borrow::Cow,
    env,
    path::{Path, PathBuf},
};

use crate::command::Step;

/// Something that is needed and not there.
pub struct Missing {
    /// What it is.
    pub what: Cow<'static, str>,
    /// How to install it.
    pub how: Vec<Step>,
}

impl Missing {
    /// Whether apt installs it, which needs root and a list of packages.
    pub fn needs_apt(&self) -> bool {
        self.how.iter().any(|step| step.text().contains("apt-get"))
    }
}

/// Installs packages of Debian.
pub fn apt(packages: &[&str]) -> Step {
    Step::new(&["apt-get", "install", "--yes", "--no-install-recommends"])
        .args(&["-o", "DPkg::Lock::Timeout=300"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
}

/// Whether a program exists at this path, or in a directory of root's `PATH`, which may be longer than
/// that of the caller.
pub fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(sbin)
        .any(|directory| directory.join(program).is_file())
}
