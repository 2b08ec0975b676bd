//! The resource usage of a service.

use std::time::Duration;

use anyhow::Result;
use tokio::try_join;
use zbus::OwnedObjectPath;

use super::{SERVICE, Systemd, unit_path};

/// The usage. `None`: it is not accounted, or the service is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory, now.
    pub memory: Option<u64>,
    /// CPU time since its start.
    pub cpu: Option<Duration>,
}

impl Systemd {
    /// Reads the usage of a service. Its CPU time stays available after its end until its next start.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit is not a service.
    pub async fn usage(&self, unit: &str) -> Result<Usage> {
        let path = OwnedObjectPath::try_from(unit_path::of(unit))?;
        // Of all properties of a service there are hundreds, and PID 1 reads files for some.
        let (memory, cpu) = try_join!(
            self.property_of::<u64>(&path, SERVICE, "MemoryCurrent"),
            self.property_of::<u64>(&path, SERVICE, "CPUUsageNSec"),
        )?;
        // The largest number means "unknown".
        let known = |number: u64| (number != u64::MAX).then_some(number);
        Ok(Usage {
            memory: known(memory),
            cpu: known(cpu).map(Duration::from_nanos),
        })
    }
}
