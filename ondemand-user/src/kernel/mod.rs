//! Loads, attaches and pins the eBPF programs; the next agent takes them over.
//!
//! The pins live in a directory named after the layout's version. A new set is pinned into a
//! temporary directory beside it, attached, and then renamed: the directory is either complete or
//! absent. (bpffs refuses names with a dot, so the temporary directory cannot be hidden.)

mod btf;
pub mod lookups;
pub mod maps;
mod pins;
pub mod requirements;
pub mod sockets;
mod verifier;

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, Map, MapData},
    programs::{CgroupAttachMode, Iter, SkLookup, SockOps, links::FdLink},
};
use btf::KernelTypes;
use nix::fcntl::Flock;
use ondemand_ebpf::{LAYOUT_VERSION, Meta};
use pins::{Gone, Pins};

/// The BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The directory of the pins in it.
pub const DIRECTORY: &str = "ondemand";
/// The environment variable with another path to that directory: only root may enter the BPF file
/// system, so ondemand.service bind-mounts the agent's part of it elsewhere.
const PINS: &str = "ONDEMAND_PINS";

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ondemand-ebpf.o"));

/// The maps that are pinned: all but `.rodata`.
const MAPS: [&str; 13] = [
    "PORTS",
    "ENDPOINTS",
    "COUNTERS",
    "ALARMS",
    "USERS",
    "KEEPALIVES",
    "GATES",
    "NETWORKS",
    "LISTENERS",
    "EVENTS",
    "NAMES",
    "META",
    "TAGS",
];

/// The programs that stay attached when the agent exits.
const ATTACHED: [&str; 2] = ["connections", "steering"];
/// The one of them without which the proxy serves.
const OPTIONAL: &str = "steering";

/// The loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    /// The lock is `None` only during the setup.
    pins: Option<Pins>,
    /// Held for the lifetime of this agent.
    lock: Option<Flock<File>>,
    /// The cookie of the watched network namespace.
    pub netns: u64,
    /// Whether an earlier agent attached the programs, so that they counted all the time.
    pub taken_over: bool,
    /// Why connections cannot be steered on this host. `None`: they can.
    pub no_steering: Option<String>,
}

impl Kernel {
    /// Takes over the pins of an earlier agent, or loads and attaches everything.
    ///
    /// # Errors
    ///
    /// The host lacks a requirement (see [`requirements`]), or the kernel refuses a program.
    pub fn open() -> Result<Self> {
        let (bpffs, root) = match env::var_os(PINS) {
            Some(root) => (PathBuf::from(&root), PathBuf::from(root)),
            None => (BPFFS.into(), Path::new(BPFFS).join(DIRECTORY)),
        };
        requirements::check(&bpffs)?;
        let netns = requirements::netns_cookie()?;
        let cgroup = requirements::cgroup_root()?;
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let lock = pins::lock(&root)?;
        let home = root.join(format!("v{LAYOUT_VERSION}"));

        let mut kernel = if watches(&home, netns)? {
            Self::set_up(&home, netns, &cgroup, true)
                .with_context(|| format!("take over the programs pinned in {}", home.display()))?
        } else {
            let fresh = root.join(format!("new-v{LAYOUT_VERSION}-{}", std::process::id()));
            remove_pins(&fresh)?;
            fs::create_dir(&fresh).with_context(|| format!("create {}", fresh.display()))?;
            let kernel = Self::set_up(&fresh, netns, &cgroup, false).inspect_err(|_| {
                // The first error is the one to report; the next start removes the rest.
                let _ = remove_pins(&fresh);
            })?;
            remove_pins(&home)?;
            fs::rename(&fresh, &home)
                .with_context(|| format!("rename {} to {}", fresh.display(), home.display()))?;
            kernel
        };
        remove_others(&root, &home)?;
        kernel.pins = Some(open_pins(&home)?);
        kernel.lock = Some(lock);
        Ok(kernel)
    }

    /// Fails if the programs no longer count, or if the next agent would not find them.
    ///
    /// # Errors
    ///
    /// Names what is missing.
    pub fn check(&self) -> Result<()> {
        self.pins.as_ref().map_or(Ok(()), Pins::check)
    }

    fn set_up(pins: &Path, netns: u64, cgroup: &Path, taken_over: bool) -> Result<Self> {
        let mut ebpf = load(pins, netns)?;
        let mut kernel_meta: Array<_, Meta> =
            Array::try_from(ebpf.map_mut("META").context("map META")?)?;
        kernel_meta.set(0, Meta { netns, reserved: 0 }, 0)?;
        let group = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
        let mut no_steering = None;
        for name in ATTACHED {
            let pin = pins.join(format!("link_{name}"));
            if pin.exists() {
                continue;
            }
            let link = attach(&mut ebpf, name, &group);
            match link {
                Ok(link) => {
                    link.pin(&pin)
                        .with_context(|| format!("pin {}", pin.display()))?;
                }
                Err(error) if name == OPTIONAL => no_steering = Some(format!("{error:#}")),
                Err(error) => return Err(error),
            }
        }
        let btf = Btf::from_sys_fs().context("read the kernel's BTF")?;
        for name in ["snapshot", "adopt", "bytes", "orphans"] {
            let program: &mut Iter = program(&mut ebpf, name)?;
            program
                .load("tcp", &btf)
                .map_err(|error| verifier::refused(name, error))?;
        }
        Ok(Self {
            ebpf,
            pins: None,
            lock: None,
            netns,
            taken_over,
            no_steering,
        })
    }

    /// Takes a map out. Each map can be taken once.
    ///
    /// # Errors
    ///
    /// The object has no such map, or it was taken before.
    pub fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf
            .take_map(name)
            .with_context(|| format!("map {name}"))
    }

    /// Runs an iterator over the sockets of this network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses; the snapshot is then unknown.
    pub fn iterate(&mut self, name: &str) -> Result<File> {
        let iterator: &mut Iter = program(&mut self.ebpf, name)?;
        let link = iterator
            .attach()
            .with_context(|| format!("run the iterator {name}"))?;
        let link = iterator.take_link(link)?;
        link.into_file()
            .with_context(|| format!("read the iterator {name}"))
    }
}

/// Whether `home` holds the maps of this namespace, and all that counts in them.
fn watches(home: &Path, netns: u64) -> Result<bool> {
    let read = || -> Result<Meta> {
        let map = Map::Array(MapData::from_pin(home.join("META"))?);
        Ok(Array::<_, Meta>::try_from(map)?.get(&0, 0)?)
    };
    if !home.is_dir() || !read().is_ok_and(|meta| meta.netns == netns) {
        return Ok(false);
    }
    match open_pins(home).and_then(|pins| pins.check()) {
        Err(error) if error.is::<Gone>() => {
            log::warn!(
                "the programs of an earlier agent no longer count and are replaced; counters restart at zero: {error:#}"
            );
            Ok(false)
        }
        whole => whole.map(|()| true),
    }
}

fn open_pins(home: &Path) -> Result<Pins> {
    let programs = ATTACHED.map(|name| (name, name != OPTIONAL));
    Pins::open(home, &MAPS, programs)
}

fn load(pins: &Path, netns: u64) -> Result<Ebpf> {
    let types = KernelTypes::running()?;
    let offsets = [
        ("OFFSET_UID", types.offset_of("sock", "sk_uid")?),
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

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
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

/// Loads and attaches a program.
fn attach(ebpf: &mut Ebpf, name: &str, cgroup: &File) -> Result<FdLink> {
    let what = || format!("attach the program {name}");
    match name {
        "connections" => {
            let program: &mut SockOps = program(ebpf, name)?;
            program
                .load()
                .map_err(|error| verifier::refused(name, error))?;
            let link = program
                .attach(cgroup, CgroupAttachMode::Single)
                .with_context(what)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        "steering" => {
            let program: &mut SkLookup = program(ebpf, name)?;
            program
                .load()
                .map_err(|error| verifier::refused(name, error))?;
            let namespace = File::open("/proc/self/ns/net").context("open /proc/self/ns/net")?;
            let link = program.attach(namespace).with_context(what)?;
            Ok(program.take_link(link)?.into())
        }
        other => bail!("no program {other}"),
    }
}

/// Removes a directory of pins; this detaches links that have no other holder.
fn remove_pins(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
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
        if path != home && path.is_dir() {
            remove_pins(&path)?;
        }
    }
    Ok(())
}
