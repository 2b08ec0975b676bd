//! What people put in front of an application today, each with an address of its own.

use anyhow::Result;
use tests::sandbox::Sandbox;

use crate::load::FIRST;

/// systemd-socket-proxyd's address.
pub const SOCKET_PROXYD: &str = "127.0.0.1:8002";
/// HAProxy's.
pub const HAPROXY: &str = "127.0.0.1:8003";
/// Their services, for their CPU time.
pub const UNITS: [&str; 2] = ["socket-proxyd", "haproxy"];

/// As in its manual for TCP, with one thread: the load comes from the other core.
const HAPROXY_CONFIGURATION: &str = "\
global
  nbthread 1
  maxconn 4096
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen application
  bind 127.0.0.1:8003
  server nginx BACKEND
";

/// Starts them in front of `backend`.
///
/// # Errors
///
/// One is not installed, or does not start.
pub fn set_up(sandbox: &Sandbox, backend: &str) -> Result<()> {
    let unit =
        |name: &str, text: String| sandbox.write(&format!("/etc/systemd/system/{name}"), text);
    unit(
        "socket-proxyd.socket",
        format!(
            "[Socket]\nListenStream={SOCKET_PROXYD}\nBacklog=4096\nTriggerLimitIntervalSec=0\n"
        ),
    )?;
    unit(
        "socket-proxyd.service",
        format!(
            "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd {backend}\n{FIRST}\
             LimitNOFILE=65536\n"
        ),
    )?;
    sandbox.write(
        "/etc/bench/haproxy.cfg",
        HAPROXY_CONFIGURATION.replace("BACKEND", backend),
    )?;
    unit(
        "haproxy.service",
        format!(
            "[Service]\nType=notify\nExecStart=/usr/sbin/haproxy -Ws -f /etc/bench/haproxy.cfg\n\
             {FIRST}LimitNOFILE=65536\n"
        ),
    )?;
    sandbox.run(&["systemctl", "daemon-reload"])?;
    sandbox.run(&[
        "systemctl",
        "start",
        "socket-proxyd.socket",
        "haproxy.service",
    ])?;
    Ok(())
}
