//! Where the holds are written: whole, or not at all.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

/// Where the file is: in the agent's StateDirectory= (systemd.exec(5)).
pub fn path() -> PathBuf {
    let directory = env::var_os("STATE_DIRECTORY");
    // There may be several, with colons between.
    let directory = directory.and_then(|list| env::split_paths(&list).next());
    directory
        .unwrap_or_else(|| PathBuf::from("/var/lib/ondemand"))
        .join("holds")
}

/// Writes the file, in the order in which it was asked to.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    next: u64,
    written: Arc<Mutex<u64>>,
}

impl Store {
    /// For the file at `path`.
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

    /// What writes `text` when it is called: that takes as long as the disk does, so not in the
    /// agent's loop. One that comes after a later one does nothing.
    ///
    /// # Errors
    ///
    /// Of what is returned: the file cannot be written; it is as it was.
    pub fn save(&mut self, text: String) -> impl FnOnce() -> Result<()> + Send + 'static {
        self.next += 1;
        let (path, number, written) = (self.path.clone(), self.next, Arc::clone(&self.written));
        move || {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if *written > number {
                return Ok(());
            }
            replace(&path, &text).with_context(|| format!("write {}", path.display()))?;
            *written = number;
            Ok(())
        }
    }

    /// Keeps a copy of a file that could not be understood, before it is written anew. Gives
    /// the copy's path.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub fn keep_copy(&self) -> Result<PathBuf> {
        let copy = self.path.with_extension("unreadable");
        fs::copy(&self.path, &copy)
            .with_context(|| format!("copy {} to {}", self.path.display(), copy.display()))?;
        Ok(copy)
    }
}

/// After a crash at any moment there is the old file or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().context("it is no file")?;
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wish_wins_and_a_failure_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/holds");
        let mut store = Store::new(path.clone());
        let first = store.save("first\n".into());
        let second = store.save("second\n".into());
        second().unwrap();
        first().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        // Nothing can be created beside it.
        fs::create_dir(path.with_extension("new")).unwrap();
        let error = store.save("third\n".into())().unwrap_err();
        assert!(format!("{error:#}").contains("holds"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert!(fs::read_to_string(store.keep_copy().unwrap()).is_ok());
    }
}
