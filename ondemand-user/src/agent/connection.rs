//! The agent's connection to systemd: the known states of the units, and what happens when the
//! connection is lost.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use ondemand_core::{
    lifecycle::JobEnd,
    measure::{Ktime, unit::Units},
};

use super::{
    Agent,
    events::Message,
    transitions::Transitions,
    watched::{self, Complaint, Watched},
};
use crate::{
    bus::report::{self, Report},
    host::clock,
    systemd::{
        Change, Known, Link, Reading, Systemd,
        units::{Readings, Wanted},
    },
};

/// How many services' memory is asked for at once.
const ASKED_AT_ONCE: usize = 32;
/// The first pause before connecting again. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An application may start this long before the proxy that the same client starts.
const WITH_ITS_PROXY: Duration = Duration::from_secs(1);

/// The connection, and the states that it reported.
#[derive(Default)]
pub struct Connection {
    link: Option<Link>,
    /// Counts connections and their ends, to recognize late messages of an old one: taken for the
    /// present state they would stay, because positions restart with a connection.
    number: u64,
    wanted: Wanted,
    known: HashMap<String, Known>,
    /// Changes of units whose first reading is in progress: they may be newer than the reading.
    early: HashMap<String, Vec<Reading>>,
    /// When the units' files may have changed last.
    reloaded: Option<Ktime>,
}

impl Connection {
    pub fn new(link: Link) -> Self {
        Self {
            link: Some(link),
            ..Self::default()
        }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// For calls, while there is a connection.
    pub fn caller(&self) -> Option<Systemd> {
        self.link.as_ref().map(|link| link.systemd.clone())
    }

    /// Sets the services of interest.
    pub fn watch<'a>(&mut self, services: impl Iterator<Item = (&'a String, &'a Watched)>) {
        let mut wanted = Wanted::default();
        for (name, watched) in services {
            wanted.units.extend(watched.units.each().map(String::clone));
            if watched.could_steer() {
                wanted.steered.push((name.clone(), watched.units.clone()));
            }
        }
        let units: HashSet<&String> = wanted.units.iter().collect();
        self.known.retain(|unit, _| units.contains(unit));
        self.early.retain(|unit, _| units.contains(unit));
        self.wanted = wanted;
        if let Some(link) = &self.link {
            link.systemd.watch(self.names());
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.wanted.units.iter().map(String::as_str)
    }

    /// Waits for systemd's next change. Cancel safe. Pending for ever without a connection.
    pub async fn next_change(&mut self) -> Option<Change> {
        match &mut self.link {
            Some(link) => link.changes.recv().await,
            None => std::future::pending().await,
        }
    }

    /// A change that is already there.
    pub fn change(&mut self) -> Option<Change> {
        self.link.as_mut()?.changes.try_recv().ok()
    }

    /// Of readings of units' states, the units of which the signals have not told the same. With none, nothing
    /// follows from the readings.
    pub fn differing(&self, readings: &[(String, Reading)]) -> Vec<String> {
        let differs = |(unit, reading): &&(String, Reading)| {
            !reading.is_whole() && self.known(unit).is_none_or(|known| !known.has(reading))
        };
        let differing = readings.iter().filter(differs);
        differing.map(|(unit, _)| unit.clone()).collect()
    }

    /// Takes over readings and changes. Returns whether anything is known that was not.
    pub fn take(&mut self, readings: impl IntoIterator<Item = (String, Reading)>) -> bool {
        let mut is_new = false;
        for (unit, reading) in readings {
            match self.known.get_mut(&unit) {
                Some(known) => is_new |= known.apply(&reading),
                None if reading.is_whole() => {
                    let early = self.early.remove(&unit).unwrap_or_default();
                    let known = self.known.entry(unit).or_default();
                    known.reloaded = self.reloaded;
                    known.apply(&reading);
                    for reading in &early {
                        known.apply(reading);
                    }
                    is_new = true;
                }
                None => self.early.entry(unit).or_default().push(reading),
            }
        }
        is_new
    }

    /// PID 1 has loaded the units' files again: what failed with the earlier ones may work.
    pub fn reloaded(&mut self, now: Ktime) {
        self.reloaded = Some(now);
        for known in self.known.values_mut() {
            known.reloaded = Some(now);
        }
    }

    pub fn known(&self, unit: &str) -> Option<&Known> {
        self.known.get(unit)
    }

    /// Reads everything of interest. Calls `going_on` periodically.
    pub async fn read_all(&self, going_on: impl Fn()) -> Result<Readings> {
        match self.caller() {
            Some(systemd) => self.wanted.read(&systemd, going_on).await,
            None => Ok(Readings::default()),
        }
    }

    fn connect(&mut self, link: Link) {
        self.number += 1;
        link.systemd.watch(self.names());
        self.link = Some(link);
    }

    fn disconnect(&mut self) -> bool {
        self.number += 1;
        self.known.clear();
        self.early.clear();
        self.link.take().is_some()
    }
}

/// Adds the figures that only systemd has, and answers.
pub async fn completed(systemd: Option<Systemd>, mut report: Report) -> Report {
    if let Some(systemd) = systemd {
        let up = |service: &&mut report::Service| service.state == "active";
        // Of a thousand services one after the other would take most of the time of a status.
        let ask = |service: &mut report::Service| {
            let (systemd, unit) = (systemd.clone(), service.unit.clone());
            async move { systemd.memory(&unit).await }
        };
        let questions: Vec<_> = report.services.iter_mut().filter(up).map(ask).collect();
        let answers = stream::iter(questions).buffered(ASKED_AT_ONCE);
        let answers: Vec<_> = answers.collect().await;
        for (service, answer) in report.services.iter_mut().filter(up).zip(answers) {
            match answer {
                Ok(memory) => service.memory_bytes = memory,
                Err(error) => log::debug!("{error:#}"),
            }
        }
    }
    report
}

impl Agent {
    /// The units of a service, if all of them are known.
    pub(super) fn units_of(&self, watched: &Watched) -> Option<Units> {
        let names = &watched.units;
        Some(Units {
            backend: self.systemd.known(&names.backend)?.unit,
            proxy: self.systemd.known(&names.proxy)?.unit,
            lease: self.systemd.known(&names.lease)?.unit,
        })
    }

    /// Determines whether a service cannot be managed; logs each change once.
    pub(super) fn find_problem(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        watched.can_hold = self.sampler.holds_datagrams();
        let Some(known) = watched.units.find(|unit| self.systemd.known(unit)) else {
            return;
        };
        let aliases = self.aliases.as_ref();
        let problem = watched::problem(&watched.units, &known)
            .or_else(|| aliases.and_then(|aliases| aliases.problem(name).cloned()))
            .or_else(|| self.permission.denied(name).cloned())
            .or_else(|| watched.not_served());
        if problem == watched.problem {
            return;
        }
        match &problem {
            Some(problem) => {
                log::warn!("{name}: not managed: {problem}");
                watched.interrupt();
                // Otherwise it would stay open when the backend stops.
                if let Err(error) = self.sampler.set_gate(watched.slot, false) {
                    log::error!("{name}: {error:#}");
                }
                watched.lifecycle.gate_is_closed();
            }
            None => log::info!("{name}: managed again"),
        }
        watched.problem = problem;
        self.keep_up_unserved(name);
    }

    /// Takes the lease of an application that no client could start.
    fn keep_up_unserved(&self, name: &str) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        if self.dry_run || watched.could_be_started() {
            return;
        }
        let (name, lease) = (name.to_owned(), watched.units.lease.clone());
        tokio::spawn(async move {
            if let JobEnd::Failed(why) = systemd.start(&lease).await {
                log::warn!("{name}: {why}");
            }
        });
    }

    /// Logs once that a service with `steer = true` has a listener that cannot be steered to.
    pub(super) fn find_refusal(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        match self.sampler.was_refused(watched.slot) {
            Ok(true)
                if watched.lifecycle.has_gate()
                    && watched.complaints.is_new(Complaint::NotSteered, "") =>
            {
                log::warn!(
                    "{name}: connections cannot be steered to its listener, so they are proxied: it is \
                     probably an MPTCP socket (programs in Go: set \
                     GODEBUG=multipathtcp=0 in {})",
                    watched.service.unit
                );
            }
            Ok(_) => {}
            Err(error) => log::debug!("{name}: {error:#}"),
        }
    }

    /// The services that readings are about.
    fn services_of(&self, readings: &Readings) -> BTreeSet<String> {
        let units = readings.units.iter();
        let names = units.flat_map(|(unit, _)| self.services.of_unit(unit));
        let of_rules = readings.rules.iter().map(|(name, _)| name);
        names.chain(of_rules).cloned().collect()
    }

    /// Takes over readings. Returns the services that they are about, and those whose unit has another name than
    /// before, or another service.
    pub(super) fn take_readings(&mut self, readings: Readings) -> BTreeSet<String> {
        let mut names = self.services_of(&readings);
        self.systemd.take(readings.units);
        for (name, place) in readings.rules {
            let Some(watched) = self.services.get_mut(&name) else {
                continue;
            };
            if watched.set_rules(place) {
                match watched.address_rules() {
                    Some(place) => log::warn!(
                        "{name}: steering would bypass IPAddressDeny= of {place}, so all its clients \
                         are proxied"
                    ),
                    None => {
                        log::info!("{name}: no address rules any more, its clients are steered")
                    }
                }
            }
        }
        names.extend(self.find_aliases());
        names.extend(self.find_chains());
        self.find_unopened(&names);
        self.count_first_starts();
        names
    }

    /// A client may come as soon as the front socket of a new service listens, before the agent has heard of
    /// the service: the start that it causes counts. The socket may have been restarted since; the proxy's
    /// start shows the client, too.
    fn count_first_starts(&mut self) {
        let new = self.services.iter().filter(|(_, watched)| watched.is_new);
        let new: Vec<String> = new.map(|(name, _)| name.clone()).collect();
        for name in new {
            let Some(watched) = self.services.get_mut(&name) else {
                continue;
            };
            let Some(known) = watched.units.find(|unit| self.systemd.known(unit)) else {
                continue;
            };
            watched.is_new = false;
            let listens = known.socket.unit.state.is_up();
            let opened = known.socket.unit.active_enter.filter(|_| listens);
            let earlier = |at: Ktime| {
                at.as_nanos()
                    .saturating_sub(WITH_ITS_PROXY.as_nanos() as u64)
            };
            let proxied = known.proxy.unit.inactive_exit.map(earlier);
            let since = opened
                .into_iter()
                .chain(proxied.map(Ktime::from_nanos))
                .min();
            if let Some(since) = since {
                watched.count_since(since);
            }
        }
    }

    /// Reads all units in a separate task.
    pub(super) fn read_units(&self) {
        self.read(self.systemd.wanted.clone());
    }

    /// Reads the units of services that are not configured as before, and those that are not known.
    pub(super) fn read_changed(&self, changed: &BTreeSet<String>) {
        let present = &self.systemd.wanted;
        let changed_services = changed.iter().filter_map(|name| self.services.get(name));
        let mut units: BTreeSet<&String> =
            changed_services.flat_map(|it| it.units.each()).collect();
        if self.systemd.known.len() < present.units.len() {
            let is_unknown = |unit: &&String| self.systemd.known(unit).is_none();
            units.extend(present.units.iter().filter(is_unknown));
        }
        let steered = present.steered.iter();
        let steered = steered.filter(|(name, _)| changed.contains(name));
        self.read(Wanted {
            units: units.into_iter().cloned().collect(),
            steered: steered.cloned().collect(),
        });
    }

    fn read(&self, wanted: Wanted) {
        let Some(systemd) = self.systemd.caller() else {
            return;
        };
        let (connection, messages) = (self.systemd.number(), self.messages.clone());
        tokio::spawn(async move {
            let readings = wanted.read(&systemd, || {}).await;
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Units {
                connection,
                readings,
            });
        });
    }

    /// The units' states are unknown from now on. Nothing is stopped, and steps in progress are
    /// judged again when the states are known.
    pub(super) fn disconnected(&mut self, why: &str) {
        if !self.systemd.disconnect() {
            return;
        }
        log::warn!("systemd does not answer, nothing is stopped until it does: {why}");
        for (_, watched) in &mut self.services {
            watched.interrupt();
        }
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                match Link::open().await {
                    Ok(link) => {
                        // The receiver is gone if the agent has exited.
                        let _ = messages.send(Message::Connected(Box::new(link)));
                        return;
                    }
                    Err(error) => log::debug!("{error:#}"),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    pub(super) fn connected(&mut self, link: Link) {
        log::info!("systemd answers again");
        self.systemd.connect(link);
        // It may have re-executed itself, which loads the files, too.
        self.look_again();
    }

    /// PID 1 has loaded the units' files again: everything that was complained about because of them is looked at.
    pub(super) fn look_again(&mut self) {
        self.systemd.reloaded(clock::now());
        self.transitions = Transitions::default();
        self.read_units();
        self.renew_if_changed();
        self.ask_permission();
    }

    /// A unit without files that changes may have got some without a daemon-reload: PID 1 looks for them again when
    /// it is to be started. No signal has what is in them.
    pub(super) fn read_if_unloaded(&self, unit: &str) {
        // (Reading one that is down loads it in PID 1, which drops it again.)
        let has_started = |known: &Known| !known.is_loaded() && !known.unit.state.is_down();
        if !self.systemd.known(unit).is_some_and(has_started) {
            return;
        }
        self.read(Wanted {
            units: vec![unit.to_owned()],
            ..Wanted::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondemand_core::measure::unit::ActiveState;

    #[test]
    fn what_is_told_while_units_are_read_is_newer_than_the_reading() {
        let unit = "wiki.service";
        let state = |connection: &Connection| connection.known(unit).map(|known| known.unit.state);
        let mut connection = Connection::default();
        connection.take([(unit.to_owned(), Reading::change("active"))]);
        assert_eq!(state(&connection), None, "nothing else is known of it");
        connection.take([(unit.to_owned(), Reading::whole("inactive"))]);
        assert_eq!(state(&connection), Some(ActiveState::Active));
        connection.take([(unit.to_owned(), Reading::change("deactivating"))]);
        assert_eq!(state(&connection), Some(ActiveState::Deactivating));
        // Nothing of one connection is taken over to the next.
        connection.disconnect();
        connection.take([(unit.to_owned(), Reading::whole("inactive"))]);
        assert_eq!(state(&connection), Some(ActiveState::Inactive));
    }
}
