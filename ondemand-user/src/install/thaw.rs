//! What nobody else thaws: an agent has ended, or may not.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::timeout;

use super::permission;
use crate::systemd::Systemd;

/// Maximum time for all of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Thaws units that an agent may have frozen.
///
/// # Errors
///
/// systemd does not answer, or not in time. That one is down is no error.
pub async fn all(units: &[String]) -> Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    let work = async {
        let systemd = Systemd::connect().await?;
        for unit in units {
            if let Err(error) = systemd.thaw(unit).await {
                log::debug!("{error:#}");
            }
        }
        anyhow::Ok(())
    };
    let thawed = timeout(PATIENCE, work).await;
    thawed.context("systemd did not thaw in time what was frozen")?
}

/// Renews the permissions of the agent, and thaws the units that it may not freeze any more: nor may it thaw what has
/// left the configuration.
///
/// # Errors
///
/// Those of `renew`.
pub async fn after(renew: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = permission::frozen();
    let renewed = renew();
    let left: Vec<String> = before.difference(&permission::frozen()).cloned().collect();
    if let Err(error) = all(&left).await {
        log::warn!("{error:#}");
    }
    renewed
}
