//! The properties of the machine that its unit files depend on.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// The user of `units/sysusers.d/ondemand.conf`.
const USER: &str = "ondemand";

/// Whether `/etc/passwd` has the user. A generator must not query NSS, whose services may not be
/// up yet (systemd.generator(7)).
fn has_user(passwd: &str) -> bool {
    passwd
        .lines()
        .any(|line| line.split(':').next() == Some(USER))
}

/// The machine of the units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The path of this program.
    pub ondemand: String,
    /// The proxy's system user; `None`: root, without capabilities.
    pub user: Option<String>,
    /// The major version of systemd; `None`: unknown, so only directives of all versions are used.
    pub systemd: Option<u32>,
    /// Where its unit files are.
    pub unit_directories: Vec<PathBuf>,
}

impl Host {
    /// Returns this machine.
    ///
    /// # Errors
    ///
    /// The path of this program cannot be found, or is not UTF-8.
    pub fn here() -> Result<Self> {
        // Symbolic links are resolved: as a generator the program has another name.
        let ondemand = std::env::current_exe().context("find the path of this program")?;
        let ondemand = ondemand
            .to_str()
            .with_context(|| format!("the path {ondemand:?} is not UTF-8"))?;
        Ok(Self {
            ondemand: ondemand.to_owned(),
            user: has_user(&fs::read_to_string("/etc/passwd").unwrap_or_default())
                .then(|| USER.to_owned()),
            systemd: systemd_version(),
            unit_directories: super::restart::directories(),
        })
    }
}

/// Returns the version of the installed systemd, by its private library `libsystemd-shared-252.so`.
///
/// A generator cannot query PID 1, which waits for it, and this needs no other program.
pub(super) fn systemd_version() -> Option<u32> {
    let nested = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("systemd"));
    [
        "/usr/lib/systemd".into(),
        "/usr/lib64/systemd".into(),
        "/lib/systemd".into(),
    ]
    .into_iter()
    .chain(nested)
    .filter_map(|directory| fs::read_dir(directory).ok())
    .flatten()
    .flatten()
    .find_map(|entry| library_version(entry.file_name().to_str()?))
}

/// Returns `252` for `libsystemd-shared-252.so`, `257` for `libsystemd-shared-257.7-1.so`.
fn library_version(file_name: &str) -> Option<u32> {
    let version = file_name.strip_prefix("libsystemd-shared-")?;
    let digits = version.find(|c: char| !c.is_ascii_digit())?;
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_user_is_found_by_its_whole_name() {
        assert!(has_user(
            "root:x:0:0::/:/bin/sh\nondemand:x:990:990::/:/usr/sbin/nologin\n"
        ));
        assert!(!has_user("ondemand2:x:990:990::/:/usr/sbin/nologin\n"));
    }

    #[test]
    fn the_library_tells_the_version() {
        #[track_caller]
        fn check(file_name: &str, expected: Option<u32>) {
            assert_eq!(library_version(file_name), expected);
        }
        check("libsystemd-shared-252.so", Some(252));
        check("libsystemd-shared-257.7-1.fc42.so", Some(257));
        check("libsystemd-shared-.so", None);
        check("libsystemd-core-252.so", None);
    }
}
