//! Atomic writes of files.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use tempfile::{Builder, NamedTempFile};

/// The path of the holds: in the agent's StateDirectory= (systemd.exec(5)).
pub fn path() -> PathBuf {
    let directory = env::var_os("STATE_DIRECTORY");
    // It may be a list, separated by colons.
    let directory = directory.and_then(|list| env::split_paths(&list).next());
    directory
        .unwrap_or_else(|| PathBuf::from("/var/lib/ondemand"))
        .join("holds")
}

/// Writes a file of the agent, in the order of the requests.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    next: u64,
    written: Arc<Mutex<u64>>,
}

impl Store {
    /// A store for the file at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            next: 0,
            written: Arc::default(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a function that writes `text`: it takes as long as the disk does, so it must not run in
    /// the agent's loop. If a later one has run, it does nothing.
    ///
    /// # Errors
    ///
    /// Of the returned function: the file cannot be written; it is unchanged.
    pub fn save(&mut self, text: String) -> impl FnOnce() -> Result<()> + Send + 'static {
        self.save_made(move || text)
    }

    /// The same for a text that takes a while to make, which the returned function does.
    ///
    /// # Errors
    ///
    /// As [`Store::save`].
    pub fn save_made(
        &mut self,
        text: impl FnOnce() -> String + Send + 'static,
    ) -> impl FnOnce() -> Result<()> + Send + 'static {
        self.next += 1;
        let (path, number, written) = (self.path.clone(), self.next, Arc::clone(&self.written));
        move || {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if *written > number {
                return Ok(());
            }
            fs::create_dir_all(directory(&path))
                .and_then(|()| replace(&path, text().as_bytes(), 0o600))
                .with_context(|| format!("write {}", path.display()))?;
            *written = number;
            Ok(())
        }
    }

    /// Copies a file that could not be parsed, before it is overwritten. Returns the
    /// copy's path; a link there is replaced, not followed.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub fn keep_copy(&self) -> Result<PathBuf> {
        let copy = self.path.with_extension("unreadable");
        fs::read(&self.path)
            .and_then(|bytes| replace(&copy, &bytes, 0o600))
            .with_context(|| format!("copy {} to {}", self.path.display(), copy.display()))?;
        Ok(copy)
    }
}

/// Replaces the file at `path` by one with these bytes and this mode, whatever the umask: after a
/// crash at any moment there is the old file or the new one. A link at `path` is replaced, not
/// followed. It waits for the disk. A process that is killed meanwhile leaves a file behind that is
/// named like `.holds.a1B2c3.tmp`.
///
/// # Errors
///
/// The file is as it was, and nothing else is left in its directory.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, |file| {
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode))
    })
}

/// The same with a symbolic link to `target`.
///
/// # Errors
///
/// As [`replace`].
pub fn replace_by_link(path: &Path, target: &Path) -> io::Result<()> {
    persist(beside(path, |new| symlink(target, new))?, path)
}

fn replace_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut new = beside(path, |new| options.open(new))?;
    write(new.as_file_mut())?;
    new.as_file().sync_all()?;
    persist(new, path)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Has `make` create a file beside `path`, which is removed when it is dropped. Its name is new: what
/// another user may have placed there is an error for `make`, and the next name is tried. Neither
/// systemd nor polkitd reads files of such names.
fn beside<F>(
    path: &Path,
    make: impl FnMut(&Path) -> io::Result<F>,
) -> io::Result<NamedTempFile<F>> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .make_in(directory(path), make)
}

fn persist<F>(new: NamedTempFile<F>, path: &Path) -> io::Result<()> {
    new.persist(path).map_err(|error| error.error)?;
    // The rename itself is on the disk when the directory is.
    File::open(directory(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Runs `replace` on a file `target` in a directory of its own, in which `prepare` made what was
    /// there before. Returns whether it succeeded and the directory's other files.
    fn after(
        prepare: impl FnOnce(&Path),
        replace: impl FnOnce(&Path) -> io::Result<()>,
        check: impl FnOnce(&Path),
    ) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        prepare(&target);
        let names = || -> BTreeSet<OsString> {
            let entries = fs::read_dir(directory.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let mut before = names();
        let replaced = replace(&target).is_ok();
        if replaced {
            before.insert("target".into());
        }
        assert_eq!(names(), before, "nothing else is left");
        check(&target);
        replaced
    }

    fn old(target: &Path) {
        fs::write(target, "old").unwrap();
    }

    fn link(target: &Path) {
        let elsewhere = target.with_file_name("elsewhere");
        old(&elsewhere);
        symlink(elsewhere, target).unwrap();
    }

    fn has(text: &'static str, mode: u32) -> impl FnOnce(&Path) {
        move |target| {
            let data = fs::symlink_metadata(target).unwrap();
            assert!(data.is_file());
            assert_eq!(data.permissions().mode() & 0o7777, mode);
            assert_eq!(fs::read_to_string(target).unwrap(), text);
        }
    }

    #[test]
    fn the_new_file_or_the_old_one() {
        let new = |mode| move |target: &Path| replace(target, b"new", mode);
        let half = |target: &Path| {
            replace_with(target, |file| {
                file.write_all(b"ha")?;
                Err(io::Error::other("the disk is full"))
            })
        };
        let by_link = |target: &Path| replace_by_link(target, Path::new("../there"));
        let private = |target: &Path| {
            old(target);
            fs::set_permissions(target, Permissions::from_mode(0o600)).unwrap();
        };
        let is_link = |to: &'static str| {
            move |target: &Path| assert_eq!(fs::read_link(target).unwrap(), Path::new(to))
        };
        let directory = |target: &Path| fs::create_dir(target).unwrap();
        let is_directory = |target: &Path| assert!(target.is_dir());

        assert!(after(|_| {}, new(0o600), has("new", 0o600)));
        assert!(after(old, new(0o600), has("new", 0o600)));
        // Any usual umask forbids writing to the group.
        assert!(after(private, new(0o664), has("new", 0o664)));
        assert!(after(link, new(0o644), |target| {
            has("new", 0o644)(target);
            let elsewhere = target.with_file_name("elsewhere");
            assert_eq!(fs::read_to_string(elsewhere).unwrap(), "old");
        }));
        assert!(!after(private, half, has("old", 0o600)));
        assert!(!after(|_| {}, half, |target| assert!(!target.exists())));
        assert!(!after(directory, new(0o600), is_directory));

        assert!(after(|_| {}, by_link, is_link("../there")));
        assert!(after(old, by_link, is_link("../there")));
        assert!(after(link, by_link, is_link("../there")));
        assert!(!after(directory, by_link, is_directory));
    }

    #[test]
    fn what_is_no_file_cannot_be_replaced() {
        for path in ["/", "..", ""] {
            assert!(replace(Path::new(path), b"", 0o600).is_err(), "{path}");
        }
    }

    #[test]
    fn the_last_wish_wins_and_a_failure_is_told_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/holds");
        let mut store = Store::new(path.clone());
        let first = store.save("first\n".into());
        let second = store.save("second\n".into());
        second().unwrap();
        first().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        let copy = store.keep_copy().unwrap();
        assert!(fs::read_to_string(&copy).is_ok());
        // Another user of the directory may have put a link to a file of root's there.
        let other = directory.path().join("other");
        fs::write(&other, "").unwrap();
        fs::remove_file(&copy).unwrap();
        symlink(&other, &copy).unwrap();
        store.keep_copy().unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = store.save("third\n".into())().unwrap_err();
        assert!(format!("{error:#}").contains("holds"), "{error:#}");
    }
}
