//! Whether the proxies can execute this program: what can be said before the first client comes.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::Host;

/// Directories that a proxy does not have: `ProtectHome=` and `PrivateTmp=`.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Why a proxy cannot execute the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// It is below a directory that is hidden from the proxy.
    Hidden(&'static str),
    /// The proxy's user may not enter this directory, or execute this file.
    Closed(PathBuf),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden(directory) => write!(
                f,
                "{directory} is hidden from the proxies (ProtectHome=, PrivateTmp=)"
            ),
            Self::Closed(path) => write!(
                f,
                "the proxies' user has no permission to execute or enter {}",
                path.display()
            ),
        }
    }
}

/// Returns why the proxies of `host` cannot execute its program, if so. A file that cannot be looked
/// at is not reported.
pub fn unreachable(host: &Host) -> Option<Unreachable> {
    let program = Path::new(&host.ondemand);
    if let Some(directory) = HIDDEN.iter().find(|hidden| program.starts_with(hidden)) {
        return Some(Unreachable::Hidden(directory));
    }
    closed(program, host.user.is_some()).map(Unreachable::Closed)
}

/// The first part of the path, from the root, that the proxy may not enter or execute. Without a user
/// of its own it is root without capabilities: what root owns has root's permissions.
fn closed(program: &Path, has_user: bool) -> Option<PathBuf> {
    let mut parts: Vec<&Path> = program.ancestors().collect();
    parts.reverse();
    let is_closed = |part: &&&Path| {
        fs::metadata(part).is_ok_and(|metadata| {
            let bit = match !has_user && metadata.uid() == 0 {
                true => 0o100,
                false => 0o001,
            };
            metadata.mode() & bit == 0
        })
    };
    parts.iter().find(is_closed).map(|part| part.to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn programs_in_hidden_directories() {
        #[track_caller]
        fn check(ondemand: &str, expected: Option<&'static str>) {
            let host = Host {
                ondemand: ondemand.into(),
                user: Some("ondemand".into()),
                systemd: None,
                unit_files: Default::default(),
                all_may_restart: false,
            };
            assert_eq!(unreachable(&host), expected.map(Unreachable::Hidden));
        }
        check("/home/me/bin/ondemand", Some("/home"));
        check("/root/ondemand", Some("/root"));
        check("/tmp/ondemand", Some("/tmp"));
        check("/var/tmp/x/ondemand", Some("/var/tmp"));
        check("/run/user/1000/ondemand", Some("/run/user"));
        check("/usr/bin/env", None);
        check("/tmpfs/ondemand", None);
        check("/homes/ondemand", None);
    }

    #[test]
    fn directories_that_the_user_may_not_enter() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("private");
        let program = directory.join("ondemand");
        fs::create_dir(&directory).unwrap();
        fs::write(&program, "").unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(top.path(), 0o755);
        for (of_directory, of_program, expected) in [
            (0o755, 0o755, None),
            (0o711, 0o711, None),
            (0o750, 0o755, Some(&directory)),
            (0o755, 0o750, Some(&program)),
            (0o755, 0o644, Some(&program)),
        ] {
            mode(&program, of_program);
            mode(&directory, of_directory);
            let found = closed(&program, true);
            assert_eq!(found.as_ref(), expected, "{of_directory:o} {of_program:o}");
        }
        // Root without capabilities is still the owner.
        if fs::metadata(&program).unwrap().uid() == 0 {
            mode(&program, 0o700);
            mode(&directory, 0o700);
            assert_eq!(closed(&program, false), None);
        }
    }
}
