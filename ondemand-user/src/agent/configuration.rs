//! The watched services: what a configuration means for them.

use anyhow::{Context as _, Result};
use ondemand_core::{
    config::{Config, Service},
    measure::{Ktime, sample::Slot},
};

use super::{Agent, watched::Watched};
use crate::host::clock;

impl Agent {
    /// Applies `config`. Services that were configured before keep their counters.
    pub(super) fn apply(&mut self, config: Config) -> Result<()> {
        let wanted: Vec<_> = config.services.values().collect();
        for (name, watched) in &self.services {
            if !config.services.contains_key(name) {
                // Otherwise it would stay open when the backend stops.
                self.sampler.set_gate(watched.slot, false)?;
            }
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
        let mut before = std::mem::take(&mut self.services);
        for (name, service) in &config.services {
            let Some(slot) = slots.get(name).copied() else {
                continue;
            };
            let watched = match before.remove(name) {
                Some(mut watched) => {
                    watched.reconfigure(service.clone(), slot, self.dry_run, now);
                    watched
                }
                None => self.adopt(service, slot, steerable, now),
            };
            self.services.insert(name.clone(), watched);
        }
        self.slots = slots.into_iter().map(|(name, slot)| (slot, name)).collect();
        let history = config.agent.history.as_deref();
        if self.recorder.watch(history, config.services.keys()) {
            self.record_present();
        }
        self.metrics.configure(&config);
        self.config = config;
        self.systemd.watch(self.services.iter());
        self.announcer.services(self.services.keys().cloned());
        Ok(())
    }

    /// Takes over a service that was not watched before.
    fn adopt(&mut self, service: &Service, slot: Slot, steerable: bool, now: Ktime) -> Watched {
        let mut watched = Watched::new(service.clone(), slot, steerable, self.dry_run, now);
        let counted = self
            .sampler
            .sample(slot)
            .is_ok_and(|sample| sample.last_activity.is_some());
        // Only services watched by an earlier agent were counted until now.
        if self.began || !self.sampler.taken_over() || !counted {
            watched.uncounted.begin(now);
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
