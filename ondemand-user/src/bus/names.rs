//! The names of `org.ondemand1` on the bus, and what the proxy calls there.

use std::time::Duration;

/// The agent's name on the bus.
pub const NAME: &str = "org.ondemand1";
/// The path of the main object.
pub const PATH: &str = "/org/ondemand1";
/// Its interface.
pub const INTERFACE: &str = "org.ondemand1.Manager";
/// The interface of a service's object.
pub const SERVICE_INTERFACE: &str = "org.ondemand1.Service";
/// In place of a number: unknown, or without an end.
pub const NO_NUMBER: u64 = u64::MAX;

/// The service stays up.
pub const KEPT: &str = "org.ondemand1.Error.Kept";
/// There is no service of that name.
pub const NO_SUCH_SERVICE: &str = "org.ondemand1.Error.NoSuchService";
/// The configuration is invalid; the message names file, line and key.
pub const WRONG_CONFIGURATION: &str = "org.ondemand1.Error.WrongConfiguration";
/// The action failed.
pub const FAILED: &str = "org.ondemand1.Error.Failed";
/// The agent cannot answer.
pub const DBUS_FAILED: &str = "org.freedesktop.DBus.Error.Failed";
/// The caller is not authorized.
pub const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
/// The same, but the user could authenticate, and the call does not allow a prompt.
pub const NOT_AUTHENTICATED: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
/// Too many calls are pending.
pub const LIMITS_EXCEEDED: &str = "org.freedesktop.DBus.Error.LimitsExceeded";

/// The agent's methods for the proxy.
#[zbus::proxy(
    interface = "org.ondemand1.Manager",
    default_service = "org.ondemand1",
    default_path = "/org/ondemand1"
)]
pub trait Agent {
    /// Returns when the application of a service listens.
    fn wait_listening(&self, service: &str) -> zbus::Result<()>;
    /// Returns when the application of a service is ready, or what it says instead after this time.
    fn wait_ready(&self, service: &str, for_usec: u64) -> zbus::Result<String>;
    /// Returns true when there is room for a service in its group, or false after this time.
    fn wait_room(&self, service: &str, for_usec: u64) -> zbus::Result<bool>;
}

/// How long the start of a service usually takes, as the agent knows it. `None`: none was seen.
///
/// # Errors
///
/// The agent does not answer, or does not know the service.
pub async fn usual_start(
    connection: &zbus::Connection,
    service: &str,
) -> zbus::Result<Option<Duration>> {
    let question = (SERVICE_INTERFACE, "UsualStartUSec");
    let reply = connection
        .call_method(
            Some(NAME),
            super::service_path(service),
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &question,
        )
        .await?;
    let value: zbus::OwnedVariant = reply.body().deserialize()?;
    let micros = u64::try_from(value)?;
    Ok((micros != NO_NUMBER).then(|| Duration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use zbus::proxy::Defaults;

    use super::*;

    #[test]
    fn the_agent_is_called_by_its_names() {
        let name = AgentProxy::DESTINATION.as_ref().map(|name| name.as_str());
        let path = AgentProxy::PATH.as_ref().map(|path| path.as_str());
        let interface = AgentProxy::INTERFACE.as_ref().map(|name| name.as_str());
        let called = (name, path, interface);
        assert_eq!(called, (Some(NAME), Some(PATH), Some(INTERFACE)));
    }
}
