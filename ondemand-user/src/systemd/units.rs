//! Reads the state of many units at once.

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ondemand_core::config::UnitNames;

use super::{Reading, Slices, Systemd};

/// Maximum number of concurrent calls to systemd: one after the other takes much longer on a busy
/// machine; with all at once, the replies take memory.
const AT_ONCE: usize = 16;
/// The number of units that are read between two signs of progress.
const BETWEEN_SIGNS: usize = 128;

/// The units' states, in their order.
///
/// # Errors
///
/// PID 1 does not answer.
pub async fn read(
    systemd: &Systemd,
    units: impl IntoIterator<Item = &String>,
) -> Result<Vec<(String, Reading)>> {
    let read = |unit: &String| {
        let (systemd, unit) = (systemd.clone(), unit.clone());
        async move {
            let reading = systemd.read(&unit).await?;
            Ok((unit, reading))
        }
    };
    // Collected, because a stream that borrows the names would not be `Send`.
    let questions: Vec<_> = units.into_iter().map(read).collect();
    stream::iter(questions)
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// Everything that is read of the units.
#[derive(Debug, Default)]
pub struct Readings {
    /// The units' state.
    pub units: Vec<(String, Reading)>,
    /// By service: the unit whose address rules steering would bypass.
    pub rules: Vec<(String, Option<String>)>,
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The units' names.
    pub units: Vec<String>,
    /// The services with `steer = true`, and their units.
    pub steered: Vec<(String, UnitNames)>,
}

impl Wanted {
    /// Reads it. Calls `going_on` periodically.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn read(&self, systemd: &Systemd, going_on: impl Fn()) -> Result<Readings> {
        let mut units = Vec::with_capacity(self.units.len());
        for some in self.units.chunks(BETWEEN_SIGNS) {
            going_on();
            units.extend(read(systemd, some).await?);
        }
        let mut rules = Vec::with_capacity(self.steered.len());
        let mut slices = Slices::default();
        for (at, (name, names)) in self.steered.iter().enumerate() {
            if at.is_multiple_of(BETWEEN_SIGNS) {
                going_on();
            }
            let mut place = systemd.address_rules(&names.socket, &mut slices).await?;
            if place.is_none() {
                place = systemd.address_rules(&names.backend, &mut slices).await?;
            }
            rules.push((name.clone(), place));
        }
        Ok(Readings { units, rules })
    }
}
