//! The last valid configuration. A generator that finds an invalid one, or none where one was, generates its
//! units from this: without units systemd would know no front socket any more, and a client of one that it still
//! holds would be closed, since there is nothing to start.
//!
//! There are two copies, both root's: the generator's own in /run, and for the next boot that of
//! `ondemand permit` in /var/lib, which may not be writable for a generator (systemd 255 and later).
//! Root executes what follows from them, so a copy that another user could have written is no copy.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use jiff::{Timestamp, tz::TimeZone};
use nix::{fcntl::OFlag, unistd::geteuid};
use ondemand_core::config::{Config, DEFAULT_PATH};

use crate::host::{atomic_file, config_file, directories};

/// The file's name in each place.
pub const FILE: &str = "last-good.toml";
/// Where the generator keeps its copy.
const RUN: &str = "/run/ondemand-generator";
/// Where `ondemand permit` keeps that for the next boot.
pub const STATE: &str = "/var/lib/ondemand-generator";
/// Both, the latest first.
pub(super) const PLACES: [&str; 2] = [RUN, STATE];
/// A configuration is at most this long. Bytes.
const LONGEST: u64 = 4 << 20;

/// A copy that was found.
pub struct Copy {
    /// The configuration in it.
    pub config: Config,
    /// Its text.
    pub text: String,
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

/// Saves the text of a configuration whose units were generated, for root alone: the configuration may
/// be readable by root only.
///
/// # Errors
///
/// It cannot be written; the copy is unchanged.
pub(super) fn keep(directory: &Path, text: &str) -> io::Result<()> {
    keep_with(directory, text, 0o700, 0o600)
}

/// Saves the text of the valid configuration `original` for the next boot, if it is the one that the
/// generator reads. Whoever may read that may read the copy.
///
/// # Errors
///
/// It cannot be written; the copy is unchanged.
pub fn keep_for_boot(original: &Path, text: &str) -> Result<()> {
    if original != Path::new(DEFAULT_PATH) {
        return Ok(());
    }
    // Whoever may read all of its files.
    let parts = config_file::parts(original).unwrap_or_default();
    let files = std::iter::once(original).chain(parts.iter().map(PathBuf::as_path));
    let mode = |file| fs::metadata(file).map_or(0, |data| data.mode());
    let mode = files.map(mode).fold(0o044, |all, mode| all & mode);
    keep_with(Path::new(STATE), text, 0o755, 0o600 | mode & 0o044)
        .with_context(|| format!("keep a copy of the configuration in {STATE} for the next boot"))
}

fn keep_with(directory: &Path, text: &str, directory_mode: u32, mode: u32) -> io::Result<()> {
    let file = directory.join(FILE);
    let is_same = fs::symlink_metadata(&file).is_ok_and(|data| data.mode() & 0o777 == mode)
        && read(&file).is_some_and(|(kept, _)| kept == text);
    if is_same {
        return Ok(());
    }
    directories::create(directory, directory_mode)?;
    atomic_file::replace(&file, text.as_bytes(), mode)
}

/// Returns the latest copy that is valid. Its path is `original`, which it replaces.
pub fn find(original: &Path) -> Option<Copy> {
    find_in(PLACES.map(Path::new), original)
}

/// The configuration that the generator takes: that of the file, or the last correct one. `None`: no service is on
/// demand.
pub fn current(path: &Path) -> Option<Config> {
    match config_file::load(path) {
        Ok(config) => Some(config),
        Err(error) => {
            let copy = find(path);
            if path.exists() || copy.is_some() {
                log::warn!("{error:#}");
            }
            copy.map(|copy| copy.config)
        }
    }
}

pub(super) fn find_in(directories: [&Path; 2], original: &Path) -> Option<Copy> {
    directories.into_iter().find_map(|directory| {
        let file = directory.join(FILE);
        let (text, written) = read(&file)?;
        // It may be of a version with other keys.
        let config = config_file::parse(original, &text).ok()?;
        Some(Copy {
            config,
            text,
            file,
            written,
        })
    })
}

/// Reads a copy, and when it was written: a file of root's (or of this user's, in tests), in which
/// nobody else can write. No link is followed, and no pipe waited for.
fn read(file: &Path) -> Option<(String, Option<SystemTime>)> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(file)
        .ok()?;
    let data = file.metadata().ok()?;
    let is_roots = data.uid() == 0 || data.uid() == geteuid().as_raw();
    if !data.is_file() || !is_roots || data.mode() & 0o022 != 0 || data.len() > LONGEST {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some((text, data.modified().ok()))
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
        fs::remove_file(state.join(FILE)).unwrap();
        nix::unistd::mkfifo(&state.join(FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(found(), None, "a pipe is not waited for");
        fs::remove_file(state.join(FILE)).unwrap();
        keep(&state, one).unwrap();
        assert!(found().is_some());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o622);
        fs::set_permissions(state.join(FILE), open).unwrap();
        assert_eq!(found(), None, "everybody can have written it");
        keep(&state, one).unwrap();
        if geteuid().is_root() {
            assert!(found().is_some());
            std::os::unix::fs::chown(state.join(FILE), Some(4321), None).unwrap();
            assert_eq!(found(), None, "another user has written it");
        }
        // Nothing can be written below a file.
        assert!(keep(&run.join("elsewhere"), one).is_err());
    }
}
