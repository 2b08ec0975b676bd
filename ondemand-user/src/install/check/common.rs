//! What is looked at once for all services: with a thousand of them, what each costs is what counts.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
};

use anyhow::Result;
use nix::unistd::User;
use ondemand_core::{
    config::{Config, Service, UnitNames},
    measure::unit::ActiveState,
};

use super::{generated::Source, holders::Sockets, loaded::Loaded};
use crate::{
    host::{small_file, unit_files::UnitFiles},
    install::units::{Content, UnitFile},
    systemd::{Listed, Slices, Systemd},
};

/// The name of ondemand's own drop-in.
const DROP_IN: &str = "50-ondemand.conf";
/// A longer file is none of a person's. Bytes.
const LONGEST: u64 = 1 << 20;
/// The slice of units without `Slice=` that are no instances (systemd.resource-control(5)).
const USUAL_SLICE: &str = "system.slice";

/// The surroundings of the services.
pub struct Common<'a> {
    /// The files that the configuration asks for, by their paths.
    pub files: Result<HashMap<&'a OsStr, &'a UnitFile>, &'a anyhow::Error>,
    /// The files that are there.
    pub unit_files: &'a UnitFiles,
    /// How they are made.
    pub source: &'a Source,
    /// The sockets that listen.
    pub sockets: Sockets,
    /// PID 1; `None` if it does not answer.
    pub manager: Option<Manager<'a>>,
    /// What the agent has seen, by service.
    pub seen: BTreeMap<String, String>,
    /// Which listeners of PID 1 keep back connections without a byte; `None`: no service wants it.
    pub sieves: Option<Result<BTreeMap<SocketAddr, bool>>>,
}

impl Common<'_> {
    /// The text of a unit of ondemand's, if PID 1 has it from this text alone.
    pub fn own_text(&self, unit: &str) -> Option<&str> {
        if !self.has_loaded(unit) || !self.unit_files.drop_ins(unit).is_empty() {
            return None;
        }
        match &self.files.as_ref().ok()?.get(OsStr::new(unit))?.content {
            Content::Text(text) => Some(text),
            Content::Link(_) => None,
        }
    }

    /// Whether PID 1 has a unit as it is in its files; `false` if it must be asked.
    pub fn has_loaded(&self, unit: &str) -> bool {
        let manager = self.manager.as_ref();
        manager.is_some_and(|manager| manager.loaded.has(unit, self.unit_files))
    }

    /// Whether an application's unit, of which PID 1 has the files, has no drop-in but ondemand's, and neither
    /// `IPAddressDeny=` nor a slice of its own; `false` if it must be asked.
    pub fn is_plain(&self, unit: &str) -> bool {
        // An instance has a slice of its own.
        if unit.contains('@') || self.unit_files.canonical(unit) != unit {
            return false;
        }
        let drop_ins = self.unit_files.drop_ins(unit);
        let mut entries = drop_ins
            .iter()
            .filter_map(|path| fs::read_dir(path).ok())
            .flatten();
        let is_own =
            |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == DROP_IN);
        let text = self
            .unit_files
            .all(unit)
            .next()
            .and_then(|path| small_file::read(&path, LONGEST).ok());
        let has = |text: &[u8], words: &str| {
            text.windows(words.len())
                .any(|part| part == words.as_bytes())
        };
        entries.all(is_own)
            && text.is_some_and(|text| !has(&text, "IPAddressDeny") && !has(&text, "Slice"))
    }
}

/// PID 1, with what it has said.
pub struct Manager<'a> {
    /// For questions.
    pub systemd: &'a Systemd,
    /// All units of the services.
    pub listed: Result<Listed>,
    /// Whether its units are as their files say.
    loaded: Loaded,
    /// What pins the applications, if that was asked of those who do.
    pinned: Option<HashMap<String, Vec<String>>>,
    slices: Slices,
    /// The applications of services, by their own names.
    applications: HashSet<String>,
    others: RefCell<HashMap<String, ActiveState>>,
    users: RefCell<HashMap<String, bool>>,
}

impl<'a> Manager<'a> {
    /// Asks for all units of the services at once.
    pub async fn ask(systemd: &'a Systemd, config: &Config) -> Self {
        let units: Vec<String> = config.services.values().flat_map(units).collect();
        let listed = systemd.listed(&units).await;
        let loaded = systemd.units_loaded().await.ok().flatten();
        Self {
            systemd,
            listed,
            loaded: Loaded::look(loaded, &config.path),
            pinned: pinned(systemd, config, &units).await,
            slices: Slices::default(),
            applications: applications(config),
            others: RefCell::default(),
            users: RefCell::default(),
        }
    }

    /// The units that pin the application of this name. `None`: it is to be asked.
    pub fn pins(&self, unit: &str) -> Option<Vec<String>> {
        let pinned = self.pinned.as_ref()?;
        Some(pinned.get(unit).cloned().unwrap_or_default())
    }

    /// Whether a unit is the application of a service.
    pub fn is_application(&self, unit: &str) -> bool {
        self.applications.contains(unit)
    }

    /// Whether another unit is down.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn is_down(&self, unit: &str) -> Result<bool> {
        if let Some(known) = self.others.borrow().get(unit) {
            return Ok(known.is_down());
        }
        let states = self.systemd.states(&[unit.to_owned()]).await?;
        let state = states.into_iter().next();
        let is_down = state.as_ref().is_some_and(|state| state.is_down());
        self.others
            .borrow_mut()
            .extend(state.map(|state| (unit.to_owned(), state)));
        Ok(is_down)
    }

    /// Whether there is no user of this name, or it is unknown.
    pub fn is_missing(&self, user: &str) -> bool {
        let mut users = self.users.borrow_mut();
        let look = || matches!(User::from_name(user), Ok(None));
        *users.entry(user.to_owned()).or_insert_with(look)
    }

    /// The unit or a slice around it that filters its traffic by `IPAddressDeny=`; `is_plain`: the unit itself has
    /// neither that nor `Slice=`.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn address_rules(&self, unit: &str, is_plain: bool) -> Result<Option<String>> {
        let unit = if is_plain { USUAL_SLICE } else { unit };
        self.systemd.address_rules(unit, &self.slices).await
    }
}

/// What pins the services' applications, if it is less to ask all other units that are up whom they need than to ask
/// each application who needs it.
async fn pinned(
    systemd: &Systemd,
    config: &Config,
    own: &[String],
) -> Option<HashMap<String, Vec<String>>> {
    let applications: HashSet<&str> = config
        .services
        .values()
        .map(|it| it.unit.as_str())
        .collect();
    let own: HashSet<&str> = own.iter().map(String::as_str).collect();
    let mut up = systemd.up().await.ok()?;
    // Applications may need each other.
    up.retain(|unit| !own.contains(unit.as_str()) || applications.contains(unit.as_str()));
    if up.len() >= config.services.len() {
        return None;
    }
    systemd.pinned_by(up).await.ok()
}

fn applications(config: &Config) -> HashSet<String> {
    let files = UnitFiles::here();
    let units = config.services.values().map(|it| files.canonical(&it.unit));
    units.collect()
}

/// The units of a service.
fn units(service: &Service) -> [String; 4] {
    let UnitNames {
        backend,
        socket,
        proxy,
        lease,
    } = service.unit_names();
    [backend, socket, proxy, lease]
}
