//! What is done when no agent runs any more.

use std::{path::Path, time::Duration};

use anyhow::Result;
use futures_util::future::join_all;
use ondemand_core::{config::Config, lifecycle::JobEnd};

use super::privilege;
use crate::{
    host::capabilities::{self, Keep},
    install::{thaw, units::last_good},
    kernel::InUse,
    systemd::Systemd,
};

/// How long systemd may take for the starts. They go on after that; the next agent waits for this one's end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes back what an agent that was killed could not: who may start a service is decided by its list again. And as nobody
/// thaws what is frozen, that is thawed. Where datagrams that nobody holds cannot wait at front sockets, the applications that
/// receive some are started, and stay up until the next agent stops them.
///
/// # Errors
///
/// The programs are not loaded, or another agent runs; then nothing else is done. Or systemd does not answer.
pub async fn clean_up(config: &Path) -> Result<()> {
    let cleaned = privilege::clean_up();
    match cleaned {
        Err(error) if error.is::<InUse>() => return Err(error),
        Err(_) => capabilities::drop_all(Keep::None)?,
        Ok(_) => {}
    }
    if let Some(config) = last_good::current(config) {
        let frozen = config.services.values();
        let frozen = frozen.filter(|service| service.freeze_after.is_some());
        let units: Vec<String> = frozen.map(|service| service.unit.clone()).collect();
        let thawed = thaw::all(&units).await;
        if !matches!(cleaned, Ok(true)) {
            open_all(&config).await?;
        }
        thawed?;
    }
    cleaned.map(drop)
}

async fn open_all(config: &Config) -> Result<()> {
    let services = config.services.values();
    let leases: Vec<String> = services
        .filter(|service| service.has_datagrams())
        .map(|service| service.lease_unit())
        .collect();
    if leases.is_empty() {
        return Ok(());
    }
    let systemd = &Systemd::connect().await?;
    log::warn!(
        "no agent holds datagrams, and they cannot wait at front sockets, so the applications that receive some are started: {}",
        leases.join(", ")
    );
    let starts = leases.iter().map(|lease| async move {
        if let JobEnd::Failed(why) = systemd.start_as_asked(lease).await {
            log::warn!("{lease}: {why}");
        }
    });
    // What takes longer goes on without this process.
    let _ = tokio::time::timeout(PATIENCE, join_all(starts)).await;
    Ok(())
}
