//! Whether a service works without a client (`busy_cpu`, `busy_io`). Its cgroup is read twice before it would be idle, and
//! not otherwise.

use std::{fs, path::Path};

use ondemand_core::{
    lifecycle::Input,
    measure::Ktime,
    policy::{self, Facts, Verdict},
    work::{self, Unknown, Usage, Work},
};

use super::{Agent, events::Message, watched::Watched};
use crate::{host::clock, systemd::Systemd};

/// Where cgroup2 is mounted: beside cgroup v1 it is the second.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// What is known of the work of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Working {
    /// By what was read.
    pub work: Work,
    /// When to read again.
    pub due: Option<Ktime>,
    is_read: bool,
}

impl Watched {
    /// What the policy is told. `None`: work does not matter.
    pub(super) fn work(&self) -> Option<Work> {
        // A person may stop what works; another service's client may not.
        let is_asked = self.lifecycle.is_asked() && !self.lifecycle.makes_room();
        let matters = self.service.busy.exist() && !is_asked;
        matters.then_some(self.working.work)
    }

    /// Whether it works, for observers. `None`: unknown, or that is not asked.
    pub(super) fn is_working(&self) -> Option<bool> {
        let work = self.work()?;
        (work.unknown.is_none() && work.rate.is_some()).then(|| work.is_working())
    }
}

impl Agent {
    /// Reads what a service's cgroup has used, if that is due.
    pub(super) fn follow_work(&mut self, name: &str) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let Some(work) = watched.work() else {
            return;
        };
        let idle_at = self.idle_without_work(watched);
        let now = clock::now();
        let window = watched.rules().idle_timeout.map(work::window);
        let due = idle_at.zip(window).map(|(at, window)| work.due(at, window));
        let unit = watched.service.unit.clone();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let Some(due) = due else {
            watched.working.work.forget();
            watched.working.due = None;
            return;
        };
        let is_now = due <= now && !watched.working.is_read;
        watched.working.due = Some(due).filter(|due| *due > now);
        let Some(systemd) = self.systemd.caller().filter(|_| is_now) else {
            return;
        };
        watched.working.is_read = true;
        let (service, messages) = (name.to_owned(), self.messages.clone());
        tokio::spawn(async move {
            let usage = read(&systemd, &unit).await;
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Used { service, usage });
        });
    }

    /// When the service would be idle, whatever it does now. `None`: it is used, held, down, or that is unknown.
    fn idle_without_work(&self, watched: &Watched) -> Option<Ktime> {
        let units = self.units_of(watched).filter(|units| units.held())?;
        let sample = self.sampler.sample(watched.slot).ok()?;
        // Later than all that is in the sample.
        let now = clock::now();
        let facts = self.facts(watched, &units, now);
        let worked = facts.work.and_then(|work| work.worked);
        let facts = Facts {
            work: None,
            uncounted_until: facts.uncounted_until.max(worked),
            ..facts
        };
        match policy::decide(&watched.rules(), now, Some(&sample), &facts) {
            Verdict::Quiet { idle_at, .. } => idle_at,
            Verdict::Idle { .. } => Some(now),
            Verdict::Busy { .. }
            | Verdict::Held { .. }
            | Verdict::Needed { .. }
            | Verdict::Unknown(_) => None,
        }
    }

    /// Takes a reading.
    pub(super) fn used(&mut self, name: &str, usage: Result<Usage, Unknown>) {
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        watched.working.is_read = false;
        let (limits, window) = (
            watched.service.busy,
            watched.rules().idle_timeout.map(work::window),
        );
        if let Some(window) = window {
            watched.working.work.take(now, usage, &limits, window);
        }
        if watched.working.work.unknown.is_some() {
            watched.look_at = Some(now + ondemand_core::lifecycle::RETRY);
        }
        self.look(name, Input::Changed);
    }
}

async fn read(systemd: &Systemd, unit: &str) -> Result<Usage, Unknown> {
    let owner = systemd.owner(unit).await.map_err(|error| {
        log::debug!("{error:#}");
        Unknown::Cgroup
    })?;
    let group = owner.control_group.trim_start_matches('/');
    let directory = HIERARCHIES
        .iter()
        .map(|hierarchy| Path::new(hierarchy).join(group))
        .find(|directory| directory.join("cgroup.events").exists());
    let directory = directory
        .filter(|_| !group.is_empty())
        .ok_or(Unknown::Cgroup)?;
    let text = |name: &str| fs::read_to_string(directory.join(name)).ok();
    Ok(Usage {
        cpu: text("cpu.stat").as_deref().and_then(work::cpu),
        io: text("io.stat").as_deref().and_then(work::io),
    })
}
