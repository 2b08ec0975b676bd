//! Whether an application can be frozen (`freeze_after`).

use ondemand_core::config::Service;

use super::finding::Finding;
use crate::systemd::Systemd;

/// Asks systemd.
pub async fn look(service: &Service, systemd: &Systemd) -> Option<Finding> {
    const WHAT: &str = "freeze";
    service.freeze_after?;
    let unit = &service.unit;
    let freezable = match systemd.freezable(unit).await {
        Ok(freezable) => freezable,
        Err(error) => return Some(Finding::unknown(WHAT, &error)),
    };
    Some(if freezable.can != Some(true) {
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
    })
}
