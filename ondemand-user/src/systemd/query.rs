//! Asks PID 1 for the state of units, at a cost that is small for PID 1: its answer to `GetAll` has
//! `UnitFileState`, for which it reads the directories of unit files the first time, some 2.5 ms a unit with
//! a few hundred of them (`unit_get_unit_file_state()`, src/core/unit.c).

use anyhow::{Context as _, Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::try_join;
use zbus::{OwnedObjectPath, OwnedVariant, fdo, message::Sequence};

use super::{
    NAME, PROPERTIES, Systemd, UNIT,
    calls::{Row, if_known},
    reading::{Properties, Reading, is_service},
};

/// Maximum number of units that are asked about at once: one after the other takes much longer on a busy
/// machine; with all at once, the replies take memory.
const UNITS_AT_ONCE: usize = 16;
/// Maximum number of names in one list.
pub(super) const LISTED: usize = 128;

/// The conditions of a unit's last start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions {
    /// When they were looked at (`CLOCK_MONOTONIC`, microseconds); 0: never.
    pub tried: u64,
    /// `ConditionResult`, if they were.
    pub met: Option<bool>,
    /// `AssertResult`, if they were.
    pub asserted: Option<bool>,
}

impl Systemd {
    /// Reads units, which loads them if they are not loaded.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer. A missing unit is not an error: its `LoadState` shows it.
    pub async fn read(&self, units: &[String]) -> Result<Vec<(String, Reading)>> {
        let mut readings = Vec::with_capacity(units.len());
        for units in units.chunks(LISTED) {
            readings.extend(self.read_some(units).await?);
        }
        Ok(readings)
    }

    async fn read_some(&self, units: &[String]) -> Result<Vec<(String, Reading)>> {
        let (position, rows) = self.list(units).await?;
        let read = |(unit, row): (String, Row)| {
            let systemd = self.clone();
            async move {
                let reading = Reading {
                    position,
                    properties: systemd.properties(row).await?,
                };
                Ok::<_, anyhow::Error>((unit, reading))
            }
        };
        // Collected, because a stream that borrows the names would not be `Send`.
        let questions: Vec<_> = units.iter().cloned().zip(rows.clone()).map(read).collect();
        let mut readings: Vec<(String, Reading)> = stream::iter(questions)
            .buffered(UNITS_AT_ONCE)
            .try_collect()
            .await?;
        // What was read one after the other is one state only if nothing has happened meanwhile. And a unit
        // that is another one than was known: what has changed since the reply was not reported.
        let (_, again) = self.list(units).await?;
        for (((unit, reading), before), after) in readings.iter_mut().zip(rows).zip(again) {
            let is_new = self.names().is_new(unit, &after.0);
            if is_new || before != after {
                *reading = self.read_at_once(unit).await?;
            }
        }
        Ok(readings)
    }

    /// The states of units now, by one question: readings that are not whole.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn read_states(&self, units: &[String]) -> Result<Vec<(String, Reading)>> {
        let (position, rows) = self.list(units).await?;
        let reading = |row| Reading {
            position,
            properties: Properties::of(row),
        };
        let readings = rows.into_iter().map(reading);
        Ok(units.iter().cloned().zip(readings).collect())
    }

    /// The object path of the unit that a process belongs to.
    ///
    /// # Errors
    ///
    /// It belongs to none, or PID 1 does not answer.
    pub async fn unit_of_process(&self, pid: u32) -> Result<String> {
        let _turn = Self::turn(&self.reads).await;
        let call = self.connection.call_method(
            Some(NAME),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "GetUnitByPID",
            &pid,
        );
        let reply = call
            .await
            .with_context(|| format!("query the unit of process {pid} from systemd"))?;
        let path: OwnedObjectPath = reply
            .body()
            .deserialize()
            .context("parse systemd's reply")?;
        Ok(path.as_str().to_owned())
    }

    /// A row for each of the names, and the position of the reply in the bus's stream of messages.
    pub(super) async fn list(&self, units: &[String]) -> Result<(Sequence, Vec<Row>)> {
        let _turn = Self::turn(&self.reads).await;
        let call = self.connection.call_method(
            Some(NAME),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "ListUnitsByNames",
            &units,
        );
        let reply = call.await.context("list units from systemd")?;
        let rows: Vec<Row> = reply
            .body()
            .deserialize()
            .context("parse systemd's list of units")?;
        match rows.len() == units.len() {
            true => Ok((reply.recv_position(), rows)),
            false => Err(anyhow!(
                "systemd has listed other units than were asked for"
            )),
        }
    }

    /// A unit's state, job and last start: all that a client waits for.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn state(&self, unit: &str) -> Result<Reading> {
        let (position, rows) = self.list(&[unit.to_owned()]).await?;
        let row = rows.into_iter().next().context("systemd lists no unit")?;
        let path = row.6.clone();
        let mut properties = Properties::of(row);
        self.ask_last_start(&path, &mut properties).await?;
        Ok(Reading {
            position,
            properties,
        })
    }

    /// What is needed of a unit beside its row.
    async fn properties(&self, row: Row) -> Result<Properties> {
        let path = row.6.clone();
        let kind = row.0.rsplit_once('.').map(|(_, kind)| kind.to_owned());
        let mut properties = Properties::of(row);
        let is_there = properties.load_state.as_deref() == Some("loaded") || !properties.is_down();
        properties.stop_when_unneeded = Some(false);
        properties.after = Some(Vec::new());
        match kind.as_deref() {
            Some("service") if is_there => self.ask_of_service(&path, &mut properties).await?,
            Some("socket") => self.ask_last_start(&path, &mut properties).await?,
            // Nobody looks at when it came up.
            _ => {}
        }
        Ok(properties)
    }

    async fn ask_last_start(&self, path: &OwnedObjectPath, found: &mut Properties) -> Result<()> {
        if !found.is_down() {
            let enter = self.property(path, "ActiveEnterTimestampMonotonic");
            found.active_enter_timestamp_monotonic = Some(enter.await?);
        }
        Ok(())
    }

    async fn ask_of_service(&self, path: &OwnedObjectPath, found: &mut Properties) -> Result<()> {
        let number = |property| self.property::<u64>(path, property);
        let list = |property| self.property::<Vec<String>>(path, property);
        let (stops, interval, conditions, exit, after, wants, requires, part_of) = try_join!(
            self.property(path, "StopWhenUnneeded"),
            number("StartLimitIntervalUSec"),
            self.conditions(path),
            number("InactiveExitTimestampMonotonic"),
            list("After"),
            list("Wants"),
            list("Requires"),
            list("PartOf"),
        )?;
        // Most units have to do with none, and are asked no more.
        let related = [&after, &wants, &requires, &part_of];
        if related.into_iter().flatten().any(|unit| is_service(&unit)) {
            let (requisite, binds_to, upholds) = try_join!(
                list("Requisite"),
                list("BindsTo"),
                // Older versions have none.
                self.property_if_known(path, UNIT, "Upholds"),
            )?;
            found.requisite = Some(requisite);
            found.binds_to = Some(binds_to);
            found.upholds = upholds;
        }
        found.after = Some(after);
        found.wants = Some(wants);
        found.requires = Some(requires);
        found.part_of = Some(part_of);
        found.stop_when_unneeded = Some(stops);
        found.start_limit_interval_u_sec = Some(interval);
        found.condition_timestamp_monotonic = Some(conditions.tried);
        found.condition_result = conditions.met;
        found.assert_result = conditions.asserted;
        found.inactive_exit_timestamp_monotonic = Some(exit);
        if exit > 0 {
            let (up, down) = try_join!(
                number("ActiveEnterTimestampMonotonic"),
                number("InactiveEnterTimestampMonotonic"),
            )?;
            found.active_enter_timestamp_monotonic = Some(up);
            found.inactive_enter_timestamp_monotonic = Some(down);
        }
        Ok(())
    }

    /// A unit's conditions at its last start.
    pub(super) async fn conditions(&self, path: &OwnedObjectPath) -> Result<Conditions> {
        let tried = self.property(path, "ConditionTimestampMonotonic").await?;
        let mut found = Conditions {
            tried,
            ..Conditions::default()
        };
        if tried > 0 {
            let (met, asserted) = try_join!(
                self.property(path, "ConditionResult"),
                self.property(path, "AssertResult"),
            )?;
            found.met = Some(met);
            found.asserted = Some(asserted);
        }
        Ok(found)
    }

    /// One property of a unit.
    pub(super) async fn property<T>(&self, path: &OwnedObjectPath, property: &str) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        self.property_of(path, UNIT, property).await
    }

    /// One property of one of a unit's interfaces.
    pub(super) async fn property_of<T>(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        property: &str,
    ) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let found = self.property_if_known(path, interface, property).await?;
        found.with_context(|| format!("this systemd has no property {property}"))
    }

    /// The same. `None`: this version of systemd has none of the name.
    pub(super) async fn property_if_known<T>(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        property: &str,
    ) -> Result<Option<T>>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let _turn = Self::turn(&self.reads).await;
        let read = async {
            let question = (interface, property);
            let call = self.connection.call_method(
                Some(NAME),
                path.as_str(),
                Some(PROPERTIES),
                "Get",
                &question,
            );
            // The bus's own errors by their names, as in the answers to typed calls.
            let reply = call.await.map_err(fdo::Error::from)?;
            let value: OwnedVariant = reply.body().deserialize()?;
            T::try_from(value).map_err(Into::into)
        };
        let read: zbus::Result<T> = read.await;
        if_known(read)
            .with_context(|| format!("query {property} of {} from systemd", path.as_str()))
    }

    /// All properties, as they were in one moment.
    async fn read_at_once(&self, unit: &str) -> Result<Reading> {
        let reply = self.all_properties(unit, UNIT).await?;
        let properties = reply
            .body()
            .deserialize()
            .with_context(|| format!("parse systemd's reply about {unit}"))?;
        Ok(Reading {
            position: reply.recv_position(),
            properties,
        })
    }
}
