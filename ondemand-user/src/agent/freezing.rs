//! The agent's part of applications that are frozen while nobody uses them (`freeze_after`).

use std::{fs, time::Duration};

use ondemand_core::{
    config::Service,
    freezing::Command,
    lifecycle::{Input, JobEnd, Step, View},
    room::memory,
};

use super::{
    Agent,
    events::Message,
    watched::{Complaint, Watched},
};
use crate::{
    host::{
        ablation::{self, Moment},
        clock,
    },
    observe::metrics::Way,
    systemd::Systemd,
};

/// When to ask systemd again to thaw a service.
const SOON: Duration = Duration::from_millis(100);

impl Watched {
    /// `frozen`, for people.
    pub(super) fn frozen(&self) -> Option<String> {
        self.freezing
            .is_frozen()
            .then(|| "frozen: its next client thaws it".to_owned())
    }
}

/// Has root take back the memory of an application that is frozen. It ends by itself when the application is thawed.
fn have_reclaimed(service: &Service, systemd: Option<Systemd>) {
    let has_swap = fs::read_to_string("/proc/meminfo").is_ok_and(|text| memory::has_swap(&text));
    // `ondemand check` says so.
    let Some(systemd) = systemd.filter(|_| has_swap) else {
        return;
    };
    let unit = service.reclaim_unit();
    tokio::spawn(async move {
        if let JobEnd::Failed(why) = systemd.start(&unit).await {
            log::warn!("the memory of a frozen application is not taken back: {why}");
        }
    });
}

impl Agent {
    /// Has a service frozen that was unused for long enough, or thawed that is used, or may be.
    pub(super) fn freeze_or_thaw(&mut self, name: &str, view: &View) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let after = watched
            .service
            .freeze_after
            .filter(|_| !watched.is_dry_run());
        if after.is_none() && !watched.freezing.may_be_frozen() {
            return;
        }
        let rests = *watched.lifecycle.current() == Step::Rest && !watched.lifecycle.is_asked();
        let command = watched.freezing.step(view, after, rests);
        if command.is_none()
            && let Some(at) = watched
                .freezing
                .due(view, after)
                .filter(|at| *at > view.now)
        {
            watched.look_at = Some(watched.look_at.map_or(at, |look_at| look_at.min(at)));
        }
        if let Some(command) = command {
            self.obey(name, command, false);
        }
    }

    /// A connection of a service was reported: first of all it is thawed.
    pub(super) fn thaw_if_frozen(&mut self, name: &str) {
        let command = self
            .services
            .get_mut(name)
            .and_then(|watched| watched.freezing.called());
        if let Some(command) = command {
            self.obey(name, command, true);
        }
    }

    /// `called`: a client waits for it.
    fn obey(&mut self, name: &str, command: Command, called: bool) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let freeze = match command {
            Command::Arm => {
                match self.sampler.arm_opened(watched.slot) {
                    Ok(()) => {
                        let sample = self.sampler.sample(watched.slot).ok();
                        watched.freezing.armed(sample.as_ref());
                        watched.look_at = Some(clock::now());
                    }
                    Err(error) => log::debug!("{name}: {error:#}"),
                }
                return;
            }
            Command::Freeze => true,
            Command::Thaw => false,
        };
        let (service, messages) = (name.to_owned(), self.messages.clone());
        let unit = watched.service.unit.clone();
        let (waited, began) = (self.metrics.waits(Way::Thawed), clock::now());
        let Some(systemd) = self.systemd.caller() else {
            let result = Err("systemd does not answer".into());
            return self.froze(name, &unit, freeze, result, None);
        };
        ablation::reached(if freeze {
            Moment::Freezing
        } else {
            Moment::Thawing
        });
        tokio::spawn(async move {
            let result = match freeze {
                true => systemd.freeze(&unit).await,
                false => systemd.thaw(&unit).await,
            };
            let result = result.map_err(|error| format!("{error:#}"));
            let took = clock::now().since(began);
            let took = took.filter(|_| called && result.is_ok());
            if let Some(span) = took {
                waited(span);
            }
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Froze {
                service,
                unit,
                freeze,
                result,
                took,
            });
        });
    }

    /// Takes systemd's answer. `took`: how long a client waited for it.
    pub(super) fn froze(
        &mut self,
        name: &str,
        unit: &str,
        freeze: bool,
        result: Result<(), String>,
        took: Option<Duration>,
    ) {
        let now = clock::now();
        if let Some(span) = took {
            self.recorder.note(name, |usage| usage.thawed(span));
        }
        let watched = self.services.get_mut(name);
        let Some(watched) = watched.filter(|watched| watched.service.unit == unit) else {
            // It left the configuration, or has another unit, while systemd froze it.
            if freeze && result.is_ok() {
                self.thaw_left(unit);
            }
            return;
        };
        match (freeze, &result) {
            (true, Ok(())) => {
                watched.freezes += 1;
                watched.complaints.end(|of| *of == Complaint::NotFrozen);
                log::debug!("{name}: frozen");
                if watched.service.freeze_reclaim {
                    have_reclaimed(&watched.service, self.systemd.caller());
                }
                ablation::reached(Moment::Frozen);
            }
            (true, Err(why)) => {
                if watched.complaints.is_new(Complaint::NotFrozen, why) {
                    log::warn!("{name}: not frozen, and left running: {why}");
                }
            }
            (false, Ok(())) => log::debug!("{name}: thawed"),
            (false, Err(why)) => log::warn!("{name}: may be frozen: {why}"),
        }
        match freeze {
            true => watched.freezing.frozen(result.is_ok(), now),
            false => {
                watched.freezing.thawed(result.is_ok(), now);
                if result.is_err() {
                    watched.look_at = Some(now + SOON);
                }
            }
        }
        self.look(name, Input::Changed);
    }

    /// A unit that may be frozen is no longer that of a service.
    pub(super) fn thaw_left(&self, unit: &str) {
        let Some(systemd) = self.systemd.caller() else {
            return;
        };
        let unit = unit.to_owned();
        tokio::spawn(async move {
            if let Err(error) = systemd.thaw(&unit).await {
                log::warn!("{error:#}");
            }
        });
    }
}
