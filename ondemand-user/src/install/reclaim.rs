//! `freeze_reclaim`: the kernel takes back the memory of an application that is frozen (`memory.reclaim`, cgroup-v2.rst;
//! Linux 5.19). What it wrote goes to swap, what came from files is read again.
//!
//! In steps, each of which looks whether it is still frozen: its next client has it thawed at any moment, and must not find
//! that the rest is taken away from it meanwhile.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ondemand_core::{room::memory, words::Bytes};

use crate::{kernel::requirements, systemd::Systemd};

/// The file of a cgroup by which memory is taken back.
pub const FILE: &str = "memory.reclaim";
/// Bytes at a time: what a disk writes in a tenth of a second.
const STEP: u64 = 16 << 20;

/// Takes back what it can of a unit that is frozen, and says how much that was. As root.
///
/// # Errors
///
/// systemd does not answer, or the kernel refuses.
pub async fn run(unit: &str) -> Result<()> {
    let group = Systemd::connect().await?.control_group(unit).await?;
    if group.is_empty() {
        return Ok(());
    }
    let group = directory(&group)?;
    if !group.join(FILE).exists() {
        log::warn!("{unit}: the kernel takes no memory back: {}", missing());
        return Ok(());
    }
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    if !memory::has_swap(&text) {
        log::debug!("{unit}: no swap is free");
        return Ok(());
    }
    let bytes = take_back(&group).with_context(|| format!("take back the memory of {unit}"))?;
    log::info!("{unit}: {} given back while it is frozen", Bytes(bytes));
    Ok(())
}

/// Where a cgroup is, as PID 1 names it.
///
/// # Errors
///
/// There is no cgroup2.
pub fn directory(group: &str) -> Result<PathBuf> {
    Ok(requirements::cgroup_root()?.join(group.trim_start_matches('/')))
}

/// Why a cgroup has no such file.
pub fn missing() -> String {
    format!(
        "{FILE} is missing, which needs Linux 5.19, cgroup2 alone, and MemoryAccounting=yes in the unit"
    )
}

/// Returns how many bytes less it takes afterwards.
fn take_back(group: &Path) -> io::Result<u64> {
    let begin = current(group)?;
    for _ in 0..begin.div_ceil(STEP) {
        let left = current(group)?;
        if left == 0 || !is_frozen(group)? {
            break;
        }
        match fs::write(group.join(FILE), left.min(STEP).to_string()) {
            // There is less to be had than that.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            result => result?,
        }
    }
    Ok(begin.saturating_sub(current(group)?))
}

fn current(group: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(group.join("memory.current"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// Whether all of its processes are.
fn is_frozen(group: &Path) -> io::Result<bool> {
    let text = fs::read_to_string(group.join("cgroup.events"))?;
    Ok(text.lines().any(|line| line == "frozen 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_in_steps_while_it_is_frozen() {
        #[track_caller]
        fn check(events: &str, current: &str, expected: Option<&str>) {
            let group = tempfile::tempdir().unwrap();
            let file = |name: &str| group.path().join(name);
            fs::write(file("cgroup.events"), events).unwrap();
            fs::write(file("memory.current"), current).unwrap();
            assert_eq!(take_back(group.path()).unwrap(), 0);
            let asked = fs::read_to_string(file(FILE)).ok();
            assert_eq!(asked.as_deref(), expected, "{events} {current}");
        }
        check("populated 1\nfrozen 1\n", "40000000\n", Some("16777216"));
        check("populated 1\nfrozen 1\n", "4096\n", Some("4096"));
        check("populated 1\nfrozen 1\n", "0\n", None);
        check("populated 1\nfrozen 0\n", "40000000\n", None);
    }
}
