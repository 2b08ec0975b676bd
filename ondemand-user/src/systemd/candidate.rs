//! What `ondemand adopt` asks PID 1, and has it do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::try_join;
use zbus::{DeserializeDict, Type};

use super::{SERVICE, Systemd, UNIT};

/// A unit that may become a service on demand. A property that a version of systemd lacks is empty.
#[derive(Clone, Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub struct Candidate {
    /// Its own name, which is not the one that it was asked for by if that is an alias.
    pub id: Option<String>,
    /// All its names.
    pub names: Option<Vec<String>>,
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load_state: Option<String>,
    /// `active`, `inactive`, `failed`, ...
    pub active_state: Option<String>,
    /// The file that it was loaded from; empty: none.
    pub fragment_path: Option<String>,
    /// What a generator has made it of; empty: none has.
    pub source_path: Option<String>,
    /// Whether it has no file of its own and goes when it stops, as those of systemd-run.
    pub transient: Option<bool>,
    /// Whether only other units may start it.
    pub refuse_manual_start: Option<bool>,
    /// The units that start it by themselves: sockets, timers, paths.
    pub triggered_by: Option<Vec<String>>,
    /// Units that want it, and so keep it up while they are.
    pub wanted_by: Option<Vec<String>>,
    /// Like `wanted_by`, and they need it.
    pub required_by: Option<Vec<String>>,
    /// Like `required_by`.
    pub requisite_of: Option<Vec<String>>,
    /// Like `required_by`.
    pub bound_by: Option<Vec<String>>,
    /// Like `wanted_by`; systemd 249 and later.
    pub upheld_by: Option<Vec<String>>,
    /// When its last start began (`CLOCK_MONOTONIC`, microseconds); 0: never.
    pub inactive_exit_timestamp_monotonic: Option<u64>,
    /// When it was active then.
    pub active_enter_timestamp_monotonic: Option<u64>,
}

/// What only services have.
#[derive(Clone, Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub struct OfService {
    /// `simple`, `oneshot`, ...
    #[zbus(rename = "Type")]
    pub kind: Option<String>,
    /// Bytes; the largest number: unknown.
    pub memory_current: Option<u64>,
    /// Relative to the root of the hierarchy; empty: it has none now.
    pub control_group: Option<String>,
}

impl Candidate {
    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        matches!(self.active_state.as_deref(), Some("active" | "reloading"))
    }

    /// Whether it is down, and stays so.
    pub fn is_down(&self) -> bool {
        matches!(self.active_state.as_deref(), Some("inactive" | "failed"))
    }

    /// How long its last start took. `None`: it is down.
    pub fn start(&self) -> Option<Duration> {
        let begin = self
            .inactive_exit_timestamp_monotonic
            .filter(|at| *at > 0)?;
        let end = self.active_enter_timestamp_monotonic?;
        self.is_up()
            .then(|| Duration::from_micros(end.saturating_sub(begin)))
    }

    /// The units that keep it up while they are up themselves.
    pub fn pins(&self) -> Vec<String> {
        let lists = [
            &self.wanted_by,
            &self.required_by,
            &self.requisite_of,
            &self.bound_by,
            &self.upheld_by,
        ];
        let mut pins: Vec<_> = lists.into_iter().flatten().flatten().cloned().collect();
        pins.sort();
        pins.dedup();
        pins
    }
}

impl OfService {
    /// Its memory in bytes. `None`: it is down, or not accounted.
    pub fn memory(&self) -> Option<u64> {
        self.memory_current.filter(|bytes| *bytes != u64::MAX)
    }
}

impl Systemd {
    /// Reads a service, which loads it if it is not loaded.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer. A missing unit is not an error: its `load_state` shows it.
    pub async fn candidate(&self, unit: &str) -> Result<(Candidate, OfService)> {
        try_join!(self.all(unit, UNIT), self.all(unit, SERVICE))
    }

    /// Enables units, with what they say in `Also=`, and loads all units again.
    ///
    /// # Errors
    ///
    /// PID 1 refuses, or cannot write the links.
    pub async fn enable(&self, units: &[&str]) -> Result<()> {
        let enabled = self.manager.enable_unit_files(units, false, false).await;
        enabled.with_context(|| format!("systemctl enable {}", units.join(" ")))?;
        self.daemon_reload().await
    }
}
