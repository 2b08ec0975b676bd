//! What each service of the host listens on, and who is connected: by the cgroup in which a socket was made.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use ondemand_ebpf::FORWARDERS;

use super::sock_diag::{self, TcpListener};
use crate::kernel::requirements::cgroup_root;

/// Sockets of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfUnit {
    /// The TCP sockets that listen, each address once.
    pub tcp: Vec<TcpListener>,
    /// The addresses of its unconnected UDP sockets, and whether one of IPv6 excludes IPv4.
    pub udp: Vec<(SocketAddr, bool)>,
    /// Open connections to `tcp`.
    pub clients: Clients,
}

/// Who is connected to a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// How many.
    pub open: u64,
    /// For how long no byte has gone on any of them. `None`: there is none.
    pub silent: Option<Duration>,
}

/// The services that listen, by their units.
///
/// # Errors
///
/// No cgroup2 is mounted, or the kernel does not answer.
pub fn listening() -> Result<BTreeMap<String, OfUnit>> {
    let units = units(&cgroup_root()?);
    let mut found: BTreeMap<String, OfUnit> = BTreeMap::new();
    let unit_of = |cgroup: Option<u64>| units.get(&cgroup?);
    for listener in sock_diag::tcp_listeners(0)? {
        let Some(unit) = unit_of(listener.cgroup) else {
            continue;
        };
        let of_unit = found.entry(unit.clone()).or_default();
        // A group of sockets with SO_REUSEPORT has one address.
        if of_unit.tcp.iter().all(|it| it.address != listener.address) {
            of_unit.tcp.push(listener);
        }
    }
    // An accepted socket belongs to the cgroup of its listener.
    for connection in sock_diag::tcp_connections()? {
        let Some(of_unit) = unit_of(connection.cgroup).and_then(|unit| found.get_mut(unit)) else {
            continue;
        };
        let port = connection.local.port();
        if of_unit.tcp.iter().any(|it| it.address.port() == port) {
            let clients = &mut of_unit.clients;
            clients.open += 1;
            clients.silent = match (clients.silent, connection.silent) {
                (Some(least), Some(silent)) => Some(least.min(silent)),
                (least, silent) => least.or(silent),
            };
        }
    }
    for (address, v6_only, cgroup) in sock_diag::udp_sockets()? {
        let Some(unit) = unit_of(cgroup) else {
            continue;
        };
        let udp = &mut found.entry(unit.clone()).or_default().udp;
        if udp.iter().all(|(other, _)| *other != address) {
            udp.push((address, v6_only));
        }
    }
    for of_unit in found.values_mut() {
        of_unit
            .tcp
            .sort_by_key(|listener| (listener.address.port(), listener.address));
        of_unit
            .udp
            .sort_by_key(|(address, _)| (address.port(), *address));
    }
    Ok(found)
}

/// The services by the ids of their cgroups, and of those below: the outermost one, since the units of a user's own
/// systemd are below `user@UID.service`.
fn units(root: &Path) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let mut left: Vec<(PathBuf, Option<String>)> = vec![(root.to_owned(), None)];
    while let Some((directory, unit)) = left.pop() {
        if let (Some(unit), Ok(data)) = (&unit, fs::metadata(&directory)) {
            found.insert(data.ino(), unit.clone());
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().into_string().unwrap_or_default();
            let own = name.ends_with(".service").then_some(name);
            left.push((entry.path(), unit.clone().or(own)));
        }
    }
    found
}

/// A program in a unit's cgroup that holds one of these listeners for a container, and where. `None`: there is none.
///
/// `control_group`: relative to the root of the hierarchy.
pub fn forwarder(control_group: &str, listeners: &[TcpListener]) -> Option<(String, SocketAddr)> {
    let name = control_group
        .strip_prefix('/')
        .filter(|name| !name.is_empty())?;
    let mut left = vec![cgroup_root().ok()?.join(name)];
    while let Some(directory) = left.pop() {
        let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines() {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let comm = comm.trim_end();
            if FORWARDERS.contains(&comm)
                && let Some(listener) = listeners.iter().find(|it| holds(pid, it.inode))
            {
                return Some((comm.to_owned(), listener.address));
            }
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        left.extend(entries.filter(is_directory).map(|entry| entry.path()));
    }
    None
}

/// Whether a process has this socket.
fn holds(pid: &str, inode: u32) -> bool {
    let link = PathBuf::from(format!("socket:[{inode}]"));
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut entries = entries.into_iter().flatten().flatten();
    entries.any(|entry| fs::read_link(entry.path()).is_ok_and(|it| it == link))
}

/// The services whose processes this one descends from: of the present session, its `sshd` for example.
pub fn ancestors() -> Vec<String> {
    let mut found = Vec::new();
    let mut pid = std::process::id();
    while pid > 1 {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let paths = cgroups.lines().filter_map(|line| line.rsplit_once(':'));
        let parts = paths.flat_map(|(_, path)| path.split('/'));
        found.extend(
            parts
                .filter(|part| part.ends_with(".service"))
                .map(str::to_owned),
        );
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may contain anything (proc(5)).
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split(' ').nth(2));
        pid = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_service_owns_what_is_below() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::metadata(path).unwrap().ino()
        };
        let wiki = make("system.slice/wiki.service");
        let below = make("system.slice/wiki.service/payload");
        let users = make("user.slice/user-7.slice/user@7.service/app.slice/own.service");
        let scope = make("user.slice/user-7.slice/session-1.scope");
        let units = units(root.path());
        let unit = |id| units.get(&id).map(String::as_str);
        assert_eq!(unit(wiki), Some("wiki.service"));
        assert_eq!(unit(below), Some("wiki.service"));
        assert_eq!(unit(users), Some("user@7.service"));
        assert_eq!(unit(scope), None);
    }

    #[test]
    fn this_process_has_ancestors() {
        // Under systemd it has services, elsewhere none.
        assert!(ancestors().iter().all(|unit| unit.ends_with(".service")));
    }
}
