//! The watched services: what a configuration means for them.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use ondemand_core::{
    config::{Config, PerUnit, Service},
    lifecycle::JobEnd,
    measure::{Ktime, sample::Slot},
};

use super::{Agent, prewarming, watched::Watched};
use crate::{
    host::clock,
    observe::metrics::record::Record,
    systemd::{Known, Systemd},
};

/// The pauses before a front socket that did not start is tried again.
const OPEN_AGAIN: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

impl Agent {
    /// Applies `config`. Services that were configured before keep their counters. Returns those that are not
    /// configured as before; nothing is done for the others.
    pub(super) fn apply(&mut self, config: Config) -> Result<BTreeSet<String>> {
        let wanted: Vec<_> = config.services.values().collect();
        let mut left = Vec::new();
        for (name, watched) in self.services.iter() {
            if !config.services.contains_key(name) {
                // Otherwise it would stay open when the backend stops.
                self.sampler.set_gate(watched.slot, false)?;
                left.push(name.clone());
            }
        }
        for name in left {
            self.catch_nobody(&name);
        }
        let units = self.services.iter().filter(|(name, watched)| {
            let goes_on = |service: &Service| service.unit == watched.service.unit;
            watched.freezing.is_frozen() && !config.services.get(*name).is_some_and(goes_on)
        });
        let units: Vec<String> = units
            .map(|(_, watched)| watched.service.unit.clone())
            .collect();
        for unit in units {
            self.thaw_left(&unit);
        }
        let slots = match self.sampler.watch(&wanted) {
            Ok(slots) => slots,
            Err(error) => {
                let error = error.context("the new configuration cannot be watched");
                // No watched service may become unwatched.
                let before: Vec<_> = self.config.services.values().collect();
                self.sampler
                    .watch(&before)
                    .context("watch the previous services")?;
                return Err(error);
            }
        };
        let steerable = self.sampler.no_steering().is_none();
        let now = clock::now();
        let gone: Vec<String> = self.services.keys().cloned().collect();
        let gone = gone.into_iter().filter(|name| !slots.contains_key(name));
        // Whether other services or units are watched.
        let mut is_other = !self.began;
        for name in gone {
            self.services.remove(&name);
            is_other = true;
        }
        let mut changed = BTreeSet::new();
        for (name, service) in &config.services {
            let Some(slot) = slots.get(name).copied() else {
                continue;
            };
            let present = self.services.get(name);
            if present.is_some_and(|it| it.slot == slot && it.service == *service) {
                continue;
            }
            let watched = match self.services.remove(name) {
                Some(mut watched) => {
                    let before = (watched.units.clone(), watched.could_steer());
                    watched.reconfigure(service.clone(), slot, self.dry_run, now);
                    if watched.learner.reconfigure(&service.learning) {
                        self.lessons.learn_anew(name);
                    }
                    is_other |= before != (watched.units.clone(), watched.could_steer());
                    watched
                }
                None => {
                    // At boot sockets.target starts them.
                    if self.began {
                        self.unopened.insert(name.clone());
                    }
                    is_other = true;
                    self.adopt(service, slot, steerable, now)
                }
            };
            self.services.insert(watched);
            changed.insert(name.clone());
        }
        self.slots = slots.into_iter().map(|(name, slot)| (slot, name)).collect();
        self.begin_catching();
        let history = config.agent.history.as_deref();
        // A new one has nothing to tell, while its tables are made.
        let has_past = history.is_some_and(Path::exists);
        let names = config.services.keys();
        if self.recorder.watch(history, names, is_other) {
            self.record_present();
        }
        self.metrics.configure(&config, is_other);
        if config.agent.memory_budget != self.config.agent.memory_budget {
            for (_, watched) in &mut self.services {
                watched.look_at = Some(now);
            }
        }
        self.config = config;
        self.renew_times_of_use();
        self.renew_rhythms();
        self.doubt_room();
        if has_past {
            self.read_past();
        }
        if is_other {
            self.systemd.watch(self.services.iter());
            self.announcer.services(self.services.keys().cloned());
        }
        Ok(changed)
    }

    /// Starts the front sockets of new services, once systemd has their units.
    pub(super) fn open_fronts(&mut self) {
        let Some(systemd) = self.systemd.caller() else {
            return;
        };
        if self.dry_run {
            return;
        }
        let (services, known, opening) = (&self.services, &self.systemd, &mut self.opening);
        self.unopened.retain(|name| {
            let Some(watched) = services.get(name) else {
                return false;
            };
            let Some(units) = watched.units.find(|unit| known.known(unit)) else {
                return true;
            };
            if !is_generated(&units) && !units.backend.unit.state.is_up() {
                return true;
            }
            let is_loaded = units.socket.is_loaded();
            if is_loaded && !units.socket.unit.state.is_up() {
                let socket = watched.units.socket.clone();
                let task = tokio::spawn(open_front(systemd.clone(), name.clone(), socket));
                opening.insert(name.clone(), task.abort_handle());
            }
            !is_loaded
        });
    }

    /// Services whose units systemd does not have are new to it when it has them: their front sockets were not
    /// started with the others at boot.
    pub(super) fn find_unopened(&mut self, names: &BTreeSet<String>) {
        for (name, watched) in names
            .iter()
            .filter_map(|it| self.services.get_key_value(it))
        {
            let units = watched.units.find(|unit| self.systemd.known(unit));
            if units.is_some_and(|units| !is_generated(&units) && !units.socket.unit.state.is_up())
            {
                self.unopened.insert(name.clone());
            }
        }
    }

    /// Takes over a service that was not watched before.
    fn adopt(&mut self, service: &Service, slot: Slot, steerable: bool, now: Ktime) -> Watched {
        let mut watched = Watched::new(service.clone(), slot, steerable, self.dry_run, now);
        if let Some(earlier) = self.lessons.take(&service.name) {
            let rhythm = earlier.rhythm.clone().filter(|_| service.prewarm);
            watched.learner.restore(earlier, &service.learning);
            let terms = prewarming::terms_of(&watched);
            watched.prewarming.restore(rhythm, &terms);
        }
        self.lessons.learn_anew(&service.name);
        watched.is_new = !Record::here().path(&service.name).exists();
        if !self.began && !watched.is_new {
            self.keeping.resume(&watched);
        }
        let counted = self
            .sampler
            .sample(slot)
            .is_ok_and(|sample| sample.last_activity.is_some());
        // Only services watched by an earlier agent were counted until now.
        if self.began || !self.sampler.taken_over() || !counted {
            watched.uncounted.begin(now);
        }
        // Until it is known what may be done.
        if let Err(error) = self.sampler.set_catch(slot, false) {
            log::error!("{}: {error:#}", service.name);
        }
        if !watched.lifecycle.has_gate() {
            // An earlier configuration may have left its gate open.
            if let Err(error) = self.sampler.set_gate(slot, false) {
                log::error!("{}: {error:#}", service.name);
            }
            watched.lifecycle.gate_is_closed();
        }
        watched
    }
}

/// Whether systemd has loaded the units of a service, and the drop-in of its application.
fn is_generated(units: &PerUnit<&Known>) -> bool {
    units.each().iter().all(|known| known.is_loaded()) && units.backend.stop_when_unneeded
}

/// Tries it a few times: polkitd may not have read the renewed rule yet.
async fn open_front(systemd: Systemd, name: String, socket: String) {
    let mut pauses = OPEN_AGAIN.iter();
    loop {
        match systemd.start(&socket).await {
            JobEnd::Done | JobEnd::Canceled => return log::info!("{name}: {socket} is started"),
            JobEnd::Failed(why) => match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return log::warn!("{name}: the front socket of a new service: {why}"),
            },
        }
    }
}
