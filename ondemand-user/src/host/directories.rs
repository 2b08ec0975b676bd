//! The agent's directories, and how one is made.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The runtime directory, which is kept until the next boot: from systemd, or the default without systemd.
pub fn directory() -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY")
        // With several directories it is a list (systemd.exec(5)).
        .and_then(|list| list.to_str()?.split(':').next().map(PathBuf::from))
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| "/run/ondemand".into())
}

/// Creates a directory with this mode, whatever the umask, in one in which only this user can write. It may
/// exist.
///
/// # Errors
///
/// It cannot be created.
pub fn create(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
