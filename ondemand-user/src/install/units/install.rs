//! Puts unit files into a directory, each whole or not at all.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{Content, MARK, UnitFile};

/// Writes `files` below `directory`. Each appears by a rename, so that nobody reads half of one.
///
/// Returns the files there that an earlier configuration left behind.
///
/// # Errors
///
/// Names the file that could not be written. Those before it have been.
pub fn write(files: &[UnitFile], directory: &Path) -> Result<Vec<PathBuf>> {
    for file in files {
        let path = directory.join(&file.path);
        put(&path, &file.content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(left_behind(files, directory))
}

fn put(path: &Path, content: &Content) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // systemd ignores files whose names do not end like a unit's.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let made = match content {
        Content::Text(text) => fs::write(&temporary, text),
        Content::Link(target) => symlink(target, &temporary),
    };
    made.and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            // The error that is reported is the first one; this is only tidying up.
            let _ = fs::remove_file(&temporary);
        })
}

/// Takes away what [`write`] wrote, as far as it came.
pub(super) fn remove(files: &[UnitFile], directory: &Path) {
    for file in files {
        // What was never written cannot be removed, and that is as it should be.
        let _ = fs::remove_file(directory.join(&file.path));
    }
}

/// Files in `directory` that this program wrote, for a service that is not among `files`.
fn left_behind(files: &[UnitFile], directory: &Path) -> Vec<PathBuf> {
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
        .filter(|path| !files.iter().any(|file| directory.join(&file.path) == *path))
        .collect();
    old.sort();
    old
}
