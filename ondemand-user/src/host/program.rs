//! The program's own file, which an upgrade replaces while processes of it run.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a link in proc(5) to a file that was removed, or replaced by another of its name, ends with.
const GONE: &str = " (deleted)";
/// Whoever replaces a file may still be writing it, and it cannot be executed until then (ETXTBSY).
const WRITTEN: Duration = Duration::from_secs(2);

/// Whether another program has taken the place of the one that this process runs, for some seconds.
pub fn is_replaced() -> bool {
    let since = |path: PathBuf| fs::metadata(path).ok()?.modified().ok()?.elapsed().ok();
    let place = place_of_gone(Path::new("/proc/self/exe"));
    place.and_then(since).is_some_and(|age| age > WRITTEN)
}

/// Where the program of a link in proc(5) was. `None`: it is still there.
fn place_of_gone(exe: &Path) -> Option<PathBuf> {
    let link = fs::read_link(exe).ok()?;
    Some(link.to_str()?.strip_suffix(GONE)?.into())
}

/// The units of which a process runs a program of ours that was replaced since. Only root sees other users'.
pub fn outdated() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = entries.map(|entry| entry.path()).filter(|process| {
        fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "ondemand")
    });
    let old = ours.filter(|process| place_of_gone(&process.join("exe")).is_some());
    let unit = |process: PathBuf| {
        let groups = fs::read_to_string(process.join("cgroup")).ok()?;
        unit_of(&groups).map(str::to_owned)
    };
    let mut units: Vec<String> = old.filter_map(unit).collect();
    units.sort();
    units.dedup();
    units
}

/// The unit of ours in a text as of /proc/PID/cgroup.
fn unit_of(groups: &str) -> Option<&str> {
    let mut parts = groups.lines().flat_map(|line| line.split('/'));
    parts.find(|part| part.starts_with("ondemand") && part.ends_with(".service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process() {
        let unit = unit_of("1:name=systemd:/\n0::/system.slice/ondemand-wiki.service\n");
        assert_eq!(unit, Some("ondemand-wiki.service"));
        assert_eq!(
            unit_of("0::/user.slice/user-0.slice/session-1.scope\n"),
            None
        );
    }

    #[test]
    fn a_file_that_was_replaced() {
        assert!(!is_replaced());
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("exe");
        std::os::unix::fs::symlink("/usr/bin/ondemand (deleted)", &link).unwrap();
        assert_eq!(
            place_of_gone(&link).as_deref(),
            Some(Path::new("/usr/bin/ondemand"))
        );
    }
}
