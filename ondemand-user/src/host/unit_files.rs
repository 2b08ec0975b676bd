//! Names of units by the files in systemd's search path: which name is an alias of which (systemd.unit(5)).
//!
//! PID 1 knows better, but a generator cannot ask it, and neither can who writes a rule before the unit
//! is loaded.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// The search path of the system's manager, in its order (systemd.unit(5), "Unit File Load Path").
pub const DIRECTORIES: [&str; 13] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];
/// More links in a row are a loop.
const LONGEST_CHAIN: usize = 16;

/// The names in the search path, and the name that each link points to.
#[derive(Clone, Debug, Default)]
pub struct UnitFiles(HashMap<String, Option<String>>);

impl UnitFiles {
    /// Those of this host. What cannot be read is not there.
    pub fn here() -> Self {
        Self::of(DIRECTORIES)
    }

    /// Those in these directories, of which the first counts.
    pub fn of(directories: impl IntoIterator<Item = impl AsRef<Path>>) -> Self {
        let mut names = HashMap::new();
        for directory in directories {
            let Ok(entries) = fs::read_dir(directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if !name.ends_with(".service") || names.contains_key(&name) {
                    continue;
                }
                // Read from the directory; where it has no types, each one is looked at.
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                let link = (!is_file).then(|| fs::read_link(entry.path()).ok());
                let target = target(&name, link.flatten());
                names.insert(name, target);
            }
        }
        Self(names)
    }

    /// All names of services.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The unit's own name. It is `unit` where no link says otherwise.
    pub fn canonical(&self, unit: &str) -> String {
        let mut name = unit.to_owned();
        for _ in 0..LONGEST_CHAIN {
            match self.next(&name) {
                Some(next) => name = next,
                None => return name,
            }
        }
        unit.to_owned()
    }

    fn next(&self, name: &str) -> Option<String> {
        let Some((prefix, instance)) = parts(name) else {
            let target = self.0.get(name)?.as_deref()?;
            return parts(target).is_none().then(|| target.to_owned());
        };
        // A link from one template to another is one for each instance.
        let target = match self.0.get(name) {
            Some(target) => target.as_deref()?,
            None => self.0.get(&format!("{prefix}@.service"))?.as_deref()?,
        };
        // `unit_validate_alias_symlink_or_warn()`, src/shared/install.c: others are no aliases.
        match parts(target)? {
            (prefix, "") => Some(format!("{prefix}@{instance}.service")),
            (_, same) => (same == instance).then(|| target.to_owned()),
        }
    }
}

/// The name of the unit that a link of this name points to. `None`: it is no alias, but masked, or a unit
/// file elsewhere.
fn target(name: &str, link: Option<PathBuf>) -> Option<String> {
    let target = link?;
    let target = target.file_name()?.to_str()?;
    (target != name && target.ends_with(".service")).then(|| target.to_owned())
}

/// `prefix@instance.service` as prefix and instance, which is empty for a template. `None`: neither.
fn parts(name: &str) -> Option<(&str, &str)> {
    name.strip_suffix(".service")?.split_once('@')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_as_systemd_does() {
        let dir = tempfile::tempdir().unwrap();
        let [etc, lib] = ["etc", "lib"].map(|name| dir.path().join(name));
        for directory in [&etc, &lib] {
            fs::create_dir(directory).unwrap();
        }
        for file in ["mariadb.service", "pg@.service", "own.service"] {
            fs::write(lib.join(file), "").unwrap();
        }
        fs::write(etc.join("own.service"), "").unwrap();
        let link = |directory: &Path, name: &str, target: &str| {
            symlink(target, directory.join(name)).unwrap();
        };
        link(&etc, "mysql.service", "/lib/systemd/system/mariadb.service");
        link(&lib, "mysqld.service", "mysql.service");
        link(&lib, "own.service.x", "mariadb.service");
        link(&lib, "db@.service", "pg@.service");
        link(&etc, "main.service", "pg@main.service");
        link(&etc, "old@x.service", "pg@x.service");
        link(&etc, "old@y.service", "pg@x.service");
        link(&etc, "other@x.service", "pg@.service");
        link(&etc, "masked.service", "/dev/null");
        link(&etc, "linked.service", "/opt/linked.service");
        link(&etc, "round.service", "about.service");
        link(&etc, "about.service", "round.service");
        let files = UnitFiles::of([&etc, &lib]);
        #[track_caller]
        fn check(files: &UnitFiles, unit: &str, expected: &str) {
            assert_eq!(files.canonical(unit), expected);
        }
        check(&files, "mariadb.service", "mariadb.service");
        check(&files, "mysql.service", "mariadb.service");
        check(&files, "mysqld.service", "mariadb.service");
        check(&files, "own.service", "own.service");
        check(&files, "db@x.service", "pg@x.service");
        check(&files, "main.service", "main.service");
        check(&files, "old@x.service", "pg@x.service");
        check(&files, "old@y.service", "old@y.service");
        check(&files, "other@x.service", "pg@x.service");
        check(&files, "pg@x.service", "pg@x.service");
        check(&files, "masked.service", "masked.service");
        check(&files, "linked.service", "linked.service");
        check(&files, "round.service", "round.service");
        check(&files, "none.service", "none.service");
    }
}
