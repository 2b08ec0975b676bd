//! Whether the configuration is there when systemd runs its generators, which is before it mounts anything: only
//! what the initrd has mounted is there (bootup(7)), that is the root file system, /usr, and what has
//! `x-initrd.mount` among its options (systemd.mount(5)). PID 1 itself needs /etc by then.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ondemand_core::config::{Config, DEFAULT_PATH};

use super::finding::Finding;
use crate::{host::unit_files::DIRECTORIES, install::units::last_good};

/// Always there.
const EARLY: [&str; 3] = ["/", "/etc", "/usr"];

/// A mount that systemd makes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    place: PathBuf,
    /// Whether the initrd makes it.
    by_initrd: bool,
}

/// The file system of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    /// It is there when generators run.
    Early,
    /// It is mounted at this place later.
    Late(PathBuf),
    /// It is to be mounted at this place, and is not.
    Absent(PathBuf),
}

/// Warns if the configuration is on a file system that is mounted later.
pub fn look(config: &Config) -> Option<Finding> {
    const WHAT: &str = "mounts";
    if config.path != Path::new(DEFAULT_PATH) {
        return None;
    }
    let mounted = mounted(&fs::read_to_string("/proc/self/mountinfo").ok()?);
    let declared = declared();
    let in_container = Path::new("/run/systemd/container").exists();
    let home = |path: &Path| home(&resolved(path), &mounted, &declared, in_container);
    let (place, what) = match home(&config.path) {
        Home::Early => return None,
        Home::Late(place) => {
            let what = "is mounted after systemd has run its generators";
            (place, what)
        }
        Home::Absent(place) => (place, "is not mounted"),
    };
    let state = Path::new(last_good::STATE);
    let copy = match home(state) {
        Home::Early if !state.join(last_good::FILE).exists() => format!(
            "no service is on demand, because there is no copy in {} yet",
            last_good::STATE
        ),
        Home::Early => format!(
            "the units are made from the copy in {}, that of the last correct configuration before",
            last_good::STATE
        ),
        Home::Late(other) | Home::Absent(other) => format!(
            "no service is on demand, because the copy in {} is on {}, which is not mounted by then either",
            last_good::STATE,
            other.display()
        ),
    };
    let place = place.display();
    Some(Finding::warning(
        WHAT,
        format!(
            "{} is on {place}, which {what}: at a boot {copy}, until `systemctl daemon-reload`",
            config.path.display()
        ),
        format!(
            "keep it on the root file system, or add x-initrd.mount to the options of {place} in /etc/fstab (and make \
             the initrd anew)"
        ),
    ))
}

/// `path` without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let known = path
        .ancestors()
        .find_map(|there| Some((there, fs::canonicalize(there).ok()?)));
    match known {
        Some((there, real)) => match path.strip_prefix(there) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_owned(),
    }
}

fn home(path: &Path, mounted: &[PathBuf], declared: &[Declared], in_container: bool) -> Home {
    let deepest = |places: &mut dyn Iterator<Item = &PathBuf>| {
        let around = places.filter(|place| path.starts_with(place));
        around
            .max_by_key(|place| place.components().count())
            .cloned()
    };
    let mount = deepest(&mut mounted.iter()).unwrap_or_else(|| "/".into());
    let mut planned = declared.iter().map(|mount| &mount.place);
    if let Some(place) = deepest(&mut planned)
        && place.starts_with(&mount)
        && place != mount
    {
        return Home::Absent(place);
    }
    let plan = declared.iter().find(|it| it.place == mount);
    let is_early = match plan {
        _ if EARLY.iter().any(|early| mount == Path::new(early)) => true,
        Some(plan) => plan.by_initrd,
        // A container's mounts are made before its PID 1 starts.
        None => in_container,
    };
    match is_early {
        true => Home::Early,
        false => Home::Late(mount),
    }
}

/// The places of mounts, of text as in proc_pid_mountinfo(5).
fn mounted(mountinfo: &str) -> Vec<PathBuf> {
    let places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    places.map(|place| unescape(place).into()).collect()
}

/// What systemd is to mount: the entries of fstab(5), and the mount units.
fn declared() -> Vec<Declared> {
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    let mut found: Vec<_> = fstab.lines().filter_map(of_fstab).collect();
    let units = DIRECTORIES
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok());
    let units = units.flatten().flatten().map(|entry| entry.path());
    let mounts = units.filter(|path| path.extension().is_some_and(|kind| kind == "mount"));
    found.extend(mounts.filter_map(|path| of_unit(&fs::read_to_string(path).ok()?)));
    found
}

fn of_fstab(line: &str) -> Option<Declared> {
    let mut fields = line.split_whitespace();
    let what = fields.next().filter(|what| !what.starts_with('#'))?;
    let (place, _, options) = (fields.next()?, fields.next()?, fields.next().unwrap_or(""));
    let has = |option| options.split(',').any(|it| it == option);
    (place.starts_with('/') && what != "none" && !has("noauto")).then(|| Declared {
        place: unescape(place).into(),
        by_initrd: has("x-initrd.mount"),
    })
}

fn of_unit(text: &str) -> Option<Declared> {
    let value = |key: &str| {
        let lines = text.lines().map(str::trim);
        let mut values =
            lines.filter_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
        values.next_back().map(str::trim)
    };
    let options = value("Options").unwrap_or_default();
    Some(Declared {
        place: value("Where")
            .filter(|place| place.starts_with('/'))?
            .into(),
        by_initrd: options.split(',').any(|it| it.trim() == "x-initrd.mount"),
    })
}

/// Spaces and the like are octal numbers after a backslash in both files.
fn unescape(place: &str) -> String {
    let mut parts = place.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                bytes.extend(&part.as_bytes()[3..]);
            }
            None => {
                bytes.push(b'\\');
                bytes.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_when_generators_run() {
        #[track_caller]
        fn check(mounts: &[&str], fstab: &str, in_container: bool, expected: &str) {
            let mountinfo: String = mounts
                .iter()
                .map(|place| format!("36 35 98:0 / {place} rw,noatime master:1 - ext4 /dev/x rw\n"))
                .collect();
            let declared: Vec<_> = fstab.lines().filter_map(of_fstab).collect();
            let path = Path::new("/etc/ondemand/ondemand.toml");
            let home = home(path, &mounted(&mountinfo), &declared, in_container);
            assert_eq!(format!("{home:?}"), expected);
        }
        let late = "Late(\"/etc/ondemand\")";
        check(&["/", "/etc/ond"], "", false, "Early");
        check(&["/", "/etc"], "/dev/x /etc ext4 ro 0 1", false, "Early");
        check(&["/", "/etc/ondemand"], "", false, late);
        // By the container's manager.
        check(&["/", "/etc/ondemand"], "", true, "Early");
        let entry = "# a comment\n/dev/x /etc/ondemand ext4 ro,nofail 0 2";
        check(&["/", "/etc/ondemand"], entry, true, late);
        check(&["/"], entry, false, "Absent(\"/etc/ondemand\")");
        check(&["/"], &entry.replace("nofail", "noauto"), false, "Early");
        let early = entry.replace("nofail", "x-initrd.mount");
        check(&["/", "/etc/ondemand"], &early, false, "Early");
        // The file alone, and the part above it.
        check(
            &["/", "/etc/ondemand", "/etc/ondemand/ondemand.toml"],
            &early,
            false,
            "Late(\"/etc/ondemand/ondemand.toml\")",
        );
    }

    #[test]
    fn mount_units() {
        let unit = "[Unit]\nBefore=x\n[Mount]\nWhat=/dev/x\nWhere = /etc/ondemand\nOptions=ro,x-initrd.mount\n";
        let found = of_unit(unit).unwrap();
        assert_eq!(found.place, Path::new("/etc/ondemand"));
        assert!(found.by_initrd);
        assert!(
            !of_unit(&unit.replace("x-initrd", "x-other"))
                .unwrap()
                .by_initrd
        );
        assert_eq!(of_unit("[Mount]\nWhat=/dev/x\n"), None);
        assert_eq!(unescape("/a\\040b\\134"), "/a b\\");
        assert_eq!(unescape("/a\\9"), "/a\\9");
    }
}
