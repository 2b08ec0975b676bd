//! Units that are frozen: `FreezeUnit` and `ThawUnit`, of systemd 246 and later, with cgroup2 alone.

use anyhow::{Result, anyhow};
use zbus::{DeserializeDict, Type};

use super::{SERVICE, Systemd, UNIT, explain};

/// What decides whether a unit may be frozen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freezable {
    /// Whether systemd can. `None`: it is too old to say.
    pub can: Option<bool>,
    /// Whether systemd ends it if it is silent (`WatchdogSec=`).
    pub has_watchdog: bool,
    /// Whether none of its memory may go to swap (`MemorySwapMax=0`).
    pub never_swaps: bool,
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct Freezer {
    #[zbus(rename = "CanFreeze")]
    can: Option<bool>,
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct OfService {
    #[zbus(rename = "WatchdogUSec")]
    watchdog: Option<u64>,
    #[zbus(rename = "MemorySwapMax")]
    swap: Option<u64>,
}

impl Systemd {
    /// Freezes a unit's processes, and returns when all of them are.
    ///
    /// # Errors
    ///
    /// PID 1 refuses: the unit is down or has a job, or this host has no cgroup2 alone.
    pub async fn freeze(&self, unit: &str) -> Result<()> {
        let _turn = Self::turn(&self.acts).await;
        let done = self.manager.freeze_unit(unit).await;
        done.map_err(|error| anyhow!(explain("FreezeUnit", unit, &error)))
    }

    /// Thaws them. One that is not frozen stays as it is.
    ///
    /// # Errors
    ///
    /// PID 1 refuses: it is down, for example.
    pub async fn thaw(&self, unit: &str) -> Result<()> {
        // No turn: a client waits, and nothing that has one may be done before.
        let done = self.manager.thaw_unit(unit).await;
        done.map_err(|error| anyhow!(explain("ThawUnit", unit, &error)))
    }

    /// Whether a service may be frozen.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn freezable(&self, unit: &str) -> Result<Freezable> {
        let freezer: Freezer = self.all(unit, UNIT).await?;
        let of: OfService = self.all(unit, SERVICE).await?;
        let micros = of.watchdog.filter(|micros| *micros != u64::MAX);
        Ok(Freezable {
            can: freezer.can,
            has_watchdog: micros.is_some_and(|micros| micros != 0),
            never_swaps: of.swap == Some(0),
        })
    }
}
