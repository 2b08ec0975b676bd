//! The last valid configuration. A generator that finds an invalid one generates its units from this:
//! without units systemd would know no front socket any more, and a client of one that it still
//! holds would be closed, since there is nothing to start.
//!
//! There are two copies: the generator's own in /run, and for the next boot the agent's in /var/lib,
//! which may not be writable for a generator (systemd 255 and later), or not mounted yet.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::{Timestamp, tz::TimeZone};
use ondemand_core::config::Config;

use crate::host::{atomic_file, config_file};

/// The file's name in each place.
pub const FILE: &str = "last-good.toml";
/// The place of a generator's copy, writable by root only, and that of the agent's.
pub(super) const PLACES: [&str; 2] = ["/run/ondemand-generator", "/var/lib/ondemand"];

/// A copy that was found.
pub struct Copy {
    /// The configuration in it.
    pub config: Config,
    /// Its path.
    pub file: PathBuf,
    /// When it was written.
    pub written: Option<SystemTime>,
}

impl Copy {
    /// `/run/…/last-good.toml of 2026-01-02 03:04:05`.
    pub fn words(&self) -> String {
        let at = self.written.and_then(|at| Timestamp::try_from(at).ok());
        let at = at.map(|at| at.to_zoned(TimeZone::system()));
        let at = at.map(|at| at.strftime(" of %F %H:%M:%S").to_string());
        format!("{}{}", self.file.display(), at.unwrap_or_default())
    }
}

/// Saves the text of a configuration whose units were generated.
///
/// # Errors
///
/// It cannot be written; the copy is unchanged.
pub(super) fn keep(directory: &Path, text: &str) -> io::Result<()> {
    let file = directory.join(FILE);
    if fs::read(&file).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The configuration may be readable by root only.
    atomic_file::replace(&file, text.as_bytes(), 0o600)
}

/// Removes the copy: the configuration was removed, which is not an error.
pub(super) fn forget(directory: &Path) {
    // Usually there is none.
    let _ = fs::remove_file(directory.join(FILE));
}

/// Returns the latest copy that is valid. Its path is `original`, which it replaces.
pub fn find(original: &Path) -> Option<Copy> {
    find_in(PLACES.map(Path::new), original)
}

pub(super) fn find_in(directories: [&Path; 2], original: &Path) -> Option<Copy> {
    directories.into_iter().find_map(|directory| {
        let file = directory.join(FILE);
        // The agent's copy is not root's: no link to root's files, and no pipe that would block a boot.
        fs::symlink_metadata(&file)
            .ok()
            .filter(|data| data.is_file())?;
        // It may be of a version with other keys.
        let config = config_file::parse(original, &config_file::text(&file).ok()?).ok()?;
        let written = fs::metadata(&file).and_then(|data| data.modified()).ok();
        Some(Copy {
            config,
            file,
            written,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_copy_that_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let [run, state] = ["run", "state"].map(|name| directory.path().join(name));
        let original = Path::new("/etc/ondemand/ondemand.toml");
        let found = || {
            let copy = find_in([&run, &state], original)?;
            assert_eq!(copy.config.path, original);
            assert!(
                copy.words().contains("last-good.toml of 20"),
                "{}",
                copy.words()
            );
            Some((copy.config.services.len(), copy.file))
        };
        assert_eq!(found(), None);
        let one = "[service.a]\nlisten = [\"127.0.0.1:1\"]\nbackend = \"127.0.0.1:2\"\n\
                   unit = \"a.service\"\n";
        keep(&state, one).unwrap();
        assert_eq!(found(), Some((1, state.join(FILE))));
        keep(&run, "").unwrap();
        assert_eq!(found(), Some((0, run.join(FILE))));
        keep(&run, "[service.a]\nof = \"another version\"\n").unwrap();
        assert_eq!(found(), Some((1, state.join(FILE))));
        keep(&run, one).unwrap();
        assert_eq!(found(), Some((1, run.join(FILE))));
        assert_eq!(
            fs::read_dir(&run).unwrap().count(),
            1,
            "nothing is left over"
        );
        fs::remove_file(state.join(FILE)).unwrap();
        fs::rename(run.join(FILE), run.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(run.join("elsewhere"), state.join(FILE)).unwrap();
        assert_eq!(found(), None, "a link is not followed");
        // Nothing can be written below a file.
        assert!(keep(&run.join("elsewhere"), one).is_err());
    }
}
