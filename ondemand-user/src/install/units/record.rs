//! What the generator wrote since the boot, and which of it is in force.
//!
//! A drop-in with `StopWhenUnneeded=yes` for a unit that runs while nothing needs it makes PID 1 stop it
//! at the same daemon-reload, under its clients. So a service that runs is taken in by two reloads: the
//! first one brings its lease, then somebody takes the lease ([`crate::install::settle`]), and the
//! second one brings `StopWhenUnneeded=yes`. The record says which services have come so far.
//!
//! The units of a service that is no longer configured go on existing, without the drop-in: PID 1 would
//! close its front socket under its clients. They end with the boot, or when they are let go.

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use ondemand_core::config::{Config, Endpoint, Service};

use super::{
    Content, UnitFile,
    kept::{self, Kept},
};
use crate::{
    host::{atomic_file, small_file, unit_files::UnitFiles},
    kernel::sockets::listening::is_listening,
};

/// Its usual place. Only root can write there.
const DIRECTORY: &str = "/run/ondemand-generator/services";

/// Where PID 1 has a link for each unit that has run a program and is not inactive
/// (`unit_export_invocation_id`, src/core/unit.c), by its `Id`.
const RUNNING: &str = "/run/systemd/units";

/// The unit of the service, and when it came into the configuration.
const ENTRY: &str = "unit";
/// An entry is shorter. Bytes.
const LONGEST: u64 = 64 << 10;
/// A copy of the entry, if PID 1 may stop the unit when nothing needs it.
const HELD: &str = "held";
/// The kinds of units that go on existing without a configuration.
const KINDS: [&str; 4] = ["socket", "service", "target", "timer"];

/// The record of this boot.
#[derive(Clone, Debug)]
pub struct Record {
    directory: PathBuf,
    running: PathBuf,
    /// Whether a socket listens at this address.
    listens: fn(&Endpoint) -> bool,
}

/// A service of the record. An entry that was replaced meanwhile has another text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The application's unit.
    pub unit: String,
    text: String,
}

impl Record {
    /// That of this host.
    pub fn here() -> Self {
        Self {
            directory: DIRECTORY.into(),
            running: RUNNING.into(),
            // One that cannot be looked at may be there.
            listens: |endpoint| is_listening(endpoint).unwrap_or(true),
        }
    }

    #[cfg(test)]
    pub(super) fn below(directory: &std::path::Path) -> Self {
        Self {
            directory: directory.join("services"),
            running: directory.join("running"),
            listens: |_| true,
        }
    }

    /// The recorded services, configured or not.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The recorded services that are not configured any more.
    pub fn left(&self, config: &Config) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| !config.services.contains_key(name));
        names
    }

    /// A service's entry.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        let text = small_file::read(&self.directory.join(name).join(ENTRY), LONGEST).ok()?;
        let text = String::from_utf8(text).ok()?;
        let unit = text.lines().next()?.to_owned();
        Some(Entry { unit, text })
    }

    /// Whether PID 1 may stop the unit when nothing needs it: once it has known the lease while the unit
    /// was down, or while the lease was held.
    pub fn is_held(&self, name: &str, unit: &str) -> bool {
        let entry = self.entry(name).filter(|entry| entry.unit == unit);
        entry.is_some_and(|entry| self.is_of(name, &entry))
    }

    /// Records that. Without effect if the entry was replaced meanwhile.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn hold(&self, name: &str, entry: &Entry) -> io::Result<()> {
        self.put(name, HELD, &entry.text)
    }

    /// Removes a service whose units are gone.
    pub fn forget(&self, name: &str) {
        // A rest of it is found at the next look.
        let _ = fs::remove_dir_all(self.directory.join(name));
    }

    /// The addresses of a service's front socket, as the last generated unit has them.
    pub fn listens(&self, name: &str) -> Vec<String> {
        let kept = self.kept().read();
        let socket = self.unit(
            name,
            &format!("ondemand-{name}.socket"),
            &kept::units(&kept),
        );
        addresses(&socket.unwrap_or_default())
    }

    /// The units of the last run.
    pub(super) fn kept(&self) -> Kept {
        Kept::beside(&self.directory)
    }

    /// The text of a service's unit, as the last run wrote it.
    fn unit(&self, name: &str, unit: &str, units: &HashMap<&str, &str>) -> Option<String> {
        match units.get(unit) {
            Some(text) => Some((*text).to_owned()),
            None => fs::read_to_string(self.directory.join(name).join(unit)).ok(),
        }
    }

    /// Records the services that are about to be generated, and leaves `StopWhenUnneeded=yes` out for
    /// those that PID 1 would stop because of it. Returns an error for each that could not be recorded.
    pub(super) fn enter(
        &self,
        config: &Config,
        files: &mut [UnitFile],
        unit_files: &UnitFiles,
    ) -> Vec<(String, io::Error)> {
        let mut errors = Vec::new();
        let mut entering = Vec::new();
        for service in config.services.values() {
            let held = self.admit(service, unit_files).unwrap_or_else(|error| {
                errors.push((service.name.clone(), error));
                false
            });
            if !held {
                entering.push(service);
            }
        }
        super::leave_out_stop(entering, files);
        errors
    }

    fn admit(&self, service: &Service, files: &UnitFiles) -> io::Result<bool> {
        let Service { name, unit, .. } = service;
        let entry = self.entry(name).filter(|entry| entry.unit == *unit);
        match &entry {
            Some(entry) if self.is_of(name, entry) => return Ok(true),
            Some(_) => {}
            None => self.write_entry(name, unit)?,
        }
        let runs = self.runs(unit, files);
        if !runs && let Some(entry) = entry.or_else(|| self.entry(name)) {
            // Whoever starts it from now on takes the lease.
            self.hold(name, &entry)?;
        }
        Ok(!runs)
    }

    /// Whether the service is held, by this entry of it.
    fn is_of(&self, name: &str, entry: &Entry) -> bool {
        let held = small_file::read(&self.directory.join(name).join(HELD), LONGEST);
        held.is_ok_and(|held| held == entry.text.as_bytes())
    }

    /// Whether PID 1 has started a program of this unit that is not inactive. A generator cannot ask PID 1,
    /// which waits for it.
    fn runs(&self, unit: &str, files: &UnitFiles) -> bool {
        let has = |name: &str| {
            let link = self.running.join(format!("invocation:{name}"));
            link.symlink_metadata().is_ok()
        };
        has(unit) || has(&files.canonical(unit))
    }

    /// The units of all recorded services but those that are `configured`, as long as their front sockets are
    /// open. Their applications are no longer stopped.
    pub(super) fn leave(&self, configured: impl Fn(&str) -> bool) -> Vec<UnitFile> {
        let mut files = Vec::new();
        let mut names = self.names();
        names.retain(|name| !configured(name));
        if names.is_empty() {
            return files;
        }
        let kept = self.kept().read();
        let units = kept::units(&kept);
        for name in names {
            let Some(entry) = self.entry(&name) else {
                continue;
            };
            let text = |unit: &str| self.unit(&name, unit, &units);
            let socket = text(&format!("ondemand-{name}.socket")).unwrap_or_default();
            let mut fronts = addresses(&socket).into_iter();
            if !fronts.any(|front| front.parse().is_ok_and(|front| (self.listens)(&front))) {
                // Its front socket is down.
                self.forget(&name);
                continue;
            }
            // Its drop-in is gone from now on: whoever starts the unit takes no lease. A new entry, so that
            // nobody who still looks at this one takes the service for held when it comes back.
            let held = self.directory.join(&name).join(HELD);
            if fs::remove_file(held).is_ok() {
                // On an error the entry stays as it is, and nothing is held.
                let _ = self.write_entry(&name, &entry.unit);
            }
            files.extend(KINDS.iter().filter_map(|kind| {
                let unit = format!("ondemand-{name}.{kind}");
                let content = Content::Text(text(&unit)?);
                let path = unit.into();
                Some(UnitFile { path, content })
            }));
        }
        files
    }

    fn write_entry(&self, name: &str, unit: &str) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        self.put(name, ENTRY, &format!("{unit}\n{now}\n"))
    }

    fn put(&self, name: &str, file: &str, text: &str) -> io::Result<()> {
        let directory = self.directory.join(name);
        let path = directory.join(file);
        if fs::read(&path).is_ok_and(|now| now == text.as_bytes()) {
            return Ok(());
        }
        kept::make_private(&directory)?;
        atomic_file::replace(&path, text.as_bytes(), 0o600)
    }
}

/// The addresses of a front socket, by the text of its unit.
fn addresses(socket: &str) -> Vec<String> {
    socket
        .lines()
        .filter_map(|line| line.strip_prefix("ListenStream="))
        .map(|address| address.replace("%%", "%"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::{
        super::{
            files,
            tests::{machine, wiki},
        },
        *,
    };

    fn drop_in(files: &[UnitFile]) -> &str {
        let path = std::path::Path::new("wiki.service.d/50-ondemand.conf");
        match files.iter().find(|file| file.path == path) {
            Some(UnitFile {
                content: Content::Text(text),
                ..
            }) => text,
            other => panic!("{other:?}"),
        }
    }

    /// One run of the generator.
    fn generate(record: &Record, config: &Config) -> (bool, Vec<PathBuf>) {
        let mut files = files(config, &machine()).unwrap();
        let unit_files = UnitFiles::default();
        assert!(record.enter(config, &mut files, &unit_files).is_empty());
        let left = record.leave(|name| config.services.contains_key(name));
        record.kept().keep(files.iter().chain(&left)).unwrap();
        let stops = config.services.contains_key("wiki")
            && drop_in(&files).contains("\nStopWhenUnneeded=yes\n");
        (stops, left.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_unit_that_runs_is_not_stopped_before_it_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::below(directory.path());
        let config = wiki("");
        let running = directory.path().join("running");
        fs::create_dir(&running).unwrap();
        let link = running.join("invocation:wiki.service");
        symlink("0123", &link).unwrap();
        assert_eq!(generate(&record, &config), (false, vec![]));
        let early = record.entry("wiki").unwrap();
        assert_eq!(early.unit, "wiki.service");
        record.hold("wiki", &early).unwrap();
        assert_eq!(generate(&record, &config), (true, vec![]));

        // Removed and added again while it runs: from the beginning.
        let none = Config {
            services: Default::default(),
            ..config.clone()
        };
        let own = ["socket", "service", "target", "timer"]
            .map(|kind| format!("ondemand-wiki.{kind}").into());
        assert_eq!(generate(&record, &none), (false, own.to_vec()));
        assert_eq!(record.left(&none), ["wiki"]);
        assert_eq!(record.listens("wiki"), ["0.0.0.0:80", "[::]:80"]);
        // Somebody who began before is too late.
        record.hold("wiki", &early).unwrap();
        assert_eq!(generate(&record, &config), (false, vec![]));

        // With its front socket down nothing is left of it.
        let closed = Record {
            listens: |_| false,
            ..record.clone()
        };
        assert_eq!(generate(&closed, &none), (false, vec![]));
        assert!(record.names().is_empty());
        assert_eq!(generate(&record, &config), (false, vec![]));

        // Down: the next start takes the lease.
        fs::remove_file(&link).unwrap();
        assert_eq!(generate(&record, &config), (true, vec![]));
        symlink("4567", &link).unwrap();
        assert_eq!(generate(&record, &config), (true, vec![]));
        record.forget("wiki");
        assert_eq!(record.names(), Vec::<String>::new());
    }

    #[test]
    fn units_that_an_earlier_version_kept_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::below(directory.path());
        generate(&record, &wiki(""));
        let kept = directory.path().join(kept::FILE);
        let text = fs::read_to_string(&kept).unwrap();
        let all = kept::units(&text);
        assert_eq!(all.len(), 1 + KINDS.len());
        for (unit, text) in &all {
            record.put("wiki", unit, text).unwrap();
        }
        fs::remove_file(&kept).unwrap();
        assert_eq!(record.listens("wiki"), ["0.0.0.0:80", "[::]:80"]);
        let left = record.leave(|_| false);
        assert_eq!(left.len(), KINDS.len());
        record.kept().keep(&left).unwrap();
        let again = fs::read_to_string(&kept).unwrap();
        assert_eq!(kept::units(&again), all);
        // Written once for the same units.
        let written = fs::metadata(&kept).unwrap().ino();
        record.kept().keep(&left).unwrap();
        assert_eq!(fs::metadata(&kept).unwrap().ino(), written);
        record.kept().keep(&left[1..]).unwrap();
        assert_ne!(fs::metadata(&kept).unwrap().ino(), written);
        // What was cut off is not there, whatever its heading says.
        let cut = &text[..text.len() - 1];
        assert_eq!(kept::units(cut).len(), KINDS.len());
        assert!(kept::units("").is_empty() && kept::units("x\n").is_empty());
    }

    #[test]
    fn another_unit_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::below(directory.path());
        let running = directory.path().join("running");
        fs::create_dir(&running).unwrap();
        assert!(generate(&record, &wiki("")).0);
        let mut other = wiki("");
        other.services.get_mut("wiki").unwrap().unit = "docs.service".into();
        symlink("0", running.join("invocation:docs.service")).unwrap();
        let mut made = files(&other, &machine()).unwrap();
        record.enter(&other, &mut made, &UnitFiles::default());
        assert!(!record.is_held("wiki", "docs.service"));
        assert!(!record.is_held("wiki", "wiki.service"));
    }

    #[test]
    fn what_cannot_be_recorded_is_not_stopped() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("services"), "").unwrap();
        let record = Record::below(directory.path());
        let config = wiki("");
        let mut made = files(&config, &machine()).unwrap();
        let errors = record.enter(&config, &mut made, &UnitFiles::default());
        assert_eq!(errors.len(), 1);
        assert!(!drop_in(&made).contains("\nStopWhenUnneeded"));
    }

    #[test]
    fn a_unit_runs_under_its_own_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let record = Record::below(at);
        let running = at.join("running");
        fs::create_dir(&running).unwrap();
        for own in ["mariadb.service", "app@one.service"] {
            symlink("0", running.join(format!("invocation:{own}"))).unwrap();
        }
        fs::write(at.join("mariadb.service"), "").unwrap();
        symlink("mariadb.service", at.join("mysqld.service")).unwrap();
        symlink("/x/mysqld.service", at.join("mysql.service")).unwrap();
        // A template that is an alias of another is one for each instance.
        fs::write(at.join("app@.service"), "").unwrap();
        symlink("app@.service", at.join("web@.service")).unwrap();
        symlink("loop.service", at.join("loop.service")).unwrap();
        let files = UnitFiles::of([at]);
        let check = |unit: &str, expected: bool| {
            assert_eq!(record.runs(unit, &files), expected, "{unit}");
        };
        check("mysql.service", true);
        check("mysqld.service", true);
        check("mariadb.service", true);
        check("web@one.service", true);
        check("web@two.service", false);
        check("loop.service", false);
    }
}
