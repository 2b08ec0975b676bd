//! Acting as the owner of files: what another user can write is not read as root. A link there leads to
//! whatever root may read, and SQLite takes over what an interrupted writer has left beside a database.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::unistd::{
    Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid, setgroups, setresgid, setresuid,
};

use super::directories;

/// Runs `work` as the owner of the directory of `path`, or where that is root as the owner of `path`
/// itself, if this process is root's and the owner is another user. All threads of this process are
/// that user meanwhile (`setxid` of the C library), those that `work` starts too.
///
/// # Errors
///
/// The kernel refuses to change the user; `work` was not run.
pub fn as_owner<T>(path: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let owner = [directory, path].into_iter().find_map(other_owner);
    let Some((uid, gid)) = owner else {
        return Ok(work());
    };
    let _back = become_user(uid, gid)?;
    Ok(work())
}

/// The owner of `directory` and its group, if this process is root's and the owner is another user.
pub fn other_owner(directory: &Path) -> Option<(Uid, Gid)> {
    let data = fs::metadata(directory).ok()?;
    let is_other = geteuid().is_root() && data.uid() != 0;
    is_other.then(|| (Uid::from_raw(data.uid()), Gid::from_raw(data.gid())))
}

/// Becomes this user, the owner of the agent's directories, for good.
/// `runtime`, a further directory of that user, is created if it does not exist.
///
/// # Errors
///
/// The kernel refuses, or `runtime` cannot be created.
pub fn become_owner((uid, gid): (Uid, Gid), runtime: &Path) -> Result<()> {
    if !runtime.exists() {
        directories::create(runtime, 0o700)
            .and_then(|()| lchown(runtime, Some(uid.as_raw()), Some(gid.as_raw())))
            .with_context(|| format!("create {}", runtime.display()))?;
    }
    setgroups(&[gid])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .with_context(|| format!("become the user {uid}"))
}

/// Becomes root again when it is dropped.
struct Back {
    group: Gid,
    groups: Vec<Gid>,
}

/// The saved user stays root's, so the other user can neither send signals to this process nor trace it.
fn become_user(uid: Uid, gid: Gid) -> io::Result<Back> {
    let back = Back {
        group: getegid(),
        groups: getgroups()?,
    };
    setgroups(&[gid])?;
    setegid(gid)?;
    seteuid(uid)?;
    Ok(back)
}

impl Drop for Back {
    fn drop(&mut self) {
        let back = seteuid(Uid::from_raw(0))
            .and_then(|()| setegid(self.group))
            .and_then(|()| setgroups(&self.groups));
        // The real user is root all the time. As somebody else the rest would do what was not asked for.
        assert!(back.is_ok(), "become root again: {back:?}");
    }
}
