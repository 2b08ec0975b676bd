//! Whether PID 1 will carry out the agent's requests.

use anyhow::{Context as _, Result};
use zbus::{DeserializeDict, Type, fdo};

use super::{SERVICE, Systemd};

const POLKIT: &str = "org.freedesktop.PolicyKit1";

#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct Main {
    #[zbus(rename = "MainPID")]
    pid: Option<u32>,
}

/// Whether an error means that the caller is not authorized.
pub(super) fn is_denied(error: &zbus::Error) -> bool {
    let zbus::Error::FDO(error) = error else {
        return false;
    };
    matches!(
        **error,
        fdo::Error::AccessDenied(_) | fdo::Error::InteractiveAuthorizationRequired(_)
    )
}

impl Systemd {
    /// Whether this process may stop a unit. The unit is not affected: the request has a job mode
    /// that PID 1 supports for starts only and refuses for a stop, after it has asked polkit
    /// (`bus_unit_method_start_generic()`, src/core/dbus-unit.c, and `manager_add_job()`,
    /// src/core/manager.c).
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn may_stop(&self, unit: &str) -> Result<bool> {
        let _turn = Self::turn(&self.acts).await;
        match self.manager.stop_unit(unit, "isolate").await {
            Err(zbus::Error::FDO(error)) if matches!(*error, fdo::Error::InvalidArgs(_)) => {
                Ok(true)
            }
            Err(error) if is_denied(&error) => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("query whether {unit} may be stopped"))
            }
            Ok(_) => Ok(true),
        }
    }

    /// The user in a service's unit; empty: root. `None`: the unit does not exist.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn user_of(&self, unit: &str) -> Result<Option<String>> {
        let (_, rows) = self.list(&[unit.to_owned()]).await?;
        let loaded = rows.into_iter().find(|row| row.2 == "loaded");
        let Some(row) = loaded else {
            return Ok(None);
        };
        self.property_of(&row.6, SERVICE, "User").await.map(Some)
    }

    /// The process id of a service's main process, if it runs.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn main_process(&self, unit: &str) -> Result<Option<u32>> {
        let found: Main = self.all(unit, SERVICE).await?;
        Ok(found.pid.filter(|pid| *pid != 0))
    }

    /// Whether polkit is running, or is started on demand.
    ///
    /// # Errors
    ///
    /// The bus does not answer.
    pub async fn has_polkit(&self) -> Result<bool> {
        let names = async {
            let bus = fdo::DBusProxy::new(&self.connection).await?;
            let mut names = bus.list_activatable_names().await?;
            names.extend(bus.list_names().await?);
            zbus::Result::Ok(names)
        };
        let names = names.await.context("query the bus for polkit")?;
        Ok(names.iter().any(|name| name.as_str() == POLKIT))
    }
}
