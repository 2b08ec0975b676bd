//! How long eBPF programs run, and an empty one to compare with.
//!
//! The structures are `union bpf_attr`, `struct bpf_prog_info` and `struct bpf_link_info` of
//! include/uapi/linux/bpf.h, as far as they are used.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::libc;
pub use tests::bpf::Hook;
use tests::bpf::{bpf, bpf_fd, pinned};

const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const ENABLE_STATS: libc::c_long = 32;

/// `BPF_STATS_RUN_TIME`
const RUN_TIME: u32 = 0;

/// The kernel measures how long every program runs, for as long as the result lives.
/// It is what the sysctl `kernel.bpf_stats_enabled` does, but it cannot be left on by mistake.
///
/// # Errors
///
/// The kernel refuses: no privilege, or older than 5.8.
pub fn enable_statistics() -> Result<OwnedFd> {
    // SAFETY: the attributes are the type of statistics.
    unsafe { bpf_fd(ENABLE_STATS, RUN_TIME) }.context("make the kernel measure BPF programs")
}

/// A loaded program.
pub struct Program(OwnedFd);

/// How often a program has run, and for how long in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    /// Nanoseconds, the clock's own cost included.
    pub time: u64,
    /// Times.
    pub count: u64,
}

impl Runs {
    /// Since an earlier look.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            time: self.time.saturating_sub(earlier.time),
            count: self.count.saturating_sub(earlier.count),
        }
    }
}

/// `struct bpf_prog_info` up to `run_cnt`.
#[repr(C)]
struct ProgramInfo {
    unused: [u64; 24],
    run_time: u64,
    run_count: u64,
}

/// `struct bpf_link_info` up to `prog_id`.
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    unused: u32,
}

impl Program {
    /// The program that a pinned link holds.
    ///
    /// # Errors
    ///
    /// There is no link at that path.
    pub fn of_link(pin: &Path) -> Result<Self> {
        let what = || format!("look at the link {}", pin.display());
        let link = pinned(pin).with_context(what)?;
        let mut info = LinkInfo {
            kind: 0,
            id: 0,
            program: 0,
            unused: 0,
        };
        information(&link, &mut info).with_context(what)?;
        // SAFETY: the attributes are the program's number.
        let program = unsafe { bpf_fd(PROG_GET_FD_BY_ID, [info.program, 0, 0]) };
        Ok(Self(program.with_context(what)?))
    }

    /// Loads a program that lets every packet pass and does nothing else.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn empty() -> Result<Self> {
        let program = tests::bpf::empty(Hook::Ingress);
        Ok(Self(program.context("load an empty BPF program")?))
    }

    /// Attaches it to a cgroup, beside what is attached there, for as long as the result lives.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn attach(&self, cgroup: &File, hook: Hook) -> Result<OwnedFd> {
        tests::bpf::attach(&self.0, cgroup, hook)
            .with_context(|| format!("attach an empty BPF program ({hook:?})"))
    }

    /// What the kernel has measured so far.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn runs(&self) -> Result<Runs> {
        let mut info = ProgramInfo {
            unused: [0; 24],
            run_time: 0,
            run_count: 0,
        };
        information(&self.0, &mut info).context("read how long a BPF program ran")?;
        Ok(Runs {
            time: info.run_time,
            count: info.run_count,
        })
    }
}

/// How many programs are attached to this cgroup itself.
///
/// # Errors
///
/// The kernel refuses.
pub fn attached(cgroup: &File, hook: Hook) -> Result<u32> {
    #[repr(C)]
    struct Attributes {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        pad: u32,
        /// Kernels since 6.16 write here, whatever the size.
        more: [u64; 4],
    }
    let mut attributes = Attributes {
        target: cgroup.as_raw_fd() as u32,
        kind: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        ids: 0,
        count: 0,
        pad: 0,
        more: [0; 4],
    };
    // SAFETY: no place for numbers is given, so the kernel only counts.
    unsafe { bpf(PROG_QUERY, &mut attributes) }.context("query what is attached to a cgroup")?;
    Ok(attributes.count)
}

/// Fills `info` with what the kernel knows of a program or link.
fn information<T>(object: &OwnedFd, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    let pointer: *mut T = info;
    let mut attributes = Attributes {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: pointer as u64,
    };
    // SAFETY: the kernel writes no more than the length. Its pointers to arrays are zero.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }.map(drop)
}
