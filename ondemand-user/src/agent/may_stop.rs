//! Whether PID 1 lets the agent stop what it looks after. It is asked before anything is idle: no
//! gate is to be closed in vain, and whoever forgot a step of the installation is to hear of it.

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

/// polkitd may not have read yet what was written for this agent: one refusal is not believed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before what was refused is asked for again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is known of it.
#[derive(Debug, Default)]
pub struct Permission {
    /// Counts the questions, so that answers to an older one are told apart.
    round: u64,
    allowed: BTreeSet<String>,
    /// Why, by service.
    denied: BTreeMap<String, String>,
    /// Asks.
    task: Option<AbortHandle>,
}

impl Permission {
    /// Why a service may not be stopped, if so.
    pub fn denied(&self, name: &str) -> Option<&String> {
        self.denied.get(name)
    }
}

impl Agent {
    /// Asks about those services of which it is not known.
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
        // PID 1 asks polkit about everybody but root.
        if geteuid().is_root() {
            return;
        }
        self.permission.round += 1;
        let (round, messages) = (self.permission.round, self.messages.clone());
        let mut open: BTreeMap<String, String> = services
            .values()
            .map(|watched| (watched.service.name.clone(), watched.units.lease.clone()))
            .filter(|(name, _)| !self.permission.allowed.contains(name))
            .collect();
        let task = tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            let mut believed = false;
            while !open.is_empty() {
                // Without systemd it is asked again when it is back.
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

    /// A job of a service failed: perhaps what was allowed is so no longer.
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

/// `open`: the leases by service. The rule is made of a whole configuration, so the first stands for
/// all, unless it is refused; where that is wrong, the first job that fails tells.
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
                     writes the rule for it (or, as root, `ondemand permit`)"
                }
                false => {
                    "only root may stop it, because polkit is not installed here to allow it to \
                     the agent's user; install it (Debian: apt install polkitd) and restart the \
                     agent, or run the agent as root (units/examples/root.conf)"
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
