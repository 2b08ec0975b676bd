//! Applications whose unit is configured by an alias: the name may come to mean another unit, and two
//! services may have one unit.

use std::collections::{BTreeMap, HashMap};

use super::Agent;
use crate::host::{clock, config_file};

/// What the names of the configuration mean.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// By service: its unit's own name, where that is not the configured one.
    own: BTreeMap<String, String>,
    /// By service: why its unit is not its own.
    shared: HashMap<String, String>,
}

impl Aliases {
    /// Why the unit of a service is not its own. `None`: it is.
    pub fn problem(&self, service: &str) -> Option<&String> {
        self.shared.get(service)
    }
}

impl Agent {
    /// Looks at the units' own names after they were read.
    pub(super) fn find_aliases(&mut self) {
        let mut found = Aliases::default();
        let mut users: HashMap<&str, &str> = HashMap::new();
        for (name, watched) in self.services.iter() {
            let unit = &watched.service.unit;
            let Some(known) = self.systemd.known(unit) else {
                continue;
            };
            let id = known.id.as_str();
            if id.is_empty() {
                continue;
            }
            if id != unit {
                found.own.insert(name.clone(), id.to_owned());
            }
            if config_file::is_own(id) {
                let why = format!("{unit} is an alias of {id}, one of ondemand's own units");
                found.shared.insert(name.clone(), why);
            } else if let Some(other) = users.insert(id, name) {
                for (name, other) in [(name.as_str(), other), (other, name)] {
                    let why = format!("its unit {id} is that of {other}, too, by another name");
                    found.shared.insert(name.to_owned(), why);
                }
            }
        }
        let before = self.aliases.replace(found);
        // At the start everything is new, and `ondemand permit` has just run.
        let (Some(before), Some(found)) = (before, &self.aliases) else {
            return;
        };
        let now = clock::now();
        let mut is_new = false;
        for (name, watched) in &mut self.services {
            let (old, new) = (before.own.get(name), found.own.get(name));
            if old == new {
                continue;
            }
            let unit = &watched.service.unit;
            match new {
                Some(id) => log::info!("{name}: {unit} is an alias of {id}"),
                None => log::info!("{name}: {unit} is no alias any more"),
            }
            watched.begin_anew(now);
            is_new |= new.is_some();
        }
        // PID 1 asks polkit about the unit's own name.
        if is_new {
            self.renew(None);
        }
    }
}
