//! The sandbox of the proxy: it may read its sockets, connect to the backend, and query systemd and
//! the kernel about the backend. Nothing else.

use std::path::Path;

use ondemand_core::config::{Endpoint, Service};

/// Directives for every proxy. In the order of systemd.exec(5).
const ALWAYS: &str = "\
NoNewPrivileges=yes
UMask=0077
PrivateMounts=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
ReadOnlyPaths=-/sys
";

/// What the program needs of the file system: its libraries, wherever a distribution has them, and
/// the bus. What a host does not have is left out.
const NEEDED: &str =
    "-/lib -/lib64 -/usr/lib -/usr/lib64 -/nix/store -/gnu/store -/run/dbus -/var/run/dbus";

/// Returns the directives of the `[Service]` section of a service's proxy. `program`: its path,
/// checked.
///
/// Not `DynamicUser=`: the bus refuses such a user where dbus-daemon cannot resolve it, and
/// then the proxy could not query systemd about the backend.
pub(super) fn proxy(service: &Service, program: &str, user: Option<&str>) -> String {
    let backend = &service.backend;
    let mut text = String::from(ALWAYS);
    match user {
        // What ProtectKernelTunables= makes read-only is hidden by ProcSubset=, or below /sys. For each of its twenty
        // names systemd 252 reads the table of mounts twice, whether it is there or not.
        Some(user) => text += &format!("User={user}\n"),
        // Without ProcSubset=, on a kernel that lacks it, root could write there.
        None => text += "ProtectKernelTunables=yes\n",
    }
    let path = match backend {
        Endpoint::Udp(_) | Endpoint::Tcp(_) => None,
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
    match path.and_then(directory) {
        // Without ProtectSystem=strict: systemd 252 would have two mounts for "/", and drops this one.
        Some(directory) => {
            text += &format!(
                "TemporaryFileSystem=/:ro\nBindReadOnlyPaths={program} {NEEDED} -{directory}\n"
            );
        }
        None => text += "ProtectSystem=strict\n",
    }
    if path.is_some() {
        // The clients' sockets are passed on, and those that it makes itself are of these families.
        text += "RestrictAddressFamilies=AF_UNIX AF_NETLINK\n";
        // A socket of mode 0660 accepts its owner and its group only: this replaces both.
        text += "CapabilityBoundingSet=CAP_DAC_OVERRIDE\nAmbientCapabilities=CAP_DAC_OVERRIDE\n";
    } else {
        text += "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n";
        // Datagrams are sent to the application from their clients' own addresses. It opens the sockets for that before it
        // reads any, and drops the capability.
        let capability = match service.has_datagrams() {
            true => "CAP_NET_RAW",
            false => "",
        };
        if service.has_datagrams() {
            // To give it up.
            text += "SystemCallFilter=capset\n";
        }
        text += &format!("CapabilityBoundingSet={capability}\nAmbientCapabilities={capability}\n");
    }
    text
}

/// The directory of a backend's socket, the only one that its proxy sees, as a unit file has it.
///
/// `None`: the root directory, which cannot hide anything, or a name that `BindReadOnlyPaths=` would
/// split.
pub(crate) fn directory(socket: &Path) -> Option<String> {
    let directory = socket.parent()?.to_str().filter(|path| *path != "/")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.,=@+-%~".contains(c);
    let is_plain = directory.starts_with('/') && directory.chars().all(plain);
    is_plain.then(|| directory.replace('%', "%%"))
}

fn below(path: &Path, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_directory_that_a_proxy_sees() {
        #[track_caller]
        fn check(socket: &str, expected: Option<&str>) {
            assert_eq!(
                directory(Path::new(socket)).as_deref(),
                expected,
                "{socket}"
            );
        }
        check("/run/wiki/b.sock", Some("/run/wiki"));
        check("/run/50%/b.sock", Some("/run/50%%"));
        check("/b.sock", None);
        check("/run/a:b/b.sock", None);
        check("/run/a b/b.sock", None);
        check("/run/a\nb/b.sock", None);
        check("run/b.sock", None);
    }
}
