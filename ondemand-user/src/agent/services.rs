//! The watched services, and what is kept of each so that an event costs what it is about, however many
//! services there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
};

use ondemand_core::{config::Endpoint, measure::Ktime};

use super::{Agent, watched::Watched};

/// The services by name. Whoever changes one marks it: [`Agent::sum_up`] looks at the marked ones only.
#[derive(Default)]
pub(super) struct Services {
    by_name: BTreeMap<String, Watched>,
    /// By unit: the services that it belongs to.
    by_unit: HashMap<String, Vec<String>>,
    /// By front address.
    by_front: HashMap<Endpoint, String>,
    /// May have changed since they were summed up.
    marked: BTreeSet<String>,
    briefs: HashMap<String, Brief>,
    due: BTreeSet<(Ktime, String)>,
    totals: Totals,
}

/// What the agent's loop needs of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Brief {
    due: Option<Ktime>,
    is_up: bool,
    is_unmanaged: bool,
    is_failing: bool,
}

/// The numbers of services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Whose application is up.
    pub up: usize,
    /// That are not managed.
    pub unmanaged: usize,
    /// That are managed, and fail.
    pub failing: usize,
}

impl Deref for Services {
    type Target = BTreeMap<String, Watched>;

    fn deref(&self) -> &Self::Target {
        &self.by_name
    }
}

impl<'a> IntoIterator for &'a mut Services {
    type Item = (&'a String, &'a mut Watched);
    type IntoIter = btree_map::IterMut<'a, String, Watched>;

    fn into_iter(self) -> Self::IntoIter {
        self.marked.extend(self.by_name.keys().cloned());
        self.by_name.iter_mut()
    }
}

impl Services {
    /// A service that is going to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Watched> {
        let found = self.by_name.get_mut(name);
        if found.is_some() && !self.marked.contains(name) {
            self.marked.insert(name.to_owned());
        }
        found
    }

    /// Adds a service.
    pub fn insert(&mut self, watched: Watched) {
        let name = watched.service.name.clone();
        for unit in watched.units.each() {
            let names = self.by_unit.entry(unit.clone()).or_default();
            names.push(name.clone());
            names.sort();
        }
        for address in arrivals(&watched) {
            self.by_front.insert(address, name.clone());
        }
        for alias in aliases(&watched) {
            self.by_front.entry(alias).or_insert_with(|| name.clone());
        }
        self.marked.insert(name.clone());
        self.by_name.insert(name, watched);
    }

    /// Takes a service out.
    pub fn remove(&mut self, name: &str) -> Option<Watched> {
        let watched = self.by_name.remove(name)?;
        for unit in watched.units.each() {
            if let Some(names) = self.by_unit.get_mut(unit) {
                names.retain(|other| other != name);
                if names.is_empty() {
                    self.by_unit.remove(unit);
                }
            }
        }
        for address in arrivals(&watched).chain(aliases(&watched)) {
            // It may be another service's by now.
            if self.by_front.get(&address).is_some_and(|of| of == name) {
                self.by_front.remove(&address);
            }
        }
        self.keep(name, Brief::default());
        self.briefs.remove(name);
        Some(watched)
    }

    /// The services that a unit belongs to.
    pub fn of_unit(&self, unit: &str) -> &[String] {
        self.by_unit.get(unit).map_or(&[], Vec::as_slice)
    }

    /// The service whose clients arrive at this address, or at the wildcard of its family.
    pub fn of_front(&self, address: &Endpoint) -> Option<&str> {
        let wildcard = |at: SocketAddr| {
            let [v4, v6] = WILDCARDS;
            SocketAddr::new(if at.is_ipv4() { v4 } else { v6 }, at.port())
        };
        let found = self.by_front.get(address);
        found
            .or_else(|| self.by_front.get(&at_other(address, wildcard)?))
            .map(String::as_str)
    }

    /// When the first of them is due.
    pub fn first_due(&self) -> Option<Ktime> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those that are due.
    pub fn due(&self, now: Ktime) -> Vec<String> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, name)| name.clone()).collect()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Marks those whose failures may be long ago by now.
    pub fn mark_failing(&mut self) {
        let failing = self.briefs.iter().filter(|(_, brief)| brief.is_failing);
        self.marked.extend(failing.map(|(name, _)| name.clone()));
    }

    fn keep(&mut self, name: &str, brief: Brief) {
        let before = self.briefs.insert(name.to_owned(), brief);
        let before = before.unwrap_or_default();
        if before.due != brief.due {
            if let Some(at) = before.due {
                self.due.remove(&(at, name.to_owned()));
            }
            if let Some(at) = brief.due {
                self.due.insert((at, name.to_owned()));
            }
        }
        let Totals {
            up,
            unmanaged,
            failing,
        } = &mut self.totals;
        for (total, was, is) in [
            (up, before.is_up, brief.is_up),
            (unmanaged, before.is_unmanaged, brief.is_unmanaged),
            (failing, before.is_failing, brief.is_failing),
        ] {
            *total = *total + usize::from(is) - usize::from(was);
        }
    }
}

const WILDCARDS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// The same of another address. `None`: a path.
fn at_other(endpoint: &Endpoint, other: impl Fn(SocketAddr) -> SocketAddr) -> Option<Endpoint> {
    match endpoint {
        Endpoint::Tcp(address) => Some(Endpoint::Tcp(other(*address))),
        Endpoint::Udp(address) => Some(Endpoint::Udp(other(*address))),
        Endpoint::Unix(_) => None,
    }
}

/// Where clients and datagrams of a service arrive, but for paths.
fn arrivals(watched: &Watched) -> impl Iterator<Item = Endpoint> {
    let all = watched.service.listen.iter();
    all.filter(|endpoint| !matches!(endpoint, Endpoint::Unix(_)))
        .cloned()
}

/// The wildcards that an application may bind in place of these addresses, which it keeps.
fn aliases(watched: &Watched) -> Vec<Endpoint> {
    if !watched.service.own_address {
        return Vec::new();
    }
    let [v4, v6] = WILDCARDS;
    let wildcards = |endpoint: Endpoint| {
        let is_v4 = matches!(endpoint, Endpoint::Tcp(at) | Endpoint::Udp(at) if at.is_ipv4());
        let ips = [v6].into_iter().chain(is_v4.then_some(v4));
        let all = ips.filter_map(|ip| at_other(&endpoint, |at| SocketAddr::new(ip, at.port())));
        all.collect::<Vec<_>>()
    };
    arrivals(watched).flat_map(wildcards).collect()
}

impl Agent {
    /// Sums up what has changed, and returns the names.
    pub(super) fn sum_up(&mut self) -> BTreeSet<String> {
        let marked = std::mem::take(&mut self.services.marked);
        for name in &marked {
            let Some(watched) = self.services.get(name) else {
                continue;
            };
            let wakes = [
                watched.wake,
                watched.look_at,
                watched.held.due(),
                watched.datagrams.due(),
                watched.probing.due(),
                watched.listening.due,
                watched.working.due,
                self.recorder.due(name),
            ];
            let is_up = self
                .units_of(watched)
                .is_some_and(|units| units.backend.state.is_up());
            let is_unmanaged = watched.problem.is_some();
            let brief = Brief {
                due: wakes.into_iter().flatten().min(),
                is_up,
                is_unmanaged,
                is_failing: !is_unmanaged && self.trouble(watched).is_some(),
            };
            self.services.keep(name, brief);
        }
        marked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_times_follow_each_change() {
        let mut services = Services::default();
        let at = |nanos| Some(Ktime::from_nanos(nanos));
        let brief = |due, is_up, is_failing| Brief {
            due,
            is_up,
            is_unmanaged: false,
            is_failing,
        };
        services.keep("a", brief(at(5), true, false));
        services.keep("b", brief(at(3), true, true));
        assert_eq!(services.first_due(), at(3));
        assert_eq!(services.due(Ktime::from_nanos(4)), ["b"]);
        assert_eq!((services.totals().up, services.totals().failing), (2, 1));
        services.keep("b", brief(at(7), false, false));
        assert_eq!(services.first_due(), at(5));
        assert_eq!(services.due(Ktime::from_nanos(7)), ["a", "b"]);
        assert_eq!((services.totals().up, services.totals().failing), (1, 0));
        services.keep("b", brief(None, false, false));
        services.keep("a", brief(None, true, true));
        assert_eq!(services.first_due(), None);
        services.mark_failing();
        assert!(services.marked.contains("a") && !services.marked.contains("b"));
        services.keep("a", Brief::default());
        assert_eq!((services.totals().up, services.totals().failing), (0, 0));
    }
}
