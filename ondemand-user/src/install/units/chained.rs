//! Which applications start after that of another service: what can be said without asking PID 1, which waits for its
//! generators. Their proxies ask the agent, which knows it from PID 1.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
};

use ondemand_core::config::Config;

use crate::host::{small_file, unit_files::UnitFiles};

/// A longer file is none of a person's. Bytes.
const LONGEST: u64 = 1 << 20;

/// The keys that name units with which a unit has to do.
const RELATIONS: [&str; 8] = [
    "After",
    "Before",
    "Requires",
    "Requisite",
    "Wants",
    "BindsTo",
    "PartOf",
    "Upholds",
];

/// The names of the services whose units have that of another service in `After=`.
pub(super) fn chained<'a>(config: &'a Config, files: &UnitFiles) -> BTreeSet<&'a str> {
    naming(config, files, &["After"])
}

/// The names of the services whose units name that of another service in any way.
pub fn related<'a>(config: &'a Config, files: &UnitFiles) -> BTreeSet<&'a str> {
    naming(config, files, &RELATIONS)
}

fn naming<'a>(config: &'a Config, files: &UnitFiles, keys: &[&str]) -> BTreeSet<&'a str> {
    if config.services.len() < 2 {
        return BTreeSet::new();
    }
    let mut owners: HashMap<String, &str> = HashMap::new();
    for service in config.services.values() {
        owners.insert(files.canonical(&service.unit), &service.name);
    }
    let names_another = |unit: &str, name: &str| {
        named(unit, files, keys).iter().any(|other| {
            let owner = owners.get(&files.canonical(other));
            owner.is_some_and(|owner| *owner != name)
        })
    };
    let services = config.services.values();
    let naming = services.filter(|service| names_another(&service.unit, &service.name));
    naming.map(|service| service.name.as_str()).collect()
}

/// The units that a unit's files name with these keys.
fn named(unit: &str, files: &UnitFiles, keys: &[&str]) -> HashSet<String> {
    let own = files.canonical(unit);
    let mut found = HashSet::new();
    let template = own.split_once('@').map(|(it, _)| format!("{it}@.service"));
    let names = [Some(own.clone()), template];
    for path in names.iter().flatten().flat_map(|name| files.written(name)) {
        read(&path, keys, &mut found);
    }
    for directory in UnitFiles::drop_in_directories(&own) {
        let entries = files
            .written(&directory)
            .filter_map(|path| fs::read_dir(path).ok());
        for entry in entries.flatten().flatten() {
            read(&entry.path(), keys, &mut found);
        }
    }
    found
}

fn read(path: &Path, keys: &[&str], found: &mut HashSet<String>) {
    // What cannot be read says nothing.
    let text = small_file::read(path, LONGEST).unwrap_or_default();
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(line) = str::from_utf8(line) else {
            continue;
        };
        if let Some((key, units)) = line.split_once('=')
            && keys.contains(&key.trim())
        {
            found.extend(units.split_whitespace().map(str::to_owned));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_starts_after_another_service() {
        let top = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("[Unit]\n{text}\n")).unwrap();
        };
        write("db.service", "After=network.target db.service");
        symlink("db.service", top.path().join("sql.service")).unwrap();
        write(
            "web.service",
            "Wants=sql.service\nAfter = network.target sql.service",
        );
        write(
            "other.service",
            "#After=db.service\nAfterwards=db.service\nWants=db.service",
        );
        write("late.service", "");
        write("late.service.d/chain.conf", "After=web.service");
        let services = ["db", "web", "other", "late"].map(|name| {
            format!("[service.{name}]\nlisten = \"/run/{name}\"\nbackend = \"/run/{name}.b\"\nunit = \"{name}.service\"\n")
        });
        let config = Config::parse(Path::new("/test"), &services.concat()).unwrap();
        let files = UnitFiles::of([top.path()]);
        let sorted = |found: BTreeSet<&str>| found.into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(sorted(chained(&config, &files)), "late web");
        assert_eq!(sorted(related(&config, &files)), "late other web");
    }
}
