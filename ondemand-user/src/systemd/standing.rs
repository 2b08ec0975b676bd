//! Why a service is not up, as far as PID 1 knows.

use anyhow::Result;
use zbus::{DeserializeDict, Type};

use super::{SERVICE, Systemd, UNIT};

/// What PID 1 knows of a service that is not up.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load_state: String,
    /// `inactive`, `failed`, `activating`, ...
    pub active_state: String,
    /// `dead`, `auto-restart`, ...
    pub sub_state: String,
    /// `enabled`, `disabled`, ...
    pub unit_file_state: String,
    /// What it says of itself; empty: nothing.
    pub status_text: String,
    /// When it became inactive, in microseconds since 1970. `None`: it was never up.
    pub inactive_since: Option<u64>,
    /// Whether a start was ever tried.
    pub tried: bool,
    /// Whether its conditions and assertions were met then.
    pub condition_result: bool,
    /// They, and whether each was met, as far as it was looked at.
    pub conditions: Vec<(String, bool)>,
}

/// Name, whether it is a trigger, whether it is negated, parameter, and the result: above zero met, below zero
/// not met, zero not looked at (`property_get_conditions`, src/core/dbus-unit.c).
type Condition = (String, bool, bool, String, i32);

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
struct Properties {
    load_state: Option<String>,
    active_state: Option<String>,
    sub_state: Option<String>,
    unit_file_state: Option<String>,
    inactive_enter_timestamp: Option<u64>,
    condition_timestamp_monotonic: Option<u64>,
    condition_result: Option<bool>,
    assert_result: Option<bool>,
    conditions: Option<Vec<Condition>>,
    asserts: Option<Vec<Condition>>,
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
struct OfService {
    status_text: Option<String>,
}

impl Standing {
    /// Whether it has ended, and systemd starts it again in a moment.
    pub fn is_restarting(&self) -> bool {
        self.sub_state.starts_with("auto-restart")
    }

    /// Whether systemd has skipped its last start.
    pub fn is_skipped(&self) -> bool {
        self.tried && !self.condition_result
    }

    /// The conditions that were not met.
    pub fn unmet(&self) -> Vec<&str> {
        let unmet = self.conditions.iter().filter(|(_, met)| !met);
        unmet.map(|(words, _)| words.as_str()).collect()
    }
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
struct Loaded {
    load_state: Option<String>,
}

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
struct Capabilities {
    ambient_capabilities: Option<u64>,
}

impl Systemd {
    /// The capabilities with which a service's program starts (`AmbientCapabilities=`), a bit for each. `None`: there
    /// is no such unit.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn ambient_capabilities(&self, unit: &str) -> Result<Option<u64>> {
        let found: Loaded = self.all(unit, UNIT).await?;
        if found.load_state.as_deref() != Some("loaded") {
            return Ok(None);
        }
        let found: Capabilities = self.all(unit, SERVICE).await?;
        Ok(found.ambient_capabilities)
    }

    /// Reads why a service is not up.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn standing(&self, unit: &str) -> Result<Standing> {
        let found: Properties = self.all(unit, UNIT).await?;
        let of_service: OfService = self.all(unit, SERVICE).await?;
        let conditions = [found.conditions, found.asserts].into_iter().flatten();
        let conditions = conditions
            .flatten()
            .map(|(name, trigger, negate, what, met)| {
                let [trigger, negate] =
                    [(trigger, "|"), (negate, "!")].map(|(is, sign)| if is { sign } else { "" });
                (format!("{name}={trigger}{negate}{what}"), met >= 0)
            });
        Ok(Standing {
            load_state: found.load_state.unwrap_or_default(),
            active_state: found.active_state.unwrap_or_default(),
            sub_state: found.sub_state.unwrap_or_default(),
            unit_file_state: found.unit_file_state.unwrap_or_default(),
            status_text: of_service.status_text.unwrap_or_default(),
            inactive_since: found.inactive_enter_timestamp.filter(|at| *at > 0),
            tried: found.condition_timestamp_monotonic.is_some_and(|at| at > 0),
            condition_result: found.condition_result != Some(false)
                && found.assert_result != Some(false),
            conditions: conditions.collect(),
        })
    }
}
