//! The agent's directory in the BPF file system, where only root may create one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    fcntl::OFlag,
    unistd::{Gid, Uid},
};

use crate::kernel::requirements;

/// Creates `name` below `bpffs`, with mode 0700, and gives it to this user with all its contents: an
/// earlier agent may have had another user, and its programs keep counting.
///
/// # Errors
///
/// There is no BPF file system, or something cannot be created or given away.
pub(super) fn give(bpffs: &Path, name: &str, uid: Uid, gid: Gid) -> Result<()> {
    requirements::bpf_file_system(bpffs)?;
    let path = bpffs.join(name);
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => own(&path, uid, gid),
    }
    .with_context(|| format!("give {} to user {uid}", path.display()))
}

fn own(path: &Path, uid: Uid, gid: Gid) -> io::Result<()> {
    let directory = open(path)?;
    // Also if it belongs to that user: root may have run an agent by hand, and left its pins there.
    give_away(&directory, uid, gid)?;
    directory.set_permissions(Permissions::from_mode(0o700))
}

/// Uses descriptors and follows no links: the previous owner may have created some.
fn give_away(directory: &File, uid: Uid, gid: Gid) -> io::Result<()> {
    let (owner, group) = (Some(uid.as_raw()), Some(gid.as_raw()));
    let here = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    for entry in fs::read_dir(&here)? {
        let entry = entry?;
        let path = here.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            give_away(&open(&path)?, uid, gid)?;
        } else {
            lchown(&path, owner, group)?;
        }
    }
    fchown(directory, owner, group)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use nix::unistd::geteuid;

    use super::*;

    /// Owner and mode.
    fn of(path: &Path) -> (u32, u32) {
        let data = fs::symlink_metadata(path).unwrap();
        (data.uid(), data.mode() & 0o7777)
    }

    #[test]
    fn all_below_changes_hands_and_nothing_else() {
        let is_root = geteuid().is_root();
        ::tests::require!((!is_root).then_some("giving files away needs root"));
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("ondemand"), dir.path().join("other"));
        fs::create_dir_all(root.join("v1")).unwrap();
        fs::write(root.join("v1/map"), "").unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "").unwrap();
        symlink(&other, root.join("v1/link")).unwrap();
        let (uid, gid) = (Uid::from_raw(4321), Gid::from_raw(4321));
        for _ in 0..2 {
            own(&root, uid, gid).unwrap();
            assert_eq!(of(&root), (4321, 0o700));
            for inside in ["v1", "v1/map", "v1/link"] {
                assert_eq!(of(&root.join(inside)).0, 4321, "{inside}");
            }
            assert_eq!((of(&other).0, of(&other.join("file")).0), (0, 0));
            // A file of another user's agent changes its owner the next time.
            fs::write(root.join("v1/map"), "").unwrap();
            lchown(root.join("v1"), Some(0), Some(0)).unwrap();
            lchown(root.join("v1/map"), Some(0), Some(0)).unwrap();
        }
        // A link in its place is not followed.
        fs::remove_dir_all(&root).unwrap();
        symlink(&other, &root).unwrap();
        own(&root, uid, gid).unwrap_err();
        assert_eq!(of(&other).0, 0);
    }

    #[test]
    fn another_file_system_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = give(dir.path(), "ondemand", Uid::from_raw(1), Gid::from_raw(1)).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error:#}");
        assert!(!dir.path().join("ondemand").exists());
    }
}
