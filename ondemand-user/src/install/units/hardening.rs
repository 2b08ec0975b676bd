//! The sandbox of the proxy: it may read its sockets, connect to the backend, and query systemd and
//! the kernel about the backend. Nothing else.

use std::path::Path;

use ondemand_core::config::Endpoint;

/// Directives for every proxy. In the order of systemd.exec(5).
const ALWAYS: &str = "\
NoNewPrivileges=yes
UMask=0077
ProtectSystem=strict
PrivateMounts=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
";

/// Returns the directives of the proxy's `[Service]` section for a backend.
///
/// Not `DynamicUser=`: the bus refuses such a user where dbus-daemon cannot resolve it, and
/// then the proxy could not query systemd about the backend.
pub(super) fn proxy(backend: &Endpoint, user: Option<&str>) -> String {
    let mut text = String::from(ALWAYS);
    if let Some(user) = user {
        text += &format!("User={user}\n");
    }
    let path = match backend {
        Endpoint::Tcp(_) => None,
        Endpoint::Unix(path) => Some(path.as_path()),
    };
    // Each hides a part of the file system that may contain the backend's socket.
    let hides = |prefixes: &[&str]| path.is_some_and(|path| below(path, prefixes));
    if !hides(&["/home", "/root", "/run/user"]) {
        text += "ProtectHome=yes\n";
    }
    if !hides(&["/dev"]) {
        text += "PrivateDevices=yes\n";
    }
    if !hides(&["/tmp", "/var/tmp"]) {
        text += "PrivateTmp=yes\n";
    }
    if path.is_some() {
        // A socket of mode 0660 accepts its owner and its group only: this replaces both.
        text += "CapabilityBoundingSet=CAP_DAC_OVERRIDE\nAmbientCapabilities=CAP_DAC_OVERRIDE\n";
    } else {
        text += "CapabilityBoundingSet=\nAmbientCapabilities=\n";
    }
    text
}

fn below(path: &Path, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}
