//! The agent's runtime directory: what lives until the next boot.

use std::path::PathBuf;

/// The one that systemd gave the agent, or where it would be.
pub fn directory() -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY")
        // With several directories it is a list (systemd.exec(5)).
        .and_then(|list| list.to_str()?.split(':').next().map(PathBuf::from))
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| "/run/ondemand".into())
}
