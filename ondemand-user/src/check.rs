//! `ondemand check`: what would not work, said before it does not work.

use std::{path::Path, process::ExitCode};

/// Placeholder.
pub async fn run(_config: &Path, _json: bool) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not written yet")
}
