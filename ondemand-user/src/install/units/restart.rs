//! Whether systemd restarts an application by itself: what can be said without asking PID 1, which waits for
//! its generators.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The directories of unit files, without those of generators, which run at the same time
/// (systemd.unit(5)).
const DIRECTORIES: [&str; 8] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// A longer file is none of a person's.
const LONGEST: u64 = 1 << 20;

/// Returns the directories of this machine.
pub(super) fn directories() -> Vec<PathBuf> {
    DIRECTORIES.map(PathBuf::from).into()
}

/// Whether `unit` may have `Restart=`. A unit that is not found may: other generators make units, too.
pub(super) fn may_restart(unit: &str, directories: &[PathBuf]) -> bool {
    let mut names = vec![unit.to_owned()];
    if let Some((template, _)) = unit.split_once('@') {
        names.push(format!("{template}@.service"));
    }
    let fragments = |name: &str| -> Vec<PathBuf> {
        let paths = directories.iter().map(|directory| directory.join(name));
        paths.filter(|path| path.exists()).collect()
    };
    let mut files: Vec<_> = names.iter().flat_map(|name| fragments(name)).collect();
    if files.is_empty() {
        return true;
    }
    // An alias is a link to the unit, whose drop-ins count, too.
    let aliased = files.iter().filter_map(|path| {
        let path = fs::canonicalize(path).ok()?;
        Some(path.file_name()?.to_str()?.to_owned())
    });
    let aliased: Vec<_> = aliased.filter(|name| !names.contains(name)).collect();
    names.extend(aliased);
    names.push("service".into());
    for directory in directories {
        for name in &names {
            let entries = fs::read_dir(directory.join(format!("{name}.d")));
            let entries = entries.into_iter().flatten().flatten();
            files.extend(entries.map(|entry| entry.path()));
        }
    }
    files.iter().any(|path| has_restart(path))
}

fn has_restart(path: &Path) -> bool {
    // A FIFO would not end, and a masked unit is no regular file.
    let is_unit = |data: fs::Metadata| data.is_file() && data.len() <= LONGEST;
    if !fs::metadata(path).is_ok_and(is_unit) {
        return false;
    }
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().any(|line| {
        let assigned = line.split_once('=');
        assigned.is_some_and(|(key, value)| {
            key.trim() == "Restart" && !["", "no"].contains(&value.trim())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_systemd_restarts_by_itself() {
        let top = tempfile::tempdir().unwrap();
        let [etc, lib] = ["etc", "lib"].map(|name| top.path().join(name));
        let write = |directory: &Path, path: &str, text: &str| {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("[Service]\n{text}\n")).unwrap();
        };
        let check = |unit: &str, expected: bool| {
            let found = may_restart(unit, &[etc.clone(), lib.clone()]);
            assert_eq!(found, expected, "{unit}");
        };
        check("unknown.service", true);
        write(&lib, "plain.service", "ExecStart=/bin/true");
        check("plain.service", false);
        write(&lib, "no.service", "Restart=no\n#Restart=always");
        check("no.service", false);
        write(&lib, "always.service", "Restart = always");
        check("always.service", true);
        write(&lib, "instance@.service", "Restart=on-failure");
        check("instance@1.service", true);
        write(&etc, "plain.service.d/own.conf", "Restart=on-abnormal");
        check("plain.service", true);
        write(&lib, "real.service", "");
        write(&lib, "real.service.d/own.conf", "Restart=always");
        symlink("real.service", lib.join("alias.service")).unwrap();
        check("alias.service", true);
        symlink("/dev/null", etc.join("masked.service")).unwrap();
        check("masked.service", false);
        write(&etc, "service.d/all.conf", "Restart=always");
        check("no.service", true);
    }
}
