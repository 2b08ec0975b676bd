//! The resource usage of a service.

use std::time::Duration;

use anyhow::Result;
use zbus::{DeserializeDict, Type};

use super::{SERVICE, Systemd};

/// The usage. `None`: it is not accounted, or the service is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory, now.
    pub memory: Option<u64>,
    /// CPU time since its start.
    pub cpu: Option<Duration>,
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct Properties {
    #[zbus(rename = "MemoryCurrent")]
    memory: Option<u64>,
    #[zbus(rename = "CPUUsageNSec")]
    cpu: Option<u64>,
}

impl Systemd {
    /// Reads the usage of a service. Its CPU time stays available after its end until its next start.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit is not a service.
    pub async fn usage(&self, unit: &str) -> Result<Usage> {
        let found: Properties = self.all(unit, SERVICE).await?;
        // The largest number means "unknown".
        let known = |number: &u64| *number != u64::MAX;
        Ok(Usage {
            memory: found.memory.filter(known),
            cpu: found.cpu.filter(known).map(Duration::from_nanos),
        })
    }
}
