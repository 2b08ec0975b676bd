//! The agent's runtime directory, which is kept until the next boot.

use std::path::PathBuf;

/// The directory from systemd, or the default without systemd.
pub fn directory() -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY")
        // With several directories it is a list (systemd.exec(5)).
        .and_then(|list| list.to_str()?.split(':').next().map(PathBuf::from))
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| "/run/ondemand".into())
}
