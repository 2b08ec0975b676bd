//! What an agent that has ended leaves frozen.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ondemand_core::config::Config;
use tokio::time::timeout;

use crate::systemd::Systemd;

/// Maximum time for all of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Thaws the applications that an agent may have frozen.
///
/// # Errors
///
/// systemd does not answer, or not in time. That one is down is no error.
pub async fn all(config: &Config) -> Result<()> {
    let frozen = config.services.values();
    let mut frozen = frozen
        .filter(|service| service.freeze_after.is_some())
        .peekable();
    if frozen.peek().is_none() {
        return Ok(());
    }
    let work = async {
        let systemd = Systemd::connect().await?;
        for service in frozen {
            if let Err(error) = systemd.thaw(&service.unit).await {
                log::debug!("{error:#}");
            }
        }
        anyhow::Ok(())
    };
    let thawed = timeout(PATIENCE, work).await;
    thawed.context("systemd did not thaw in time what was frozen")?
}
