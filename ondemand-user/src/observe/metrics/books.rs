//! The ledgers of all services, saved on every change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ondemand_core::{config::WhatIfBy, measure::Ktime, words::counted};
use tokio::time::Instant;

use super::{
    Note,
    ledger::Ledger,
    observation::{Observation, Row},
    record::Record,
    told::Told,
    uses::Uses,
    waits::Way,
};
use crate::host::complaints::Complaints;

/// Maximum delay until the agent knows what systemd has stamped. A running time is shown up to this
/// long ago: a shown value never decreases, even if the agent dies before it knows.
const NEWS_DELAY: Duration = Duration::from_millis(250);

/// The ledgers by service.
#[derive(Debug)]
pub struct Books {
    record: Record,
    ledgers: BTreeMap<String, Ledger>,
    /// What this agent had counted when it was asked last.
    counted: BTreeMap<String, Told>,
    /// Services whose ledgers have changed since they were saved.
    unsaved: BTreeSet<String>,
    /// Services whose record cannot be written.
    complaints: Complaints<String>,
    /// Their gaps.
    uses: Uses,
    /// For whom these are shown.
    pub whatif: WhatIfBy,
}

impl Books {
    /// Without services.
    pub fn new(record: Record) -> Self {
        Self {
            uses: Uses::open(record.gaps()),
            whatif: WhatIfBy::default(),
            record,
            ledgers: BTreeMap::new(),
            counted: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            complaints: Complaints::default(),
        }
    }

    /// Sets the services, as name and unit. Removed services keep their files, and new services find
    /// theirs.
    pub fn configure(&mut self, services: Vec<(String, String)>) {
        self.save();
        self.uses.configure(services.iter().map(|(name, _)| name));
        let mut before = std::mem::take(&mut self.ledgers);
        let mut fresh = 0;
        for (service, unit) in services {
            let mut ledger = match before.remove(&service) {
                Some(ledger) => ledger,
                None => match self.record.load(&service) {
                    Ok(ledger) => {
                        fresh += u64::from(ledger.is_none());
                        ledger.unwrap_or_default()
                    }
                    Err(error) => {
                        log::warn!(
                            "{service}: its starts, stops and times start at zero, their record is \
                             unusable: {error:#}"
                        );
                        Ledger::default()
                    }
                },
            };
            ledger.set_unit(&unit);
            self.ledgers.insert(service, ledger);
        }
        if fresh > 0 {
            let services = counted(fresh, "service");
            log::info!("starts, stops and times of {services} start at zero: there is no record");
        }
    }

    /// Records an event. [`Books::save`] is due before anything of it is shown.
    pub fn note(&mut self, service: &str, note: Note) {
        let Some(ledger) = self.ledgers.get_mut(service) else {
            return;
        };
        match note {
            Note::Count(counter) => ledger.count(counter),
            Note::Lease { released } => ledger.lease(released),
            Note::Memory(bytes) => ledger.times.measured(bytes),
            Note::Cpu(started, time) => ledger.cpu.measured(started, time),
            Note::Use(what, learned) => return self.uses.take(service, &what, learned),
            Note::Run(event, now) => {
                if !ledger.take(&event, now) {
                    return;
                }
            }
        }
        if !self.unsaved.contains(service) {
            self.unsaved.insert(service.to_owned());
        }
    }

    /// When [`Books::save_uses`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.uses.due()
    }

    /// Saves the gaps, if there are new ones.
    pub fn save_uses(&mut self) {
        self.uses.save();
    }

    /// A client has waited for so long.
    pub fn waited(&mut self, way: Way, waited: Duration) {
        self.uses.waited(way, waited);
    }

    /// The gaps of the services.
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Saves the ledgers that have changed.
    pub fn save(&mut self) {
        for service in std::mem::take(&mut self.unsaved) {
            let Some(ledger) = self.ledgers.get(&service) else {
                continue;
            };
            // In most cases all of them fail for the same reason: one line is enough.
            let is_first = self.complaints.is_empty();
            let saved = self.record.save(&service, ledger);
            let complaint = self.complaints.follow(service, &saved);
            if let Some(error) = complaint.filter(|_| is_first) {
                log::warn!("counters will not outlive the agent: {error:#}");
            }
        }
    }

    /// Returns the rows for these observations at `now`. What they show is saved.
    pub fn rows(&mut self, observations: Vec<Observation>, now: Ktime) -> Vec<Row> {
        let until = Ktime::from_nanos(now.as_nanos().saturating_sub(NEWS_DELAY.as_nanos() as u64));
        let row = |mut observation: Observation| {
            let ledger = self.ledgers.get_mut(&observation.service)?;
            let counted = Told::of(&observation);
            let before = self.counted.insert(observation.service.clone(), counted);
            if ledger.told.add(&counted, &before.unwrap_or_default()) {
                self.unsaved.insert(observation.service.clone());
            }
            ledger.told.show(&mut observation);
            if observation.state.is_some() {
                ledger.times.advance(until);
            }
            Some((observation, ledger.clone()))
        };
        let rows = observations.into_iter().filter_map(row).collect();
        self.save();
        self.save_uses();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondemand_core::lifecycle::{Counter, note::VetoReason};

    fn books(directory: &std::path::Path, services: &[&str]) -> Books {
        let mut books = Books::new(Record::at(directory));
        books.configure(named(services));
        books
    }

    fn named(services: &[&str]) -> Vec<(String, String)> {
        let of = |name: &&str| ((*name).to_owned(), format!("{name}.service"));
        services.iter().map(of).collect()
    }

    fn vetoes(books: &Books, service: &str) -> Option<u64> {
        Some(books.ledgers.get(service)?.vetoes.values().sum())
    }

    const VETO: Note = Note::Count(Counter::Veto(VetoReason::Activity));

    #[test]
    fn counters_outlive_the_agent_and_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = books(directory.path(), &["a", "b"]);
        first.note("a", VETO);
        first.note("nobody", VETO);
        first.save();
        let mut second = books(directory.path(), &["a", "b"]);
        assert_eq!(
            (vetoes(&second, "a"), vetoes(&second, "b")),
            (Some(1), Some(0))
        );
        second.configure(named(&["b"]));
        assert_eq!(vetoes(&second, "a"), None);
        second.note("a", VETO);
        second.configure(named(&["a", "b"]));
        assert_eq!(vetoes(&second, "a"), Some(1));
    }

    #[test]
    fn a_corrupt_record_hurts_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = books(directory.path(), &["a", "b"]);
        first.note("a", VETO);
        first.note("b", VETO);
        first.save();
        std::fs::write(first.record.path("a"), "{\"starts\": 1").unwrap();
        let mut second = books(directory.path(), &["a", "b"]);
        assert_eq!(
            (vetoes(&second, "a"), vetoes(&second, "b")),
            (Some(0), Some(1))
        );
        second.note("a", VETO);
        second.save();
        assert_eq!(vetoes(&books(directory.path(), &["a"]), "a"), Some(1));
    }
}
