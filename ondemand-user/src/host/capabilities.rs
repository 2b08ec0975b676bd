//! The capabilities of this process (capabilities(7)).

use std::{fs, io};

use nix::{errno::Errno, libc};

/// The capabilities for loading and attaching the programs, include/uapi/linux/capability.h:
/// `CAP_BPF` for maps and programs, `CAP_PERFMON` for iterators, which read kernel memory, and
/// `CAP_NET_ADMIN` for programs of the network.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_NET_ADMIN", 12)];

/// Those of [`NEEDED`] that this process lacks. If unknown: all of them.
pub fn missing() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    lacks(effective(&status).unwrap_or(0))
}

fn lacks(mask: u64) -> Vec<&'static str> {
    let absent = |(name, number)| (mask >> number & 1 == 0).then_some(name);
    NEEDED.into_iter().filter_map(absent).collect()
}

/// `CapEff` of proc_pid_status(5).
fn effective(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Withholds this thread's capabilities from the programs that it runs, such as veto programs.
///
/// # Errors
///
/// The kernel refuses.
pub fn keep_to_ourselves() -> io::Result<()> {
    // SAFETY: this operation takes integers and accesses no memory of this process.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        #[track_caller]
        fn check(mask: &str, expected: &[&str]) {
            let status = format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{mask}\nCapBnd:\t0\n");
            assert_eq!(lacks(effective(&status).unwrap()), expected);
        }
        check("000001ffffffffff", &[]);
        check("000000c000001000", &[]);
        check("0000008000001000", &["CAP_PERFMON"]);
        check(
            "0000000000000000",
            &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn no_ambient_capability_is_left() {
        keep_to_ourselves().unwrap();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("CapAmb:\t0000000000000000"), "{status}");
    }
}
