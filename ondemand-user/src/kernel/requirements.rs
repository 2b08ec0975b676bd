//! The host's requirements, checked before anything is loaded. Each message names the remedy.

use std::{
    fs,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    sys::statfs::statfs,
};

use super::{BPFFS, btf::KernelTypes};
use crate::host::capabilities;

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The oldest kernel with all features in use: BPF got atomic operations in 5.12 and socket
/// storage in iterators in 5.13; 5.15 is the first long-term kernel after them.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// Checks the kernel's version, privilege and the BPF file system.
///
/// # Errors
///
/// Names what is missing and how to get it.
pub fn check(bpffs: &Path) -> Result<()> {
    kernel_version()?;
    privilege()?;
    bpf_file_system(bpffs)
}

/// Fails if this process may not load eBPF programs.
///
/// # Errors
///
/// Names the missing capabilities.
pub fn privilege() -> Result<()> {
    let missing = capabilities::missing();
    if !missing.is_empty() {
        bail!(
            "loading eBPF programs requires root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (missing \
             here: {}): run it with sudo, or `systemctl start ondemand-load`",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The first kernel that allows bpf(2) to a process without capabilities where it only uses what others have
/// loaded, whatever `kernel.unprivileged_bpf_disabled` is (commit c8644cd0efe7).
const FREE_CALLS: (u32, u32) = (5, 19);

/// Whether this kernel demands `CAP_BPF` of the agent, which loads nothing. If unknown, it does not.
pub fn demands_capability() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(release.trim()).is_some_and(|version| version < FREE_CALLS)
}

/// Fails if this process may not call bpf(2).
///
/// # Errors
///
/// Names the drop-in that gives it the capability.
pub fn bpf_calls() -> Result<()> {
    let setting = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    let is_restricted = setting.is_ok_and(|value| value.trim() != "0");
    if is_restricted && demands_capability() && capabilities::missing().contains(&"CAP_BPF") {
        bail!(
            "Linux before {}.{} demands CAP_BPF of the agent: `systemctl daemon-reload` lets the generator \
             write a drop-in of ondemand.service with it; without the generator write one with \
             AmbientCapabilities=CAP_BPF and CapabilityBoundingSet=CAP_BPF",
            FREE_CALLS.0,
            FREE_CALLS.1
        );
    }
    Ok(())
}

/// Fails if `bpffs` is not a BPF file system.
///
/// # Errors
///
/// Names the command that mounts one.
pub fn bpf_file_system(bpffs: &Path) -> Result<()> {
    let mounted = statfs(bpffs).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC);
    if !mounted {
        bail!(
            "{} is not a BPF file system; without one the counters would not outlive the agent: \
             mount -t bpf bpf {BPFFS}",
            bpffs.display(),
        );
    }
    Ok(())
}

/// Fails if the kernel's BTF is missing or cannot be parsed.
///
/// # Errors
///
/// Names the file and the kernel option.
pub fn btf() -> Result<()> {
    KernelTypes::running().map(drop)
}

/// Fails if the kernel is too old.
///
/// # Errors
///
/// Names both versions.
pub fn kernel_version() -> Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's version")?;
    check_release(release.trim())
}

/// A version that is not numeric passes: a missing feature is reported by the kernel.
fn check_release(release: &str) -> Result<()> {
    if version(release).is_some_and(|version| version < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        bail!("Linux {release} is too old: ondemand requires Linux {major}.{minor} or later");
    }
    Ok(())
}

/// Major and minor number of a release. `None`: they are not numeric.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Returns the mount point of cgroup2: the programs are attached to its root.
///
/// # Errors
///
/// There is none: the host has cgroup v1 only.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    cgroup2_mount(&mounts).context(
        "no cgroup2 file system is mounted (this host has cgroup v1 only): boot with \
         systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    )
}

/// Finds the mount of cgroup2's root in text of the format of proc_pid_mountinfo(5).
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let fields: Vec<&str> = left.split(' ').collect();
        (right.starts_with("cgroup2 ") && fields.get(3) == Some(&"/"))
            .then(|| fields.get(4).map(PathBuf::from))
            .flatten()
    })
}

/// Returns the cookie of this process's network namespace.
///
/// # Errors
///
/// The kernel is older than 5.14 (`SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h).
pub fn netns_cookie() -> Result<u64> {
    let any = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("create a socket")?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the buffer has the length `len`.
    let result = unsafe {
        libc::getsockopt(
            any.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    nix::errno::Errno::result(result).context("read the network namespace's cookie")?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mount(mountinfo: &str, expected: Option<&str>) {
        assert_eq!(cgroup2_mount(mountinfo), expected.map(PathBuf::from));
    }

    #[test]
    fn cgroup2_is_found_where_it_is_mounted() {
        check_mount(
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw",
            Some("/sys/fs/cgroup"),
        );
        check_mount(
            "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             41 30 0:37 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw",
            Some("/sys/fs/cgroup/unified"),
        );
        check_mount(
            "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
            None,
        );
        check_mount(
            "41 30 0:37 /system.slice /mnt rw - cgroup2 cgroup2 rw",
            None,
        );
        check_mount("", None);
    }

    #[test]
    fn old_kernels_are_refused() {
        for release in [
            "5.15.0-91-generic",
            "6.1.0-18-amd64",
            "6.18.44",
            "7.0-rc1",
            "odd",
        ] {
            check_release(release).unwrap();
        }
        for release in ["4.19.0", "5.10.0-28-amd64", "5.14.21"] {
            let error = check_release(release).unwrap_err().to_string();
            assert!(error.contains(release) && error.contains("5.15"), "{error}");
        }
    }

    #[test]
    fn a_namespace_has_one_cookie() {
        assert_eq!(netns_cookie().unwrap(), netns_cookie().unwrap());
    }
}
