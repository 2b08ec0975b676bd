//! Whose listener is it? Any user may bind a port from 1024 on that an application leaves free while it is
//! down, and would get its clients.

use std::{
    collections::HashSet,
    fs, iter,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use ondemand_core::measure::unit::Owner;

use crate::kernel::{requirements::cgroup_root, sockets::sock_diag::TcpListener};

/// Who made a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Root, as PID 1 for sockets that it passes on; the unit's user; or a process in the unit's cgroup or
    /// below it.
    Own,
    /// Another user, and the kernel does not tell the cgroup, or systemd not the unit's.
    Unknown,
    /// Another user, elsewhere.
    Stranger,
}

/// Judges a listener at the address of a unit's application. A cgroup is that in which the socket was
/// made, wherever its processes are now.
pub fn whose(listener: &TcpListener, unit: &Owner) -> Whose {
    if listener.uid == 0 || Some(listener.uid) == unit.user {
        return Whose::Own;
    }
    let Ok(root) = cgroup_root() else {
        return Whose::Unknown;
    };
    match listener.cgroup {
        Some(id) if is_within(id, &root, &unit.control_group) => Whose::Own,
        // A hierarchy of version 1 with net_cls: all sockets are the root's (before 5.15).
        Some(id) if id_of(&root) == Some(id) => Whose::Unknown,
        Some(_) => Whose::Stranger,
        None => Whose::Unknown,
    }
}

/// What is known of a unit without asking systemd: its cgroup, if it is in the slice where systemd puts services
/// by default (systemd.resource-control(5), `Slice=`), which no user can write to. `None`: it is not there.
pub fn owner_by_place(unit: &str) -> Option<Owner> {
    let control_group = format!("/system.slice/{unit}");
    let place = cgroup_root().ok()?.join(&control_group[1..]);
    place.is_dir().then_some(Owner {
        control_group,
        user: None,
    })
}

/// Describes a stranger's listener, and what to do.
pub fn words(listener: &TcpListener, address: SocketAddr, unit: &str) -> String {
    format!(
        "{address} is held by a process of user {}, which is neither of {unit} nor root's: no client is taken \
         there (`ss -ltnp sport = :{}` as root shows it; if it is the application, set User= of {unit})",
        listener.uid,
        address.port()
    )
}

/// The cgroups of a unit: its own, and those below it (`Delegate=`).
#[derive(Clone, Debug, Default)]
pub struct Cgroups(HashSet<u64>);

impl Cgroups {
    /// Whether this one is among them.
    pub fn has(&self, id: u64) -> bool {
        self.0.contains(&id)
    }
}

/// The cgroups of a unit with this one, relative to the hierarchy's root.
pub fn cgroups_of(control_group: &str) -> Cgroups {
    let Ok(root) = cgroup_root() else {
        return Cgroups::default();
    };
    Cgroups(ids_within(&root, control_group).collect())
}

/// Whether a cgroup is that of a unit, or below it (`Delegate=`).
fn is_within(id: u64, root: &Path, control_group: &str) -> bool {
    ids_within(root, control_group).any(|found| found == id)
}

fn ids_within(root: &Path, control_group: &str) -> impl Iterator<Item = u64> {
    let name = control_group
        .strip_prefix('/')
        .filter(|name| !name.is_empty());
    let mut left: Vec<PathBuf> = name.map(|name| root.join(name)).into_iter().collect();
    iter::from_fn(move || {
        let directory = left.pop()?;
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        left.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        Some(id_of(&directory))
    })
    .flatten()
}

/// A cgroup's id is the inode of its directory (`cgroup_id`, include/linux/cgroup.h).
fn id_of(directory: &Path) -> Option<u64> {
    Some(fs::metadata(directory).ok()?.ino())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as Listener;

    use super::*;
    use crate::kernel::sockets::sock_diag::tcp_listener_at;

    #[test]
    fn a_listener_is_found_with_its_user_and_its_cgroup() {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = tcp_listener_at(address).unwrap().unwrap();
        assert_eq!(found.address, address);
        assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
        let root = cgroup_root();
        ::tests::require!(root.as_ref().err());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap();
        let directory = root.unwrap().join(own.strip_prefix('/').unwrap());
        assert_eq!(found.cgroup, id_of(&directory));
        drop(listener);
        assert_eq!(tcp_listener_at(address).unwrap(), None);
    }

    #[test]
    fn whose_listener_it_is() {
        #[track_caller]
        fn check(uid: u32, cgroup: Option<u64>, user: Option<u32>, expected: Whose) {
            let listener = TcpListener {
                address: "127.0.0.1:8080".parse().unwrap(),
                v6_only: false,
                inode: 7,
                uid,
                cgroup,
                queued: 0,
                backlog: 128,
            };
            let unit = Owner {
                control_group: "/no-such.slice".into(),
                user,
            };
            assert_eq!(whose(&listener, &unit), expected);
        }
        let elsewhere = Some(u64::MAX);
        check(0, elsewhere, None, Whose::Own);
        check(1000, elsewhere, Some(1000), Whose::Own);
        check(1000, elsewhere, None, Whose::Stranger);
        check(1000, elsewhere, Some(1001), Whose::Stranger);
        check(1000, None, Some(1001), Whose::Unknown);
    }
}
