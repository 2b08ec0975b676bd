//! Finds the program that holds a socket, and the sockets of a unit's processes (proc(5)).

use std::{
    cell::{OnceCell, RefCell},
    collections::{HashMap, HashSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use ondemand_core::config::Endpoint;

use crate::kernel::{
    requirements::cgroup_root,
    sockets::{
        listening::{covers, is_bound},
        sock_diag::{TcpListener, UnixSocket, tcp_listeners, unix_sockets},
    },
};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The unit that it belongs to, if any.
    pub unit: Option<String>,
}

impl Holder {
    /// What to stop, to free what it holds.
    pub fn to_stop(&self) -> &str {
        self.unit.as_deref().unwrap_or(&self.name)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.unit {
            Some(unit) => write!(f, "{} (process {} of {unit})", self.name, self.pid),
            None => write!(f, "{} (process {})", self.name, self.pid),
        }
    }
}

/// The sockets that listen and who holds them, looked at once for all services: a look at every descriptor of
/// every process takes as long for one socket as for all.
pub struct Sockets {
    /// The TCP sockets that listen.
    pub listeners: Result<Vec<TcpListener>>,
    by_port: HashMap<u16, Vec<TcpListener>>,
    unix: OnceCell<Result<Vec<UnixSocket>>>,
    /// By inode, the process with the lowest id: PID 1 first, for sockets that it passes on.
    holders: OnceCell<HashMap<u32, u32>>,
    /// By process id: PID 1 holds most of them.
    processes: RefCell<HashMap<u32, Holder>>,
    cgroups: OnceCell<Option<PathBuf>>,
    /// Addresses that are known to be usable: most services have the same ones.
    pub usable: RefCell<HashSet<IpAddr>>,
}

impl Sockets {
    /// Looks at those that listen now; at their holders when one is asked for.
    pub fn look() -> Self {
        let listeners = tcp_listeners(0);
        let mut by_port: HashMap<u16, Vec<TcpListener>> = HashMap::new();
        for listener in listeners.iter().flatten() {
            by_port
                .entry(listener.address.port())
                .or_default()
                .push(*listener);
        }
        Self {
            listeners,
            by_port,
            unix: OnceCell::new(),
            holders: OnceCell::new(),
            processes: RefCell::default(),
            cgroups: OnceCell::new(),
            usable: RefCell::default(),
        }
    }

    /// The TCP sockets that listen; none if they cannot be looked at.
    pub fn listeners(&self) -> &[TcpListener] {
        self.listeners.as_deref().unwrap_or_default()
    }

    /// Those of them with this port.
    pub fn at_port(&self, port: u16) -> &[TcpListener] {
        self.by_port.get(&port).map_or(&[], Vec::as_slice)
    }

    /// The TCP sockets that a connection to this address may reach; none of another kind of address.
    pub fn at(&self, endpoint: &Endpoint) -> Vec<&TcpListener> {
        let Endpoint::Tcp(address) = endpoint else {
            return Vec::new();
        };
        let there = self.at_port(address.port()).iter();
        there.filter(|it| covers(it, address)).collect()
    }

    /// Whether a Unix socket listens at this path.
    ///
    /// # Errors
    ///
    /// The kernel does not answer, or the path cannot be looked at.
    pub fn is_bound(&self, path: &Path) -> Result<bool> {
        let sockets = self.unix.get_or_init(|| unix_sockets(true));
        match sockets {
            Ok(sockets) => is_bound(path, sockets),
            Err(error) => Err(anyhow!("{error:#}")),
        }
    }

    /// Returns the process that holds a socket. `None`: this process has no permission to see it.
    pub fn holder(&self, inode: u32) -> Option<Holder> {
        let pid = *self.holders.get_or_init(all_holders).get(&inode)?;
        let mut processes = self.processes.borrow_mut();
        let holder = processes.entry(pid).or_insert_with(|| process(pid));
        Some(holder.clone())
    }

    /// Returns the sockets of the processes in a cgroup, which is relative to the root of the hierarchy, and below it.
    ///
    /// `None`: this process has no permission to see any of them, or there is none.
    pub fn of(&self, cgroup: &str) -> Option<HashSet<u32>> {
        let cgroup = cgroup.strip_prefix('/').filter(|it| !it.is_empty())?;
        let root = self.cgroups.get_or_init(|| cgroup_root().ok()).as_ref()?;
        sockets_of(&root.join(cgroup))
    }
}

fn process(pid: u32) -> Holder {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    Holder {
        pid,
        name: name.trim_end().to_owned(),
        unit: cgroups.and_then(|text| unit_of(&text)),
    }
}

fn all_holders() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut holders = HashMap::new();
    for pid in pids {
        for inode in sockets(pid) {
            holders.entry(inode).or_insert(pid);
        }
    }
    holders
}

/// The service or scope in a process's cgroups (cgroups(7), "/proc/[pid]/cgroup"): the innermost one of
/// systemd's hierarchy.
fn unit_of(cgroups: &str) -> Option<String> {
    let path = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (hierarchy, path) = rest.split_once(':')?;
        matches!(hierarchy, "" | "name=systemd").then(|| path.to_owned())
    };
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let mut units = cgroups.lines().filter_map(path).filter_map(|path| {
        let unit = path.rsplit('/').find(is_unit)?;
        Some(unit.to_owned())
    });
    units.next_back()
}

fn sockets_of(cgroup: &Path) -> Option<HashSet<u32>> {
    let mut found = HashSet::new();
    let mut left: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(directory) = left.pop() {
        let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(
            pids.lines()
                .filter_map(|pid| pid.parse().ok())
                .flat_map(sockets),
        );
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        left.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    (!found.is_empty()).then_some(found)
}

fn sockets(pid: u32) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| inode(fs::read_link(entry.path()).ok()?.to_str()?))
}

/// Returns `17` for `socket:[17]`.
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _, process};

    use super::*;

    #[test]
    fn links_of_sockets() {
        #[track_caller]
        fn check(link: &str, expected: Option<u32>) {
            assert_eq!(inode(link), expected);
        }
        check("socket:[17]", Some(17));
        check("socket:[]", None);
        check("pipe:[17]", None);
        check("/dev/null", None);
    }

    #[test]
    fn the_innermost_unit() {
        #[track_caller]
        fn check(cgroups: &str, expected: Option<&str>) {
            assert_eq!(unit_of(cgroups).as_deref(), expected);
        }
        check("0::/system.slice/nginx.service\n", Some("nginx.service"));
        check("0::/system.slice/a@b.service/sub\n", Some("a@b.service"));
        check(
            "0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n",
            Some("x.scope"),
        );
        check(
            "4:memory:/x.service\n1:name=systemd:/system.slice/y.service\n0::/\n",
            Some("y.service"),
        );
        check("0::/\n", None);
        check("", None);
    }

    #[test]
    fn our_own_listener_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = inode(link.to_str().unwrap()).unwrap();
        let listeners = tcp_listeners(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(listeners[0].inode, inode);
        let sockets = Sockets::look();
        let holder = sockets.holder(inode);
        assert_eq!(holder.map(|holder| holder.pid), Some(process::id()));
        assert_eq!(sockets.holder(0), None);
    }
}
