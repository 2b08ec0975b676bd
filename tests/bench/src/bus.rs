//! What the agent asks of PID 1, without the agent.

use anyhow::Result;
use tests::{client::monotonic_nanos, sandbox::Sandbox};

/// Has PID 1 start a unit. Returns when it was asked, in nanoseconds of the monotonic clock.
///
/// # Errors
///
/// The bus cannot be reached, or PID 1 refuses.
pub fn start_unit(sandbox: &Sandbox, unit: &str) -> Result<u64> {
    let bus = sandbox.path("/run/dbus/system_bus_socket");
    let bus = format!("unix:path={}", bus.display());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connection = zbus::connection::Builder::address(bus.as_str())
            .build()
            .await?;
        let start = monotonic_nanos();
        connection
            .call_method(
                Some("org.freedesktop.systemd1"),
                "/org/freedesktop/systemd1",
                Some("org.freedesktop.systemd1.Manager"),
                "StartUnit",
                &(unit, "replace"),
            )
            .await?;
        Ok(start)
    })
}
