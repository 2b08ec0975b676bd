//! A unit's properties as received over the bus, and the state that follows from them.

use std::collections::BTreeSet;

use super::calls::Row;
use ondemand_core::measure::{
    Ktime,
    unit::{ActiveState, Unit},
};
use zbus::{DeserializeDict, OwnedObjectPath, Type, message::Sequence};

/// Properties of `org.freedesktop.systemd1.Unit`: all of them, or the changed ones.
#[derive(Clone, Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub struct Properties {
    pub(super) id: Option<String>,
    pub(super) active_state: Option<String>,
    pub(super) sub_state: Option<String>,
    pub(super) job: Option<(u32, OwnedObjectPath)>,
    pub(super) active_enter_timestamp_monotonic: Option<u64>,
    pub(super) inactive_exit_timestamp_monotonic: Option<u64>,
    pub(super) inactive_enter_timestamp_monotonic: Option<u64>,
    pub(super) load_state: Option<String>,
    pub(super) stop_when_unneeded: Option<bool>,
    pub(super) condition_result: Option<bool>,
    pub(super) assert_result: Option<bool>,
    pub(super) condition_timestamp_monotonic: Option<u64>,
    pub(super) start_limit_interval_u_sec: Option<u64>,
    pub(super) after: Option<Vec<String>>,
    pub(super) part_of: Option<Vec<String>>,
    pub(super) requires: Option<Vec<String>>,
    pub(super) requisite: Option<Vec<String>>,
    pub(super) wants: Option<Vec<String>>,
    pub(super) binds_to: Option<Vec<String>>,
    pub(super) upholds: Option<Vec<String>>,
}

impl Properties {
    /// What a list of units tells.
    pub(super) fn of(row: Row) -> Self {
        let (id, _, load_state, active_state, sub_state, _, _, job, _, job_path) = row;
        Self {
            id: Some(id),
            load_state: Some(load_state),
            active_state: Some(active_state),
            sub_state: Some(sub_state),
            job: Some((job, job_path)),
            ..Self::default()
        }
    }

    /// The services that it needs, and those after which it starts. `None`: these properties were not read.
    fn dependencies(&self) -> Option<Dependencies> {
        let after = self.after.as_ref()?;
        let lists = [
            &self.requires,
            &self.requisite,
            &self.wants,
            &self.binds_to,
            &self.upholds,
            &self.part_of,
        ];
        Some(Dependencies {
            needs: lists
                .into_iter()
                .flatten()
                .flatten()
                .filter(is_service)
                .cloned()
                .collect(),
            after: after.iter().filter(is_service).cloned().collect(),
        })
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.active_state.as_deref(), Some("inactive" | "failed"))
    }
}

/// Properties, and their position in the bus's stream of messages. A reply and a signal are
/// handled by different tasks: only the position shows which one is newer.
#[derive(Clone, Debug)]
pub struct Reading {
    pub(super) position: Sequence,
    pub(super) properties: Properties,
}

impl Reading {
    /// Whether it has all properties, not only the changed ones.
    pub fn is_whole(&self) -> bool {
        self.properties.load_state.is_some() && self.properties.stop_when_unneeded.is_some()
    }
}

#[cfg(test)]
impl Reading {
    /// A change of `ActiveState`.
    pub fn change(state: &str) -> Self {
        Self {
            position: Sequence::default(),
            properties: Properties {
                active_state: Some(state.to_owned()),
                ..Properties::default()
            },
        }
    }

    /// A reading of a unit in this state.
    pub fn whole(state: &str) -> Self {
        let mut reading = Self::change(state);
        reading.properties.load_state = Some("loaded".into());
        reading.properties.stop_when_unneeded = Some(true);
        reading
    }
}

pub(super) fn is_service(unit: &&String) -> bool {
    unit.ends_with(".service")
}

/// The services that a unit has to do with, by their own names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// Those that its start pulls in, and those whose stop is its own.
    pub needs: BTreeSet<String>,
    /// Those after which it is started.
    pub after: BTreeSet<String>,
}

/// The known state of a unit.
#[derive(Clone, Debug, Default)]
pub struct Known {
    position: Sequence,
    /// The position of the last whole reading.
    loaded_at: Sequence,
    /// The state for the protocol.
    pub unit: Unit,
    /// Its own name, which is not the one that it was read by if that is an alias.
    pub id: String,
    /// `LoadState`: `loaded`, `not-found`, `masked`, ...
    pub load_state: String,
    /// Whether PID 1 stops it when no unit needs it any more.
    pub stop_when_unneeded: bool,
    /// What it needs.
    pub dependencies: Dependencies,
    /// `ConditionResult` and `AssertResult`: of the last start.
    conditions: [bool; 2],
    /// When they were looked at.
    tried: Option<Ktime>,
    /// When its files may have changed last.
    pub reloaded: Option<Ktime>,
}

impl Known {
    /// Whether systemd has skipped its last start, because a condition or an assertion is not met; as far as it has
    /// the same files as then.
    pub fn is_skipped(&self) -> bool {
        self.tried > self.reloaded && self.conditions.contains(&false)
    }

    /// Whether it has files, so that PID 1 can start it.
    pub fn is_loaded(&self) -> bool {
        self.load_state == "loaded"
    }
}

impl Known {
    /// Whether `reading`, of a unit's state, has nothing but what is known: the signals of all changes were taken
    /// over, or those whose signals are still on their way have been undone.
    pub fn has(&self, reading: &Reading) -> bool {
        let mut other = self.clone();
        other.apply_loaded(&reading.properties);
        other.apply_changes(&reading.properties);
        self.is_like(&other)
    }

    /// Takes over `reading`, as far as nothing newer is known.
    ///
    /// PID 1 signals what changes while a unit is loaded. What it takes from the files is in none of its signals
    /// (`SD_BUS_VTABLE_PROPERTY_CONST`, src/core/dbus-unit.c): only a whole reading has that, also if a signal that
    /// followed its reply is known already, as after each daemon-reload.
    /// Returns whether anything is another than before.
    pub fn apply(&mut self, reading: &Reading) -> bool {
        let before = self.clone();
        let is_newer = reading.position >= self.position;
        if is_newer || (reading.is_whole() && reading.position >= self.loaded_at) {
            self.apply_loaded(&reading.properties);
        }
        if reading.is_whole() {
            self.loaded_at = self.loaded_at.max(reading.position);
        }
        if is_newer {
            self.position = reading.position;
            self.apply_changes(&reading.properties);
        }
        !self.is_like(&before)
    }

    /// Whether the same is known of the unit.
    fn is_like(&self, other: &Self) -> bool {
        let Self {
            unit,
            id,
            load_state,
            stop_when_unneeded,
            dependencies,
            conditions,
            tried,
            ..
        } = self;
        (unit, stop_when_unneeded, conditions, tried)
            == (
                &other.unit,
                &other.stop_when_unneeded,
                &other.conditions,
                &other.tried,
            )
            && (id, load_state, dependencies) == (&other.id, &other.load_state, &other.dependencies)
    }

    /// What follows from the unit's files.
    fn apply_loaded(&mut self, properties: &Properties) {
        if let Some(id) = &properties.id {
            self.id.clone_from(id);
        }
        if let Some(interval) = properties.start_limit_interval_u_sec {
            self.unit.start_limited = interval > 0;
        }
        if let Some(load_state) = &properties.load_state {
            self.load_state.clone_from(load_state);
        }
        if let Some(stop_when_unneeded) = properties.stop_when_unneeded {
            self.stop_when_unneeded = stop_when_unneeded;
        }
        if let Some(dependencies) = properties.dependencies() {
            self.dependencies = dependencies;
        }
    }

    fn apply_changes(&mut self, properties: &Properties) {
        let unit = &mut self.unit;
        if let Some(state) = &properties.active_state {
            unit.state = ActiveState::parse(state);
        }
        if let Some(state) = &properties.sub_state {
            // `auto-restart`, and `auto-restart-queued` since systemd 254.
            unit.restarting = state.starts_with("auto-restart");
        }
        if let Some((id, _)) = properties.job {
            unit.job = id != 0;
        }
        let stamps = [
            (
                &mut unit.active_enter,
                properties.active_enter_timestamp_monotonic,
            ),
            (
                &mut unit.inactive_exit,
                properties.inactive_exit_timestamp_monotonic,
            ),
            (
                &mut unit.inactive_enter,
                properties.inactive_enter_timestamp_monotonic,
            ),
        ];
        for (place, micros) in stamps {
            if let Some(micros) = micros {
                // Zero: it never happened.
                *place = (micros > 0).then(|| Ktime::from_micros(micros));
            }
        }
        let met = [properties.condition_result, properties.assert_result];
        for (known, met) in self.conditions.iter_mut().zip(met) {
            *known = met.unwrap_or(*known);
        }
        if let Some(at) = properties.condition_timestamp_monotonic {
            self.tried = (at > 0).then(|| Ktime::from_micros(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_the_rest_as_it_was() {
        let mut known = Known::default();
        known.apply(&Reading {
            position: Sequence::default(),
            properties: Properties {
                active_state: Some("active".into()),
                job: Some((7, OwnedObjectPath::default())),
                active_enter_timestamp_monotonic: Some(5),
                inactive_enter_timestamp_monotonic: Some(0),
                load_state: Some("loaded".into()),
                stop_when_unneeded: Some(true),
                ..Properties::default()
            },
        });
        known.apply(&Reading::change("deactivating"));
        assert_eq!(known.unit.state, ActiveState::Deactivating);
        assert!(known.unit.job && known.stop_when_unneeded);
        assert_eq!(known.unit.active_enter, Some(Ktime::from_micros(5)));
        assert_eq!(known.unit.inactive_enter, None);
        assert_eq!(known.load_state, "loaded");
    }
}
