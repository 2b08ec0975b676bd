//! `ondemand wait-listening`: holds the proxy back until the backend really listens.

use std::{ffi::OsString, time::Duration};

use crate::config::Endpoint;

/// Placeholder.
pub fn run(
    _name: &str,
    _unit: &str,
    _backend: &Endpoint,
    _start_timeout: Duration,
    _command: &[OsString],
) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
