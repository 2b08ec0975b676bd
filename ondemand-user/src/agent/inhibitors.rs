//! Who keeps a service up for as long as a process lives: a process of its own unit, or a command of `ondemand hold
//! --while`. That is over when its connection to the bus ends.

use std::sync::atomic::{AtomicU64, Ordering};

use ondemand_core::{lifecycle::Input, policy::Hold};
use tokio::sync::oneshot;

use super::{Agent, events::Message, watched::Watched};
use crate::{
    bus::{Error, Inhibitor, Reply, names},
    systemd::unit_path,
};

/// Maximum number of them for one service.
const MOST: usize = 64;
/// Maximum length of a reason, in characters.
const LONGEST: usize = 120;

/// Those of one service, with their reasons.
#[derive(Debug, Default)]
pub struct Inhibitors {
    all: Vec<(u64, String)>,
}

/// The number of the last one, of all services: a service may go and come again.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Inhibitors {
    /// The hold that they are.
    pub fn hold(&self) -> Option<Hold> {
        (!self.all.is_empty()).then_some(Hold { until: None })
    }
}

impl Watched {
    /// Why it is kept up, for people.
    pub(super) fn inhibited(&self) -> Option<String> {
        let (_, why) = self.inhibitors.all.first()?;
        let more = match self.inhibitors.all.len() {
            1 => String::new(),
            all => format!(" and {} more", all - 1),
        };
        Some(format!("kept up by {why}{more}"))
    }
}

impl Agent {
    /// Keeps a service up until what is returned is dropped.
    pub(super) fn inhibit(&mut self, name: &str, why: &str, answer: Reply<Inhibitor>) {
        // If the caller is gone, it is dropped.
        let _ = answer.send(self.inhibited(name, why));
    }

    fn inhibited(&mut self, name: &str, why: &str) -> Result<Inhibitor, Error> {
        let watched = self.named(name)?;
        if watched.inhibitors.all.len() >= MOST {
            let text = format!("{MOST} processes keep {name} up already");
            return Err(Error::new(names::LIMITS_EXCEEDED, text));
        }
        let (inhibitor, end) = oneshot::channel();
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let shown = why.chars().filter(|c| !c.is_control()).take(LONGEST);
        watched.inhibitors.all.push((number, shown.collect()));
        let (service, messages) = (name.to_owned(), self.messages.clone());
        tokio::spawn(async move {
            // Nothing is sent: it is dropped.
            let _ = end.await;
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Uninhibited { service, number });
        });
        self.look(name, Input::Changed);
        Ok(inhibitor)
    }

    /// The same, asked for by a process of the service's own unit.
    pub(super) fn inhibit_own(&mut self, pid: u32, why: String, answer: Reply<Inhibitor>) {
        let Some(systemd) = self.systemd.caller() else {
            let _ = answer.send(Err(Error::gone())); // The caller may be gone.
            return;
        };
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let unit = systemd.unit_of_process(pid).await;
            let unit = unit.map_err(|error| log::debug!("{error:#}")).ok();
            let _ = messages.send(Message::InhibitOwn { unit, why, answer });
        });
    }

    /// `unit`: the object path of the caller's unit, if systemd has told it.
    pub(super) fn inhibited_own(
        &mut self,
        unit: Option<String>,
        why: &str,
        answer: Reply<Inhibitor>,
    ) {
        let is_of = |watched: &&Watched| Some(unit_path::of(&watched.units.backend)) == unit;
        let found = self.services.values().find(is_of);
        let Some(name) = found.map(|watched| watched.service.name.clone()) else {
            let text = "the caller is no process of a service's unit; name the service";
            let _ = answer.send(Err(Error::access_denied(text)));
            return;
        };
        self.inhibit(&name, why, answer);
    }

    /// One is over.
    pub(super) fn uninhibited(&mut self, name: &str, number: u64) {
        if let Some(watched) = self.services.get_mut(name) {
            watched.inhibitors.all.retain(|(of, _)| *of != number);
            self.look(name, Input::Changed);
        }
    }
}
