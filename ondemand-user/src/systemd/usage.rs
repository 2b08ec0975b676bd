//! What a service takes of the machine.

use std::time::Duration;

use anyhow::Result;
use zbus::{DeserializeDict, Type};

use super::{SERVICE, Systemd};

/// What a service takes. `None`: it is not accounted, or down.
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
    /// Asks what a service takes. Its CPU time stays known after its end until its next start.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit is no service.
    pub async fn usage(&self, unit: &str) -> Result<Usage> {
        let found: Properties = self.all(unit, SERVICE).await?;
        // The largest number stands for "not known".
        let known = |number: &u64| *number != u64::MAX;
        Ok(Usage {
            memory: found.memory.filter(known),
            cpu: found.cpu.filter(known).map(Duration::from_nanos),
        })
    }
}
