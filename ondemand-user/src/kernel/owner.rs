//! Who may do what with the pins: they are root's, in directories in which only root can write. The agent's
//! group may open them.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
        lchown,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::{fcntl::OFlag, unistd::Gid};

/// Of the directories: the group may find the pins.
const DIRECTORY: u32 = 0o750;
/// Of a pin: bpf(2) opens maps and links only for those who may read and write.
const PIN: u32 = 0o660;
/// Those that the programs alone use.
const PRIVATE: [&str; 1] = ["TAGS"];

/// Creates the directory `path` for root and this group, or takes it away from its owner: earlier versions
/// gave it to the agent.
///
/// # Errors
///
/// It cannot be created or changed, or is something else.
pub(super) fn directory(path: &Path, group: Gid) -> Result<()> {
    let give = || -> io::Result<()> {
        create(path)?;
        own(path, group)
    };
    give().with_context(|| format!("make {} a directory of root's", path.display()))
}

/// Gives the pins in `home`, a directory of root's, to this group.
///
/// # Errors
///
/// Something cannot be changed.
pub(super) fn pins(home: &Path, group: Gid) -> Result<()> {
    let give = || -> io::Result<()> {
        for entry in fs::read_dir(home)? {
            let entry = entry?;
            let is_private = PRIVATE.iter().any(|name| entry.file_name() == *name);
            let (gid, mode) = match is_private {
                true => (0, 0o600),
                false => (group.as_raw(), PIN),
            };
            if !is(&entry.metadata()?, gid, mode) {
                lchown(entry.path(), Some(0), Some(gid))?;
                fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
            }
        }
        own(home, group)
    };
    give().with_context(|| format!("give {} to the agent's group", home.display()))
}

/// Whether this is a directory in which only root can write: what is in it is root's, too.
pub(super) fn is_roots(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|data| data.is_dir() && data.uid() == 0 && data.mode() & 0o022 == 0)
}

fn create(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether it is root's and this group's, with this mode: nothing is to be changed.
fn is(data: &Metadata, group: u32, mode: u32) -> bool {
    (data.uid(), data.gid(), data.mode() & 0o7777) == (0, group, mode)
}

/// By a descriptor, and without following a link.
fn own(path: &Path, group: Gid) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let directory: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    if is(&directory.metadata()?, group.as_raw(), DIRECTORY) {
        return Ok(());
    }
    fchown(&directory, Some(0), Some(group.as_raw()))?;
    directory.set_permissions(Permissions::from_mode(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use nix::unistd::geteuid;

    use super::*;

    /// Owner, group and mode.
    fn of(path: &Path) -> (u32, u32, u32) {
        let data = fs::symlink_metadata(path).unwrap();
        (data.uid(), data.gid(), data.mode() & 0o7777)
    }

    #[test]
    fn all_is_roots_and_the_group_may_use_it() {
        let is_root = geteuid().is_root();
        ::tests::require!((!is_root).then_some("changing owners needs root"));
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("ondemand"), dir.path().join("other"));
        let (home, group) = (root.join("v1"), Gid::from_raw(4321));
        directory(&root, group).unwrap();
        assert_eq!(of(&root), (0, 4321, 0o750));
        // As an earlier version left it.
        chown(&root, Some(4321), Some(4321)).unwrap();
        assert!(!is_roots(&root));
        directory(&root, group).unwrap();
        assert!(is_roots(&root));
        assert_eq!(of(&root), (0, 4321, 0o750));
        fs::create_dir(&home).unwrap();
        for name in ["GATES", "TAGS"] {
            fs::write(home.join(name), "").unwrap();
        }
        pins(&home, group).unwrap();
        assert_eq!(of(&home), (0, 4321, 0o750));
        assert_eq!(of(&home.join("GATES")), (0, 4321, 0o660));
        assert_eq!(of(&home.join("TAGS")), (0, 0, 0o600));
        // A link in its place is not followed.
        fs::create_dir(&other).unwrap();
        let before = of(&other);
        fs::remove_dir_all(&root).unwrap();
        symlink(&other, &root).unwrap();
        directory(&root, group).unwrap_err();
        assert!(!is_roots(&root));
        assert_eq!(of(&other), before);
    }
}
