//! The capabilities of this process (capabilities(7)).

use std::{fs, io};

use anyhow::{Context as _, Result, ensure};
use nix::{errno::Errno, libc};

/// The number of `CAP_BPF`.
const BPF: u32 = 39;

/// The capabilities for loading and attaching the programs, include/uapi/linux/capability.h:
/// `CAP_BPF` for maps and programs, `CAP_PERFMON` for iterators, which read kernel memory, and
/// `CAP_NET_ADMIN` for programs of the network.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", BPF), ("CAP_PERFMON", 38), ("CAP_NET_ADMIN", 12)];

/// Those of [`NEEDED`] that this process lacks. If unknown: all of them.
pub fn missing() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    lacks(mask(&status, "CapEff:").unwrap_or(0))
}

fn lacks(mask: u64) -> Vec<&'static str> {
    let absent = |(name, number)| (mask >> number & 1 == 0).then_some(name);
    NEEDED.into_iter().filter_map(absent).collect()
}

/// A line of proc_pid_status(5).
fn mask(status: &str, name: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Sees to it that this thread and the programs that it runs can get no capability but those of `keep`: sets
/// `no_new_privs`, and takes the others out of the bounding set.
///
/// # Errors
///
/// The kernel refuses.
pub fn forbid_new(keep: Keep) -> Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1).context("set no_new_privs")?;
    let others = Sets::read()?.bounding & !keep.mask();
    for capability in (0..64).filter(|number| others >> number & 1 == 1) {
        // Without CAP_SETPCAP it stays, and no_new_privs makes it useless.
        let _ = control(libc::PR_CAPBSET_DROP, capability);
    }
    Ok(())
}

/// Drops every capability of this thread for good, but for those of `keep` that it has, after
/// [`forbid_new`]. The kernel keeps capabilities for each thread, so this is called before there is another
/// one.
///
/// # Errors
///
/// A capability is left, or the kernel refuses.
pub fn drop_all(keep: Keep) -> Result<()> {
    forbid_new(keep)?;
    control(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL).context("clear the ambient capabilities")?;
    let before = Sets::read()?;
    if (before.permitted | before.effective) & !keep.mask() != 0 {
        set(before.permitted & keep.mask()).context(
            "drop the capabilities (is ondemand.service of an earlier version? install that of this one)",
        )?;
    }
    let after = Sets::read()?;
    let left = (after.permitted | after.effective | after.ambient) & !keep.mask();
    ensure!(left == 0, "the capabilities {left:x} cannot be dropped");
    Ok(())
}

/// What [`drop_all`] leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    None,
    /// `CAP_BPF`, if there is one: older kernels demand it for each bpf(2).
    Bpf,
}

impl Keep {
    fn mask(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bpf => 1 << BPF,
        }
    }
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
const AMBIENT_CLEAR_ALL: libc::c_ulong = 4;

fn control(operation: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    let none: libc::c_ulong = 0;
    // SAFETY: these operations take integers and access no memory of this process.
    let result = unsafe { libc::prctl(operation, argument, none, none, none) };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// `_LINUX_CAPABILITY_VERSION_3`, include/uapi/linux/capability.h.
const VERSION_3: u32 = 0x2008_0522;

/// Makes these the permitted and effective capabilities of this thread, and none the inheritable ones.
fn set(capabilities: u64) -> io::Result<()> {
    // `struct __user_cap_header_struct`: a version, and 0 for this thread.
    let header: [u32; 2] = [VERSION_3, 0];
    let [low, high] = [capabilities as u32, (capabilities >> 32) as u32];
    // Two of `struct __user_cap_data_struct`: effective, permitted, inheritable.
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: both have the layout of this version of the call, which reads them only.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// The capability sets of a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sets {
    /// `CapPrm`.
    pub permitted: u64,
    /// `CapEff`.
    pub effective: u64,
    /// `CapAmb`.
    pub ambient: u64,
    /// `CapBnd`.
    pub bounding: u64,
}

impl Sets {
    fn read() -> Result<Self> {
        let path = "/proc/thread-self/status";
        let status = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        Self::parse(&status).with_context(|| format!("{path} has no capabilities"))
    }

    /// Those in text of the format of proc_pid_status(5).
    pub fn parse(status: &str) -> Option<Self> {
        Some(Self {
            permitted: mask(status, "CapPrm:")?,
            effective: mask(status, "CapEff:")?,
            ambient: mask(status, "CapAmb:")?,
            bounding: mask(status, "CapBnd:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        #[track_caller]
        fn check(held: &str, expected: &[&str]) {
            let status = format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{held}\nCapBnd:\t0\n");
            assert_eq!(lacks(mask(&status, "CapEff:").unwrap()), expected);
        }
        check("000001ffffffffff", &[]);
        check("000000c000001000", &[]);
        check("0000008000001000", &["CAP_PERFMON"]);
        check(
            "0000000000000000",
            &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
        );
        assert_eq!(Sets::parse("Name:\tx\n"), None);
    }

    #[test]
    fn nothing_is_left_of_a_thread_that_drops_all() {
        let status = std::thread::spawn(|| {
            drop_all(Keep::None).unwrap();
            // Again, with nothing to drop.
            drop_all(Keep::Bpf).unwrap();
            fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = status.join().unwrap();
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(
                status.contains(&format!("{name}:\t0000000000000000")),
                "{status}"
            );
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(Sets::parse(&status).unwrap().bounding, 0, "{status}");
        }
    }
}
