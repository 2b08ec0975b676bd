//! Reads the state of many units at once.

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ondemand_core::config::UnitNames;

use super::{Reading, Slices, Systemd, query::LISTED};

/// Maximum number of concurrent questions about address rules.
const AT_ONCE: usize = 16;

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
        for some in self.units.chunks(LISTED) {
            going_on();
            units.extend(systemd.read(some).await?);
        }
        let mut rules = Vec::with_capacity(self.steered.len());
        let slices = Slices::default();
        for some in self.steered.chunks(LISTED) {
            going_on();
            let read = |(name, names): (String, UnitNames)| {
                let slices = &slices;
                async move {
                    let mut place = systemd.address_rules(&names.socket, slices).await?;
                    if place.is_none() {
                        place = systemd.address_rules(&names.backend, slices).await?;
                    }
                    Ok::<_, anyhow::Error>((name, place))
                }
            };
            let questions: Vec<_> = some.iter().cloned().map(read).collect();
            let answers = stream::iter(questions).buffered(AT_ONCE);
            rules.extend(answers.try_collect::<Vec<_>>().await?);
        }
        Ok(Readings { units, rules })
    }
}
