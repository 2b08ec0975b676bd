//! Loads, attaches and pins the eBPF programs, as root (`ondemand load`). The agent opens what it finds.
//!
//! The pins live in a directory named after the layout's version. A new set is pinned into a
//! temporary directory beside it, attached, and then renamed: the directory is either complete or
//! absent. (bpffs refuses names with a dot, so the temporary directory cannot be hidden.) Both
//! directories are root's: the agent's group may use the pins, and can neither replace nor remove one.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::Array,
    programs::{
        CgroupAttachMode, CgroupSock, CgroupSockAddr, Iter, ProgramError, SkLookup, SockOps,
        SocketFilter, links::FdLink,
    },
};
use nix::unistd::{Gid, User, geteuid};
use ondemand_ebpf::{LAYOUT_VERSION, Meta};

use super::{
    ADOPT_FRONTS, ADOPT_UDP, ATTACHED, BPFFS, DIRECTORY, FILTERS, ITERATORS, MAPS, OBJECT,
    OPTIONAL, STEERING,
    btf::KernelTypes,
    owner,
    pins::{self, Gone, Pins},
    requirements, verifier,
};
use crate::host::{atomic_file, directories};

/// What root's step writes for others to read: why connections cannot be steered, verifier's logs. It is
/// not the agent's runtime directory, where the agent's user could place a link to any file of root's.
pub(super) const REPORTS: &str = "/run/ondemand-load";
/// The file in it with the reason for which no connection is steered.
const NO_STEERING: &str = "no-steering";

/// What [`run`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The programs were loaded and attached.
    Loaded,
    /// They were already, and count.
    Present,
}

/// Sees to it that the programs are loaded, attached and pinned, and that the agent of `user` can use
/// them. It changes nothing where they are.
///
/// # Errors
///
/// This is not root, the host lacks a requirement (see [`requirements`]), the kernel refuses a program,
/// or a program must be replaced while an agent uses it.
pub fn run(user: &str) -> Result<Outcome> {
    if !geteuid().is_root() {
        bail!("only root may load eBPF programs: `sudo ondemand load`");
    }
    requirements::check(Path::new(BPFFS))?;
    let group = group(user)?;
    if group.as_raw() == 0 && user != "root" {
        log::warn!(
            "the user {user} does not exist, so only an agent of root's can use the programs; \
             `systemd-sysusers` creates that of the package"
        );
    }
    let place = Place::new(&Path::new(BPFFS).join(DIRECTORY))?;
    owner::directory(&place.root, group)?;
    place.complete(group, || pins::lock(&place.root))
}

/// The group of a user; that of root if there is none of this name.
///
/// # Errors
///
/// The host's users cannot be looked up.
pub fn group(user: &str) -> Result<Gid> {
    let found = User::from_name(user).with_context(|| format!("look up the user {user}"))?;
    Ok(found.map_or(Gid::from_raw(0), |user| user.gid))
}

/// The reason for which connections are not steered, of the last [`run`].
pub(super) fn no_steering() -> String {
    let reason = fs::read_to_string(Path::new(REPORTS).join(NO_STEERING)).unwrap_or_default();
    match reason.trim() {
        "" => "the program is not attached (`ondemand load`, as root, says why)".into(),
        reason => reason.to_owned(),
    }
}

/// Where the pins are, and what they count.
pub(super) struct Place {
    /// Those of all layouts.
    pub root: PathBuf,
    /// Those of this one.
    pub home: PathBuf,
    /// The cookie of the watched network namespace.
    pub netns: u64,
}

impl Place {
    /// The place below `root`, for this process's network namespace.
    ///
    /// # Errors
    ///
    /// Like [`requirements::netns_cookie`].
    pub fn new(root: &Path) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            home: super::home_below(root),
            netns: requirements::netns_cookie()?,
        })
    }

    /// Returns the pins if they are root's and count in this network namespace. A set that another user
    /// could have changed is none.
    fn find(&self) -> Result<Option<Pins>> {
        if !owner::is_roots(&self.home) {
            return Ok(None);
        }
        match super::open_pins(&self.home, self.netns) {
            Err(error) if error.is::<Gone>() => {
                log::warn!(
                    "the programs that were loaded no longer count here and are replaced; counters restart \
                     at zero: {error:#}"
                );
                Ok(None)
            }
            pins => pins.map(Some),
        }
    }

    /// Loads and attaches what is missing, and gives it to this group. `lock` excludes an agent that uses
    /// what would be replaced.
    ///
    /// # Errors
    ///
    /// The kernel refuses a program, or an agent is running; what was there before still is.
    pub fn complete<L>(&self, group: Gid, lock: impl FnOnce() -> Result<L>) -> Result<Outcome> {
        let outcome = match self.find()? {
            Some(pins) if OPTIONAL.iter().all(|name| pins.has(name)) => Outcome::Present,
            Some(_) => {
                // With an agent that runs it goes on as it is, without steering.
                if let Ok(_lock) = lock() {
                    self.fill(true)?;
                }
                Outcome::Present
            }
            None => {
                let _lock = lock()?;
                self.fill(false)?;
                Outcome::Loaded
            }
        };
        owner::pins(&self.home, group)?;
        Ok(outcome)
    }

    /// Loads and attaches what is missing, with the lock held. `is_whole`: the set lacks at most the
    /// optional program.
    fn fill(&self, is_whole: bool) -> Result<()> {
        let Self { root, home, netns } = self;
        let cgroup = requirements::cgroup_root()?;
        if is_whole {
            set_up(home, *netns, &cgroup)?;
        } else {
            let fresh = root.join(format!("new-v{LAYOUT_VERSION}-{}", std::process::id()));
            remove_pins(&fresh)?;
            let directory = DirBuilder::new().mode(0o700).create(&fresh);
            directory.with_context(|| format!("create {}", fresh.display()))?;
            set_up(&fresh, *netns, &cgroup).inspect_err(|_| {
                // The first error is the one to report; the next start removes the rest.
                let _ = remove_pins(&fresh);
            })?;
            remove_pins(home)?;
            fs::rename(&fresh, home)
                .with_context(|| format!("rename {} to {}", fresh.display(), home.display()))?;
        }
        remove_others(root, home)
    }
}

/// Loads and attaches what has no pin in `pins` yet.
fn set_up(pins: &Path, netns: u64, cgroup: &Path) -> Result<()> {
    let mut ebpf = load(pins, netns)?;
    let mut kernel_meta: Array<_, Meta> =
        Array::try_from(ebpf.map_mut("META").context("map META")?)?;
    kernel_meta.set(0, Meta { netns, reserved: 0 }, 0)?;
    let group = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
    let mut no_steering = None;
    for name in ATTACHED.into_iter().chain(ITERATORS) {
        let pin = pins.join(format!("link_{name}"));
        if pin.exists() {
            continue;
        }
        match attach(&mut ebpf, name, &group) {
            Ok(link) => {
                link.pin(&pin)
                    .with_context(|| format!("pin {}", pin.display()))?;
            }
            Err(error) if name == STEERING => no_steering = Some(format!("{error:#}")),
            // An application that does not set SO_REUSEADDR may have to try again, and one with datagrams stays up.
            Err(error) if OPTIONAL.contains(&name) => log::warn!("{error:#}"),
            Err(error) => return Err(error),
        }
    }
    // Without them all clients go to the front sockets, and services with datagrams are not managed.
    for name in FILTERS {
        if let Err(error) = pin_filter(&mut ebpf, name, &super::program_pin(pins, name)) {
            log::warn!("clients, or datagrams, cannot be held: {error:#}");
        }
    }
    if let Some(reason) = &no_steering {
        log::warn!("connections cannot be steered: {reason}");
    }
    report(no_steering.as_deref())
        .with_context(|| format!("write why connections are not steered below {REPORTS}"))
}

/// Leaves the reason for the agent, or none.
fn report(no_steering: Option<&str>) -> io::Result<()> {
    let file = Path::new(REPORTS).join(NO_STEERING);
    match no_steering {
        Some(reason) => {
            directories::create(Path::new(REPORTS), 0o755)?;
            atomic_file::replace(&file, reason.as_bytes(), 0o644)
        }
        None => match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn load(pins: &Path, netns: u64) -> Result<Ebpf> {
    let types = KernelTypes::running()?;
    // Without these times a connection is in use for as long as it is open.
    let ack = types.offset_within("inet_connection_sock", "icsk_ack", "lrcvtime");
    let offsets = [
        (
            "OFFSET_LSNDTIME",
            types.offset_of("tcp_sock", "lsndtime").unwrap_or_default(),
        ),
        ("OFFSET_LRCVTIME", ack.unwrap_or_default()),
        (
            "OFFSET_PEER_PORT",
            types.offset_of("sock_common", "skc_dport")?,
        ),
        ("OFFSET_COMM", types.offset_of("task_struct", "comm")?),
        ("OFFSET_UID", types.offset_of("sock", "sk_uid")?),
        // `struct sock_cgroup_data` begins with the pointer.
        ("OFFSET_CGROUP", types.offset_of("sock", "sk_cgrp_data")?),
        ("OFFSET_TGID", types.offset_of("task_struct", "tgid")?),
        (
            "OFFSET_TASK_FLAGS",
            types.offset_of("task_struct", "flags")?,
        ),
        ("OFFSET_GROUPS", types.offset_of("task_struct", "cgroups")?),
        ("OFFSET_DEFAULT", types.offset_of("css_set", "dfl_cgrp")?),
        ("OFFSET_NODE", types.offset_of("cgroup", "kn")?),
        ("OFFSET_SELF", types.offset_of("cgroup", "self")?),
        (
            "OFFSET_PARENT",
            types.offset_of("cgroup_subsys_state", "parent")?,
        ),
        ("OFFSET_NODE_NAME", types.offset_of("kernfs_node", "name")?),
        ("OFFSET_FLAGS", types.offset_of("sock_common", "skc_flags")?),
        (
            "OFFSET_WRITE_SEQ",
            types.offset_of("tcp_sock", "write_seq")?,
        ),
        (
            "OFFSET_BYTES_RECEIVED",
            types.offset_of("tcp_sock", "bytes_received")?,
        ),
        (
            "OFFSET_BYTES_ACKED",
            types.offset_of("tcp_sock", "bytes_acked")?,
        ),
        (
            "OFFSET_FAMILY",
            types.offset_of("sock_common", "skc_family")?,
        ),
        ("OFFSET_STATE", types.offset_of("sock_common", "skc_state")?),
        ("OFFSET_PORT", types.offset_of("sock_common", "skc_num")?),
        (
            "OFFSET_ADDRESS4",
            types.offset_of("sock_common", "skc_rcv_saddr")?,
        ),
        (
            "OFFSET_ADDRESS6",
            types.offset_of("sock_common", "skc_v6_rcv_saddr")?,
        ),
        ("OFFSET_PEER4", types.offset_of("sock_common", "skc_daddr")?),
        (
            "OFFSET_PEER6",
            types.offset_of("sock_common", "skc_v6_daddr")?,
        ),
        (
            "OFFSET_LISTENER",
            types.offset_of("sock_common", "skc_listener")?,
        ),
    ];
    let mut loader = EbpfLoader::new();
    loader.override_global("NETNS", &netns, true);
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    for map in MAPS {
        loader.map_pin_path(map, pins.join(map));
    }
    loader.load(OBJECT).context("load the eBPF maps")
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
    <&'a mut P as TryFrom<&'a mut aya::programs::Program>>::Error:
        std::error::Error + Send + Sync + 'static,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("program {name}"))?;
    program
        .try_into()
        .with_context(|| format!("type of the program {name}"))
}

/// Loads a filter, which the agent attaches to its own sockets.
fn pin_filter(ebpf: &mut Ebpf, name: &str, pin: &Path) -> Result<()> {
    if pin.exists() {
        return Ok(());
    }
    let filter: &mut SocketFilter = program(ebpf, name)?;
    filter
        .load()
        .map_err(|error| verifier::refused(name, error))?;
    filter
        .pin(pin)
        .with_context(|| format!("pin {}", pin.display()))
}

/// Loads and attaches a program.
fn attach(ebpf: &mut Ebpf, name: &str, cgroup: &File) -> Result<FdLink> {
    let what = || format!("attach the program {name}");
    let loaded =
        |result: Result<(), ProgramError>| result.map_err(|error| verifier::refused(name, error));
    match name {
        "connections" => {
            let program: &mut SockOps = program(ebpf, name)?;
            loaded(program.load())?;
            let link = program
                .attach(cgroup, CgroupAttachMode::Single)
                .with_context(what)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        STEERING => {
            let program: &mut SkLookup = program(ebpf, name)?;
            loaded(program.load())?;
            let namespace = File::open("/proc/self/ns/net").context("open /proc/self/ns/net")?;
            let link = program.attach(namespace).with_context(what)?;
            Ok(program.take_link(link)?.into())
        }
        "bind4" | "bind6" => {
            let program: &mut CgroupSockAddr = program(ebpf, name)?;
            loaded(program.load())?;
            let link = program
                .attach(cgroup, CgroupAttachMode::Single)
                .with_context(what)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        "bound4" | "bound6" | "released" => {
            let program: &mut CgroupSock = program(ebpf, name)?;
            loaded(program.load())?;
            let link = program
                .attach(cgroup, CgroupAttachMode::Single)
                .with_context(what)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        name if ITERATORS.contains(&name) => {
            let btf = Btf::from_sys_fs().context("read the kernel's BTF")?;
            let program: &mut Iter = program(ebpf, name)?;
            let sockets = match name {
                ADOPT_UDP | ADOPT_FRONTS => "udp",
                _ => "tcp",
            };
            loaded(program.load(sockets, &btf))?;
            let link = program.attach().with_context(what)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        other => bail!("no program {other}"),
    }
}

/// Removes a directory of pins; this detaches links that have no other holder.
fn remove_pins(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the pins of other layouts and of interrupted starts, after this set is in place: there
/// is no moment without counting.
fn remove_others(root: &Path, home: &Path) -> Result<()> {
    let entries = fs::read_dir(root).with_context(|| format!("list {}", root.display()))?;
    for entry in entries {
        let path: PathBuf = entry?.path();
        if path != home {
            remove_pins(&path)?;
        }
    }
    Ok(())
}
