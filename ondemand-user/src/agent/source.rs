//! The configuration's file: what of it is in force, and what is in force instead of one that is wrong.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Error, Result};
use jiff::Timestamp;
use nix::unistd::geteuid;
use ondemand_core::{
    config::{Config, DEFAULT_PATH},
    lifecycle::JobEnd,
};
use tokio::sync::Mutex;

use super::{Agent, events::Message};
use crate::{
    bus::{Reply, report},
    host::{
        atomic_file::{self, Store},
        clock, config_file,
        unit_files::UnitFiles,
    },
    install::{
        permission::rule,
        units::{
            generator,
            last_good::{self, Copy},
        },
    },
    observe::metrics::Configuration,
};

/// The agent's own copy of what it has applied, beside the holds. Nothing of root's reads it.
const APPLIED: &str = "applied.toml";
/// How long an agent without any valid configuration waits for a correction before it exits. systemd
/// starts the next one, so this is also how often the error is logged.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the file is looked at meanwhile: one that does not exist, or may not be read, sends no events.
const LOOK: Duration = Duration::from_millis(250);

/// What differs when a file was written, replaced, or given to another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    /// Those of a configuration: of its main file, of the directory of the others, and of these. One that is missing,
    /// or cannot be looked at, is none.
    fn all(path: &Path) -> Vec<Option<Self>> {
        let directory = config_file::parts_directory(path);
        let parts = config_file::parts(path).unwrap_or_default();
        let files = [path.to_owned(), directory].into_iter().chain(parts);
        files.map(|file| Self::of(&file)).collect()
    }

    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// The file, and what is in force.
pub(super) struct Source {
    path: PathBuf,
    /// The file's text at the last reading, if it could be read.
    seen: Option<String>,
    /// Which files these were.
    identity: Vec<Option<Identity>>,
    /// When what is in force was read last; of a copy, when it was written.
    read_at: SystemTime,
    /// The copy that is in force since the agent's start.
    copy: Option<String>,
    /// Why the file is not in force.
    wrong: Option<String>,
    /// What systemd's generator has made the units of instead of the file.
    units: Option<String>,
    applied: Store,
    /// Held while the permissions are renewed: the next renewal reads what this one may have missed.
    renewing: Arc<Mutex<()>>,
}

impl Source {
    /// Reads the configuration at the agent's start: that of the file, or of the last valid one.
    ///
    /// # Errors
    ///
    /// The file is wrong, and there is no copy.
    pub fn open(path: &Path) -> Result<(Self, Config)> {
        let mut source = Self {
            path: path.to_owned(),
            seen: None,
            identity: Vec::new(),
            read_at: SystemTime::now(),
            copy: None,
            wrong: None,
            units: None,
            applied: Store::new(atomic_file::path().with_file_name(APPLIED)),
            renewing: Arc::default(),
        };
        source.look_at_units();
        let config = source
            .read(None)
            .or_else(|error| source.fall_back(error.into()))?;
        Ok((source, config))
    }

    /// Reads the file. It is not in force yet. `present` is, if any.
    pub fn read(
        &mut self,
        present: Option<&Config>,
    ) -> Result<Config, ondemand_core::config::Error> {
        self.seen = None;
        self.identity = Identity::all(&self.path);
        let text = self.seen.insert(config_file::text(&self.path)?);
        let config = config_file::parse(&self.path, text)?;
        // What the units' names mean is looked up in the directories of unit files. If they are the same, PID 1 tells
        // of what has changed about them (`aliases`).
        match present {
            Some(present) if present.units().eq(config.units()) => Ok(config),
            _ => config_file::judge(config, &UnitFiles::here()),
        }
    }

    /// Looks at what the generator reports of its last run.
    pub fn look_at_units(&mut self) {
        self.units = match self.path == Path::new(DEFAULT_PATH) {
            true => generator::reported(),
            false => None,
        };
    }

    /// Whether the file has to be read again: its text is another one, or it was wrong.
    pub fn has_changed(&mut self) -> bool {
        let identity = Identity::all(&self.path);
        if self.wrong.is_some() || config_file::text(&self.path).ok() != self.seen {
            return true;
        }
        // Another file, or one that was written again, with the same text.
        self.identity = identity;
        false
    }

    /// Returns the last valid configuration instead of one that is wrong, or the error.
    pub fn fall_back(&mut self, error: Error) -> Result<Config> {
        let Some(copy) = self.older() else {
            return Err(error);
        };
        log::error!(
            "an OLDER configuration is in force, {}, because the present one cannot be used: {error:#}",
            copy.words()
        );
        self.copy = Some(copy.words());
        self.read_at = copy.written.unwrap_or(UNIX_EPOCH);
        self.refuse(&error);
        Ok(copy.config)
    }

    /// What was applied last, or else what root keeps for the generator, if that may be read.
    fn older(&self) -> Option<Copy> {
        if self.path != Path::new(DEFAULT_PATH) {
            return None;
        }
        let file = self.applied.path();
        let own = || {
            let text = config_file::copied(file).ok()?;
            let config = config_file::parse(&self.path, &text).ok()?;
            Some(Copy {
                config,
                text,
                file: file.to_owned(),
                written: fs::metadata(file).and_then(|data| data.modified()).ok(),
            })
        };
        own().or_else(|| last_good::find(&self.path))
    }

    /// The file is in force from now on, as it was read last.
    pub fn accept(&mut self) {
        self.read_at = SystemTime::now();
        self.copy = None;
        self.wrong = None;
    }

    /// The file is not in force.
    pub fn refuse(&mut self, error: &Error) {
        self.wrong = Some(format!("{error:#}"));
    }

    /// Copies the text that is in force.
    fn keep(&mut self) {
        let Some(text) = self.seen.clone() else {
            return;
        };
        if self.path != Path::new(DEFAULT_PATH)
            || fs::read(self.applied.path()).is_ok_and(|kept| kept == text.as_bytes())
        {
            return;
        }
        let save = self.applied.save(text);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = save() {
                log::warn!("could not keep a copy of the configuration: {error:#}");
            }
        });
    }

    /// Why the file is not in force, and what is, on one line; `None`: it is.
    pub fn trouble(&self) -> Option<String> {
        // After each event, for the line of the agent's state.
        if self.is_in_force() {
            return None;
        }
        self.report().trouble()
    }

    /// For `ondemand status`.
    pub fn report(&self) -> report::Configuration {
        let read_at = Timestamp::try_from(self.read_at).ok();
        report::Configuration {
            path: self.path.display().to_string(),
            last_reload_successful: self.is_in_force(),
            last_reload_success: read_at.map(|at| at.to_string()),
            error: self.wrong.clone(),
            units_error: self.units.clone(),
            changed: Identity::all(&self.path) != self.identity,
            copy: self.copy.clone(),
        }
    }

    /// For the metrics.
    pub fn observe(&self) -> Configuration {
        let read_at = self.read_at.duration_since(UNIX_EPOCH).ok();
        Configuration {
            last_reload_successful: self.is_in_force(),
            last_reload_success: read_at.map(|at| at.as_secs_f64()),
        }
    }

    /// Whether the file is what the agent and systemd's units follow.
    fn is_in_force(&self) -> bool {
        self.wrong.is_none() && self.units.is_none()
    }
}

impl Agent {
    /// Has PID 1 renew the agent's permissions, which takes root, and then reads the configuration again. If
    /// they cannot be renewed the services that lack them report it.
    pub(super) fn renew(&self, answer: Option<Reply<()>>) {
        let (systemd, messages) = (self.systemd.caller(), self.messages.clone());
        // PID 1 asks nobody about root.
        let systemd = systemd.filter(|_| !geteuid().is_root());
        let renewing = Arc::clone(&self.source.renewing);
        tokio::spawn(async move {
            let turn = renewing.lock().await;
            let end = match systemd {
                Some(systemd) => systemd.start(rule::UNIT).await,
                None => JobEnd::Done,
            };
            drop(turn);
            let refused = match end {
                JobEnd::Failed(why) => Some(why),
                JobEnd::Done | JobEnd::Canceled => None,
            };
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Renewed(refused, answer));
        });
    }

    /// systemd has read its units again, so the generator has read the configuration.
    pub(super) fn renew_if_changed(&mut self) {
        self.source.look_at_units();
        match self.source.has_changed() {
            true => self.renew(None),
            // The generator may have another report.
            false => self.announcer.configuration(self.source.trouble()),
        }
    }

    /// Reads the configuration again. An invalid one changes nothing, and is reported.
    pub(super) fn reload(&mut self) -> Result<()> {
        self.notifier.reloading();
        let result = self.source.read(Some(&self.config)).map_err(Error::from);
        let result = result.and_then(|config| self.apply(config));
        if let Err(error) = &result {
            self.source.refuse(error);
        }
        let result = result.context("the agent keeps its present configuration");
        match &result {
            Ok(changed) => {
                self.in_force();
                let summed_up = self.sum_up();
                self.announce(&summed_up);
                log::info!("read the configuration again: {}", self.summary());
                self.ask_permission();
                self.read_changed(changed);
            }
            Err(error) => log::error!("{error:#}"),
        }
        self.announcer.configuration(self.source.trouble());
        self.notifier.status_at_once(self.summary(), clock::now());
        self.notifier.ready();
        result.map(drop)
    }

    /// What was read last is in force now.
    pub(super) fn in_force(&mut self) {
        self.source.accept();
        self.source.keep();
    }
}

/// Waits until something about the file at `path` has changed, at most [`PATIENCE`].
pub(super) async fn changed(path: &Path) {
    let before = Identity::all(path);
    let change = async {
        while Identity::all(path) == before {
            tokio::time::sleep(LOOK).await;
        }
    };
    // It says itself which one it was.
    let _ = tokio::time::timeout(PATIENCE, change).await;
}
