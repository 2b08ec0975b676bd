//! The agent's part of holds: where they are saved, and when they expire.

use std::time::Duration;

use anyhow::Result;
use ondemand_core::{
    holds::{self, Holds, Left, Moment},
    lifecycle::Input,
    measure::Ktime,
    policy,
};

use super::Agent;
use crate::host::{
    atomic_file::{self, Store},
    clock,
};

/// The holds and their file.
pub struct Holding {
    holds: Holds,
    store: Store,
    /// The ID of the host's present boot.
    boot: String,
}

impl Holding {
    /// Reads the file, and logs what cannot be read. `services` are the configured ones.
    pub fn open<'a>(services: impl Iterator<Item = &'a str> + Clone) -> Self {
        // Without an ID each boot is a different one: the wall clock decides.
        let boot = clock::boot_id();
        let store = Store::new(atomic_file::path());
        let now = clock::moment();
        let file = store.path().display();
        let holds = match std::fs::read(store.path()) {
            Ok(bytes) => {
                let (holds, problems) = holds::parse(&bytes, &now, &boot, services);
                for problem in &problems {
                    log::error!("{file} is damaged: {problem}");
                }
                if !problems.is_empty() {
                    match store.keep_copy() {
                        Ok(copy) => log::error!("{file}: a copy is in {}", copy.display()),
                        Err(error) => log::error!("{error:#}"),
                    }
                }
                holds
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Holds::default(),
            Err(error) => {
                // It is unknown which services are held.
                log::error!(
                    "{file} cannot be read ({error}), so every service is held until it is \
                     released (`ondemand release NAME`)"
                );
                let mut holds = Holds::default();
                for service in services {
                    holds.set(service, None, &now);
                }
                holds
            }
        };
        Self { holds, store, boot }
    }

    /// The rest of a service's hold.
    pub fn left(&self, service: &str, now: &Moment) -> Option<Left> {
        self.holds.left(service, now)
    }

    /// The same for the policy, on its clock.
    pub fn hold(&self, service: &str, now: Ktime) -> Option<policy::Hold> {
        let until = match self.left(service, &clock::moment())? {
            Left::UntilReleased => None,
            Left::For(left) => Some(now + left),
        };
        Some(policy::Hold { until })
    }

    /// Holds a service.
    pub fn set(&mut self, service: &str, span: Option<Duration>, now: &Moment) -> Left {
        self.holds.set(service, span, now)
    }

    /// Ends a hold. Returns false if there was none.
    pub fn release(&mut self, service: &str) -> bool {
        self.holds.release(service)
    }

    /// When the next hold expires.
    pub fn wake(&self) -> Option<Ktime> {
        let left = self.holds.next_end(&clock::moment())?;
        Some(clock::now() + left)
    }

    /// Whether a file exists, or is needed.
    fn is_needed(&self) -> bool {
        self.holds != Holds::default() || self.store.path().exists()
    }

    /// Returns a function that writes the file as of now.
    pub fn save(&mut self) -> impl FnOnce() -> Result<()> + Send + 'static {
        let text = holds::text(&self.holds, &clock::moment(), &self.boot);
        self.store.save(text)
    }
}

impl Agent {
    /// Looks again at services whose hold has expired.
    pub(super) fn end_holds(&mut self) {
        let ended = self.holding.holds.expire(&clock::moment());
        for name in ended {
            log::info!("{name}: its hold has expired");
            self.look(&name, Input::Changed);
        }
    }

    /// Saves how much is left now, so that a wrong clock after the next boot does not lengthen a
    /// hold.
    pub(super) fn leave_holds(&mut self) {
        // In a dry run the file may belong to another agent.
        if self.dry_run || !self.holding.is_needed() {
            return;
        }
        if let Err(error) = self.holding.save()() {
            log::error!("holds may not survive: {error:#}");
        }
    }
}
