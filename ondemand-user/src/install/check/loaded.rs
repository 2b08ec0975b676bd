//! Whether PID 1 has loaded what the unit files say now. Then it need not be asked for what they say, which is what
//! takes time: some ten questions a service.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::host::unit_files::{DIRECTORIES, UnitFiles, is_generated};

/// The clock of file systems stands still for so long (a tick, at 100 of them a second).
const TICK: Duration = Duration::from_millis(10);

/// Made anew when PID 1 has loaded all units (`manager_ready()`, src/core/manager.c).
const READY: &str = "/run/systemd/systemd-units-load";

/// When PID 1 has loaded all units; `None`: unknown, or more is newer than single units.
pub struct Loaded(Option<Span>);

/// From the moment before it ran its generators to that when it had loaded what they made.
#[derive(Clone, Copy)]
struct Span {
    begin: SystemTime,
    end: SystemTime,
}

impl Loaded {
    /// Looks at what concerns all units: the directories in which they are looked for, where something may have been
    /// added or removed, and the configuration (`SourcePath=`). `begin`: when PID 1 began to load them.
    pub fn look(begin: Option<SystemTime>, config: &Path) -> Self {
        let span = begin.zip(changed(Path::new(READY)).ok());
        let span = span.map(|(begin, end)| Span { begin, end });
        let directories = DIRECTORIES.iter().map(Path::new);
        let mut all = directories.chain([config]);
        Self(span.filter(|span| all.all(|path| span.is_after(path).unwrap_or(true))))
    }

    /// Whether PID 1 has a unit as it is in its files. `false`: it must be asked.
    pub fn has(&self, unit: &str, files: &UnitFiles) -> bool {
        let Some(span) = self.0 else {
            return false;
        };
        let is_older = |path: &Path| span.is_after(path) == Some(true);
        let mut names = vec![unit.to_owned()];
        let own = files.canonical(unit);
        if own != unit {
            names.push(own);
        }
        let mut fragments = names.iter().flat_map(|name| files.all(name)).peekable();
        let drop_ins = || names.iter().flat_map(|name| files.drop_ins(name));
        fragments.peek().is_some()
            && fragments.all(|path| is_older(&path))
            && drop_ins().all(|directory| {
                let entries = fs::read_dir(&directory);
                let mut entries = entries.into_iter().flatten();
                is_older(&directory)
                    && entries.all(|entry| entry.is_ok_and(|entry| is_older(&entry.path())))
            })
    }
}

impl Span {
    /// Whether a file was as it is when it was loaded. `None`: it does not exist.
    fn is_after(&self, path: &Path) -> Option<bool> {
        match changed(path) {
            // Only generators change these, and PID 1 waits for them.
            Ok(changed) if is_generated(path) => Some(changed <= self.end),
            Ok(changed) => Some(changed + TICK < self.begin),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(false),
        }
    }
}

/// When a file was last changed: not its content, whose time whoever copies it may keep.
fn changed(path: &Path) -> io::Result<SystemTime> {
    let data = fs::metadata(path)?;
    let seconds = Duration::from_secs(data.ctime().unsigned_abs());
    let nanos = Duration::from_nanos(data.ctime_nsec().unsigned_abs());
    Ok(SystemTime::UNIX_EPOCH + seconds + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        for file in ["a.service", "b.service", "b.service.d/x.conf", "c.service"] {
            write(file);
        }
        std::os::unix::fs::symlink("c.service", dir.path().join("alias.service")).unwrap();
        let files = UnitFiles::of([dir.path()]);
        let at = |begin: SystemTime| Loaded(Some(Span { begin, end: begin }));
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let later = at(now + second);
        for unit in ["a.service", "b.service", "c.service", "alias.service"] {
            assert!(later.has(unit, &files), "{unit}");
            assert!(!Loaded(None).has(unit, &files), "{unit}");
        }
        assert!(!later.has("none.service", &files));
        assert!(!at(now - second).has("a.service", &files));
        // What was changed in the last moment before may have been changed after.
        let last = changed(&dir.path().join("c.service")).unwrap();
        assert!(!at(last + TICK / 2).has("c.service", &files));
        assert!(at(last + 2 * TICK).has("c.service", &files));
        let span = Span {
            begin: now,
            end: now,
        };
        assert_eq!(
            span.is_after(Path::new("/run/systemd/generator/none")),
            None
        );
    }
}
