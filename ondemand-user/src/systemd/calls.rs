//! The calls to PID 1, typed. Properties are never cached: for a cache zbus would read all of an
//! object's properties and subscribe to their changes.

use zbus::{OwnedObjectPath, fdo, proxy};

/// An address as family, bytes, and length of its prefix.
pub(super) type Prefix = (i32, Vec<u8>, u32);

/// A unit's own name, description, load state, active state, substate, what it follows, path, and the number,
/// kind and path of its job.
pub(super) type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;

    /// Queues a job and returns its path.
    fn start_unit(&self, unit: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Queues a job and returns its path.
    fn stop_unit(&self, unit: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Queues a job and returns its path.
    fn restart_unit(&self, unit: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Replies when all units are loaded again.
    fn reload(&self) -> zbus::Result<()>;
    fn reset_failed_unit(&self, unit: &str) -> zbus::Result<()>;

    /// Returns whether the units have `[Install]`, and kind, link and target of each change.
    fn enable_unit_files(
        &self,
        units: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;

    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Row>>;

    /// Replies when it is frozen.
    fn freeze_unit(&self, unit: &str) -> zbus::Result<()>;

    fn thaw_unit(&self, unit: &str) -> zbus::Result<()>;

    fn kill_unit(&self, unit: &str, whom: &str, signal: i32) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn version(&self) -> zbus::Result<String>;
}

/// What services, sockets and slices have in common, each in its own interface.
#[proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    assume_defaults = false
)]
pub(super) trait Cgroup {
    #[zbus(property(emits_changed_signal = "false"), name = "IPAddressDeny")]
    fn ip_address_deny(&self) -> zbus::Result<Vec<Prefix>>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn slice(&self) -> zbus::Result<String>;

    /// Relative to the root of the hierarchy; empty: it has none now.
    #[zbus(property(emits_changed_signal = "false"))]
    fn control_group(&self) -> zbus::Result<String>;

    /// Bytes; the largest number: unknown.
    #[zbus(property(emits_changed_signal = "false"))]
    fn memory_current(&self) -> zbus::Result<u64>;
}

/// The value of a property. `None`: this version of systemd has none of the name.
pub(super) fn if_known<T>(value: zbus::Result<T>) -> zbus::Result<Option<T>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(zbus::Error::FDO(error)) if matches!(*error, fdo::Error::UnknownProperty(_)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
