//! Properties of units that only `ondemand check` needs.

use anyhow::{Context as _, Result};
use zbus::{DeserializeDict, OwnedObjectPath, Type};

use super::{Systemd, UNIT, interface_of};

/// A unit's properties in PID 1. A property that a version of systemd lacks is empty.
#[derive(Clone, Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub struct Facts {
    /// Its own name, which is not the one that it was read by if that is an alias.
    pub id: Option<String>,
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load_state: Option<String>,
    /// Name and text of the error, if it could not be loaded.
    pub load_error: Option<(String, String)>,
    /// `active`, `inactive`, `failed`, ...
    pub active_state: Option<String>,
    /// `enabled`, `disabled`, `static`, ...; empty without a file.
    pub unit_file_state: Option<String>,
    /// `ConditionResult` of its last start.
    pub condition_result: Option<bool>,
    /// `AssertResult` of its last start.
    pub assert_result: Option<bool>,
    /// When the conditions were last looked at; 0: never.
    pub condition_timestamp_monotonic: Option<u64>,
    /// The file that it was loaded from.
    pub fragment_path: Option<String>,
    /// Whether files are newer than what PID 1 has loaded.
    pub need_daemon_reload: Option<bool>,
    /// Whether PID 1 stops it when nothing needs it any more.
    pub stop_when_unneeded: Option<bool>,
    /// The units that its start pulls in.
    pub wants: Option<Vec<String>>,
    /// Its job, number 0 if it has none.
    pub job: Option<(u32, OwnedObjectPath)>,
    /// Units that pin it against that (`UNIT_ATOM_PINS_STOP_WHEN_UNNEEDED`,
    /// src/core/unit-dependency-atom.c).
    pub wanted_by: Option<Vec<String>>,
    /// Like `wanted_by`.
    pub required_by: Option<Vec<String>>,
    /// Like `wanted_by`.
    pub requisite_of: Option<Vec<String>>,
    /// Like `wanted_by`.
    pub bound_by: Option<Vec<String>>,
    /// Like `wanted_by`; systemd 249 and later.
    pub upheld_by: Option<Vec<String>>,
}

/// Properties of a unit with processes or sockets.
#[derive(Clone, Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
pub struct Resources {
    /// Its cgroup, relative to the root of the hierarchy; empty if it has none now.
    #[zbus(rename = "ControlGroup")]
    pub control_group: Option<String>,
    /// Its slice.
    #[zbus(rename = "Slice")]
    pub slice: Option<String>,
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct Sockets {
    /// Kind and address.
    #[zbus(rename = "Listen")]
    listen: Option<Vec<(String, String)>>,
}

impl Facts {
    /// Whether systemd has skipped its last start, because a condition or an assertion is not met.
    pub fn is_skipped(&self) -> bool {
        let tried = self.condition_timestamp_monotonic.is_some_and(|at| at > 0);
        tried && [self.condition_result, self.assert_result].contains(&Some(false))
    }
}

impl Systemd {
    /// Reads a unit, which loads it if it is not loaded.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer. A missing unit is not an error: its `load_state` shows it.
    pub async fn facts(&self, unit: &str) -> Result<Facts> {
        self.all(unit, UNIT).await
    }

    /// Reads the properties of a service's, socket's or slice's cgroup.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit has another type.
    pub async fn resources(&self, unit: &str) -> Result<Resources> {
        self.all(unit, interface_of(unit)).await
    }

    /// Returns the active socket units, each with the addresses that it listens on.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn listening_sockets(&self) -> Result<Vec<(String, Vec<String>)>> {
        let units = self
            .manager
            .list_units_by_patterns(&["active"], &["*.socket"])
            .await
            .context("list systemd's socket units")?;
        let mut found = Vec::new();
        for (unit, ..) in units {
            let sockets: Sockets = self.all(&unit, interface_of(&unit)).await?;
            let listen = sockets.listen.unwrap_or_default();
            found.push((unit, listen.into_iter().map(|(_, at)| at).collect()));
        }
        Ok(found)
    }

    /// Returns systemd's version, for example `252.39-1~deb12u1`.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn version(&self) -> Result<String> {
        let version = self.manager.version().await;
        version.context("query the version of systemd")
    }

    pub(super) async fn all<T>(&self, unit: &str, interface: &str) -> Result<T>
    where
        T: for<'de> serde::Deserialize<'de> + Type,
    {
        let reply = self.all_properties(unit, interface).await?;
        reply
            .body()
            .deserialize()
            .with_context(|| format!("parse systemd's reply about {unit}"))
    }
}
