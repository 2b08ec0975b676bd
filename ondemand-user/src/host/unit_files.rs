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

/// Where generators of systemd put units (systemd.generator(7)).
const GENERATORS: &str = "/run/systemd/generator";

/// What is in the search path: read once, because each look at thirteen directories for each of a thousand
/// units takes longer than all else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFiles {
    /// The directories, each once.
    directories: Vec<PathBuf>,
    /// The entries by their names: in which directories they are, a bit for each.
    places: HashMap<String, u32>,
    /// The names of services, and the name that each link points to.
    services: HashMap<String, Option<String>>,
}

impl UnitFiles {
    /// Those of this host. What cannot be read is not there.
    pub fn here() -> Self {
        Self::of(DIRECTORIES)
    }

    /// Those in these directories, of which the first counts.
    pub fn of(directories: impl IntoIterator<Item = impl AsRef<Path>>) -> Self {
        let mut found = Self::default();
        let mut seen = Vec::new();
        for directory in directories {
            let directory = directory.as_ref();
            // /lib is /usr/lib on most hosts.
            let real = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
            if seen.contains(&real) {
                continue;
            }
            seen.push(real);
            let Ok(entries) = fs::read_dir(directory) else {
                continue;
            };
            let bit = 1 << found.directories.len();
            found.directories.push(directory.to_owned());
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if name.ends_with(".service") && !found.services.contains_key(&name) {
                    let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                    let link = is_link.then(|| fs::read_link(entry.path()).ok()).flatten();
                    found.services.insert(name.clone(), target(&name, link));
                }
                *found.places.entry(name).or_default() |= bit;
            }
        }
        found
    }

    /// All names of services.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// The paths of a file or directory of this name, of which the first counts.
    pub fn all(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let bits = self.places.get(name).copied().unwrap_or(0);
        let directories = self.directories.iter().enumerate();
        directories
            .filter(move |(index, _)| bits >> index & 1 == 1)
            .map(move |(_, directory)| directory.join(name))
    }

    /// The same without what generators have made, for one of them: PID 1 empties their directories before it runs
    /// them, and they all run at the same time.
    pub fn written(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.all(name).filter(|path| !is_generated(path))
    }

    /// The directories with drop-ins for a unit, those for all of its type included.
    pub fn drop_ins(&self, unit: &str) -> Vec<PathBuf> {
        let mut names = Self::drop_in_directories(unit);
        names.extend(unit.rsplit_once('.').map(|(_, kind)| format!("{kind}.d")));
        names.iter().flat_map(|name| self.all(name)).collect()
    }

    /// The names of the directories with drop-ins for a unit of this name (systemd.unit(5)), but for that of its
    /// type: its own, its template's, and those of its prefixes.
    pub fn drop_in_directories(unit: &str) -> Vec<String> {
        let mut found = vec![format!("{unit}.d")];
        let Some((stem, kind)) = unit.rsplit_once('.') else {
            return found;
        };
        let stem = match stem.split_once('@') {
            Some((template, _)) => {
                found.push(format!("{template}@.{kind}.d"));
                template
            }
            None => stem,
        };
        let dashes = stem.match_indices('-').map(|(at, _)| &stem[..=at]);
        let prefixes = dashes.filter(|prefix| prefix.len() < stem.len());
        found.extend(prefixes.map(|prefix| format!("{prefix}.{kind}.d")));
        found
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
            let target = self.services.get(name)?.as_deref()?;
            return parts(target).is_none().then(|| target.to_owned());
        };
        // A link from one template to another is one for each instance.
        let target = match self.services.get(name) {
            Some(target) => target.as_deref()?,
            None => self
                .services
                .get(&format!("{prefix}@.service"))?
                .as_deref()?,
        };
        // `unit_validate_alias_symlink_or_warn()`, src/shared/install.c: others are no aliases.
        match parts(target)? {
            (prefix, "") => Some(format!("{prefix}@{instance}.service")),
            (_, same) => (same == instance).then(|| target.to_owned()),
        }
    }
}

/// Whether a path is one that generators make.
pub fn is_generated(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    path.starts_with(GENERATORS.as_bytes())
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
        let places = |name: &str| files.all(name).collect::<Vec<_>>();
        assert_eq!(
            places("own.service"),
            [etc.join("own.service"), lib.join("own.service")]
        );
        assert_eq!(places("pg@.service"), [lib.join("pg@.service")]);
        assert!(places("none.service").is_empty());
        // A directory by another name is no other.
        let again = dir.path().join("again");
        symlink(&lib, &again).unwrap();
        assert_eq!(UnitFiles::of([&etc, &lib, &again]), files);
    }

    #[test]
    fn where_drop_ins_are() {
        #[track_caller]
        fn check(unit: &str, expected: &[&str]) {
            assert_eq!(UnitFiles::drop_in_directories(unit), expected, "{unit}");
        }
        check("a.service", &["a.service.d"]);
        check(
            "a-b-c.socket",
            &["a-b-c.socket.d", "a-.socket.d", "a-b-.socket.d"],
        );
        check("a-.socket", &["a-.socket.d"]);
        check(
            "a-b@c-d.service",
            &["a-b@c-d.service.d", "a-b@.service.d", "a-.service.d"],
        );
        check("none", &["none.d"]);
    }
}
