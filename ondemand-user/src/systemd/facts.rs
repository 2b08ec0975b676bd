//! Properties of units that only `ondemand check` needs.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ondemand_core::measure::unit::ActiveState;
use tokio::try_join;
use zbus::{DeserializeDict, OwnedObjectPath, Type};

use super::{Systemd, UNIT, calls::Row, interface_of, query::LISTED, unit_path};
use crate::host::clock;

/// The manager's interface.
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How far the wall clock may be off the monotonic one, if it was not set and the host not suspended.
const SAME_CLOCK: Duration = Duration::from_millis(200);
/// Maximum number of units that are asked about at once.
const UNITS_AT_ONCE: usize = 16;
/// Maximum number of lists that are asked for at once.
const LISTS_AT_ONCE: usize = 4;

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

/// What PID 1 says of many units in few answers, by the names that they were asked for.
#[derive(Clone, Debug, Default)]
pub struct Listed(HashMap<String, Row>);

/// What to ask of a unit that is loaded, beside that: each is a call or more, which a thousand services make many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Questions {
    /// `need_daemon_reload`.
    pub reload: bool,
    /// `stop_when_unneeded`.
    pub stop: bool,
    /// The units that pin it against that.
    pub pins: bool,
    /// The conditions of its last start.
    pub conditions: bool,
    /// `wants`.
    pub wants: bool,
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

/// The answer to a question, or none to one that is not asked.
async fn if_asked<T>(asked: bool, question: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    match asked {
        true => question.await.map(Some),
        false => Ok(None),
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

    /// Lists units, which loads them if they are not loaded.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn listed(&self, units: &[String]) -> Result<Listed> {
        let lists = units.chunks(LISTED).map(|units| self.list(units));
        let lists: Vec<_> = stream::iter(lists)
            .buffered(LISTS_AT_ONCE)
            .try_collect()
            .await?;
        let rows = lists.into_iter().flat_map(|(_, rows)| rows);
        Ok(Listed(units.iter().cloned().zip(rows).collect()))
    }

    /// The facts of a unit that is not listed yet; without questions its state and its job.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn few_facts(&self, unit: &str, questions: Questions) -> Result<Facts> {
        let listed = self.listed(&[unit.to_owned()]).await?;
        self.facts_of(unit, &listed, questions).await
    }

    /// The facts of a unit: its row, and the answers to these questions. `unit_file_state`, for which PID 1 searches
    /// through directories, is not among them.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or the unit is not among those that were listed.
    pub async fn facts_of(
        &self,
        unit: &str,
        listed: &Listed,
        questions: Questions,
    ) -> Result<Facts> {
        let row = listed.0.get(unit);
        let row = row
            .cloned()
            .with_context(|| format!("systemd has not listed {unit}"))?;
        let path = &row.6;
        let mut facts = Facts {
            id: Some(row.0),
            active_state: Some(row.3),
            job: Some((row.7, row.9)),
            ..Facts::default()
        };
        let is_missing = row.2 == "not-found";
        let is_loaded = row.2 == "loaded";
        facts.load_state = Some(row.2);
        if is_missing {
            return Ok(facts);
        }
        if !is_loaded {
            facts.load_error = Some(self.property(path, "LoadError").await?);
            facts.fragment_path = Some(self.property(path, "FragmentPath").await?);
        }
        let reload = if_asked(questions.reload, self.property(path, "NeedDaemonReload"));
        let conditions = if_asked(questions.conditions, self.conditions(path));
        let stop = if_asked(questions.stop, self.property(path, "StopWhenUnneeded"));
        let pins = async {
            if !questions.pins {
                return Ok(None);
            }
            let list = |property| self.property::<Vec<String>>(path, property);
            let asked = try_join!(
                list("WantedBy"),
                list("RequiredBy"),
                list("RequisiteOf"),
                list("BoundBy"),
                // Older versions have none.
                self.property_if_known(path, UNIT, "UpheldBy"),
            );
            anyhow::Ok(Some(asked?))
        };
        let wants = if_asked(questions.wants, self.property(path, "Wants"));
        let (reload, conditions, stop, pins, wants) =
            try_join!(reload, conditions, stop, pins, wants)?;
        facts.wants = wants;
        facts.need_daemon_reload = reload;
        if let Some(conditions) = conditions {
            facts.condition_timestamp_monotonic = Some(conditions.tried);
            facts.condition_result = conditions.met;
            facts.assert_result = conditions.asserted;
        }
        facts.stop_when_unneeded = stop;
        if let Some((wanted, required, requisite, bound, upheld)) = pins {
            facts.wanted_by = Some(wanted);
            facts.required_by = Some(required);
            facts.requisite_of = Some(requisite);
            facts.bound_by = Some(bound);
            facts.upheld_by = upheld;
        }
        Ok(facts)
    }

    /// The units that are up, starting or stopping, by their own names.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn up(&self) -> Result<Vec<String>> {
        const STATES: [&str; 6] = [
            "active",
            "reloading",
            "refreshing",
            "activating",
            "deactivating",
            "maintenance",
        ];
        let units = self.manager.list_units_by_patterns(&STATES, &[]).await;
        let units = units.context("list systemd's units")?;
        Ok(units.into_iter().map(|row| row.0).collect())
    }

    /// The units that are up, match one of these patterns, and have no file any more.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn without_file(&self, patterns: &[&str]) -> Result<Vec<String>> {
        let units = self.manager.list_units_by_patterns(&["active"], patterns);
        let units = units.await.context("list systemd's units")?;
        let lost = units.into_iter().filter(|row| row.2 == "not-found");
        Ok(lost.map(|row| row.0).collect())
    }

    /// What these units pin against `StopWhenUnneeded=`: each pinned one with those that do.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn pinned_by(&self, units: Vec<String>) -> Result<HashMap<String, Vec<String>>> {
        let read = |unit: String| async move {
            let path = OwnedObjectPath::try_from(unit_path::of(&unit))?;
            let list = |property| self.property::<Vec<String>>(&path, property);
            let (wants, requires, requisite, binds, upholds) = try_join!(
                list("Wants"),
                list("Requires"),
                list("Requisite"),
                list("BindsTo"),
                // Older versions have none.
                self.property_if_known::<Vec<String>>(&path, UNIT, "Upholds"),
            )?;
            let lists = [
                wants,
                requires,
                requisite,
                binds,
                upholds.unwrap_or_default(),
            ];
            anyhow::Ok((unit, lists.concat()))
        };
        let questions: Vec<_> = units.into_iter().map(read).collect();
        let answers: Vec<_> = stream::iter(questions)
            .buffered(UNITS_AT_ONCE)
            .try_collect()
            .await?;
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        for (unit, pinned) in answers {
            for other in pinned {
                found.entry(other).or_default().push(unit.clone());
            }
        }
        Ok(found)
    }

    /// When PID 1 last began to load all units, before it ran its generators, on the clock that file systems use.
    /// `None`: it does not tell, or that clock was set since.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn units_loaded(&self) -> Result<Option<SystemTime>> {
        let path = OwnedObjectPath::try_from("/org/freedesktop/systemd1")?;
        let stamp = |name| self.property_if_known::<u64>(&path, MANAGER, name);
        let (wall, monotonic) = try_join!(
            stamp("UnitsLoadTimestamp"),
            stamp("UnitsLoadTimestampMonotonic")
        )?;
        let (Some(wall), Some(monotonic)) = (wall, monotonic) else {
            return Ok(None);
        };
        let since = Duration::from_nanos(clock::now().as_nanos())
            .saturating_sub(Duration::from_micros(monotonic));
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(wall);
        let age = SystemTime::now().duration_since(at).unwrap_or_default();
        Ok((wall > 0 && age.abs_diff(since) < SAME_CLOCK).then_some(at))
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
