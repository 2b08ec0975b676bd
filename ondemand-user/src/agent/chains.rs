//! Chains: an application whose unit pulls in that of another service (`Requires=`, `Wants=` and the like). PID 1 starts the
//! other one first. While the one is up the other is in use, and the first clients of the one wait for both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use ondemand_core::{
    measure::unit::{ActiveState, Unit},
    policy::Need,
};

use super::{
    Agent,
    watched::{Complaint, Watched},
};
use crate::{host::clock, kernel::sockets::listening::Application};

/// How often the services that a start waits for are looked at.
const PACE: Duration = Duration::from_millis(10);

/// Which services need which.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chains {
    /// Those that a service needs.
    needs: BTreeMap<String, BTreeSet<String>>,
    /// Of these, those after which it starts.
    after: BTreeMap<String, BTreeSet<String>>,
    /// Those that need a service.
    needed_by: BTreeMap<String, BTreeSet<String>>,
}

impl Chains {
    fn add(&mut self, one: &str, needs: &str, after: bool) {
        let insert = |map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, value: &str| {
            map.entry(key.to_owned())
                .or_default()
                .insert(value.to_owned());
        };
        insert(&mut self.needs, one, needs);
        insert(&mut self.needed_by, needs, one);
        if after {
            insert(&mut self.after, one, needs);
        }
    }
}

impl Watched {
    /// Whether the services after which its application starts were ready in this run.
    pub(super) fn has_what_it_needs(&self, backend: &Unit) -> bool {
        !self.is_chained || self.has_needs == Some(backend.inactive_exit)
    }
}

impl Agent {
    /// Finds the chains after units were read. Returns the services for which they are others than before.
    pub(super) fn find_chains(&mut self) -> BTreeSet<String> {
        let mut owners: HashMap<&str, &str> = HashMap::new();
        for (name, watched) in self.services.iter() {
            if let Some(known) = self.systemd.known(&watched.service.unit) {
                owners.insert(&known.id, name);
            }
        }
        let mut found = Chains::default();
        for (name, watched) in self.services.iter() {
            let Some(known) = self.systemd.known(&watched.service.unit) else {
                continue;
            };
            let of = &known.dependencies;
            for unit in &of.needs {
                if let Some(other) = owners.get(unit.as_str()).filter(|other| *other != name) {
                    found.add(name, other, of.after.contains(unit));
                }
            }
        }
        if found == self.chains {
            return BTreeSet::new();
        }
        let keys = |chains: &Chains| {
            let all = chains.needs.keys().chain(chains.needed_by.keys());
            all.cloned().collect::<BTreeSet<_>>()
        };
        let mut changed = keys(&self.chains);
        changed.extend(keys(&found));
        self.chains = found;
        for name in &changed {
            let is_chained = self.chains.after.contains_key(name);
            if let Some(watched) = self.services.get_mut(name) {
                watched.is_chained = is_chained;
            }
        }
        changed
    }

    /// Whether another service needs it.
    pub(super) fn need(&self, name: &str) -> Option<Need> {
        let mut last = None;
        for other in self.chains.needed_by.get(name)? {
            let Some(watched) = self.services.get(other) else {
                continue;
            };
            let unit = self.systemd.known(&watched.units.backend)?.unit;
            if !unit.is_settled_down() {
                return Some(Need::Present);
            }
            last = last.max(unit.inactive_enter);
        }
        last.map(Need::Until)
    }

    /// The services that are up and need it, as words. `None`: there is none.
    pub(super) fn needed_by(&self, name: &str) -> Option<String> {
        let others = self.chains.needed_by.get(name)?.iter();
        let is_up = |other: &&String| {
            let watched = self.services.get(*other);
            let known = watched.and_then(|it| self.systemd.known(&it.units.backend));
            known.is_some_and(|known| !known.unit.is_settled_down())
        };
        let up: Vec<&str> = others.filter(is_up).map(String::as_str).collect();
        (!up.is_empty()).then(|| up.join(", "))
    }

    /// Looks whether the services after which an application starts are ready, once in each run of it.
    pub(super) fn follow_chain(&mut self, name: &str) {
        let Some(watched) = self.services.get(name).filter(|it| it.is_chained) else {
            return;
        };
        let Some(unit) = self.systemd.known(&watched.units.backend).map(|it| it.unit) else {
            return;
        };
        if unit.state.is_down() || watched.has_what_it_needs(&unit) {
            return;
        }
        let is_ready = self.has_ready_needs(name, &mut BTreeSet::new());
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if is_ready {
            watched.has_needs = Some(unit.inactive_exit);
            self.tell_ready(name);
        } else {
            let at = clock::now() + PACE;
            watched.look_at = Some(watched.look_at.map_or(at, |other| other.min(at)));
        }
    }

    /// `seen`: services of a circle are looked at once.
    fn has_ready_needs(&self, name: &str, seen: &mut BTreeSet<String>) -> bool {
        let Some(needs) = self.chains.after.get(name) else {
            return true;
        };
        needs.iter().all(|need| {
            !seen.insert(need.clone())
                || self
                    .services
                    .get(need)
                    .is_none_or(|watched| self.serves(watched) && self.has_ready_needs(need, seen))
        })
    }

    /// Whether nobody has to wait for a service: its application is ready, or there is nothing to wait for any more.
    fn serves(&self, watched: &Watched) -> bool {
        let Some(known) = self.systemd.known(&watched.units.backend) else {
            return true;
        };
        let unit = &known.unit;
        let since = match unit.state {
            ActiveState::Active | ActiveState::Reloading => unit.active_enter,
            ActiveState::Activating => unit.inactive_exit,
            // With Wants= an application starts without it.
            _ => return true,
        };
        let age = since.and_then(|at| clock::now().since(at));
        if age.is_none_or(|age| age > watched.service.start_timeout) {
            return true;
        }
        // Nobody of this host listens for a container.
        let is_elsewhere = watched.forwarder || watched.complaints.has(&Complaint::NobodyAccepts);
        unit.state.is_up()
            && watched.is_ready()
            && (is_elsewhere
                || Application::from(&watched.service)
                    .is_listening()
                    .unwrap_or(true))
    }

    /// The services that it needs are looked at when its application is down, or up again.
    pub(super) fn tell_chain(&mut self, name: &str) {
        let Some(needs) = self.chains.needs.get(name) else {
            return;
        };
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let known = self.systemd.known(&watched.units.backend);
        let is_down = known.is_some_and(|known| known.unit.is_settled_down());
        if watched.was_down == is_down {
            return;
        }
        let needs = needs.clone();
        let now = clock::now();
        if let Some(watched) = self.services.get_mut(name) {
            watched.was_down = is_down;
        }
        for need in needs {
            if let Some(watched) = self.services.get_mut(&need) {
                watched.look_at = Some(now);
            }
        }
    }

    /// Whether a proxy of the service waits for more than its listener.
    pub(super) fn awaits_more(&self, watched: &Watched) -> bool {
        let unit = self.systemd.known(&watched.units.backend);
        let has_needs = unit.is_none_or(|known| watched.has_what_it_needs(&known.unit));
        !watched.is_ready() || !has_needs
    }
}
