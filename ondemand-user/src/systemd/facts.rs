//! Properties of units that only `ondemand check` needs.

use anyhow::{Context as _, Result, anyhow};
use futures_util::future::try_join_all;
use ondemand_core::measure::unit::ActiveState;
use tokio::try_join;
use zbus::{DeserializeDict, OwnedObjectPath, Type};

use super::{Systemd, UNIT, interface_of, query::LISTED};

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

    /// The facts of units, without `unit_file_state`, for which PID 1 searches through directories, and without
    /// what they want. What needs them is read of the first unit only.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn facts_of<const N: usize>(&self, units: [&String; N]) -> Result<[Facts; N]> {
        let (_, rows) = self.list(&units.map(String::clone)).await?;
        let facts = rows.into_iter().enumerate().map(|(place, row)| async move {
            let mut facts = Facts::default();
            let path = row.6.clone();
            let is_service = row.0.ends_with(".service");
            facts.id = Some(row.0);
            facts.active_state = Some(row.3);
            facts.job = Some((row.7, row.9));
            let is_loaded = row.2 == "loaded";
            let is_missing = row.2 == "not-found";
            facts.load_state = Some(row.2);
            if is_missing {
                return Ok(facts);
            }
            if !is_loaded {
                facts.load_error = Some(self.property(&path, "LoadError").await?);
                facts.fragment_path = Some(self.property(&path, "FragmentPath").await?);
            }
            let old = self.property(&path, "NeedDaemonReload");
            if !is_service {
                facts.need_daemon_reload = Some(old.await?);
                return Ok(facts);
            }
            let (old, stops, conditions) = try_join!(
                old,
                self.property(&path, "StopWhenUnneeded"),
                self.conditions(&path),
            )?;
            facts.need_daemon_reload = Some(old);
            facts.stop_when_unneeded = Some(stops);
            facts.condition_timestamp_monotonic = Some(conditions.tried);
            facts.condition_result = conditions.met;
            facts.assert_result = conditions.asserted;
            if place == 0 {
                let needs = |property| self.property(&path, property);
                let (wanted, required, requisite, bound) = try_join!(
                    needs("WantedBy"),
                    needs("RequiredBy"),
                    needs("RequisiteOf"),
                    needs("BoundBy"),
                )?;
                facts.wanted_by = Some(wanted);
                facts.required_by = Some(required);
                facts.requisite_of = Some(requisite);
                facts.bound_by = Some(bound);
                // Older versions have none.
                facts.upheld_by = self.property_if_known(&path, UNIT, "UpheldBy").await?;
            }
            anyhow::Ok(facts)
        });
        let facts = try_join_all(facts).await?;
        facts
            .try_into()
            .map_err(|_| anyhow!("systemd has listed other units than were asked for"))
    }

    /// The states of units, in the order of their names.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn states(&self, units: &[String]) -> Result<Vec<ActiveState>> {
        let mut states = Vec::with_capacity(units.len());
        for units in units.chunks(LISTED) {
            let (_, rows) = self.list(units).await?;
            states.extend(rows.iter().map(|row| ActiveState::parse(&row.3)));
        }
        Ok(states)
    }

    /// A service's cgroup, relative to the root of the hierarchy; empty if it has none now.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit has another type.
    pub async fn control_group(&self, unit: &str) -> Result<String> {
        let _turn = Self::turn(&self.reads).await;
        let read = async { self.cgroup(unit).await?.control_group().await };
        let read = read.await;
        read.with_context(|| format!("query the cgroup of {unit} from systemd"))
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
