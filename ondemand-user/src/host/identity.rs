//! Acting as the owner of a file: what another user can write is not read as root. A link there leads to
//! whatever root may read, and SQLite takes over what an interrupted writer has left beside a database.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid, setgroups};

/// Runs `work` as the owner of the directory of `path`, or where that is root as the owner of `path`
/// itself, if this process is root's and the owner is another user. All threads of this process are
/// that user meanwhile (`setxid` of the C library), those that `work` starts too.
///
/// # Errors
///
/// The kernel refuses to change the user; `work` was not run.
pub fn as_owner<T>(path: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    if !geteuid().is_root() {
        return Ok(work());
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let owner = [directory, path].into_iter().find_map(|path| {
        let data = fs::metadata(path).ok()?;
        (data.uid() != 0).then(|| (Uid::from_raw(data.uid()), Gid::from_raw(data.gid())))
    });
    let Some((uid, gid)) = owner else {
        return Ok(work());
    };
    let _back = become_user(uid, gid)?;
    Ok(work())
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
