//! Connections of Unix sockets, from a sock_diag snapshot.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Connections open at each of `paths`.
///
/// # Errors
///
/// The kernel does not tell.
pub fn connections(_paths: &[&Path]) -> anyhow::Result<HashMap<PathBuf, u64>> {
    anyhow::bail!("not written yet")
}
