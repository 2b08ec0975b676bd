//! Whose processes a service runs.

use anyhow::Result;
use ondemand_core::measure::unit::Owner;
use zbus::{DeserializeDict, Type};

use super::{SERVICE, Systemd};

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct Properties {
    #[zbus(rename = "ControlGroup")]
    control_group: Option<String>,
    #[zbus(rename = "UID")]
    uid: Option<u32>,
}

impl Systemd {
    /// Reads the cgroup and the user of a service.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit is not a service.
    pub async fn owner(&self, unit: &str) -> Result<Owner> {
        let found: Properties = self.all(unit, SERVICE).await?;
        Ok(Owner {
            control_group: found.control_group.unwrap_or_default(),
            // The largest number means "none" (UID_INVALID).
            user: found.uid.filter(|uid| *uid != u32::MAX),
        })
    }
}
