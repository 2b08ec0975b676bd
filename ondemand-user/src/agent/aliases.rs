//! Applications whose unit is configured by an alias: the name may come to mean another unit, and two
//! services may have one unit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// The services whose unit has another own name than before.
    fn renamed(&self, before: &Self) -> BTreeSet<String> {
        let names = self.own.keys().chain(before.own.keys());
        let differs = |name: &&String| self.own.get(*name) != before.own.get(*name);
        names.filter(differs).cloned().collect()
    }

    /// The services whose unit has come to be shared, or is no longer.
    fn reshared(&self, before: &Self) -> BTreeSet<String> {
        let names = self.shared.keys().chain(before.shared.keys());
        let differs = |name: &&String| self.shared.get(*name) != before.shared.get(*name);
        names.filter(differs).cloned().collect()
    }

    /// Why the unit of a service is not its own. `None`: it is.
    pub fn problem(&self, service: &str) -> Option<&String> {
        self.shared.get(service)
    }
}

impl Agent {
    /// Looks at the units' own names after they were read. Returns the services of which they mean something else.
    pub(super) fn find_aliases(&mut self) -> BTreeSet<String> {
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
            return BTreeSet::new();
        };
        let now = clock::now();
        let mut is_new = false;
        let mut changed = found.renamed(&before);
        for name in &changed {
            let Some(watched) = self.services.get_mut(name) else {
                continue;
            };
            let new = found.own.get(name);
            let unit = &watched.service.unit;
            match new {
                Some(id) => log::info!("{name}: {unit} is an alias of {id}"),
                None => log::info!("{name}: {unit} is no alias any more"),
            }
            watched.begin_anew(now);
            is_new |= new.is_some();
        }
        changed.extend(found.reshared(&before));
        // PID 1 asks polkit about the unit's own name.
        if is_new {
            self.renew(None);
        }
        changed
    }
}
