//! Whose processes a service runs.

use anyhow::Result;
use ondemand_core::measure::unit::Owner;
use tokio::try_join;
use zbus::OwnedObjectPath;

use super::{SERVICE, Systemd, unit_path};

impl Systemd {
    /// Whether the memory of a service is accounted. `None`: PID 1 does not say.
    pub async fn accounts_memory(&self, unit: &str) -> Option<bool> {
        let path = OwnedObjectPath::try_from(unit_path::of(unit)).ok()?;
        let read = self.property_of(&path, SERVICE, "MemoryAccounting");
        read.await.ok()
    }

    /// Reads the cgroup and the user of a service.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit is not a service.
    pub async fn owner(&self, unit: &str) -> Result<Owner> {
        let path = OwnedObjectPath::try_from(unit_path::of(unit))?;
        let (control_group, uid) = try_join!(
            self.property_of(&path, SERVICE, "ControlGroup"),
            self.property_of::<u32>(&path, SERVICE, "UID"),
        )?;
        Ok(Owner {
            control_group,
            // The largest number means "none" (UID_INVALID).
            user: (uid != u32::MAX).then_some(uid),
        })
    }
}
