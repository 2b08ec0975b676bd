//! Whether an application can be frozen (`freeze_after`).

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use ondemand_core::{config::Service, room::memory};

use super::finding::Finding;
use crate::{
    install::reclaim,
    kernel::requirements,
    systemd::{Freezable, Systemd},
};

const WHAT: &str = "freeze";
/// Where cgroup2 is mounted that has no v1 beside it.
const UNIFIED: &str = "/sys/fs/cgroup";

/// Asks systemd.
pub async fn look(service: &Service, systemd: &Systemd) -> Vec<Finding> {
    if service.freeze_after.is_none() {
        return Vec::new();
    }
    let unit = &service.unit;
    let freezable = match systemd.freezable(unit).await {
        Ok(freezable) => freezable,
        Err(error) => return vec![Finding::unknown(WHAT, &error)],
    };
    let mut found = vec![freezes(unit, freezable)];
    if service.freeze_reclaim && freezable.can == Some(true) {
        let reclaims = reclaims(unit, freezable, systemd).await;
        found.push(reclaims.unwrap_or_else(|error| Finding::unknown(WHAT, &error)));
    }
    found
}

/// Whether the memory of a frozen one is taken back (`freeze_reclaim`).
async fn reclaims(unit: &str, freezable: Freezable, systemd: &Systemd) -> Result<Finding> {
    let group = systemd.control_group(unit).await?;
    // One that is down has none.
    let group = match group.as_str() {
        "" => "system.slice",
        group => group,
    };
    let group = reclaim::directory(group)?;
    let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    Ok(if !group.join(reclaim::FILE).exists() {
        Finding::warning(
            WHAT,
            format!(
                "the memory of {unit} stays with it while it is frozen: {}",
                reclaim::missing()
            ),
            "remove freeze_reclaim, or provide that",
        )
    } else if freezable.never_swaps {
        Finding::warning(
            WHAT,
            format!(
                "{unit} has MemorySwapMax=0: of its memory only pages of files are taken back while it is frozen"
            ),
            format!("remove freeze_reclaim, or that line (systemctl cat {unit})"),
        )
    } else if !memory::has_swap(&meminfo) {
        Finding::warning(
            WHAT,
            format!("no swap is free, so {unit} keeps its memory while it is frozen"),
            "add swap, such as zram (zramctl, or systemd-zram-generator), or remove freeze_reclaim",
        )
    } else {
        Finding::ok(
            WHAT,
            format!("the memory of {unit} goes to swap while it is frozen"),
        )
    })
}

fn freezes(unit: &str, freezable: Freezable) -> Finding {
    // PID 1 says that it can with cgroup v1, too, and refuses then (`cg_freezer_supported()`, src/basic/cgroup-util.c).
    let is_unified = requirements::cgroup_root().is_ok_and(|root| root == Path::new(UNIFIED));
    if freezable.can != Some(true) || !is_unified {
        Finding::error(
            WHAT,
            format!(
                "systemd cannot freeze {unit}, so it is left running: that needs systemd 246, and cgroup2 alone"
            ),
            "remove freeze_after, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    } else if freezable.has_watchdog {
        Finding::error(
            WHAT,
            format!("{unit} has WatchdogSec=: systemd would kill it while it is frozen"),
            format!("remove freeze_after, or set WatchdogSec=0 (systemctl edit {unit})"),
        )
    } else {
        Finding::ok(WHAT, format!("systemd can freeze {unit}"))
    }
}
