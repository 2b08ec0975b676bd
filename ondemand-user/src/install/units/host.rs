//! The properties of the machine that its unit files depend on.

use std::{fs, io};

use anyhow::{Context as _, Result};

use super::restart;
use crate::host::unit_files::UnitFiles;

/// The user of `units/sysusers.d/ondemand.conf`.
const USER: &str = "ondemand";

/// Whether the user exists, by the text of `/etc/passwd`. A generator must not query NSS, whose services may not
/// be up yet (systemd.generator(7)). What cannot be read may have it: the package makes the user, and without one the
/// proxies would be root's.
fn may_have_user(passwd: io::Result<String>) -> bool {
    match passwd {
        Ok(passwd) => has_user(&passwd),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

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
    /// Its unit files.
    pub unit_files: UnitFiles,
    /// Whether drop-ins for all services have `Restart=`.
    pub all_may_restart: bool,
}

impl Host {
    /// Returns this machine.
    ///
    /// # Errors
    ///
    /// The path of this program cannot be found, or is not UTF-8.
    pub fn here() -> Result<Self> {
        let unit_files = UnitFiles::here();
        // Symbolic links are resolved: as a generator the program has another name.
        let ondemand = std::env::current_exe().context("find the path of this program")?;
        let ondemand = ondemand
            .to_str()
            .with_context(|| format!("the path {ondemand:?} is not UTF-8"))?;
        Ok(Self {
            ondemand: ondemand.to_owned(),
            user: may_have_user(fs::read_to_string("/etc/passwd")).then(|| USER.to_owned()),
            systemd: systemd_version(),
            all_may_restart: restart::all_may_restart(&unit_files),
            unit_files,
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
        // Unknown is not missing.
        let failed = |kind: io::ErrorKind| may_have_user(Err(kind.into()));
        assert!(failed(io::ErrorKind::PermissionDenied));
        assert!(failed(io::ErrorKind::InvalidData));
        assert!(!failed(io::ErrorKind::NotFound));
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
