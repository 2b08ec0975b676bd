//! Whether PID 1 lets the agent stop the configured services. It is checked before anything is idle,
//! so that no gate closes in vain and a missed step of the installation is reported early.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nix::unistd::geteuid;
use ondemand_core::lifecycle::Input;
use tokio::task::AbortHandle;

use super::{
    Agent,
    events::{Answers, Message},
};
use crate::systemd::Systemd;

/// polkitd may not have read the rule of this agent yet: one refusal is not final.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before a refused permission is checked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The known permissions.
#[derive(Debug, Default)]
pub struct Permission {
    /// Counts the questions, to recognize answers to older ones.
    round: u64,
    allowed: BTreeSet<String>,
    /// The refusals, by service.
    denied: BTreeMap<String, String>,
    /// When to ask.
    task: Option<AbortHandle>,
}

impl Permission {
    /// Why a service may not be stopped. `None`: it may.
    pub fn denied(&self, name: &str) -> Option<&String> {
        self.denied.get(name)
    }
}

impl Agent {
    /// Asks about the services whose permission is unknown.
    pub(super) fn ask_permission(&mut self) {
        let services = &self.services;
        self.permission
            .allowed
            .retain(|name| services.contains_key(name));
        self.permission
            .denied
            .retain(|name, _| services.contains_key(name));
        if let Some(task) = self.permission.task.take() {
            task.abort();
        }
        let Some(systemd) = self.systemd.caller() else {
            return;
        };
        // PID 1 asks polkit about all users except root.
        if geteuid().is_root() {
            return;
        }
        self.permission.round += 1;
        let (round, messages) = (self.permission.round, self.messages.clone());
        let mut open: BTreeMap<String, String> = services
            .iter()
            .filter(|(name, _)| !self.permission.allowed.contains(*name))
            .map(|(name, watched)| (name.clone(), watched.units.lease.clone()))
            .collect();
        let task = tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            let mut believed = false;
            while !open.is_empty() {
                // Without systemd it is asked again when systemd is back.
                let Ok(mut answers) = ask(&systemd, round, &open).await else {
                    return;
                };
                open.retain(|name, _| answers.denied.contains_key(name));
                if !believed {
                    answers.denied.clear();
                }
                if messages.send(Message::Permission(answers)).is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                believed = true;
            }
        });
        self.permission.task = Some(task.abort_handle());
    }

    /// After a failed job of a service, checks its permission again.
    pub(super) fn doubt_permission(&mut self, name: &str) {
        if self.permission.allowed.remove(name) {
            self.ask_permission();
        }
    }

    pub(super) fn take_permission(&mut self, answers: Answers) {
        if answers.round != self.permission.round {
            return;
        }
        let changed: Vec<String> = answers
            .allowed
            .iter()
            .filter(|name| self.permission.denied.remove(*name).is_some())
            .chain(answers.denied.keys())
            .cloned()
            .collect();
        self.permission.allowed.extend(answers.allowed);
        self.permission.denied.extend(answers.denied);
        for name in changed {
            self.find_problem(&name);
            self.look(&name, Input::Changed);
        }
    }
}

/// `open`: the leases by service. The rule covers the whole configuration, so the first answer stands
/// for all, unless it is a refusal; where that is wrong, the first failed job shows it.
async fn ask(
    systemd: &Systemd,
    round: u64,
    open: &BTreeMap<String, String>,
) -> anyhow::Result<Answers> {
    let (mut allowed, mut denied) = (Vec::new(), BTreeMap::new());
    let mut why = "";
    for (name, lease) in open {
        if systemd.may_stop(lease).await? {
            if denied.is_empty() {
                allowed = open.keys().cloned().collect();
                break;
            }
            allowed.push(name.clone());
            continue;
        }
        if denied.is_empty() {
            why = match systemd.has_polkit().await? {
                true => {
                    "polkit does not let the agent's user stop it; `systemctl reload ondemand` \
                     writes its rule (or, as root, `ondemand permit`)"
                }
                false => {
                    "only root may stop it, because polkit is not installed; install it (Debian: apt \
                     install polkitd) and restart the agent, or run the agent as root \
                     (units/examples/root.conf)"
                }
            };
        }
        denied.insert(name.clone(), why.to_owned());
    }
    Ok(Answers {
        round,
        allowed,
        denied,
    })
}
