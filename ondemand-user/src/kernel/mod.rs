//! The eBPF programs: [`load`] loads, attaches and pins them, as root; the agent opens the pins, for which
//! it needs no capability.

mod btf;
pub mod catchers;
pub mod load;
pub mod lookups;
pub mod maps;
mod owner;
mod pins;
pub mod requirements;
pub mod sockets;
mod verifier;

use std::{
    env,
    fs::File,
    io::Read as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    include_bytes_aligned,
    maps::{Array, Map, MapData},
    programs::{
        SocketFilter,
        iter::IterLink,
        links::{FdLink, PinnedLink},
    },
};
use load::Place;
use nix::{
    fcntl::Flock,
    unistd::{Gid, geteuid},
};
use ondemand_ebpf::{LAYOUT_VERSION, Meta};
pub use pins::InUse;
use pins::{Gone, Pins};

use crate::host::capabilities;

/// The BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The directory of the pins in it.
pub const DIRECTORY: &str = "ondemand";
/// The environment variable with another path to that directory: only root may enter the BPF file
/// system, so ondemand.service bind-mounts this part of it elsewhere.
const PINS: &str = "ONDEMAND_PINS";

const NOT_LOADED: &str = "the eBPF programs are not loaded; `systemctl restart ondemand` loads them, and so does \
                          `ondemand load` as root";

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ondemand-ebpf.o"));

/// The maps that are pinned: all but `.rodata`.
const MAPS: [&str; 29] = [
    "PORTS",
    "ENDPOINTS",
    "COUNTERS",
    "ALARMS",
    "USERS",
    "KEEPALIVES",
    "GATES",
    "NETWORKS",
    "LISTENERS",
    "CATCHERS",
    "CAUGHT",
    "DATAGRAMS",
    "ICMP_ERRORS",
    "AGENT",
    "WINDOWS",
    "UNREAD",
    "PASSES",
    "SENDERS",
    "PROBES",
    "FRONTS",
    "DATAGRAM_FRONTS",
    "LINES",
    "PRESENT",
    "UNITS",
    "INSIDERS",
    "EVENTS",
    "NAMES",
    "META",
    "TAGS",
];

/// The programs that stay attached when the agent exits.
const ATTACHED: [&str; 7] = [
    "connections",
    STEERING,
    "bind4",
    "bind6",
    "bound4",
    "bound6",
    "released",
];
/// The programs that run when the agent reads from their link: a walk over the sockets each.
const ITERATORS: [&str; 7] = [
    "snapshot",
    "adopt",
    "bytes",
    "orphans",
    "clients",
    ADOPT_UDP,
    ADOPT_FRONTS,
];
/// Those of them that walk over the sockets of UDP: over the applications', and over the front sockets.
const ADOPT_UDP: &str = "adopt_udp";
const ADOPT_FRONTS: &str = "adopt_fronts";
/// The filters of the agent's sockets, which it attaches itself: of those that hold clients, and datagrams, and of the raw
/// ones that see ICMP.
const FILTERS: [&str; 3] = [CAUGHT, "datagram", "icmp"];
const CAUGHT: &str = "caught";
/// The one without which the proxy serves.
const STEERING: &str = "steering";
/// Those of the attached that a kernel may refuse.
const OPTIONAL: [&str; 8] = [
    STEERING,
    "bind4",
    "bind6",
    "bound4",
    "bound6",
    "released",
    ADOPT_UDP,
    ADOPT_FRONTS,
];
/// Those of them without which nobody knows whether an application has bound the port of its datagrams.
const OF_DATAGRAMS: [&str; 4] = ["bound4", "bound6", "released", ADOPT_UDP];

/// The pinned maps and programs.
pub struct Kernel {
    home: PathBuf,
    pins: Pins,
    /// By which `home` is found.
    _directory: File,
    /// Held for the lifetime of this agent.
    _lock: Flock<File>,
    /// The cookie of the watched network namespace.
    pub netns: u64,
    /// Why connections cannot be steered on this host. `None`: they can.
    pub no_steering: Option<String>,
    /// Whether datagrams can be held on this host.
    pub has_datagrams: bool,
}

impl Kernel {
    /// Opens the pins. A process that may load programs, as root that runs an agent by hand, does so first
    /// if there are none, for this group.
    ///
    /// # Errors
    ///
    /// The programs are not loaded, another agent runs, or the host lacks a requirement (see
    /// [`requirements`]).
    pub fn open(group: Gid) -> Result<Self> {
        let (bpffs, root) = match env::var_os(PINS) {
            Some(root) => (PathBuf::from(&root), PathBuf::from(root)),
            None => (BPFFS.into(), Path::new(BPFFS).join(DIRECTORY)),
        };
        requirements::kernel_version()?;
        // There is nothing to mount where the unit binds the pins to.
        if root == bpffs && requirements::bpf_file_system(&root).is_err() {
            bail!("{}: {NOT_LOADED}", root.display());
        }
        requirements::bpf_file_system(&bpffs)?;
        requirements::bpf_calls()?;
        let may_load = geteuid().is_root() && capabilities::missing().is_empty();
        if may_load {
            owner::directory(&root, group)?;
        }
        let place = Place::new(&root)?;
        if !root.is_dir() {
            bail!("{}: {NOT_LOADED}", root.display());
        }
        let lock = pins::lock(&root)?;
        if may_load {
            place.complete(group, || Ok(()))?;
        }
        let mut pins = open_pins(&place.home, place.netns).context(NOT_LOADED)?;
        // A process that was root may become another user, who cannot enter the BPF file system.
        let directory =
            File::open(&place.home).with_context(|| format!("open {}", place.home.display()))?;
        let mut home = place.home;
        if may_load {
            home = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
            pins.found_at(&home);
        }
        Ok(Self {
            no_steering: (!pins.has(STEERING)).then(load::no_steering),
            has_datagrams: pins.has(STEERING) && OF_DATAGRAMS.iter().all(|name| pins.has(name)),
            home,
            pins,
            _directory: directory,
            _lock: lock,
            netns: place.netns,
        })
    }

    /// Fails if the programs no longer count, or if the next agent would not find them.
    ///
    /// # Errors
    ///
    /// Names what is missing.
    pub fn check(&self) -> Result<()> {
        self.pins.check()
    }

    /// Opens a map.
    ///
    /// # Errors
    ///
    /// There is no such pin, or this user may not use it.
    pub fn map(&self, name: &str) -> Result<Map> {
        open_map(&self.home, name)
    }

    /// Opens a filter of the agent's sockets.
    ///
    /// # Errors
    ///
    /// The kernel has refused it, or this user may not use it.
    fn filter(&self, name: &str) -> Result<SocketFilter> {
        let pin = program_pin(&self.home, name);
        SocketFilter::from_pin(&pin).with_context(|| format!("open {}", pin.display()))
    }

    /// Runs an iterator over the sockets of this network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses; the snapshot is then unknown.
    pub fn iterate(&self, name: &str) -> Result<File> {
        iterate(&self.home, name)
    }

    /// Whether datagrams that nobody holds line up at front sockets.
    pub fn lines_up(&self) -> bool {
        self.has_datagrams && self.pins.has(ADOPT_FRONTS)
    }
}

/// Has the programs find the front sockets for datagrams, which PID 1 has bound. As root.
///
/// # Errors
///
/// The programs are not loaded.
pub fn find_fronts() -> Result<()> {
    let mut walk = iterate(&home(), ADOPT_FRONTS)?;
    walk.read_to_end(&mut Vec::new())
        .map(drop)
        .context("walk over the sockets of UDP")
}

fn iterate(home: &Path, name: &str) -> Result<File> {
    let pin = home.join(format!("link_{name}"));
    let run = || -> Result<File> {
        let link = FdLink::from(PinnedLink::from_pin(pin)?);
        Ok(IterLink::try_from(link)?.into_file()?)
    };
    run().with_context(|| format!("run the iterator {name}"))
}

/// Where the pins of this version are.
pub fn home() -> PathBuf {
    home_below(&Path::new(BPFFS).join(DIRECTORY))
}

/// The same below another path to ondemand's directory.
fn home_below(root: &Path) -> PathBuf {
    root.join(format!("v{LAYOUT_VERSION}"))
}

/// The pin of the filter of the sockets that hold clients.
pub fn filter_pin(home: &Path) -> PathBuf {
    program_pin(home, CAUGHT)
}

fn program_pin(home: &Path, name: &str) -> PathBuf {
    home.join(format!("prog_{name}"))
}

fn open_map(home: &Path, name: &str) -> Result<Map> {
    let pin = home.join(name);
    MapData::from_pin(&pin)
        .and_then(Map::from_map_data)
        .with_context(|| format!("open {}", pin.display()))
}

/// Opens the pins in `home`, if they watch this network namespace, and all that counts in them.
///
/// # Errors
///
/// They do not, or one is missing, or attached to nothing: a [`Gone`]. Or one cannot be opened.
fn open_pins(home: &Path, netns: u64) -> Result<Pins> {
    let programs = ATTACHED.map(|name| (name, !OPTIONAL.contains(&name)));
    let iterators = ITERATORS.map(|name| (name, !OPTIONAL.contains(&name)));
    let pins = Pins::open(home, &MAPS, programs.into_iter().chain(iterators))?;
    let meta = Array::<_, Meta>::try_from(open_map(home, "META")?)?;
    if meta.get(&0, 0)?.netns != netns {
        bail!(Gone(format!(
            "the programs pinned in {} watch another network namespace",
            home.display()
        )));
    }
    pins.check()?;
    Ok(pins)
}
