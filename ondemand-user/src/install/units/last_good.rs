//! The last configuration that was right. A generator that finds a wrong one makes the units of this:
//! without units systemd would know of no front socket any more, and whoever comes to one that it
//! still holds would be let go, since nothing is there to be started.
//!
//! Two copies: the generator's own in /run, and for the next boot the agent's in /var/lib, which may
//! not be writable for a generator (systemd 255 and later), or not mounted yet.

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

/// Its name wherever it is kept.
pub const FILE: &str = "last-good.toml";
/// Where a generator keeps it, and root alone writes; and where the agent does.
pub(super) const PLACES: [&str; 2] = ["/run/ondemand-generator", "/var/lib/ondemand"];

/// A copy that was found.
pub struct Copy {
    /// What it says.
    pub config: Config,
    /// Where it is.
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

/// Keeps the text of a configuration of which units were made.
///
/// # Errors
///
/// It cannot be written; the copy is as it was.
pub(super) fn keep(directory: &Path, text: &str) -> io::Result<()> {
    let file = directory.join(FILE);
    if fs::read(&file).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The configuration itself may be for root alone.
    atomic_file::replace(&file, text.as_bytes(), 0o600)
}

/// There is no configuration any more: that is no mistake.
pub(super) fn forget(directory: &Path) {
    // Most often there is none.
    let _ = fs::remove_file(directory.join(FILE));
}

/// The youngest copy that is still right. Its path is `original`, whose place it takes.
pub fn find(original: &Path) -> Option<Copy> {
    find_in(PLACES.map(Path::new), original)
}

pub(super) fn find_in(directories: [&Path; 2], original: &Path) -> Option<Copy> {
    directories.into_iter().find_map(|directory| {
        let file = directory.join(FILE);
        // The agent's copy is not root's: no link to what is, and no pipe that a boot would wait for.
        fs::symlink_metadata(&file)
            .ok()
            .filter(|data| data.is_file())?;
        // It may be of a version that knew other keys.
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
        // Nothing can be kept in a file.
        assert!(keep(&run.join("elsewhere"), one).is_err());
    }
}
