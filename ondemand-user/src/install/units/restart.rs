//! Whether systemd restarts an application by itself: what can be said without asking PID 1, which waits for
//! its generators.

use std::{fs, io, path::Path};

use crate::host::{small_file, unit_files::UnitFiles};

/// A longer file is none of a person's. Bytes.
const LONGEST: u64 = 1 << 20;

/// Whether drop-ins for all services have `Restart=`.
pub(super) fn all_may_restart(files: &UnitFiles) -> bool {
    drop_ins_have_restart("service.d", files)
}

/// Whether the files of `unit` itself have `Restart=`. A unit that is not found may have it: other generators make
/// units, too.
pub(super) fn may_restart(unit: &str, files: &UnitFiles) -> bool {
    // An alias is a link to the unit, whose drop-ins count, too.
    let own = files.canonical(unit);
    let mut is_there = false;
    let mut names: Vec<String> = [unit, &own].map(str::to_owned).into();
    names.extend([unit, &own].iter().filter_map(|unit| template(unit)));
    names.sort();
    names.dedup();
    for path in names.iter().flat_map(|name| files.written(name)) {
        match has_restart(&path) {
            Some(true) => return true,
            Some(false) => is_there = true,
            None => {}
        }
    }
    let mut directories: Vec<String> = [unit, &own]
        .into_iter()
        .flat_map(UnitFiles::drop_in_directories)
        .collect();
    directories.dedup();
    !is_there
        || directories
            .iter()
            .any(|directory| drop_ins_have_restart(directory, files))
}

fn template(unit: &str) -> Option<String> {
    let (template, _) = unit.split_once('@')?;
    Some(format!("{template}@.service"))
}

fn drop_ins_have_restart(directory: &str, files: &UnitFiles) -> bool {
    let entries = files
        .written(directory)
        .filter_map(|path| fs::read_dir(path).ok());
    let mut entries = entries.flatten().flatten();
    entries.any(|entry| has_restart(&entry.path()) == Some(true))
}

/// `None`: there is no such file.
fn has_restart(path: &Path) -> Option<bool> {
    let text = match small_file::read(path, LONGEST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => Vec::new(),
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    Some(lines.any(|line| {
        line.trim_ascii_start().starts_with(b"Restart")
            && String::from_utf8_lossy(line)
                .split_once('=')
                .is_some_and(|(key, value)| {
                    key.trim() == "Restart" && !["", "no"].contains(&value.trim())
                })
    }))
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
            let files = UnitFiles::of([&etc, &lib]);
            let found = all_may_restart(&files) || may_restart(unit, &files);
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
        write(&lib, "one-two.service", "");
        check("one-two.service", false);
        write(&etc, "one-.service.d/own.conf", "Restart=always");
        check("one-two.service", true);
        symlink("nowhere.service", etc.join("dangling.service")).unwrap();
        check("dangling.service", true);
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
