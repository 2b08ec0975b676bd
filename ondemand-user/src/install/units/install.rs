//! Writes unit files to a directory.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result};

use super::{Content, MARK, UnitFile};
use crate::host::atomic_file;

/// Maximum number of threads that write files.
const MOST_THREADS: usize = 4;
/// So few files are written sooner than a thread begins.
const FEW: usize = 100;

/// Writes `files` below `directory`. Each is renamed into place, so that no reader sees a partial file.
///
/// # Errors
///
/// Names the file that could not be written. The files before it were written.
pub fn write(files: &[UnitFile], directory: &Path) -> Result<()> {
    for file in files {
        let path = directory.join(&file.path);
        put(&path, &file.content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Writes `files` below `directory`, in which nobody reads meanwhile: PID 1 has emptied it, and waits. What is there
/// all the same is replaced as by [`write`].
///
/// # Errors
///
/// Like [`write`].
pub(super) fn write_unread(files: &[UnitFile], directory: &Path) -> Result<()> {
    // Nearly all of the time is the kernel's, which makes files on each CPU.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let share = files.len().div_ceil(cpus.min(MOST_THREADS)).max(FEW);
    thread::scope(|scope| {
        let write = |share| scope.spawn(move || write_share(share, directory));
        let threads: Vec<_> = files.chunks(share).map(write).collect();
        let mut done = threads.into_iter().map(|it| it.join());
        done.try_for_each(|done| done.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn write_share(files: &[UnitFile], directory: &Path) -> Result<()> {
    for file in files {
        let path = directory.join(&file.path);
        let made = match make(&path, &file.content) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(directory);
                fs::create_dir_all(parent).and_then(|()| make(&path, &file.content))
            }
            made => made,
        };
        let done = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => put(&path, &file.content),
            done => done,
        };
        done.with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Makes what is not there yet.
fn make(path: &Path, content: &Content) -> io::Result<()> {
    match content {
        Content::Text(text) => {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(UNIT_MODE);
            file.open(path)?.write_all(text.as_bytes())
        }
        Content::Link(target) => symlink(target, path),
    }
}

/// systemd warns about a unit file that is not readable for all.
const UNIT_MODE: u32 = 0o644;

fn put(path: &Path, content: &Content) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match content {
        Content::Text(text) => atomic_file::replace(path, text.as_bytes(), UNIT_MODE),
        Content::Link(target) => atomic_file::replace_by_link(path, target),
    }
}

/// Removes what [`write`] wrote before it failed.
pub(super) fn remove(files: &[UnitFile], directory: &Path) {
    for file in files {
        // A file that was never written cannot be removed, which is fine.
        let _ = fs::remove_file(directory.join(&file.path));
    }
}

/// Files in `directory` that this program wrote for a service that is not among `files`.
pub fn left_behind(files: &[UnitFile], directory: &Path) -> Vec<PathBuf> {
    let present: HashSet<PathBuf> = files
        .iter()
        .map(|file| directory.join(&file.path))
        .collect();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut old: Vec<_> = entries
        .map(|entry| entry.path())
        .flat_map(|path| {
            let drop_in = path.join("50-ondemand.conf");
            [path, drop_in]
        })
        .filter(|path| {
            path.is_file() && fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
        })
        .filter(|path| !present.contains(path))
        .collect();
    old.sort();
    old
}
